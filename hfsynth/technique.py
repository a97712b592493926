"""`Technique`, the base class of all techniques: called on a batch of `Dataset.map`, it runs one flow for each row.

`Dataset.map` passes a `LazyBatch` backed by an Arrow table, `IterableDataset.map` a plain dict of lists.
"""

import inspect
import logging
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds
from datasets import Features, NamedSplit
from datasets.formatting.formatting import LazyBatch, PythonFormatter

from hfsynth.config import Configuration, settle_fields
from hfsynth.conversation import conversation_fault, tools_fault
from hfsynth.data import class_names
from hfsynth.errors import ColumnError, FlowError, GenerationError, RowError
from hfsynth.flow import (
    Flow,
    Outcome,
    RaisedRows,
    Row,
    RowRandom,
    RowSeeds,
    Watcher,
    lone_surrogate,
    run_flows,
    split_seed,
)
from hfsynth.llm import LLM, Need, Origin, SameRows
from hfsynth.progress import BatchProgress
from hfsynth.record import METADATA_COLUMN, METADATA_FEATURE, Node, divide_share
from hfsynth.secrets import redact
from hfsynth.step import Step

_MAPPINGS = (dict, Mapping)  # a test for a dict is much faster than one for a Mapping
_PLAIN_TYPES = frozenset({str, int, float, bool, type(None)})
Batch = Mapping[str, Sequence[Any]]
Columns = dict[str, list[Any]]


def checked_arguments(
    owner: str, batch: object, indices: object, rest: Sequence[object] = ()
) -> tuple[Sequence[int], str]:
    """Check the arguments that `map` passes to a technique.

    Args:
        owner: The technique's class, for error messages.
        batch: First argument.
        indices: Second argument.
        rest: Further arguments: the rank, the split, or columns.

    Returns:
        The indices of the batch, and the split's name with `with_split=True`, else "".

    Raises:
        TypeError: If `map` was called without the options that a technique needs; the message has the right call.
    """
    call = f"dataset.map({owner}(...), batched=True, with_indices=True)"
    is_column = isinstance(batch, list | tuple | str | int | float | None)
    # the rank, which comes before the split, is None if map runs in one process
    *ranks, split = rest if rest and isinstance(rest[-1], str | NamedSplit) else (*rest, "")
    if is_column or len(ranks) > 1 or not isinstance(ranks[0] if ranks else 0, int | None):
        raise TypeError(
            f"{owner} reads columns by their names, and got single columns; leave input_columns out: {call}. "
            "Columns of other names are read with input_mappings={'<input>': '<column>'}."
        )
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"{owner} takes a batch as a dict of lists, not {type(batch).__name__} in a dataset's format; "
            f"take the format off: dataset.with_format(None).map({owner}(...), batched=True, with_indices=True)."
        )
    if isinstance(indices, int):
        raise TypeError(
            f"{owner} takes a batch of rows and their indices, and got the number {indices}: one row's index without "
            f"batched=True, or with_rank=True without with_indices=True; call {call}."
        )
    if indices is None or isinstance(indices, str | NamedSplit):
        raise TypeError(f"{owner} draws each row's random numbers from its index, and got no indices; call {call}.")
    if not isinstance(indices, Sequence):
        raise TypeError(f"{owner} needs a list of indices, got {type(indices).__name__}; call {call}.")
    return indices, str(split)


def column_type(batch: Batch, column: str) -> pa.DataType | None:
    """Return the Arrow type of a `Dataset`'s column; None if each row may have a type of its own.

    Rows may have different types in a plain batch, and in a column that the mapped function has added.
    """
    if not isinstance(batch, LazyBatch) or column not in batch.pa_table.column_names:
        return None
    kind = batch.pa_table.schema.field(column).type
    return None if isinstance(kind, pa.BaseExtensionType) else kind  # such as JSON


def batch_rows(batch: Batch, wiring: Mapping[str, str], num_rows: int, features: Features | None = None) -> list[Row]:
    """Read `num_rows` rows of a batch, with the columns of `wiring` (a technique's name → the batch's column)."""
    features = batch.formatter.features if isinstance(batch, LazyBatch) else features
    columns = {
        name: class_names((features or {}).get(column), plain_column(batch, column)) for name, column in wiring.items()
    }
    return [{name: values[index] for name, values in columns.items()} for index in range(num_rows)]


