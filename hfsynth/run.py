"""A pipeline's run: its steps one after the other, by all processes, in one run directory.

run directory/
    SelfInstruct-5f0c…/           a step's folder (see `chunks.py`)
    only_long-91be…/
    failures-7a23….parquet        the rows on which a step of one pipeline failed, on one input, and why
"""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, concatenate_datasets, config
from datasets.fingerprint import Hasher

from hfsynth.chunks import StepFolder
from hfsynth.crew import Crew, wait_until
from hfsynth.errors import RunError
from hfsynth.progress import Progress, without_bars
from hfsynth.provenance import RunRecord, Source, StepRecord, attach_record, step_record
from hfsynth.record import chunk_failures, step_failures
from hfsynth.runner import DiskErrors, StepRun
from hfsynth.steps import DatasetFunction, Step, features_after, step_hash, step_name
from hfsynth.technique import Technique

logger = logging.getLogger(__name__)
_SHARED_WAIT = 60.0  # seconds in which a shared folder must show what another node wrote
_LEFT_OVER = 3600.0  # seconds after which a run's own small files can only be a killed run's
_FUNCTION_WAIT = 24 * 3600.0  # seconds that a function on process 0 may take while the others wait


@dataclass(frozen=True)
class RunOptions:
    """How a pipeline is run."""

    run_dir: Path
    chunk_size: int
    """Rows that are computed, saved and lost together."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        """Check the chunks' size."""
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size is {self.chunk_size}; it must be at least 1.")


def default_run_dir() -> Path:
    """Return where runs are kept that were given no directory: in the cache of datasets."""
    return Path(config.HF_DATASETS_CACHE) / "hfsynth"


