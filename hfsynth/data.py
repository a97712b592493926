"""Load the rows of a dataset by its name or path, and read its instructions and responses."""

import codecs
import glob
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from lzma import LZMAError
from pathlib import Path
from typing import Any, Literal

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Json,
    List,
    ReadInstruction,
    Value,
    concatenate_datasets,
    get_dataset_config_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from numpy.typing import NDArray

from hfsynth.conversation import CONVERSATION_COLUMNS, is_conversation, read_conversation
from hfsynth.errors import ColumnError, RowError
from hfsynth.record import METADATA_COLUMN

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

INSTRUCTION_COLUMNS = (
    "evolved_instruction", "evolved_instructions", "instruction", "prompt", "conversation", "messages",
    "conversations",
)  # fmt: skip
"""Names of instruction columns, in the order of preference: an evolved instruction goes before its original."""

RESPONSE_COLUMNS = ("response", "generation", "answer", "answers", "completion", "chosen")
"""Names of response columns, in the order of preference."""

VERSIONS = ("evolved_instructions", "answers")
"""Columns with lists of texts, of which the last one is read."""

Part = Literal["instruction", "response"]
"""The turn to read of a conversation: the first user turn, or the last turn if that is the assistant's."""

_BOM = b"\xef\xbb\xbf"
_INDEX_COLUMN = "__index_level_0__"  # pandas' name for surplus fields, if rows have more than the header
_CHECKED_BYTES = 65536
_BATCH_ROWS = 5_000
_UNREADABLE = (DatasetGenerationError, pa.ArrowException, UnicodeError)  # raised for the content of a file
_CHAT_COLUMNS = (*CONVERSATION_COLUMNS, "prompt", "completion", "chosen", "rejected")


def load_rows(name: str, config: str | None, split: str, revision: str | None = None) -> Dataset:
    """Load one split of a dataset on the Hub, of a folder, or of a file.

    Args:
        name: A dataset on the Hub, as user/name; a folder of data files, or one that `save_to_disk` wrote; or a file
            of one of `FORMATS`, compressed or not. `~` stands for the home folder.
        config: The configuration; None if there is only one.
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
    """Load the splits of a dataset by their names: all of them, or one.

    Args:
        name: A dataset, as in `load_rows`.
        config: The configuration; None if there is only one.
        split: The only split to load; None for all of them.

    Returns:
        Name of a split → its rows.

    Raises:
        ValueError: In the same cases as `load_rows`.
    """
    loaded = _load(name, config, split, None)
    if isinstance(loaded, Dataset):
        return {split or "train": loaded}
    return {str(part): rows for part, rows in loaded.items()}


def find_path(name: str) -> Path | None:
    """Return the file or folder with a dataset's name; None if the name is that of a dataset on the Hub.

    Args:
        name: A dataset, as in `load_rows`.

    Raises:
        ValueError: If the name has the form of a path, and nothing is there.
    """
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    if path.exists():
        return path
    if _has_form_of_path(name):
        raise ValueError(f"there is no file or folder {name!r}; {_nearest_name(path)}")
    return None


def file_format(path: Path) -> tuple[str, Mapping[str, str]]:
    """Return the builder of datasets that reads a file, and its options.

    Args:
        path: The file.

    Raises:
        ValueError: If the type of the file is not supported.
    """
    return FORMATS[_format_suffix(path)]


@dataclass(frozen=True)
class TextColumns:
    """The instruction and response columns of a dataset."""

    instruction: str
    response: str = ""
    """"" if there is none. One column of conversations can be both."""

    @classmethod
    def find(cls, dataset: Dataset, instruction: str | None, response: str | None) -> "TextColumns":
        """Find by name the columns that are not specified.

        Args:
            dataset: One split.
            instruction: The instruction column; None to find it.
            response: The response column; None to find it.

        Raises:
            TypeError: If `dataset` is no `Dataset`.
            ColumnError: If a column is missing, or holds neither texts nor conversations.
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"a report needs a Dataset, got {type(dataset).__name__}; of a DatasetDict, pass one split: "
                "report(dataset['train'])."
            )
        readable = _readable_columns(dataset.features)
        for name in (instruction, response):
            if name is not None and name not in readable:
                raise ColumnError(f"column {name!r} has no texts; these columns have: {readable}.")
        found = instruction or find_instruction_column(dataset)
        if found is None:
            raise ColumnError(
                f"no column has one of the names {list(INSTRUCTION_COLUMNS)}; these columns have texts: {readable}. "
                "Choose one with report(dataset, column='…')."
            )
        answers = response or next((name for name in RESPONSE_COLUMNS if name in readable and name != found), "")
        return cls(found, answers or (found if is_chat(dataset.features, found) else ""))


