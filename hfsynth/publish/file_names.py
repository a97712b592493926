"""What in a repository or folder is hfsynth's, and what is the user's and stays."""

import re
from collections.abc import Collection, Mapping
from typing import Any

FACTS = "hfsynth.json"
"""The facts of a configuration, in its folder: where it is, the configuration is hfsynth's."""
_OURS = re.compile(
    r"[\w.]+-\d{5}-of-\d{5}\.parquet|failures/[\w.]+\.parquet|hfsynth(-\d+)?\.(json|yaml)|((steps|funnel|similarity|map)(-\d+)?|lengths)\.png"
)
_DATA = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".arrow", ".zip", ".tar", ".gz")


def numbered(name: str, number: int) -> str:
    """Return the name of a file that there is for each run or split of a configuration.

    >>> numbered("steps.png", 1), numbered("steps.png", 2)
    ('steps.png', 'steps-2.png')
    """
    stem, dot, kind = name.rpartition(".")
    return name if number == 1 else f"{stem}-{number}{dot}{kind}"


def is_ours(path: str, config_name: str) -> bool:
    """Whether a file has a name that hfsynth gives in the folder of a configuration.

    >>> is_ours("default/train-00000-of-00001.parquet", "default"), is_ours("default/notes.md", "default")
    (True, False)
    """
    folder, _, name = path.partition("/")
    return folder == config_name and bool(_OURS.fullmatch(name))


def our_configs(paths: Collection[str]) -> set[str]:
    """Return the configurations that hfsynth wrote, of a repository's or folder's files."""
    return {path.removesuffix(f"/{FACTS}") for path in paths if path.endswith(f"/{FACTS}") and path.count("/") == 1}


def conflict(config_name: str, paths: Collection[str], metadata: Mapping[str, Any]) -> str:
    """Say why a configuration can't be written without loss of what is there; "" if it can.

    Args:
        config_name: The configuration.
        paths: The files that are there.
        metadata: What the card there has.
    """
    ours = our_configs(paths)
    inside = sorted(path for path in paths if path.startswith(f"{config_name}/"))
    if inside and config_name not in ours:
        return f"there are files in {config_name}/ that are not hfsynth's: {inside[:3]}; give another config_name"
    if config_name in _named(metadata) - ours:
        return f"there is a configuration {config_name!r} that is not hfsynth's; give another config_name"
    data = [path for path in paths if path.endswith(_DATA) and path.partition("/")[0] not in ours]
    if not metadata.get("configs") and (unnamed := sorted(path for path in data if not _is_hidden(path))):
        return (
            f"there are data files that the card names no configuration for: {unnamed[:3]}; they would not be loaded "
            "any more. Add `configs` with them to the README.md first"
        )
    return ""


def _named(metadata: Mapping[str, Any]) -> set[str]:
    """Return the configurations that a card names."""
    infos = metadata.get("dataset_info") or []
    entries = [*(metadata.get("configs") or []), *(infos if isinstance(infos, list) else [infos])]
    return {str(entry.get("config_name", "default")) for entry in entries if isinstance(entry, Mapping)}


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))
