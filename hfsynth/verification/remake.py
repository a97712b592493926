"""Search for the source rows of published rows, generation from them by the recorded steps, and comparison."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features
from datasets.exceptions import DatasetsError
from rapidfuzz.distance import LCSseq

from hfsynth.data import load_rows
from hfsynth.errors import PushError, RemakeError
from hfsynth.filter import Filter
from hfsynth.flow import Attempt, Row, run_flows
from hfsynth.llm import LLM
from hfsynth.pipeline import read_source
from hfsynth.progress import without_bars
from hfsynth.publish.files import recipe_text
from hfsynth.record import METADATA_COLUMN, RunRecord
from hfsynth.runner.rounds import RowSource
from hfsynth.samplers import Sampler
from hfsynth.step import DatasetStep, Step
from hfsynth.technique import Batch, Technique

OWN_COLUMNS = "the dataset's own columns"
"""`SourceRows.origin` of source rows that were read from the published rows."""
_EXCERPT = 30  # characters of a text from its first difference on
_MAX_COMPARED = 2_000  # characters that are compared to choose the closest of several remade rows
_Job = tuple[int, str]
"""A row's index in a technique's input, and the row as JSON. Published rows from the same input row share a job."""


@dataclass(frozen=True)
class RemadeRow:
    """The comparison of a published row with the row that its source row yields now."""

    differences: Mapping[str, str]
    """Column that differs → the first difference in it."""
    problem: str = ""
    """The reason if the row was not remade: a step fails on it or drops it, or its seed differs; else ""."""

    @property
    def is_equal(self) -> bool:
        """Whether the row was remade, and all columns are equal."""
        return not self.problem and not self.differences


@dataclass
class _Chain:
    """A published row, and the candidates for it: the rows that its source row has become so far."""

    published: Row
    entries: list[Mapping[str, Any]]
    """The metadata of the remaining techniques."""
    candidates: list[Row]
    jobs: list[_Job] = field(default_factory=list)
    """The candidates, as input of the current technique."""
    problem: str = ""


@dataclass
class Remake:
    """Runs the steps of a run over source rows.

    Args:
        steps: The steps.
        features: The columns of the source rows.
        dropped: Indices of the input rows that each filter dropped, by the filter's name.
        copied: Columns of the source rows that were read from the published rows, and are therefore not compared.
    """

    steps: Sequence[Step]
    features: Features
    dropped: Mapping[str, Sequence[int]] = field(default_factory=dict)
    copied: Sequence[str] = ()
    columns: list[str] = field(default_factory=list, init=False)
    """The columns that were compared."""
    skipped: list[str] = field(default_factory=list, init=False)
    """The names of steps that could not be repeated."""
    notes: list[str] = field(default_factory=list, init=False)
    """The reasons for skipped steps, and the columns that could not be compared."""
    _llm: LLM | None = field(default=None, init=False)
    """The llm in memory."""

    def run(self, published: Dataset, sources: Sequence[Row]) -> list[RemadeRow]:
        """Remake rows, and compare them.

        Args:
            published: The published rows.
            sources: The source row of each published row.

        Raises:
            ColumnError: If the source rows lack a column that a step reads.
            GenerationError: If an llm can't be loaded.
        """
        chains = [
            _Chain(row, list(row[METADATA_COLUMN]), [dict(source)])
            for row, source in zip(published, sources, strict=True)
        ]
        features = self.features
        copied = set(self.copied)
        for place, step in enumerate(self.steps):
            running = [chain for chain in chains if not chain.problem]
            if isinstance(step, Technique):
                features = _without_metadata(step.features_after(features, place + 1) or features)
                self._run_technique(step, running, place)
            elif isinstance(step, Filter):
                self._run_filter(step, running, features)
            elif isinstance(step, Sampler):
                features = step.features_after(features, place + 1) or features
                copied |= self._run_sampler(step, running, self.steps[place + 1 :])
            elif isinstance(step, DatasetStep):
                features = self._run_dataset_step(step, running, features)
        names = [name for name in published.column_names if name != METADATA_COLUMN]
        self.columns = [name for name in names if name in features and name not in copied]
        if unchanged := [name for name in names if name in copied]:
            self._add_note(f"columns read from the published rows, and not compared: {', '.join(unchanged)}")
        if added := [name for name in names if name not in features]:
            self._add_note(f"columns of no step and no source, and not compared: {', '.join(added)}")
        return [self._compare(chain) for chain in chains]

    def _run_technique(self, technique: Technique, chains: Sequence[_Chain], place: int) -> None:
        """Replace each candidate by the technique's output rows; a candidate that rows share is run once."""
        if self._llm is not None and self._llm != technique.llm:
            self._llm.unload()  # two models are never in memory at once
        self._llm = technique.llm
        jobs: dict[_Job, Row] = {}
        for chain in chains:
            entry = chain.entries.pop(0)
            chain.candidates, chain.problem = _with_seed(technique, entry, chain.candidates)
            chain.jobs = [(int(entry["row"]), _sorted_json(row)) for row in chain.candidates]
            jobs |= zip(chain.jobs, chain.candidates, strict=True)
        is_generated = any(isinstance(step, Technique) for step in self.steps[:place])
        results = _complete(technique, jobs, is_generated)
        replaced = {name for step in self.steps[place + 1 :] for name in step.written_features}
        columns = [name for name in technique.written_features if name not in replaced]
        for chain in (chain for chain in chains if not chain.problem):
            rows = [row for job in chain.jobs for row in results[job][0]]
            chain.candidates = _closest_rows(rows, chain.published, columns)
            if not rows:
                chain.problem = f"{technique.name} fails: {results[chain.jobs[0]][1]}"

    def _run_filter(self, step: Filter, chains: Sequence[_Chain], features: Features) -> None:
        """Remove the candidates that a filter drops. A filter that compares rows with each other is skipped."""
        if step.stateful:
            self._skip(step, "compares a row with earlier ones")
            return
        step.check_columns(features)
        for chain in chains:
            values = [row[step.column] for row in chain.candidates]
            column = Features({step.column: features[step.column]})
            dropped = step.split(Dataset.from_dict({step.column: values}, features=column)).dropped
            places = {failure["row"] for failure in dropped}
            chain.candidates = [row for place, row in enumerate(chain.candidates) if place not in places]
            if not chain.candidates:
                chain.problem = f"{step.name} drops it: {dropped[0]['rule']}"

    def _run_sampler(self, step: Sampler, chains: Sequence[_Chain], later: Sequence[Step]) -> set[str]:
        """Sample columns of the candidates by their index; if the index is unknown, copy the published values.

        Returns:
            The copied columns.
        """
        copied = set[str]()
        for chain in chains:
            index = index_at(chain.entries, later, self.dropped)
            if index is None:
                self._skip(step, "samples by an index that the metadata does not have")
                copied |= set(step.sampled_columns)
                sampled = {name: chain.published.get(name) for name in step.sampled_columns}
            else:
                batch = {name: [chain.candidates[0].get(name)] for name in step.read_columns}
                sampled = {name: values[0] for name, values in step.sample([index], batch).items()}
            chain.candidates = [{**row, **sampled} for row in chain.candidates]
        return copied

    def _run_dataset_step(self, step: DatasetStep, chains: Sequence[_Chain], features: Features) -> Features:
        """Apply a function or format to the candidates of each row; if it raises or returns no row, skip it."""
        after = features
        for chain in chains:
            result = None
            with Attempt() as attempt, without_bars():
                result, _ = step.split(Dataset.from_list(chain.candidates, features=features))
            if attempt.error is None and result is not None and len(result):
                chain.candidates, after = result.to_list(), result.features
            else:
                fault = f" ({type(attempt.error).__name__}: {attempt.error!s:.200})" if attempt.error else ""
                self._skip(step, f"can't be applied to single rows{fault}")
        return _without_metadata(after)

    def _compare(self, chain: _Chain) -> RemadeRow:
        if chain.problem:
            return RemadeRow({}, chain.problem)
        row = _closest_rows(chain.candidates, chain.published, self.columns)[0]
        pairs = {name: (chain.published[name], row.get(name)) for name in self.columns}
        return RemadeRow({name: first_difference(*pair) for name, pair in pairs.items() if pair[0] != pair[1]})

    def _skip(self, step: Step, reason: str) -> None:
        if step.name not in self.skipped:
            self.skipped.append(step.name)
        self._add_note(f"{step.name} {reason}: not repeated")

    def _add_note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def index_at(
    entries: Sequence[Mapping[str, Any]], later: Sequence[Step], dropped: Mapping[str, Sequence[int]]
) -> int | None:
    """Return a row's index in the input of the first of some steps, from its index in the first technique's input.

    Args:
        entries: The metadata that these steps wrote.
        later: The steps.
        dropped: Indices of the input rows that each filter dropped, by the filter's name.

    Returns:
        The index; None if a function comes before the first technique, or there is no technique.
    """
    first = next((place for place, step in enumerate(later) if isinstance(step, Technique)), None)
    if first is None or has_function(later[:first]):
        return None
    index = int(entries[0]["row"])
    for step in reversed(later[:first]):
        for place in sorted(dropped.get(step.name, ())):
            index += place <= index
    return index


