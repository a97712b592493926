"""Search for the source row of each published row, in the source dataset, a configured input, or the row itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features
from datasets.exceptions import DatasetsError

from hfsynth.data import load_rows
from hfsynth.errors import PushError
from hfsynth.flow import Row
from hfsynth.metadata import METADATA_COLUMN
from hfsynth.pipeline import read_source
from hfsynth.publish.files import recipe_text
from hfsynth.run_record import RunRecord
from hfsynth.runner.rounds import RowSource
from hfsynth.step import Step
from hfsynth.verification.remake import has_function, index_at

OWN_COLUMNS = "the dataset's own columns"
"""`SourceRows.origin` of source rows that were read from the published rows."""


@dataclass(frozen=True)
class SourceRows:
    """The rows of a run's input that some published rows were generated from."""

    rows: tuple[Row, ...]
    features: Features
    indices: tuple[int | None, ...]
    """Their indices in the input; None if unknown, since a user's function came before the first technique."""
    origin: str
    """The dataset or class that they were read from, or `OWN_COLUMNS`."""
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
        ValueError: If `override` can't be read, or lacks a row.
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
                raise ValueError(f"the source {name!r} can't be read: {error}") from error
            found, note = None, f"{name} can't be read ({type(error).__name__})"
        if found is not None:
            rows = tuple(source[place] for place in found)
            return SourceRows(rows, source.features, tuple(found), name)
        note = note or f"some rows have no equal row in {name}"
        if override:
            raise ValueError(f"{note}; give the dataset that the rows were generated from.")
    features = Features({name: published.features[name] for name in columns})
    return SourceRows(tuple(own), features, indices, OWN_COLUMNS, note)


def _rows_of_recipe(run: RunRecord, published: Dataset, indices: Sequence[int | None]) -> SourceRows:
    """Return rows of an input that the recipe configures, such as a pool of seed tasks."""
    source: RowSource = read_source(recipe_text(run))
    first_rows = _first_rows(published)
    rows = list[Row]()
    for index in indices:
        if index is None:
            name = run.source.recipe["__class__"]
            raise ValueError(f"a function changed the rows of {name} before the first technique read them.")
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
        elif (place := _search(source, wanted)) is not None and not has_function:
            places.append(place)
        else:
            return None
    return places


def _search(source: Dataset, wanted: Row) -> int | None:
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