def find_instruction_column(dataset: Dataset) -> str | None:
    """Return the instruction column, recognized by its name; None if there is no such column."""
    readable = _readable_columns(dataset.features)
    chosen = "chosen" if is_chat(dataset.features, "chosen") else None
    return next((name for name in INSTRUCTION_COLUMNS if name in readable), chosen)


def iter_text_batches(dataset: Dataset, column: str, part: Part) -> Iterator[list[str]]:
    """Iterate over the texts of a column in batches of rows.

    Args:
        dataset: The rows.
        column: A column of texts, lists of texts or conversations.
        part: The turn to read of a conversation.

    Yields:
        One text for each row, in order; "" for None, and for a text of white space.
    """
    kind = dataset.features[column]
    for rows in dataset.select_columns(column).with_format(None).iter(_BATCH_ROWS):
        values = rows[column]
        if is_chat(dataset.features, column):
            values = (_turn_text(messages, part) for messages in values)
        elif isinstance(kind, List):
            values = (texts[-1] if texts else None for texts in values)
        yield [value if isinstance(value, str) and not value.isspace() else "" for value in values]


def texts_at(dataset: Dataset, column: str, part: Part, places: NDArray[np.int64]) -> list[str]:
    """Return the texts of the rows with the indices `places`, in their order."""
    return [text for batch in iter_text_batches(dataset.select(places), column, part) for text in batch]


def sample_indices(count: int, size: int, seed: int = 0) -> NDArray[np.int64]:
    """Sample `size` of `count` indices without replacement, in random order; all of them where `size` is larger.

    A smaller sample is the beginning of a larger one with the same seed.

    >>> sample_indices(5, 9).tolist(), sample_indices(5, 2).tolist()
    ([2, 4, 3, 0, 1], [2, 4])
    """
    places: NDArray[np.int64] = np.random.default_rng(seed).permutation(count)[:size]
    return places


def text_columns(features: Features) -> list[str]:
    """List the columns of texts and of conversations, without `generation_metadata`."""
    names = [name for name in features if name != METADATA_COLUMN]
    return [name for name in names if _is_text(features[name]) or is_chat(features, name)]


