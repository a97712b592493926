"""Writing and reading of a published dataset's folder: rows, failures, recipes, images, facts and the card.

`record.py` defines the failures dataset; `card.py` renders the card.
"""

import hashlib
import logging
import re
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetDict,
    DatasetInfo,
    Features,
    LargeList,
    List,
    SplitDict,
    SplitInfo,
    Value,
    concatenate_datasets,
)
from datasets.exceptions import DatasetsError
from datasets.features.features import require_storage_embed
from datasets.table import embed_table_storage

from hfsynth.analysis.diversity import NEAR, measure_quick_diversity
from hfsynth.analysis.render import draw_diagram, draw_funnel, draw_lengths, draw_similarity
from hfsynth.distributed import only_process_0
from hfsynth.llm import Origin
from hfsynth.progress import without_bars
from hfsynth.publish import card
from hfsynth.publish.card_data import ConfigFacts, SplitFacts, numbered_name
from hfsynth.recipe import write_recipe
from hfsynth.record import (
    METADATA_COLUMN,
    Node,
    RunRecord,
    Source,
    StepRecord,
    StepTally,
    dropped_rows,
    failed_rows,
    failures_dataset,
    records,
    replace_last_record,
    split_failures,
    step_names,
)
from hfsynth.step import Step, as_step
from hfsynth.technique import Technique
from hfsynth.text import one_line
from hfsynth.training_format import TrainingFormat, training_format

logger = logging.getLogger(__name__)
FACTS_FILE = "hfsynth.json"
"""File with the facts of a configuration, in its folder; marks the configuration as written by hfsynth."""
_GENERATED = re.compile(
    r"[\w.]+-\d{5}-of-\d{5}\.parquet|failures/[\w.]+\.parquet|hfsynth(-\d+)?\.(json|yaml)|((steps|funnel|similarity)(-\d+)?|lengths)\.png"
)
_DATA_SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".arrow", ".zip", ".tar", ".gz")
SPLIT_NAME = re.compile(r"\w+(\.\w+)*")
_BYTES_PER_SHARD = 500 * 1000**2
_BYTES_READ_AT_ONCE = 1 << 20


def save(
    dataset: Dataset | DatasetDict,
    folder: str | Path,
    *,
    config_name: str = "default",
    steps: Sequence[Step] = (),
    format: TrainingFormat | str | None = None,
) -> None:
    """Write the rows on which no step failed as one configuration of a dataset folder, with a dataset card.

    A second save of a configuration replaces it; other configurations, other files and the user's text in the card
    are not changed. With several processes, process 0 writes; the others wait until it has.

    Args:
        dataset: The result of `pipeline.run`, or of `Dataset.map` with a technique.
        folder: The dataset's folder.
        config_name: Name of the configuration, and of its subfolder.
        steps: The techniques of a dataset that `Dataset.map` generated; the result of a run contains them.
        format: The training format: a `TrainingFormat`, or the name of its type, such as "prompt-completion".
            Default: the columns are not changed.

    Raises:
        ColumnError: If the rows lack a column of the format.
        FileExistsError: If the save would overwrite files that hfsynth did not write.
        RunError: In processes other than 0, if process 0 can't save.
        ValueError: If `config_name` can't be a folder's name, or the card in the folder can't be read.

    >>> save(dataset, "my-dataset")  # doctest: +SKIP
    """
    check_config_name(config_name)
    splits_of(dataset)
    target = Path(folder) / config_name
    with only_process_0(f"saving {target.absolute()}") as is_chosen:
        if is_chosen:
            _save(dataset, target, steps, format)


