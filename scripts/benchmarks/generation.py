"""Measure how fast a dataset is completed: the decode loop beside other ways, one after the other, several times.

    python scripts/benchmarks/generation.py --model FOLDER --gguf-file FILE
    python scripts/benchmarks/generation.py --model FOLDER --ways hfsynth --vllm /env/bin/python
    python scripts/benchmarks/generation.py --device cuda --random-weights CONFIG --slots 256 --num-requests 1024
    python scripts/benchmarks/generation.py … --engine 'other=/env/bin/python run_other.py'

Every way runs in a process of its own on the same prompts, and is called several times with other prompts each time.
The first call of a process is "cold", the last one "warm"; loading is not counted. The table has the medians of all
processes, and the slowest and fastest in brackets; compare only ratios with those of another machine. The roofline is
the speed that matrix products and memory, as measured on the device, allow: see roofline.py. `--vllm` names the python
of an environment with vLLM, in which vllm_generate.py runs.

An engine's command gets the name of a file with {"calls": a list of prompts for each call, "max_new_tokens",
"temperature", "top_p", "threads"}, and prints {"seconds": of each call, "rows": tokens of each row of each call} last.
An example is `--engine 'distilabel=/env/bin/python run_distilabel.py FOLDER'` with this run_distilabel.py:

    import json, sys, time
    from distilabel.models import TransformersLLM

    job = json.load(open(sys.argv[2]))
    llm = TransformersLLM(model=sys.argv[1], chat_template="{{ messages[0].content }}")  # prompts are rendered already
    llm.load()
    seconds, rows = [], []
    for prompts in job["calls"]:
        chats = [[{"role": "user", "content": text}] for text in prompts]
        limits = {"max_new_tokens": job["max_new_tokens"], "temperature": job["temperature"]}
        began = time.perf_counter()
        outputs = llm.generate_outputs(inputs=chats, repetition_penalty=1.0, **limits)
        seconds.append(time.perf_counter() - began)
        rows.append([one["statistics"]["output_tokens"][0] for one in outputs])
    print(json.dumps({"seconds": seconds, "rows": rows}))
"""

import argparse
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

from hfsynth.engine.packed_linear import faster_cpu_dtype
from hfsynth.llms.checkpoint import parse_gguf_once
from machine import describe_machine

HERE = Path(__file__).parent
SEEDS = HERE.parent / "seeds.jsonl"
TASKS = (
    "Summarize this in one sentence.",
    "Write a question about this text.",
    "Explain this to a child.",
    "Which of these facts is the most surprising?",
    "Write a short poem about this.",
    "List three facts from this text.",
)
"""Tasks for each text of a dataset that has texts instead of instructions."""
VLLM = "vLLM, eager"
WAYS = (
    "row by row",
    "generate, batch 8",
    "generate, batch 32",
    "generate, batch 64",
    "continuous batching",
    "hfsynth, nothing shared",
    "hfsynth",
    "hfsynth, whole run",
)
Result = dict[str, Any]


