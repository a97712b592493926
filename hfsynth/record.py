"""The record of what was generated, of each row, each step and each run.

row    entries in the column `generation_metadata`, and the failures dataset with the rows that failed or were dropped
step   `StepTally`, the counts of a step's rows; `StepRecord`, with its configuration, times and model
run    `RunRecord`, the input and the steps, stored in the description of the resulting dataset
"""

import json
import math
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import constants
from numpy.typing import NDArray

from hfsynth.config import from_plain
from hfsynth.llm import Origin

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
        "matched": Value("string"),  # the text that the row resembles, or the limit that it exceeds
    }
)
"""Columns of a failures dataset: rows on which a technique failed, and rows that a filter dropped."""
PART_RULES = frozenset({"between_responses"})
"""Rules of failures that drop a part of a row, while the row stays."""
_PACKAGES = (
    "hfsynth", "datasets", "transformers", "torch", "accelerate", "rapidfuzz", "datasketch", "sentence-transformers"
)  # fmt: skip
_BATCH_ROWS = 10_000
_PREFIX = "hfsynth-record: "  # prefix of a record's line in a dataset's description


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

    def counts(self) -> dict[str, Any]:
        """Return the counts as fields of a `StepRecord`."""
        return {
            "rows_in": self.rows,
            "rows_out": self.rows_out,
            "truncated": self.truncated,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "finish_reasons": dict(self.finish_reasons.most_common()),
            "failures": dict(self.failures.most_common()),
            "stopped": dict(self.stopped.most_common()),
        }

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


@dataclass(frozen=True)
class Source:
    """A dataset that is the input of a run, or whose texts a step adds to rows."""

    rows: int
    columns: tuple[str, ...]
    name: str = ""
    """The dataset on the Hub, or the type of a file; "" for a dataset in memory."""
    commit: str = ""
    """The dataset's commit on the Hub."""
    config_name: str = ""
    split: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The plain values of an input that is a `Configuration`; empty for a dataset."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Source":
        """Return the source of a dataset, from its info and the paths of its cached files."""
        name, commit = _hub_name(file["filename"] for file in dataset.cache_files)
        on_hub: dict[str, Any] = (
            {"config_name": dataset.info.config_name or "", "split": str(dataset.split or "")} if name else {}
        )
        return cls(
            len(dataset), tuple(dataset.column_names), name or dataset.info.builder_name or "", commit, **on_hub
        )


@dataclass(frozen=True)
class Node:
    """A step's name, model and columns, as a diagram and a run's record have them."""

    name: str
    model: str
    """The llm's name; "" for a step without an llm."""
    reads: tuple[str, ...]
    makes: tuple[str, ...] | None
    """The columns that the step adds; None for a filter, which passes all, and a function, which may write any."""


@dataclass(frozen=True)
class StepRecord:
    """One step of a run."""

    name: str
    recipe: Mapping[str, Any]
    """The step as plain values (`Step.describe`)."""
    node: Node
    """The step's model and columns."""
    rows_in: int
    """Rows of the input, without those on which an earlier step failed."""
    rows_out: int
    """Rows of the result, without those on which a step failed."""
    truncated: int = 0
    """Rows with a truncated text that was kept."""
    prompt_tokens: int = 0
    """Prompt tokens of all requests, including those of failed rows."""
    completion_tokens: int = 0
    finish_reasons: Mapping[str, int] = field(default_factory=dict)
    """Number of rows by the finish reason of their last completion."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Number of rows on which this step failed and no earlier step did, by reason."""
    stopped: Mapping[str, int] = field(default_factory=dict)
    """Eliminated rounds by a technique's rule, or dropped rows by a filter's rule; "" for those kept."""
    seconds: float = 0.0
    """Time spent on the step, summed over all processes. While rows of two steps are completed beside each other, the
    time is counted for the first one."""
    wall_seconds: float = 0.0
    """Time in which at least one process worked on the step, summed over runs."""
    processes: int = 1
    """World size of the run that finished the step."""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    """The model's origin; empty fields if the machine of the run had neither its card nor its file."""
    same_rows: str | None = None
    """The llm's promise for a repeated run (`LLM.same_rows`)."""
    batch_size: int = 0
    """Maximum number of requests that the llm completed at once (`LLM.parallel_requests`); 0 if it is not known."""
    server: Mapping[str, str] = field(default_factory=dict)
    """Facts that a server reported about itself and the model (`LLM.server_facts`)."""
    repeated_rows: int = 0
    """Rows that were completed a second time, each alone, to check the llm's promise of equal rows."""
    unequal_rows: int = 0
    """Repeated rows whose outputs differed."""
    finished: str = ""
    """Date in UTC, in ISO format."""
    citation: str = ""
    """The technique's paper, as BibTeX."""
    sources: tuple[Source, ...] = ()
    """The datasets whose texts the step added to the rows, such as personas."""

    @property
    def dropped(self) -> int:
        """Rows that a filter or function dropped."""
        return max(self.rows_in - self.rows_out, 0) if self.node.makes is None else 0

    def plus(self, later: "StepRecord") -> "StepRecord":
        """Return this record with the counts of a later round's record added."""
        added = ["rows_in", "rows_out", "truncated", "prompt_tokens", "completion_tokens", "seconds", "wall_seconds"]
        added += ["repeated_rows", "unequal_rows"]
        counted = ("finish_reasons", "failures", "stopped")
        changed: dict[str, Any] = {name: getattr(self, name) + getattr(later, name) for name in added}
        changed |= {name: dict(Counter(getattr(self, name)) + Counter(getattr(later, name))) for name in counted}
        return replace(later, **changed)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "StepRecord":
        """Return the record from the fields that `Step.record` returned and that were stored as JSON.

        Raises:
            TypeError: If another version of hfsynth wrote the fields.
        """
        record: StepRecord = from_plain(cls, fields)
        return record


