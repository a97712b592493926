"""The facts of one configuration of a dataset: all that its part of the card says, as values that JSON can keep."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from datasets import Dataset
from datasets.features.features import require_decoding

from hfsynth.generation import Origin
from hfsynth.provenance import RunRecord, StepRecord
from hfsynth.record import METADATA_COLUMN, step_names
from hfsynth.reporting.figures import ColumnFigures, column_figures, text_columns
from hfsynth.reporting.glance import Glance
from hfsynth.reporting.plain import from_plain

SAMPLES = 3
_SHOWN = 1_000  # characters of a text that a sample shows
_ITEMS = 50  # items of a list that a sample shows


@dataclass(frozen=True)
class SplitFacts:
    """One split: what its rows are, and how they were made."""

    name: str
    rows: int
    figures: Mapping[str, ColumnFigures]
    """Column of texts → its figures."""
    samples: tuple[Mapping[str, Any], ...]
    """The first row, the one in the middle and the last, without `generation_metadata`."""
    runs: tuple[RunRecord, ...]
    """The runs that made it, in order."""
    failures: int
    """Rows in the split's file of failures."""
    left_out: int = 0
    """Rows that were given, and are not published since a step failed on them."""
    bare: int = 0
    """Rows in which no technique has left an entry."""
    glance: Glance | None = None
    """At its instructions; None where it has no two."""

    @classmethod
    def of(
        cls,
        name: str,
        dataset: Dataset,
        failures: tuple[int, int] = (0, 0),
        runs: tuple[RunRecord, ...] = (),
        glance: Glance | None = None,
    ) -> "SplitFacts":
        """Read the facts from the rows that are published, beside the failures and the rows left out."""
        shown = dataset.remove_columns([name for name in dataset.column_names if name == METADATA_COLUMN])
        media = {name: type(kind).__name__ for name, kind in dataset.features.items() if require_decoding(kind)}
        shown = shown.remove_columns(list(media))
        places = sorted({0, len(dataset) // 2, len(dataset) - 1}) if len(dataset) else []
        return cls(
            name=name,
            rows=len(dataset),
            figures={column: column_figures(dataset, column) for column in text_columns(dataset.features)},
            samples=tuple({**_shortened(shown[place]), **media} for place in places[:SAMPLES]),
            runs=tuple(replace(run, failures_file="") for run in runs),
            failures=failures[0],
            left_out=failures[1],
            bare=step_names(dataset)[1],
            glance=glance,
        )


@dataclass(frozen=True)
class ConfigFacts:
    """One configuration."""

    config_name: str
    columns: Mapping[str, str]
    """Column → its type."""
    splits: tuple[SplitFacts, ...]
    info: Mapping[str, Any]
    """Its entry in the metadata's `dataset_info`."""
    stated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model or source on the Hub → what its card states: `licence`, `languages`."""

    @property
    def rows(self) -> int:
        """Rows in all splits."""
        return sum(split.rows for split in self.splits)

    @property
    def runs(self) -> list[RunRecord]:
        """The runs that made it, each once however many splits it made."""
        found: list[RunRecord] = []
        for run in (run for split in self.splits for run in split.runs):
            if run not in found:
                found.append(run)
        return found

    @property
    def steps(self) -> list[StepRecord]:
        """The steps of all runs."""
        return [step for run in self.runs for step in run.steps]

    def to_json(self) -> str:
        """Return the facts as JSON, for `from_json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "ConfigFacts":
        """Read the facts that `to_json` wrote.

        Raises:
            ValueError: If they were written by another version.
        """
        try:
            facts = json.loads(text)
            return cls(**{**facts, "splits": tuple(_split(split) for split in facts["splits"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"a hfsynth.json there can't be read by this version: {error!r}; take its configuration away there."
            ) from error


def _split(facts: Mapping[str, Any]) -> SplitFacts:
    figures = {column: ColumnFigures.from_json(found) for column, found in facts["figures"].items()}
    runs = tuple(RunRecord.from_json(json.dumps(run)) for run in facts["runs"])
    glance = facts.get("glance") and from_plain(Glance, facts["glance"])
    made = {"figures": figures, "runs": runs, "samples": tuple(facts["samples"]), "glance": glance}
    return SplitFacts(**{**facts, **made})


def _shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    """Cut long texts, and show what JSON doesn't know as text."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _SHOWN else f"{value[:_SHOWN]} … ({len(value):,} characters)"
    if isinstance(value, (list, tuple)) and len(value) > _ITEMS:
        return [*_plain(value[:_ITEMS]), f"… ({len(value):,} items)"]
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def key_of(name: str, commit: str) -> str:
    """Return the key of a model or source in `ConfigFacts.stated`."""
    return f"{name}@{commit}" if commit else name


def models(facts: ConfigFacts) -> Iterator[StepRecord]:
    """Give a step for each model that differs in name or origin."""
    seen = list[tuple[str, Origin]]()
    for step in facts.steps:
        if step.node.model and (step.node.model, step.origin) not in seen:
            seen.append((step.node.model, step.origin))
            yield step
