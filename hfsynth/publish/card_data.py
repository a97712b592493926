"""What a dataset card states: facts of the rows and of the run, the YAML header, licences."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from datasets import Dataset
from datasets.features.features import require_decoding
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hfsynth.analysis.diversity import QuickDiversity
from hfsynth.analysis.text_stats import ColumnFigures, column_figures
from hfsynth.config import from_plain
from hfsynth.data import text_columns
from hfsynth.errors import PushError
from hfsynth.llm import Origin
from hfsynth.metadata import METADATA_COLUMN, step_names
from hfsynth.publish.retry import persistently
from hfsynth.run_record import RunRecord, StepRecord

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
    glance: QuickDiversity | None = None
    """At its instructions; None where it has no two."""

    @classmethod
    def of(
        cls,
        name: str,
        dataset: Dataset,
        failures: tuple[int, int] = (0, 0),
        runs: tuple[RunRecord, ...] = (),
        glance: QuickDiversity | None = None,
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
    glance = facts.get("glance") and from_plain(QuickDiversity, facts["glance"])
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


Metadata = dict[str, Any]
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_LARGER = ("10B<n<100B", "100B<n<1T", "n>1T")
_BY_CONFIG = ("configs", "dataset_info")  # lists of entries, one for each configuration


def size_category(rows: int) -> str:
    """Return the Hub's name for a number of rows.

    >>> size_category(999), size_category(1000), size_category(5_000_000)
    ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    names = (*_SIZES, *_LARGER)
    return names[min(max(len(str(rows)) - 3, 0), len(names) - 1)]


def metadata_of(configs: Sequence[ConfigFacts]) -> Metadata:
    """Return what these configurations say of a dataset that holds nothing else."""
    told: Metadata = {
        "license": _licence(configs),
        "language": _languages(configs),
        "annotations_creators": ["machine-generated"] if any(config.steps for config in configs) else None,
        "source_datasets": _sources(configs),
        "task_categories": ["text-generation"],
        "tags": [*(["synthetic"] if any(config.steps for config in configs) else []), "hfsynth"],
        "size_categories": [size_category(sum(config.rows for config in configs))],
        "configs": [_config(config) for config in configs],
        "dataset_info": [dict(config.info) for config in configs],
    }
    return {name: value for name, value in told.items() if value}


def merge_metadata(head: Metadata, before: Metadata, now: Metadata) -> Metadata:
    """Change in a card's metadata what hfsynth had written there; what the user wrote or took away stays so.

    Args:
        head: What the card has.
        before: What hfsynth wrote when it last did.
        now: What it would write today.
    """
    merged = dict(head)
    for name in {**before, **now}:
        merged[name] = _merge_value(name, head.get(name), before.get(name), now.get(name))
    rows = _all_rows(merged)
    theirs = head.get("size_categories") if head.get("size_categories") != before.get("size_categories") else None
    merged["size_categories"] = theirs if rows is None else [size_category(rows)]
    return {name: value for name, value in merged.items() if value is not None}


def stated(config: ConfigFacts, step: StepRecord) -> Origin:
    """Return what is stated of a step's model: where it ran, or by its card on the Hub."""
    asked = config.stated.get(key_of(step.node.model, step.origin.commit))
    if asked is None:
        return step.origin
    return Origin(step.origin.commit, asked["licence"], tuple(asked["languages"]))


def _all_stated(config: ConfigFacts) -> list[Origin]:
    """Return what is stated of all that the rows come from; of what nothing is known, an origin that says nothing."""
    found = [stated(config, step) for step in models(config)]
    for source in (run.source for run in config.runs if run.reads_source):
        asked = config.stated.get(key_of(source.name, source.commit), {"licence": "", "languages": ()})
        found.append(Origin(source.commit, asked["licence"], tuple(asked["languages"])))
    if any(split.bare for split in config.splits) or not config.runs:
        found.append(Origin())
    return found


