"""Measure how fast a dataset is completed: the decode loop beside other ways, one after the other, several times.

    python scripts/benchmarks/generation.py --model FOLDER --gguf-file FILE --dataset seed_tasks.jsonl
    python scripts/benchmarks/generation.py --device cuda --random-weights CONFIG --slots 256 --num-requests 1024
    python scripts/benchmarks/generation.py … --engine 'vLLM=/env/bin/python run_vllm.py'

Every way runs in a process of its own on the same prompts. An engine's command is given a file with {"prompts",
"max_new_tokens", "temperature", "top_p", "threads"} and prints {"seconds", "rows": tokens of each row} last.
The table tells medians, and the slowest and fastest run in brackets; only ratios mean something on another machine.
The roofline is what matrix products and the memory, as measured there, would allow: see roofline.py.

distilabel, for one, as `--engine 'distilabel=/env/bin/python run_distilabel.py FOLDER'`, by a run_distilabel.py of:

    import json, sys, time
    from distilabel.models import TransformersLLM

    job = json.load(open(sys.argv[2]))
    llm = TransformersLLM(model=sys.argv[1], chat_template="{{ messages[0].content }}")  # it is in the prompts already
    llm.load()
    asked = [[{"role": "user", "content": text}] for text in job["prompts"]]
    how = {"max_new_tokens": job["max_new_tokens"], "temperature": job["temperature"], "repetition_penalty": 1.0}
    began = time.perf_counter()
    made = llm.generate_outputs(inputs=asked, **how)
    rows = [one["statistics"]["output_tokens"][0] for one in made]
    print(json.dumps({"seconds": time.perf_counter() - began, "rows": rows}))
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

from transformers import AutoTokenizer

HERE = Path(__file__).parent
SEEDS = HERE.parent / "seeds.jsonl"
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
    job, plain = jobs(arguments)
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {"job": Path(folder) / "job.json", "plain": Path(folder) / "plain.json"}
        files["job"].write_text(json.dumps(job))
        files["plain"].write_text(json.dumps(plain))
        for _ in range(arguments.repeats):  # rounds, so that a slow minute of the machine hits all ways alike
            for way in arguments.ways:
                command = [sys.executable, str(HERE / "ways.py"), way, str(files["job"])]
                measure(way, command, results)
            for engine in arguments.engine:
                name, _, command_text = engine.partition("=")
                measure(name, [*shlex.split(command_text), str(files["plain"])], results)
    table = markdown(results, arguments)
    print(table)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "benchmark.md").write_text(table)
    report_data = {"job": {**job, "prompts": len(job["prompts"])}, "results": results}
    (arguments.output_dir / "benchmark.json").write_text(json.dumps(report_data, indent=1))


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Folder or name of an instruct model.")
    parser.add_argument("--gguf-file", default="", help="GGUF file in it.")
    parser.add_argument("--random-weights", default="", help="Folder or name of a configuration, instead of a model.")
    parser.add_argument("--dtype", default="bfloat16", help="Type of the weights. Default: bfloat16.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda. Default: cpu.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--slots", type=int, default=64, help="Rows at once in the decode loop. Default: 64.")
    parser.add_argument(
        "--dataset", type=Path, default=HERE.parent / "seeds.jsonl", help="JSON lines with instructions."
    )
    parser.add_argument("--num-requests", type=int, default=96, help="Prompts. Default: 96.")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="Longest completion. Default: 256.")
    parser.add_argument("--temperature", type=float, default=0.8, help="Default: 0.8.")
    parser.add_argument("--repeats", type=int, default=3, help="Rounds. Default: 3.")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS, help="Default: all.")
    parser.add_argument("--engine", action="append", default=[], help="NAME=COMMAND of another engine.")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/benchmark"), help="For the tables.")
    arguments = parser.parse_args()
    if bool(arguments.model) == bool(arguments.random_weights):
        parser.error("give --model or --random-weights.")
    return arguments


def jobs(arguments: argparse.Namespace) -> tuple[Result, Result]:
    """Return the job for our ways and the one for other engines."""
    lines = [json.loads(line) for line in arguments.dataset.read_text().splitlines()]
    texts = [instruction(line) for line in lines]
    if arguments.random_weights:  # such a model has no natural ends: lengths are drawn instead
        texts = (texts * -(-arguments.num_requests // len(texts)))[: arguments.num_requests]
        draw = random.Random(0)
        limits = [min(16 + int(draw.expovariate(1 / 120)), arguments.max_new_tokens) for _ in texts]
        prompts = texts
    else:
        texts = texts[: arguments.num_requests]
        source = {"gguf_file": arguments.gguf_file} if arguments.gguf_file else {}
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, **source)
        asked = [[{"role": "user", "content": text}] for text in texts]
        prompts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked]
        limits = [arguments.max_new_tokens] * len(texts)
    rows = zip(texts, prompts, limits, strict=True)
    kept = (
        "model",
        "gguf_file",
        "random_weights",
        "dtype",
        "device",
        "threads",
        "slots",
        "max_new_tokens",
        "temperature",
    )
    job = {name: getattr(arguments, name) for name in kept}
    job["prompts"] = [{"instruction": text, "text": prompt, "limit": limit} for text, prompt, limit in rows]
    plain = {name: job[name] for name in ("max_new_tokens", "temperature", "threads")}
    return job, {**plain, "top_p": 1.0, "prompts": prompts}


def instruction(line: Result) -> str:
    """Return the instruction of a line, with the input of its first instance, if it has one."""
    text = line.get("instruction") or line["input"]
    instance_input = line.get("instances", [{}])[0].get("input", "")
    return f"{text}\n{instance_input}".strip()


def measure(name: str, command: list[str], results: dict[str, list[Result]]) -> None:
    """Run a way once and add its figures to the results; a way that fails is printed and left out."""
    print(f"{name} …", file=sys.stderr, flush=True)
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "TQDM_DISABLE": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    if finished.returncode:
        print(f"{name} failed: {finished.stderr[-600:]}", file=sys.stderr, flush=True)
        return
    result = json.loads(finished.stdout.strip().splitlines()[-1])
    result["tokens_per_second"] = sum(result["rows"]) / result["seconds"]
    results.setdefault(name, []).append(result)
    print(f"  {result['tokens_per_second']:.0f} tokens/s", file=sys.stderr, flush=True)


def markdown(results: dict[str, list[Result]], arguments: argparse.Namespace) -> str:
    """Lay out the results as Markdown."""
    base = results.get("generate, batch 32")
    beside = statistics.median(run["tokens_per_second"] for run in base) if base else None
    model = arguments.random_weights or arguments.gguf_file or arguments.model
    lines = [
        f"{Path(model).name}, {arguments.dtype}, {arguments.device}, {arguments.threads} threads: "
        f"{arguments.num_requests} prompts, at most {arguments.max_new_tokens} new tokens, "
        f"temperature {arguments.temperature}, {arguments.repeats} rounds",
        "",
        "| way | tokens/s | × batch 32 | of the roofline | tokens per processor-second | peak memory | notes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        speeds = [run["tokens_per_second"] for run in runs]
        speed, last = statistics.median(speeds), runs[-1]
        times = f"{speed / beside:.2f}" if beside else ""
        spread = f"{speed:.0f} ({min(speeds):.0f}–{max(speeds):.0f})"
        rates = [sum(run["rows"]) / run["cpu_seconds"] for run in runs if "cpu_seconds" in run]
        processor = f"{statistics.median(rates):.0f}" if rates else ""
        memory = f"{last['peak_bytes'] / 2**30:.1f} GiB" if "peak_bytes" in last else ""
        limits = [run["tokens_per_second"] / run["roofline"]["tokens_per_second"] for run in runs if "roofline" in run]
        share = f"{statistics.median(limits):.0%}" if limits else ""
        lines.append(f"| {name} | {spread} | {times} | {share} | {processor} | {memory} | {notes(last)} |")
    return "\n".join(lines) + "\n"


def notes(run: Result) -> str:
    """Return a way's own figures as text."""
    parts = [f"{len(run['rows'])} rows, {sum(run['rows'])} tokens"]
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
