"""Why rows failed or were dropped, counted, as lines to show."""

import errno
import logging
import re
import shutil
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets

from hfsynth.distributed import Crew, wait_until
from hfsynth.errors import ChatTemplateError, ColumnError, FlowError, GenerationError, RunError
from hfsynth.flow import Flows, Outcome, Running, Watcher
from hfsynth.llm import Completion
from hfsynth.metadata import METADATA_COLUMN, StepTally, failed_rows, failures_dataset, step_failures
from hfsynth.progress import Progress, without_bars
from hfsynth.run_record import step_record
from hfsynth.runner.chunks import ChunkFailure, EarlierRows, StepFolder, read_inputs
from hfsynth.secrets import redact
from hfsynth.step import DatasetStep
from hfsynth.technique import Batch, Columns, Technique

_LISTED = 5
_LONGEST = 300  # characters of a reason: some quote what a model wrote


def reason_lines(reasons: Mapping[str, int]) -> list[str]:
    """Return a line for each of the commonest reasons, with its rows; those that differ in a number are one.

    >>> reason_lines({"cut off after 96 tokens": 2, "Connection refused": 3, "cut off after 90 tokens": 2})
    ['4 rows: cut off after 96 tokens', '3 rows: Connection refused']
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason, rows in reasons.items():
        pattern = re.sub(r"\d+", "#", reason)
        first.setdefault(pattern, reason)
        counts[pattern] += rows
    lines = [f"{_rows(rows)}: {_one_line(first[pattern])}" for pattern, rows in counts.most_common(_LISTED)]
    others = list(counts.most_common()[_LISTED:])
    if others:
        lines.append(f"{_rows(sum(rows for _, rows in others))}: {len(others):,} other reasons")
    return lines


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _one_line(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


@dataclass
class ChunksInFlight:
    """What becomes of chunks' rows.

    Args:
        dataset: The step's input.
        technique: The step.
        rows: Number of a chunk → its rows.
        claim: Gives the number of the next chunk that this process is to make, or None if there is none.
        first: Index of the dataset's first row in the step's input.
        done_before: Rows of the dataset → what became of those that need not be made again, by their indices in the
            step's input.
        watcher: What is called as rows come along.
    """

    dataset: Dataset
    technique: Technique
    rows: Callable[[int], range]
    claim: Callable[[], int | None]
    first: int = 0
    done_before: Callable[[range], Mapping[int, Outcome]] | None = None
    watcher: Watcher = field(default_factory=Watcher)
    _current: tuple[int, list[Running]] | None = field(default=None, init=False)
    _begun: deque[tuple[int, list[Running]]] = field(default_factory=deque, init=False)
    _claimed: deque[int] = field(default_factory=deque, init=False)
    _flows: Flows = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing under way."""
        self._flows = self._new_flows()

    def next(self) -> int | None:
        """Return the next chunk: one that is under way, or a new one."""
        self._current = self._begun.popleft() if self._begun else None
        return self._current[0] if self._current else self._claim()

    def outcomes(self, number: int) -> list[Outcome]:
        """Return what became of a chunk's rows.

        Chunks that were under way beside one that raised are begun again when they are next.

        Raises:
            RuntimeError: For an `OSError` of the technique's own, which says nothing of the run directory.
        """
        try:
            with _Reset(self):
                if self._current and self._current[0] == number:
                    return self._flows.finish(self._current[1])
                return self._flows.finish(self._begin(number))
        except OSError as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    def alone(self, number: int) -> list[Outcome]:
        """Return what became of a chunk's rows, with no others beside them.

        Raises:
            RuntimeError: As `outcomes` does.
        """
        self.reset()
        chunks = replace(self, claim=lambda: None)
        with closing(chunks):
            return chunks.outcomes(number)

    def close(self) -> None:
        """Give up what is under way."""
        self._flows.close()

    def reset(self) -> None:
        """Give up what is under way; what was claimed stays so."""
        self._flows.close()
        self._claimed.extend(number for number, _ in self._begun)
        self._begun.clear()
        self._current = None
        self._flows = self._new_flows()

    def _new_flows(self) -> Flows:
        return Flows(self.technique.llm, self._begin_next, self.technique.raised_rows, self.watcher)

    def _claim(self) -> int | None:
        return self._claimed.popleft() if self._claimed else self.claim()

    def _begin(self, number: int) -> list[Running]:
        rows = self.rows(number)
        read = self.technique.columns_read(self.dataset.features)
        batch = self.dataset.select_columns(read).select(rows).with_format(None)[:] if read else {}
        indices = range(self.first + rows.start, self.first + rows.stop)
        done_before = self.done_before(rows) if self.done_before is not None else {}
        flows = self.technique.flows(batch, indices)
        begun = [done_before.get(index, flow) for index, flow in zip(indices, flows, strict=True)]
        return self._flows.start(begun, self.technique.row_seeds(indices, batch), type(self.technique).__name__)

    def _begin_next(self) -> None:
        """Let the next chunk's rows in, as the llm has room and nothing waits."""
        if not self.technique.llm.overlaps():
            return
        number = self._claim()
        if number is not None:
            self._begun.append((number, self._begin(number)))


