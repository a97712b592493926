"""Measure what a run adds to the decode loop: the tokens per second of a run, over those of its requests alone.

    python scripts/benchmarks/goodput.py --model FOLDER --gguf-file FILE --rows 96 --slots 16

One pipeline has one technique, the other SelfInstruct, EvolInstruct and TextGeneration. After each run, the llm gets
all requests of the run at once, without waiting for answers that lead to others: no run can be faster. The last column
has the share of slots in use in each tenth of the loop's steps, from the loop's own counters.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from generation import SEEDS, instructions

from hfsynth import EvolInstruct, Pipeline, SamplingParams, SelfInstruct, TextGeneration, TransformersLLM, run
from hfsynth.llm import Completion, Request, Requests
from machine import describe_machine

_TENTHS = 10


@dataclass
class Trace:
    """The counters of one stream."""

    requests: list[Request] = field(default_factory=list)
    """The requests in the order in which they were taken."""
    tokens: int = 0
    """Tokens decoded."""
    counters: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    """The loop's steps, and its sequences over all steps, after each completion."""

    def slots_in_use(self, slots: int) -> list[float]:
        """Return the share of slots in use in each tenth of the steps."""
        last = self.counters[-1][0]
        ends = [
            next(pair for pair in self.counters if pair[0] * _TENTHS >= part * last) for part in range(_TENTHS + 1)
        ]
        return [(d1 - d0) / max(s1 - s0, 1) / slots for (s0, d0), (s1, d1) in pairwise(ends)]


class Recorder(Requests):
    """Requests that are recorded when they are taken."""

    def __init__(self, requests: Requests, trace: Trace) -> None:
        super().__init__()
        self._requests, self._trace = requests, trace

    def take(self) -> tuple[Hashable, Request] | None:
        """Take a request and record it."""
        item = self._requests.take()
        if item is not None:
            self._trace.requests.append(item[1])
        return item

    def waiting(self) -> list[Request]:
        """List the requests that wait."""
        return self._requests.waiting()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._requests)


TRACES: list[Trace] = []
"""The traces of all streams that were measured; the last one is written to."""


def traced(llm: TransformersLLM, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
    """Complete requests, and count their work in the last trace."""
    trace, model = TRACES[-1], llm.loaded_model()
    before = trace.counters[-1]
    for key, completion in model.stream(Recorder(requests, trace), llm.batch_size):
        stats = engine_stats(llm)
        if stats.steps + before[0] < trace.counters[-1][0]:  # a new loop counts from 0
            before = trace.counters[-1]
        trace.counters.append((before[0] + stats.steps, before[1] + stats.decoded))
        trace.tokens += completion.completion_tokens
        yield key, completion


def engine_stats(llm: TransformersLLM) -> Any:
    """Return the counters of the llm's loop, which no public attribute has."""
    engine: Any = llm.loaded_model()._engine
    return engine[1].stats


@dataclass(frozen=True)
class TracedLLM(TransformersLLM):
    """The llm with a trace of its streams."""

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Complete requests as the base class does."""
        return traced(self, requests)


def measured(llm: TransformersLLM, work: Callable[[], object]) -> tuple[Trace, float]:
    """Return the trace of some work with a new loop, and its tokens per second."""
    llm.loaded_model()._engine = None
    TRACES.append(Trace())
    began = time.perf_counter()
    work()
    return TRACES[-1], TRACES[-1].tokens / (time.perf_counter() - began)


def pipelines(llm: TransformersLLM, longest: int) -> dict[str, Pipeline]:
    """Return the pipelines, by the name of their row in the table."""
    sampling = SamplingParams(max_new_tokens=longest, temperature=0.8)
    instructions = SelfInstruct(llm, num_instructions=2, sampling=replace(sampling, max_new_tokens=2 * longest))
    evolutions = EvolInstruct(llm, sampling=sampling)
    answers = TextGeneration(llm, sampling=sampling, input_mappings={"instruction": "evolved_instruction"})
    return {
        "one step": Pipeline((TextGeneration(llm, sampling=sampling),)),
        "three steps": Pipeline((instructions, evolutions, answers)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or name of an instruct model.")
    parser.add_argument("--gguf-file", default="", help="GGUF file in it.")
    parser.add_argument("--dtype", default="bfloat16", help="Type of the weights.")
    parser.add_argument("--rows", type=int, default=96, help="Rows of the input.")
    parser.add_argument("--slots", type=int, default=16, help="Rows at once.")
    parser.add_argument("--max-new-tokens", type=int, default=24, help="Longest completion.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    parser.add_argument("--pipelines", nargs="*", default=["one step", "three steps"], help="Which to run.")
    arguments = parser.parse_args()
    disable_progress_bars()
    logging.getLogger("hfsynth").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    llm = TracedLLM(
        arguments.model,
        gguf_file=arguments.gguf_file or None,
        dtype=arguments.dtype,
        batch_size=arguments.slots,
    ).load()
    texts = instructions(SEEDS)
    if len(texts) < arguments.rows:
        raise SystemExit(f"{SEEDS} has {len(texts)} prompts for {arguments.rows} rows; use a smaller --rows.")
    rows = Dataset.from_dict({"instruction": texts[: arguments.rows]})
    print(f"Machine: {describe_machine()}\n")
    print("| pipeline | requests | tokens | run, tokens/s | requests alone, tokens/s | ratio | slots in use |")
    print("|---|---|---|---|---|---|---|")
    for label in arguments.pipelines:
        dataset = rows if label == "one step" else rows.rename_column("instruction", "input")
        with tempfile.TemporaryDirectory() as folder:
            steps = pipelines(llm, arguments.max_new_tokens)[label]
            trace, speed = measured(llm, lambda: run(steps, dataset, run_dir=folder, quiet=True))  # noqa: B023
        alone, best = measured(llm, lambda: llm.complete(trace.requests))  # noqa: B023
        shares = " ".join(f"{share:.0%}" for share in trace.slots_in_use(arguments.slots))
        print(
            f"| {label} | {len(trace.requests)} | {trace.tokens}, alone {alone.tokens} | {speed:.0f} | {best:.0f} "
            f"| {speed / best:.2f} | {shares} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
