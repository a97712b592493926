"""What a run ran on: the processor or accelerator, and the versions of what matters for its rows."""

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from datasets import Dataset
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import constants

from hfsynth.llm import Origin
from hfsynth.metadata import METADATA_COLUMN, StepTally
from hfsynth.step import Node, Step, as_step

_PACKAGES = (
    "hfsynth", "datasets", "transformers", "torch", "accelerate", "rapidfuzz", "datasketch", "sentence-transformers"
)  # fmt: skip


def machine() -> str:
    """Name the accelerator of this process, or its processor with the number of cores.

    torch is asked only where something has loaded it already: what never did ran on the processor.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cores = os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' if cores > 1 else ''}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run's rows depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the processor's own name, as Linux tells it, or what the platform is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


_ROWS_AT_ONCE = 10_000
_MARK = "hfsynth-record: "


@dataclass(frozen=True)
class StepRecord:
    """One step of a run."""

    name: str
    recipe: Mapping[str, Any]
    """The step as plain values (`Step.describe`)."""
    node: Node
    """What it read and made."""
    rows_in: int
    """Rows that it read, without those on which an earlier step failed."""
    rows_out: int
    """Rows that it made or handed on, without those on which a step failed."""
    truncated: int = 0
    """Rows with a text that was cut off and is kept."""
    prompt_tokens: int = 0
    """Tokens read, those of failed rows included."""
    completion_tokens: int = 0
    finish_reasons: Mapping[str, int] = field(default_factory=dict)
    """How the last completion of a row ended → rows."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Reason → rows on which this step failed, and no step before it."""
    stopped: Mapping[str, int] = field(default_factory=dict)
    """Rule of the technique → pieces of rows that it stopped; "" → pieces that stood."""
    seconds: float = 0.0
    """Time that processes spent on the step, added up."""
    wall_seconds: float = 0.0
    """Time in which at least one process was at work on it, in one run or in several."""
    processes: int = 1
    """Processes of the run that finished it."""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    """What was known of the model where it ran."""
    finished: str = ""
    """Date, in UTC."""
    citation: str = ""
    """The technique's paper, as BibTeX."""

    @property
    def dropped(self) -> int:
        """Rows that a filter or function dropped."""
        return max(self.rows_in - self.rows_out, 0) if self.node.makes is None else 0

    def plus(self, later: "StepRecord") -> "StepRecord":
        """Return the record of this round of the step and a later one together."""
        added = ("rows_in", "rows_out", "truncated", "prompt_tokens", "completion_tokens", "seconds", "wall_seconds")
        counted = ("finish_reasons", "failures", "stopped")
        changed: dict[str, Any] = {name: getattr(self, name) + getattr(later, name) for name in added}
        changed |= {name: dict(Counter(getattr(self, name)) + Counter(getattr(later, name))) for name in counted}
        return replace(later, **changed)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "StepRecord":
        """Make one from its fields as JSON has them."""
        node, origin = facts["node"], facts["origin"]
        makes = node["makes"] and tuple(node["makes"])
        read = {
            "node": Node(**{**node, "reads": tuple(node["reads"]), "makes": makes}),
            "origin": Origin(**{**origin, "languages": tuple(origin["languages"])}),
        }
        return cls(**{**facts, **read})