def _save(
    dataset: Dataset | DatasetDict, target: Path, steps: Sequence[Step], format: TrainingFormat | str | None
) -> None:
    """Write a configuration and the card under temporary names, then rename them."""
    folder, config_name = target.parent, target.name
    readme, writing, replaced = (
        folder / "README.md",
        target.with_name(f".{target.name}-writing"),
        target.with_name(f".{target.name}-replaced"),
    )
    if replaced.exists() and not target.exists():  # a save was killed between its two renames
        replaced.rename(target)
    head = readme.read_text(encoding="utf-8") if readme.exists() else ""
    present = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if reason := overwrite_conflict(config_name, present, card.read_metadata(head)[0]):
        raise FileExistsError(f"{folder}: {reason}.")
    before = read_facts(folder)
    for leftover in (writing, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    writing.mkdir(parents=True)
    facts = write_facts(writing, write_config(writing, dataset, config_name, steps, format), {})
    if not facts.rows:
        logger.warning("configuration %s has no rows; its card lists the reasons", config_name)
    now = {**{one.config_name: one for one in before}, config_name: facts}
    text = card.write_card(folder.resolve().name, head, before, [now[name] for name in sorted(now)])
    for path in present:
        if path.startswith(f"{config_name}/") and not is_generated_file(path, config_name):
            copy = writing / Path(path).relative_to(config_name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / path, copy)
    writing_card = folder / ".README.md-writing"
    writing_card.write_text(text, encoding="utf-8")
    if target.exists():
        target.rename(replaced)
    writing.rename(target)
    writing_card.replace(readme)
    shutil.rmtree(replaced, ignore_errors=True)


def check_config_name(config_name: str) -> None:
    """Check that a configuration's name can be a folder's name.

    Raises:
        ValueError: If the name has other characters than letters, digits, "_" and "-".
    """
    if not config_name or not config_name.replace("_", "").replace("-", "").isalnum() or not config_name.isascii():
        raise ValueError(f"config_name may have letters, digits, '_' and '-', got {config_name!r}.")


def splits_of(dataset: Dataset | DatasetDict) -> dict[str, Dataset]:
    """Return the splits of a dataset; a `Dataset` is the split `train`.

    Raises:
        TypeError: If it is neither a Dataset nor a DatasetDict.
        ValueError: If a split's name is not allowed, or the splits have different columns.
    """
    if isinstance(dataset, Dataset):
        return {"train": dataset}
    if not isinstance(dataset, DatasetDict):
        raise TypeError(f"dataset must be a Dataset or a DatasetDict, got {type(dataset).__name__}.")
    splits = {str(name): split for name, split in dataset.items()}
    if invalid := [name for name in splits if not SPLIT_NAME.fullmatch(name) or name == "all"]:
        raise ValueError(
            f"a split's name may have letters, digits, '_' and '.', and not be 'all', got {invalid[0]!r}."
        )
    columns = {name: split.features for name, split in splits.items()}
    if not splits or any(features != next(iter(columns.values())) for features in columns.values()):
        raise ValueError(f"all splits of a configuration need the same columns, got {columns}.")
    return splits


def overwrite_conflict(config_name: str, paths: Collection[str], metadata: Mapping[str, Any]) -> str:
    """Return the reason why writing a configuration would lose or hide the user's files; "" if none would be.

    Args:
        config_name: The configuration.
        paths: The files of the repository or folder.
        metadata: The YAML header of its card.
    """
    ours = generated_configs(paths)
    inside = sorted(path for path in paths if path.startswith(f"{config_name}/"))
    if inside and config_name not in ours:
        return f"{config_name}/ has files that hfsynth did not write: {inside[:3]}; use another config_name"
    infos = metadata.get("dataset_info") or []
    entries = [*(metadata.get("configs") or []), *(infos if isinstance(infos, list) else [infos])]
    named = {str(entry.get("config_name", "default")) for entry in entries if isinstance(entry, Mapping)}
    if config_name in named - ours:
        return f"hfsynth did not write the configuration {config_name!r} there; use another config_name"
    if metadata.get("configs"):
        return ""
    data = [path for path in paths if path.endswith(_DATA_SUFFIXES) and path.partition("/")[0] not in ours]
    visible = sorted(path for path in data if not any(part.startswith((".", "_")) for part in path.split("/")))
    if visible:
        return (
            f"the card names no configuration for the data files {visible[:3]}, which would no longer be loaded; "
            "add `configs` with them to README.md first"
        )
    return ""


def is_generated_file(path: str, config_name: str) -> bool:
    """Return whether a file has a name that hfsynth uses in the folder of a configuration.

    >>> is_generated_file("default/train-00000-of-00001.parquet", "default")
    True
    >>> is_generated_file("default/notes.md", "default")
    False
    """
    folder, _, name = path.partition("/")
    return folder == config_name and bool(_GENERATED.fullmatch(name))


def generated_configs(paths: Collection[str]) -> set[str]:
    """Return the configurations that hfsynth wrote, from the files of a repository or folder."""
    ending = f"/{FACTS_FILE}"
    return {path.removesuffix(ending) for path in paths if path.endswith(ending) and path.count("/") == 1}


def write_config(
    folder: Path,
    dataset: Dataset | DatasetDict,
    config_name: str,
    steps: Sequence[Step],
    format: TrainingFormat | str | None = None,
) -> ConfigFacts:
    """Write all files of a configuration except its facts.

    Args:
        folder: An empty folder, for the files.
        dataset: The rows.
        config_name: The configuration's name.
        steps: The techniques of a dataset that `Dataset.map` generated.
        format: As for `save`.

    Returns:
        The facts, for `write_facts`.

    Raises:
        ColumnError: If the rows lack a column of the format.
    """
    splits = {name: split.with_format(None) for name, split in splits_of(dataset).items()}
    dropped: Mapping[str, Dataset] = {}
    if format is not None:
        with without_bars():
            splits, dropped = apply_format(splits, training_format(format))
    facts_of_splits, infos = list[SplitFacts](), list[SplitInfo]()
    written_failures = set[str]()  # if a run had several splits, the first one gets the failures of dropped rows
    with without_bars():
        for name, split in splits.items():
            rows, failed = _split_failures(split)
            size = _write_rows(folder, name, rows)
            runs = _runs(split, name, steps)
            new_runs = [run for run in runs if run.failures_file not in written_failures]
            written_failures |= {run.failures_file for run in runs}
            others = [other for other_name, other in splits.items() if other_name != name]
            failures = _add_recorded_failures(failed, new_runs, _failures_in(others, new_runs))
            failures = concatenate_datasets([failures, dropped[name]]) if dropped.get(name) else failures
            if len(failures):
                (folder / "failures").mkdir(exist_ok=True)
                failures.to_parquet(folder / "failures" / f"{name}.parquet")
            facts_of_splits.append(
                SplitFacts.of(name, rows, failures=len(failures), runs=runs, diversity=measure_quick_diversity(rows))
            )
            infos.append(SplitInfo(name, num_bytes=size, num_examples=len(rows)))
    features = next(iter(splits.values())).features
    facts = ConfigFacts(
        config_name=config_name,
        columns={name: column_type(feature) for name, feature in features.items()},
        splits=tuple(facts_of_splits),
        info=dataset_info(config_name, features, infos, folder),
    )
    _write_recipes(folder, facts)
    _write_images(folder, facts)
    return facts


def write_facts(folder: Path, facts: ConfigFacts, origins: Mapping[str, Origin]) -> ConfigFacts:
    """Write the facts, with the origins of models and sources, as the last file of a configuration."""
    facts = replace(facts, origins=dict(origins), checksums=file_checksums(folder))
    (folder / FACTS_FILE).write_text(facts.to_json(), encoding="utf-8")
    return facts


def read_facts(folder: Path) -> list[ConfigFacts]:
    """Read the facts of all configurations in a folder."""
    files = sorted(folder.glob(f"[!.]*/{FACTS_FILE}"))
    return [ConfigFacts.from_json(file.read_text(encoding="utf-8")) for file in files]


def file_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 in hex of each file of a configuration except its facts, by path within the folder.

    Files that hfsynth did not write are left out.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: _checksum(path)
        for name, path in paths.items()
        if name != FACTS_FILE and is_generated_file(f"{folder.name}/{name}", folder.name)
    }


