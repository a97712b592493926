"""A dataset in a folder laid out as on the Hub: parquet for each configuration, and a README.md card."""

import logging
import shutil
from pathlib import Path

from datasets import Dataset

from hfsynth.card import ConfigCard, render_card
from hfsynth.crew import is_main_process
from hfsynth.pipeline import Pipeline
from hfsynth.record import split_failures

logger = logging.getLogger(__name__)
_FACTS = "hfsynth.json"
_ROWS_PER_FILE = 500_000


def save(
    dataset: Dataset, folder: str | Path, *, pipeline: Pipeline, config_name: str = "default"
) -> tuple[Dataset, Dataset]:
    """Write the rows on which no step failed as one configuration of a dataset folder.

    `load_dataset(folder, config_name)` reads them back. The card tells of every configuration that was saved to the
    folder; saving one again replaces it and leaves the others. Of several processes, process 0 writes.

    Args:
        dataset: What `pipeline.run` returned.
        folder: The dataset's folder.
        pipeline: The pipeline, for the card.
        config_name: Name of the configuration, and of its subfolder.

    Returns:
        The rows that were saved, and the failures.

    Raises:
        FileExistsError: If a file would be overwritten that this function has not written.
        ValueError: If the name of the configuration can't be a folder's.
    """
    if not config_name or not config_name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"config_name is {config_name!r}; use letters, digits, '_' and '-'.")
    home = Path(folder) / config_name
    rows, failures = split_failures(dataset)
    if not is_main_process():
        return rows, failures
    _check_ours(Path(folder), home)
    writing = home.with_name(f".{config_name}-writing")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    if not len(rows):
        logger.warning("no row of %s is left: it is told in the card, and there is nothing to load", config_name)
    files = -(-len(rows) // _ROWS_PER_FILE)
    for number in range(files):
        shard = rows.shard(num_shards=files, index=number, contiguous=True)
        shard.to_parquet(writing / f"train-{number:05d}-of-{files:05d}.parquet")
    (writing / _FACTS).write_text(ConfigCard.of(config_name, rows, failures, pipeline).to_json(), encoding="utf-8")
    shutil.rmtree(home, ignore_errors=True)  # only now: what was there before is whole until the new one is
    writing.rename(home)
    cards = [
        ConfigCard.from_json(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob(f"[!.]*/{_FACTS}"))
    ]
    card = render_card(Path(folder).resolve().name, cards)
    (Path(folder) / "README.md").write_text(card, encoding="utf-8")
    return rows, failures


def _check_ours(folder: Path, home: Path) -> None:
    """Check that nothing will be overwritten that `save` has not written.

    Raises:
        FileExistsError: If something would.
    """
    if home.exists() and not (home / _FACTS).exists():
        raise FileExistsError(f"{home} is there and was not written by hfsynth; give another folder or config_name.")
    if (folder / "README.md").exists() and not list(folder.glob(f"*/{_FACTS}")):
        raise FileExistsError(f"{folder} has a README.md that was not written by hfsynth; give another folder.")
