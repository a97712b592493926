"""Files of a published dataset: which are ours, and writing them to a folder."""

import logging
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetDict,
    DatasetInfo,
    LargeList,
    List,
    SplitDict,
    SplitInfo,
    Value,
    concatenate_datasets,
)
from datasets.features.features import require_storage_embed
from datasets.table import embed_table_storage
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from hfsynth.analysis.diversity import NEAR, measure_quick_diversity
from hfsynth.analysis.plots import draw_funnel, draw_lengths, draw_similarity
from hfsynth.distributed import is_main_process
from hfsynth.inputs import find_path
from hfsynth.metadata import METADATA_COLUMN, failures_dataset, split_failures, step_names
from hfsynth.progress import without_bars
from hfsynth.publish import card
from hfsynth.publish.card import read_metadata, write_card
from hfsynth.publish.card_data import ConfigFacts, SplitFacts
from hfsynth.publish.file_names import FACTS, conflict, is_ours, numbered
from hfsynth.recipe import write_recipe
from hfsynth.run_record import RunRecord, read_off, records
from hfsynth.step import Step

_SPLIT = re.compile(r"\w+(\.\w+)*")
_BYTES_PER_SHARD = 500 * 1000**2


def check_config_name(config_name: str) -> None:
    """Check that a configuration's name can be a folder's.

    Raises:
        ValueError: If it can't.
    """
    if not config_name or not config_name.replace("_", "").replace("-", "").isalnum() or not config_name.isascii():
        raise ValueError(f"config_name is {config_name!r}; use letters, digits, '_' and '-'.")


def splits_of(dataset: Dataset | DatasetDict) -> dict[str, Dataset]:
    """Return the splits of a dataset; one alone is `train`.

    Raises:
        TypeError: If it is neither a Dataset nor a DatasetDict.
        ValueError: If the splits have different columns.
    """
    if isinstance(dataset, Dataset):
        return {"train": dataset}
    if not isinstance(dataset, DatasetDict):
        raise TypeError(f"a Dataset or a DatasetDict can be published, not {type(dataset).__name__}.")
    splits = {str(name): split for name, split in dataset.items()}
    if odd := [name for name in splits if not _SPLIT.fullmatch(name) or name == "all"]:
        raise ValueError(f"{odd[0]!r} can't be the name of a split; use letters, digits, '_' and '.', and not 'all'.")
    columns = {name: split.features for name, split in splits.items()}
    if not splits or any(features != next(iter(columns.values())) for features in columns.values()):
        raise ValueError(f"all splits of a configuration need the same columns; these have {columns}.")
    return splits


def write_config(folder: Path, dataset: Dataset | DatasetDict, config_name: str, steps: Sequence[Step]) -> ConfigFacts:
    """Write all files of a configuration but its facts.

    Args:
        folder: An empty folder, for the files.
        dataset: The rows.
        config_name: The configuration's name.
        steps: What made the rows, where they don't tell themselves.

    Returns:
        The facts, for `write_facts`.
    """
    splits = {name: split.with_format(None) for name, split in splits_of(dataset).items()}
    told, written = list[SplitFacts](), list[SplitInfo]()
    kept = set[str]()  # files of failures that a split has: of splits of one run, the first
    with without_bars():
        for name, split in splits.items():
            rows, failed = _parted(split)
            size, runs = _write_rows(folder, name, rows), _runs(split, steps)
            fresh = [run for run in runs if run.failures_file not in kept]
            failures = _with_kept(
                failed, fresh, _others(fresh, [split for other, split in splits.items() if other != name])
            )
            kept |= {run.failures_file for run in runs}
            if len(failures):
                (folder / "failures").mkdir(exist_ok=True)
                failures.to_parquet(folder / "failures" / f"{name}.parquet")
            told.append(SplitFacts.of(name, rows, (len(failures), len(failed)), runs, measure_quick_diversity(rows)))
            written.append(SplitInfo(name, num_bytes=size, num_examples=len(rows)))
    features = next(iter(splits.values())).features
    facts = ConfigFacts(
        config_name=config_name,
        columns={name: kind_of(feature) for name, feature in features.items()},
        splits=tuple(told),
        info=_info(config_name, DatasetInfo(features=features), written, folder),
    )
    _write_recipes(folder, facts)
    _write_pictures(folder, facts)
    return facts


def write_facts(folder: Path, facts: ConfigFacts, stated: Mapping[str, Mapping[str, Any]]) -> ConfigFacts:
    """Write the facts, with what the cards of models and sources state, as the last file."""
    facts = replace(facts, stated=dict(stated))
    (folder / FACTS).write_text(facts.to_json(), encoding="utf-8")
    return facts


def kind_of(feature: Any) -> str:
    """Name the type of a column, for people.

    >>> from datasets import List, Value
    >>> kind_of(Value("string")), kind_of(List({"role": Value("string"), "content": Value("string")}))
    ('string', 'list of {role, content}')
    """
    if isinstance(feature, List | LargeList):
        return f"list of {kind_of(feature.feature)}"
    if isinstance(feature, Mapping):
        return "{" + ", ".join(map(str, feature)) + "}"
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__


