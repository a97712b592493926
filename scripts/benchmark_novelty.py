"""How long the novelty filter takes for pools of several sizes, beside comparing all pairs with `rouge_score`.

    python scripts/benchmark_novelty.py INSTRUCTIONS.jsonl --sizes 1000 5000 20000 50000

The instructions (column `instruction`, or `input`) are multiplied to the size asked for: the beginning of one goes
before the end of another. The reference is timed on a few hundred pairs, and its time for all of them worked out.
"""

import argparse
import json
import random
import time
from pathlib import Path

from hfsynth.novelty import NoveltyPool

PAIRS = 300  # that the reference is timed on


def main() -> None:
    """Measure, and print a table in Markdown."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("instructions", type=Path, help="A jsonl file.")
    flags.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20000], help="Texts to filter.")
    arguments = flags.parse_args()
    rows = [json.loads(line) for line in arguments.instructions.read_text(encoding="utf-8").splitlines()]
    texts = [row.get("instruction") or row["input"] for row in rows]
    pair = seconds_per_pair(texts)
    print("| texts | kept | novelty filter, s | texts/s | all pairs with rouge_score, s (worked out) | × |")
    print("|---|---|---|---|---|---|")
    for size in arguments.sizes:
        kept, seconds, pairs = filtered(multiplied(texts, size))
        times = pairs * pair / seconds
        print(f"| {size:,} | {kept:,} | {seconds:.1f} | {size / seconds:,.0f} | {pairs * pair:,.0f} | {times:,.0f} |")


def multiplied(texts: list[str], size: int) -> list[str]:
    """Make as many texts as asked for: the beginning of one before the end of another."""
    draw = random.Random(0)
    made = []
    for _ in range(size):
        first, last = draw.choice(texts).split(), draw.choice(texts).split()
        made.append(" ".join(first[: draw.randint(1, len(first))] + last[draw.randint(0, len(last)) :]))
    return made


def filtered(texts: list[str]) -> tuple[int, float, int]:
    """Filter texts; return how many were kept, the seconds, and how many pairs that decided about."""
    pool, pairs, began = NoveltyPool(), 0, time.perf_counter()
    for text in texts:
        pairs += len(pool)
        if pool.too_near(text) is None:
            pool.add(text)
    return len(pool), time.perf_counter() - began, pairs


def seconds_per_pair(texts: list[str]) -> float:
    """Time the reference's way on some pairs: both parted into words beforehand, as Self-Instruct does."""
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
