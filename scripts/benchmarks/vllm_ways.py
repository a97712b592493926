"""Measure what VLLM costs beside vLLM itself: the same prompts, in alternating rounds, each way in its own process.

    python scripts/benchmarks/vllm_ways.py --model FOLDER [--rounds 3] [--num-rows 48] [--dtype bfloat16]

    generate    vLLM's LLM.generate on all prompts of TextGeneration at once
    run         pipeline.run of TextGeneration on VLLM
    barriers    SelfInstruct >> EvolInstruct >> TextGeneration in batches, each completed before the next begins
    chain       the same chain as VLLM runs it, where each row's next request is admitted while others decode

Prints a line for each run (tokens written, seconds and processor-seconds without loading), then the ratios of medians:
of tokens a second, and of tokens a processor-second, which other work on the machine disturbs less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from hfsynth import VLLM, EvolInstruct, Pipeline, Request, SamplingParams, SelfInstruct, TextGeneration, run
from hfsynth.llm import LLM, Completion, Requests
from machine import describe_machine

WAYS = ("generate", "run", "barriers", "chain")
TOPICS = [
    "fruit",
    "rain",
    "chess",
    "bread",
    "the moon",
    "trains",
    "prime numbers",
    "tea",
    "birds",
    "maps",
    "salt",
    "law",
]
Result = dict[str, Any]


@dataclass(frozen=True)
class BarrierVLLM(VLLM):
    """VLLM in batches: all waiting requests are completed before others are admitted."""

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Complete the waiting requests as one batch, then the next ones."""
        return LLM.stream(self, requests)

    def complete(self, requests: list[Request]) -> list[Completion]:  # type: ignore[override]
        """Complete all requests, in their order."""
        waiting = Requests()
        for index, request in enumerate(requests):
            waiting.put(index, request)
        completions = dict(VLLM.stream(self, waiting))
        return [completions[index] for index in range(len(requests))]


def main() -> None:
    """Run one way, or measure all of them."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", required=True, help="Name on the Hub, or folder.")
    parser.add_argument("--dtype", default="float32", help="Type of the weights. Default: %(default)s.")
    parser.add_argument("--num-rows", type=int, default=48, help="Rows of input. Default: %(default)s.")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="Longest answer. Default: %(default)s.")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each way. Default: %(default)s.")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="Ways to measure.")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments)))
        return
    print(f"Machine: {describe_machine()}", flush=True)
    results: dict[str, list[Result]] = {way: [] for way in arguments.ways}
    for _ in range(arguments.rounds):
        for way in arguments.ways:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", way]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[way].append(json.loads(output.splitlines()[-1]))
            print(way, results[way][-1], flush=True)
    for way, base in (("run", "generate"), ("chain", "barriers")):
        if results.get(way) and results.get(base):
            for unit in ("seconds", "processor_seconds"):
                ratio = median_rate(results[way], unit) / median_rate(results[base], unit)
                print(f"{way} / {base}: {ratio:.2f} of the tokens a {unit.removesuffix('s').replace('_', '-')}")


def median_rate(results: list[Result], unit: str) -> float:
    """Return the median of tokens by seconds or processor-seconds."""
    return statistics.median(result["tokens"] / result[unit] for result in results)


def measure(arguments: argparse.Namespace) -> Result:
    """Measure one way, after a first request that is not counted."""
    kind = BarrierVLLM if arguments.only == "barriers" else VLLM
    llm = kind(arguments.model, dtype=arguments.dtype, engine_kwargs={"enforce_eager": True, "max_model_len": 2048})
    if arguments.only == "generate":
        work = generate(llm, arguments)
    else:
        pipeline = answers(llm, arguments) if arguments.only == "run" else chain(llm, arguments)
        llm.load().complete([Request(messages=({"role": "user", "content": "Hi!"},), sampling=SamplingParams())])
        work = run_of(pipeline, arguments)
    began, processor = time.perf_counter(), time.process_time()
    tokens = work()
    seconds, used = time.perf_counter() - began, time.process_time() - processor
    return {"tokens": tokens, "seconds": round(seconds, 2), "processor_seconds": round(used, 2)}


def inputs(arguments: argparse.Namespace) -> Dataset:
    """Return rows of input, all different."""
    texts = [
        f"Write {2 + number} sentences about {TOPICS[number % len(TOPICS)]}." for number in range(arguments.num_rows)
    ]
    return Dataset.from_dict({"instruction" if arguments.only in ("generate", "run") else "input": texts})


def sampling(arguments: argparse.Namespace) -> SamplingParams:
    """Return how answers are sampled."""
    return SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=arguments.max_new_tokens)


def answers(llm: VLLM, arguments: argparse.Namespace) -> Pipeline:
    """Return a pipeline of one step."""
    return Pipeline((TextGeneration(llm, sampling=sampling(arguments), keep_truncated=True),))


def chain(llm: VLLM, arguments: argparse.Namespace) -> Pipeline:
    """Return a pipeline of three steps, of which the second asks several times for each row."""
    params = sampling(arguments)
    return (
        SelfInstruct(llm, num_instructions=2, sampling=params)
        >> EvolInstruct(llm, num_evolutions=3, sampling=params, keep_truncated=True)
        >> TextGeneration(
            llm, sampling=params, keep_truncated=True, input_mappings={"instruction": "evolved_instruction"}
        )
    )


def run_of(pipeline: Pipeline, arguments: argparse.Namespace) -> Callable[[], int]:
    """Return a run of a pipeline, which returns its tokens."""

    def work() -> int:
        with tempfile.TemporaryDirectory() as folder:
            record = run(pipeline, inputs(arguments), run_dir=Path(folder), quiet=True).record
            return sum(step.completion_tokens for step in record.steps)

    return work


def generate(llm: VLLM, arguments: argparse.Namespace) -> Callable[[], int]:
    """Return vLLM's own call on the prompts that `TextGeneration` sends, with the seeds that it sends."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

    import vllm

    from hfsynth.llms.checkpoint import load_chat_tokenizer
    from hfsynth.llms.vllm_engine import engine_args, sampling_params

    chat = load_chat_tokenizer(llm.model, name=llm.model_name, variables={})
    step = TextGeneration(llm, sampling=sampling(arguments))
    rows = inputs(arguments)
    seeds = step.row_seeds(range(len(rows)), rows[:])
    rendered = [
        chat.render(
            Request(
                messages=({"role": "user", "content": text},),
                sampling=sampling(arguments),
                seed=seed.request_seed(0),
            )
        )
        for text, seed in zip(rows["instruction"], seeds, strict=True)
    ]
    prompts = [vllm.inputs.tokens_input(one.tokens.prompt_ids) for one in rendered]
    params = [sampling_params(one.tokens) for one in rendered]
    args = engine_args({"model": llm.model, "dtype": llm.dtype, **llm.engine_kwargs}, chat.context)
    engine = vllm.LLM.from_engine_args(args)
    engine.generate(prompts[:1], params[:1], use_tqdm=False)

    def work() -> int:
        outputs = engine.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return work


if __name__ == "__main__":
    main()