def has_function(steps: Sequence[Step]) -> bool:
    """Return whether a step may change columns and rows in any way: a user's function, or a format."""
    return not all(isinstance(step, Technique | Filter | Sampler) for step in steps)


def first_difference(published: Any, remade: Any) -> str:
    """Return a description of the first difference between two values.

    >>> first_difference("Red wine.", "Red beer.")
    "from character 4 on: 'wine.', remade 'beer.'"
    >>> first_difference([{"rule": "a"}], [{"rule": "b"}])
    "item 0, rule, from character 0 on: 'a', remade 'b'"
    """
    if isinstance(published, str) and isinstance(remade, str):
        pairs = enumerate(zip(published, remade, strict=False))
        place = next((place for place, (one, other) in pairs if one != other), min(len(published), len(remade)))
        ends = (text[place : place + _EXCERPT] for text in (published, remade))
        return f"from character {place} on: {next(ends)!r}, remade {next(ends)!r}"
    if isinstance(published, list) and isinstance(remade, list):
        if len(published) != len(remade):
            return f"{len(published)} items, remade {len(remade)}"
        parts: Mapping[Any, tuple[Any, Any]] = dict(enumerate(zip(published, remade, strict=True)))
        return _first_part(parts, "item ")
    if isinstance(published, dict) and isinstance(remade, dict):
        return _first_part({name: (published.get(name), remade.get(name)) for name in published}, "")
    return f"{published!r:.60}, remade {remade!r:.60}"


