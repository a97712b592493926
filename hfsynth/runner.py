"""One step over a whole dataset: chunks that the processes of a run take in turns, each saved when it is done.

    the crew's counter gives each process the next chunk, until there is none;
    a chunk that exists is skipped; one that fails is tried again once, by any process, and then given up;
    a process with nothing left to take waits a while for the others' last chunks, and then makes those too.

There is no barrier and no collective call, so a process that is slow or dead costs its own chunk. Equal seeds make a
chunk that was made twice the same twice.
"""

import errno
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
from datasets import Dataset, Features

from hfsynth.batches import Batch, Columns
from hfsynth.chunks import ChunkFailure, StepFolder
from hfsynth.crew import Crew, wait_until
from hfsynth.errors import RunError
from hfsynth.progress import Progress, without_bars
from hfsynth.record import METADATA_COLUMN
from hfsynth.technique import Technique

logger = logging.getLogger(__name__)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
_PATIENCE = 2.0  # times this process's slowest chunk that another process's last one is waited for
_UNKNOWN = 30.0  # seconds to wait where this process has made no chunk to compare with
_HOPELESS = 3  # chunks that may fail on a process before one has worked
_LOG_SHOWN = 5  # failed chunks that an error lists


@dataclass(frozen=True)
class FromIndex:
    """A technique on a chunk: the chunk's first row has the index `first` in the step's input."""

    technique: Technique
    first: int

    def __call__(self, batch: Batch, indices: Sequence[int]) -> Columns:
        """Run the technique on a batch of the chunk."""
        return self.technique(batch, [self.first + index for index in indices])


@dataclass
class StepRun:
    """One process's part in one step."""

    dataset: Dataset
    """The step's input."""
    technique: Technique
    features: Features
    """What the output has."""
    batch_size: int
    chunk_size: int
    folder: StepFolder
    crew: Crew
    progress: Progress
    slowest: float = 0.0
    """Seconds of this process's slowest chunk."""
    failed: int = 0
    """Chunks that failed on this process."""

    def work(self) -> None:
        """Take chunks until none is left, then see the step finished.

        Raises:
            RunError: If chunks failed twice, or the run directory can't be written.
        """
        self.folder.prepare(clean=self.crew.is_main)
        while not self.folder.finished and (number := self.crew.draw(self._counter())) < self.folder.num_chunks:
            self._take(number)
        self._help_others()
        if self.folder.finished:
            return
        if failures := self.folder.failures():
            raise RunError(self._told(failures))
        if not self.crew.is_main:
            wait_until(lambda: self.folder.finished or self.crew.on_its_own, self._patience + _UNKNOWN)
            if self.folder.finished:
                return
        with self._clear_of_disk_errors():
            facts = {
                "step": self.technique.name,
                "rows_in": len(self.dataset),
                "configuration": self.technique.to_json(),
            }
            self.folder.consolidate(facts)

    @property
    def _patience(self) -> float:
        """Seconds to wait for what other processes have taken."""
        if self.crew.on_its_own:
            return 0.0  # with nobody to ask what others have taken
        return _PATIENCE * self.slowest if self.slowest else _UNKNOWN

    def _counter(self, suffix: str = "") -> str:
        return f"{self.folder.path.name}/{suffix or 'chunk'}"

    def _help_others(self) -> None:
        """Make the chunks that were taken by a process that died, is slow, or failed on them."""
        began = time.monotonic()
        offered: set[int] = set()
        while missing := self.folder.missing():
            if self.folder.finished:  # chunks are removed once the step is finished
                return
            failed = [number for number in missing if number not in offered and self.folder.attempts(number)]
            offered.update(failed)
            ready = [number for number in failed if self.crew.draw(self._counter(f"again-{number}")) == 0]
            if not ready and time.monotonic() - began >= self._patience:
                ready = missing[self.crew.rank * len(missing) // self.crew.size :]  # not all the same one first
            if ready:
                self._take(ready[0])
            else:
                time.sleep(0.1)

    def _take(self, number: int) -> None:
        """Make a chunk, unless it is there, and count it."""
        rows = range(number * self.chunk_size, min((number + 1) * self.chunk_size, len(self.dataset)))
        found = self.folder.chunk(number).exists()
        if not found:
            began = time.monotonic()
            with self._clear_of_disk_errors(), _Recorded() as attempt:
                self._make(number, rows)
            if attempt.error is not None:
                self._note_failure(number, rows, attempt.error)
                return
            seconds = time.monotonic() - began
            self.slowest = max(self.slowest, seconds)
            self.folder.note_timing(number, len(rows), seconds)
        tokens, failed = _counts(self.folder.chunk(number))
        self.progress.add(len(rows), tokens, failed, found)

    def _note_failure(self, number: int, rows: range, error: Exception) -> None:
        """Note that a chunk failed.

        Raises:
            RunError: If nothing has worked on this process: then the rest wouldn't either.
        """
        if self.folder.finished:  # another process made it too, was first, and removed what this one wrote
            return
        logger.warning("rows %d-%d of %s failed", rows.start, rows.stop - 1, self.technique.name, exc_info=error)
        with self._clear_of_disk_errors():
            self.folder.fail(number, rows, error)
        self.failed += 1
        if not self.slowest and self.failed >= _HOPELESS:
            raise RunError(
                f"{self.technique.name} failed on the first {self.failed} chunks that process {self.crew.rank} tried, "
                f"the last time with {type(error).__name__}: {error}"
            ) from error

    def _make(self, number: int, rows: range) -> None:
        writing = self.folder.writing(f"{number:05d}")
        with without_bars():
            self.dataset.select(rows).map(
                FromIndex(self.technique, rows.start),
                batched=True,
                with_indices=True,
                batch_size=self.batch_size,
                features=self.features,
                cache_file_name=str(writing / "chunk.arrow"),
                new_fingerprint="chunk",
            )
        self.folder.publish(number, writing / "chunk.arrow")
        writing.rmdir()

    def _clear_of_disk_errors(self) -> "_DiskErrors":
        return _DiskErrors(self.folder.path)

    def _told(self, failures: list[ChunkFailure]) -> str:
        lines = [f"rows {f.first}-{f.last}: {f.error}" for f in failures[:_LOG_SHOWN]]
        more = [f"and {len(failures) - _LOG_SHOWN} more chunks"] if len(failures) > _LOG_SHOWN else []
        return (
            f"{self.technique.name} failed on {len(failures)} of {self.folder.num_chunks} chunks, each tried twice; "
            f"the others are kept in {self.folder.path}, and the same command tries only these again:\n  "
            + "\n  ".join([*lines, *more])
        )


class _Recorded:
    """Keeps what a chunk raised, to be recorded; what stops a process (an interrupt, an exit) is not kept."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> "_Recorded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception) and not isinstance(error, RunError) and not _is_disk_error(error):
            self.error = error
        return self.error is not None


@dataclass(frozen=True)
class _DiskErrors:
    """Turns what a full or read-only disk raises into an error that says what would do."""

    path: Path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