def main() -> None:
    """Measure all ways and write the tables."""
    arguments = parsed()
    print(describe_machine(arguments.threads), file=sys.stderr, flush=True)
    results: dict[str, list[Result]] = {}
    source = {"model": arguments.model, "gguf_file": arguments.gguf_file}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.gguf_file:
            arguments.model = dense_copy(arguments.model, arguments.gguf_file, Path(folder) / "dense")
        job, plain = jobs(arguments)
        files = {"job": Path(folder) / "job.json", "plain": Path(folder) / "plain.json"}
        files["job"].write_text(json.dumps(job))
        files["plain"].write_text(json.dumps(plain))
        for _ in range(arguments.repeats):  # rounds, so that a slow minute of the machine hits all ways alike
            for way in arguments.ways:
                command = [sys.executable, str(HERE / "ways.py"), way, str(files["job"])]
                measure(way, command, results)
            if arguments.vllm:
                flags = ["--dtype", arguments.dtype, "--slots", str(arguments.slots)]
                script = [arguments.vllm, str(HERE / "vllm_generate.py"), arguments.model, str(files["plain"])]
                measure(VLLM, [*script, *flags], results)
            for engine in arguments.engine:
                name, _, command_text = engine.partition("=")
                measure(name, [*shlex.split(command_text), str(files["plain"])], results)
    table = markdown(results, arguments)
    print(table)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "benchmark.md").write_text(table)
    described = {**job, **source, "calls": [len(prompts) for prompts in job["calls"]]}
    report_data = {"machine": describe_machine(arguments.threads), "job": described, "results": results}
    (arguments.output_dir / "benchmark.json").write_text(json.dumps(report_data, indent=1))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Folder or name of an instruct model.")
    parser.add_argument("--gguf-file", default="", help="GGUF file in it; converted to bfloat16 first.")
    parser.add_argument("--random-weights", default="", help="Folder or name of a configuration, instead of a model.")
    parser.add_argument(
        "--dtype",
        default=None,
        help="Type of the weights. Default: bfloat16, or on a CPU float32 where that is faster.",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda. Default: cpu.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--slots", type=int, default=64, help="Rows at once in the decode loop. Default: 64.")
    parser.add_argument("--dataset", type=Path, default=SEEDS, help="JSON lines with instructions or texts.")
    parser.add_argument("--num-requests", type=int, default=48, help="Prompts of each call. Default: 48.")
    parser.add_argument(
        "--calls", type=int, default=3, help="Calls in one process, each with other prompts. Default: 3."
    )
    parser.add_argument("--max-new-tokens", type=int, default=128, help="Longest completion. Default: 128.")
    parser.add_argument("--temperature", type=float, default=0.8, help="Default: 0.8.")
    parser.add_argument("--repeats", type=int, default=3, help="Processes of each way. Default: 3.")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS, help="Default: all.")
    parser.add_argument("--vllm", default="", help="Python of an environment with vLLM, to compare with it.")
    parser.add_argument("--engine", action="append", default=[], help="NAME=COMMAND of another engine.")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/benchmark"), help="For the tables.")
    arguments = parser.parse_args()
    if bool(arguments.model) == bool(arguments.random_weights):
        parser.error("give --model or --random-weights.")
    if arguments.gguf_file and not arguments.model:
        parser.error("--gguf-file needs --model.")
    if arguments.vllm and arguments.random_weights:
        parser.error("--vllm needs --model.")
    torch.set_num_threads(arguments.threads)
    if arguments.dtype is None:
        fastest = faster_cpu_dtype(torch.bfloat16, "the model") if arguments.device == "cpu" else torch.bfloat16
        arguments.dtype = str(fastest).removeprefix("torch.")
    return arguments


def jobs(arguments: argparse.Namespace) -> tuple[Result, Result]:
    """Return the job for our ways and the one for other engines."""
    count = arguments.num_requests * arguments.calls
    texts = instructions(arguments.dataset)
    if arguments.random_weights:  # such a model writes no end tokens: lengths are random instead
        texts = (texts * -(-count // len(texts)))[:count]
        draw = random.Random(0)
        limits = [min(16 + int(draw.expovariate(1 / 120)), arguments.max_new_tokens) for _ in texts]
        prompts = texts
    else:
        if len(texts) < count:
            raise SystemExit(
                f"{arguments.dataset} has {len(texts)} prompts, and {arguments.calls} calls need {count}; "
                "use a smaller --num-requests."
            )
        texts = texts[:count]
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        asked = [[{"role": "user", "content": text}] for text in texts]
        prompts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked]
        limits = [arguments.max_new_tokens] * len(texts)
    rows = [
        {"instruction": text, "text": prompt, "limit": limit}
        for text, prompt, limit in zip(texts, prompts, limits, strict=True)
    ]
    kept = (
        "model",
        "random_weights",
        "dtype",
        "device",
        "threads",
        "slots",
        "max_new_tokens",
        "temperature",
    )
    job = {name: getattr(arguments, name) for name in kept}
    job["calls"] = [rows[first :: arguments.calls] for first in range(arguments.calls)]
    plain = {name: job[name] for name in ("max_new_tokens", "temperature", "threads")}
    return job, {**plain, "top_p": 1.0, "calls": [[row["text"] for row in call] for call in job["calls"]]}


def instructions(dataset: Path) -> list[str]:
    """Return the instructions of a dataset, each with the input of its first instance; or each task for each text."""
    lines = [json.loads(line) for line in dataset.read_text(encoding="utf-8").splitlines()]
    if "instruction" not in lines[0]:
        texts = [f"{task}\n\n{line['input']}" for task in TASKS for line in lines]
        random.Random(0).shuffle(texts)
        return texts
    inputs = [line.get("instances", [{}])[0].get("input", "") for line in lines]
    return [f"{line['instruction']}\n{text}".strip() for line, text in zip(lines, inputs, strict=True)]


def dense_copy(folder: str, gguf_file: str, target: Path) -> str:
    """Write the model of a GGUF file as a checkpoint in bfloat16, which all ways and vLLM read; return its folder."""
    with parse_gguf_once():
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=gguf_file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    config = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    copy: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=model.dtype)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return str(target)


