"""Where a model comes from: what its folder, GGUF file or place in the cache of the Hub say. Nothing is downloaded."""

from functools import cache
from pathlib import Path

import yaml
from huggingface_hub import RepoCard, try_to_load_from_cache

from hfsynth.generation import Origin

_GGUF = {"license": "general.license", "language": "general.languages"}  # key of a card → that of a GGUF file


def model_origin(model: str, revision: str | None, gguf_file: str | None) -> Origin:
    """Say what is stated of a model.

    Args:
        model: Name on the Hub, or folder.
        revision: Branch, tag or commit on the Hub.
        gguf_file: GGUF file in that folder or repository.
    """
    if Path(model).is_dir():
        return _told_by(Path(model), gguf_file, "")
    file = try_to_load_from_cache(model, gguf_file or "config.json", revision=revision)
    if not isinstance(file, str):
        return Origin()
    folders = Path(file).parts
    depth = folders.index("snapshots") + 2
    return _told_by(Path(*folders[:depth]), gguf_file, folders[depth - 1])


def _told_by(folder: Path, gguf_file: str | None, commit: str) -> Origin:
    """Read the card in a folder, or what a GGUF file says of itself."""
    card = folder / "README.md"
    if card.is_file():
        try:
            return Origin.of_card(RepoCard.load(card, ignore_metadata_errors=True).data.to_dict(), commit)
        except (ValueError, yaml.YAMLError):  # a card that can't be read states nothing
            return Origin(commit)
    return _told_by_gguf(folder / gguf_file, commit) if gguf_file else Origin(commit)


@cache
def _told_by_gguf(file: Path, commit: str) -> Origin:
    """Read a GGUF file, once in a process: its vocabulary takes seconds, and every step asks."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    stated = {key: fields[name].contents() for key, name in _GGUF.items() if name in fields}
    return Origin.of_card(stated, commit)
