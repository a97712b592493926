"""A step over a whole dataset at once: a filter, or a function of the user's, run once for all processes."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from hfsynth.errors import RunError
from hfsynth.filter import Filter
from hfsynth.provenance import step_record
from hfsynth.record import StepTally, failed_rows
from hfsynth.running.chunks import StepFolder
from hfsynth.running.crew import Crew, wait_until
from hfsynth.running.progress import without_bars
from hfsynth.running.runner import DiskErrors
from hfsynth.steps import DatasetFunction, step_name

_WAIT = 24 * 3600.0  # seconds that process 0 may take while the others wait


def run_whole(
    step: Filter | DatasetFunction,
    dataset: Dataset,
    folder: StepFolder,
    crew: Crew,
    before: tuple[Sequence[Dataset], int],
) -> None:
    """Run a step once, on process 0, and keep what it made; if process 0 died, on all that are left.

    Args:
        step: The step.
        dataset: What it reads.
        folder: Its files.
        crew: The processes.
        before: What earlier rounds kept, and how many rows they were given: for a filter.

    Raises:
        TypeError: If a function doesn't return a dataset.
        RunError: If process 0 doesn't finish it.
    """
    if not crew.is_main:
        if not wait_until(lambda: folder.finished or crew.on_its_own, _WAIT):
            raise RunError(f"process 0 has not finished {step_name(step)} in {_WAIT:,.0f} seconds.")
        if folder.finished:
            return
    cached, began = set(_caches(dataset)), time.monotonic()
    with without_bars():
        made, dropped = step.split(dataset, *before) if isinstance(step, Filter) else (step(dataset), None)
    if not isinstance(made, Dataset):
        raise TypeError(f"{step_name(step)} returned {type(made).__name__}; a step returns a Dataset.")
    try:
        _keep(step, dataset, (made, dropped), folder, (crew, time.monotonic() - began))
    except FileNotFoundError:
        if not folder.finished:  # else another process was first, and has removed what this one was writing
            raise
    for cache in set(_caches(dataset)) - cached:  # what datasets kept of the function, which is here now
        cache.unlink(missing_ok=True)


def _keep(
    step: Filter | DatasetFunction,
    dataset: Dataset,
    done: tuple[Dataset, Dataset | None],
    folder: StepFolder,
    by: tuple[Crew, float],
) -> None:
    """Write what a step made and dropped, and that it is finished; by which processes, and in how many seconds."""
    (made, dropped), (crew, took) = done, by
    tally = StepTally()
    failed = len(failed_rows(made))
    with DiskErrors(folder.path):
        folder.prepare(clean=crew.is_main)
        if dropped is not None:
            folder.keep_dropped(dropped)
            tally.stopped.update({"": len(made) - failed})
            tally.stopped.update(dropped["rule"])
        folder.finish(
            _tables(made),
            lambda rows_out: step_record(step, dataset, rows_out - failed, (took, took), crew.size, tally),
        )


def _caches(dataset: Dataset) -> Iterator[Path]:
    """List what datasets has cached beside a dataset's files."""
    for folder in {Path(file["filename"]).parent for file in dataset.cache_files}:
        yield from folder.glob("cache-*.arrow")


def _tables(dataset: Dataset, rows: int = 10_000) -> Iterator[pa.Table]:
    """Give a dataset's rows as Arrow tables that carry its features; one without rows, where it has none."""
    schema = dataset.features.arrow_schema
    if not len(dataset):
        yield schema.empty_table()
    for table in dataset.with_format("arrow").iter(rows):
        yield table.cast(schema)
