"""Reading of a published configuration from a folder or the Hub: card, facts, rows and failures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset
from huggingface_hub import snapshot_download

from hfsynth.data import find_path
from hfsynth.metadata import failures_dataset
from hfsynth.progress import without_bars
from hfsynth.publish.card_data import ConfigFacts, SplitFacts
from hfsynth.publish.files import FACTS_FILE, SPLIT_NAME, generated_configs, read_facts
from hfsynth.publish.retry import with_retries


@dataclass(frozen=True)
class PublishedConfig:
    """One configuration that `save` or `push_to_hub` wrote."""

    name: str
    """The dataset on the Hub, or its folder."""
    commit: str
    """The dataset's commit; "" for a folder."""
    folder: Path
    """The folder with the dataset's files; for a dataset on the Hub, its downloaded copy."""
    facts: ConfigFacts
    """The content of the configuration's hfsynth.json."""
    others: tuple[ConfigFacts, ...]
    """The facts of all configurations, including this one, in order of names; the card describes all of them."""

    @property
    def config_folder(self) -> Path:
        """The folder with the configuration's files."""
        return self.folder / self.facts.config_name

    @property
    def readme(self) -> str:
        """The text of the card; "" if there is none."""
        file = self.folder / "README.md"
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def rows(self, split: SplitFacts) -> Dataset:
        """Load the rows of a split, in the order of its shards.

        Raises:
            ValueError: If the split has no file, or one can't be read.
        """
        pattern = re.compile(rf"{re.escape(split.name)}-\d{{5}}-of-\d{{5}}\.parquet")
        shards = sorted(str(path) for path in self.config_folder.iterdir() if pattern.fullmatch(path.name))
        if not shards:
            raise ValueError(f"{self.config_folder} has no Parquet file of the split {split.name!r}.")
        for shard in shards:
            try:
                pq.read_metadata(shard)
            except (ValueError, OSError) as error:
                raise ValueError(f"{shard} is no Parquet file: {str(error).splitlines()[0]}") from error
        with without_bars():
            return Dataset.from_parquet(shards)

    def failures(self, split: SplitFacts) -> Dataset:
        """Load the failures of a split; an empty dataset if there is no file."""
        file = self.config_folder / "failures" / f"{split.name}.parquet"
        return Dataset(pq.read_table(file)) if file.is_file() else failures_dataset([])


def open_config(name: str, config: str | None = None, revision: str | None = None) -> PublishedConfig:
    """Open a configuration of a published dataset; files on the Hub are downloaded.

    Args:
        name: The dataset on the Hub, `user/name`, or its folder.
        config: The configuration; None if the dataset has only one.
        revision: Commit, branch or tag of a dataset on the Hub.

    Raises:
        ValueError: If the configuration does not exist, `config` is None and there are several, or the record can't be
            read.
    """
    folder = find_path(name)
    commit = ""
    if folder is None:
        folder = _download(name, ["README.md", f"*/{FACTS_FILE}"], revision)
        commit = folder.name
    names = sorted(generated_configs([path.relative_to(folder).as_posix() for path in folder.glob(f"*/{FACTS_FILE}")]))
    chosen = _choose_config(name, names, config)
    if commit:
        folder = _download(name, ["README.md", f"*/{FACTS_FILE}", f"{chosen}/*"], commit)
    others = read_facts(folder)
    facts = next((one for one in others if one.config_name == chosen), None)
    if facts is None or not all(SPLIT_NAME.fullmatch(split.name) for split in facts.splits):
        raise ValueError(f"{chosen}/{FACTS_FILE} of {name!r} is not the record of the configuration {chosen!r}.")
    return PublishedConfig(name, commit, folder, facts, tuple(others))


def _choose_config(name: str, names: Sequence[str], config: str | None) -> str:
    if not names:
        raise ValueError(
            f"{name!r} has no {FACTS_FILE}, the record that hfsynth.save and push_to_hub write beside the rows."
        )
    if config is None and len(names) == 1:
        return names[0]
    if config is None or config not in names:
        problem = "has several configurations" if config is None else f"has no configuration {config!r}"
        raise ValueError(f"{name!r} {problem}; name one with --config: {', '.join(names)}.")
    return config


def _download(name: str, patterns: list[str], revision: str | None) -> Path:
    with without_bars():
        folder = with_retries(
            f"downloading {name}",
            lambda: snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns),
        )
    return Path(folder)