def measure(name: str, command: list[str], results: dict[str, list[Result]]) -> None:
    """Run a way once and add its figures to the results; a way that fails is printed and left out."""
    print(f"{name} …", file=sys.stderr, flush=True)
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "TQDM_DISABLE": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    if finished.returncode:
        print(f"{name} failed: {finished.stderr[-600:]}", file=sys.stderr, flush=True)
        return
    result = json.loads(finished.stdout.strip().splitlines()[-1])
    calls = zip(result["rows"], result["seconds"], strict=True)
    result["tokens_per_second"] = [sum(rows) / seconds for rows, seconds in calls]
    results.setdefault(name, []).append(result)
    speeds = ", ".join(f"{speed:.0f}" for speed in result["tokens_per_second"])
    print(f"  {speeds} tokens/s, by call", file=sys.stderr, flush=True)


def markdown(results: dict[str, list[Result]], arguments: argparse.Namespace) -> str:
    """Lay out the results as Markdown."""
    base = results.get("generate, batch 32")
    beside = statistics.median(run["tokens_per_second"][-1] for run in base) if base else None
    model = arguments.random_weights or arguments.gguf_file or arguments.model
    lines = [
        f"{Path(model).name}, {arguments.dtype}, {arguments.device}, {arguments.threads} threads: "
        f"{arguments.calls} calls of {arguments.num_requests} prompts, at most {arguments.max_new_tokens} new tokens, "
        f"temperature {arguments.temperature}, {arguments.repeats} processes each",
        f"Machine: {describe_machine(arguments.threads)}",
        "",
        "| way | tokens/s, cold | tokens/s, warm | cold ÷ warm | × batch 32, warm | of the roofline, warm | "
        "tokens per processor-second, warm | peak memory | notes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        cold, warm = ([run["tokens_per_second"][call] for run in runs] for call in (0, -1))
        last = runs[-1]
        ratio = f"{statistics.median(first / later for first, later in zip(cold, warm, strict=True)):.2f}"
        times = f"{statistics.median(warm) / beside:.2f}" if beside else ""
        rates = [sum(run["rows"][-1]) / run["cpu_seconds"][-1] for run in runs if "cpu_seconds" in run]
        processor = f"{statistics.median(rates):.0f}" if rates else ""
        memory = f"{last['peak_bytes'] / 2**30:.1f} GiB" if "peak_bytes" in last else ""
        limited = [run for run in runs if "roofline" in run]
        limits = [run["tokens_per_second"][-1] / run["roofline"]["tokens_per_second"] for run in limited]
        share = f"{statistics.median(limits):.0%}" if limits else ""
        cells = (name, spread(cold), spread(warm), ratio, times, share, processor, memory, notes(last))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(speeds: list[float]) -> str:
    """Return the median of speeds, and their range in brackets."""
    return f"{statistics.median(speeds):.0f} ({min(speeds):.0f}–{max(speeds):.0f})"


def notes(run: Result) -> str:
    """Return a way's own figures as text."""
    parts = [f"{len(run['rows'][-1])} rows, {sum(run['rows'][-1])} tokens"]
    if "occupancy" in run:
        spent = run["shares"]
        attention, sampling = spent["attention"], spent["sampling"]
        products = spent["forward"] - attention
        parts.append(f"{run['occupancy']:.0%} of slots in use")
        parts.append(
            f"time: {products:.0%} forward without attention, {attention:.0%} attention, {sampling:.0%} sampling, "
            f"{1 - spent['forward'] - sampling:.0%} else"
        )
        parts.append(f"prompt tokens: {run['prompt_tokens_computed']} computed, {run['prompt_tokens_copied']} copied")
        limit = run["roofline"]
        parts.append(
            f"roofline: {limit['tokens_per_second']:.0f} tokens/s (matrix products alone {limit['products']:.0f}; "
            f"memory alone {limit['reading']:.0f}, at {limit['bytes_per_second'] / 1e9:.1f} GB/s)"
        )
    return "; ".join(parts)


if __name__ == "__main__":
    main()
