"""What became of every row: the `generation_metadata` column, and the failures read from it."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Features, List, Value

METADATA_COLUMN = "generation_metadata"
METADATA_ENTRY = {
    "step": Value("string"),
    "row": Value("int64"),
    "model": Value("string"),
    "seed": Value("int64"),
    "prompt_tokens": Value("int64"),
    "completion_tokens": Value("int64"),
    "finish_reason": Value("string"),
    "error": Value("string"),
    "raw": Value("string"),
}
"""One entry of the column, added by each technique: the step's name; the row's index in that step's input; the llm;
the row's seed; tokens read and written by all of the row's requests (rows that come from one row of the input carry
the same entry: count an entry once for each step and row); how the last completion ended; why the row failed ("" if
it didn't) and the completion that could not be used. No field is ever null, so that any row shows the column's type.
"""
METADATA_FEATURE = List(METADATA_ENTRY)

FAILURE_FEATURES = Features(
    {"step": Value("string"), "row": Value("int64"), "reason": Value("string"), "raw": Value("string")}
)
"""Columns of a failures dataset: the step, the row's index in that step's input, the reason, the raw completion."""


def failed_entry(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of the first step that failed on a row, or None where none did.

    >>> failed_entry({"generation_metadata": [{"step": "Magpie", "error": ""}]}) is None
    True
    """
    return next((entry for entry in row[METADATA_COLUMN] or () if entry["error"]), None)


def split_failures(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Part a dataset into the rows on which no step failed, whole, and the failures (`FAILURE_FEATURES`).

    Raises:
        ValueError: If the dataset has no `generation_metadata` column.
    """
    if METADATA_COLUMN not in dataset.column_names:
        raise ValueError(f"no technique has run on this dataset: {dataset.column_names} has no {METADATA_COLUMN!r}.")
    kept: list[int] = []
    failures: list[dict[str, Any]] = []
    for index, row in enumerate(dataset.select_columns(METADATA_COLUMN)):
        entry = failed_entry(row)
        if entry is None:
            kept.append(index)
        else:
            failures.append(
                {"step": entry["step"], "row": entry["row"], "reason": entry["error"], "raw": entry["raw"]}
            )
    columns = {name: [failure[name] for failure in failures] for name in FAILURE_FEATURES}
    return dataset.select(kept), Dataset.from_dict(columns, features=FAILURE_FEATURES)
