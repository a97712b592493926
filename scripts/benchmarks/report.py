"""Measure the time and memory of a report on datasets of several sizes.

    python scripts/benchmarks/report.py INSTRUCTIONS.jsonl --rows 10000 100000 1000000

The instructions (column `instruction`, or `input`) are multiplied as in novelty.py. Each size is measured in
a process of its own, which writes its rows to a file before the clock starts.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from datasets import Dataset, disable_progress_bars

from hfsynth import report
from machine import describe_machine
from novelty import multiplied


def main() -> None:
    """Measure, and print a table in Markdown."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("instructions", type=Path, help="A jsonl file.")
    flags.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="Sizes of the datasets.")
    arguments = flags.parse_args()
    rows = [json.loads(line) for line in arguments.instructions.read_text(encoding="utf-8").splitlines()]
    texts = [row.get("instruction") or row["input"] for row in rows]
    print(f"Machine: {describe_machine()}\n")
    print("| rows | compared with all others | s | s of all cores | peak memory, MB |")
    print("|---|---|---|---|---|")
    for size in arguments.rows:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            print(process.apply(measured, (texts, size)), flush=True)


def instructions(texts: tuple[str, ...], size: int) -> Iterator[dict[str, str]]:
    """Yield rows with instructions."""
    for text in islice(multiplied(list(texts)), size):
        yield {"instruction": text}


def measured(texts: list[str], size: int) -> str:
    """Report on a dataset of this size; return a row of the table."""
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        # a tuple, since datasets would make each item of a list a shard
        dataset = Dataset.from_generator(
            instructions, gen_kwargs={"texts": tuple(texts), "size": size}, cache_dir=folder
        )
        began, used = time.perf_counter(), time.process_time()
        figures = report(dataset)
        took, cores = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"| {size:,} | {figures.neighbours.rows:,} | {took:.1f} | {cores:.1f} | {peak:,.0f} |"


if __name__ == "__main__":
    main()