def dataset_info(config_name: str, features: Features, splits: Sequence[SplitInfo], folder: Path) -> dict[str, Any]:
    """Return a configuration's entry in `dataset_info` of the header, as datasets writes it.

    Args:
        config_name: The configuration.
        features: Its columns.
        splits: Its splits.
        folder: The folder with its Parquet files.
    """
    info = DatasetInfo(features=features)
    info.splits = SplitDict({split.name: split for split in splits})
    info.dataset_size = sum(split.num_bytes for split in splits)
    files = [file for split in splits for file in folder.glob(f"{split.name}-*.parquet")]
    info.download_size = sum(file.stat().st_size for file in files)
    return {"config_name": config_name, **info._to_yaml_dict()}


def recipe_text(run: RunRecord) -> str:
    """Return the text of a run's `hfsynth.yaml`; "" if its steps have no recipes."""
    recipes = [step.recipe for step in run.steps if step.recipe]
    return write_recipe(recipes, run.chunk_size or None, run.source.recipe) if recipes else ""


def column_type(feature: Any) -> str:
    """Return the type of a column, as printed in the card.

    >>> column_type(Value("string")), column_type(List({"role": Value("string"), "content": Value("string")}))
    ('string', 'list of {role, content}')
    """
    if isinstance(feature, List | LargeList):
        return f"list of {column_type(feature.feature)}"
    if isinstance(feature, Mapping):
        return "{" + ", ".join(map(str, feature)) + "}"
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BYTES_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def _split_failures(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Split a dataset into rows and failures; a dataset without metadata has no failures."""
    if METADATA_COLUMN in dataset.column_names:
        return split_failures(dataset)
    return dataset, failures_dataset([])


def _runs(dataset: Dataset, split: str, steps: Sequence[Step]) -> tuple[RunRecord, ...]:
    """Return the recorded runs of a dataset; steps that only its rows name are added as one more run."""
    recorded = records(dataset)
    recorded_names = {step.name for run in recorded for step in run.steps}
    names = [name for name in step_names(dataset)[0] if name not in recorded_names]
    if not names:
        return tuple(recorded)
    steps = [as_step(step) for step in steps]
    written = {column for step in steps for column in step.written_features}
    inputs = [column for column in dataset.column_names if column not in {*written, METADATA_COLUMN}]
    generated = [_with_seeds_of_rows(step, split, dataset, inputs) for step in steps if step.name in names]
    is_of_split = any(step not in steps for step in generated)
    return (*recorded, replace(_record_from_rows(dataset, names, generated), split=split if is_of_split else ""))


def _with_seeds_of_rows(step: Step, split: str, dataset: Dataset, inputs: Sequence[str]) -> Step:
    """Return a step for a split if `with_split=True` generated the rows, else the step as it is.

    Args:
        step: A step that the rows name.
        split: The split.
        dataset: The rows, of which the first one with the step's entry is read.
        inputs: The columns that no step wrote.
    """
    of_split = step.for_split(split)
    if not isinstance(of_split, Technique):
        return step
    histories = (row[METADATA_COLUMN] or () for row in dataset.select_columns(METADATA_COLUMN))
    found = ((place, one) for place, entries in enumerate(histories) for one in entries if one["step"] == step.name)
    place, entry = next(found)
    batch = {name: [value] for name, value in dataset.select_columns(list(inputs))[place].items()} if inputs else {}
    return of_split if of_split.row_seeds([entry["row"]], batch)[0].request_seed(0) == entry["seed"] else step


def _failure_key(failure: Mapping[str, Any]) -> tuple[str, int]:
    """Return the step and row index, which identify a failure within a run."""
    return failure["step"], failure["row"]


def _failures_in(splits: Sequence[Dataset], runs: Sequence[RunRecord]) -> set[tuple[str, int]]:
    """Return the keys of the failures in the splits that share a run with `runs`."""
    files = {run.failures_file for run in runs if run.failures_file}
    shared = [split for split in splits if files & {run.failures_file for run in records(split)}]
    return {_failure_key(failure) for split in shared for failure in _split_failures(split)[1]}


def _add_recorded_failures(
    failed: Dataset, runs: Sequence[RunRecord], elsewhere: Collection[tuple[str, int]]
) -> Dataset:
    """Add the failures in the files of runs, which include dropped rows, to the failures in a split's rows.

    Args:
        failed: The failures in the split's rows.
        runs: The runs whose files are read.
        elsewhere: Keys of failures that belong to other splits, and are left out.
    """
    recorded_files = {run.failures_file: run for run in runs if run.failures_file}
    files = {file: run for file, run in recorded_files.items() if Path(file).is_file()}
    if lost := sorted(recorded_files.keys() - files.keys()):
        logger.warning("the failures and dropped rows of a run are left out: %s is missing", lost[0])
    if not files:
        return failed
    recorded_steps = {step.name for run in files.values() for step in run.steps}
    recorded = [Dataset(pq.read_table(file)).cast(failed.features) for file in files]
    ours = [part.filter(lambda row: _failure_key(row) not in elsewhere) if elsewhere else part for part in recorded]
    return concatenate_datasets([*ours, failed.filter(lambda row: row["step"] not in recorded_steps)])


def _write_rows(folder: Path, split: str, rows: Dataset) -> int:
    """Write rows as one or more shards; return their size in memory, in bytes."""
    total = rows.data.nbytes * len(rows) // max(rows.data.num_rows, 1)
    shards = max(min(total // _BYTES_PER_SHARD + 1, len(rows)), 1)
    size = 0
    for number in range(shards):
        shard = rows.shard(num_shards=shards, index=number, contiguous=True)
        if require_storage_embed(rows.features):  # embed images from separate files into the shard
            shard = shard.with_format("arrow").map(embed_table_storage, batched=True, batch_size=100)
        size += shard.with_format(None).to_parquet(folder / f"{split}-{number:05d}-of-{shards:05d}.parquet")
    return size


def _write_recipes(folder: Path, facts: ConfigFacts) -> None:
    for number, run in enumerate(facts.runs, 1):
        if text := recipe_text(run):
            (folder / numbered_name("hfsynth.yaml", number)).write_text(text, encoding="utf-8")


def _write_images(folder: Path, facts: ConfigFacts) -> None:
    for number, run in enumerate(facts.runs, 1):
        (folder / numbered_name("steps.png", number)).write_bytes(draw_diagram(card.run_diagram(run)))
        if stages := card.funnel_stages(run):
            (folder / numbered_name("funnel.png", number)).write_bytes(draw_funnel(stages))
    lengths = {name: found.lengths for name, _, found in card.text_statistics(facts) if found.lengths}
    if lengths:
        (folder / "lengths.png").write_bytes(draw_lengths(lengths, "characters"))
    for number, split in enumerate(facts.splits, 1):
        if split.diversity and split.diversity.similarity:
            image = draw_similarity({split.diversity.column: split.diversity.similarity}, NEAR)
            (folder / numbered_name("similarity.png", number)).write_bytes(image)


def apply_format(splits: Mapping[str, Dataset], form: TrainingFormat) -> tuple[DatasetDict, dict[str, Dataset]]:
    """Return the splits in a format, and for each split the rows that the format dropped (`FAILURE_FEATURES`).

    The format is added to the splits' records as the last step, so that the recipe includes it.

    Args:
        splits: The rows of each split, by name.
        form: The format.

    Raises:
        ColumnError: If a column is missing, or can't be read.
    """
    parts = {name: form.split(split) for name, split in splits.items()}
    counts: dict[str, list[StepRecord]] = {}
    for name, split in splits.items():
        if runs := records(split):
            counts.setdefault(runs[-1].to_json(), []).append(_step_record(split, parts[name], form))
    for name, split in splits.items():
        if runs := records(split):
            step, *others = counts[runs[-1].to_json()]
            for other in others:  # splits of one run share its record
                step = step.plus(other)
            replace_last_record(parts[name].kept, replace(runs[-1], steps=(*runs[-1].steps, step)))
    return DatasetDict({name: part.kept for name, part in parts.items()}), {n: p.dropped for n, p in parts.items()}


def _step_record(before: Dataset, part: tuple[Dataset, Dataset], form: TrainingFormat) -> StepRecord:
    kept, dropped = part
    return StepRecord(
        form.name,
        form.describe(),
        form.node(before.column_names),
        rows_in=len(before) - len(failed_rows(before)),
        rows_out=len(kept) - len(failed_rows(kept)),
        stopped=dict(Counter(dropped_rows(dropped)["rule"])),
    )


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

    def loaded_files(self, split: SplitFacts) -> list[str]:
        """List the Parquet files that the card's header assigns to a split, by name."""
        return sorted(path.name for path in self.config_folder.glob(f"{split.name}-*.parquet"))

    def fault(self) -> str:
        """Return the reason if the rows or failures of a split can't be read; else ""."""
        try:
            for split in self.facts.splits:
                self.rows(split)
                self.failures(split)
        except ValueError as error:
            return str(error)
        return ""

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
                raise ValueError(f"{shard} is no Parquet file: {one_line(error)}") from error
        try:
            with without_bars():
                return Dataset.from_parquet(shards)
        except DatasetsError as error:
            raise ValueError(f"the rows of {', '.join(shards)} can't be read: {one_line(error)}") from error

    def failures(self, split: SplitFacts) -> Dataset:
        """Load the failures of a split; an empty dataset if there is no file.

        Raises:
            ValueError: If the file can't be read, or has other columns.
        """
        file = self.config_folder / "failures" / f"{split.name}.parquet"
        expected = failures_dataset([])
        if not file.is_file():
            return expected
        try:
            found = Dataset(pq.read_table(file))
        except (ValueError, OSError) as error:
            raise ValueError(f"{file} is no Parquet file: {one_line(error)}") from error
        if missing := sorted({*expected.column_names} - {*found.column_names}):
            raise ValueError(f"{file} has the columns {found.column_names}, and lacks {missing}.")
        return found


def _record_from_rows(dataset: Dataset, names: Sequence[str], steps: Sequence[Step]) -> RunRecord:
    """Return a record of a dataset that `Dataset.map` generated, counted in its rows.

    The numbers are minimums, since rows may have been removed.

    Args:
        dataset: The rows, with `generation_metadata`.
        names: The names of the steps in the rows' entries.
        steps: The techniques with these names, for their configuration and columns, which the rows don't have.
    """
    by_name = {step.name: step for step in map(as_step, steps)}
    found = [_step_record_from_rows(dataset, name, by_name.get(name)) for name in names]
    return RunRecord(Source(found[0].rows_in, ()), tuple(found), 0)


def _step_record_from_rows(dataset: Dataset, name: str, step: Step | None) -> StepRecord:
    tally = StepTally(step=name)
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(10_000):
        tally.update(table)
    if step is None:
        return StepRecord(name, {}, Node(name, _model_of_step(dataset, name), (), ()), **tally.counts())
    inputs = [column for column in dataset.column_names if column not in step.written_features]
    return StepRecord(
        name,
        step.describe(),
        step.node(inputs),
        **tally.counts(),
        origin=step.origin(),
        same_rows=step.same_rows,
        citation=step.citation,
    )


def _model_of_step(dataset: Dataset, step: str) -> str:
    """Return the model in a step's first entry; "" if there is no entry."""
    for rows in dataset.select_columns(METADATA_COLUMN).iter(1):
        for entry in rows[METADATA_COLUMN][0] or ():
            if entry["step"] == step:
                return str(entry["model"])
    return ""