def _parted(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Part rows from failures; where no technique left its mark, all are rows."""
    if METADATA_COLUMN in dataset.column_names:
        return split_failures(dataset)
    return dataset, failures_dataset([])


def _runs(dataset: Dataset, steps: Sequence[Step]) -> tuple[RunRecord, ...]:
    """Return the runs that made a dataset, as it tells itself or as its rows do."""
    found = records(dataset)
    known = {step.name for run in found for step in run.steps}
    names = [name for name in step_names(dataset)[0] if name not in known]
    return (*found, read_off(dataset, names, steps)) if names else tuple(found)


def _key(failure: Mapping[str, Any]) -> tuple[str, int]:
    """Return what tells a failure from the others of a run."""
    return failure["step"], failure["row"]


def _others(runs: Sequence[RunRecord], splits: Sequence[Dataset]) -> set[tuple[str, int]]:
    """Return the failures in other splits that these runs made too: they are told there."""
    files = {run.failures_file for run in runs if run.failures_file}
    shared = [split for split in splits if files & {run.failures_file for run in records(split)}]
    return {_key(failure) for split in shared for failure in _parted(split)[1]}


def _with_kept(failed: Dataset, runs: Sequence[RunRecord], others: Collection[tuple[str, int]]) -> Dataset:
    """Add the failures that runs kept, among them those of rows that were dropped, but for those of other splits."""
    files = {run.failures_file: run for run in runs if run.failures_file and Path(run.failures_file).is_file()}
    told = {step.name for run in files.values() for step in run.steps}
    kept = [Dataset(pq.read_table(file)).cast(failed.features) for file in files]
    here = [part.filter(lambda row: _key(row) not in others) if others else part for part in kept]
    return concatenate_datasets([*here, failed.filter(lambda row: row["step"] not in told)]) if kept else failed


def _write_rows(folder: Path, split: str, rows: Dataset) -> int:
    """Write rows as shards, batch by batch, one at least; return their size in memory."""
    whole = rows.data.nbytes * len(rows) // max(rows.data.num_rows, 1)
    shards = max(min(whole // _BYTES_PER_SHARD + 1, len(rows)), 1)
    size = 0
    for number in range(shards):
        shard = rows.shard(num_shards=shards, index=number, contiguous=True)
        if require_storage_embed(rows.features):  # an image in a file of one's own becomes a part of the shard
            shard = shard.with_format("arrow").map(embed_table_storage, batched=True, batch_size=100)
        size += shard.with_format(None).to_parquet(folder / f"{split}-{number:05d}-of-{shards:05d}.parquet")
    return size


def _info(config_name: str, info: DatasetInfo, splits: Sequence[SplitInfo], folder: Path) -> dict[str, Any]:
    """Return a configuration's entry in `dataset_info`, as datasets writes it."""
    info.splits = SplitDict({split.name: split for split in splits})
    info.dataset_size = sum(split.num_bytes for split in splits)
    files = [file for split in splits for file in folder.glob(f"{split.name}-*.parquet")]
    info.download_size = sum(file.stat().st_size for file in files)
    return {"config_name": config_name, **info._to_yaml_dict()}


def _write_recipes(folder: Path, facts: ConfigFacts) -> None:
    for number, run in enumerate(facts.runs, 1):
        recipes = [step.recipe for step in run.steps if step.recipe]
        if recipes:
            text = write_recipe(recipes, run.chunk_size or None, run.source.recipe)
            (folder / numbered("hfsynth.yaml", number)).write_text(text, encoding="utf-8")


def _write_pictures(folder: Path, facts: ConfigFacts) -> None:
    from hfsynth.publish.diagram_image import draw_diagram  # matplotlib: as long as all other imports

    for number, run in enumerate(facts.runs, 1):
        (folder / numbered("steps.png", number)).write_bytes(draw_diagram(card.diagram(run)))
        if stages := card.funnel(run):
            (folder / numbered("funnel.png", number)).write_bytes(draw_funnel(stages))
    lengths = {name: found.lengths for name, _, found in card.figures(facts) if found.lengths}
    if lengths:
        (folder / "lengths.png").write_bytes(draw_lengths(lengths, "characters"))
    for number, split in enumerate(facts.splits, 1):
        if split.glance and split.glance.similarity:
            picture = draw_similarity({split.glance.column: split.glance.similarity}, NEAR)
            (folder / numbered("similarity.png", number)).write_bytes(picture)


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


def load_failures(name: str, config: str | None, split: str, revision: str | None = None) -> Dataset | None:
    """Load the failures that were saved or pushed beside a dataset's rows; None where there are none."""
    file = _find_file(name, f"{config or 'default'}/failures/{split}.parquet", revision)
    return Dataset(pq.read_table(file)) if file else None


def load_runs(name: str, config: str | None, split: str, revision: str | None = None) -> tuple[RunRecord, ...]:
    """Load the records of the runs that made a split, saved or pushed beside its rows; () where there are none.

    Raises:
        ValueError: If another version wrote them.
    """
    file = _find_file(name, f"{config or 'default'}/{FACTS}", revision)
    splits = ConfigFacts.from_json(file.read_text(encoding="utf-8")).splits if file else ()
    return next((facts.runs for facts in splits if facts.name == split), ())


def _find_file(name: str, place: str, revision: str | None) -> Path | None:
    """Find a file of a dataset in a folder or on the Hub; None where there is none."""
    path = find_path(name)
    if path is not None:
        file = path / place
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(name, place, repo_type="dataset", revision=revision))
    except EntryNotFoundError:
        return None
