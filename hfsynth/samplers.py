"""Steps without an llm that add sampled columns, such as categories and personas, to vary the prompts of a template.

    topics = CategorySampler({"topic": {"maths": 3, "law": 1}, "level": ("beginner", "expert")})
    people = PersonaSampler("user/personas")
    ask = TextGeneration(llm, template="You are {{ persona }}. Ask about {{ topic }} as a {{ level }} would.")
    dataset = (topics >> people >> ask).run(num_rows=1_000)

A row's values depend only on the seed, the step's name, the row's index and, in a run of a `DatasetDict` or in its
`map` with `with_split=True`, the split. Without `with_split=True`, `map` gives all splits the same values row by row.
"""

import math
import random
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property, lru_cache
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, Features, Value
from numpy.typing import NDArray

from hfsynth.config import Configuration, settle_fields
from hfsynth.data import find_path, load_rows
from hfsynth.errors import ColumnError
from hfsynth.fingerprint import hash_files
from hfsynth.flow import derive_seed, split_seed
from hfsynth.record import METADATA_COLUMN, Node
from hfsynth.step import DatasetStep
from hfsynth.technique import Batch, Columns, checked_arguments, plain_values

_BLOCK = 1_000  # rows over which a column's random numbers are spread evenly
_MAX_COMBINATIONS = 20_000  # maximum number of combinations of the connected columns' values
_MAX_ROUNDS = 1_000  # maximum number of rounds of iterative proportional fitting
_TOLERANCE = 1e-4  # largest difference between a share and the weights' share
_TEXT = Value("string")
_Weights = Mapping[str, float]
_Table = NDArray[np.float64]


@dataclass(frozen=True)
class Sampler(Configuration, DatasetStep, ABC):
    """A step that adds columns of texts, sampled for each row by its index.

    A sampler is used as `dataset.map(sampler, batched=True, with_indices=True)`, and as a step of a pipeline.

    Raises:
        ValueError: If a field's value is out of its range.
    """

    _: KW_ONLY
    seed: int = field(default=0, metadata={"help": "Seed of this step's random numbers."})
    name: str = field(
        default="", metadata={"help": "The step's name in records; part of the seeds. Default: the class."}
    )

    def __post_init__(self) -> None:
        """Check every field's type, and name the step."""
        settle_fields(self)
        object.__setattr__(self, "name", self.name or type(self).__name__)

    @property
    @abstractmethod
    def sampled_columns(self) -> tuple[str, ...]:
        """The columns that are added."""

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The dataset's columns that the values depend on."""
        return ()

    @abstractmethod
    def sample(self, indices: Sequence[int], batch: Batch) -> Columns:
        """Return `sampled_columns` for some rows.

        Args:
            indices: The rows' indices.
            batch: The rows' `read_columns`.
        """

    def for_split(self, split: str) -> "Sampler":
        """Return the sampler with the seed of one split of a `DatasetDict` (see `split_seed`)."""
        return replace(self, seed=split_seed(self.seed, split))

    @property
    def written_features(self) -> Features:
        """The columns that are added, with their types."""
        return Features(dict.fromkeys(self.sampled_columns, _TEXT))

    def needed_columns(self, available: Collection[str]) -> list[str]:  # noqa: ARG002 - the same for any
        """Return the dataset's columns that the values depend on."""
        return list(self.read_columns)

    def node(self, columns: Collection[str]) -> Node:
        """Return the step's node of a diagram, for a dataset with these columns.

        Raises:
            ColumnError: As `check_features` does.
        """
        self._check_columns(columns)
        return Node(self.name, "", self.read_columns, self.sampled_columns)

    def check_features(self, features: Features) -> Features:
        """Return the features with the added columns.

        Raises:
            ColumnError: If a column that is read is missing, or one would be replaced.
        """
        self._check_columns(features)
        return Features({**features, **self.written_features})

    def _check_columns(self, columns: Collection[str]) -> None:
        found = sorted(name for name in columns if name != METADATA_COLUMN)
        for name in self.read_columns:
            if name not in columns:
                raise ColumnError(f"{self.name} needs column {name!r}; the dataset has {found}.")
        for name in self.sampled_columns:
            if name in columns:
                raise ColumnError(
                    f"{self.name} would replace column {name!r}; the dataset has {found}. Rename that column, or "
                    "remove it."
                )

    def __call__(self, batch: Batch, indices: Sequence[int] | None = None, *rank_and_split: object) -> Columns:
        """Return the added columns of a batch, as `Dataset.map(..., batched=True, with_indices=True)` calls it.

        Args:
            batch: Columns of the rows, by name.
            indices: The rows' indices in the dataset.
            rank_and_split: The process's rank, which `with_rank=True` adds and which is ignored; the split's name,
                which `with_split=True` adds and which becomes part of the seed.

        Raises:
            ColumnError: If a column that is read is missing, or one would be replaced.
            TypeError: If `map` was called without `batched=True` or `with_indices=True`.
        """
        indices, split = checked_arguments(type(self).__name__, batch, indices, rank_and_split)
        if split:
            return self.for_split(split)(batch, indices)
        self._check_columns(list(batch))
        return self.sample(indices, {name: plain_values(batch[name]) for name in self.read_columns})

    def split(
        self,
        dataset: Dataset,
        kept: Iterable[Dataset] = (),  # noqa: ARG002 - a row's values depend on its index alone
        first: int = 0,
    ) -> tuple[Dataset, None]:
        """Return the rows with the added columns; `first` is the index of the first row."""
        sampled = dataset.with_format(None).map(
            self._sample_from,
            batched=True,
            with_indices=True,
            fn_kwargs={"first": first},
            features=self.check_features(dataset.features),
        )
        return sampled, None

    def _sample_from(self, batch: Batch, indices: Sequence[int], first: int) -> Columns:
        return self(batch, [first + index for index in indices])


