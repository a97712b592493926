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

LABELS = (
    "intent", "category", "task_category", "difficulty", "quality", "input_quality", "language", "safety",
    "llama_guard_2", "system_prompt_key",
)  # fmt: skip
"""Columns of labels, by the names of `Judge`'s presets, of Magpie's datasets and of `Magpie`."""
SCORES = ("ifd", "reward", "instruct_reward")
"""Columns of scores."""
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class Labels:
    """A column of labels, such as `Judge` makes."""

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
    """Count the labels in the columns that `label_columns` lists."""
    return tuple(_labels(dataset, column) for column in label_columns(dataset.features))


def label_columns(features: Features) -> list[str]:
    """List the columns of texts that are named like labels, or beside which their probabilities stand (`Judge`)."""
    beside = {name: "probabilities" if name == "label" else f"{name}_probabilities" for name in features}
    texts = [name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype.endswith("string")]
    return [name for name in texts if name in LABELS or _is_numbers(features.get(beside[name]))]


def scores_of(dataset: Dataset) -> tuple[Scores, ...]:
    """Work out how the scores in the columns of `SCORES` are spread."""
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


def _is_number(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype.startswith(("float", "int", "uint"))


def _is_numbers(kind: Any) -> bool:
    return isinstance(kind, List) and _is_number(kind.feature)
