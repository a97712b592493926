"""What models said of the rows: the labels of `Judge`, and numbers such as IFD and reward."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from hfsynth.reporting.spread import Spread

SCORES = ("ifd", "reward")
"""Columns of scores."""
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class Labels:
    """A column of labels that `Judge` made."""

    column: str
    counts: Mapping[str, int]
    """Label → rows, the most frequent first."""
    missing: int
    """Rows without one."""


@dataclass(frozen=True)
class Scores:
    """A column of numbers."""

    column: str
    spread: Spread | None
    """None where no row has one."""
    missing: int
    """Rows without one, or with one that is not finite."""


def labels_of(dataset: Dataset) -> tuple[Labels, ...]:
    """Count the labels in the columns that stand beside their probabilities, as `Judge` writes them."""
    return tuple(_labels(dataset, column) for column in label_columns(dataset.features))


def label_columns(features: Features) -> list[str]:
    """List the columns of texts beside which `<column>_probabilities` stands, or of `label` `probabilities`."""
    beside = {name: "probabilities" if name == "label" else f"{name}_probabilities" for name in features}
    return [name for name, other in beside.items() if _is_text(features[name]) and _is_numbers(features.get(other))]


def scores_of(dataset: Dataset) -> tuple[Scores, ...]:
    """Work out how the scores in the columns `ifd` and `reward` are spread."""
    there = [name for name in SCORES if _is_number(dataset.features.get(name))]
    return tuple(_scores(dataset, column) for column in there)


def _labels(dataset: Dataset, column: str) -> Labels:
    counts: Counter[str | None] = Counter()
    for values in _values(dataset, column):
        counts.update({entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()})
    missing = counts.pop(None, 0)
    return Labels(column, {str(label): count for label, count in counts.most_common()}, missing)


def _scores(dataset: Dataset, column: str) -> Scores:
    parts = [
        values.cast(pa.float64()).drop_null().to_numpy(zero_copy_only=False) for values in _values(dataset, column)
    ]
    every = np.concatenate([np.array([], np.float64), *parts])
    finite = every[np.isfinite(every)]
    return Scores(column, Spread.of(finite), len(dataset) - len(finite))


def _values(dataset: Dataset, column: str) -> Iterator[pa.Array]:
    for table in dataset.select_columns(column).with_format("arrow").iter(_ROWS_AT_ONCE):
        yield table.column(column).combine_chunks()


def _is_text(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype in ("string", "large_string")


def _is_number(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype.startswith("float")


def _is_numbers(kind: Any) -> bool:
    return isinstance(kind, List) and _is_number(kind.feature)