def class_names(kind: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Return the names of class labels; of a feature that is no `ClassLabel`, the values themselves.

    >>> from datasets import ClassLabel
    >>> class_names(ClassLabel(names=["no", "yes"]), [1, None, -1])
    ['yes', None, None]
    """
    if not isinstance(kind, ClassLabel):
        return values
    return [kind.int2str(value) if value is not None and value >= 0 else None for value in values]


def is_chat(features: Features, column: str) -> bool:
    """Return whether a column has conversations, by its feature and, if that is a list of JSON, its name too."""
    kind = features.get(column)
    if isinstance(kind, List) and isinstance(kind.feature, Json) and column not in _CHAT_COLUMNS:
        return False
    return is_conversation(kind)


def _load(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """Load one split, or all of them, as a Dataset or a DatasetDict."""
    path = find_path(name)
    if path is None:
        return _load_config(name, config, split, revision)
    if not path.is_dir():
        return _load_files(str(path), file_format(path), {"train": [path]}, split)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _load_saved(path, split)
    files = [] if (path / "README.md").exists() else _data_files(path)  # a README may name other files
    for file in files:
        _check_encoding(file)
    try:
        with _quiet_builders():
            return _load_config(str(path), config, split, revision)
    except StopIteration as error:
        raise ValueError(f"a data file of the folder {name!r} is empty; remove or fill it.") from error
    except _UNREADABLE as error:
        raise ValueError(_reading_error(name, files, error)) from error
    except FileNotFoundError:  # no file that datasets recognizes
        return _load_folder(path, split)


def _load_config(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """Load a configuration of a dataset on the Hub or in a folder."""
    try:
        loaded = load_dataset(name, config, split=split, revision=revision)
    except ValueError as error:
        configs = sorted(get_dataset_config_names(name, revision=revision))
        if config in configs or (config is None and len(configs) < 2):
            raise
        problem = "has several configurations" if config is None else f"has no configuration {config!r}"
        raise ValueError(f"{name!r} {problem}; name one with --config: {', '.join(configs)}.") from error
    _check_header(name, loaded)
    return loaded


def _check_header(name: str, loaded: Any) -> None:
    """Check that the rows of CSV files have no more fields than the header: pandas would shift the columns.

    Raises:
        ValueError: If they have.
    """
    for rows in loaded.values() if isinstance(loaded, DatasetDict) else [loaded]:
        if rows.info.builder_name == "csv" and _INDEX_COLUMN in rows.column_names:
            raise ValueError(
                f"{name!r} can't be read: its rows have more fields than its header. Quote texts that hold the "
                "separator."
            )


def _load_folder(folder: Path, split: str | None) -> Any:
    """Load the files of a folder whose names datasets does not recognize, such as B.JSONL."""
    splits: dict[str, list[Path]] = {}
    formats = []
    for path in sorted(folder.iterdir()):
        try:
            found = file_format(path)
        except ValueError:
            continue  # a file of another type, which datasets ignores too
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
    sources = [path for paths in splits.values() for path in paths]
    for path in sources:
        start = _first_bytes(path)
        if not start.removeprefix(_BOM).strip():
            raise ValueError(f"the file {str(path)!r} has no rows.")
        has_bom = has_bom or start.startswith(_BOM)
        _check_encoding(path)
    files = {part: [glob.escape(str(path)) for path in paths] for part, paths in splits.items()}
    try:
        with _quiet_builders():
            builder = load_dataset_builder(module, data_files=files, **options)
            builder.download_and_prepare()
    except _UNREADABLE as error:
        raise ValueError(_reading_error(name, sources, error)) from error
    if not builder.info.splits or not builder.info.splits.total_num_examples:
        raise ValueError(f"{name!r} has no rows.")
    loaded = builder.as_dataset(split=split)
    _check_header(name, loaded)
    # the text builder alone leaves the BOM in; its encoding option has no effect on compressed files
    return loaded.map(_remove_bom, batched=True) if has_bom and module == "text" else loaded


def _format_suffix(path: Path) -> str:
    """Return the suffix that names the type of a file, one of `FORMATS`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in FORMATS:
        raise ValueError(
            f"the file {str(path)!r} has type {suffix!r}; use one of {sorted(FORMATS)}, "
            f"which may be followed by one of {sorted(COMPRESSIONS)}."
        )
    return suffix


def _data_files(folder: Path) -> list[Path]:
    """Return the data files of a folder, of one type.

    A .json or .txt file beside files of other types is not read: it may be a license or a configuration.

    Raises:
        ValueError: If there are several types.
    """
    by_format: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        try:
            suffix = _format_suffix(path)
        except ValueError:
            continue  # a file of another type, which datasets ignores too
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            by_format.setdefault(".jsonl" if suffix == ".ndjson" else suffix, []).append(path)
    certain = {suffix: paths for suffix, paths in by_format.items() if suffix not in (".json", ".txt")}
    if len(certain) > 1:
        listed = " and ".join(f"{suffix} ({paths[0].name})" for suffix, paths in certain.items())
        raise ValueError(f"the folder {str(folder)!r} has files of several types, {listed}; name one of the files.")
    return [path for paths in (certain or by_format).values() for path in paths]


def _check_encoding(path: Path) -> None:
    """Check that a file of text is UTF-8, from its first byte to its last.

    Raises:
        ValueError: If it isn't, with the line.
    """
    if file_format(path)[0] == "parquet":
        return
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    compression = "infer" if path.suffix.lower() in COMPRESSIONS else None
    try:
        with fsspec.open(str(path), "rb", compression=compression) as file:
            while block := file.read(1 << 20):
                if line == 1 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise ValueError(f"the file {str(path)!r} is in UTF-16; save it as UTF-8.")
                line += decoder.decode(block).count("\n")
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        byte = error.object[error.start]
        raise ValueError(
            f"the file {str(path)!r} is not UTF-8: byte 0x{byte:02x} in line {line}; save it as UTF-8."
        ) from error
    except (EOFError, OSError, LZMAError) as error:
        raise ValueError(f"the file {str(path)!r} can't be read: {type(error).__name__}: {error}") from error


@contextmanager
def _quiet_builders() -> Iterator[None]:
    """Keep the builders of datasets from logging an error that they also raise."""
    logger = logging.getLogger("datasets.packaged_modules")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reading_error(name: str, paths: Sequence[Path], error: BaseException) -> str:
    """Return the error that names the unreadable file, the reason and the line."""
    for path in paths:
        if fault := _file_fault(path):
            return f"the file {str(path)!r} can't be read: {fault}."
    cause = error.__cause__ or error
    reason = (str(cause).splitlines() or [""])[0].rstrip(".")
    return f"{str(paths[0]) if len(paths) == 1 else name!r} can't be read: {type(cause).__name__}: {reason}."


def _file_fault(path: Path) -> str:
    """Return the reason why a Parquet file or a file of JSON lines can't be read; "" if none is found."""
    module, compressed = file_format(path)[0], path.suffix.lower() in COMPRESSIONS
    if module == "parquet" and not compressed:
        try:
            pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            return f"it is no Parquet file: {str(error).splitlines()[0].rstrip('.')}"
    if module != "json":
        return ""
    with fsspec.open(str(path), "rt", compression="infer" if compressed else None, encoding="utf-8-sig") as file:
        is_list = file.read(_CHECKED_BYTES).lstrip().startswith("[")
        file.seek(0)
        number = 0
        try:
            if is_list:
                json.load(file)
            for line in file:
                number += 1
                if line.strip():
                    json.loads(line)
        except json.JSONDecodeError as error:
            return f"line {number or error.lineno} is not JSON: {error.msg} (column {error.colno})"
    return ""


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
    """Load the dataset that `save_to_disk` wrote into a folder."""
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


def _nearest_name(path: Path) -> str:
    """Return a clause for an error message: the existing name most similar to that of a missing path."""
    while path.parent != path and not path.parent.exists():
        path = path.parent
    names = {found.name.lower(): found.name for found in path.parent.iterdir()} if path.parent.is_dir() else {}
    close = get_close_matches(path.name.lower(), names, n=1, cutoff=0.6)
    if close:
        return f"the nearest name is {str(path.parent / names[close[0]])!r}."
    return f"{str(path.parent.absolute())!r} has no similar name; check the path."


def _is_text(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype in ("string", "large_string")


def _readable_columns(features: Features) -> list[str]:
    """List the columns that `iter_text_batches` reads: also those of `VERSIONS`, and those that hold only None."""
    versions = [name for name in VERSIONS if features.get(name) == List(Value("string"))]
    empty = [name for name, kind in features.items() if kind == Value("null")]
    return [*text_columns(features), *versions, *empty]


def _turn_text(value: Any, part: Part) -> str | None:
    try:
        turns = read_conversation("", value)
    except RowError:
        return None
    if part == "response":
        return turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else None
    return next((turn["content"] for turn in turns if turn["role"] == "user"), None)
