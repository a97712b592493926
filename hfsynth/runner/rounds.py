"""Input and stopping rule of a run that goes round by round until enough rows are accepted.

Each round takes some rows of the input through all steps, and a filter compares them with the rows that it kept in
earlier rounds. Row indices continue from one round to the next. The sizes of the rounds don't change the result: it is
the first `num_rows` rows that a run over the entire input would accept.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, runtime_checkable

from datasets import Dataset, DatasetDict, Features, Value

from hfsynth.llm import LLM
from hfsynth.runner.reuse import content_key

_SMALLEST_CHUNK, _LARGEST_CHUNK = 32, 1024  # rows
_CHUNKS = 64  # of a run, about: enough to share among processes
_ISOLATED_BATCHES = 4  # of a chunk that is completed by itself: at its end, slots are idle
_DEFAULT_BATCH = 128  # requests that an llm completes at once, if it doesn't name their number
_SWAP_MARGIN = 1.25  # times the rows that a round needs, where each round loads models
_FIRST_ROUND = 1 / 8  # of the rows wanted: enough to estimate the acceptance rate
_MAX_GROWTH = 4  # times the rows tried so far
_TRIED_OF_ENDLESS = 10  # times the rows wanted, where the input has no end and no limit is set


@runtime_checkable
class RowSource(Protocol):
    """The input of a run in rounds. Every process asks for the same rows and must get the same."""

    @property
    def fingerprint(self) -> str:
        """A text that differs from any other input's."""

    @property
    def num_rows(self) -> int | None:
        """The number of rows; None for an endless input."""

    @property
    def round_size(self) -> int | None:
        """The number of rows of a round, where the rows depend on it; else None."""

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:
        """Return `count` rows, from the one with index `first` on.

        Args:
            first: Number of rows in earlier rounds.
            count: Number of rows wanted.
            accepted: The accepted rows of each earlier round.
        """


@dataclass(frozen=True)
class DatasetRows:
    """The rows of a dataset, in their order; see `RowSource`."""

    dataset: Dataset
    round_size: int | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the dataset's rows."""
        return content_key(self.dataset)

    @property
    def num_rows(self) -> int | None:
        """The number of rows of the dataset."""
        return len(self.dataset)

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:  # noqa: ARG002 - see RowSource
        """Return a slice of the dataset; for all rows the dataset itself, which carries its origin and files."""
        if (first, count) == (0, len(self.dataset)):
            return self.dataset
        return self.dataset.select(range(first, first + count))


@dataclass(frozen=True)
class EmptyRows:
    """Endless rows with an `id` alone, for techniques that need no input, such as Magpie; see `RowSource`."""

    fingerprint: str = "empty-rows"
    num_rows: int | None = None
    round_size: int | None = None

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:  # noqa: ARG002 - see RowSource
        """Return rows with their index as `id`."""
        return Dataset.from_dict({"id": list(range(first, first + count))}, Features({"id": Value("int64")}))


def choose_chunk_size(num_rows: int | None, isolated: Sequence[LLM] = ()) -> int:
    """Return the number of rows of a chunk.

    Where chunks overlap, devices don't wait for the end of a chunk, so it is small enough for all processes to have
    several, and large enough for few files. Where chunks are isolated, it doesn't depend on the number of rows, which
    may be raised later.

    Args:
        num_rows: Rows of the input, or rows wanted; None if that is unknown.
        isolated: The llms whose chunks are completed by themselves.

    >>> choose_chunk_size(1000), choose_chunk_size(20_000), choose_chunk_size(1_000_000)
    (32, 512, 1024)
    """
    if isolated:
        return _ISOLATED_BATCHES * max(llm.parallel_requests or _DEFAULT_BATCH for llm in isolated)
    size = _SMALLEST_CHUNK
    while size < _LARGEST_CHUNK and size * _CHUNKS < (num_rows or 0):
        size *= 2
    return size


def source_of(dataset: Dataset | RowSource | None, num_rows: int | None) -> RowSource:
    """Return a run's input as a `RowSource`.

    Args:
        dataset: The input; None for `EmptyRows`.
        num_rows: Accepted rows wanted; None for all of the input.

    Raises:
        TypeError: If the value can't be an input.
        ValueError: If the input is endless and `num_rows` is None.
    """
    if isinstance(dataset, DatasetDict) or not isinstance(dataset, Dataset | RowSource | None):
        splits = f"; pass one of its splits {list(dataset)}" if isinstance(dataset, DatasetDict) else ""
        raise TypeError(f"A pipeline runs over a Dataset, got {type(dataset).__name__}{splits}.")
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        raise TypeError(
            "the dataset has the custom format of with_transform or set_transform, which a pipeline does not apply; "
            "apply it with dataset.map, or remove it with dataset.with_format(None)."
        )
    if isinstance(dataset, Dataset):
        return DatasetRows(dataset)
    source = dataset if dataset is not None else EmptyRows()
    if num_rows is None and source.num_rows is None:
        without = "without a dataset" if dataset is None else f"for the endless input {dataset!r}"
        raise ValueError(f"num_rows is required {without}.")
    return source


