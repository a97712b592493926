"""Datasets by the names that a command line gives them: on the Hub, a folder, or a file."""

import glob
from collections.abc import Mapping
from difflib import get_close_matches
from lzma import LZMAError
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from datasets import (
    Dataset,
    DatasetDict,
    ReadInstruction,
    concatenate_datasets,
    get_dataset_config_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)

FORMATS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
"""Suffix of a file, in lower case → the builder of datasets that reads it, and its options."""

COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
"""Suffixes that may follow one of `FORMATS`."""

_BOM = b"\xef\xbb\xbf"
_CHECKED_BYTES = 65536


def load_rows(name: str, config: str | None, split: str, revision: str | None = None) -> Dataset:
    """Load one split of a dataset on the Hub, of a folder, or of a file.

    Args:
        name: A dataset on the Hub, as user/name; a folder of data files, or one that `save_to_disk` wrote; or a file
            of one of `FORMATS`, compressed or not. `~` stands for the home folder.
        config: The configuration; None where there is one.
        split: The split, or a slice of one, such as train[:100].
        revision: Commit, branch or tag, on the Hub.

    Returns:
        The rows of the split.

    Raises:
        ValueError: If a path does not exist, the type of a file is not supported, a file has no rows, or a dataset
            has several configurations and none of them is named.
    """
    return _load(name, config, split, revision)


def load_splits(name: str, config: str | None = None, split: str | None = None) -> dict[str, Dataset]:
    """Load all splits of a dataset by their names, or the one that is named.

    Args:
        name: A dataset, as in `load_rows`.
        config: The configuration; None where there is one.
        split: The only split to load; None for all of them.

    Returns:
        Name of a split → its rows.

    Raises:
        ValueError: As `load_rows` raises it.
    """
    loaded = _load(name, config, split, None)
    if isinstance(loaded, Dataset):
        return {split or "train": loaded}
    return {str(part): rows for part, rows in loaded.items()}


def find_path(name: str) -> Path | None:
    """Return the file or folder that a dataset's name means; None where the name is one of the Hub.

    Args:
        name: A dataset, as in `load_rows`.

    Raises:
        ValueError: If the name has the form of a path, and nothing is there.
    """
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    if path.exists():
        return path
    if _has_form_of_path(name):
        raise ValueError(f"there is no file or folder {name!r}; {_nearest(path)}")
    return None