@dataclass(frozen=True)
class _Reset:
    """Resets the chunks where something is raised inside the `with` block."""

    chunks: ChunksInFlight

    def __enter__(self) -> None:
        """Begin to watch."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Reset, and let the error pass."""
        if error is not None:
            self.chunks.reset()


logger = logging.getLogger(__name__)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR)
_PATIENCE = 2.0  # times this process's slowest chunk that another process's last one is waited for
_UNKNOWN = 30.0  # seconds to wait where this process has made no chunk to compare with
_LISTED = 20  # failed chunks that an error lists; all of them are in the failures
_MAX_FAILED = 64  # rows that fail, and none is completed, before a run stops


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
class FailureStreak:
    """Failures one after the other, by which is decided whether a step is worth going on with.

    It isn't where so many rows one after the other failed for the time being (an endpoint is down), or where so many
    of the step's first rows failed, whatever the llm wrote. What the llm was not asked for, or refused as too long
    say, is the rows' own fault and doesn't count.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    """Of the failures that count, since a row was completed."""
    passing: int = 0
    """Rows that failed for the time being since a row was completed."""
    failed: int = 0
    """Rows whose failure counts, since this was last asked for by `take`."""
    completed: int = 0
    """Rows that were completed since then."""

    def see(self, outcome: Outcome) -> None:
        """Count a row."""
        if not outcome.error:
            self.completed += 1
            self.passing = 0
            self.reasons.clear()
        elif outcome.finish_reason not in ("", "refused"):
            self.failed += 1
            self.passing += outcome.is_passing
            self.reasons[outcome.error] += 1

    def see_raised(self, rows: int, error: BaseException) -> None:
        """Count a chunk that raised."""
        self.passing += rows
        self.reasons[f"{type(error).__name__}: {error}"] += rows

    def take(self) -> tuple[int, int]:
        """Return the rows that failed and those that were completed, and count from 0 again."""
        counted = self.failed, self.completed
        self.failed = self.completed = 0
        return counted


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
    earlier: Sequence[EarlierRows] = ()
    """What earlier runs made of the step's rows, the latest first."""
    slowest: float = 0.0
    """Seconds of this process's slowest chunk."""
    _chunks: ChunksInFlight = field(init=False)
    _streak: FailureStreak = field(default_factory=FailureStreak, init=False)
    _counted: set[int] = field(default_factory=set, init=False)
    """Rows that the progress counts already: of a chunk that raised, some are made again."""
    _unsaved: dict[int, str] = field(default_factory=dict, init=False)
    """Rows that failed in chunks that are not saved → why."""

    def __post_init__(self) -> None:
        """Begin with no chunk under way."""
        watcher = Watcher(self._answered, self._ended)
        self._chunks = ChunksInFlight(
            self.dataset, self.technique, self._rows, self._claim, self.first, self._found_earlier, watcher
        )

    def work(self) -> None:
        """Take chunks until none is left, then see the step finished.

        Raises:
            GenerationError: If the llm can't be loaded.
            RunError: If chunks failed twice, nothing but failures came, or the run directory can't be written.
        """
        with DiskErrors(self.folder.path):
            self.folder.prepare(clean=self.crew.is_main)
            if self.earlier and self.crew.is_main:
                self.folder.inherit_timings(self.earlier[0].folder)
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

    def failures_so_far(self) -> Dataset:
        """Return the failures of a step that was not finished: of chunks that are saved, and of those under way."""
        column = next(iter(self.technique.written_features))
        given_up = self.folder.failures()
        reasons = {self.first + row: one.error for one in given_up for row in range(one.first, one.last + 1)}
        entries = [
            {"step": self.technique.name, "row": row, "column": column, "error": reason, "raw": ""}
            for row, reason in sorted({**self._unsaved, **reasons}.items())
        ]
        saved = [step_failures(Dataset(table)) for table in self.folder.written_tables()]
        return concatenate_datasets([*saved, failures_dataset(entries)])

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
            tally = StepTally(self.technique.written_rejection_column)

            def facts(_: int) -> dict[str, Any]:
                columns, seconds = self.dataset.column_names, self.folder.seconds()
                return step_record(self.technique, columns, tally, seconds, self.crew.size)

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
        self._check_first_rows(saved=attempt.error is None)
        if attempt.error is not None and not self.folder.finished:
            self._note_raised(number, rows, attempt.error)
        if self.folder.finished:  # another process made this chunk too, and was first
            self.folder.tidy()

    def _note_raised(self, number: int, rows: range, error: Exception) -> None:
        """Note that a chunk raised.

        Raises:
            RunError: If so many rows failed one after the other.
        """
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error  # as `ChunksInFlight` wraps it
        says_enough = isinstance(cause, GenerationError | OSError)
        text = str(cause) if says_enough else "".join(traceback.format_exception(cause))
        logger.warning("rows %d-%d of %s failed: %s", rows[0], rows[-1], self.technique.name, redact(text))
        self.folder.fail(number, rows, cause)
        self._streak.see_raised(sum(self.first + row not in self._unsaved for row in rows), cause)
        self._check_streak()

    def _count_found(self, number: int) -> None:
        try:
            failed = _fresh_failures(self.folder.chunk(number))
        except FileNotFoundError:
            if not self.folder.finished:
                raise
        else:
            self.progress.add(len(self._rows(number)), failed=failed, found=True)
            self.crew.add(self._counter("completed"), 1)  # an earlier run came so far, and its user goes on

    def _found_earlier(self, rows: range) -> dict[int, Outcome]:
        """Return what became of rows of the dataset in earlier runs, and count them."""
        found: dict[int, Outcome] = {}
        if self.earlier:
            inputs = read_inputs(self.technique, self.dataset, rows)
            indices = range(self.first + rows.start, self.first + rows.stop)
            for earlier in self.earlier:
                found = {**earlier.outcomes(indices, inputs), **found}
        uncounted = [index for index in found if index not in self._counted]
        failed = sum(self._is_fresh_failure(index, found[index]) for index in uncounted)
        self._counted.update(uncounted)
        self.progress.add(len(uncounted), failed=failed, found=True)
        if any(not outcome.error for outcome in found.values()):
            self.crew.add(self._counter("completed"), 1)
        return found

    def _answered(self, run: Running, completion: Completion) -> None:  # noqa: ARG002 - as a watcher is called
        self.progress.add(0, tokens=completion.completion_tokens)

    def _ended(self, run: Running) -> None:
        """Count a row that has ended.

        Raises:
            RunError: If so many rows one after the other failed for the time being.
        """
        index, outcome = run.seeds.row, run.outcome
        if index not in self._counted:
            self._counted.add(index)
            self.progress.add(1, failed=self._is_fresh_failure(index, outcome))
        self._unsaved.pop(index, None)
        if outcome.error:
            self._unsaved[index] = outcome.error
        self._streak.see(outcome)
        self._check_streak()

    def _check_streak(self) -> None:
        """Check that not all rows fail for the time being.

        Raises:
            RunError: If so many did, one after the other.
        """
        if self._streak.passing >= _MAX_FAILED:
            raise RunError(
                self._stop_message(
                    f"{self._streak.passing:,} rows of {self.technique.name} failed one after the other",
                    "tries these rows again and goes on",
                )
            )

    def _check_first_rows(self, saved: bool) -> None:
        """Check, after a chunk, that not all of the step's rows fail.

        Raises:
            RunError: If they do.
        """
        failed, completed = self._streak.take()
        if not saved:
            return
        failed = self.crew.add(self._counter("failed"), failed)
        completed = self.crew.add(self._counter("completed"), completed)
        if failed >= _MAX_FAILED and not completed:
            raise RunError(
                self._stop_message(
                    f"all of the first {failed:,} rows of {self.technique.name} failed", "goes on with the others"
                )
            )

    def _stop_message(self, event: str, rest: str) -> str:
        lines = "".join(f"\n  {line}" for line in reason_lines(self._streak.reasons))
        return (
            f"{event}, so the run has stopped:{lines}\n"
            f"What was finished is kept in {self.folder.path}; the same command, run again, {rest}."
        )

    def _is_fresh_failure(self, index: int, outcome: Outcome) -> bool:
        """Whether a row failed in this step, and in none before it."""
        return bool(outcome.error) and index - self.first not in self._failed_before

    @cached_property
    def _failed_before(self) -> set[int]:
        """Places of the rows on which an earlier step failed."""
        return failed_rows(self.dataset)

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
        failed = _fresh_failures(writing / "chunk.arrow")
        seconds = time.monotonic() - began
        self.slowest = max(self.slowest, seconds)
        self.folder.note_timing(number, len(rows), seconds)  # before the chunk: the last one ends the step
        if any(outcome.is_passing for outcome in outcomes):
            self.folder.note_passing_failures()
        if not self.folder.publish(number, writing / "chunk.arrow"):
            self.progress.add(-len(rows), failed=-failed)  # another process has counted them
        for row in rows:
            self._unsaved.pop(self.first + row, None)
        shutil.rmtree(writing, ignore_errors=True)

    def _told(self, failures: list[ChunkFailure]) -> str:
        reasons: Counter[str] = Counter()
        for failure in failures:
            reasons[failure.error] += failure.last - failure.first + 1
        lines = reason_lines(reasons) if len(failures) > 1 else []
        lines += [f"rows {f.first}-{f.last}: {f.error}" for f in failures[:_LISTED]]
        more = [f"and {len(failures) - _LISTED} more chunks"] if len(failures) > _LISTED else []
        return (
            f"{self.technique.name} failed on {len(failures)} of {self.folder.num_chunks} chunks, each tried twice; "
            f"the others are kept in {self.folder.path}, and the same command, run again, tries only these:\n  "
            + "\n  ".join([*lines, *more])
        )


