"""What became of every row: the `generation_metadata` column, and the failures read from it."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

METADATA_COLUMN = "generation_metadata"
METADATA_ENTRY = {
    "step": Value("string"),
    "row": Value("int64"),
    "model": Value("string"),
    "seed": Value("int64"),
    "prompt_tokens": Value("int64"),
    "completion_tokens": Value("int64"),
    "finish_reason": Value("string"),
    "truncated": Value("bool"),
    "error": Value("string"),
    "column": Value("string"),
    "raw": Value("string"),
    "share": Value("float64"),
}
"""One entry of the column, added by each technique: the step's name; the row's index in that step's input; the llm;
the seed of the row's first request; tokens read and written by all of the row's requests; how the last completion
ended; whether a text of the row was cut off and is kept; why the row failed ("" if it didn't), the first column that
is None for it, and the completion that could not be used; and the share of the step's row that this row has: 1, or
less where one row became several, each with the same entry. The shares of a row of the step add up to 1. No field is
ever null, so that any row shows the column's type.
"""
METADATA_FEATURE = List(METADATA_ENTRY)

FAILURE_FEATURES = Features(
    {
        "step": Value("string"),
        "row": Value("int64"),
        "column": Value("string"),
        "reason": Value("string"),
        "raw": Value("string"),
        "rule": Value("string"),
        "value": Value("string"),
        "matched": Value("string"),
    }
)
"""Columns of a failures dataset: the step; the row's index in that step's input; the column that is None for it; the
reason; the completion that could not be used. Of a row that a filter dropped: the column it looked at, whose text is
`raw`; the rule; the value that it measured; and the text or limit that this matched."""
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
    failed = {
        start + row: failed_entry({METADATA_COLUMN: column[row].as_py()})
        for column, row, start in _rows_with_errors(dataset)
    }
    if not failed:
        return dataset, failures_dataset([])
    kept = np.setdiff1d(np.arange(len(dataset)), np.fromiter(failed, np.int64), assume_unique=True)
    return dataset.select(kept), failures_dataset([entry for entry in failed.values() if entry is not None])


def step_failures(dataset: Dataset) -> Dataset:
    """Return the failures of the step that made a dataset: rows on which it failed, and no step before it."""
    found = (column[row].as_py() for column, row, _ in _rows_with_errors(dataset))
    return failures_dataset(
        [entries[-1] for entries in found if entries[-1]["error"] and not any(e["error"] for e in entries[:-1])]
    )


def divide_share(entries: Sequence[Mapping[str, Any]], parts: int) -> list[dict[str, Any]]:
    """Return the entries of a row for each of the rows that it becomes."""
    return [{**entry, "share": entry["share"] / parts} for entry in entries]


def failed_rows(dataset: Dataset) -> set[int]:
    """Return the places of the rows on which a step failed; none where no technique has run."""
    if METADATA_COLUMN not in dataset.column_names:
        return set()
    return {start + row for _, row, start in _rows_with_errors(dataset)}


@dataclass
class StepTally:
    """What became of a step's rows, counted from its entries in `generation_metadata` as tables pass by.

    A row that a step made several of carries one entry in each, which is counted once: of the last step they are
    neighbours; those of a step by name have equal seeds, and are as many rows as their shares add up to, rounded up.
    A row on which an earlier step failed is no row of this step.
    """

    rules: tuple[str, str] | None = None
    """An output column with lists of structs, and their field that names the rule which stopped a piece of the row."""
    step: str | None = None
    """The step's name, in a dataset that may have been changed since; None for the last, in what it has just made."""
    rows: int = 0
    """Rows of the step's input, without those on which an earlier step failed."""
    rows_out: int = 0
    """Rows that the step made of them, without those on which it failed; parts of one row counted each."""
    truncated: int = 0
    """Rows of the input of which a text was cut off and is kept."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    written: Counter[int] = field(default_factory=Counter)
    """Tokens that a row's completions had together → rows."""
    finish_reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Reason → rows on which the step failed, and no step before it."""
    stopped: Counter[str] = field(default_factory=Counter)
    """Rule → pieces of rows that it stopped; "" → pieces that stood."""
    _last_row: int = -1
    _shares: dict[int, float] = field(default_factory=dict)

    def see(self, table: pa.Table) -> pa.Table:
        """Count the rows of a table, and give it back."""
        column = table.column(METADATA_COLUMN).combine_chunks()
        offsets = column.offsets.to_numpy()
        values = column.values.slice(offsets[0], offsets[-1] - offsets[0])
        offsets = offsets - offsets[0]
        if self.step is None:
            places = offsets[1:] - 1
        else:
            places = np.flatnonzero(pc.equal(values.field("step"), self.step).to_numpy(False))
        entries = values.take(pa.array(places))
        failed_so_far = np.r_[0, np.cumsum(pc.not_equal(values.field("error"), "").to_numpy(False))]
        begins = offsets[np.searchsorted(offsets, places, side="right") - 1]
        reached = failed_so_far[places] == failed_so_far[begins]  # no step before failed on the row
        first = self._first(entries) & reached
        self.rows += int(first.sum())
        self.rows_out += int((reached & pc.equal(entries.field("error"), "").to_numpy(False)).sum())
        once = entries.filter(pa.array(first))
        self.prompt_tokens += pc.sum(once.field("prompt_tokens")).as_py() or 0
        self.completion_tokens += pc.sum(once.field("completion_tokens")).as_py() or 0
        self.truncated += pc.sum(once.field("truncated")).as_py() or 0
        tokens, rows = np.unique(once.field("completion_tokens").to_numpy(False), return_counts=True)
        self.written.update(dict(zip(tokens.tolist(), rows.tolist(), strict=True)))
        self.finish_reasons += _counted(once.field("finish_reason"), but="")
        self.failures += _counted(once.field("error"), but="")
        if self.rules:
            outputs, rule = self.rules
            pieces = pc.list_flatten(table.column(outputs).combine_chunks().filter(pa.array(first)))
            self.stopped += _counted(pc.struct_field(pieces, rule))
        return table

    def _first(self, entries: pa.Array) -> NDArray[np.bool_]:
        """Find the entries of rows that weren't seen before: (entries,)."""
        if self.step is None:
            rows = entries.field("row").to_numpy()
            first: NDArray[np.bool_] = np.diff(rows, prepend=self._last_row) != 0
            self._last_row = int(rows[-1]) if len(rows) else self._last_row
            return first
        seeds, shares = entries.field("seed").to_pylist(), entries.field("share").to_pylist()
        first = np.zeros(len(seeds), np.bool_)
        for place, (seed, share) in enumerate(zip(seeds, shares, strict=True)):
            before = self._shares.get(seed, 0.0)
            self._shares[seed] = before + share
            first[place] = _rows_of(before + share) > _rows_of(before)
        return first


def _rows_of(shares: float) -> int:
    """Return how many rows some shares of rows are at the least."""
    return math.ceil(shares - 1e-6)


def step_names(dataset: Dataset) -> tuple[list[str], int]:
    """Return the names of the steps that left entries in a dataset, in order, and how many rows have none at all."""
    if METADATA_COLUMN not in dataset.column_names:
        return [], len(dataset)
    names: dict[str, None] = {}
    bare = 0
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_ROWS_AT_ONCE):
        column = table.column(METADATA_COLUMN)
        bare += int(pc.sum(pc.equal(pc.fill_null(pc.list_value_length(column), 0), 0)).as_py() or 0)
        names |= dict.fromkeys(pc.unique(pc.struct_field(pc.list_flatten(column), "step")).to_pylist())
    return list(names), bare


