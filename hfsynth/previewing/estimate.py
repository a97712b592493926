"""What a whole run would take, from the rows that were tried: with a range, since they are few.

For each step two things are measured row by row: how many rows it makes of one, and how many tokens that takes. Both
are drawn again and again from the rows that were tried (a bootstrap), and carried through the steps; the range holds
nine in ten of the outcomes. Time is tokens at the speed at which they were read and written.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from hfsynth.previewing.trying import TriedStep

_DRAWS = 400
_LEFT_OUT = 0.05  # of the outcomes, at either end of the range


@dataclass(frozen=True)
class Range:
    """A number, and the two between which it is likely to be."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a run over so many rows would come to."""

    rows_in: int
    rows: Range
    """Rows made."""
    tokens: Range
    """Tokens read and written."""
    hours: Range
    """On this device, at the speed measured."""
    measured: int
    """Rows of the input that were tried."""


def estimate(steps: Sequence[TriedStep], rows_in: int) -> Estimate:
    """Estimate a run over `rows_in` rows from steps that were tried on the first of them.

    The same rows give the same estimate: its draws begin with one seed.
    """
    measured = len(steps[0].rows) if steps else 0
    expected = _carried(steps, rows_in, None)
    rng = random.Random(0)
    draws = [_carried(steps, rows_in, rng) for _ in range(_DRAWS)]
    rows, tokens, hours = (
        _range(sorted(draw[place] for draw in draws), expected[place], exact=measured >= rows_in) for place in range(3)
    )
    return Estimate(rows_in, rows, tokens, hours, measured)


def _carried(steps: Sequence[TriedStep], rows: float, rng: random.Random | None) -> tuple[float, float, float]:
    """Carry a number of rows through the steps: (rows, tokens, hours); with the rows tried, or a draw of them."""
    tokens = seconds = 0.0
    for step in steps:
        if not step.rows:
            return 0.0, tokens, seconds / 3600
        drawn = rng.choices(step.rows, k=len(step.rows)) if rng else step.rows
        share = rows / len(step.rows)
        spent = share * sum(row.tokens for row in drawn)
        tokens += spent
        seconds += share * step.seconds if not step.tokens else spent * step.seconds / step.tokens
        # of a function nobody knows which rows it dropped, so that its share has no range
        known = sum(row.kept for row in step.rows) == step.rows_out
        rows = share * (sum(row.kept for row in drawn) if known else step.rows_out)
    return rows, tokens, seconds / 3600


def _range(drawn: Sequence[float], expected: float, exact: bool) -> Range:
    if exact:
        return Range(expected, expected, expected)
    first, last = int(_LEFT_OUT * len(drawn)), int((1 - _LEFT_OUT) * len(drawn)) - 1
    return Range(min(drawn[first], expected), expected, max(drawn[last], expected))