@dataclass(frozen=True)
class Run:
    """One process's part in a pipeline's run."""

    steps: tuple[Step, ...]
    options: RunOptions

    def over(self, dataset: Dataset) -> Dataset:
        """Run all steps over a dataset; every process returns the same rows.

        Raises:
            ColumnError: If a step's columns don't fit what a function before it made.
            GenerationError: If an llm can't be loaded.
            RunError: If chunks failed twice, or the run directory can't be written or isn't shared by all nodes.
        """
        crew, given, steps = Crew.here(), dataset, list[StepRecord]()
        _check_shared(self.options.run_dir, crew)
        keys = [dataset._fingerprint, *map(step_hash, self.steps), self.options.chunk_size]
        failures = _Failures(self.options.run_dir / f"failures-{Hasher.hash(keys)}.parquet", crew, [])
        try:
            with Progress(crew, len(self.steps), self.options.quiet) as progress:
                for number, step in enumerate(self.steps, 1):
                    progress.begin(number, step_name(step), len(dataset))
                    dataset, record = self._step(number, dataset, failures, progress)
                    steps.append(record)
                    self._unload(number)
        except KeyboardInterrupt:
            logger.warning("stopped: %s keeps what was finished; the same command goes on", self.options.run_dir)
            raise
        finally:
            failures.write()
        if steps:
            kept = str(failures.file) if failures.file.exists() else ""
            made = RunRecord(Source.of(given), tuple(steps), self.options.chunk_size, kept)
            attach_record(dataset, given, made)
        return dataset

    def _step(
        self, number: int, dataset: Dataset, failures: "_Failures", progress: Progress
    ) -> tuple[Dataset, StepRecord]:
        step, options, crew = self.steps[number - 1], self.options, failures.crew
        key = Hasher.hash((dataset._fingerprint, step_hash(step), options.chunk_size))
        if not crew.agrees(f"step-{number}", key):
            raise RunError(
                f"process {crew.rank} has another input or pipeline at step {number}, {step_name(step)}, than the "
                "others; give all processes the same dataset (no random or process-dependent rows) and the same steps."
            )
        path = options.run_dir / f"{step_name(step)}-{key}"
        folder = StepFolder(path, -(-len(dataset) // options.chunk_size), crew.member)
        features = features_after(step, number, dataset.features)
        found = folder.finished
        if isinstance(step, Technique) and features is not None:
            if not found:
                run = StepRun(dataset, step, features, options.chunk_size, folder, crew, progress)
                failures.work(run)
            made = folder.load(features, key)
            failed = failures.add(made)
        else:
            if not found:
                _run_function(step, dataset, folder, crew)
            made, failed, found = folder.load(features, key), 0, True
        if crew.is_main and found:
            folder.tidy()  # a process may have been killed between the last file and this
            progress.add(len(dataset), 0, failed, found=True)
        return made, StepRecord.from_json(folder.facts())

    def _unload(self, number: int) -> None:
        """Unload a technique's llm, if the next technique has another: two are never in memory at once."""
        step = self.steps[number - 1]
        following = next((later for later in self.steps[number:] if isinstance(later, Technique)), None)
        if isinstance(step, Technique) and following is not None and following.llm != step.llm:
            step.llm.unload()


def _check_shared(run_dir: Path, crew: Crew) -> None:
    """Make the run directory and see that all nodes have the same one.

    Raises:
        RunError: If it can't be made, or another node's process 0 doesn't write into it.
    """
    token = run_dir / f".run-{crew.token}"
    with DiskErrors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK):
            raise PermissionError(errno.EACCES, f"{run_dir} is read-only")
        if crew.is_main:
            _sweep(run_dir)
            token.touch()
    if not wait_until(token.exists, _SHARED_WAIT):
        raise RunError(
            f"{run_dir} on {socket.gethostname()} is not the folder that process 0 writes to; "
            "give a run_dir that all nodes share."
        )
    if crew.add("seen-token", 1) >= crew.size:
        token.unlink(missing_ok=True)


def _sweep(run_dir: Path) -> None:
    """Remove what killed runs left in the directory itself; what is younger may be another run's that is starting."""
    for leftover in (*run_dir.glob(".run-*"), *run_dir.glob(".failures-*")):
        if time.time() - leftover.stat().st_mtime > _LEFT_OVER:
            leftover.unlink(missing_ok=True)


def _run_function(function: DatasetFunction, dataset: Dataset, folder: StepFolder, crew: Crew) -> None:
    """Run a dataset-level step once, on process 0, and keep what it made; if process 0 died, on all that are left.

    Raises:
        TypeError: If it doesn't return a dataset.
        RunError: If process 0 doesn't finish it.
    """
    if not crew.is_main:
        if not wait_until(lambda: folder.finished or crew.on_its_own, _FUNCTION_WAIT):
            raise RunError(f"process 0 has not finished {step_name(function)} in {_FUNCTION_WAIT:,.0f} seconds.")
        if folder.finished:
            return
    kept, began = set(_caches(dataset)), time.monotonic()
    with without_bars():
        made = function(dataset)
    if not isinstance(made, Dataset):
        raise TypeError(f"{step_name(function)} returned {type(made).__name__}; a step returns a Dataset.")
    with DiskErrors(folder.path):
        folder.prepare(clean=crew.is_main)
        took = time.monotonic() - began
        folder.finish(
            _tables(made), lambda rows_out: step_record(function, dataset, rows_out, (took, took), crew.size)
        )
    for cache in set(_caches(dataset)) - kept:  # what datasets kept of the function, which is here now
        cache.unlink(missing_ok=True)


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


@dataclass(frozen=True)
class _Failures:
    """The failures of a run so far, and the file that they go to."""

    file: Path
    crew: Crew
    parts: list[Dataset]

    def add(self, made: Dataset) -> int:
        """Add those of the step that made a dataset, and return how many they are."""
        self.parts.append(step_failures(made))
        return len(self.parts[-1])

    def work(self, run: StepRun) -> None:
        """Run a step; of the chunks it gives up, each row is a failure."""
        try:
            run.work()
        except RunError:
            column = next(iter(run.technique.written_features))
            for chunk in run.folder.failures():
                rows = range(chunk.first, chunk.last + 1)
                self.parts.append(chunk_failures(run.technique.name, column, rows, chunk.error))
            raise

    def write(self) -> None:
        """Write them, whole or not at all, once for all processes; where there are none, there is no file."""
        if not self.parts or not (self.crew.is_main or self.crew.on_its_own):
            return
        failures = concatenate_datasets(self.parts)
        with DiskErrors(self.file.parent), without_bars():
            if len(failures):
                writing = self.file.with_name(f".failures-{self.crew.member}")
                failures.to_parquet(writing)
                writing.replace(self.file)
                logger.warning("%d rows failed; %s says which and why", len(failures), self.file)
            else:
                self.file.unlink(missing_ok=True)
