"""A technique: the recipe for one row, and the batched function for `Dataset.map` that it makes."""

import inspect
import logging
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Features

from hfsynth.batches import (
    Batch,
    Columns,
    batch_rows,
    checked_indices,
    column_type,
    merge_columns,
    plain_values,
    row_contents,
    scalar_columns,
)
from hfsynth.configuration import Configuration
from hfsynth.errors import ColumnError, FlowError, RowError
from hfsynth.field_values import settle_fields
from hfsynth.flow import Flow, Outcome, RaisedRows, Row, RowSeeds, run_flows
from hfsynth.generation import LLM
from hfsynth.map_progress import BatchProgress
from hfsynth.outputs import check_rows
from hfsynth.record import METADATA_COLUMN, METADATA_FEATURE, divide_share
from hfsynth.secrets import redact

if TYPE_CHECKING:
    from hfsynth.pipeline import Pipeline
    from hfsynth.steps import Step

logger = logging.getLogger(__name__)


class Input(Enum):
    """What a technique asks of an input column."""

    TEXT = "text; a row where it is None, blank or no text fails"
    OPTIONAL_TEXT = "text, or None"
    ANYTHING = "whatever the dataset has"


Inputs = dict[str, Input]


class _InputRow(dict[str, Any]):
    """A row as a flow reads it, which names the technique where the flow reads what it hasn't asked for."""

    def __init__(self, values: Row, owner: str) -> None:
        super().__init__(values)
        self._owner = owner

    def __missing__(self, name: str) -> Any:
        raise ColumnError(
            f"{self._owner}.flow reads row[{name!r}], which its input_features don't name: they are {list(self)}."
        )


