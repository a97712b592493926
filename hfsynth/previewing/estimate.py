"""What a whole run would take, from the rows that were tried: with ranges, since they are few.

Of each step two things are measured row by row: what becomes of one, and how many tokens that takes. Both are drawn
again and again (a Bayesian bootstrap: every row tried gets a random weight), and carried through the steps; a range
holds nine in ten of the outcomes. What was not seen in few rows may be there all the same, so that outcomes that were
not met get a weight too: with rows that are dropped or not, the half of a row that Jeffreys' rule gives either.

Time is tokens at the speed at which they were read and written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hfsynth.previewing.trying import TriedStep
from hfsynth.running.rounds import Goal, RowSource, Spent

_DRAWS = 400
_LEFT_OUT = 0.05  # of the outcomes, at either end of a range
_UNSEEN = 0.5  # of a row's weight, for each of two outcomes that may not have been met

Drawn = NDArray[np.float64]
"""A number in every draw, the first of which is as measured: (1 + draws,)."""


@dataclass(frozen=True)
class Range:
    """A number, and the two between which it is likely to be."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a run would come to."""

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


@dataclass(frozen=True)
class _Course:
    """What becomes of one row of the input, and what that takes."""

    accepted: Drawn
    failed: Drawn
    tokens: Drawn
    seconds: Drawn


def estimate(
    steps: Sequence[TriedStep], source: RowSource, measured: int, goal: Goal | None = None, chunk_size: int = 128
) -> Estimate:
    """Estimate a run from steps that were tried on the first rows of its input.

    The same rows give the same estimate: its draws begin with one seed.

    Args:
        steps: What they made of these rows.
        source: The input; one without an end is taken for these rows alone where there is no goal.
        measured: How many rows were tried.
        goal: What is wanted, and what may be spent on it.
        chunk_size: The run's.
    """
    course = _course(steps)
    if goal is None:
        tried = np.full(1 + _DRAWS, measured if source.num_rows is None else source.num_rows)
    else:
        rates = zip(course.accepted, course.tokens, strict=True)
        tried = np.array([_tried(goal, source, chunk_size, *rate) for rate in rates])
    wanted = None if goal is None else goal.num_rows
    drawn = 1 if tried[0] == measured else 1 + _DRAWS  # of rows that were tried nothing is to be guessed

    def ranged(each: Drawn | float, most: float = np.inf) -> Range:
        return _range(np.minimum(tried * each, most)[:drawn])

    return Estimate(
        measured=measured,
        rows_in=source.num_rows,
        wanted=wanted,
        tried=ranged(1.0),
        rows=ranged(course.accepted, wanted or np.inf),
        failed=ranged(course.failed),
        tokens=ranged(course.tokens),
        hours=ranged(course.seconds / 3600),
    )


def _tried(goal: Goal, source: RowSource, chunk_size: int, accepted: float, tokens: float) -> int:
    """Return how many rows of the input a run takes, round by round, at a rate of accepted rows and of tokens."""
    spent = Spent()
    while count := spent.next_round(goal, source, chunk_size):
        tried = spent.tried + count
        spent = Spent(tried, round(tried * accepted), round(tried * tokens))
    return spent.tried


def _course(steps: Sequence[TriedStep]) -> _Course:
    """Carry one row through the steps."""
    rng = np.random.default_rng(0)
    accepted = np.ones(1 + _DRAWS)
    failed, tokens, seconds = np.zeros((3, 1 + _DRAWS))
    for step in steps:
        if not step.rows_in:
            continue  # nothing is known of it
        weights = _weights(rng, 1.0, 1.0, len(step.fates))
        spent = accepted * _tokens(step, weights, rng) + failed * _tokens_of_failed(step)
        seconds = seconds + (spent / step.tokens if step.tokens else (accepted + failed) / step.rows_in) * step.seconds
        tokens = tokens + spent
        made = _fates(step, weights, _weights(rng, 0.0, _UNSEEN, 2))
        failed = accepted * made[:, 1] + failed * step.failed_made
        accepted = accepted * made[:, 0]
    return _Course(accepted, failed, tokens, seconds)


def _weights(rng: np.random.Generator, measured: float, drawn: float, count: int) -> Drawn:
    """Return the weights of rows, what they are as measured and what they are on average when drawn: (…, count)."""
    return np.vstack([np.full((1, count), measured), rng.standard_gamma(drawn, (_DRAWS, count))])


def _means(values: Drawn, weights: Drawn) -> Drawn:
    """Weigh what rows have: (rows, …) → (1 + draws, …)."""
    means: Drawn = (weights / weights.sum(axis=1, keepdims=True)) @ values
    return means


def _fates(step: TriedStep, weights: Drawn, unseen: Drawn) -> Drawn:
    """Draw how many accepted rows, and failed ones, a step makes of one row: (1 + draws, 2).

    What may not have been met: a row that comes to nothing, and one like the average of those that don't.
    """
    fates = np.array(step.fates, float).reshape(-1, 2)
    if not len(fates):
        return np.tile([1.0, 0.0], (1 + _DRAWS, 1))
    stood = fates[fates[:, 0] > 0, 0]
    others = [[0, bool(step.model)], [stood.mean() if len(stood) else 1, 0]]
    return _means(np.vstack([fates, others]), np.hstack([weights, unseen]))


def _tokens(step: TriedStep, weights: Drawn, rng: np.random.Generator) -> Drawn:
    """Draw how many tokens a row takes: (1 + draws,).

    What may not have been met: a row as cheap as the cheapest, and one beyond the dearest as far as that is beyond the
    mean, since tokens have a long tail. The draws are then spread as Student's range is wider than the normal one.
    """
    taken = np.array([row.tokens for row in step.rows if row.sound], float)
    if not taken.any():
        return np.zeros(1 + _DRAWS)
    mean = taken.mean()
    others = [taken.min(), taken.max() ** 2 / mean]
    drawn = _means(np.hstack([taken, others]), np.hstack([weights, _weights(rng, 0.0, _UNSEEN, 2)]))
    wider = (len(taken) + 1) / (len(taken) - 1) if len(taken) > 1 else 1.0
    spread: Drawn = mean * (drawn / mean) ** wider
    return spread


def _tokens_of_failed(step: TriedStep) -> float:
    """Return what a row takes on which an earlier step failed: mostly nothing."""
    return sum(row.tokens for row in step.rows if not row.sound) / max(step.failed_in, 1)


def _range(numbers: Drawn) -> Range:
    expected = float(numbers[0])
    low, high = np.quantile(numbers, [_LEFT_OUT, 1 - _LEFT_OUT])
    return Range(min(float(low), expected), expected, max(float(high), expected))
