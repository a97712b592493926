"""Measure how busy a run keeps an engine that is fast for many rows, with and without overlapping chunks and steps.

    python scripts/benchmarks/overlap.py --rows 2048 --steps 3

The engine has no model. Each of its steps decodes one token of every row in its slots, in a time that doesn't depend
on the number of rows, as on a GPU. Lengths of completions are log-normal. The first figure is the share of slots in
use over all steps. The second figure also counts the time between steps, in which the engine waits for the run: the
tokens divided by those of a full engine in the same time.
"""

import argparse
import logging
import math
import random
import tempfile
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from datasets import Dataset, disable_progress_bars

from hfsynth import Pipeline, TextGeneration, run
from hfsynth.config import Configuration
from hfsynth.llm import LLM, Completion, Request, Requests, complete_by_stream
from machine import describe_machine

_SIGMA = 0.8  # of the logarithm of the lengths


@dataclass
class Usage:
    """Counts of the engine's work."""

    steps: int = 0
    """Tokens that each slot could have decoded."""
    tokens: int = 0
    """Tokens decoded in all slots."""


USAGE = Usage()


@dataclass(frozen=True)
class SlowedLLM(Configuration, LLM):
    """An engine without a model, whose steps take a fixed time."""

    slots: int = field(default=256, metadata={"help": "Rows at once."})
    mean: float = field(default=192.0, metadata={"help": "Mean length of completions, in tokens."})
    longest: int = field(default=512, metadata={"help": "Longest completion, in tokens."})
    step_seconds: float = field(default=0.001, metadata={"help": "Seconds of a step."})
    label: str = field(default="", metadata={"help": "Tells llms apart: steps with different llms don't overlap."})

    @property
    def model_name(self) -> str:
        """The name in records."""
        return "slowed"

    @property
    def parallel_requests(self) -> int:
        """The number of slots."""
        return self.slots

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete requests by the stream."""
        return complete_by_stream(self, requests)

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Decode all rows in slots, up to the end of the next one, until no request waits."""
        decoding: list[tuple[int, int, Hashable]] = []  # last step, tokens, key
        now = 0
        while True:
            while len(decoding) < self.slots and (item := requests.take()):
                tokens = self.length(item[1].seed)
                decoding.append((now + tokens, tokens, item[0]))
            if not decoding:
                return
            end = min(last for last, _, _ in decoding)
            time.sleep((end - now) * self.step_seconds)
            USAGE.steps += end - now
            USAGE.tokens += (end - now) * len(decoding)
            now = end
            ended = [row for row in decoding if row[0] == now]
            decoding = [row for row in decoding if row[0] != now]
            for _, tokens, key in ended:
                yield key, Completion(text=f"{tokens} tokens", finish_reason="stop", completion_tokens=tokens)

    def length(self, seed: int) -> int:
        """Return the tokens of a request's completion."""
        location = math.log(self.mean) - _SIGMA**2 / 2
        return min(max(round(random.Random(seed).lognormvariate(location, _SIGMA)), 1), self.longest)


def pipeline(llms: Sequence[LLM]) -> Pipeline:
    """Return a chain of a technique for each llm, each of which reads the output of the one before."""
    steps: list[TextGeneration] = []
    for number, llm in enumerate(llms):
        inputs = {"instruction": f"text {number - 1}"} if number else {}
        outputs = {"generation": f"text {number}"}
        steps.append(TextGeneration(llm, name=f"step {number}", input_mappings=inputs, output_mappings=outputs))
    return Pipeline(tuple(steps))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048, help="Rows of the input.")
    parser.add_argument("--steps", type=int, default=3, help="Techniques, one after the other.")
    parser.add_argument("--chunk-size", type=int, default=128, help="Rows of a chunk.")
    parser.add_argument("--step-seconds", type=float, default=0.001, help="Seconds of a step of the engine.")
    arguments = parser.parse_args()
    disable_progress_bars()
    logging.getLogger("hfsynth").setLevel(logging.ERROR)
    llm = SlowedLLM(step_seconds=arguments.step_seconds)
    rows = Dataset.from_dict({"instruction": [f"row {number}" for number in range(arguments.rows)]})
    print(f"Machine: {describe_machine(threads=1)}\n")
    print("| run | slots in use | of a full engine |\n|---|---|---|")
    for label, is_isolated, has_one_llm in (
        ("no overlap (deterministic)", True, True),
        ("chunks overlap", False, False),
        ("chunks and steps overlap", False, True),
    ):
        llms = [llm if has_one_llm else replace(llm, label=str(number)) for number in range(arguments.steps)]
        USAGE.steps = USAGE.tokens = 0
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run(
                pipeline(llms),
                rows,
                run_dir=folder,
                chunk_size=arguments.chunk_size,
                deterministic=is_isolated,
                quiet=True,
            )
            seconds = time.perf_counter() - began
        full = USAGE.tokens / llm.slots * llm.step_seconds / seconds
        print(f"| {label} | {USAGE.tokens / (USAGE.steps * llm.slots):.0%} | {full:.0%} |", flush=True)


if __name__ == "__main__":
    main()