def _first_part(parts: Mapping[Any, tuple[Any, Any]], prefix: str) -> str:
    name, (one, other) = next((name, pair) for name, pair in parts.items() if pair[0] != pair[1])
    return f"{prefix}{name}, {first_difference(one, other)}"


def _with_seed(technique: Technique, entry: Mapping[str, Any], candidates: list[Row]) -> tuple[list[Row], str]:
    """Return the candidates whose first request has the recorded seed; if none has, all of them and the problem."""
    batch = {name: [row.get(name) for row in candidates] for name in candidates[0]}
    seeds = technique.row_seeds([int(entry["row"])] * len(candidates), batch)
    fitting = [row for row, seed in zip(candidates, seeds, strict=True) if seed.request_seed(0) == entry["seed"]]
    if fitting:
        return fitting, ""
    return candidates, (
        f"its seed for {technique.name} is {entry['seed']}; the recipe and the source row give "
        f"{seeds[0].request_seed(0)}"
    )


def _complete(technique: Technique, jobs: Mapping[_Job, Row], is_generated: bool) -> dict[_Job, tuple[list[Row], str]]:
    """Run a technique; return each row's output rows and its error, "" if it did not fail.

    Args:
        technique: The technique.
        jobs: Rows, without the metadata of earlier steps.
        is_generated: Whether the rows had such metadata when the technique read them.
    """
    if not jobs:
        return {}
    names = dict.fromkeys(name for row in jobs.values() for name in row)
    batch = {name: [row.get(name) for row in jobs.values()] for name in names}
    indices = [index for index, _ in jobs]
    metadata: Batch = {METADATA_COLUMN: [[]] * len(jobs)} if is_generated else {}
    flows = technique.flows({**batch, **metadata}, indices)
    outcomes = run_flows(flows, technique.llm, technique.row_seeds(indices, batch), type(technique).__name__)
    features = technique.written_features
    results: dict[_Job, tuple[list[Row], str]] = {}
    for (job, row), outcome in zip(jobs.items(), outcomes, strict=True):
        outputs = [{technique.output_mappings.get(n, n): value for n, value in one.items()} for one in outcome.rows]
        stored = Dataset.from_list(outputs, features=features).to_list() if outputs else []
        results[job] = ([{**row, **output} for output in stored], outcome.error)
    return results


