"""Estimates of a whole run from the traced rows of a preview, each with a 90% interval.

Three rates are measured at each step: accepted rows, failed rows and tokens per row. Each has a Student-t interval
over the traced rows. A total's interval adds in quadrature the changes that it takes when one rate after the other
moves to an end of its interval (first-order error propagation). Time is tokens at the measured speed.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hfsynth.previewing.trying import TriedStep
from hfsynth.running.rounds import Goal, RowSource, Spent

_Z = statistics.NormalDist().inv_cdf(0.95)  # 5% of the outcomes lie beyond either end of an interval


@dataclass(frozen=True)
class Range:
    """A number with its 90% interval."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The totals that a run is expected to have."""

    measured: int
    """Rows of the input that were tried here."""
    rows_in: int | None
    """Rows that the input has; None where it has no end."""
    wanted: int | None
    """Accepted rows that are wanted; None for whatever becomes of all of the input."""
    tried: Range
    """Rows of the input that the run would take."""
    rows: Range
    """Accepted rows: no step failed on them, and no filter dropped them."""
    failed: Range
    """Rows on which a step failed."""
    tokens: Range
    """Tokens read and written."""
    hours: Range
    """On this device, at the speed measured."""

    @property
    def exact(self) -> bool:
        """Whether the run would take just the rows that were tried."""
        return self.tried == Range(self.measured, self.measured, self.measured)


def estimate(
    steps: Sequence[TriedStep], source: RowSource, measured: int, goal: Goal | None = None, chunk_size: int = 128
) -> Estimate:
    """Estimate a run from the first rows of its input. The same rows give the same estimate.

    Args:
        steps: The traced steps of these rows.
        source: The input; one without an end is taken for these rows alone where there is no goal.
        measured: How many rows were tried.
        goal: The rows wanted, and the limits on them.
        chunk_size: The run's.
    """
    steps = [step for step in steps if step.rows_in]
    rates = [rate for step in steps for rate in _rates(step)]
    wanted = None if goal is None else goal.num_rows

    def totals(values: Sequence[float]) -> NDArray[np.float64]:
        accepted, failed, tokens, seconds = _carry(steps, values)
        if goal is None:
            tried = measured if source.num_rows is None else source.num_rows
        else:
            tried = _tried(goal, source, chunk_size, accepted, tokens)
        rows = min(tried * accepted, wanted or math.inf)
        return np.array([tried, rows, tried * failed, tried * tokens, tried * seconds / 3600])

    values = [rate.expected for rate in rates]
    expected = totals(values)
    below, above = np.zeros((2, len(expected)))
    if expected[0] != measured:  # else the totals are those of the traced rows
        for place, rate in enumerate(rates):
            ends = [totals([*values[:place], end, *values[place + 1 :]]) for end in (rate.low, rate.high)]
            below += (expected - np.min([*ends, expected], axis=0)) ** 2
            above += (np.max([*ends, expected], axis=0) - expected) ** 2
    low = np.maximum(expected - np.sqrt(below), 0)
    high = np.minimum(expected + np.sqrt(above), [source.num_rows or np.inf, wanted or np.inf, *[np.inf] * 3])
    ranges = [Range(*map(float, ends)) for ends in zip(low, expected, high, strict=True)]
    return Estimate(measured, source.num_rows, wanted, *ranges)


def _tried(goal: Goal, source: RowSource, chunk_size: int, accepted: float, tokens: float) -> int:
    """Return how many rows of the input a run takes, round by round, at a rate of accepted rows and of tokens."""
    spent = Spent()
    while count := spent.next_round(goal, source, chunk_size):
        tried = spent.tried + count
        spent = Spent(tried, round(tried * accepted), round(tried * tokens))
    return spent.tried


def _carry(steps: Sequence[TriedStep], rates: Sequence[float]) -> tuple[float, float, float, float]:
    """Return accepted rows, failed rows, tokens and seconds per row of the input, from three rates of each step."""
    accepted, failed, tokens, seconds = 1.0, 0.0, 0.0, 0.0
    for place, step in enumerate(steps):
        accepts, fails, takes = rates[3 * place : 3 * place + 3]
        of_failed = sum(row.tokens for row in step.rows if not row.sound) / max(step.failed_in, 1)
        spent = accepted * takes + failed * of_failed
        seconds += (spent / step.tokens if step.tokens else (accepted + failed) / step.rows_in) * step.seconds
        tokens += spent
        failed = accepted * fails + failed * step.failed_made
        accepted *= accepts
    return accepted, failed, tokens, seconds


def _rates(step: TriedStep) -> tuple[Range, Range, Range]:
    """Return a step's accepted rows, failed rows and tokens per sound row.

    Two rows are added to the traced ones, as in Agresti and Coull's "plus four" interval: one dropped or failed, and
    one accepted. A step that failed on none of 16 rows may fail on others.
    """
    if not step.fates:
        return Range(1, 1, 1), Range(0, 0, 0), Range(0, 0, 0)
    accepted, failed = zip(*step.fates, strict=True)
    typical = statistics.mean([count for count in accepted if count] or [1])
    tokens = [row.tokens for row in step.rows if row.sound]
    return _count_range(accepted, (0, typical)), _count_range(failed, (int(bool(step.model)), 0)), _token_range(tokens)


def _count_range(counts: Sequence[float], added: tuple[float, float]) -> Range:
    """Return the mean of counts with a t interval that `added` widens, between 0 and the largest count."""
    sample = [*counts, *added]
    expected, mean, half = statistics.mean(counts), statistics.mean(sample), _half_width(sample)
    return Range(max(min(mean - half, expected), 0), expected, min(max(mean + half, expected), max(sample)))


def _token_range(tokens: Sequence[float]) -> Range:
    """Return the mean of tokens with a t interval of its logarithm.

    Tokens have a long tail to the right: the largest number counts twice, since a few rows miss the longest ones.
    """
    if not any(tokens):
        return Range(0, 0, 0)
    mean = statistics.mean(tokens)
    factor = math.exp(_half_width([*tokens, max(tokens)]) / mean)
    return Range(mean / factor, mean, mean * factor)


def _half_width(sample: Sequence[float]) -> float:
    """Return half of a t interval's width; Student's quantile is the normal one with two terms of its expansion."""
    freedom = len(sample) - 1
    quantile = _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
    return quantile * statistics.stdev(sample) / math.sqrt(len(sample))
