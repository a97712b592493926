"""A dataset in a folder, laid out as on the Hub: `load_dataset(folder, config_name)` reads it back."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict

from hfsynth.publishing.card import read_metadata, write_card
from hfsynth.publishing.facts import ConfigFacts
from hfsynth.publishing.files import check_config_name, splits_of, write_config, write_facts
from hfsynth.publishing.ownership import FACTS, conflict, is_ours
from hfsynth.running.crew import is_main_process
from hfsynth.steps import Step

logger = logging.getLogger(__name__)


def save(
    dataset: Dataset | DatasetDict,
    folder: str | Path,
    *,
    config_name: str = "default",
    steps: Sequence[Step] = (),
) -> None:
    """Write the rows on which no step failed as one configuration of a dataset folder, with a card that tells of them.

    Saving a configuration again replaces it and leaves the others, and what the user wrote in the card. Of several
    processes, process 0 writes.

    Args:
        dataset: What `pipeline.run` returned, or `Dataset.map` with a technique.
        folder: The dataset's folder.
        config_name: Name of the configuration, and of its subfolder.
        steps: The techniques, where the dataset was made by `Dataset.map`: a run's are in the dataset.

    Raises:
        FileExistsError: If something there, which hfsynth did not write, would be lost.
        ValueError: If the name of the configuration can't be a folder's, or the card there can't be read.
    """
    check_config_name(config_name)
    splits_of(dataset)
    home, card = Path(folder) / config_name, Path(folder) / "README.md"
    head = card.read_text(encoding="utf-8") if card.exists() else ""
    there = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
    if reason := conflict(config_name, there, read_metadata(head)[0]):
        raise FileExistsError(f"{folder}: {reason}.")
    if not is_main_process():
        return
    before = read_facts(Path(folder))
    writing = home.with_name(f".{config_name}-writing")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    facts = write_config(writing, dataset, config_name, steps)
    if not facts.rows:
        logger.warning("no row of %s is left; the card says what became of them", config_name)
    now = {**{one.config_name: one for one in before}, config_name: write_facts(writing, facts, {})}
    text = write_card(Path(folder).resolve().name, head, before, [now[name] for name in sorted(now)])
    for path in (path for path in there if path.startswith(f"{config_name}/") and not is_ours(path, config_name)):
        kept = writing / Path(path).relative_to(config_name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(folder) / path, kept)
    shutil.rmtree(home, ignore_errors=True)  # only now: what was there before is whole until the new one is
    writing.rename(home)
    card.write_text(text, encoding="utf-8")


def read_facts(folder: Path) -> list[ConfigFacts]:
    """Read the facts of all configurations that were saved to a folder."""
    return [ConfigFacts.from_json(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"[!.]*/{FACTS}"))]
