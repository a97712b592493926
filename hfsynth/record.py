"""What became of every row: the `generation_metadata` column, and the failures read from it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
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
    "column": Value("string"),
    "raw": Value("string"),
}
"""One entry of the column, added by each technique: the step's name; the row's index in that step's input; the llm;
the row's seed; tokens read and written by all of the row's requests (rows that come from one row of the input carry
the same entry: count an entry once for each step and row); how the last completion ended; why the row failed ("" if
it didn't), the first column that is None for it, and the completion that could not be used. No field is ever null, so
that any row shows the column's type.
"""
METADATA_FEATURE = List(METADATA_ENTRY)

FAILURE_FEATURES = Features(
    {
        "step": Value("string"),
        "row": Value("int64"),
        "column": Value("string"),
        "reason": Value("string"),
        "raw": Value("string"),
    }
)
"""Columns of a failures dataset: the step; the row's index in that step's input; the column that is None for it; the
reason; the completion that could not be used."""
_ROWS_AT_ONCE = 10_000


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
    failed = dict(_failed_rows(dataset))
    kept = dataset.select([index for index in range(len(dataset)) if index not in failed])
    return kept, _as_dataset(list(failed.values()))


def step_failures(dataset: Dataset, step: str) -> Dataset:
    """Return the failures of one step, from a dataset that it made: a row on which it was the first to fail."""
    return _as_dataset([entry for _, entry in _failed_rows(dataset) if entry["step"] == step])


def _failed_rows(dataset: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Find the rows on which a step failed, and the first step's entry; in Arrow, since most rows didn't."""
    if METADATA_COLUMN not in dataset.column_names:
        raise ValueError(f"no technique has run on this dataset: {dataset.column_names} has no {METADATA_COLUMN!r}.")
    start = 0
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_ROWS_AT_ONCE):
        column = table.column(METADATA_COLUMN).combine_chunks()
        errors = pc.struct_field(pc.list_flatten(column), "error")
        rows = pc.filter(pc.list_parent_indices(column), pc.not_equal(errors, ""))
        for row in sorted(set(rows.to_pylist())):
            entry = failed_entry({METADATA_COLUMN: column[row].as_py()})
            if entry is not None:
                yield start + row, entry
        start += len(table)


def _as_dataset(entries: Sequence[Mapping[str, Any]]) -> Dataset:
    sources = {"reason": "error"}
    columns = {name: [entry[sources.get(name, name)] for entry in entries] for name in FAILURE_FEATURES}
    return Dataset.from_dict(columns, features=FAILURE_FEATURES)
