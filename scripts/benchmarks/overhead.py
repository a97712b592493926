"""Measure the cost of a run without a model: rows of an echo through two techniques, and the same run repeated.

    python scripts/benchmarks/overhead.py --rows 1000000

Prints the seconds and the processor time for each row and step, the largest memory without mapped files, which the
system reclaims, and the seconds of the repetition. With `--deterministic`, chunks are isolated, and no row is
written to a journal.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

from datasets import Dataset, disable_progress_bars

from hfsynth import EchoLLM, Pipeline, TextGeneration
from machine import describe_machine


def measure(pipeline: Pipeline, rows: Dataset, run_dir: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds and the processor time of a run."""
    began, processor = time.perf_counter(), time.process_time()
    options = {"chunk_size": arguments.chunk_size, "deterministic": arguments.deterministic}
    result = pipeline.run(rows, run_dir=run_dir, quiet=True, **options)
    assert len(result) == len(rows)
    return time.perf_counter() - began, time.process_time() - processor


class Memory:
    """The largest memory of this process during a `with` block, in MB, without mapped files; on Linux."""

    def __enter__(self) -> "Memory":
        """Start the thread that measures."""
        self.largest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.largest = max(self.largest, anonymous_memory())
            if self._stop.wait(0.1):
                return


def anonymous_memory() -> float:
    """Return the memory that this process has in use now, in MB, without mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="Rows of the input.")
    parser.add_argument("--chunk-size", type=int, help="Rows of a chunk; default: by the number of rows.")
    parser.add_argument("--deterministic", action="store_true", help="Isolate chunks, which need no journal.")
    arguments = parser.parse_args()
    disable_progress_bars()
    second = TextGeneration(EchoLLM(), output_mappings={"generation": "second"}, template="{{ generation }}", name="B")
    pipeline = TextGeneration(EchoLLM()) >> second
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/rows.jsonl"
        with open(file, "w", encoding="utf-8") as lines:
            lines.writelines(f'{{"instruction": "Name fruit {number}."}}\n' for number in range(arguments.rows))
        rows = Dataset.from_json(file, cache_dir=folder)
        before = anonymous_memory()
        for label in ("run", "repetition"):
            with Memory() as memory:
                seconds, processor = measure(pipeline, rows, f"{folder}/run", arguments)
            print(
                f"{label}: {seconds:.2f} s, {processor:.2f} s of the processor: "
                f"{1e6 * processor / arguments.rows / 2:.1f} us a row and step; "
                f"{memory.largest:,.0f} MB at most, {before:,.0f} MB before"
            )
    print(f"Machine: {describe_machine(threads=1)}")


if __name__ == "__main__":
    main()