def row_contents(batch: Batch, num_rows: int) -> list[str]:
    """Return a text for each row that identifies its texts, numbers and truth values.

    `generation_metadata`, lists, structs, media and None are ignored.
    """
    names = scalar_columns(batch.pa_table.schema) if isinstance(batch, LazyBatch) else sorted(batch)
    columns = {name: plain_column(batch, name) for name in names if name != METADATA_COLUMN}
    return [
        repr([(name, values[row]) for name, values in columns.items() if isinstance(values[row], str | int | float)])
        for row in range(num_rows)
    ]


def scalar_columns(schema: pa.Schema) -> list[str]:
    """Return the names of columns of texts, numbers and truth values, sorted."""
    kinds = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
    )
    return sorted(field.name for field in schema if any(is_kind(field.type) for is_kind in kinds))


def plain_column(batch: Batch, name: str) -> Any:
    """Return a column of a batch as a list of plain values."""
    if isinstance(batch, LazyBatch) and name in batch.keys_to_format and type(batch.formatter) is PythonFormatter:
        return batch[name]  # a column that is unchanged since the dataset was read
    return plain_values(batch[name])


def plain_values(values: Any) -> Any:
    """Convert the arrays and tensors of a dataset in the format of numpy, torch or jax to plain values.

    >>> import numpy
    >>> plain_values({"a": numpy.arange(2), "b": ["x"]})
    {'a': [0, 1], 'b': ['x']}
    """
    if type(values) in _PLAIN_TYPES:
        return values
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, Mapping):
        return {name: plain_values(value) for name, value in values.items()}
    return [plain_values(value) for value in values] if isinstance(values, list) else values


def merge_columns(batch: Batch, sources: Sequence[int], outputs: Columns, features: Features) -> Columns:
    """Merge a technique's columns with those of the batch, whose rows are repeated if one row became several.

    `Dataset.map` keeps the types of Arrow arrays. Of Python lists it infers the types from the first batch: null if
    all its rows failed, and then a later batch can't be written. A function may not return arrays, but it may put them
    into its batch, which `map` merges with the returned columns and from which it drops `remove_columns`.

    Args:
        batch: The batch of `map`; that of a `Dataset` is changed.
        sources: For each output row, the batch's row that it comes from.
        outputs: The technique's columns, one value for each of `sources`.
        features: Their types.

    Returns:
        The columns for the batched function to return to `map`.
    """
    if isinstance(batch, LazyBatch):
        return _merge_into(batch, sources, outputs, features)
    num_rows = len(next(iter(batch.values()))) if batch else len(sources)
    if list(sources) == list(range(num_rows)):
        return outputs  # `map` keeps the other columns by itself
    kept = {name: [batch[name][source] for source in sources] for name in batch if name not in outputs}
    return {**kept, **outputs}


def _merge_into(batch: LazyBatch, sources: Sequence[int], outputs: Columns, features: Features) -> Columns:
    table, types = batch.pa_table, features.arrow_schema
    taken = pa.array(sources, pa.int64())
    for name in table.column_names if list(sources) != list(range(len(table))) else ():
        batch[name] = table.column(name).take(taken)
    for name, values in outputs.items():
        batch[name] = pa.array(values, types.field(name).type)
    return {}


def check_rows(owner: str, result: object, types: Mapping[str, pa.DataType]) -> list[Row]:
    """Return the result of a flow as a list of rows.

    Args:
        owner: The technique's class.
        result: The value that its flow returned.
        types: The Arrow types of its outputs, by name.

    Raises:
        FlowError: If it isn't a dict of the outputs, or a list of such dicts, or a value has another type.
        RowError: If a value has the right type but can't be stored.
    """
    wanted = "it must return a dict with the keys {}, or a list of such dicts, or raise RowError"
    if isinstance(result, _MAPPINGS):
        rows: list[Any] = [result]
    elif isinstance(result, Iterable) and not isinstance(result, str | bytes):
        rows = list(result)
    else:
        returned = "nothing" if result is None else f"{result!r:.200}, of type {type(result).__name__}"
        raise FlowError(f"{owner}.flow returned {returned}; {wanted.format(list(types))}.")
    for row in rows:
        if not isinstance(row, _MAPPINGS):
            raise FlowError(
                f"{owner}.flow returned a list with {row!r:.200}, of type {type(row).__name__}; "
                f"{wanted.format(list(types))}."
            )
        if row.keys() != types.keys():
            raise FlowError(f"{owner}.flow returned a dict with the keys {list(row)}; {wanted.format(list(types))}.")
        for name, value in row.items():
            _check_value(f"{owner}.flow returned", name, value, types[name])
    return [dict(row) for row in rows]


