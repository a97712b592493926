"""Input and round sizes of a run with `num_rows`, which processes rows in rounds until enough are accepted.

Each round runs all steps (`run.py`) over some rows of the input; a filter compares them with the rows that it kept in
earlier rounds. Row indices continue from one round to the next. The result does not depend on the sizes of the rounds:
a run returns the first `num_rows` rows that a run over the entire input would accept.
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
_CHUNKS = 64  # approximate number of chunks of a run: enough for all processes to have several
_ISOLATED_BATCHES = 4  # batches per isolated chunk: at the end of each such chunk, slots are idle
_DEFAULT_BATCH = 128  # parallel requests to assume for an llm that does not set parallel_requests
_SWAP_MARGIN = 1.25  # factor on the rows of a round, if each round loads several models
_FIRST_ROUND = 1 / 8  # fraction of num_rows in the first round: enough to estimate the acceptance rate
_MAX_GROWTH = 4  # largest ratio of a round's rows to all rows tried before
_TRIED_OF_ENDLESS = 10  # default max_rows of an endless input, as a multiple of num_rows


@runtime_checkable
class RowSource(Protocol):
    """The input of a run in rounds. All processes request the same rows, and must receive equal ones."""

    @property
    def fingerprint(self) -> str:
        """A string that identifies the input: different inputs have different fingerprints."""

    @property
    def num_rows(self) -> int | None:
        """The number of rows; None for an endless input."""

    @property
    def round_size(self) -> int | None:
        """The fixed number of rows per round, for a source whose rows depend on that number; else None."""

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:
        """Return the rows with the indices `first` to `first + count - 1`.

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
        """Return a slice; if all rows are requested, the dataset itself, which keeps its origin and files."""
        if (first, count) == (0, len(self.dataset)):
            return self.dataset
        return self.dataset.select(range(first, first + count))


@dataclass(frozen=True)
class EmptyRows:
    """Endless rows with only an `id`, for techniques that need no input, such as Magpie; see `RowSource`."""

    fingerprint: str = "empty-rows"
    num_rows: int | None = None
    round_size: int | None = None

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:  # noqa: ARG002 - see RowSource
        """Return rows with their index as `id`."""
        return Dataset.from_dict({"id": list(range(first, first + count))}, Features({"id": Value("int64")}))


def choose_chunk_size(num_rows: int | None, isolated: Sequence[LLM] = ()) -> int:
    """Return the number of rows per chunk.

    Overlapping chunks leave no slot idle, so their size only has to be small enough that each process gets several,
    and large enough to keep the number of files low. The size of isolated chunks does not depend on `num_rows`: a
    later run with more rows reuses them.

    Args:
        num_rows: Rows of the input, or accepted rows wanted; None if unknown.
        isolated: The llms whose chunks are isolated: each is completed without rows of other chunks beside it.

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
        num_rows: Accepted rows wanted; None to process the entire input.

    Raises:
        TypeError: If the value can't be an input.
        ValueError: If the input is endless and `num_rows` is None.
    """
    if isinstance(dataset, DatasetDict) or not isinstance(dataset, Dataset | RowSource | None):
        first = str(next(iter(dataset), "train")) if isinstance(dataset, DatasetDict) else ""
        splits = f"; pass one split: pipeline.for_split({first!r}) and dataset[{first!r}]" if first else ""
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
    """The number of accepted rows wanted, and limits on the rows and tokens spent on them.

    Raises:
        ValueError: If a number is below 1.
    """

    num_rows: int
    max_rows: int | None = None
    """Maximum number of input rows to try. None: all of them; for an endless input, ten times `num_rows`."""
    max_tokens: int | None = None
    """Maximum number of prompt and completion tokens in all steps. A round that is likely to exceed the limit does not
    begin; the first round, which is small, always begins."""

    @classmethod
    def from_options(cls, num_rows: int | None, max_rows: int | None, max_tokens: int | None) -> "Target | None":
        """Return the target of a run with these options; None if none is set.

        Raises:
            ValueError: If a number is below 1, or a limit is set without `num_rows`.
        """
        if num_rows is not None:
            return cls(num_rows, max_rows, max_tokens)
        limits = {"max_rows": max_rows, "max_tokens": max_tokens}
        if named := [f"{name}={limit}" for name, limit in limits.items() if limit is not None]:
            raise ValueError(f"{' and '.join(named)} can be set only with num_rows, the number of accepted rows.")
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
    """Prompt and completion tokens."""

    def next_round(self, target: Target, source: RowSource, chunk_size: int, swaps_models: bool = False) -> int:
        """Return the number of input rows of the next round; 0 if the target or a limit is reached.

        A round has as many rows as the target still needs at the acceptance rate so far, rounded up to entire chunks
        if these are more than one chunk. The first round measures the rate with one chunk or an eighth of `num_rows`.
        A later round has at most four times the rows tried so far.

        If `swaps_models`, each round loads several models. To need only two or three rounds, the first then has
        `num_rows` rows, and later ones a quarter more than the rate suggests.

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
        """Return the number of input rows that may still be tried."""
        limit = _TRIED_OF_ENDLESS * target.num_rows if target.max_rows is None else target.max_rows
        if source.num_rows is not None:
            limit = source.num_rows if target.max_rows is None else min(target.max_rows, source.num_rows)
        return limit - self.tried

    def _affordable(self, target: Target, first_round: int) -> int:
        """Return the number of rows that the remaining tokens probably cover; `first_round` before any are spent."""
        if target.max_tokens is None:
            return sys.maxsize
        if not self.tokens:
            return max(first_round, self.tried)
        return int((target.max_tokens - self.tokens) * self.tried / self.tokens)

    def summary(self, target: Target) -> str:
        """Return a sentence with the accepted and tried rows, the tokens and, if the target was missed, that fact."""
        text = f"{format_acceptance(self.accepted, self.tried)}, {self.tokens:,} tokens"
        if self.accepted >= target.num_rows:
            return text
        return f"{text}: {target.num_rows:,} were wanted, and the input or a limit is used up"


def format_acceptance(accepted: int, tried: int) -> str:
    """Return the accepted and tried rows with their ratio, which exceeds 1 if input rows yield several rows each.

    >>> format_acceptance(10, 40), format_acceptance(90, 40)
    ('10 rows accepted of 40 tried (25.0%)', '90 rows accepted of 40 tried (2.25 for each)')
    """
    rate = accepted / tried if tried else 0.0
    return f"{accepted:,} rows accepted of {tried:,} tried ({f'{rate:.1%}' if rate <= 1 else f'{rate:.2f} for each'})"