def _closest_rows(rows: list[Row], published: Row, columns: Sequence[str]) -> list[Row]:
    """Return the rows that equal a published row in `columns`; if none does, the most similar one."""
    compared = [name for name in columns if name in published]
    wanted = {name: published[name] for name in compared}
    equal = [row for row in rows if {name: row.get(name) for name in compared} == wanted]
    if equal or len(rows) < 2:
        return equal or rows
    return [max(rows, key=lambda row: _similarity({name: row.get(name) for name in compared}, wanted))]


def _similarity(row: Row, wanted: Row) -> tuple[int, float]:
    """Return the number of equal columns, and the similarity of the rows' texts."""
    texts = (_sorted_json(one)[:_MAX_COMPARED] for one in (row, wanted))
    return sum(row[name] == wanted[name] for name in wanted), LCSseq.normalized_similarity(*texts)


def _sorted_json(row: Row) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)


def _without_metadata(features: Features) -> Features:
    return Features({name: kind for name, kind in features.items() if name != METADATA_COLUMN})


@dataclass(frozen=True)
class SourceRows:
    """The rows of a run's input that some published rows were generated from."""

    rows: tuple[Row, ...]
    features: Features
    indices: tuple[int | None, ...]
    """Their indices in the input; None if unknown, since a user's function came before the first technique."""
    origin: str
    """The dataset or class that they were read from, or `OWN_COLUMNS`."""
    copied: tuple[str, ...] = ()
    """The columns that were read from the published rows."""
    note: str = ""
    """The reason if they were not read from the dataset that the record names; else ""."""


def find_source_rows(
    run: RunRecord,
    steps: Sequence[Step],
    published: Dataset,
    places: Sequence[int],
    dropped: Mapping[str, Sequence[int]],
    override: str | None = None,
) -> SourceRows:
    """Find the source rows of published rows.

    Args:
        run: The run that read the source.
        steps: The steps of that run and of the later runs.
        published: The published rows of a split.
        places: The rows whose source rows are wanted.
        dropped: Indices of the input rows that each filter dropped, by the filter's name.
        override: A dataset to read source rows from, as in `load_rows`. Default: the one that the record names.

    Raises:
        RemakeError: If `override` can't be read, or lacks a row.
    """
    selected = [published[place] for place in places]
    indices = tuple(index_at(row[METADATA_COLUMN], steps, dropped) for row in selected)
    columns = own_columns(run, steps, published)
    own = [{name: row[name] for name in columns} for row in selected]
    if run.source.recipe and not override:
        return _rows_of_recipe(run, published, indices)
    note = ""
    if name := override or (run.source.name if "/" in run.source.name else ""):
        try:
            source = _load_source(run, name if override else None)
            found = _match(source, indices, own, has_function(steps))
        except (DatasetsError, PushError, OSError, ValueError) as error:
            if override:
                raise RemakeError(f"the source {name!r} can't be read: {error}") from error
            found, note = None, f"{name} can't be read ({type(error).__name__})"
        if found is not None:
            rows = tuple(source[place] for place in found)
            return SourceRows(rows, source.features, tuple(found), name)
        note = note or f"some rows have no equal row in {name}"
        if override:
            raise RemakeError(f"{note}; give the dataset that the rows were generated from.")
    features = Features({name: published.features[name] for name in columns})
    return SourceRows(tuple(own), features, indices, OWN_COLUMNS, tuple(columns), note)