def _check_value(who: str, name: str, value: Any, kind: pa.DataType) -> None:
    if isinstance(value, str) and value.isascii() and _is_text(kind):
        return  # as nearly all values are
    fault = misfit(value, kind)
    if fault:
        raise FlowError(f"{who} {value!r:.200} for {name!r}, whose type is {kind}: {fault}.")
    if isinstance(value, str) and (fault := lone_surrogate(value)):
        raise RowError(f"{name} has {fault}", value)
    if value is None or (isinstance(value, str) and _is_text(kind)):
        return  # can be stored, and needs no trial
    try:
        pa.array([value], kind)
    except UnicodeEncodeError as error:
        raise RowError(f"{name} has {lone_surrogate(error.object)}", repr(value)) from error
    except (OverflowError, pa.ArrowInvalid) as error:
        raise RowError(f"{name} can't be stored: {error}", repr(value)) from error
    except (TypeError, pa.ArrowNotImplementedError) as error:
        raise FlowError(f"{who} {value!r:.200} for {name!r}, whose type is {kind}: {error}.") from error


def misfit(value: Any, kind: pa.DataType) -> str:
    """Return why a value is not of an Arrow type, even if Arrow could cast it; "" if it is of that type.

    >>> misfit("x", pa.int64()), misfit(["a"], pa.list_(pa.string()))
    ('str is no int64', '')
    """
    if value is None:
        return ""
    if not kinds.is_nested(kind):
        return "" if _fits(value, kind) else f"{type(value).__name__} is no {kind}"
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        if not isinstance(value, list | tuple | np.ndarray):
            return f"{type(value).__name__} is no list"
        return next((fault for item in value if (fault := misfit(item, kind.value_type))), "")
    return _misfit_of_struct(value, kind) if kinds.is_struct(kind) else ""


