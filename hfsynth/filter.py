"""Filters: steps that keep some rows and record for each dropped one the rule, the measured value and the match.

A filter belongs before the steps that generate answers, so that no answer is generated for a dropped row.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import tee
from typing import Any, ClassVar, NamedTuple

from datasets import ClassLabel, Dataset, Features

from hfsynth.config import Configuration, settle_fields
from hfsynth.conversation import conversation_fault, conversation_text, is_conversation_json, read_conversation
from hfsynth.data import class_names
from hfsynth.errors import ColumnError, RowError
from hfsynth.record import failed_rows, failures_dataset
from hfsynth.step import DatasetStep

_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Drop:
    """The reason why a filter drops a row."""

    rule: str
    """The rule's name."""
    value: str = ""
    """The value that the rule measured."""
    matched: str = ""
    """The text that the row resembles, or the limit that it exceeds."""


class Split(NamedTuple):
    """The rows that a filter kept and those that it dropped."""

    kept: Dataset
    """The rows that were kept."""
    dropped: Dataset
    """A failures dataset (`FAILURE_FEATURES`) with a row for each dropped one: its `rule`, `value` and `matched`."""


@dataclass(frozen=True, kw_only=True)
class Filter(Configuration, DatasetStep):
    """Base class of filters, which keep or drop each row of a dataset by its value in one column.

    A filter is used as `filter(dataset)`, or as a step of a pipeline, which adds the dropped rows to its failures.
    Rows on which a technique failed are passed through, for `split_failures`. So are rows whose value is None, unless
    the filter sets `decides_on_none`.

    Raises:
        ValueError: If a field's value is out of its range.
    """

    decides_on_none: ClassVar[bool] = False
    """Whether rows whose value is None, but on which no technique failed, are passed to `decide` too."""
    reads_earlier_rows: ClassVar[bool] = True

    column: str = field(default="instruction", metadata={"help": "The column that the filter reads."})
    name: str = field(default="", metadata={"help": "The step's name in records. Default: the class."})

    def __post_init__(self) -> None:
        """Check every field's type, and name the step."""
        settle_fields(self)
        object.__setattr__(self, "name", self.name or type(self).__name__)

    @abstractmethod
    def decide(self, values: Iterable[Any], kept: Iterable[Any]) -> Iterator[Drop | None]:
        """Decide which rows to drop, in order. A decision depends only on the row and on the rows before it.

        Args:
            values: The column's values in order, as `read` returns them.
            kept: Values of earlier rows that were kept.

        Returns:
            For each value, the reason why its row is dropped; None if the row is kept.
        """

    def read(self, value: Any) -> Any:
        """Convert a value of the column to an argument of `decide`. Without an override, that is the value itself.

        Raises:
            RowError: If it can't be read; its row is dropped by the rule `unreadable`.
        """
        return value

    @property
    def is_row_wise(self) -> bool:
        """Whether each row is decided on alone."""
        return not self.stateful

    def check_features(self, features: Features) -> Features:
        """Return the features unchanged.

        Raises:
            ColumnError: If the column is missing.
        """
        self.check_columns(features)
        return features

    def files_state(self) -> str:
        """Return a text that changes with the files that the filter reads; "" if it reads none.

        The text is part of the step's key, so a run repeats the step after a file has changed.
        """
        return ""

    def check_columns(self, columns: Iterable[str]) -> None:
        """Check that a dataset has the column.

        Raises:
            ColumnError: If the column is missing.
        """
        if self.column not in (found := sorted(columns)):
            raise ColumnError(f"{self.name} needs column {self.column!r}; the dataset has {found}. Set column='…'.")

    def __call__(self, dataset: Dataset) -> Dataset:
        """Return the kept rows.

        Raises:
            ColumnError: If the column is missing.
        """
        return self.split(dataset).kept

    def split(self, dataset: Dataset, kept: Iterable[Dataset] = (), first: int = 0) -> Split:
        """Return the kept rows, and the dropped ones as failures (`FAILURE_FEATURES`).

        Args:
            dataset: The rows.
            kept: Earlier rows that were kept.
            first: Index of the first row, if earlier rows were filtered separately.

        Raises:
            ColumnError: If the column is missing, or of a type that the filter can't read.
            TypeError: If `dataset` is not a `Dataset`.
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(f"{self.name} filters a Dataset, got {type(dataset).__name__}; pass one split.")
        self.check_features(dataset.features)
        dropped: dict[int, dict[str, Any]] = {}
        rows, values = tee(self._readable(dataset, first, dropped))
        before = (value for earlier in kept for _, _, value in self._readable(earlier, 0, {}))
        for (place, value, _), drop in zip(rows, self.decide((read for _, _, read in values), before), strict=True):
            if drop is not None:
                dropped[place] = self._failure(first + place, value, drop)
        stay = dataset.select([place for place in range(len(dataset)) if place not in dropped]) if dropped else dataset
        return Split(stay, failures_dataset([entry for _, entry in sorted(dropped.items())]))

    def _readable(
        self, dataset: Dataset, first: int, dropped: dict[int, dict[str, Any]]
    ) -> Iterator[tuple[int, Any, Any]]:
        """Yield (position, value, value as read) of the rows to decide on; add the unreadable ones to `dropped`."""
        for place, value in self._rows_to_decide(dataset):
            try:
                read = self.read(value)
            except RowError as error:
                dropped[place] = self._failure(first + place, value, Drop("unreadable", error.reason))
            else:
                yield place, value, read

    def _rows_to_decide(self, dataset: Dataset) -> Iterator[tuple[int, Any]]:
        """Yield the positions and values of the rows to decide on."""
        failed = failed_rows(dataset)
        place = 0
        for rows in dataset.select_columns(self.column).with_format(None).iter(_ROWS_AT_ONCE):
            for value in class_names(dataset.features[self.column], rows[self.column]):
                if (value is not None or self.decides_on_none) and place not in failed:
                    yield place, value
                place += 1

    def _failure(self, row: int, value: Any, drop: Drop) -> dict[str, Any]:
        raw = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        reason = {"rule": drop.rule, "value": drop.value, "matched": drop.matched}
        return {"step": self.name, "row": row, "column": self.column, "error": drop.rule, "raw": raw, **reason}


@dataclass(frozen=True, kw_only=True)
class TextFilter(Filter, ABC):
    """Base class of filters of texts.

    A conversation, in any of the shapes of `conversation.read_conversation`, becomes the texts of its messages and the
    tool calls in them, joined by line breaks. A row whose conversation can't be read is dropped as `unreadable`.
    """

    def check_features(self, features: Features) -> Features:
        """Return the features unchanged.

        Raises:
            ColumnError: If the column is missing, or holds neither texts nor conversations.
        """
        kind = super().check_features(features)[self.column]
        if not isinstance(kind, ClassLabel) and (fault := conversation_fault(kind)):
            raise ColumnError(f"{self.name} reads texts or conversations in column {self.column!r}: {fault}.")
        return features

    def read(self, value: Any) -> str:
        """Return the text of a value.

        Raises:
            RowError: If the value is neither a text nor a conversation, or a message has content that is not text.
        """
        if isinstance(value, str) and not is_conversation_json(value):
            return value
        return conversation_text(read_conversation(self.column, value))


Found = tuple[str, str]
"""The value that a rule found, and the limit or pattern that it violates."""


@dataclass(frozen=True, kw_only=True)
class RuleFilter(TextFilter, ABC):
    """Base class of filters with a method `_<rule>` for each rule, which returns a `Found` or None for a text.

    Raises:
        ValueError: If a rule is unknown.
    """

    all_rules: ClassVar[tuple[str, ...]]
    """Names of the rules in the order in which they are applied."""
    default_rules: ClassVar[tuple[str, ...]] = ()
    """Rules that apply by default; empty for all."""

    rules: tuple[str, ...] = field(default=(), metadata={"help": "The rules that apply. Default: all of them."})

    def __post_init__(self) -> None:
        """Check the rules."""
        super().__post_init__()
        if unknown := [rule for rule in self.rules if rule not in self.all_rules]:
            raise ValueError(f"{self.name} has no rule {unknown[0]!r}; its rules are {list(self.all_rules)}.")
        # in the order of the class: of several rules that match a text, the first is recorded
        chosen = self.rules or self.default_rules or self.all_rules
        object.__setattr__(self, "rules", tuple(rule for rule in self.all_rules if rule in chosen))

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:  # noqa: ARG002
        """Drop each text that a rule matches, and name the first such rule."""
        return map(self._drop, values)

    def _drop(self, text: str) -> Drop | None:
        for rule in self.rules:
            found: Found | None = getattr(self, f"_{rule}")(text)
            if found is not None:
                return Drop(rule, *found)
        return None
