"""Measure how long the novelty filter takes to grow its pool to several sizes, beside `rouge_score` on all pairs.

    python scripts/benchmarks/novelty.py INSTRUCTIONS.jsonl --sizes 1000 10000 50000

The instructions (column `instruction`, or `input`) are multiplied: in each text, half of the words of one of them are
replaced by words drawn from all. One process filters them on one core. The reference is timed on 300 pairs, and its
time for all pairs is extrapolated.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

from hfsynth.similarity.rouge import NoveltyPool
from machine import describe_machine

PAIRS = 300  # pairs on which the reference is timed
MAX_DROPPED = 1_000  # texts dropped in succession after which the words count as used up


def main() -> None:
    """Measure, and print a table in Markdown."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("instructions", type=Path, help="A jsonl file.")
    flags.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000, 50000], help="Sizes of the pool.")
    arguments = flags.parse_args()
    rows = [json.loads(line) for line in arguments.instructions.read_text(encoding="utf-8").splitlines()]
    texts = [row.get("instruction") or row["input"] for row in rows]
    pair = seconds_per_pair(texts)
    print(f"Machine: {describe_machine(threads=1)}\n")
    print("| pool | texts filtered | novelty filter, s | texts/s | all pairs with rouge_score, s (extrapolated) | × |")
    print("|---|---|---|---|---|---|")
    for size, kept, seconds, pairs in growing(texts, sorted(arguments.sizes)):
        reference = pairs * pair
        times = f"{kept / seconds:,.0f} | {reference:,.0f} | {reference / seconds:,.0f}"
        print(f"| {size:,} | {kept:,} | {seconds:.1f} | {times} |", flush=True)


def multiplied(texts: list[str]) -> Iterator[str]:
    """Yield texts without end: each of the texts with half of its words replaced by words of all texts."""
    draw = random.Random(0)
    words = [word for text in texts for word in text.split()]
    while True:
        yield " ".join(draw.choice((word, draw.choice(words))) for word in draw.choice(texts).split())


def growing(texts: list[str], sizes: list[int]) -> Iterator[tuple[int, int, float, int]]:
    """Filter texts until the pool has each size; yield the size, the texts filtered, the seconds and the pairs.

    Raises:
        ValueError: If the words are too few for a pool of the largest size.
    """
    pool, pairs, kept, dropped, seconds = NoveltyPool(tokenizer="rouge_score"), 0, 0, 0, 0.0
    for text in multiplied(texts):
        began = time.perf_counter()
        is_new = pool.match(text) is None
        pairs, kept, dropped = pairs + len(pool), kept + 1, 0 if is_new else dropped + 1
        if is_new:
            pool.add(text)
        seconds += time.perf_counter() - began
        if is_new and len(pool) in sizes:
            yield len(pool), kept, seconds, pairs
        if len(pool) == sizes[-1]:
            return
        if dropped == MAX_DROPPED:
            raise ValueError(f"the pool stays at {len(pool)} texts: there are too few words for one of {sizes[-1]}.")


def seconds_per_pair(texts: list[str]) -> float:
    """Time the reference on some pairs, which are split into words beforehand, as Self-Instruct does."""
    from rouge_score import rouge_scorer
    from rouge_score.tokenize import tokenize

    words = [tokenize(text, None) for text in texts]
    draw = random.Random(0)
    pairs = [(draw.choice(words), draw.choice(words)) for _ in range(PAIRS)]
    began = time.perf_counter()
    for one, other in pairs:
        rouge_scorer._score_lcs(one, other)
    return (time.perf_counter() - began) / PAIRS


if __name__ == "__main__":
    main()
