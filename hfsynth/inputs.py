"""Datasets by the names that a command line gives them: on the Hub, a folder, or a file; and what lies beside them."""

from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from hfsynth.provenance import RunRecord
from hfsynth.publishing.facts import ConfigFacts
from hfsynth.publishing.ownership import FACTS

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
"""How files end → what datasets calls them."""


def load_rows(name: str, config: str | None, split: str, revision: str | None = None) -> Dataset:
    """Load one split of a dataset on the Hub, of a folder, or of a file.

    Raises:
        FileNotFoundError: If the name can only be that of a file or folder, and there is none.
        ValueError: If the file's type isn't known, or it isn't of that type inside.
    """
    suffix = Path(name).suffix
    if not Path(name).is_file():
        is_path = suffix in FORMATS or name.startswith((".", "~", "/")) or name.count("/") > 1
        if is_path and not Path(name).exists():
            raise FileNotFoundError(f"there is no file or folder {name!r} in {Path.cwd()}.")
        return load_dataset(name, config, split=split, revision=revision)
    if suffix not in FORMATS:
        raise ValueError(f"the file {name!r} has type {suffix!r}; use one of {sorted(FORMATS)}.")
    try:
        return load_dataset(FORMATS[suffix], data_files=name, split=split)
    except DatasetGenerationError as error:
        reason = error.__cause__ or error
        raise ValueError(f"the file {name!r} can't be read as {FORMATS[suffix]}: {reason}") from error


def load_failures(name: str, config: str | None, split: str, revision: str | None = None) -> Dataset | None:
    """Load the failures that were saved or pushed beside a dataset's rows; None where there are none."""
    file = _beside(name, f"{config or 'default'}/failures/{split}.parquet", revision)
    return Dataset(pq.read_table(file)) if file else None


def load_runs(name: str, config: str | None, split: str, revision: str | None = None) -> tuple[RunRecord, ...]:
    """Load the records of the runs that made a split, saved or pushed beside its rows; () where there are none.

    Raises:
        ValueError: If another version wrote them.
    """
    file = _beside(name, f"{config or 'default'}/{FACTS}", revision)
    splits = ConfigFacts.from_json(file.read_text(encoding="utf-8")).splits if file else ()
    return next((told.runs for told in splits if told.name == split), ())


def _beside(name: str, place: str, revision: str | None) -> Path | None:
    """Find a file of a dataset in a folder or on the Hub."""
    if Path(name).exists():
        file = Path(name, place)
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(name, place, repo_type="dataset", revision=revision))
    except EntryNotFoundError:
        return None
