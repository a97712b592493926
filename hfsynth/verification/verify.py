"""Verification of a published dataset against its record, and the report of the differences.

Checks without a model compare the files, figures, counts, recipes and card with the record. Then `remake.py` generates
selected rows again, and compares them with the published ones.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import unified_diff
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, SplitInfo
from datasets.features.features import require_decoding

from hfsynth.analysis.diversity import measure_quick_diversity
from hfsynth.data import sample_indices
from hfsynth.errors import ColumnError, RemakeError
from hfsynth.filter import Filter
from hfsynth.flow import Row
from hfsynth.llm import LLM
from hfsynth.pipeline import public_names
from hfsynth.publish.card import body_mark, read_body, read_metadata, render_body
from hfsynth.publish.card_data import SplitFacts, numbered_name
from hfsynth.publish.files import PublishedConfig, column_type, dataset_info, file_checksums, recipe_text
from hfsynth.publish.hub import load_published_config
from hfsynth.recipe import build_step, check_trusted, replace_model
from hfsynth.record import METADATA_COLUMN, RunRecord, StepRecord, StepTally, machine, versions
from hfsynth.samplers import Sampler
from hfsynth.step import DatasetFunction, Step
from hfsynth.technique import Technique
from hfsynth.text import counted
from hfsynth.verification.remake import RemadeRow, Remake, find_source_rows, own_columns

_MAX_LISTED = 10  # differences of one kind in the text
_CLOSE = 1e-9  # largest relative difference that rounding can explain
_BATCH_ROWS = 10_000
_PROMISES = {
    "row": "the same row in any batch",
    "chunk": "seeded, not bitwise: rounding depends on the rows that are computed together",
    "none": "neither seeded nor bitwise",
}
STATUS_ROWS_DIFFER = 3
"""Exit status if some remade rows differ, while files and figures are as recorded."""
STATUS_RECORD_DIFFERS = 4
"""Exit status if a file, a figure or the card is not as recorded."""


@dataclass(frozen=True)
class Check:
    """The comparison of one kind of statements in the record with the published files."""

    subject: str
    """The kind of statements, such as "files"."""
    compared: int
    """Number of statements."""
    differences: tuple[str, ...] = ()
    """A sentence for each statement that does not hold."""
    note: str = ""
    """The statements that could not be compared, with the reason; "" if all were."""


@dataclass(frozen=True)
class VerifiedRow:
    """A published row that was remade."""

    split: str
    row: int
    """Index in the split."""
    source_row: int | None
    """Index of the source row in the run's input; None if a user's function came before the first technique."""
    seed: int
    """Seed of the row's first request."""
    remade: RemadeRow