def _misfit_of_struct(value: Any, kind: pa.StructType) -> str:
    if not isinstance(value, Mapping):
        return f"{type(value).__name__} is no dict"
    fields = {field.name: field.type for field in kind}
    if unknown := sorted(map(str, set(value) - set(fields))):
        return f"it has no field {unknown[0]!r}"
    return next((fault for name, item in value.items() if (fault := misfit(item, fields[name]))), "")


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Return whether a value is of a type that is not nested; True for types without a check."""
    if _is_text(kind):
        return isinstance(value, str)
    boolean = isinstance(value, bool | np.bool_)
    if kinds.is_boolean(kind):
        return boolean
    if kinds.is_integer(kind):
        return not boolean and (isinstance(value, Integral) or (isinstance(value, float) and value.is_integer()))
    if kinds.is_floating(kind):
        return not boolean and isinstance(value, Real)
    return True


def _is_text(kind: pa.DataType) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind))


logger = logging.getLogger(__name__)
_NEEDS: dict[Need, str] = {
    "user turn": "turns that are written as the user",
    "choices": "choices that are scored",
    "schema": "answers that keep to a JSON schema",
    "reward": "a reward model",
}
"""Need → how an error message names it."""


class Input(Enum):
    """The requirement of a technique on an input column."""

    TEXT = "text; a row where it is None, blank or no text fails"
    OPTIONAL_TEXT = "text, or None"
    CONVERSATION = "a conversation; a row without one fails"
    TOOLS = "tools as JSON schemas, or None"
    ANYTHING = "whatever the dataset has"


_FAULTS = {Input.CONVERSATION: conversation_fault, Input.TOOLS: tools_fault}
Inputs = dict[str, Input]


class _InputRow(dict[str, Any]):
    """A row as a flow reads it. Reading a column that is not an input raises an error that names the technique."""

    def __init__(self, values: Row, owner: str) -> None:
        super().__init__(values)
        self._owner = owner

    def __missing__(self, name: str) -> Any:
        raise ColumnError(
            f"{self._owner}.flow reads row[{name!r}], which its input_features don't name: they are {list(self)}."
        )


@dataclass(frozen=True)
class Technique(Configuration, Step):
    """Base class of techniques: a flow for each row; a call on a batch runs the flows of all its rows at once.

    A technique is used as `dataset.map(technique, batched=True, with_indices=True)` on a `Dataset` or an
    `IterableDataset`, on a `DatasetDict` with `with_split=True` too, and chained with others by `>>`. Each row gets
    outputs, and an entry in the list column `generation_metadata`. A row that fails gets None for every output,
    and the reason in its entry. Columns that are not the technique's own are kept.

    Raises:
        ValueError: If a field's value is out of its range.
    """

    llm: LLM = field(metadata={"help": "What completes the technique's prompts."})
    input_mappings: Mapping[str, str] = field(
        default_factory=dict,
        kw_only=True,
        metadata={"help": "Name of an input → the dataset's column to read it from."},
    )
    output_mappings: Mapping[str, str] = field(
        default_factory=dict,
        kw_only=True,
        metadata={"help": "Name of an output → the dataset's column to write, even if there is one of that name."},
    )
    seed: int = field(default=0, kw_only=True, metadata={"help": "Start of every random draw of this step."})
    name: str = field(
        default="",
        kw_only=True,
        metadata={
            "help": "The step's name in records; part of the seeds, so equal steps need two. Default: the class."
        },
    )

    replaces: ClassVar[Mapping[str, str]] = {}
    """Input → output that is its newer version. A pipeline warns if a later step still reads the input."""

    rejection_column: ClassVar[tuple[str, str] | None] = None
    """An output with lists of structs, and their field with the rule that rejected a part of the row ("" for none).
    Records count the rows by rule."""
    needs_no_input: ClassVar[bool] = False
    """Whether rows differ only in their random numbers. Their seeds then depend on all columns too; otherwise, rows of
    equal index in the splits of a `DatasetDict` would be equal."""
    input_advice: ClassVar[str] = "join the two columns in `instruction` first"
    """Advice in a log line on a dataset with an `input` column that the technique doesn't read."""

    def __new__(cls, *arguments: Any, **fields: Any) -> "Technique":  # noqa: ARG004 - __init__'s
        """Check that the class is a dataclass if it declares fields.

        Raises:
            TypeError: If `@dataclass` is missing.
        """
        if "__dataclass_fields__" not in vars(cls) and (own := _undeclared_fields(cls)):
            raise TypeError(
                f"{cls.__name__} has the fields {own}, but is not a dataclass: put @dataclass(frozen=True) above it."
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check the types of all fields, the common fields and the declared outputs; set the default name."""
        self._check_outputs()
        if not isinstance(self.llm, LLM):
            raise TypeError(f"{type(self).__name__} needs an llm such as TransformersLLM(...), not {self.llm!r}.")
        settle_fields(self)
        object.__setattr__(self, "name", self.name or type(self).__name__)
        unknown = sorted(set(self.output_mappings) - set(self.output_features))
        if unknown:
            raise ValueError(
                f"output_mappings of {self.name} renames {unknown}; it makes {list(self.output_features)}."
            )
        columns = list(self.written_features)
        if len(columns) != len(self.output_features) or METADATA_COLUMN in columns:
            raise ValueError(f"output_mappings of {self.name} must name different columns: {self.output_mappings}.")

    @abstractmethod
    def input_features(self, available: Collection[str]) -> Inputs:
        """Return the inputs by the technique's own names, for a dataset with these columns."""

    @property
    @abstractmethod
    def output_features(self) -> Features:
        """Output columns and their types, by the technique's own names."""

    @abstractmethod
    def flow(self, row: Row, rng: random.Random) -> Flow:
        """Yield the requests of one row, and return its outputs.

        Args:
            row: The inputs, by the technique's own names.
            rng: The row's own random numbers.

        Returns:
            A generator that yields requests, receives completions and returns one row of outputs, or several. To fail
            the row, raise `RowError` in it. Other exceptions fail the row too, but are raised to the caller if no row
            is completed at all.
        """

    @property
    def needs(self) -> tuple[Need, ...]:
        """Abilities that the requests need of an llm besides answers to chats."""
        return ()

    def check_ready(self) -> None:
        """Check that the llm has its files and, as far as the llm knows yet, all that the technique needs.

        Raises:
            GenerationError: If a file is missing, or the llm lacks an ability; the error names an alternative.
        """
        self.llm.check_ready()
        for need in self.needs:
            if fault := self.llm.lacks(need):
                raise GenerationError(f"{self.name} needs {_NEEDS[need]}: {redact(fault)}.")

    def for_split(self, split: str) -> "Technique":
        """Return the technique with the seed of one split of a `DatasetDict` (see `split_seed`)."""
        technique = replace(self, seed=split_seed(self.seed, split))
        vars(technique)["_raised_rows"] = self.raised_rows
        return technique

    @property
    def model_name(self) -> str:
        """The name of the llm's model."""
        return redact(self.llm.model_name)

    @property
    def same_rows(self) -> SameRows:
        """The llm's promise on the rows of a repeated run."""
        return self.llm.same_rows

    @property
    def parallel_requests(self) -> int | None:
        """Maximum number of requests that the llm completes at once; None if it is not known."""
        return self.llm.parallel_requests

    def origin(self) -> Origin:
        """Return the origin of the llm's model, without loading it."""
        return self.llm.origin()

    def node(self, columns: Collection[str]) -> Node:
        """Return the step's node of a diagram, for a dataset with these columns.

        Raises:
            ColumnError: As `wire` does.
        """
        return Node(self.name, self.model_name, tuple(self.wire(columns).values()), tuple(self.written_features))

    def needed_columns(self, available: Collection[str]) -> list[str]:
        """Return the columns from which the inputs are read, of a dataset with these columns."""
        wanted = self.input_features({*available, *self.input_mappings})
        return [self.input_mappings.get(name, name) for name in wanted]

    def default_inputs(self) -> list[str]:
        """Return the inputs without a mapping, which are read from columns of their own names."""
        return [name for name in self.input_features(()) if name not in self.input_mappings]

    def newer_columns(self) -> dict[str, str]:
        """Return `replaces` by the dataset's names: older column → newer column."""
        return {
            self.input_mappings.get(old, old): self.output_mappings.get(new, new)
            for old, new in self.replaces.items()
            if new in self.output_features
        }

    @property
    def written_features(self) -> Features:
        """Output columns and their types by the dataset's names, without `generation_metadata`."""
        return Features({self.output_mappings.get(name, name): kind for name, kind in self.output_features.items()})

    @property
    def written_rejection_column(self) -> tuple[str, str] | None:
        """`rejection_column`, with the dataset's name of the output."""
        if self.rejection_column is None:
            return None
        output, rule = self.rejection_column
        return self.output_mappings.get(output, output), rule

    def wire(self, columns: Collection[str]) -> dict[str, str]:
        """Match the inputs with a dataset's columns, and check that no output replaces one of them.

        Returns:
            The technique's own names → the dataset's columns.

        Raises:
            ColumnError: If an input is missing, or an output without a mapping would replace a column.
        """
        available = {name for name in columns if name not in self.input_mappings}
        available |= {name for name, column in self.input_mappings.items() if column in columns}
        wanted = self._inputs(available | set(self.input_mappings))
        if unread := sorted(set(self.input_mappings) - set(wanted)):
            raise ColumnError(f"input_mappings of {self.name} names {unread}; it reads {list(wanted)}.")
        for name in wanted:
            if name not in available:
                raise ColumnError(self._missing(name, columns))
        for name in self.output_features:
            if name in columns and name not in self.output_mappings:
                raise ColumnError(
                    f"{self.name} would replace column {name!r}; the dataset has {sorted(columns)}. Write another "
                    f"with output_mappings={{{name!r}: 'new_{name}'}}, or replace it with {{{name!r}: {name!r}}}."
                )
        wiring = {name: self.input_mappings.get(name, name) for name in wanted}
        reads_half = "instruction" in wiring.values() and "input" in set(columns) - set(wiring.values())
        if reads_half and METADATA_COLUMN not in columns:
            _hint_at_unread_input(self.name, self.input_advice)
        return wiring

    def check_features(self, features: Features) -> Features:
        """Return the features of the technique's result, for a dataset with these features.

        Raises:
            ColumnError: As `wire` does, and if an input has the wrong type.
        """
        wiring = self.wire(features)
        for name, kind in self.input_features(wiring).items():
            found = features[wiring[name]]
            if kind in _FAULTS:
                self._check_shape(wiring[name], kind, found)
            elif kind is not Input.ANYTHING and getattr(found, "dtype", "") not in ("string", "large_string", "null"):
                raise ColumnError(f"{self.name} needs text in column {wiring[name]!r}, which holds {found}.")
        return Features({**features, **self.written_features, METADATA_COLUMN: METADATA_FEATURE})

    def __call__(
        self, batch: Batch, indices: Sequence[int] | None = None, *rank_and_split: object, **fn_kwargs: object
    ) -> Columns:
        """Run the flows of a batch of rows, as `Dataset.map(..., batched=True, with_indices=True)` calls it.

        A `DatasetDict` is mapped with `with_split=True` too: without it, rows of equal index have equal seeds in all
        splits.

        Args:
            batch: Columns of the rows, by name.
            indices: The rows' indices in the dataset, from which their seeds come.
            rank_and_split: The rank of the process, which `with_rank=True` adds and which is unused; the name of the
                split, which `with_split=True` adds and which becomes part of the seeds.
            fn_kwargs: Not accepted: options are the technique's fields.

        Returns:
            The output columns, and all others too if rows were multiplied; nothing for a batch of a `Dataset`, into
            which the columns are written (see `merge_columns`).

        Raises:
            ColumnError: If an input is missing or of the wrong type, or an output would replace a column.
            FlowError: If the flow yields or returns a value of a wrong type, or raises for every row.
            GenerationError: If the llm can't continue, or lacks an ability that the technique needs.
            TypeError: If `map` was called without `batched=True` or `with_indices=True`, or with `input_columns` or
                `fn_kwargs`.
        """
        owner = type(self).__name__
        if fn_kwargs:
            raise TypeError(
                f"{owner} takes no fn_kwargs, got {sorted(fn_kwargs)}; options are its fields: {owner}(llm, …)."
            )
        indices, split = checked_arguments(owner, batch, indices, rank_and_split)
        if split:
            return self.for_split(split)(batch, indices)
        flows = self.flows(batch, indices)
        if self.needs:
            self.llm.load()
            self.check_ready()
        with BatchProgress(self.name, len(flows)) as progress:
            watcher = Watcher(
                lambda _, completion: progress.add_tokens(completion.completion_tokens),
                lambda run: progress.add_row(failed=bool(run.outcome.error)),
            )
            outcomes = run_flows(flows, self.llm, self.row_seeds(indices, batch), owner, self.raised_rows, watcher)
        return self.columns(batch, indices, outcomes)

    @property
    def raised_rows(self) -> RaisedRows:
        """Count of rows that raised in this process; not part of the configuration."""
        raised: RaisedRows = vars(self).setdefault("_raised_rows", RaisedRows())
        return raised

    def row_seeds(self, indices: Sequence[int], batch: Batch) -> list[RowSeeds]:
        """Return the seeds of rows, from their indices and, if `needs_no_input`, from their columns."""
        contents = row_contents(batch, len(indices)) if self.needs_no_input else [""] * len(indices)
        return [
            RowSeeds(self.seed, self.name, index, content) for index, content in zip(indices, contents, strict=True)
        ]

    def columns_read(self, features: Features) -> list[str]:
        """Return the columns on which the technique's rows depend, sorted."""
        seeding = scalar_columns(features.arrow_schema) if self.needs_no_input else []
        return sorted({*self.wire(features).values(), *seeding})

    def flows(self, batch: Batch, indices: Sequence[int], features: Features | None = None) -> list[Flow]:
        """Return a flow for each row of a batch, not started.

        Args:
            batch: Columns of the rows, by name.
            indices: The rows' indices in the dataset.
            features: The dataset's, by which class labels get their names; a batch of `Dataset.map` has its own.

        Raises:
            ColumnError: If an input is missing or of the wrong type, or an output would replace a column.
        """
        wiring = self.wire(batch)
        self._check_types(batch, wiring)
        rows = [_InputRow(row, type(self).__name__) for row in batch_rows(batch, wiring, len(indices), features)]
        rngs = [RowRandom(seeds) for seeds in self.row_seeds(indices, batch)]
        inputs = self.input_features(wiring)
        types = {field.name: field.type for field in self.output_features.arrow_schema}
        return [self._guarded(row, rng, inputs, types) for row, rng in zip(rows, rngs, strict=True)]

    def columns(self, batch: Batch, indices: Sequence[int], outcomes: Sequence[Outcome]) -> Columns:
        """Convert the outcomes of a batch to the columns that `__call__` returns."""
        histories = plain_column(batch, METADATA_COLUMN) if METADATA_COLUMN in batch else [None] * len(outcomes)
        sources, outputs = self._outputs(histories, self.row_seeds(indices, batch), outcomes)
        return merge_columns(batch, sources, outputs, self._features_with_metadata)

    def extend(
        self, table: pa.Table, features: Features, seeds: Sequence[RowSeeds], outcomes: Sequence[Outcome]
    ) -> pa.Table:
        """Add the columns of outcomes to a table; a row that became several is repeated.

        Args:
            table: The rows.
            features: The features of the result (see `check_features`).
            seeds: The rows' seeds.
            outcomes: The rows' outcomes.
        """
        before = table.column(METADATA_COLUMN).to_pylist() if METADATA_COLUMN in table.column_names else None
        sources, outputs = self._outputs(before or [None] * len(outcomes), seeds, outcomes)
        if sources != list(range(len(table))):
            table = table.take(pa.array(sources, pa.int64()))
        types = self._features_with_metadata.arrow_schema
        for name, values in outputs.items():
            column, place = pa.array(values, types.field(name).type), table.schema.get_field_index(name)
            table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
        return table.select(list(features)).cast(features.arrow_schema)

    @property
    def _features_with_metadata(self) -> Features:
        return Features({**self.written_features, METADATA_COLUMN: METADATA_FEATURE})

    def _outputs(
        self, histories: Sequence[Any], seeds: Sequence[RowSeeds], outcomes: Sequence[Outcome]
    ) -> tuple[list[int], Columns]:
        """Convert the outcomes of rows to columns.

        Args:
            histories: The metadata entries of earlier steps, of each row.
            seeds: The rows' seeds.
            outcomes: The rows' outcomes.

        Returns:
            For each output row, the row that it comes from; the technique's columns and `generation_metadata`.
        """
        empty = dict.fromkeys(self.output_features)
        rows = [(source, row) for source, outcome in enumerate(outcomes) for row in outcome.rows or [empty]]
        columns: Columns = {
            self.output_mappings.get(name, name): [row[name] for _, row in rows] for name in self.output_features
        }
        model = self.model_name
        entries = [self._entry(outcome, row, model) for outcome, row in zip(outcomes, seeds, strict=True)]
        sources = [source for source, _ in rows]
        parts = Counter(sources)
        histories = [
            divide_share([*(histories[source] or ()), entry], parts[source]) for source, entry in enumerate(entries)
        ]
        columns[METADATA_COLUMN] = [histories[source] for source in sources]
        return sources, columns

    def _guarded(self, row: Row, rng: random.Random, inputs: Inputs, types: Mapping[str, pa.DataType]) -> Flow:
        """Run a row's flow, or fail before any request if the row lacks a text."""
        for name, kind in inputs.items():
            self._check_text(name, row[name], kind)
        flow: Any = self.flow(row, rng)
        if not isinstance(flow, Generator):
            if isinstance(flow, Coroutine):
                flow.close()
            raise FlowError(
                f"{type(self).__name__}.flow returned {flow!r:.200} and never yields; it must be a generator, with "
                "completion = yield Request(…) in it."
            )
        result = yield from flow
        return check_rows(type(self).__name__, result, types)

    def _check_text(self, name: str, value: Any, kind: Input) -> None:
        """Check an input of a row.

        Raises:
            RowError: If it must be text, and isn't.
        """
        if kind is Input.ANYTHING or kind in _FAULTS or (value is None and kind is Input.OPTIONAL_TEXT):
            return
        column = self.input_mappings.get(name, name)
        if value is not None and not isinstance(value, str):
            raise RowError(f"{column} is {value!r:.60}, of type {type(value).__name__}, and must be text")
        if kind is Input.TEXT and not (value or "").strip():
            raise RowError(f"{column} is {'None' if value is None else 'empty'}")

    def _check_types(self, batch: Batch, wiring: Mapping[str, str]) -> None:
        """Check the types of a `Dataset`'s columns, in which all rows have the same type."""
        for name, kind in self._inputs(wiring).items():
            column = wiring[name]
            features = batch.formatter.features if isinstance(batch, LazyBatch) else None
            if kind in _FAULTS and features and column in features:
                self._check_shape(column, kind, features[column])
            found = column_type(batch, column)
            if kind is Input.ANYTHING or kind in _FAULTS or found is None:
                continue
            value = next((value for value in batch[column] if value is not None), None)
            if value is not None and not isinstance(value, str):
                raise ColumnError(
                    f"{self.name} needs text in column {column!r}, not {value!r:.200}; its type is {found}."
                )

    def _inputs(self, available: Collection[str]) -> Inputs:
        """Check the declared `input_features`, and return them.

        Raises:
            TypeError: If they have a wrong type.
        """
        inputs: Any = self.input_features(available)
        if not isinstance(inputs, Mapping) or not all(isinstance(kind, Input) for kind in inputs.values()):
            raise TypeError(
                f"{type(self).__name__}.input_features returned {inputs!r:.200}; it must return a dict of names and "
                "kinds, such as {'instruction': Input.TEXT}."
            )
        return dict(inputs)

    def _check_outputs(self) -> None:
        """Check the declared outputs.

        Raises:
            TypeError: If they are no features.
        """
        declared: Any = self.output_features
        advice = "Features({'generation': Value('string')})"
        if callable(declared):
            raise TypeError(f"{type(self).__name__}.output_features must be a property: put @property above it.")
        if not isinstance(declared, Features) or not declared:
            raise TypeError(
                f"{type(self).__name__}.output_features is {declared!r:.200}; it must be features, such as {advice}."
            )
        for name, kind in declared.items():
            try:
                _ = Features({name: kind}).arrow_schema
            except TypeError as error:
                raise TypeError(
                    f"{type(self).__name__}.output_features has {kind!r:.200} for {name!r}; it must be a "
                    f"feature, such as {advice}."
                ) from error

    def _entry(self, outcome: Outcome, row: RowSeeds, model: str) -> dict[str, Any]:
        return {
            "step": self.name,
            "row": row.row,
            "model": model,
            "seed": row.request_seed(0),
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "finish_reason": outcome.finish_reason,
            "truncated": outcome.truncated and not outcome.error,
            "error": redact(outcome.error) if outcome.error else "",
            "column": next(iter(self.written_features)) if outcome.error else "",
            "raw": redact(outcome.raw) if outcome.error else outcome.raw,
            "share": 1.0,
        }

    def _check_shape(self, column: str, kind: Input, feature: Any) -> None:
        """Check that a feature can hold conversations, or tools.

        Raises:
            ColumnError: If it can't.
        """
        if fault := _FAULTS[kind](feature):
            content = "conversations" if kind is Input.CONVERSATION else "tools"
            raise ColumnError(f"{self.name} can't read {content} in column {column!r}: {fault}.")

    def _missing(self, name: str, columns: Collection[str]) -> str:
        column = self.input_mappings.get(name, name)
        advice = ", ".join(repr(c) for c in columns if c != METADATA_COLUMN)
        return (
            f"{self.name} needs column {column!r}; the dataset has [{advice}]. "
            f"Rename one with input_mappings={{{name!r}: '<column>'}}."
        )


@lru_cache(maxsize=256)
def _hint_at_unread_input(name: str, advice: str) -> None:
    """Log, once a process and step, that a dataset laid out as Alpaca's is read without its `input` column."""
    logger.warning(
        "%s reads column 'instruction' and leaves out column 'input'. If the instructions need it, %s.", name, advice
    )


def _undeclared_fields(cls: type[Technique]) -> list[str]:
    """Return the fields in the body of a class, new ones and new defaults of inherited ones."""
    inherited = [base for base in cls.__mro__[1:] if base is not object]
    declared = {name for base in inherited for name in vars(base).get("__dataclass_fields__", ())}
    constants = {name for base in inherited for name in vars(base)} - declared
    annotated = inspect.get_annotations(cls).items()
    return [name for name, kind in annotated if "ClassVar" not in str(kind) and name not in constants]
