"""Records of runs and their steps (input, tokens, times, failures), stored in the description of the dataset."""

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from datasets import Dataset
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import constants

from hfsynth.config import from_plain
from hfsynth.llm import Origin
from hfsynth.metadata import METADATA_COLUMN, StepTally
from hfsynth.step import Node, Step, as_step

_PACKAGES = (
    "hfsynth", "datasets", "transformers", "torch", "accelerate", "rapidfuzz", "datasketch", "sentence-transformers"
)  # fmt: skip
_BATCH_ROWS = 10_000
_PREFIX = "hfsynth-record: "  # prefix of a record's line in a dataset's description


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
        """Return the record from the fields that `step_record` returned and that were stored as JSON.

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
    """Path of the run's failures file, which `publish` reads; the path is not published."""
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
        """Whether the numbers were counted in a dataset's rows and are therefore minimums (`record_from_rows`)."""
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
            raise ValueError(f"this version can't read the record of a run, {text[:60]!r}: {error}.") from error
        return record


def step_record(
    step: Step,
    columns: Collection[str],
    tally: StepTally,
    seconds: tuple[float, float],
    processes: int,
    server: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the fields of the `StepRecord` of a step that has just finished.

    Args:
        step: The step.
        columns: The columns of the step's input.
        tally: The counts of the step's rows.
        seconds: The time summed over all processes, and the wall time.
        processes: The world size.
        server: Facts that a server reported about itself and the model.
    """
    record = StepRecord(
        name=step.name,
        recipe=step.describe(),
        node=step.node(columns),
        **_counts(tally),
        seconds=round(seconds[0], 3),
        wall_seconds=round(seconds[1], 3),
        processes=processes,
        machine=machine(),
        versions=versions(),
        origin=step.origin(),
        same_rows=step.same_rows,
        batch_size=step.parallel_requests or 0,
        server=server or {},
        finished=datetime.now(timezone.utc).date().isoformat(),
        citation=step.citation,
        sources=tuple(map(Source.of, step.text_sources())),
    )
    return asdict(record)


def record_from_rows(dataset: Dataset, names: Sequence[str], steps: Sequence[Step]) -> RunRecord:
    """Return a record of a dataset that `Dataset.map` generated, counted in its rows.

    The numbers are minimums, since rows may have been removed.

    Args:
        dataset: The rows, with `generation_metadata`.
        names: The names of the steps in the rows' entries.
        steps: The techniques with these names, for their configuration and columns, which the rows don't have.
    """
    by_name = {step.name: step for step in map(as_step, steps)}
    found = [_step_record_from_rows(dataset, name, by_name.get(name)) for name in names]
    return RunRecord(Source(found[0].rows_in, ()), tuple(found), 0)


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


def _counts(tally: StepTally) -> dict[str, Any]:
    """Return the fields of a `StepRecord` that a tally counts."""
    return {
        "rows_in": tally.rows,
        "rows_out": tally.rows_out,
        "truncated": tally.truncated,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "finish_reasons": dict(tally.finish_reasons.most_common()),
        "failures": dict(tally.failures.most_common()),
        "stopped": dict(tally.stopped.most_common()),
    }


def _step_record_from_rows(dataset: Dataset, name: str, step: Step | None) -> StepRecord:
    tally = StepTally(step=name)
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_BATCH_ROWS):
        tally.update(table)
    if step is None:
        return StepRecord(name, {}, Node(name, _model(dataset, name), (), ()), **_counts(tally))
    inputs = [column for column in dataset.column_names if column not in step.written_features]
    return StepRecord(
        name,
        step.describe(),
        step.node(inputs),
        **_counts(tally),
        origin=step.origin(),
        same_rows=step.same_rows,
        citation=step.citation,
    )


def _model(dataset: Dataset, step: str) -> str:
    """Return the model in a step's first entry; "" if there is no entry."""
    for rows in dataset.select_columns(METADATA_COLUMN).iter(1):
        for entry in rows[METADATA_COLUMN][0] or ():
            if entry["step"] == step:
                return str(entry["model"])
    return ""


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