@dataclass(frozen=True)
class RemadeRows:
    """The remade rows, and the engines and sources they were remade with."""

    rows: tuple[VerifiedRow, ...]
    columns: tuple[str, ...]
    """The columns that were compared."""
    origins: tuple[str, ...]
    """The datasets or classes that the source rows were read from."""
    engines: tuple[str, ...]
    """The llms, each with its promise for repeated rows."""
    promise: str
    """The weakest promise of the llms for repeated rows (`LLM.same_rows`)."""
    machine: tuple[str, ...]
    """Differences from the recorded machine, versions and models."""
    skipped: tuple[str, ...]
    """Steps that could not be repeated, such as filters that compare rows with each other."""
    notes: tuple[str, ...]
    """The reasons for skipped steps, and the columns and rows that could not be compared."""

    @property
    def equal(self) -> int:
        """Number of equal rows."""
        return sum(row.remade.is_equal for row in self.rows)


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify`; `str` returns the report."""

    name: str
    """The dataset."""
    config_name: str
    commit: str
    """The dataset's commit on the Hub; "" for a folder."""
    checks: tuple[Check, ...]
    """The checks of files, figures, steps, recipes and card."""
    rows: RemadeRows | None
    """None if no rows were remade."""
    not_remade: str = ""
    """The reason if no rows could be remade; "" if rows were remade, or none were requested."""

    @property
    def is_as_recorded(self) -> bool:
        """Whether every file, figure and line of the card is as recorded."""
        return not any(check.differences for check in self.checks)

    @property
    def exit_status(self) -> int:
        """0 if nothing differs, 1 if no rows could be remade, `STATUS_ROWS_DIFFER` or `STATUS_RECORD_DIFFERS`."""
        if not self.is_as_recorded:
            return STATUS_RECORD_DIFFERS
        if self.not_remade:
            return 1
        return STATUS_ROWS_DIFFER if self.rows and self.rows.equal < len(self.rows.rows) else 0

    @property
    def verdict(self) -> str:
        """The outcome, in one or two sentences."""
        differing = [check.subject for check in self.checks if check.differences]
        first = f"not as recorded: {', '.join(differing)}" if differing else "files and figures are as recorded"
        if self.not_remade:
            return f"{first}; no rows were remade: {self.not_remade}"
        return f"{first}; {_rows_verdict(self.rows)}" if self.rows else f"{first}."

    def __str__(self) -> str:
        """Return the report as text."""
        return "\n".join(_report_lines(self))


def verify(
    name: str,
    config: str | None = None,
    *,
    rows: int = 20,
    seed: int = 0,
    revision: str | None = None,
    source: str | None = None,
    model: str | None = None,
    own: Sequence[type | DatasetFunction] = (),
) -> Verification:
    """Compare a published dataset with its record, and some of its rows with rows that are remade.

    Every figure of the record and of the card is computed from the rows, and every file is compared with its checksum.
    Then all steps of the recipe run over the source rows of the selected rows, with the recorded seeds.

    Args:
        name: The dataset on the Hub, `user/name`, or its folder.
        config: The configuration; None if the dataset has only one.
        rows: Number of rows to remake, which `seed` selects; 0 to load no model.
        seed: Selects the rows.
        revision: Commit, branch or tag of a dataset on the Hub.
        source: A dataset, folder or file to read the source rows from. Default: the dataset on the Hub that the record
            names, or else the columns of the source that the published rows still have.
        model: Name or folder to use for the recipe's models. Required if the model was in a folder, since a recipe
            then has only the folder's name.
        own: Your own classes and functions that the recipe names.

    Raises:
        ValueError: If `rows` or `seed` is negative, the dataset can't be found, or hfsynth did not write it.
        GenerationError: If a model can't be loaded.

    >>> from hfsynth import EchoLLM, Pipeline, TextGeneration, save
    >>> questions = Dataset.from_dict({"instruction": ["Name a colour.", "Name a fruit."]})
    >>> save(Pipeline((TextGeneration(EchoLLM()),)).run(questions, quiet=True), folder := getfixture("tmp_path") / "a")
    >>> verify(str(folder), rows=2).verdict
    'files and figures are as recorded; 2 of 2 rows are equal.'
    """
    for number, value in (("rows", rows), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{number} must be at least 0, got {value}.")
    published = load_published_config(name, config, revision)
    if fault := published.fault():
        found = (check_files(published), Check("figures", 1, (fault,)))
        return Verification(name, published.facts.config_name, published.commit, found, None, fault)
    checks = tuple(check(published) for check in (check_files, check_figures, check_steps, check_recipe, check_card))
    verification = Verification(name, published.facts.config_name, published.commit, checks, None)
    if not rows:
        return verification
    try:
        remade = _remake_rows(published, rows, seed, source, model, own)
    except (RemakeError, ColumnError) as error:
        return replace(verification, not_remade=str(error))
    return replace(verification, rows=remade)


# --- files and figures, without a model ---


def check_files(published: PublishedConfig) -> Check:
    """Compare the files of a configuration with the SHA-256 that its record states for each."""
    recorded, present = published.facts.checksums, file_checksums(published.config_folder)
    if not recorded:
        return Check("files", 0, note="the record has no checksums: an earlier version of hfsynth wrote it")
    differences = [f"{name} is missing" for name in recorded if name not in present]
    loaded = [name for split in published.facts.splits for name in published.loaded_files(split)]
    differences += [f"{name} is not in the record" for name in sorted({*present, *loaded}) if name not in recorded]
    differences += [
        f"{name} has the SHA-256 {present[name][:12]}…, and {recorded[name][:12]}… in the record"
        for name in recorded
        if name in present and present[name] != recorded[name]
    ]
    return Check("files", len(recorded), tuple(differences))


def check_figures(published: PublishedConfig) -> Check:
    """Compute the figures of all splits from their rows, and compare them with those of the record."""
    facts = published.facts
    recorded, computed = dict[str, Any](), dict[str, Any]()
    splits = dict[str, Dataset]()
    for split in facts.splits:
        rows = splits[split.name] = published.rows(split)
        found = SplitFacts.of(
            split.name,
            rows,
            failures=len(published.failures(split)),
            diversity=measure_quick_diversity(rows),
        )
        recorded[split.name] = asdict(replace(split, runs=()))
        computed[split.name] = asdict(found)
    features = next(iter(splits.values())).features
    sizes = {one["name"]: one["num_bytes"] for one in facts.info.get("splits", ())}
    infos = [SplitInfo(name, num_bytes=sizes.get(name, 0), num_examples=len(rows)) for name, rows in splits.items()]
    recorded |= {"columns": facts.columns, "info": facts.info}
    computed |= {
        "columns": {name: column_type(feature) for name, feature in features.items()},
        "info": dataset_info(facts.config_name, features, infos, published.config_folder),
    }
    values, others = (dict(_leaves(json.loads(json.dumps(one)))) for one in (recorded, computed))
    differences = [
        f"{name} is {_excerpt(values.get(name, 'nothing'))} in the record, and "
        f"{_excerpt(others.get(name, 'nothing'))} by the rows"
        for name in dict.fromkeys((*values, *others))
        if name not in values or name not in others or not _is_equal(values[name], others[name])
    ]
    return Check("figures", len(values), tuple(differences))


def check_steps(published: PublishedConfig) -> Check:
    """Compare the counts of each step with the entries of the rows, and with the files of failures.

    Rows that failed or were dropped are not published, so the published rows have at most the tokens of the record. If
    every row was published, the numbers must be equal.
    """
    facts = published.facts
    rows = [published.rows(split) for split in facts.splits]
    failures = [failure for split in facts.splits for failure in published.failures(split)]
    by_name: dict[str, list[StepRecord]] = {}
    for step in facts.steps:
        by_name.setdefault(step.name, []).append(step)
    is_complete = _is_complete(published)
    differences, without_files, compared = list[str](), list[str](), 0
    for name, steps in by_name.items():
        reasons = Counter(_failure_reason(failure) for failure in failures if failure["step"] == name)
        listed = sum((Counter(_recorded_reasons(step)) for step in steps), Counter[str]())
        if failures:
            compared += len(listed | reasons)
            differences += [
                f"{name}: {listed[reason]} rows with {reason!r} in the record, and {reasons[reason]} in the files of "
                "failures"
                for reason in listed | reasons
                if listed[reason] != reasons[reason]
            ]
        elif listed:
            without_files.append(name)
        if all(step.node.model for step in steps):  # techniques, which write entries
            compared += 3
            differences += _token_differences(name, steps, rows, is_complete)
    notes = [] if is_complete else ["tokens of rows that failed or were dropped are in the record alone"]
    if without_files:
        notes.append(f"no file has the failures of {', '.join(without_files)}")
    return Check("steps", compared, tuple(differences), "; ".join(notes))


def check_recipe(published: PublishedConfig) -> Check:
    """Compare each hfsynth.yaml with the steps of the run's record."""
    differences, compared = list[str](), 0
    for number, run in enumerate(published.facts.runs, 1):
        if not (expected := recipe_text(run)):
            continue
        compared += 1
        name = numbered_name("hfsynth.yaml", number)
        file = published.config_folder / name
        if not file.is_file():
            differences.append(f"{name} is missing")
        elif _recipe_content(file.read_bytes()) != _recipe_content(expected.encode()):
            differences.append(f"{name} has other steps than the record")
    return Check("recipes", compared, tuple(differences))


def check_card(published: PublishedConfig) -> Check:
    """Render the card's text and header from the record, and compare them with README.md line by line."""
    found = read_body(published.readme)
    if found is None:
        return Check("card", 1, ("README.md has no part that hfsynth wrote",))
    mark, body = found
    loaded_as = next((line for line in body.splitlines() if line.startswith("dataset = load_dataset(")), "")
    try:
        name = str(json.loads(f"[{loaded_as.partition('(')[2].rpartition(')')[0]}]")[0]) if loaded_as else ""
    except (ValueError, IndexError):
        return Check("card", 1, (f"the line {loaded_as!r:.120} of README.md was edited",))
    expected = render_body(name, published.others)
    changed = [
        line
        for line in unified_diff(expected.splitlines(), body.splitlines(), "record", "card", lineterm="", n=0)
        if line[0] in "+-" and not line.startswith(("+++", "---"))
    ]
    differences = [f"the card has the line {line[1:]!r:.120}" for line in changed if line[0] == "+"]
    differences += [f"the card lacks the line {line[1:]!r:.120}" for line in changed if line[0] == "-"]
    if mark != body_mark(body):
        differences.append("the part of README.md that hfsynth wrote was edited afterwards: its mark differs")
    differences += _header_differences(published)
    written_by = {step.versions.get("hfsynth", "") for config in published.others for step in config.steps} - {""}
    note = ""
    if changed and written_by - {version("hfsynth")}:
        note = f"hfsynth {', '.join(sorted(written_by))} wrote the card, and this is version {version('hfsynth')}"
    return Check("card", len(expected.splitlines()) + 1, tuple(differences), note)


def _header_differences(published: PublishedConfig) -> Iterator[str]:
    """Yield a sentence if the entry of the configuration in the card's header differs from the record."""
    header, _ = read_metadata(published.readme)
    infos = header.get("dataset_info") or []
    listed = infos if isinstance(infos, list) else [infos]
    name = published.facts.config_name
    if json.loads(json.dumps(published.facts.info)) not in json.loads(json.dumps(listed)):
        yield f"dataset_info of {name!r} in the header of README.md differs from the record"


def _is_complete(published: PublishedConfig) -> bool:
    """Return whether every input row was published: no row failed, was dropped or was left out."""
    facts = published.facts
    lossless = all(not step.failures and not step.dropped for step in facts.steps)
    is_single = all(len(split.runs) == 1 for split in facts.splits) and not any(run.wanted for run in facts.runs)
    rows_out = sum(run.steps[-1].rows_out for run in facts.runs if run.steps)
    return lossless and is_single and bool(facts.steps) and rows_out == facts.rows


def _token_differences(name: str, steps: list[StepRecord], rows: list[Dataset], is_complete: bool) -> Iterator[str]:
    tally = StepTally(step=name)
    for dataset in rows:
        if METADATA_COLUMN in dataset.column_names:
            for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_BATCH_ROWS):
                tally.update(table)
    for unit, counts in (
        ("rows out", (sum(step.rows_out for step in steps), tally.rows_out)),
        ("prompt tokens", (sum(step.prompt_tokens for step in steps), tally.prompt_tokens)),
        ("completion tokens", (sum(step.completion_tokens for step in steps), tally.completion_tokens)),
    ):
        recorded, found = counts
        if found > recorded or (is_complete and found != recorded):
            yield f"{name}: {recorded:,} {unit} in the record, and {found:,} by the rows"


def _recorded_reasons(step: StepRecord) -> Mapping[str, int]:
    """Return the record's numbers of failed rows by reason or, for a filter, of dropped rows by rule."""
    if step.node.makes is None:
        return {rule: rows for rule, rows in step.stopped.items() if rule}
    return step.failures


def _failure_reason(failure: Mapping[str, Any]) -> str:
    return str(failure["rule"] or failure["reason"])


def _recipe_content(text: bytes) -> Any:
    """Return a recipe's content without the version of hfsynth; None if the text is not YAML."""
    try:
        recipe = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return {name: value for name, value in recipe.items() if name != "hfsynth"} if isinstance(recipe, dict) else recipe


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of each leaf of nested mappings; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _is_equal(value: Any, other: Any) -> bool:
    """Return whether two values are equal; floats may differ by rounding."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_is_equal, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_is_equal(value[name], other[name]) for name in value)
    if isinstance(value, float) and isinstance(other, (int, float)):
        return math.isclose(value, other, rel_tol=_CLOSE)
    return bool(value == other)


def _excerpt(value: Any) -> str:
    return f"{value!r:.80}"


# --- rows that are remade ---


@dataclass(frozen=True)
class _Series:
    """The steps of one or more successive runs, and selected rows that they generated."""

    runs: tuple[RunRecord, ...]
    steps: tuple[Step, ...]
    split: SplitFacts
    published: Dataset
    places: tuple[int, ...]

    @property
    def records(self) -> list[StepRecord]:
        """The records of the steps."""
        return [record for run in self.runs for record in run.steps]


def _remake_rows(
    published: PublishedConfig,
    count: int,
    seed: int,
    source: str | None,
    model: str | None,
    own: Sequence[type | DatasetFunction],
) -> RemadeRows:
    """Select rows, remake them and compare them.

    Raises:
        RemakeError: If no row names its steps, or a recipe, a class or the source is missing.
        ColumnError: If the source rows lack a column that a step reads.
    """
    names = public_names() | {value.__name__: value for value in own}
    series_of_rows = _select_rows(published, count, seed, names, model)
    rows, engines = list[VerifiedRow](), list[LLM]()
    columns, origins, notes, skipped = list[str](), list[str](), list[str](), list[str]()
    if untracked := sum(split.untracked_rows for split in published.facts.splits):
        notes.append(f"{counted(untracked, 'row')} without generation_metadata: not among those selected")
    for series in series_of_rows:
        _check_inputs(series.steps)
        dropped = _dropped_rows(published, series.split)
        sources = find_source_rows(series.runs[0], series.steps, series.published, series.places, dropped, source)
        remake = Remake(series.steps, sources.features, dropped, sources.copied)
        selected = series.published.select(series.places)
        remade = remake.run(selected, sources.rows)
        rows += [
            VerifiedRow(series.split.name, place, index, entries[0]["seed"], one)
            for place, index, entries, one in zip(
                series.places, sources.indices, selected[METADATA_COLUMN], remade, strict=True
            )
        ]
        columns += remake.columns
        skipped += remake.skipped
        origins.append(sources.origin)
        notes += [note for note in (sources.note, *remake.notes) if note]
        engines += [step.llm for step in series.steps if isinstance(step, Technique)]
    promises = [promise for series in series_of_rows for promise in _promises(series)]
    return RemadeRows(
        rows=tuple(sorted(rows, key=lambda row: (row.split, row.row))),
        columns=tuple(dict.fromkeys(columns)),
        origins=tuple(dict.fromkeys(origins)),
        engines=tuple(dict.fromkeys(map(_describe_engine, engines))),
        promise=max(promises, key=list(_PROMISES).index),  # the weakest
        machine=tuple(dict.fromkeys(line for series in series_of_rows for line in _machine_differences(series))),
        skipped=tuple(dict.fromkeys(skipped)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _select_rows(
    published: PublishedConfig, count: int, seed: int, names: Mapping[str, Any], model: str | None
) -> list[_Series]:
    """Select rows of all splits that have metadata, and group them by the runs that generated them.

    Raises:
        RemakeError: If no row has metadata, or a row names steps that the record lacks.
    """
    splits = [(split, _without_media(published.rows(split))) for split in published.facts.splits]
    places = [(number, place) for number, (_, rows) in enumerate(splits) for place in range(len(rows))]
    by_series: dict[tuple[int, range], list[int]] = {}
    selected = 0
    for chosen in sample_indices(len(places), len(places), seed):
        number, place = places[chosen]
        split, rows = splits[number]
        entries = rows[place].get(METADATA_COLUMN) or ()
        if entries and selected < count:
            selected += 1
            by_series.setdefault((number, _runs_of_row(split, rows, place, names)), []).append(place)
        if selected == count:
            break
    if not selected:
        raise RemakeError(f"no row has {METADATA_COLUMN}, which names the steps, source rows and seeds.")
    series = list[_Series]()
    for (number, runs), chosen_places in sorted(by_series.items(), key=lambda item: (item[0][0], item[0][1].start)):
        split, rows = splits[number]
        found = split.runs[runs.start : runs.stop]
        series.append(_Series(found, _build_steps(found, names, model), split, rows, tuple(sorted(chosen_places))))
    return series


def _without_media(rows: Dataset) -> Dataset:
    """Remove columns of images, audio and video, which no step writes and whose decoding needs further packages."""
    return rows.remove_columns([name for name, kind in rows.features.items() if require_decoding(kind)])


def _runs_of_row(split: SplitFacts, rows: Dataset, place: int, names: Mapping[str, Any]) -> range:
    """Return the positions of the successive runs of a split whose techniques a row's metadata names.

    If there are several such series, the first one that gives the row's seed is returned.

    Raises:
        RemakeError: If there is none.
    """
    row = rows[place]
    steps = [entry["step"] for entry in row[METADATA_COLUMN]]
    found = [
        range(first, last)
        for first in range(len(split.runs))
        for last in range(first + 1, len(split.runs) + 1)
        if _technique_names(split.runs[first:last]) == steps
    ]
    if not found:
        raise RemakeError(f"a row of {split.name} names the steps {steps}, which are in no run of the record.")
    if len(found) == 1:
        return found[0]
    return next((runs for runs in found if _has_seed(split.runs[runs.start : runs.stop], rows, row, names)), found[0])


def _technique_names(runs: Sequence[RunRecord]) -> list[str]:
    return [step.name for run in runs for step in run.steps if step.node.model]


def _has_seed(runs: Sequence[RunRecord], rows: Dataset, row: Row, names: Mapping[str, Any]) -> bool:
    """Return whether the first technique of some runs gives a row's first seed."""
    steps = _build_steps(runs, names, None)
    technique = next(step for step in steps if isinstance(step, Technique))
    entry = row[METADATA_COLUMN][0]
    batch = {name: [row[name]] for name in own_columns(runs[0], steps, rows)}
    return bool(technique.row_seeds([entry["row"]], batch)[0].request_seed(0) == entry["seed"])


def _build_steps(runs: Sequence[RunRecord], names: Mapping[str, Any], model: str | None) -> tuple[Step, ...]:
    """Build the steps of some runs from their recipes.

    Raises:
        RemakeError: If a recipe or a class is missing, or `check_trusted` refuses the recipe.
    """
    steps = list[Step]()
    for record in (record for run in runs for record in run.steps):
        if not record.recipe:
            raise RemakeError(
                f"the record has no recipe of {record.name}; pass steps=[…] to save or push_to_hub for a dataset that "
                "Dataset.map generated."
            )
        try:
            check_trusted([record.recipe], model)
            recipe = replace_model(dict(record.recipe), model) if model else dict(record.recipe)
            steps.append(build_step(recipe, names))
        except (ValueError, TypeError) as error:
            raise RemakeError(str(error)) from error
    return tuple(steps)


def _check_inputs(steps: Sequence[Step]) -> None:
    """Check that each model's folder exists, if the recipe has only its name, and that steps can read their files.

    Raises:
        RemakeError: If a folder does not exist, or the personas or texts of a step can't be read.
    """
    for step in steps:
        if isinstance(step, Sampler) or (isinstance(step, Filter) and not step.stateful):
            try:
                step.check_ready()
            except ValueError as error:
                raise RemakeError(f"{step.name} can't be repeated: {error}") from error
        folder = str(getattr(step.llm, "model", "")) if isinstance(step, Technique) else ""
        if folder and "/" not in folder and not Path(folder).exists():
            raise RemakeError(f"the recipe has only the name {folder!r} of its model's folder; give it with --model.")


def _dropped_rows(published: PublishedConfig, split: SplitFacts) -> dict[str, list[int]]:
    """Return the indices of the rows that each filter dropped.

    If a run had several splits, the failures file of one split has the rows of all.
    """
    of_split = [failure for failure in published.failures(split) if failure["rule"]]
    of_others = [
        failure
        for other in published.facts.splits
        if any(run in split.runs for run in other.runs)
        for failure in published.failures(other)
        if failure["rule"] and failure["step"] not in {one["step"] for one in of_split}
    ]
    dropped: dict[str, list[int]] = {}
    for failure in (*of_split, *of_others):
        dropped.setdefault(failure["step"], []).append(failure["row"])
    return dropped


def _describe_engine(llm: LLM) -> str:
    """Return the class, model and dtype of an llm, and its promise for repeated rows."""
    dtype = getattr(llm, "dtype", "")
    return f"{type(llm).__name__} {llm.model_name}{dtype and f' in {dtype}'}: {_PROMISES[llm.same_rows]}"


def _promises(series: _Series) -> Iterator[str]:
    """Yield the promises of the recorded llms and of the current ones."""
    for record, step in zip(series.records, series.steps, strict=True):
        yield from (promise for promise in (record.same_rows, step.same_rows) if promise)


def _machine_differences(series: _Series) -> Iterator[str]:
    """Yield the differences between the recorded machine, versions and models and the current ones."""
    here = {"machine": machine(), **versions()}
    for record, step in zip(series.records, series.steps, strict=True):
        recorded = {"machine": record.machine, **record.versions}
        if not record.machine:
            yield f"{record.name}: the record names no machine and no versions"
            continue
        for name, value in recorded.items():
            if value != here.get(name):
                yield f"{name} {value} in the record, {here.get(name, 'missing')} here"
        commit = step.origin().commit
        if record.origin.commit and commit and commit != record.origin.commit:
            yield f"{record.name}: model at {record.origin.commit} in the record, at {commit} here"


# --- the report ---


def _rows_verdict(rows: RemadeRows) -> str:
    """Return the number of equal rows, and a possible reason for the others."""
    text = f"{rows.equal:,} of {len(rows.rows):,} rows are equal"
    if rows.skipped:
        text += f" (not repeated: {', '.join(rows.skipped)})"
    if rows.equal == len(rows.rows):
        return f"{text}."
    if any(row.remade.problem for row in rows.rows):
        return f"{text}; see the reasons above."
    if rows.promise != "row":
        return f"{text}; this engine is {_PROMISES[rows.promise]}."
    if rows.machine:
        return f"{text}; the machine or the versions differ from those of the record."
    return f"{text}, although this engine promises equal rows on this machine."


def _report_lines(verification: Verification) -> Iterator[str]:
    commit = f", commit {verification.commit[:12]}" if verification.commit else ""
    yield f"{verification.name}, {verification.config_name}{commit}"
    for check in verification.checks:
        yield f"{check.subject}: {check.compared - len(check.differences):,} of {check.compared:,} as recorded"
        yield from _list_items(check.differences)
        if check.note:
            yield f"  note: {check.note}"
    if rows := verification.rows:
        yield f"\nrows: {len(rows.rows):,} remade, from {', '.join(rows.origins)}"
        for name in rows.columns:
            equal = sum(not row.remade.problem and name not in row.remade.differences for row in rows.rows)
            yield f"  {name}: {equal:,} of {len(rows.rows):,} equal"
        yield from _list_items([line for row in rows.rows for line in _row_lines(row)])
        yield from (f"  note: {note}" for note in rows.notes)
        yield from (f"engine: {engine}" for engine in rows.engines)
        yield f"machine: {'; '.join(rows.machine) or 'as recorded'}"
    yield f"\n{verification.verdict}"


def _row_lines(row: VerifiedRow) -> Iterator[str]:
    source = "" if row.source_row is None else f" (source row {row.source_row:,}, seed {row.seed})"
    place = f"{row.split} row {row.row:,}{source}"
    if row.remade.problem:
        yield f"{place}: {row.remade.problem}"
    for name, difference in row.remade.differences.items():
        yield f"{place}: {name} {difference}"


def _list_items(lines: Sequence[str]) -> Iterator[str]:
    yield from (f"  - {line}" for line in lines[:_MAX_LISTED])
    if len(lines) > _MAX_LISTED:
        yield f"  - and {len(lines) - _MAX_LISTED:,} more"