@dataclass(frozen=True)
class CategorySampler(Sampler):
    """Sample categories by their weights: a column for each entry of `weights` and `weights_by`.

    Weights are relative: with `{"maths": 3, "law": 1}`, three quarters of the rows are maths. In each block of 1,000
    rows, every value has its share to within one row (Latin hypercube sampling). Forbidden combinations change the
    shares by at most a few rows in 1,000: iterative proportional fitting spreads their probability over the other
    combinations.

    >>> from datasets import Dataset
    >>> sampler = CategorySampler(
    ...     {"topic": {"maths": 3, "law": 1}, "form": ("proof", "poem")},
    ...     weights_by={"level": {"topic": {"maths": ("school", "university"), "law": ("university",)}}},
    ...     forbidden=({"topic": "law", "form": "proof"},),
    ... )
    >>> rows = Dataset.from_dict({"id": range(1000)}).map(sampler, batched=True, with_indices=True)
    >>> rows["topic"].count("law"), rows["form"].count("proof")
    (250, 500)
    >>> set(zip(rows["form"], rows["topic"], rows["level"])) & {("proof", "law", "university")}
    set()

    Raises:
        ValueError: If a weight is out of range, a column or value is unknown, or forbidden combinations make the
            share of a value impossible.
        ColumnError: When rows are sampled, if a row of the dataset has None or another value without weights.
    """

    version: ClassVar[int] = 2

    weights: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Column → value → weight; or column → values, all of weight 1."},
    )
    _: KW_ONLY
    weights_by: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "{column: {other: {value: weights}}}: weights of a column in rows where the other column, sampled "
            "or in the dataset, has that value. Values that are not listed, and None, use `weights`."
        },
    )
    forbidden: tuple[Any, ...] = field(
        default=(), metadata={"help": "Combinations that no row may have, each as column → value."}
    )

    def __post_init__(self) -> None:
        """Check the weights and the combinations."""
        super().__post_init__()
        weights = {column: _checked_weights(f"weights[{column!r}]", self.weights[column]) for column in self.weights}
        weights_by = {column: _checked_weights_by(column, options) for column, options in self.weights_by.items()}
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "weights_by", weights_by)
        if not self.sampled_columns:
            raise ValueError("CategorySampler.weights is empty; name a column and the weights of its values.")
        for column, other in self._depends_on.items():
            self._check_values(f"weights_by[{column!r}]", other, weights_by[column][other])
            missing = sorted(set(self._values.get(other, ())) - set(weights_by[column][other]))
            if column not in weights and missing:
                raise ValueError(
                    f"CategorySampler.weights_by[{column!r}] has no weights where {other!r} is {missing[0]!r}; add "
                    f"them, or weights[{column!r}] for all other values."
                )
        for combination in self.forbidden:
            self._check_combination(combination)
        if self._connected and not self._read_by_connected:
            self._combinations(())

    @property
    def sampled_columns(self) -> tuple[str, ...]:
        """The columns that are sampled, each after the column that its weights depend on."""
        return self._order

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The dataset's columns that `weights_by` names."""
        return tuple(sorted(set(self._depends_on.values()) - set(self._order)))

    def sample(self, indices: Sequence[int], batch: Batch) -> Columns:
        """Return the values of some rows. Connected columns are drawn jointly, every other column by itself.

        Raises:
            ColumnError: If a column has no weights for the value of the dataset's column that they depend on.
        """
        numbers = {column: _spread_numbers(self, column, indices) for column in ("", *self._order)}
        rows: list[dict[str, str]] = []
        for place, index in enumerate(indices):
            row = self._read_row({column: batch[column][place] for column in self.read_columns}, index)
            if self._connected:
                row |= self._pick_combination(row, numbers[""][place])
            for column in self._order:
                if column not in row:
                    row[column] = self._distribution(column, row).pick(numbers[column][place])
            rows.append(row)
        return {column: [row[column] for row in rows] for column in self._order}

    def _read_row(self, values: Mapping[str, Any], index: int) -> dict[str, str]:
        """Return the values of the dataset's columns as texts, without those that are None.

        Raises:
            ColumnError: If a column has no weights for one of them.
        """
        row = {column: str(value) for column, value in values.items() if value is not None}
        for column, other in self._depends_on.items():
            options = self.weights_by[column][other]
            if other in values and column not in self.weights and row.get(other) not in options:
                raise ColumnError(
                    f"{self.name} has no weights of {column!r} for row {index}, where {other!r} is "
                    f"{row.get(other)!r:.80}, only where it is one of {sorted(options)}; add weights[{column!r}] for "
                    "all other values and None."
                )
        return row

    @cached_property
    def _depends_on(self) -> dict[str, str]:
        """Column → the column that its weights depend on."""
        return {column: next(iter(options)) for column, options in sorted(self.weights_by.items())}

    @cached_property
    def _order(self) -> tuple[str, ...]:
        names = sorted({*self.weights, *self.weights_by})
        graph = {name: [self._depends_on[name]] if self._depends_on.get(name) in names else [] for name in names}
        try:
            return tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            circle = " → ".join(map(repr, error.args[1]))
            raise ValueError(f"CategorySampler.weights_by has columns that depend on each other: {circle}.") from None

    @cached_property
    def _values(self) -> dict[str, tuple[str, ...]]:
        """Column → its values, sorted."""
        return {
            column: tuple(
                sorted({value for weights in self._all_weights(column) for value, weight in weights.items() if weight})
            )
            for column in self._order
        }

    def _all_weights(self, column: str) -> list[_Weights]:
        other = self._depends_on.get(column, "")
        options = self.weights_by.get(column, {}).get(other, {}).values()
        return [*([self.weights[column]] if column in self.weights else []), *options]

    @cached_property
    def _connected(self) -> tuple[str, ...]:
        """Columns that are drawn jointly: those of `forbidden`, and the sampled ones that their weights depend on."""
        found = {column for combination in self.forbidden for column in combination}
        for column in reversed(self._order):
            if column in found and column in self._depends_on:
                found.add(self._depends_on[column])
        return tuple(column for column in self._order if column in found)

    @cached_property
    def _read_by_connected(self) -> dict[str, frozenset[str]]:
        """Column of the dataset → its values for which connected columns have weights."""
        found: dict[str, frozenset[str]] = {}
        for column in self._connected:
            other = self._depends_on.get(column)
            if other is not None and other not in self._order:
                found[other] = found.get(other, frozenset()) | set(self.weights_by[column][other])
        return found

    def _check_values(self, where: str, column: str, values: Iterable[str]) -> None:
        """Check that a sampled column has these values. A column of the dataset may have any value.

        Raises:
            ValueError: If the column never has one of them.
        """
        if column in self._values and (unknown := sorted(set(values) - set(self._values[column]))):
            raise ValueError(
                f"CategorySampler.{where} names {unknown[0]!r}, which is no value of {column!r}; its values are "
                f"{list(self._values[column])}."
            )

    def _check_combination(self, combination: Any) -> None:
        """Check a forbidden combination.

        Raises:
            ValueError: If it isn't a dict of two or more columns with a value each, or names a column or value that is
                never sampled.
        """
        if not isinstance(combination, Mapping) or len(combination) < 2:
            raise ValueError(
                f"CategorySampler.forbidden has {combination!r:.200}; a combination is a dict of two columns or more "
                "with a value each, such as {'topic': 'law', 'form': 'proof'}."
            )
        for column, value in combination.items():
            if column not in self._values:
                raise ValueError(
                    f"CategorySampler.forbidden names the column {column!r}, which isn't sampled; it samples "
                    f"{list(self._order)}."
                )
            self._check_values("forbidden", column, (value,))

    def _weights_in(self, column: str, row: Mapping[str, str]) -> _Weights:
        """Return a column's weights in a row."""
        other = self._depends_on.get(column, "")
        options: Mapping[str, _Weights] = self.weights_by[column][other] if other in row else {}
        weights = options.get(row[other]) if other in row else None
        own: _Weights = self.weights[column] if weights is None else weights
        return own

    def _distribution(self, column: str, row: Mapping[str, str]) -> "_Distribution":
        """Return the distribution of a column's values in a row. Distributions are cached."""
        weights = self._weights_in(column, row)
        found: dict[int, _Distribution] = vars(self).setdefault("_distributions", {})
        if id(weights) not in found:
            values = sorted(weights)
            found[id(weights)] = _Distribution.of(values, [weights[value] for value in values])
        return found[id(weights)]

    def _pick_combination(self, row: Mapping[str, str], number: float) -> dict[str, str]:
        """Return a value for each connected column."""
        read = tuple((name, row[name]) for name, values in self._read_by_connected.items() if row.get(name) in values)
        return dict(zip(self._connected, self._combinations(read).pick(number), strict=True))

    def _combinations(self, read: tuple[tuple[str, str], ...]) -> "_Distribution":
        """Return the distribution of the allowed combinations of the connected columns. Distributions are cached.

        Args:
            read: (column of the dataset, its value in the row) for each value that `weights_by` lists.

        Raises:
            ValueError: If the forbidden combinations make the share of a value impossible.
        """
        found: dict[Any, _Distribution] = vars(self).setdefault("_distributions_of_combinations", {})
        if read not in found:
            found[read] = self._fit_combinations(dict(read))
        return found[read]

    def _fit_combinations(self, row: Mapping[str, str]) -> "_Distribution":
        values = [self._values[column] for column in self._connected]
        allowed = self._allowed_cells(values)
        targets = self._target_shares(row)
        table = _fit_table(allowed, targets)
        for axes, wanted in targets:
            reached = _margin(table, axes)
            worst = np.unravel_index(np.argmax(np.abs(reached - wanted)), wanted.shape)
            if abs(reached[worst] - wanted[worst]) > 10 * _TOLERANCE:
                place = {self._connected[axis]: values[axis][index] for axis, index in zip(axes, worst, strict=True)}
                raise ValueError(
                    f"CategorySampler.forbidden leaves {place} {reached[worst]:.1%} of the rows, but the weights "
                    f"prescribe {wanted[worst]:.1%}; forbid fewer combinations, or change the weights."
                )
        cells = np.argwhere(table > 0)  # (combinations, columns)
        names = [tuple(values[axis][index] for axis, index in enumerate(cell)) for cell in cells.tolist()]
        return _Distribution.of(names, table[table > 0])

    def _allowed_cells(self, values: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
        """Return which combinations of the connected columns are allowed, as an array with an axis for each column.

        Raises:
            ValueError: If there are too many combinations.
        """
        shape = tuple(map(len, values))
        if math.prod(shape) > _MAX_COMBINATIONS:
            raise ValueError(
                f"CategorySampler.forbidden connects the columns {list(self._connected)} with {math.prod(shape):,} "
                f"combinations; at most {_MAX_COMBINATIONS:,} are possible. Forbid combinations of fewer columns."
            )
        allowed = np.ones(shape, np.bool_)
        for combination in self.forbidden:
            index = tuple(
                values[axis].index(combination[column]) if column in combination else slice(None)
                for axis, column in enumerate(self._connected)
            )
            allowed[index] = False
        return allowed

    def _target_shares(self, row: Mapping[str, str]) -> list["_Target"]:
        """Return the shares that the weights prescribe.

        If a column's weights depend on another connected column, the shares are those of the pairs of their values.
        """
        targets: list[_Target] = []
        shares: dict[str, _Table] = {}
        for axis, column in enumerate(self._connected):
            other = self._depends_on.get(column, "")
            if other in self._connected:
                rows = [
                    share * self._shares_in(column, {**row, other: value})
                    for value, share in zip(self._values[other], shares[other], strict=True)
                ]
                targets.append(((self._connected.index(other), axis), np.array(rows)))
                shares[column] = np.array(rows).sum(0)
            else:
                shares[column] = self._shares_in(column, row)
                targets.append(((axis,), shares[column]))
        return targets

    def _shares_in(self, column: str, row: Mapping[str, str]) -> _Table:
        """Return the shares of a column's values in rows like this one: (values,)."""
        weights = self._weights_in(column, row)
        shares: _Table = np.array([weights.get(value, 0.0) for value in self._values[column]])
        shares /= shares.sum()
        return shares


@dataclass(frozen=True)
class PersonaSampler(Sampler):
    r"""Sample personas: each row gets columns of a row of another dataset, by default `persona`.

    All personas are used once before any is used a second time. Another dataset of texts works as well.

    >>> import json, pathlib, tempfile
    >>> from datasets import Dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "personas.jsonl")
    ...     lines = file.write_text('{"persona": "a nurse"}\n{"persona": "a baker"}\n')
    ...     rows = Dataset.from_dict({"id": range(4)})
    ...     rows = rows.map(PersonaSampler(str(file)), batched=True, with_indices=True)
    >>> sorted(rows["persona"][:2]), sorted(rows["persona"])
    (['a baker', 'a nurse'], ['a baker', 'a baker', 'a nurse', 'a nurse'])

    Raises:
        ValueError: If no column is named; or, when a run begins, if the dataset can't be read or has no rows.
        ColumnError: When a run begins, if a column is missing or doesn't hold texts.
    """

    personas: str = field(
        metadata={"help": "A dataset on the Hub, a folder, or a json, jsonl, csv, parquet or txt file."}
    )
    _: KW_ONLY
    columns: tuple[str, ...] = field(default=("persona",), metadata={"help": "Its columns of texts to add."})
    config: str | None = field(default=None, metadata={"help": "Its configuration."})
    split_name: str = field(default="train", metadata={"help": "Its split."})
    revision: str | None = field(
        default=None,
        metadata={"help": "Its commit, branch or tag on the Hub; only a commit always names the same rows."},
    )

    def __post_init__(self) -> None:
        """Check the columns."""
        super().__post_init__()
        if not self.columns:
            raise ValueError("PersonaSampler.columns is empty; name at least one column of texts.")

    @property
    def sampled_columns(self) -> tuple[str, ...]:
        """The columns that are added."""
        return self.columns

    def check_ready(self) -> None:
        """Load the personas.

        Raises:
            ValueError: If they can't be read, or there are none.
            ColumnError: If a column is missing or holds no texts.
        """
        self._load()

    def text_sources(self) -> Sequence[Dataset]:
        """Return the personas, whose license and commit the card states."""
        return (self._load(),)

    def files_state(self) -> str:
        """Return a hash of the contents of a file or of a folder's files; "" for a dataset on the Hub."""
        path = find_path(self.personas)
        return "" if path is None else hash_files(path)

    def sample(self, indices: Sequence[int], batch: Batch) -> Columns:  # noqa: ARG002 - reads no column
        """Return the columns of a persona for each row."""
        personas = self._load()
        found = personas[[self._persona_index(index, len(personas)) for index in indices]]
        return {column: list(found[column]) for column in self.columns}

    def _persona_index(self, index: int, count: int) -> int:
        """Return the index of a row's persona. Each pass over the personas has a random start and stride."""
        turn, place = divmod(index, count)
        start, stride = _order_of_pass(self.seed, self.name, turn, count)
        return (start + place * stride) % count

    def _load(self) -> Dataset:
        personas = _load_personas(self.personas, self.config, self.split_name, self.revision, self.files_state())
        if not len(personas):
            raise ValueError(f"PersonaSampler.personas is {self.personas!r}, which has no rows.")
        for column in self.columns:
            if getattr(personas.features.get(column), "dtype", "") not in ("string", "large_string"):
                texts = [name for name, kind in personas.features.items() if getattr(kind, "dtype", "") == "string"]
                raise ColumnError(
                    f"{self.name} needs texts in column {column!r} of {self.personas!r}, whose columns of texts are "
                    f"{texts}; name some of them with columns=(…)."
                )
        return personas.select_columns(list(self.columns))


_Target = tuple[tuple[int, ...], _Table]
"""Axes of a table of combinations, and the shares of the values along them."""


@dataclass(frozen=True)
class _Distribution:
    """Values and their probabilities."""

    values: Sequence[Any]
    limits: Sequence[float]
    """Cumulative probability up to and including each value."""

    @classmethod
    def of(cls, values: Sequence[Any], weights: Sequence[float] | _Table) -> "_Distribution":
        """Return the distribution of values by their weights."""
        kept = [place for place, weight in enumerate(weights) if weight > 0]
        sums = list(accumulate(float(weights[place]) for place in kept))
        return cls([values[place] for place in kept], [limit / sums[-1] for limit in sums])

    def pick(self, number: float) -> Any:
        """Return the value for a number in [0, 1)."""
        return self.values[min(bisect_right(self.limits, number), len(self.values) - 1)]


def _checked_weights(where: str, weights: Any) -> dict[str, float]:
    """Return weights as value → weight.

    Raises:
        ValueError: If the weights are neither such a mapping nor a sequence of texts, or no weight is above 0.
    """
    named = isinstance(weights, Mapping)
    if not named and isinstance(weights, Sequence) and not isinstance(weights, str):
        weights = dict.fromkeys(weights, 1.0)
    if not isinstance(weights, Mapping) or not all(isinstance(value, str) and value.strip() for value in weights):
        raise ValueError(
            f"CategorySampler.{where} must be texts, such as ('law', 'maths'), or texts and their weights, such as "
            f"{{'law': 1, 'maths': 3}}, got {weights!r:.200}."
        )
    for value, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"CategorySampler.{where}[{value!r}] must be a number of at least 0, got {weight!r}.")
    if not any(weights.values()):
        raise ValueError(f"CategorySampler.{where} has no weight above 0: {weights!r:.200}.")
    return {value: float(weight) for value, weight in weights.items()}


