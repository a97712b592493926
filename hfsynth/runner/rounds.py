"""A run in rounds, until as many rows are accepted as were asked for.

Each round takes some rows of the input through all steps, so that a filter compares a round's rows with those that it
kept in earlier ones. A row's index counts on from round to round: the accepted rows are the first ones that a run over
all of the input would have made, whatever the rounds were.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, runtime_checkable

from datasets import Dataset, DatasetDict, Features, Value

from hfsynth.runner.chunks import content_key

_PILOT, _FASTER = 1 / 8, 4
_TRIED_FROM_NOTHING = 10  # times the rows wanted that are tried where the input has no end of its own


@runtime_checkable
class RowSource(Protocol):
    """Where a run in rounds takes its input from. Every process asks for the same rows and must be given the same."""

    @property
    def fingerprint(self) -> str:
        """What tells this input from any other."""

    @property
    def num_rows(self) -> int | None:
        """Rows that there are; None where there is no end."""

    @property
    def round_size(self) -> int | None:
        """Rows of one round, where what they are depends on it; None where it doesn't matter."""

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:
        """Return `count` rows from the one with index `first` on.

        Args:
            first: How many rows earlier rounds took.
            count: How many are wanted.
            accepted: What earlier rounds' rows became, those that were accepted.
        """


@dataclass(frozen=True)
class DatasetRows:
    """The rows of a dataset, in their order."""

    dataset: Dataset
    round_size: int | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the dataset's rows."""
        return content_key(self.dataset)

    @property
    def num_rows(self) -> int | None:
        """The dataset's."""
        return len(self.dataset)

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:  # noqa: ARG002 - as they are
        """Return a piece of the dataset; all of it is itself, with what datasets knows of it."""
        if (first, count) == (0, len(self.dataset)):
            return self.dataset
        return self.dataset.select(range(first, first + count))


@dataclass(frozen=True)
class EmptyRows:
    """Rows with nothing but an `id`, without end: for techniques that need no input, such as Magpie."""

    fingerprint: str = "empty-rows"
    num_rows: int | None = None
    round_size: int | None = None

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:  # noqa: ARG002 - as they are
        """Return rows with their index as `id`."""
        return Dataset.from_dict({"id": list(range(first, first + count))}, Features({"id": Value("int64")}))


def source_of(dataset: Dataset | RowSource | None, num_rows: int | None) -> RowSource:
    """Return where a run's input comes from.

    Raises:
        TypeError: If it can't be an input.
        ValueError: If it has no end and nothing says how many rows are wanted.
    """
    if isinstance(dataset, DatasetDict) or not isinstance(dataset, Dataset | RowSource | None):
        splits = f"; give one of its splits {list(dataset)}" if isinstance(dataset, DatasetDict) else ""
        raise TypeError(f"a pipeline runs over a Dataset, not {type(dataset).__name__}{splits}.")
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        raise TypeError(
            "the dataset has the custom format of with_transform or set_transform, which a pipeline does not apply; "
            "apply it with dataset.map, or take it off with dataset.with_format(None)."
        )
    if isinstance(dataset, Dataset):
        return DatasetRows(dataset)
    source = dataset if dataset is not None else EmptyRows()
    if num_rows is None and source.num_rows is None:
        raise ValueError(f"the input {dataset!r} has no end: say how many rows are wanted, with num_rows=….")
    return source


