"""Facts for a dataset card: rows, runs, origins of models and sources, and the YAML header."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from datasets import Dataset
from datasets.features.features import require_decoding

from hfsynth.analysis.diversity import QuickDiversity
from hfsynth.analysis.text_stats import ColumnFigures, column_figures
from hfsynth.config import from_plain
from hfsynth.data import text_columns
from hfsynth.llm import Origin
from hfsynth.record import METADATA_COLUMN, RunRecord, Source, StepRecord, step_names

CardMetadata = dict[str, Any]
"""The YAML header of a card."""
_SAMPLE_CHARS = 1_000  # characters that a sample keeps of a text
_SAMPLE_ITEMS = 50  # items that a sample keeps of a list
_SIZES = (
    "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B",
    "100B<n<1T", "n>1T",
)  # fmt: skip
_KEYED_BY_CONFIG = ("configs", "dataset_info")  # lists in the header with one entry per configuration


@dataclass(frozen=True)
class SplitFacts:
    """Facts about the rows of one split and the runs that generated them."""

    name: str
    rows: int
    figures: Mapping[str, ColumnFigures]
    """Statistics of each column with texts, by column."""
    samples: tuple[Mapping[str, Any], ...]
    """The first, the middle and the last row, without `generation_metadata`."""
    runs: tuple[RunRecord, ...]
    """The runs that generated the rows, in order."""
    failures: int
    """Rows in the split's file of failures."""
    untracked_rows: int = 0
    """Rows without an entry of any technique."""
    diversity: QuickDiversity | None = None
    """Diversity of the split's instructions; None if there are fewer than two."""

    @classmethod
    def of(
        cls,
        name: str,
        dataset: Dataset,
        *,
        failures: int = 0,
        runs: tuple[RunRecord, ...] = (),
        diversity: QuickDiversity | None = None,
    ) -> "SplitFacts":
        """Compute the facts from the published rows.

        Args:
            name: The split's name.
            dataset: The published rows.
            failures: Rows in the split's file of failures.
            runs: The runs that generated the rows.
            diversity: The diversity of the rows' instructions.
        """
        media = {name: type(kind).__name__ for name, kind in dataset.features.items() if require_decoding(kind)}
        texts = dataset.remove_columns([name for name in dataset.column_names if name in {*media, METADATA_COLUMN}])
        rows = sorted({0, len(dataset) // 2, len(dataset) - 1}) if len(dataset) else []
        return cls(
            name=name,
            rows=len(dataset),
            figures={column: column_figures(dataset, column) for column in text_columns(dataset.features)},
            samples=tuple({**_shorten(texts[row]), **media} for row in rows),
            runs=tuple(replace(run, failures_file="") for run in runs),
            failures=failures,
            untracked_rows=step_names(dataset)[1],
            diversity=diversity,
        )


@dataclass(frozen=True)
class ConfigFacts:
    """Facts about one configuration of a dataset: the content of its `hfsynth.json`."""

    config_name: str
    columns: Mapping[str, str]
    """Type of each column, by column."""
    splits: tuple[SplitFacts, ...]
    info: Mapping[str, Any]
    """The configuration's entry in `dataset_info` of the header."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Origins of models and sources according to their cards on the Hub, by `origin_key`."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 in hex of each other file that hfsynth wrote into the configuration's folder, by path."""

    @property
    def rows(self) -> int:
        """Rows in all splits."""
        return sum(split.rows for split in self.splits)

    @property
    def runs(self) -> list[RunRecord]:
        """The runs that generated the rows; a run of several splits is listed once, `Dataset.map` for each split."""
        found: list[RunRecord] = []
        for run in (run for split in self.splits for run in split.runs):
            if run.is_from_rows or run not in found:
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
            ValueError: If another version of hfsynth wrote them.
        """
        try:
            facts: ConfigFacts = from_plain(cls, json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"this version can't read the dataset's hfsynth.json: {error}; install the version that wrote it, "
                "or remove that configuration."
            ) from error
        return facts


def numbered_name(name: str, number: int) -> str:
    """Return the name of a file that a configuration has for each of its runs or splits.

    >>> numbered_name("steps.png", 1), numbered_name("steps.png", 2)
    ('steps.png', 'steps-2.png')
    """
    stem, dot, suffix = name.rpartition(".")
    return name if number == 1 else f"{stem}-{number}{dot}{suffix}"


def origin_key(name: str, commit: str) -> str:
    """Return the key of a model or source in `ConfigFacts.origins`."""
    return f"{name}@{commit}" if commit else name


def model_steps(facts: ConfigFacts) -> Iterator[StepRecord]:
    """Yield the first step of each model; models with different names or origins are different."""
    steps: dict[tuple[str, Origin], StepRecord] = {}
    for step in facts.steps:
        if step.node.model:
            steps.setdefault((step.node.model, step.origin), step)
    yield from steps.values()


def step_origin(facts: ConfigFacts, step: StepRecord) -> Origin:
    """Return the origin of a step's model from its card on the Hub; without one, the origin that the run recorded."""
    return facts.origins.get(origin_key(step.node.model, step.origin.commit), step.origin)


def text_sources(facts: ConfigFacts) -> list[Source]:
    """List the datasets that runs read, and those whose texts steps added to the rows."""
    found = list[Source]()
    for source in (
        *(run.source for run in facts.runs if run.reads_source),
        *(source for step in facts.steps for source in step.sources),
    ):
        if source not in found:
            found.append(source)
    return found


def source_origin(facts: ConfigFacts, source: Source) -> Origin:
    """Return the origin of a dataset from its card on the Hub; an empty one without a card."""
    return facts.origins.get(origin_key(source.name, source.commit), Origin())


def card_metadata(configs: Sequence[ConfigFacts]) -> CardMetadata:
    """Return the YAML header of a dataset that has only these configurations."""
    is_generated = any(config.steps for config in configs)
    header: CardMetadata = {
        "license": _common_license(configs),
        "language": _common_language(configs),
        "annotations_creators": ["machine-generated"] if is_generated else None,
        "source_datasets": _source_names(configs),
        "task_categories": ["text-generation"],
        "tags": [*(["synthetic"] if is_generated else []), "hfsynth"],
        "size_categories": [size_category(sum(config.rows for config in configs))],
        "configs": [_data_files(config) for config in configs],
        "dataset_info": [dict(config.info) for config in configs],
    }
    return {name: value for name, value in header.items() if value}


def merge_metadata(head: CardMetadata, before: CardMetadata, now: CardMetadata) -> CardMetadata:
    """Update the entries of a header that hfsynth wrote; entries that the user changed or removed are not touched.

    Args:
        head: The header of the card.
        before: The header that hfsynth wrote at the last push.
        now: The header for the current configurations.
    """
    merged = dict(head)
    for name in {**before, **now}:
        merged[name] = _merge_value(name, head.get(name), before.get(name), now.get(name))
    rows = _count_rows(merged)
    theirs = head.get("size_categories") if head.get("size_categories") != before.get("size_categories") else None
    merged["size_categories"] = theirs if rows is None else [size_category(rows)]
    return {name: value for name, value in merged.items() if value is not None}


def size_category(rows: int) -> str:
    """Return the Hub's name for a number of rows.

    >>> size_category(999), size_category(1000), size_category(5_000_000)
    ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    return _SIZES[min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)]


def _shorten(value: Any) -> Any:
    """Convert a value to types of JSON, and cut long texts and lists."""
    if isinstance(value, str):
        return value if len(value) <= _SAMPLE_CHARS else f"{value[:_SAMPLE_CHARS]} … ({len(value):,} characters)"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return {str(key): _shorten(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        rest = [f"… ({len(value):,} items)"] if len(value) > _SAMPLE_ITEMS else []
        return [*map(_shorten, value[:_SAMPLE_ITEMS]), *rest]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _all_origins(config: ConfigFacts) -> list[Origin]:
    """Return the origins of all models and sources, and an empty one if some rows come from no recorded step."""
    found = [step_origin(config, step) for step in model_steps(config)]
    found += [source_origin(config, source) for source in text_sources(config)]
    if any(split.untracked_rows for split in config.splits) or not config.runs:
        found.append(Origin())
    return found


def _common_license(configs: Iterable[ConfigFacts]) -> str | None:
    """Return the license of all models and sources; None unless all have the same."""
    found = {origin.license for config in configs for origin in _all_origins(config)}
    return found.pop() if len(found) == 1 and "" not in found else None


def _common_language(configs: Iterable[ConfigFacts]) -> list[str] | None:
    """Return the language of all models and sources; None unless all have the same single one."""
    found = {origin.languages for config in configs for origin in _all_origins(config)}
    languages = found.pop() if len(found) == 1 else ()
    return list(languages) if len(languages) == 1 else None


def _source_names(configs: Iterable[ConfigFacts]) -> list[str]:
    names = {run.source.name for config in configs for run in config.runs}
    names |= {source.name for config in configs for source in text_sources(config)}
    return sorted(name for name in names if "/" in name) or ["original"]


def _data_files(config: ConfigFacts) -> CardMetadata:
    files = [{"split": split.name, "path": f"{config.config_name}/{split.name}-*.parquet"} for split in config.splits]
    return {"config_name": config.config_name, "data_files": files}


def _merge_value(name: str, head: Any, before: Any, now: Any) -> Any:
    if name in _KEYED_BY_CONFIG:
        return _merge_entries(head, before, now)
    if isinstance(head, list) and not isinstance(now, str):
        theirs = [item for item in head if item not in (before or [])]
        ours = [item for item in now or [] if item in head or item not in (before or [])]
        return [*ours, *(item for item in theirs if item not in ours)] or None
    return now if head == before else head  # the user changed a value that differs from the last one written


def _merge_entries(head: Any, before: Any, now: Any) -> list[Any] | None:
    """Replace the entries of configurations that hfsynth wrote, and keep all others."""
    listed = head if isinstance(head, list) else [head] if head else []
    ours = {entry["config_name"] for entry in [*(before or []), *(now or [])]}
    theirs = [one for one in listed if not isinstance(one, Mapping) or one.get("config_name", "default") not in ours]
    return sorted([*theirs, *(now or [])], key=lambda entry: str(entry.get("config_name"))) or None


def _count_rows(metadata: CardMetadata) -> int | None:
    """Return the number of rows of all configurations; None if the header lacks that of one of them."""
    listed = metadata.get("dataset_info") or []
    infos = {info.get("config_name", "default"): info for info in (listed if isinstance(listed, list) else [listed])}
    names = [config["config_name"] for config in metadata.get("configs") or []]
    if any("splits" not in infos.get(name, {}) for name in names):
        return None
    return sum(int(split.get("num_examples") or 0) for name in names for split in infos[name]["splits"])