def _checked_weights_by(column: str, options: Any) -> dict[str, dict[str, dict[str, float]]]:
    """Return the weights of a column that depend on another column.

    Raises:
        ValueError: If `options` is not a dict of one other column and of weights for its values.
    """
    where = f"weights_by[{column!r}]"
    by_value = next(iter(options.values())) if isinstance(options, Mapping) and len(options) == 1 else None
    if not isinstance(by_value, Mapping) or not by_value or column in options:
        raise ValueError(
            f"CategorySampler.{where} must name one other column, and weights for its values, such as "
            f"{{'topic': {{'law': {{'easy': 1, 'hard': 2}}}}}}, got {options!r:.200}."
        )
    other = next(iter(options))
    if None in by_value:
        raise ValueError(
            f"CategorySampler.{where}[{other!r}] has weights for None; rows in which {other!r} is None use "
            f"weights[{column!r}]."
        )
    checked = {
        str(value): _checked_weights(f"{where}[{other!r}][{value!r}]", weights) for value, weights in by_value.items()
    }
    return {other: checked}


def _spread_numbers(sampler: Sampler, column: str, indices: Sequence[int]) -> list[float]:
    """Return a random number in [0, 1) for each row. Each block of 1,000 rows has one number in each 1/1000."""
    blocks = {
        block: _block_numbers(sampler.seed, sampler.name, column, block) for block in {i // _BLOCK for i in indices}
    }
    return [blocks[index // _BLOCK][index % _BLOCK] for index in indices]


@lru_cache(maxsize=64)
def _block_numbers(seed: int, step: str, column: str, block: int) -> tuple[float, ...]:
    rng = random.Random(derive_seed(seed, step, block, -1, column))
    return tuple((place + rng.random()) / _BLOCK for place in rng.sample(range(_BLOCK), _BLOCK))


def _fit_table(allowed: NDArray[np.bool_], targets: Sequence[_Target]) -> _Table:
    """Return probabilities of the allowed cells whose margins are as near to the targets as possible.

    Iterative proportional fitting (Deming and Stephan, 1940), started from equal probabilities. If no cell is
    forbidden, two columns are independent unless the weights of one depend on the other.
    """
    table: _Table = allowed / max(allowed.sum(), 1)
    largest = math.inf
    for _ in range(_MAX_ROUNDS):
        before, largest = largest, 0.0
        for axes, wanted in targets:
            margin = _margin(table, axes)
            largest = max(largest, float(np.abs(margin - wanted).max()))
            factor = np.divide(wanted, margin, out=np.zeros_like(wanted), where=margin > 0)
            others = tuple(axis for axis in range(table.ndim) if axis not in axes)
            table = table * np.expand_dims(factor, others)
        if largest < _TOLERANCE or abs(before - largest) < 1e-9:  # converged, to the targets or as near as possible
            break
    return table


def _margin(table: _Table, axes: tuple[int, ...]) -> _Table:
    """Return the sums of a table along all other axes."""
    sums: _Table = table.sum(axis=tuple(axis for axis in range(table.ndim) if axis not in axes))
    return sums


@lru_cache(maxsize=8)
def _load_personas(name: str, config: str | None, split: str, revision: str | None, state: str) -> Dataset:  # noqa: ARG001 - a key
    return load_rows(name, config, split, revision)


@lru_cache(maxsize=64)
def _order_of_pass(seed: int, step: str, turn: int, count: int) -> tuple[int, int]:
    """Return the start and stride of one pass. The stride is coprime to the count, so each persona is visited once."""
    rng = random.Random(derive_seed(seed, step, turn, -1))
    strides = iter(lambda: rng.randrange(1, count + 1), None)
    return rng.randrange(count), next(stride for stride in strides if math.gcd(stride, count) == 1)
