"""A filter: a step that keeps some rows, and says of every other one which rule dropped it, by what, and what it met.

It stands before the steps that answer, so that nothing is generated for a row that is dropped anyway.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import tee
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset

from hfsynth.configuration import Configuration
from hfsynth.errors import ColumnError
from hfsynth.field_values import settle_fields
from hfsynth.record import failed_rows, failures_dataset

if TYPE_CHECKING:
    from hfsynth.pipeline import Pipeline
    from hfsynth.steps import Step

_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Drop:
    """Why a row is not kept."""

    rule: str
    """The rule's name."""
    value: str = ""
    """What was measured."""
    met: str = ""
    """What it met: the other text, or the limit."""


@dataclass(frozen=True, kw_only=True)
class Filter(Configuration, ABC):
    """What decides, by the values of one column, which rows of a dataset stay.

    A filter is used as `filter(dataset)`, or as a step of a pipeline, which keeps the dropped rows among its failures.
    A row on which a technique failed is nothing to decide on: it stays for `split_failures`. One whose value is None
    stays too, unless the filter says otherwise (`decides_on_none`).

    Raises:
        ValueError: If a field's value is out of its range.
    """

    decides_on_none: ClassVar[bool] = False
    """Whether a row whose value is None, though no technique failed on it, is decided on too."""
    remembers: ClassVar[bool] = False
    """Whether it compares a row with those before it: of more rows it drops a larger share."""

    column: str = field(default="instruction", metadata={"help": "The column that is looked at."})
    name: str = field(default="", metadata={"help": "The step's name in records. Default: the class."})

    def __post_init__(self) -> None:
        """Check every field's type, and name the step."""
        settle_fields(self)
        object.__setattr__(self, "name", self.name or type(self).__name__)

    @abstractmethod
    def verdicts(self, values: Iterable[Any], kept: Iterable[Any]) -> Iterator[Drop | None]:
        """Decide on rows one by one, each by nothing but itself and what came before it.

        Args:
            values: The column's values, in order.
            kept: Those of earlier rows that stayed, of the same column.

        Returns:
            For each value, why its row is dropped, or None where it stays.
        """

    def check_ready(self) -> None:
        """Check what can be known of a filter's needs without meeting them, before a run generates anything.

        Raises:
            ImportError, ValueError: If a package or a file that it needs isn't there.
        """

    def files_state(self) -> str:
        """Say what tells the files that a filter reads from what they were before; "" where it reads none.

        It is a part of a step's key: where a file has changed, the step is run again.
        """
        return ""

    def check_columns(self, columns: Iterable[str]) -> None:
        """Check that a dataset has the column.

        Raises:
            ColumnError: If it doesn't.
        """
        if self.column not in (found := sorted(columns)):
            raise ColumnError(f"{self.name} needs column {self.column!r}; the dataset has {found}. Say column='…'.")

    def __call__(self, dataset: Dataset) -> Dataset:
        """Return the rows that stay.

        Raises:
            ColumnError: If the column is missing.
        """
        return self.split(dataset)[0]

    def split(self, dataset: Dataset, kept: Iterable[Dataset] = (), first: int = 0) -> tuple[Dataset, Dataset]:
        """Part a dataset into the rows that stay, and the dropped ones as failures (`FAILURE_FEATURES`).

        Args:
            dataset: The rows.
            kept: Rows that came before them, and stayed.
            first: Index of the first row, where others came before.

        Raises:
            ColumnError: If the column is missing.
            TypeError: If it isn't a `Dataset`.
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(f"{self.name} filters a Dataset, not {type(dataset).__name__}; give it split by split.")
        self.check_columns(dataset.column_names)
        dropped: dict[int, dict[str, Any]] = {}
        rows, shown = tee(self._sound(dataset))
        before = (value for earlier in kept for _, value in self._sound(earlier))
        for (place, value), drop in zip(rows, self.verdicts((value for _, value in shown), before), strict=True):
            if drop is not None:
                dropped[place] = self._entry(first + place, value, drop)
        stay = dataset.select([place for place in range(len(dataset)) if place not in dropped]) if dropped else dataset
        return stay, failures_dataset(list(dropped.values()))

    def __rshift__(self, other: "Step | Pipeline") -> "Pipeline":
        """Chain: `filter >> technique` is a pipeline."""
        from hfsynth.pipeline import Pipeline  # the layer above, known only to this piece of syntax

        return Pipeline((self,)) >> other

    def _sound(self, dataset: Dataset) -> Iterator[tuple[int, Any]]:
        """Give the places and values of the rows that there is something to decide on."""
        failed = failed_rows(dataset)
        place = 0
        for rows in dataset.select_columns(self.column).with_format(None).iter(_ROWS_AT_ONCE):
            for value in rows[self.column]:
                if (value is not None or self.decides_on_none) and place not in failed:
                    yield place, value
                place += 1

    def _entry(self, row: int, value: Any, drop: Drop) -> dict[str, Any]:
        raw = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        told = {"rule": drop.rule, "value": drop.value, "met": drop.met}
        return {"step": self.name, "row": row, "column": self.column, "error": drop.rule, "raw": raw, **told}