@dataclass(frozen=True)
class RunRecord:
    """One run of a pipeline."""

    source: Source
    steps: tuple[StepRecord, ...]
    chunk_size: int
    """Rows of a chunk; 0 for `Dataset.map`."""
    failures_file: str = ""
    """Path of the run's failures file, which `save` and `push_to_hub` read; the path is not published."""
    wanted: int = 0
    """Accepted rows that were requested; 0 for a run of all rows of the source."""
    accepted: int = 0
    """Rows that were accepted, if a number was requested."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """The limits `max_rows` and `max_tokens`, if a number was requested."""
    deterministic: bool = False
    """Whether chunks were completed one at a time (see `run`)."""
    split: str = ""
    """The split of a `DatasetDict` whose name the seeds of `steps` depend on; "" for a run of a `Dataset`."""

    def saved_tokens(self, place: int) -> int:
        """Estimate the completion tokens that later steps saved because the step at `place` dropped rows.

        The estimate is the number of dropped rows times the mean completion tokens per row of each later step.
        """
        later = [step for step in self.steps[place + 1 :] if step.rows_in]
        return round(self.steps[place].dropped * sum(step.completion_tokens / step.rows_in for step in later))

    @property
    def is_from_rows(self) -> bool:
        """Whether the numbers were counted in the rows of `Dataset.map`, and are therefore minimums."""
        return not self.chunk_size

    @property
    def reads_source(self) -> bool:
        """Whether a step reads a column of the source; True if the source's columns are unknown."""
        columns = set(self.source.columns)
        functions = any(step.node.makes is None for step in self.steps[:1])
        return not columns or functions or any(columns & set(step.node.reads) for step in self.steps)

    def to_json(self) -> str:
        """Return the record on one line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """Read the record that `to_json` wrote.

        Raises:
            ValueError: If another version of hfsynth wrote the record.
        """
        try:
            record: RunRecord = from_plain(cls, json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"this version can't read the record of a run, {text[:60]!r}: {error}; install the version that wrote "
                "it."
            ) from error
        return record


def attach_record(dataset: Dataset, before: Dataset, record: RunRecord) -> None:
    """Write a run's record into the description of its result, after the records of its input.

    Args:
        dataset: The result.
        before: The input.
        record: The record.
    """
    lines = [*(before.info.description or "").split("\n"), f"{_PREFIX}{record.to_json()}"]
    dataset.info.description = "\n".join(line for line in lines if line)


def replace_last_record(dataset: Dataset, record: RunRecord) -> None:
    """Replace the last record in a dataset's description."""
    lines = (dataset.info.description or "").split("\n")
    last = max(place for place, line in enumerate(lines) if line.startswith(_PREFIX))
    dataset.info.description = "\n".join([*lines[:last], f"{_PREFIX}{record.to_json()}", *lines[last + 1 :]])


def records(dataset: Dataset) -> list[RunRecord]:
    """Return the records in a dataset's description, in order of the runs; [] for a dataset that no run returned."""
    lines = (dataset.info.description or "").split("\n")
    found = dict.fromkeys(line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX))
    return [RunRecord.from_json(line) for line in found]


def machine() -> str:
    """Return the name of this process's accelerator, or of its processor with the number of cores.

    A process that has not imported torch cannot have used an accelerator.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cores = os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' if cores > 1 else ''}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that rows depend on."""
    return {"python": platform.python_version(), **_package_versions()}


@cache
def _package_versions() -> Mapping[str, str]:
    """Read the versions from the packages' files, once per process: each file takes about a millisecond."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the processor's model name on Linux, else the platform's name for it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


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


def _hub_name(files: Iterable[str]) -> tuple[str, str]:
    """Return the name and commit of a dataset on the Hub, from the paths of its cached files.

    datasets caches files as `user___name/config/version/commit/file`, with the name in snake case. The real name is in
    the cache of the Hub's client; without a match there, or for files of several datasets, the result is ("", "").
    """
    found = set()
    for file in files:
        folders = PurePath(file).parts[:-1]
        named = [folder for folder in folders if "___" in folder]
        found.add((named[-1], folders[-1]) if named and len(folders[-1]) == 40 else ("", ""))
    if len(found) != 1 or ("", "") in found:
        return "", ""
    folder, commit = found.pop()
    user, _, name = folder.partition("___")
    for cached in Path(constants.HF_HUB_CACHE).glob(f"datasets--{user}--*/snapshots/{commit}"):
        real = cached.parents[1].name.removeprefix(f"datasets--{user}--")
        if camelcase_to_snakecase(real) == name:
            return f"{user}/{real}", commit
    return "", ""
