"""A technique: the recipe for one row, and the batched function for `Dataset.map` that it makes."""

import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Features

from hfsynth.batches import Batch, Columns, batch_rows, checked_indices, merge_columns
from hfsynth.configuration import Configuration
from hfsynth.errors import ColumnError, RowError
from hfsynth.flow import Flow, Outcome, Row, RowSeeds, run_flows
from hfsynth.generation import LLM
from hfsynth.record import METADATA_COLUMN, METADATA_FEATURE
from hfsynth.secrets import redact

if TYPE_CHECKING:
    from hfsynth.pipeline import Pipeline
    from hfsynth.steps import Step


class Input(Enum):
    """What a technique asks of an input column."""

    TEXT = "text; a row where it is None or blank fails"
    OPTIONAL_TEXT = "text, or None"
    ANYTHING = "whatever the dataset has"


Inputs = dict[str, Input]


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

    def __post_init__(self) -> None:
        """Check the fields that all techniques have."""
        if not isinstance(self.llm, LLM):
            raise TypeError(f"{type(self).__name__} needs an llm such as TransformersLLM(...), not {self.llm!r}.")
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
            It raises `RowError` where the row comes to nothing.
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
        wanted = self.input_features(available | set(self.input_mappings))
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
        return {name: self.input_mappings.get(name, name) for name in wanted}

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

    def __call__(self, batch: Batch, indices: Sequence[int] | None = None) -> Columns:
        """Run the flows of a batch of rows, as `Dataset.map(..., batched=True, with_indices=True)` calls it.

        Args:
            batch: Columns of the rows, by name.
            indices: The rows' indices in the dataset, from which their seeds come.

        Returns:
            The columns made, and where rows were multiplied all others too; for a batch of a `Dataset`, which takes
            them up itself, nothing (see `batches.merge_columns`).

        Raises:
            ColumnError: If an input is missing or of the wrong type, or an output would replace a column.
            GenerationError: If the llm can't go on.
            TypeError: If `map` was called without `batched=True` or `with_indices=True`.
        """
        indices = checked_indices(type(self).__name__, batch, indices)
        outcomes = run_flows(self.flows(batch, indices), self.llm, self.row_seeds(indices))
        return self.columns(batch, indices, outcomes)

    def row_seeds(self, indices: Sequence[int]) -> list[RowSeeds]:
        """Return where the random numbers of rows come from, by their indices in the step's input."""
        return [RowSeeds(self.seed, self.name, index) for index in indices]

    def flows(self, batch: Batch, indices: Sequence[int]) -> list[Flow]:
        """Return a flow for each row of a batch, not started.

        Raises:
            ColumnError: If an input is missing or of the wrong type, or an output would replace a column.
        """
        rows = batch_rows(batch, self.wire(batch), len(indices))
        for row in rows:
            self._check_types(row)
        rngs = [random.Random(seeds.turn(-1)) for seeds in self.row_seeds(indices)]
        return [self._guarded(row, rng) for row, rng in zip(rows, rngs, strict=True)]

    def columns(self, batch: Batch, indices: Sequence[int], outcomes: Sequence[Outcome]) -> Columns:
        """Lay out what became of the rows of a batch as columns, as `__call__` returns them."""
        empty = dict.fromkeys(self.output_features)
        made = [(source, row) for source, outcome in enumerate(outcomes) for row in outcome.rows or [empty]]
        columns: Columns = {
            self.output_mappings.get(name, name): [row[name] for _, row in made] for name in self.output_features
        }
        before = batch[METADATA_COLUMN] if METADATA_COLUMN in batch else [None] * len(outcomes)
        entries = [self._entry(outcome, row) for outcome, row in zip(outcomes, self.row_seeds(indices), strict=True)]
        columns[METADATA_COLUMN] = [[*(before[source] or ()), entries[source]] for source, _ in made]
        features = Features({**self.written_features, METADATA_COLUMN: METADATA_FEATURE})
        return merge_columns(batch, [source for source, _ in made], columns, features)

    def __rshift__(self, other: "Step | Pipeline") -> "Pipeline":
        """Chain: `technique >> technique` is a pipeline."""
        from hfsynth.pipeline import Pipeline  # the layer above, known only to this piece of syntax

        return Pipeline((self,)) >> other

    def _guarded(self, row: Row, rng: random.Random) -> Flow:
        """Run the flow of a row whose texts are there; one without is a failure before any request."""
        for name, kind in self.input_features(row).items():
            if kind is Input.TEXT and not (row[name] or "").strip():
                raise RowError(f"{self.input_mappings.get(name, name)} is {'None' if row[name] is None else 'empty'}")
        return (yield from self.flow(row, rng))

    def _check_types(self, row: Row) -> None:
        for name, kind in self.input_features(row).items():
            value = row[name]
            if kind is not Input.ANYTHING and value is not None and not isinstance(value, str):
                column = self.input_mappings.get(name, name)
                raise ColumnError(f"{self.name} needs text in column {column!r}, not {value!r}.")

    def _entry(self, outcome: Outcome, row: RowSeeds) -> dict[str, Any]:
        return {
            "step": self.name,
            "row": row.row,
            "model": redact(self.llm.model_name),
            "seed": row.turn(-1),
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "finish_reason": outcome.finish_reason,
            "error": redact(outcome.error) if outcome.error else "",
            "column": next(iter(self.written_features)) if outcome.error else "",
            "raw": redact(outcome.raw) if outcome.error else outcome.raw,
        }

    def _missing(self, name: str, columns: Collection[str]) -> str:
        column = self.input_mappings.get(name, name)
        advice = ", ".join(repr(c) for c in columns if c != METADATA_COLUMN)
        return (
            f"{self.name} needs column {column!r}; the dataset has [{advice}]. "
            f"Rename one with input_mappings={{{name!r}: '<column>'}}."
        )