def _counted(values: pa.Array, but: str | None = None) -> Counter[str]:
    """Count equal values, but for one."""
    counts = ((entry["values"], entry["counts"]) for entry in pc.value_counts(values).to_pylist())
    return Counter({value: count for value, count in counts if value != but})


def chunk_failures(step: str, column: str, rows: range, reason: str) -> Dataset:
    """Return the failures of a chunk that was given up: each of its rows, with the chunk's reason."""
    return failures_dataset([{"step": step, "row": row, "column": column, "error": reason, "raw": ""} for row in rows])


def failures_dataset(entries: Sequence[Mapping[str, Any]]) -> Dataset:
    """Lay out entries of `generation_metadata` as a failures dataset (`FAILURE_FEATURES`)."""
    sources = {"reason": "error"}
    columns = {name: [entry.get(sources.get(name, name), "") for entry in entries] for name in FAILURE_FEATURES}
    return Dataset.from_dict(columns, features=FAILURE_FEATURES)


def _rows_with_errors(dataset: Dataset) -> Iterator[tuple[pa.Array, int, int]]:
    """Find the rows with an entry that has an error; in Arrow, since most rows have none.

    Yields:
        The metadata of some rows, the place of a row with an error among them, and the first one's index.
    """
    if METADATA_COLUMN not in dataset.column_names:
        raise ValueError(f"no technique has run on this dataset: {dataset.column_names} has no {METADATA_COLUMN!r}.")
    start = 0
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_ROWS_AT_ONCE):
        column = table.column(METADATA_COLUMN).combine_chunks()
        errors = pc.struct_field(pc.list_flatten(column), "error")
        rows = pc.filter(pc.list_parent_indices(column), pc.not_equal(errors, ""))
        for row in sorted(set(rows.to_pylist())):
            yield column, row, start
        start += len(table)