@dataclass(frozen=True)
class Technique(Configuration, ABC):
    """What happens to one row, as a flow; called on a batch, it runs the flows of all rows at once.

    A technique is used as `dataset.map(technique, batched=True, with_indices=True)` on a `Dataset` or an
    `IterableDataset`, and chained with others by `>>`. It adds its outputs and one entry a row to the list column
    `generation_metadata`. A row that fails gets None for every output, and the reason in its entry. Columns that are
    not the technique's own are kept.

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

    rewrites: ClassVar[Mapping[str, str]] = {}
    """Inputs of which an output is a newer version: a pipeline says so where a later step still reads the older."""

    rules: ClassVar[tuple[str, str] | None] = None
    """An output with lists of structs, and their field that names the rule which stopped a piece of a row: counted."""
    citation: ClassVar[str] = ""
    """The paper, as BibTeX: for the card."""
    needs_no_input: ClassVar[bool] = False
    """Whether rows differ by nothing but random numbers, which then come from all columns as well as the index: the
    splits of a `DatasetDict` would else be equal row by row."""
    input_advice: ClassVar[str] = "join the two columns in `instruction` first"
    """How a user has `input` read beside `instruction` where the technique reads only the latter: for a hint."""

    def __new__(cls, *arguments: Any, **fields: Any) -> "Technique":  # noqa: ARG004 - __init__'s
        """Make a technique, of a class whose fields `@dataclass` has found.

        Raises:
            TypeError: If it hasn't been asked to.
        """
        if "__dataclass_fields__" not in vars(cls) and (own := _undeclared_fields(cls)):
            raise TypeError(
                f"{cls.__name__} has the fields {own}, and is no dataclass: put @dataclass(frozen=True) above it."
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check every field's type, the fields that all techniques have, and what the class says of its outputs."""
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
        """Return what the technique reads, given what there is, by its own names."""

    @property
    @abstractmethod
    def output_features(self) -> Features:
        """What the technique makes, under its own names."""

    @abstractmethod
    def flow(self, row: Row, rng: random.Random) -> Flow:
        """Say what happens to one row.

        Args:
            row: The inputs, under the technique's own names.
            rng: The row's own random numbers, for what the technique draws by itself.

        Returns:
            A generator that yields requests, receives completions and returns one row of outputs, or several.
            It raises `RowError` where the row comes to nothing. Anything else that it raises fails the row too; but
            where no row is completed at all, it is raised.
        """

    @property
    def written_features(self) -> Features:
        """What the technique makes, under the dataset's names, without `generation_metadata`."""
        return Features({self.output_mappings.get(name, name): kind for name, kind in self.output_features.items()})

    @property
    def written_rules(self) -> tuple[str, str] | None:
        """`rules`, with the dataset's name of the output."""
        return self.rules and (self.output_mappings.get(self.rules[0], self.rules[0]), self.rules[1])

    def wire(self, columns: Collection[str]) -> dict[str, str]:
        """Find the inputs among a dataset's columns and check the outputs against them.

        Returns:
            The technique's own names → the dataset's columns.

        Raises:
            ColumnError: If an input is missing, or an output would replace a column without being asked to.
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
        """Return the features of the dataset that the technique makes of one with these.

        Raises:
            ColumnError: As `wire` does, and if an input has the wrong type.
        """
        wiring = self.wire(features)
        for name, kind in self.input_features(wiring).items():
            found = features[wiring[name]]
            if kind is not Input.ANYTHING and getattr(found, "dtype", "") not in ("string", "large_string", "null"):
                raise ColumnError(f"{self.name} needs text in column {wiring[name]!r}, which holds {found}.")
        return Features({**features, **self.written_features, METADATA_COLUMN: METADATA_FEATURE})

    def __call__(
        self, batch: Batch, indices: Sequence[int] | None = None, *rank: object, **fn_kwargs: object
    ) -> Columns:
        """Run the flows of a batch of rows, as `Dataset.map(..., batched=True, with_indices=True)` calls it.

        Args:
            batch: Columns of the rows, by name.
            indices: The rows' indices in the dataset, from which their seeds come.
            rank: The process's number, which `with_rank=True` adds: not used.
            fn_kwargs: None are taken: options are the technique's fields.

        Returns:
            The columns made, and where rows were multiplied all others too; for a batch of a `Dataset`, which takes
            them up itself, nothing (see `batches.merge_columns`).

        Raises:
            ColumnError: If an input is missing or of the wrong type, or an output would replace a column.
            FlowError: If the technique's flow yields or returns what it must not, or raises for every row.
            GenerationError: If the llm can't go on.
            TypeError: If `map` was called without `batched=True` or `with_indices=True`, or with `input_columns` or
                `fn_kwargs`.
        """
        owner = type(self).__name__
        if fn_kwargs:
            raise TypeError(
                f"{owner} takes no fn_kwargs, got {sorted(fn_kwargs)}; options are its fields: {owner}(llm, …)."
            )
        indices = checked_indices(owner, batch, indices, rank)
        flows = self.flows(batch, indices)
        with BatchProgress(self.name, len(flows)) as watcher:
            outcomes = run_flows(flows, self.llm, self.row_seeds(indices, batch), owner, self.raised_rows, watcher)
        return self.columns(batch, indices, outcomes)

    @property
    def raised_rows(self) -> RaisedRows:
        """Rows that raised in this process so far: no part of the technique's configuration."""
        raised: RaisedRows = vars(self).setdefault("_raised_rows", RaisedRows())
        return raised

    def row_seeds(self, indices: Sequence[int], batch: Batch) -> list[RowSeeds]:
        """Return where the random numbers of rows come from: their indices and, where asked, their columns."""
        contents = row_contents(batch, len(indices)) if self.needs_no_input else [""] * len(indices)
        return [
            RowSeeds(self.seed, self.name, index, content) for index, content in zip(indices, contents, strict=True)
        ]

    def columns_read(self, features: Features) -> list[str]:
        """Return the columns of a dataset that rows of the technique depend on, sorted."""
        seeding = scalar_columns(features.arrow_schema) if self.needs_no_input else []
        return sorted({*self.wire(features).values(), *seeding})

    def flows(self, batch: Batch, indices: Sequence[int]) -> list[Flow]:
        """Return a flow for each row of a batch, not started.

        Raises:
            ColumnError: If an input is missing or of the wrong type, or an output would replace a column.
        """
        wiring = self.wire(batch)
        self._check_types(batch, wiring)
        rows = [_InputRow(row, type(self).__name__) for row in batch_rows(batch, wiring, len(indices))]
        rngs = [random.Random(seeds.turn(-1)) for seeds in self.row_seeds(indices, batch)]
        features = self.output_features
        return [self._guarded(row, rng, features) for row, rng in zip(rows, rngs, strict=True)]

    def columns(self, batch: Batch, indices: Sequence[int], outcomes: Sequence[Outcome]) -> Columns:
        """Lay out what became of the rows of a batch as columns, as `__call__` returns them."""
        empty = dict.fromkeys(self.output_features)
        made = [(source, row) for source, outcome in enumerate(outcomes) for row in outcome.rows or [empty]]
        columns: Columns = {
            self.output_mappings.get(name, name): [row[name] for _, row in made] for name in self.output_features
        }
        before = plain_values(batch[METADATA_COLUMN]) if METADATA_COLUMN in batch else [None] * len(outcomes)
        entries = [
            self._entry(outcome, row) for outcome, row in zip(outcomes, self.row_seeds(indices, batch), strict=True)
        ]
        parts = Counter(source for source, _ in made)
        histories = [
            divide_share([*(before[source] or ()), entry], parts[source]) for source, entry in enumerate(entries)
        ]
        columns[METADATA_COLUMN] = [histories[source] for source, _ in made]
        features = Features({**self.written_features, METADATA_COLUMN: METADATA_FEATURE})
        return merge_columns(batch, [source for source, _ in made], columns, features)

    def __rshift__(self, other: "Step | Pipeline") -> "Pipeline":
        """Chain: `technique >> technique` is a pipeline."""
        from hfsynth.pipeline import Pipeline  # the layer above, known only to this piece of syntax

        return Pipeline((self,)) >> other

    def _guarded(self, row: Row, rng: random.Random, features: Features) -> Flow:
        """Run the flow of a row whose texts are there; one without is a failure before any request."""
        for name, kind in self.input_features(row).items():
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
        return check_rows(type(self).__name__, result, features)

    def _check_text(self, name: str, value: Any, kind: Input) -> None:
        """Check an input of a row.

        Raises:
            RowError: If it must be text, and isn't.
        """
        if kind is Input.ANYTHING or (value is None and kind is Input.OPTIONAL_TEXT):
            return
        column = self.input_mappings.get(name, name)
        if value is not None and not isinstance(value, str):
            raise RowError(f"{column} is {value!r:.60}, of type {type(value).__name__}, and must be text")
        if kind is Input.TEXT and not (value or "").strip():
            raise RowError(f"{column} is {'None' if value is None else 'empty'}")

    def _check_types(self, batch: Batch, wiring: Mapping[str, str]) -> None:
        """Check the columns of a `Dataset`, in which a row can't have another type than the others."""
        for name, kind in self._inputs(wiring).items():
            column = wiring[name]
            found = column_type(batch, column)
            if kind is Input.ANYTHING or found is None:
                continue
            value = next((value for value in batch[column] if value is not None), None)
            if value is not None and not isinstance(value, str):
                raise ColumnError(
                    f"{self.name} needs text in column {column!r}, not {value!r:.200}; its type is {found}."
                )

    def _inputs(self, available: Collection[str]) -> Inputs:
        """Return `input_features`, if they are what they must be.

        Raises:
            TypeError: If they aren't.
        """
        inputs: Any = self.input_features(available)
        if not isinstance(inputs, Mapping) or not all(isinstance(kind, Input) for kind in inputs.values()):
            raise TypeError(
                f"{type(self).__name__}.input_features returned {inputs!r:.200}; it must return a dict of names and "
                "kinds, such as {'instruction': Input.TEXT}."
            )
        return dict(inputs)

    def _check_outputs(self) -> None:
        """Check what the class declares.

        Raises:
            TypeError: If its outputs are no features.
        """
        declared: Any = self.output_features
        advice = "Features({'generation': Value('string')})"
        if callable(declared):
            raise TypeError(f"{type(self).__name__}.output_features must be a property: put @property above it.")
        if not isinstance(declared, Features) or not declared:
            raise TypeError(
                f"{type(self).__name__}.output_features is {declared!r:.200}; it must be features, such as {advice}."
            )

    def _entry(self, outcome: Outcome, row: RowSeeds) -> dict[str, Any]:
        return {
            "step": self.name,
            "row": row.row,
            "model": redact(self.llm.model_name),
            "seed": row.turn(0),
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "finish_reason": outcome.finish_reason,
            "truncated": outcome.truncated and not outcome.error,
            "error": redact(outcome.error) if outcome.error else "",
            "column": next(iter(self.written_features)) if outcome.error else "",
            "raw": redact(outcome.raw) if outcome.error else outcome.raw,
            "share": 1.0,
        }

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
    """Return the fields that a class has in its own body, be they new or another default of one it inherits."""
    inherited = [base for base in cls.__mro__[1:] if base is not object]
    declared = {name for base in inherited for name in vars(base).get("__dataclass_fields__", ())}
    constants = {name for base in inherited for name in vars(base)} - declared
    annotated = inspect.get_annotations(cls).items()
    return [name for name, kind in annotated if "ClassVar" not in str(kind) and name not in constants]
