"""One step over a whole dataset: chunks that the processes of a run take in turns, each saved when it is done.

    the crew's counter gives each process the next chunk, until there is none;
    a chunk that exists is skipped; one that fails is tried again once, by any process, and then given up;
    a process with nothing left to take waits a while for the others' last chunks, and then makes those too.

There is no barrier and no collective call, so a process that is slow or dead costs its own chunk. Equal seeds make a
chunk that was made twice the same twice.
"""

import errno
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features

from hfsynth.batches import Batch, Columns
from hfsynth.errors import ChatTemplateError, RunError, SplitModelError
from hfsynth.flow import Outcome
from hfsynth.provenance import step_record
from hfsynth.record import METADATA_COLUMN, StepTally
from hfsynth.running.chunks import ChunkFailure, StepFolder
from hfsynth.running.crew import Crew, wait_until
from hfsynth.running.overlap import ChunksInFlight
from hfsynth.running.progress import Progress, without_bars
from hfsynth.secrets import redact
from hfsynth.technique import Technique

logger = logging.getLogger(__name__)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR)
_PATIENCE = 2.0  # times this process's slowest chunk that another process's last one is waited for
_UNKNOWN = 30.0  # seconds to wait where this process has made no chunk to compare with
_LISTED = 20  # failed chunks that an error lists; all of them are in the failures


@dataclass(frozen=True)
class LaidOut:
    """What became of a chunk's rows, as the columns that `Dataset.map` asks for: the technique without its llm."""

    technique: Technique
    start: int
    """The chunk's first row in the dataset."""
    first: int
    """Index of the dataset's first row in the step's input."""
    outcomes: Sequence[Outcome]

    def __call__(self, batch: Batch, indices: Sequence[int]) -> Columns:
        """Lay out a batch of the chunk."""
        rows = [self.first + self.start + index for index in indices]
        return self.technique.columns(batch, rows, [self.outcomes[index] for index in indices])