def _merge_value(name: str, head: Any, before: Any, now: Any) -> Any:
    if name in _BY_CONFIG:
        return _merge_entries(head, before, now)
    if isinstance(head, list) and not isinstance(now, str):
        theirs = [item for item in head if item not in (before or [])]
        ours = [item for item in now or [] if item in head or item not in (before or [])]
        return [*ours, *(item for item in theirs if item not in ours)] or None
    if head == before:  # what we wrote, or nothing
        return now
    return head  # the user's: another value, or none


def _merge_entries(head: Any, before: Any, now: Any) -> list[Any] | None:
    """Replace entries of our configurations, and keep all others."""
    listed = head if isinstance(head, list) else [head] if head else []
    ours = {entry["config_name"] for entry in [*(before or []), *(now or [])]}
    kept = [one for one in listed if not isinstance(one, Mapping) or one.get("config_name", "default") not in ours]
    return sorted([*kept, *(now or [])], key=lambda entry: str(entry.get("config_name"))) or None


def _all_rows(metadata: Metadata) -> int | None:
    """Count the rows of all configurations; None where one doesn't say."""
    listed = metadata.get("dataset_info") or []
    infos = {info.get("config_name", "default"): info for info in (listed if isinstance(listed, list) else [listed])}
    names = [config["config_name"] for config in metadata.get("configs") or []]
    if any("splits" not in infos.get(name, {}) for name in names):
        return None
    return sum(int(split.get("num_examples") or 0) for name in names for split in infos[name]["splits"])


def _config(config: ConfigFacts) -> Metadata:
    files = [{"split": split.name, "path": f"{config.config_name}/{split.name}-*.parquet"} for split in config.splits]
    return {"config_name": config.config_name, "data_files": files}


def _licence(configs: Iterable[ConfigFacts]) -> str | None:
    """Return the licence that all models and sources state, if it is one and all state it."""
    found = {origin.licence for config in configs for origin in _all_stated(config)}
    return found.pop() if len(found) == 1 and "" not in found else None


def _languages(configs: Iterable[ConfigFacts]) -> list[str] | None:
    """Return the language that all models and sources state, if it is a single one."""
    found = {origin.languages for config in configs for origin in _all_stated(config)}
    only = found.pop() if len(found) == 1 else ()
    return list(only) if len(only) == 1 else None


def _sources(configs: Iterable[ConfigFacts]) -> list[str]:
    named = sorted({run.source.name for config in configs for run in config.runs if "/" in run.source.name})
    return named or ["original"]


logger = logging.getLogger(__name__)


def look_up(api: HfApi, facts: ConfigFacts) -> dict[str, dict[str, Any]]:
    """Ask the Hub for the cards of the models and sources of a configuration that are there.

    Returns:
        `key_of` name and commit → `licence` and `languages`. What can't be asked for is left out: it isn't stated.
    """
    asked = {
        (step.node.model, step.origin.commit): ("model", str((step.recipe.get("llm") or {}).get("model", "")))
        for step in models(facts)
        if not step.origin.licence
    }
    asked |= {(run.source.name, run.source.commit): ("dataset", run.source.name) for run in facts.runs}
    found = {}
    for (name, commit), (kind, repo_id) in asked.items():
        if "/" in repo_id and (origin := _stated(api, kind, repo_id, commit)):
            found[key_of(name, commit)] = {key: value for key, value in asdict(origin).items() if key != "commit"}
    return found


def _stated(api: HfApi, kind: str, repo_id: str, commit: str) -> Origin | None:
    try:
        ask = api.model_info if kind == "model" else api.dataset_info
        info = persistently(f"reading the card of {repo_id}", lambda: ask(repo_id, revision=commit or None))
    except (HfHubHTTPError, PushError) as error:
        logger.warning("the licence of %s is not known: %s", repo_id, error)
        return None
    card: dict[str, Any] = vars(info.card_data) if info.card_data else {}
    return Origin.of_card(card, commit)