@dataclass(frozen=True)
class Goal:
    """How many accepted rows are wanted, and what may be spent on them.

    Raises:
        ValueError: If a number is below 1.
    """

    num_rows: int
    max_rows: int | None = None
    """Rows of the input to try at most; None for all that there are, or of an endless input ten times `num_rows`."""
    max_tokens: int | None = None
    """Tokens to read and write, in all steps together: no round is begun that is likely to pass it. The first is
    small, but begun whatever the limit."""

    @classmethod
    def of(cls, num_rows: int | None, max_rows: int | None, max_tokens: int | None) -> "Goal | None":
        """Return the goal that a run was given, or None where it was given none.

        Raises:
            ValueError: If a number is below 1, or there are limits without `num_rows`.
        """
        if num_rows is not None:
            return cls(num_rows, max_rows, max_tokens)
        if max_rows or max_tokens:
            raise ValueError(f"max_rows={max_rows} and max_tokens={max_tokens} are limits of num_rows; say it too.")
        return None

    @property
    def limits(self) -> dict[str, int]:
        """The limits that there are, by their names."""
        told = {"max_rows": self.max_rows, "max_tokens": self.max_tokens}
        return {name: limit for name, limit in told.items() if limit is not None}

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("num_rows", "max_rows", "max_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")


@dataclass(frozen=True)
class Spent:
    """How far a run in rounds has come."""

    tried: int = 0
    """Rows of the input."""
    accepted: int = 0
    """Rows made of them on which no step failed and that no filter dropped."""
    tokens: int = 0

    def next_round(self, goal: Goal, source: RowSource, chunk_size: int) -> int:
        """Return how many rows of the input the next round takes; 0 where the goal is met or nothing may be spent.

        As many as it takes at the rate so far, in whole chunks where it takes more than one: the first round, of a
        chunk or an eighth of the rows wanted, is to show the rate, and no later one is more than four times what was
        tried.

        >>> Spent(tried=200, accepted=50).next_round(Goal(100), EmptyRows(), chunk_size=128)
        256
        >>> Spent(tried=900, accepted=50).next_round(Goal(100), EmptyRows(), chunk_size=128)
        100
        """
        missing = goal.num_rows - self.accepted
        if missing <= 0:
            return 0
        if source.round_size:
            count = source.round_size
        elif self.accepted:
            count = min(ceil(missing * self.tried / self.accepted), _FASTER * self.tried)
        else:
            count = max(min(goal.num_rows, chunk_size), ceil(goal.num_rows * _PILOT), self.tried)
        if not source.round_size and count > chunk_size:
            count = ceil(count / chunk_size) * chunk_size
        affordable = self._affordable(goal, source.round_size or chunk_size)
        return max(min(count, self._rows_left(goal, source), affordable), 0)

    def _rows_left(self, goal: Goal, source: RowSource) -> int:
        """Return how many rows of the input may still be tried."""
        most = _TRIED_FROM_NOTHING * goal.num_rows if goal.max_rows is None else goal.max_rows
        if source.num_rows is not None:
            most = source.num_rows if goal.max_rows is None else min(goal.max_rows, source.num_rows)
        return most - self.tried

    def _affordable(self, goal: Goal, least: int) -> int:
        """Return how many rows the tokens that are left are likely to do for; `least` to begin with."""
        if goal.max_tokens is None:
            return sys.maxsize
        if not self.tokens:
            return max(least, self.tried)
        return int((goal.max_tokens - self.tokens) * self.tried / self.tokens)

    def told(self, goal: Goal) -> str:
        """Say how many rows were accepted, of how many, and what stopped it where they are too few."""
        text = f"{accepted_of(self.accepted, self.tried)}, {self.tokens:,} tokens"
        if self.accepted >= goal.num_rows:
            return text
        return f"{text}: {goal.num_rows:,} were wanted, and the input or the budget is spent"


def accepted_of(accepted: int, tried: int) -> str:
    """Say how many rows were accepted of how many of the input, of which one may become several.

    >>> accepted_of(10, 40), accepted_of(90, 40)
    ('10 rows accepted of 40 tried (25.0%)', '90 rows accepted of 40 tried (2.25 for each)')
    """
    rate = accepted / tried if tried else 0.0
    return f"{accepted:,} rows accepted of {tried:,} tried ({f'{rate:.1%}' if rate <= 1 else f'{rate:.2f} for each'})"