@dataclass(frozen=True)
class Target:
    """The number of accepted rows wanted, and the limits of what they may cost.

    Raises:
        ValueError: If a number is below 1.
    """

    num_rows: int
    max_rows: int | None = None
    """Rows of the input to try at most. None for all of them, or for ten times `num_rows` of an endless input."""
    max_tokens: int | None = None
    """Tokens to read and write, in all steps: no round begins that is likely to exceed it. The first round is small,
    and begins whatever the limit."""

    @classmethod
    def from_options(cls, num_rows: int | None, max_rows: int | None, max_tokens: int | None) -> "Target | None":
        """Return the target of a run with these options; None without `num_rows`.

        Raises:
            ValueError: If a number is below 1, or a limit is set without `num_rows`.
        """
        if num_rows is not None:
            return cls(num_rows, max_rows, max_tokens)
        if max_rows is not None or max_tokens is not None:
            raise ValueError(f"max_rows={max_rows} and max_tokens={max_tokens} require num_rows.")
        return None

    @property
    def limits(self) -> dict[str, int]:
        """The limits that are set, by their names."""
        limits = {"max_rows": self.max_rows, "max_tokens": self.max_tokens}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("num_rows", "max_rows", "max_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}.")


@dataclass(frozen=True)
class Usage:
    """The rows and tokens of a run in rounds so far."""

    tried: int = 0
    """Rows of the input."""
    accepted: int = 0
    """Rows of the output on which no step failed and that no filter dropped."""
    tokens: int = 0
    """Tokens read and written."""

    def next_round(self, target: Target, source: RowSource, chunk_size: int, swaps_models: bool = False) -> int:
        """Return the number of input rows of the next round; 0 if the target is reached or nothing may be spent.

        A round takes as many rows as the target needs at the acceptance rate so far, in whole chunks if more than one.
        The first round measures the rate: a chunk, or an eighth of the rows wanted. No later round is more than four
        times the rows tried so far.

        Where each round loads one model after the other, the first round has all rows wanted, and later ones a margin:
        two or three rounds are likely to do.

        >>> Usage(tried=200, accepted=50).next_round(Target(100), EmptyRows(), chunk_size=128)
        256
        >>> Usage(tried=900, accepted=50).next_round(Target(100), EmptyRows(), chunk_size=128)
        100
        """
        missing = target.num_rows - self.accepted
        if missing <= 0:
            return 0
        if source.round_size:
            count = source.round_size
        elif self.accepted:
            margin = _SWAP_MARGIN if swaps_models else 1.0
            count = min(ceil(missing * self.tried / self.accepted * margin), _MAX_GROWTH * self.tried)
        elif swaps_models:
            count = max(target.num_rows, _MAX_GROWTH * self.tried)
        else:
            count = max(min(target.num_rows, chunk_size), ceil(target.num_rows * _FIRST_ROUND), self.tried)
        if not source.round_size and count > chunk_size:
            count = ceil(count / chunk_size) * chunk_size
        affordable = self._affordable(target, source.round_size or chunk_size)
        return max(min(count, self._rows_left(target, source), affordable), 0)

    def _rows_left(self, target: Target, source: RowSource) -> int:
        """Return how many rows of the input may still be tried."""
        limit = _TRIED_OF_ENDLESS * target.num_rows if target.max_rows is None else target.max_rows
        if source.num_rows is not None:
            limit = source.num_rows if target.max_rows is None else min(target.max_rows, source.num_rows)
        return limit - self.tried

    def _affordable(self, target: Target, first_round: int) -> int:
        """Return how many rows the remaining tokens are likely to suffice for; `first_round` before any is spent."""
        if target.max_tokens is None:
            return sys.maxsize
        if not self.tokens:
            return max(first_round, self.tried)
        return int((target.max_tokens - self.tokens) * self.tried / self.tokens)

    def summary(self, target: Target) -> str:
        """Return a sentence with the accepted and tried rows, the tokens, and whether the target was missed."""
        text = f"{format_acceptance(self.accepted, self.tried)}, {self.tokens:,} tokens"
        if self.accepted >= target.num_rows:
            return text
        return f"{text}: {target.num_rows:,} were wanted, and the input or the budget is spent"


def format_acceptance(accepted: int, tried: int) -> str:
    """Return the accepted and tried rows with their ratio, which exceeds 1 where one row becomes several.

    >>> format_acceptance(10, 40), format_acceptance(90, 40)
    ('10 rows accepted of 40 tried (25.0%)', '90 rows accepted of 40 tried (2.25 for each)')
    """
    rate = accepted / tried if tried else 0.0
    return f"{accepted:,} rows accepted of {tried:,} tried ({f'{rate:.1%}' if rate <= 1 else f'{rate:.2f} for each'})"
