"""The `generation_metadata` column with the outcome of each row, the failures dataset, and counts of both."""

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
    "step": Value("string"),  # the step's name
    "row": Value("int64"),  # the row's index in the step's input
    "model": Value("string"),
    "seed": Value("int64"),  # seed of the row's first request
    "prompt_tokens": Value("int64"),  # sum over all requests of the row; the next field too
    "completion_tokens": Value("int64"),
    "finish_reason": Value("string"),  # of the last completion
    "truncated": Value("bool"),  # whether the row has a truncated text, which was kept
    "error": Value("string"),  # the reason if the row failed, else ""
    "column": Value("string"),  # if the row failed, its first output, which is None
    "raw": Value("string"),  # the completion that the technique could not use; or why tool calls were kept as text
    "share": Value("float64"),  # 1 / number of output rows from the same input row
}
"""The entry that each technique adds to a row. Output rows from the same input row have equal entries, whose shares
sum to 1. No field is ever null, so the column's type can be inferred from any row."""
METADATA_FEATURE = List(METADATA_ENTRY)

FAILURE_FEATURES = Features(
    {
        "step": Value("string"),
        "row": Value("int64"),  # the row's index in the step's input
        "column": Value("string"),  # the output that is None, or the column that a filter read
        "reason": Value("string"),  # the technique's error; "" if a filter dropped the row
        "raw": Value("string"),  # the completion that the technique could not use, or the text that a filter dropped
        "rule": Value("string"),  # the filter's rule
        "value": Value("string"),  # the value that the rule measured
        "matched": Value("string"),  # the text or limit that the text matched
    }
)
"""Columns of a failures dataset: rows on which a technique failed, and rows that a filter dropped."""
PART_RULES = frozenset({"between_responses"})
"""Rules of failures that drop a part of a row, while the row stays."""
_BATCH_ROWS = 10_000