@dataclass
class StepRun:
    """One process's part in one step."""

    dataset: Dataset
    """The step's input."""
    technique: Technique
    features: Features
    """What the output has."""
    chunk_size: int
    folder: StepFolder
    crew: Crew
    progress: Progress
    first: int = 0
    """Index of the dataset's first row in the step's input, of which earlier rounds were given some."""
    slowest: float = 0.0
    """Seconds of this process's slowest chunk."""
    _chunks: ChunksInFlight = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no chunk under way."""
        self._chunks = ChunksInFlight(self.dataset, self.technique, self._rows, self._claim, self.first)

    def work(self) -> None:
        """Take chunks until none is left, then see the step finished.

        Raises:
            GenerationError: If the llm can't be loaded.
            RunError: If chunks failed twice, or the run directory can't be written.
        """
        with DiskErrors(self.folder.path):
            self.folder.prepare(clean=self.crew.is_main)
            missing = self.folder.missing()
        if not all(map(self.folder.is_adoptable, missing)):
            self.technique.llm.load()  # else every chunk would fail on it, twice
        with DiskErrors(self.folder.path):
            self._take_turns()
            self._help_others()
            if not self.folder.finished and not self.folder.failures():
                self._put_together()
        if not self.folder.finished:
            raise RunError(self._told(self.folder.failures()))

    def _take_turns(self) -> None:
        """Take the next chunk from the counter of all processes, until there is none."""
        with closing(self._chunks):  # or what an error or interrupt leaves under way would stay so
            while not self.folder.finished and (number := self._chunks.next()) is not None:
                self._take(number, self._chunks.outcomes)

    def _claim(self) -> int | None:
        """Draw the next chunk that isn't there; None where there are no more."""
        while not self.folder.finished:
            number = self.crew.draw(self._counter("chunk"))
            if number >= self.folder.num_chunks or self._lost_others:
                return None
            if not self.folder.chunk(number).exists() and not self.folder.adopt(number):
                return number
            self._count_found(number)
        return None

    def _rows(self, number: int) -> range:
        return range(number * self.chunk_size, min((number + 1) * self.chunk_size, len(self.dataset)))

    def _help_others(self) -> None:
        """Make the chunks that were taken by a process that died, is slow, or failed on them."""
        began = time.monotonic()
        offered: set[int] = set()
        while missing := self.folder.missing():
            if self.folder.finished:  # chunks are removed once the step is finished
                return
            failed = [number for number in missing if number not in offered and self.folder.attempts(number)]
            offered.update(failed)
            again = [number for number in failed if self.crew.draw(self._counter(f"again-{number}")) == 0]
            for number in again or self._orphans(missing, time.monotonic() - began):
                self._take(number, self._chunks.alone)
                began = time.monotonic() if self._lost_others else began
            if not again:
                time.sleep(0.05)

    def _orphans(self, missing: list[int], waited: float) -> list[int]:
        """Choose a missing chunk that nobody is likely to be making, if there is one.

        While the store lives, every missing chunk is somebody's, who is given time. Without it nobody knows, so the
        processes begin at different places and leave each other what is being written.
        """
        patience = _PATIENCE * self.slowest if self.slowest else _UNKNOWN
        if self.crew.size == 1 or waited >= patience:
            candidates = missing
        elif self._lost_others:
            written = self.folder.being_written()
            candidates = [number for number in missing if number not in written]
        else:
            candidates = []
        return candidates[self.crew.rank * len(candidates) // self.crew.size :][:1]

    def _put_together(self) -> None:
        """Consolidate the chunks: process 0, or another one if that doesn't."""
        if not self.crew.is_main:
            wait_until(lambda: self.folder.finished or self._lost_others, _PATIENCE * self.slowest + _UNKNOWN)
        if not self.folder.finished:
            tally = StepTally(self.technique.written_rules)

            def facts(rows_out: int) -> dict[str, Any]:
                seconds = self.folder.seconds()
                return step_record(self.technique, self.dataset, rows_out, seconds, self.crew.size, tally)

            self.folder.consolidate(tally.see, facts)

    @property
    def _lost_others(self) -> bool:
        """Whether there are other processes, but no store to share numbers with them any more."""
        return self.crew.size > 1 and self.crew.on_its_own

    def _counter(self, what: str) -> str:
        return f"{self.folder.path.name}/{what}"

    def _take(self, number: int, outcomes: Callable[[int], list[Outcome]]) -> None:
        """Make a chunk, unless it is there by now.

        Args:
            number: The chunk's.
            outcomes: Says what becomes of its rows.
        """
        if self.folder.chunk(number).exists():
            return
        rows = self._rows(number)
        began = time.monotonic()
        with _Recorded() as attempt:
            self._make(number, rows, outcomes(number), began)
        if attempt.error is not None and not self.folder.finished:
            trace = redact("".join(traceback.format_exception(attempt.error)))
            logger.warning("rows %d-%d of %s failed\n%s", rows[0], rows[-1], self.technique.name, trace)
            self.folder.fail(number, rows, attempt.error)
        if self.folder.finished:  # another process made this chunk too, and was first
            self.folder.tidy()

    def _count_found(self, number: int) -> None:
        try:
            tokens, failed = _counts(self.folder.chunk(number))
        except FileNotFoundError:
            if not self.folder.finished:
                raise
        else:
            self.progress.add(len(self._rows(number)), tokens, failed, found=True)

    def _make(self, number: int, rows: range, outcomes: Sequence[Outcome], began: float) -> None:
        writing = self.folder.writing(f"{number:05d}")
        with without_bars():
            self.dataset.select(rows).map(
                LaidOut(self.technique, rows.start, self.first, outcomes),
                batched=True,
                with_indices=True,
                features=self.features,
                cache_file_name=str(writing / "chunk.arrow"),
                new_fingerprint="chunk",
            )
        tokens, failed = _counts(writing / "chunk.arrow")
        seconds = time.monotonic() - began
        self.slowest = max(self.slowest, seconds)
        self.folder.note_timing(number, len(rows), seconds)  # before the chunk: the last one ends the step
        if self.folder.publish(number, writing / "chunk.arrow"):
            self.progress.add(len(rows), tokens, failed, found=False)
        shutil.rmtree(writing, ignore_errors=True)

    def _told(self, failures: list[ChunkFailure]) -> str:
        lines = [f"rows {f.first}-{f.last}: {f.error}" for f in failures[:_LISTED]]
        more = [f"and {len(failures) - _LISTED} more chunks"] if len(failures) > _LISTED else []
        return (
            f"{self.technique.name} failed on {len(failures)} of {self.folder.num_chunks} chunks, each tried twice; "
            f"the others are kept in {self.folder.path}, and the same command tries only these again:\n  "
            + "\n  ".join([*lines, *more])
        )


class _Recorded:
    """Keeps what a chunk raised, to be recorded.

    What stops the process (an interrupt, an exit), what is wrong with the disk and what is wrong with the pipeline
    itself (a chat template that can't serve it, a model that has lost a part) is not kept: it would be the same for
    every chunk.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> "_Recorded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        fatal = isinstance(error, ChatTemplateError | SplitModelError)
        if isinstance(error, Exception) and not fatal and not _is_disk_error(error):
            self.error = error
        return self.error is not None


@dataclass(frozen=True)
class DiskErrors:
    """Turns what a full or read-only disk raises into an error that says what would do.

    Raises:
        RunError: For such an error inside the `with` block.
    """

    path: Path

    def __enter__(self) -> None:
        """Begin to watch."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise another error for one of the disk."""
        if error is not None and _is_disk_error(error):
            raise disk_error(self.path, error) from error


def disk_error(path: Path, error: BaseException) -> RunError:
    """Say what would do where a run directory can't be written."""
    return RunError(
        f"the run directory can't be written: {error}. Make room or give another one; "
        f"what was finished is kept in {path}, and the same command goes on from there."
    )


def _is_disk_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK


def _counts(file: Path) -> tuple[int, int]:
    """Return a chunk's completion tokens and failed rows in its own step, an input row's entry counted once."""
    with pa.memory_map(str(file)) as source:
        column = pa.ipc.open_stream(source).read_all().column(METADATA_COLUMN)
    entries = {row[-1]["row"]: row[-1] for row in column.to_pylist()}
    return sum(e["completion_tokens"] for e in entries.values()), sum(bool(e["error"]) for e in entries.values())