def file_format(path: Path) -> tuple[str, Mapping[str, str]]:
    """Return the builder of datasets that reads a file, and its options.

    Args:
        path: The file.

    Raises:
        ValueError: If the type of the file is not supported.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in FORMATS:
        raise ValueError(
            f"the file {str(path)!r} has type {suffix!r}; use one of {sorted(FORMATS)}, "
            f"which may be followed by one of {sorted(COMPRESSIONS)}."
        )
    return FORMATS[suffix]


def _load(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """Load one split, or all of them, as a Dataset or a DatasetDict."""
    path = find_path(name)
    if path is None:
        return _load_config(name, config, split, revision)
    if not path.is_dir():
        return _load_files(str(path), file_format(path), {"train": [path]}, split)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _load_saved(path, split)
    try:
        return _load_config(str(path), config, split, revision)
    except StopIteration as error:
        raise ValueError(f"a data file of the folder {name!r} is empty; remove or fill it.") from error
    except FileNotFoundError:  # no file that datasets recognizes
        return _load_folder(path, split)


def _load_config(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """Load a configuration of a dataset on the Hub or in a folder."""
    try:
        return load_dataset(name, config, split=split, revision=revision)
    except ValueError as error:
        configs = _config_names(name, revision)
        if config in configs or (config is None and len(configs) < 2):
            raise
        problem = "has several configurations" if config is None else f"has no configuration {config!r}"
        raise ValueError(f"{name!r} {problem}; name one with --config: {', '.join(configs)}.") from error


def _config_names(name: str, revision: str | None) -> list[str]:
    return sorted(get_dataset_config_names(name, revision=revision))


def _load_folder(folder: Path, split: str | None) -> Any:
    """Load the files of a folder whose names datasets does not recognize, such as B.JSONL."""
    splits: dict[str, list[Path]] = {}
    formats = []
    for path in sorted(folder.iterdir()):
        try:
            found = file_format(path)
        except ValueError:
            continue  # a file of another type, as datasets passes over it
        formats.append(found)
        stem = path.name.partition(".")[0].lower()
        splits.setdefault(stem if stem in ("validation", "test") else "train", []).append(path)
    if not formats:
        raise ValueError(f"the folder {str(folder)!r} has no data files; use files of one of {sorted(FORMATS)}.")
    if any(found != formats[0] for found in formats):
        raise ValueError(f"the folder {str(folder)!r} has files of several types; name one of the files.")
    return _load_files(str(folder), formats[0], splits, split)


def _load_files(
    name: str, builder_options: tuple[str, Mapping[str, str]], splits: Mapping[str, list[Path]], split: str | None
) -> Any:
    """Load data files of one type."""
    module, options = builder_options
    has_bom = False
    for path in (path for paths in splits.values() for path in paths):
        start = _first_bytes(path)
        if not start.removeprefix(_BOM).strip():
            raise ValueError(f"the file {str(path)!r} has no rows.")
        has_bom = has_bom or start.startswith(_BOM)
    files = {part: [glob.escape(str(path)) for path in paths] for part, paths in splits.items()}
    builder = load_dataset_builder(module, data_files=files, **options)
    builder.download_and_prepare()
    if not builder.info.splits or not builder.info.splits.total_num_examples:
        raise ValueError(f"{name!r} has no rows.")
    loaded = builder.as_dataset(split=split)
    # the text builder alone leaves the BOM in; its encoding option has no effect on compressed files
    return loaded.map(_remove_bom, batched=True) if has_bom and module == "text" else loaded


def _remove_bom(batch: dict[str, list[str]]) -> dict[str, list[str]]:
    return {"text": [text.removeprefix("\ufeff") for text in batch["text"]]}


def _first_bytes(path: Path) -> bytes:
    """Return the start of a file, decompressed."""
    if path.suffix.lower() == ".zst" and "zstd" not in fsspec.available_compressions():
        raise ValueError(f"the file {str(path)!r} can't be decompressed without zstandard; pip install zstandard.")
    compression = "infer" if path.suffix.lower() in COMPRESSIONS else None
    try:
        with fsspec.open(str(path), "rb", compression=compression) as file:
            return bytes(file.read(_CHECKED_BYTES))
    except (EOFError, OSError, LZMAError) as error:
        raise ValueError(f"the file {str(path)!r} can't be read: {type(error).__name__}: {error}") from error


def _load_saved(folder: Path, split: str | None) -> Any:
    """Load what `save_to_disk` wrote into a folder."""
    saved = load_from_disk(str(folder))
    splits = saved if isinstance(saved, DatasetDict) else DatasetDict({str(saved.split or "train"): saved})
    if split is None or split in splits:
        return splits if split is None else splits[split]
    parts = ReadInstruction.from_spec(split).to_absolute({str(part): len(rows) for part, rows in splits.items()})
    return concatenate_datasets([splits[part.splitname].select(range(part.from_, part.to)) for part in parts])


def _has_form_of_path(name: str) -> bool:
    if "://" in name:
        return False
    suffixes = [suffix.lower() for suffix in Path(name).suffixes[-2:]]
    has_suffix = any(suffix in FORMATS for suffix in suffixes[-1:]) or (
        len(suffixes) > 1 and suffixes[0] in FORMATS and suffixes[1] in COMPRESSIONS
    )
    return has_suffix or name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name


def _nearest(path: Path) -> str:
    """Say which existing name is nearest to a path that does not exist."""
    while path.parent != path and not path.parent.exists():
        path = path.parent
    names = {found.name.lower(): found.name for found in path.parent.iterdir()} if path.parent.is_dir() else {}
    close = get_close_matches(path.name.lower(), names, n=1, cutoff=0.6)
    if close:
        return f"the nearest name is {str(path.parent / names[close[0]])!r}."
    return f"{str(path.parent.absolute())!r} has no similar name; check the path."