def failed_entry(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of the first step that failed on a row; None if no step failed.

    >>> failed_entry({"generation_metadata": [{"step": "Magpie", "error": ""}]}) is None
    True
    """
    return next((entry for entry in row[METADATA_COLUMN] or () if entry["error"]), None)


def split_failures(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Split a dataset into the rows on which no step failed, and the failures (`FAILURE_FEATURES`).

    Args:
        dataset: The result of `pipeline.run`, or of `Dataset.map` with a technique.

    Raises:
        TypeError: If `dataset` is not a `Dataset`.
        ValueError: If the dataset has no `generation_metadata` column.

    >>> from hfsynth import EchoLLM, TextGeneration
    >>> rows = Dataset.from_dict({"instruction": ["a", None]})
    >>> rows, failures = split_failures(rows.map(TextGeneration(EchoLLM()), batched=True, with_indices=True))
    >>> rows["instruction"][:], failures["reason"][:]
    (['a'], ['instruction is None'])
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"split_failures takes a Dataset, got {type(dataset).__name__}; give a DatasetDict's splits.")
    failed = {
        start + row: failed_entry({METADATA_COLUMN: column[row].as_py()})
        for column, row, start in _rows_with_errors(dataset)
    }
    if not failed:
        return dataset, failures_dataset([])
    kept = np.setdiff1d(np.arange(len(dataset)), np.fromiter(failed, np.int64), assume_unique=True)
    return dataset.select(kept), failures_dataset([entry for entry in failed.values() if entry is not None])


def step_failures(dataset: Dataset) -> Dataset:
    """Return the failures of the last step of a dataset, without rows on which an earlier step failed."""
    histories = (column[row].as_py() for column, row, _ in _rows_with_errors(dataset))
    return failures_dataset(
        [entries[-1] for entries in histories if entries[-1]["error"] and not any(e["error"] for e in entries[:-1])]
    )


def failed_rows(dataset: Dataset) -> set[int]:
    """Return the indices of the rows on which a step failed; none for a dataset without metadata."""
    if METADATA_COLUMN not in dataset.column_names:
        return set()
    return {start + row for _, row, start in _rows_with_errors(dataset)}


def step_names(dataset: Dataset) -> tuple[list[str], int]:
    """Return the names of the steps that added entries, in their order, and the number of rows without any entry."""
    if METADATA_COLUMN not in dataset.column_names:
        return [], len(dataset)
    names: dict[str, None] = {}
    without = 0
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_BATCH_ROWS):
        column = table.column(METADATA_COLUMN)
        without += int(pc.sum(pc.equal(pc.fill_null(pc.list_value_length(column), 0), 0)).as_py() or 0)
        names |= dict.fromkeys(pc.unique(pc.struct_field(pc.list_flatten(column), "step")).to_pylist())
    return list(names), without


def divide_share(entries: Sequence[dict[str, Any]], parts: int) -> list[dict[str, Any]]:
    """Return the entries for each of the output rows of an input row, with the share divided among them.

    Args:
        entries: The entries of the input row.
        parts: The number of output rows.
    """
    return list(entries) if parts == 1 else [{**entry, "share": entry["share"] / parts} for entry in entries]


def failures_dataset(entries: Sequence[Mapping[str, Any]]) -> Dataset:
    """Return a failures dataset (`FAILURE_FEATURES`) from entries of `generation_metadata`."""
    sources = {"reason": "error"}
    columns = {name: [entry.get(sources.get(name, name), "") for entry in entries] for name in FAILURE_FEATURES}
    return Dataset.from_dict(columns, features=FAILURE_FEATURES)


def dropped_rows(failures: Dataset) -> Dataset:
    """Return the failures without those that drop only a part of their row (`PART_RULES`)."""
    places = [place for place, rule in enumerate(failures["rule"]) if rule not in PART_RULES]
    return failures if len(places) == len(failures) else failures.select(places)


@dataclass
class StepTally:
    """Counts of a step's input rows, from its metadata entries in the tables of its result.

    An input row with several output rows has an entry in each of them, and is counted once. Right after the step,
    these entries are adjacent. In a dataset that was changed since, entries with the same seed and numbers of tokens
    are grouped, and the sum of their shares, rounded up, is their number of input rows. The counts of such a dataset
    are minimums: removed rows are not counted, and two rows with equal seeds and tokens count as one if their shares
    sum to at most 1. Rows on which an earlier step failed are not counted.
    """

    rules: tuple[str, str] | None = None
    """The output column with a list of rounds, and the field of a round with the rule that eliminated it."""
    step: str | None = None
    """Name of the step, for a dataset that was changed since; None to count the last entry of each row."""
    rows: int = 0
    """Rows of the step's input."""
    rows_out: int = 0
    """Rows of the step's result, without failed ones."""
    truncated: int = 0
    """Rows of the input with a truncated text that was kept."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    written: Counter[int] = field(default_factory=Counter)
    """Number of rows by their completion tokens."""
    finish_reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Number of rows on which the step failed, by reason."""
    stopped: Counter[str] = field(default_factory=Counter)
    """Number of rounds by the rule that eliminated them; "" for rounds that were kept."""
    _last_row: int = -1
    _shares: dict[tuple[int, int, int], float] = field(default_factory=dict)
    """Sum of shares so far, by seed, prompt tokens and completion tokens."""

    def update(self, table: pa.Table) -> pa.Table:
        """Count the rows of a table, and return the table."""
        column = table.column(METADATA_COLUMN).combine_chunks()
        offsets = column.offsets.to_numpy()
        values = column.values.slice(offsets[0], offsets[-1] - offsets[0])  # (entries of all rows,)
        offsets = offsets - offsets[0]  # (rows + 1,)
        if self.step is None:
            places = offsets[1:] - 1
        else:
            places = np.flatnonzero(pc.equal(values.field("step"), self.step).to_numpy(False))
        entries = values.take(pa.array(places))  # (entries of the step,)
        errors_before = np.r_[0, np.cumsum(pc.not_equal(values.field("error"), "").to_numpy(False))]
        begins = offsets[np.searchsorted(offsets, places, side="right") - 1]
        reached = errors_before[places] == errors_before[begins]  # no earlier step failed on the row
        first = self._first_entries(entries) & reached
        self.rows += int(first.sum())
        self.rows_out += int((reached & pc.equal(entries.field("error"), "").to_numpy(False)).sum())
        once = entries.filter(pa.array(first))
        self.prompt_tokens += pc.sum(once.field("prompt_tokens")).as_py() or 0
        self.completion_tokens += pc.sum(once.field("completion_tokens")).as_py() or 0
        self.truncated += pc.sum(once.field("truncated")).as_py() or 0
        tokens, rows = np.unique(once.field("completion_tokens").to_numpy(False), return_counts=True)
        self.written.update(dict(zip(tokens.tolist(), rows.tolist(), strict=True)))
        self.finish_reasons += _value_counts(once.field("finish_reason"), without="")
        self.failures += _value_counts(once.field("error"), without="")
        if self.rules:
            outputs, rule = self.rules
            rounds = pc.list_flatten(table.column(outputs).combine_chunks().filter(pa.array(first)))
            self.stopped += _value_counts(pc.struct_field(rounds, rule))
        return table

    def _first_entries(self, entries: pa.Array) -> NDArray[np.bool_]:
        """Return a mask of the entries that are the first of their input row: (entries,)."""
        if self.step is None:
            rows = entries.field("row").to_numpy()
            first: NDArray[np.bool_] = np.diff(rows, prepend=self._last_row) != 0
            self._last_row = int(rows[-1]) if len(rows) else self._last_row
            return first
        *keys, shares = (
            entries.field(name).to_pylist() for name in ("seed", "prompt_tokens", "completion_tokens", "share")
        )
        first = np.zeros(len(shares), np.bool_)
        for place, (key, share) in enumerate(zip(zip(*keys, strict=True), shares, strict=True)):
            before = self._shares.get(key, 0.0)
            self._shares[key] = before + share
            first[place] = _rows_of_shares(before + share) > _rows_of_shares(before)
        return first


def _rows_of_shares(shares: float) -> int:
    """Return the smallest number of input rows whose shares can have this sum."""
    return math.ceil(shares - 1e-6)


def _value_counts(values: pa.Array, without: str | None = None) -> Counter[str]:
    """Return the number of occurrences of each value, except of `without`."""
    counts = ((entry["values"], entry["counts"]) for entry in pc.value_counts(values).to_pylist())
    return Counter({value: count for value, count in counts if value != without})


def _rows_with_errors(dataset: Dataset) -> Iterator[tuple[pa.Array, int, int]]:
    """Yield the rows with an error in an entry. The search runs in Arrow, since most rows have no error.

    Yields:
        The metadata of a batch of rows, a row's position in the batch, and the index of the batch's first row.
    """
    if METADATA_COLUMN not in dataset.column_names:
        raise ValueError(
            f"the dataset has no column {METADATA_COLUMN!r}, only {dataset.column_names}; run a technique on it first."
        )
    start = 0
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_BATCH_ROWS):
        column = table.column(METADATA_COLUMN).combine_chunks()
        errors = pc.struct_field(pc.list_flatten(column), "error")
        rows = pc.filter(pc.list_parent_indices(column), pc.not_equal(errors, ""))
        for row in sorted(set(rows.to_pylist())):
            yield column, row, start
        start += len(table)