def _rows_of_recipe(run: RunRecord, published: Dataset, indices: Sequence[int | None]) -> SourceRows:
    """Return rows of an input that the recipe configures, such as a pool of seed tasks.

    Raises:
        RemakeError: If the input can't be built, or a function changed its rows.
    """
    try:
        source: RowSource = read_source(recipe_text(run))
    except (ValueError, TypeError) as error:
        raise RemakeError(f"the input of the recipe can't be built: {error}") from error
    first_rows = _first_rows(published)
    rows = list[Row]()
    for index in indices:
        if index is None:
            name = run.source.recipe["__class__"]
            raise RemakeError(f"a function changed the rows of {name} before the first technique read them.")
        size = source.round_size or 1
        earlier = published.select(np.flatnonzero(first_rows < index // size * size))
        rows.append(source.rows(index, 1, [earlier] if len(earlier) else [])[0])
    return SourceRows(tuple(rows), source.rows(0, 0, ()).features, tuple(indices), str(run.source.recipe["__class__"]))


def _load_source(run: RunRecord, override: str | None) -> Dataset:
    """Load the source, with the columns that it had in the run."""
    recorded = run.source
    if override:
        source = load_rows(override, None, "train")
    else:
        source = load_rows(recorded.name, recorded.config_name or None, recorded.split or "train", recorded.commit)
    names = [name for name in recorded.columns or source.column_names if name in source.column_names]
    return source.select_columns(names)


def _match(source: Dataset, indices: Sequence[int | None], own: Sequence[Row], has_function: bool) -> list[int] | None:
    """Return the position of each row in the source; None if the source has no equal row for one of them.

    A row is expected at its recorded index. If the input was selected or reordered before the run, the first row with
    equal columns is used instead.

    Args:
        source: The source.
        indices: The recorded indices.
        own: The source columns that the published rows still have.
        has_function: Whether a function may have changed these columns; then they are not compared.
    """
    places = list[int]()
    for index, row in zip(indices, own, strict=True):
        wanted = {name: value for name, value in row.items() if name in source.column_names}
        if index is not None and index < len(source) and (has_function or _has_values(source, index, wanted)):
            places.append(index)
        elif (place := _find_row(source, wanted)) is not None and not has_function:
            places.append(place)
        else:
            return None
    return places


def _find_row(source: Dataset, wanted: Row) -> int | None:
    """Return the position of the first row with these texts and numbers; None if there is none."""
    scalars = {name: value for name, value in wanted.items() if isinstance(value, (str, int, float))}
    if not scalars:
        return None
    places = np.arange(len(source))
    for name, value in scalars.items():
        column = source.with_format("arrow").select_columns(name)[:].column(name).take(places)
        places = places[pc.equal(column, value).fill_null(False).to_numpy()]
    return next((place for place in places.tolist() if _has_values(source, place, wanted)), None)


def _has_values(source: Dataset, place: int, wanted: Row) -> bool:
    row = source[place]
    return all(row[name] == value for name, value in wanted.items())


def own_columns(run: RunRecord, steps: Sequence[Step], published: Dataset) -> list[str]:
    """Return the columns of the published rows that come unchanged from the source: no step wrote them."""
    written = {name for step in steps for name in step.written_features}
    source = run.source.columns or published.column_names
    return [name for name in published.column_names if name in source and name not in {*written, METADATA_COLUMN}]


def _first_rows(published: Dataset) -> np.ndarray:
    """Return each published row's index in the first technique's input: (rows,)."""
    entries = published.select_columns(METADATA_COLUMN)
    return np.array([rows[0]["row"] for batch in entries.iter(1_000) for rows in batch[METADATA_COLUMN]])