class _Recorded:
    """Keeps what a chunk raised, to be recorded.

    What stops the process (an interrupt, an exit), what is wrong with the disk and what is wrong with the pipeline
    itself (a chat template that can't serve it, a flow that isn't one) is not kept: it would be the same for every
    chunk. Nor is that the run stops.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> "_Recorded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        fatal = isinstance(error, ChatTemplateError | ColumnError | FlowError | RunError)
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


def _fresh_failures(file: Path) -> int:
    """Return how many rows of its input a chunk's step failed on, and no step before it."""
    with pa.memory_map(str(file)) as source:
        column = pa.ipc.open_stream(source).read_all().column(METADATA_COLUMN)
    entries = {row[-1]["row"]: row for row in column.to_pylist()}
    return sum(bool(row[-1]["error"]) and not any(entry["error"] for entry in row[:-1]) for row in entries.values())


_WAIT = 24 * 3600.0  # seconds that process 0 may take while the others wait


def run_whole(
    step: DatasetStep,
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
            raise RunError(f"process 0 has not finished {step.name} in {_WAIT:,.0f} seconds.")
        if folder.finished:
            return
    cached, began = set(_caches(dataset)), time.monotonic()
    with without_bars():
        made, dropped = step.split(dataset, *before)
    try:
        _keep(step, dataset, (made, dropped), folder, (crew, time.monotonic() - began))
    except FileNotFoundError:
        if not folder.finished:  # else another process was first, and has removed what this one was writing
            raise
    for cache in set(_caches(dataset)) - cached:  # what datasets kept of the function, which is here now
        cache.unlink(missing_ok=True)


def _keep(
    step: DatasetStep,
    dataset: Dataset,
    done: tuple[Dataset, Dataset | None],
    folder: StepFolder,
    by: tuple[Crew, float],
) -> None:
    """Write what a step made and dropped, and that it is finished; by which processes, and in how many seconds."""
    (made, dropped), (crew, took) = done, by
    failed = len(failed_rows(made))
    tally = StepTally(rows=len(dataset) - len(failed_rows(dataset)))
    with DiskErrors(folder.path):
        folder.prepare(clean=crew.is_main)
        if dropped is not None:
            folder.keep_dropped(dropped)
            tally.stopped.update({"": len(made) - failed})
            tally.stopped.update(dropped["rule"])

        def facts(rows_out: int) -> dict[str, Any]:
            tally.rows_out = rows_out - failed
            return step_record(step, dataset.column_names, tally, (took, took), crew.size)

        folder.finish(_tables(made), facts)


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