@dataclass(frozen=True)
class Source:
    """What a run read."""

    rows: int
    columns: tuple[str, ...]
    name: str = ""
    """The dataset on the Hub, or the kind of file; "" for one that was made in memory."""
    commit: str = ""
    """Its commit on the Hub."""
    config_name: str = ""
    split: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """An input that is plain configuration, as plain values (`Configuration.describe`)."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Source":
        """Say where a dataset comes from, as far as it tells itself."""
        name, commit = _hub_name(file["filename"] for file in dataset.cache_files)
        on_hub: dict[str, Any] = (
            {"config_name": dataset.info.config_name or "", "split": str(dataset.split or "")} if name else {}
        )
        return cls(
            len(dataset), tuple(dataset.column_names), name or dataset.info.builder_name or "", commit, **on_hub
        )


@dataclass(frozen=True)
class RunRecord:
    """One run of a pipeline."""

    source: Source
    steps: tuple[StepRecord, ...]
    chunk_size: int
    failures_file: str = ""
    """Where the run keeps its failures: for who publishes them, and not published itself."""
    wanted: int = 0
    """Accepted rows that were asked for; 0 where all rows of the source were."""
    accepted: int = 0
    """Rows that were accepted of the source's, where a number was asked for."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """What might be spent on them: `max_rows` of the source, `max_tokens`."""

    def saved_tokens(self, place: int) -> int:
        """Return the tokens that were not written since the step at `place` dropped rows: about.

        What the steps after it wrote for each row that they were given, on average, times the rows dropped.
        """
        later = [step for step in self.steps[place + 1 :] if step.rows_in]
        return round(self.steps[place].dropped * sum(step.completion_tokens / step.rows_in for step in later))

    @property
    def reads_source(self) -> bool:
        """Whether a step reads a column of the source; True where that isn't known."""
        columns = set(self.source.columns)
        functions = any(step.node.makes is None for step in self.steps[:1])
        return not columns or functions or any(columns & set(step.node.reads) for step in self.steps)

    def to_json(self) -> str:
        """Return the record on one line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """Read what `to_json` wrote.

        Raises:
            ValueError: If another version wrote it.
        """
        try:
            record = json.loads(text)
            rest = {name: value for name, value in record.items() if name not in ("source", "steps")}
            source = {**record["source"], "columns": tuple(record["source"]["columns"])}
            return cls(Source(**source), tuple(map(StepRecord.from_json, record["steps"])), **rest)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"the record of a run can't be read by this version: {error!r}; {text[:60]!r}."
            ) from error


def step_record(
    step: Step,
    columns: Collection[str],
    tally: StepTally,
    seconds: tuple[float, float],
    processes: int,
) -> dict[str, Any]:
    """Return what is known of a step that has just been finished, as the fields of its `StepRecord`.

    Args:
        step: The step.
        columns: The columns of the dataset that it read.
        tally: The counts of its rows.
        seconds: The time of all processes added up, and the time on the wall.
        processes: How many took part.
    """
    record = StepRecord(
        name=step.name,
        recipe=step.describe(),
        node=step.node(columns),
        rows_in=tally.rows,
        rows_out=tally.rows_out,
        **_counts(tally),
        seconds=round(seconds[0], 3),
        wall_seconds=round(seconds[1], 3),
        processes=processes,
        machine=machine(),
        versions=versions(),
        origin=step.origin(),
        finished=datetime.now(timezone.utc).date().isoformat(),
        citation=step.citation,
    )
    return asdict(record)


def record_from_rows(dataset: Dataset, names: Sequence[str], steps: Sequence[Step]) -> RunRecord:
    """Make a record of what the rows themselves tell, for a dataset that `map` made.

    Args:
        dataset: It has `generation_metadata`.
        names: The steps, which left entries there.
        steps: The techniques, for what the rows don't tell: every field, what was read.
    """
    by_name = {step.name: step for step in map(as_step, steps)}
    found: list[StepRecord] = []
    for name in names:
        tally = StepTally(step=name)
        for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_ROWS_AT_ONCE):
            tally.see(table)
        step = by_name.get(name)
        found.append(
            StepRecord(
                name=name,
                recipe=step.describe() if step else {},
                node=_node(step, dataset) if step else Node(name, _model(dataset, name), (), ()),
                rows_in=tally.rows,
                rows_out=tally.rows_out,
                **_counts(tally),
                origin=step.origin() if step else Origin(),
                citation=step.citation if step else "",
            )
        )
    return RunRecord(Source(found[0].rows_in, ()), tuple(found), 0)


def _model(dataset: Dataset, step: str) -> str:
    """Return the model that a step's first entry names."""
    for rows in dataset.select_columns(METADATA_COLUMN).iter(1):
        for entry in rows[METADATA_COLUMN][0] or ():
            if entry["step"] == step:
                return str(entry["model"])
    return ""


def attach_record(dataset: Dataset, before: Dataset, record: RunRecord) -> None:
    """Write a run's record into the dataset that it made, after the records of what it was made from."""
    lines = [*(before.info.description or "").split("\n"), f"{_MARK}{record.to_json()}"]
    dataset.info.description = "\n".join(line for line in lines if line)


def records(dataset: Dataset) -> list[RunRecord]:
    """Return the records of the runs that made a dataset, in order; none where no run did."""
    lines = (dataset.info.description or "").split("\n")
    found = dict.fromkeys(line.removeprefix(_MARK) for line in lines if line.startswith(_MARK))
    return [RunRecord.from_json(line) for line in found]


def _counts(tally: StepTally) -> dict[str, Any]:
    return {
        "truncated": tally.truncated,
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "finish_reasons": dict(tally.finish_reasons.most_common()),
        "failures": dict(tally.failures.most_common()),
        "stopped": dict(tally.stopped.most_common()),
    }


def _node(step: Step, made: Dataset) -> Node:
    """Return how a step is drawn, from what it made."""
    return step.node([column for column in made.column_names if column not in step.written_features])


def _hub_name(files: Iterable[str]) -> tuple[str, str]:
    """Return the name and commit on the Hub of a dataset that datasets has cached, from its files' paths.

    They are kept as `user___name/config/version/commit/file`, the name in snake case: its real one is in the cache of
    the Hub's client. Nothing is returned where that doesn't confirm it, or where files come from several datasets.
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
