"""The YAML at the top of a card: what the Hub's specification knows, and nothing that isn't stated somewhere."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hfsynth.generation import Origin
from hfsynth.provenance import StepRecord
from hfsynth.publishing.facts import ConfigFacts, key_of, models

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
