"""One process's part of one step of a pipeline.

A technique runs in chunks: `StepWorker` takes chunks from a counter that all processes share, and saves each.
A filter or function needs the entire dataset: `run_dataset_step` runs it once, on process 0.
"""

import errno
import gc
import logging
import re
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from numpy.typing import NDArray

from hfsynth.distributed import ProcessGroup, wait_until
from hfsynth.errors import ChatTemplateError, ColumnError, FlowError, GenerationError, RunError, ServerError
from hfsynth.flow import Attempt, FlowDriver, Outcome, Row, RowState, Watcher
from hfsynth.llm import Completion
from hfsynth.progress import Progress, without_bars
from hfsynth.record import StepTally, dropped_rows, failed_rows, failures_dataset, step_failures
from hfsynth.runner.chunks import ChunkFailure, Claims, StepFolder
from hfsynth.runner.journal import Journals, read_journal
from hfsynth.runner.lookahead import Lookahead, input_columns, start_rows
from hfsynth.runner.reuse import EarlierRows, row_digests
from hfsynth.runner.storage import DamagedFileError, set_aside
from hfsynth.secrets import redact
from hfsynth.step import DatasetStep
from hfsynth.technique import Batch, Technique
from hfsynth.text import counted

logger = logging.getLogger(__name__)
_DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR
)  # fmt: skip
_PATIENCE = 2.0  # time for another process's last chunk, as a multiple of this process's slowest one
_DEFAULT_PATIENCE = 30.0  # seconds for another process's last chunk, if this process has finished none
_PROCESS_0_TIMEOUT = 24 * 3600.0  # seconds that other processes wait for a filter or function on process 0
_SHORTEST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.05, 2.0, 1.5  # seconds between two checks of a shared folder
_ROWS_TO_FREEZE = 10_000  # a step with fewer rows takes about as long as two garbage collections, or less
_MAX_FAILED = 64  # failed rows without a completed one, after which a run stops
_MAX_CHUNKS_LISTED = 20  # failed chunks in an error message; the failures file has all of them
_MAX_REASONS_LISTED = 5
_MAX_REASON_LENGTH = 300  # characters: some reasons quote a completion


@dataclass
class StepWorker:
    """One process's part of a technique's step.

    Args:
        dataset: The step's input, or one round of it.
        technique: The step.
        features: The features of the step's output.
        chunk_size: Rows of a chunk.
        folder: The step's files.
        group: The processes.
        progress: Counts rows, tokens and failures.
        first: Index of the dataset's first row in the step's input; above 0 after an earlier round.
        earlier: Folders with reusable rows, latest first.
        later: Later steps with the same llm; their requirements are checked before this step completes a row.
        head_start: Chunks of this step that began while the previous technique was running.
        lookahead: Begins chunks of the next technique while this step's last rows are completed.
        is_isolated: Whether each chunk is completed without rows of other chunks beside it, and from its first row on,
            without rows from journals.
    """

    dataset: Dataset
    technique: Technique
    features: Features
    chunk_size: int
    folder: StepFolder
    group: ProcessGroup
    progress: Progress
    first: int = 0
    earlier: Sequence[EarlierRows] = ()
    later: Sequence[Technique] = ()
    is_isolated: bool = False
    head_start: Lookahead | None = None
    lookahead: Lookahead | None = None
    _slowest: float = field(default=0.0, init=False)
    """Seconds of this process's slowest chunk."""
    _chunks: "ChunksInFlight" = field(init=False)
    _streak: "FailureStreak" = field(init=False)
    _counted: set[int] = field(default_factory=set, init=False)
    """Indices of rows that the progress has counted, since rows of a chunk that raised run a second time."""
    _unsaved_failures: dict[int, str] = field(default_factory=dict, init=False)
    """Reasons of failed rows in chunks that are not saved, by row index."""
    _samples: dict[int, tuple[int, list[Row]]] = field(default_factory=dict, init=False)
    """Index and outputs of the first (0) and the last row (1) that this process completed."""
    _claims: Claims = field(init=False)
    _disk_errors: "DiskErrors" = field(init=False)
    _journals: Journals = field(init=False)
    _left_journals: dict[int, list[Path]] = field(default_factory=dict, init=False)
    """Journals of earlier runs, of processes that died and of chunks that began early, by chunk."""
    _begun: list[int] = field(default_factory=list, init=False)
    """Chunks that began while the previous technique was running; this process completes them."""

    def __post_init__(self) -> None:
        """Begin with no chunk in flight."""
        self._streak = FailureStreak()
        self._disk_errors = DiskErrors(self.folder.path)
        if self.head_start is not None:
            self._claims, self._journals = self.head_start.claims, self.head_start.journals
        else:
            self._claims = Claims(self.folder.path, self.folder.worker_id)
            self._journals = Journals(self.folder.path, self.folder.worker_id, self.technique.output_features)
        self._chunks = ChunksInFlight(
            self.dataset,
            self.technique,
            self._rows,
            self._claim,
            self.first,
            self._take_over_rows,
            Watcher(self._count_completion, self._count_row),
            not self.is_isolated,
            self.lookahead,
        )

    def run(self) -> None:
        """Process chunks until none is left, then merge them.

        Raises:
            GenerationError: If the llm can't be loaded, or lacks what the technique needs.
            RunError: If chunks failed twice, all first rows or many rows in succession failed, a server can't be used
                any more, or the run directory can't be written.
        """
        with self._disk_errors:
            self.folder.prepare(clean=self.group.is_main)
            if self.group.is_main:
                self._inherit_timings()
            missing = self.folder.missing()
            self._find_left_journals()
        if not all(map(self._is_reusable, missing)):
            self.technique.llm.load()  # if it can't be loaded, every chunk would fail twice
            for technique in (self.technique, *self.later):
                technique.check_ready()
            self._check_server()
        with (
            self._disk_errors,
            closing(self._journals),
            closing(self._claims),
            closing(self._chunks),
            frozen_heap(len(missing) * self.chunk_size),
        ):
            self._take_over_chunks()
            try:
                self._complete_chunks()
            except ServerError as error:
                raise RunError(
                    f"{error}\nFinished rows are kept in {self.folder.path}; the same command continues."
                ) from error
            if self.lookahead is not None and self.folder.finished:
                self.lookahead.keep(self._chunks.release())
        if not self.folder.finished:
            raise RunError(self._chunks_failed_message(self.folder.failures()))

    def _take_over_chunks(self) -> None:
        """Take over the chunks that began while the previous technique was running; count their finished rows."""
        if self.head_start is None:
            return
        flows, started, self._begun = self.head_start.hand_over(self._digests(range(len(self.dataset))))
        self._chunks.take_over(flows, started, self._begun)
        self._begun = [*self._begun, *started]
        for number in self._begun:
            self.group.add(self._counter(f"begun-{number}"), 1)
        for rows in started.values():
            self._count_found({row.seeds.row: row.outcome for row in rows if row.finished})

    def _check_server(self) -> None:
        """Log a warning if the server reports another model or version than when the step began."""
        stated = self.technique.llm.server_facts()
        facts = {name: fact for name, fact in stated.items() if name != "left_out"}  # known only while the step runs
        if facts and (earlier := self.folder.note_server(facts)) != facts:
            changes = [
                f"{name} was {earlier.get(name, '')!r} and is {facts.get(name, '')!r}"
                for name in sorted({*earlier, *facts})
                if earlier.get(name) != facts.get(name)
            ]
            logger.warning(
                "the server of %s has changed since the first rows of %s, which are kept: %s",
                self.technique.model_name,
                self.technique.name,
                "; ".join(changes),
            )

    def _complete_chunks(self) -> None:
        """Process chunks until none is missing, then merge them, unless some failed twice."""
        self._process_chunks()
        self._steal_chunks()
        while not self.folder.finished and not self.folder.failures():
            try:
                self._merge_chunks()
            except DamagedFileError as error:
                set_aside(error, "its rows are computed a second time")
                self._steal_chunks()

    def _inherit_timings(self) -> None:
        """Copy the timings of the latest other folder, if this step reuses rows of it."""
        for earlier in self.earlier[:1]:
            if earlier.is_reusable(self.first, self._digests(range(len(self.dataset)))).any():
                self.folder.inherit_timings(earlier.folder)

    def _is_reusable(self, number: int) -> bool:
        """Whether all rows of a chunk can be reused from other folders."""
        if self.folder.is_adoptable(number):
            return True
        rows = self._rows(number)
        reusable = np.zeros(len(rows), np.bool_)
        for earlier in self.earlier:
            reusable |= earlier.is_reusable(self.first + rows.start, self._digests(rows))
        return bool(reusable.all())

    def _digests(self, rows: range) -> NDArray[np.uint64]:
        """Return a hash for each of some rows of the dataset: (rows,)."""
        if self.folder.input is None:
            return row_digests(self.dataset.select(rows), self.technique.columns_read(self.dataset.features))
        return self.folder.input.row_digests[rows.start : rows.stop]

    def failures_so_far(self) -> Dataset:
        """Return the failures of an unfinished step, in saved chunks and in chunks in flight."""
        column = next(iter(self.technique.written_features))
        failed_chunks = self.folder.failures()
        reasons = {self.first + row: one.error for one in failed_chunks for row in range(one.first, one.last + 1)}
        entries = [
            {"step": self.technique.name, "row": row, "column": column, "error": reason, "raw": ""}
            for row, reason in sorted({**self._unsaved_failures, **reasons}.items())
        ]
        saved = [step_failures(Dataset(table)) for table in self.folder.chunk_tables()]
        return concatenate_datasets([*saved, failures_dataset(entries)])

    def _process_chunks(self) -> None:
        """Process the next chunk of the shared counter, until there is none."""
        while not self.folder.finished and (number := self._chunks.next()) is not None:
            self._process(number, self._chunks.outcomes)
        self._chunks.close_if_idle()

    def _find_left_journals(self) -> None:
        self._left_journals = {} if self.is_isolated else self.folder.journals()

    def _claim(self, in_flight: int) -> int | None:
        """Return the next chunk that is neither finished nor claimed by another run; None if there is none for now.

        Args:
            in_flight: Number of chunks that this process has begun. A process takes at most its share of the chunks,
                since it may be ready long before the others.
        """
        if in_flight >= -(-self.folder.num_chunks // self.group.world_size):
            return None
        while not self.folder.finished:
            number = self.group.next_index(self._counter("chunk"))
            if number >= self.folder.num_chunks or self._lost_others:
                return None
            if number in self._begun:
                continue
            if self.folder.has_chunk(number) or self.folder.adopt(number):
                self._count_finished_chunk(number)
            elif self._claims.take(number):
                return number
        return None

    def _rows(self, number: int) -> range:
        return range(number * self.chunk_size, min((number + 1) * self.chunk_size, len(self.dataset)))

    def _steal_chunks(self) -> None:
        """Process missing chunks of other processes, which died, are slow, or failed on them."""
        began = time.monotonic()
        pause = _SHORTEST_PAUSE
        offered: set[int] = set()
        while missing := self.folder.missing():
            if self.folder.finished:  # the chunks are removed once the step is finished
                return
            failed = [number for number in missing if number not in offered and self.folder.attempts(number)]
            offered.update(failed)
            retried = [number for number in failed if self.group.next_index(self._counter(f"retry-{number}")) == 0]
            stolen = retried or self._abandoned(missing, time.monotonic() - began)
            if stolen:
                self._find_left_journals()
            for number in stolen:
                self._claims.take(number)  # a slow process of this run may keep its claim
                self._process(number, self._chunks.run_isolated)
                began = time.monotonic() if self._lost_others else began
            pause = _SHORTEST_PAUSE if stolen else min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)
            if not retried and self._chunks.advance():
                began = time.monotonic()  # other processes may be slow as long as there is work of the next step
            elif not retried:
                time.sleep(_SHORTEST_PAUSE if stolen else pause)

    def _abandoned(self, missing: list[int], waited: float) -> list[int]:
        """Return a list of at most one missing chunk, which no process is likely to be computing.

        With a store, each missing chunk belongs to a process of this run, which gets some time to finish, or to a
        living process of another run, for which this process waits. Without a store, processes do not know of each
        other: each begins at another position and skips claimed chunks.
        """
        patience = _PATIENCE * self._slowest if self._slowest else _DEFAULT_PATIENCE
        owners = {number: self._claims.owner(number) for number in missing}
        token = self.group.run_id[:8]
        others = [number for number in missing if not owners[number].startswith(token)]
        free = [number for number in others if not owners[number]]
        if self.group.world_size == 1:
            candidates = free
        elif waited >= patience:
            candidates = free + [number for number in missing if owners[number].startswith(token)]
        else:
            candidates = free if self._lost_others else []
        return candidates[self.group.rank * len(candidates) // self.group.world_size :][:1]

    def _merge_chunks(self) -> None:
        """Merge the chunks on process 0, or on another process if process 0 does not."""
        if not self.group.is_main:
            wait_until(
                lambda: self.folder.finished or self._lost_others, _PATIENCE * self._slowest + _DEFAULT_PATIENCE
            )
        if not self.folder.finished:
            tally = StepTally(self.technique.written_rejection_column)
            repeated, unequal = self._repeat_samples()

            def record(_: int) -> dict[str, Any]:
                columns, seconds = self.dataset.column_names, self.folder.seconds()
                server = self.technique.llm.server_facts()
                fields = self.technique.record(columns, tally, seconds, self.group.world_size, server)
                return {**fields, "repeated_rows": repeated, "unequal_rows": unequal}

            self.folder.merge_chunks(tally.update, record)

    def _repeat_samples(self) -> tuple[int, int]:
        """Complete a few rows a second time, each alone, if the llm promises outputs that don't depend on the batch.

        Returns:
            The number of repeated rows, and the number of those whose outputs differ.
        """
        samples = dict(self._samples.values()) if self.technique.same_rows == "row" else {}
        repeated = {index: self._complete_alone(index - self.first) for index in samples}
        samples = {index: outputs for index, outputs in samples.items() if repeated[index] is not None}
        unequal = sum(repeated[index] != outputs for index, outputs in samples.items())
        if unequal:
            logger.warning(
                "%d of %d rows of %s differ when they are completed alone, although %s promises equal rows: rounding "
                "depends on what runs beside a row. The record and the card say so; float32 may help",
                unequal,
                len(samples),
                self.technique.name,
                self.technique.model_name,
            )
        return len(samples), unequal

    def _complete_alone(self, row: int) -> list[Row] | None:
        """Return the outputs of a row of the dataset, completed without other rows beside it; None if it fails."""
        alone = ChunksInFlight(
            self.dataset,
            self.technique,
            lambda _: range(row, row + 1),
            lambda _: None,
            self.first,
            overlaps=False,
        )
        outcome = None
        with closing(alone), Attempt() as attempt:
            outcome = alone.outcomes(0)[0]
        if attempt.error is None and outcome is not None and not outcome.error:
            return outcome.rows
        fault = attempt.error or (outcome.error if outcome is not None else "")
        logger.warning("row %d can't be completed a second time: %s", row, fault)
        return None

    @property
    def _lost_others(self) -> bool:
        """Whether the run has other processes, but no store any more to share counters with them."""
        return self.group.world_size > 1 and not self.group.has_store

    def _counter(self, name: str) -> str:
        return f"{self.folder.path.name}/{name}"

    def _process(self, number: int, outcomes: Callable[[int], list[Outcome]]) -> None:
        """Run and save a chunk, unless another process has saved it by now.

        Args:
            number: Number of the chunk.
            outcomes: Takes this number and returns the outcomes of the chunk's rows.
        """
        if self.folder.chunk(number).exists():
            return
        rows = self._rows(number)
        began = time.monotonic()
        with _ChunkErrors() as attempt:
            self._save(number, rows, outcomes(number), began)
        self._check_first_rows(saved=attempt.error is None)
        if attempt.error is not None and not self.folder.finished:
            self._note_raised(number, rows, attempt.error)
        if self.folder.finished:  # another process computed this chunk too, and finished the step
            self.folder.cleanup()

    def _save(self, number: int, rows: range, outcomes: Sequence[Outcome], began: float) -> None:
        indices = range(self.first + rows.start, self.first + rows.stop)
        seeds = self.technique.row_seeds(indices, self._chunks.inputs(rows))
        table = self.technique.extend(self._tables[rows.start : rows.stop], self.features, seeds, outcomes)
        written = self.folder.write_chunk(number, table)
        failed = _count_new_failures(table)
        seconds = time.monotonic() - began
        self._slowest = max(self._slowest, seconds)
        # the timing is written before the chunk is saved, since the last chunk ends the step
        self.folder.note_timing(number, len(rows), seconds)
        if any(outcome.is_transient for outcome in outcomes):
            self.folder.note_transient_failures()
        if not self.folder.commit_chunk(number, written):
            self.progress.add(-len(rows), failed=-failed)  # another process has counted these rows
        for row in rows:
            self._unsaved_failures.pop(self.first + row, None)
        self._claims.release(number)
        self._journals.remove(number)
        for journal in self._left_journals.pop(number, ()):
            journal.unlink(missing_ok=True)

    def _note_raised(self, number: int, rows: range, error: Exception) -> None:
        """Record that a chunk raised.

        Raises:
            RunError: If too many rows failed in succession.
        """
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error  # `ChunksInFlight` wraps an OSError
        without_traceback = isinstance(cause, GenerationError | OSError)
        text = str(cause) if without_traceback else "".join(traceback.format_exception(cause))
        logger.warning("rows %d-%d of %s failed: %s", rows[0], rows[-1], self.technique.name, redact(text))
        self.folder.note_failure(number, rows, cause)
        self._claims.release(number)
        self._streak.add_chunk(sum(self.first + row not in self._unsaved_failures for row in rows), cause)
        self._check_streak()

    def _count_finished_chunk(self, number: int) -> None:
        """Count the rows of a chunk that another run has finished."""
        if self.group.read(self._counter(f"begun-{number}")):
            return  # a process of this run had begun the chunk early, and has counted its rows
        try:
            with pa.memory_map(str(self.folder.chunk(number))) as source:
                failed = _count_new_failures(pa.ipc.open_stream(source).read_all())
        except FileNotFoundError:
            if not self.folder.finished:
                raise
        else:
            self.progress.add(len(self._rows(number)), failed=failed, found=True)
            # `_check_first_rows` must not stop a step that has worked
            self.group.add(self._counter("completed"), 1)

    def _take_over_rows(self, rows: range) -> dict[int, Outcome]:
        """Return the reusable outcomes of a chunk's rows, from journals and other folders, by index; count them."""
        found: dict[int, Outcome] = {}
        first = self.first + rows.start
        for journal in self._left_journals.get(rows.start // self.chunk_size, ()):
            outcomes = read_journal(journal, self.technique.output_features, first, self._digests(rows))
            found |= {index: outcome for index, outcome in outcomes.items() if not outcome.is_transient}
        for earlier in self.earlier:
            found = {**earlier.outcomes(first, self._digests(rows)), **found}
        self._count_found(found)
        return found

    def _count_found(self, found: Mapping[int, Outcome]) -> None:
        """Count rows that were finished before this step began, by index."""
        uncounted = [index for index in found if index not in self._counted]
        failed = sum(self._is_new_failure(index, found[index]) for index in uncounted)
        self._counted.update(uncounted)
        self.progress.add(len(uncounted), failed=failed, found=True)
        if any(not outcome.error for outcome in found.values()):
            self.group.add(self._counter("completed"), 1)

    def _count_completion(self, run: RowState, completion: Completion) -> None:  # noqa: ARG002 - see Watcher
        self.progress.add(0, tokens=completion.completion_tokens)

    def _count_row(self, run: RowState) -> None:
        """Count a row that has ended.

        Raises:
            RunError: If too many rows in succession failed transiently.
        """
        index, outcome = run.seeds.row, run.outcome
        if not self.is_isolated:
            with self._disk_errors:
                self._journals.append((index - self.first) // self.chunk_size, index, outcome)
        if index not in self._counted:
            self._counted.add(index)
            self.progress.add(1, failed=self._is_new_failure(index, outcome))
        self._unsaved_failures.pop(index, None)
        if outcome.error:
            self._unsaved_failures[index] = outcome.error
        else:
            self._samples[min(len(self._samples), 1)] = index, outcome.rows
        self._streak.add(outcome)
        self._check_streak()

    def _check_streak(self) -> None:
        """Raise `RunError` if too many rows in succession failed transiently."""
        if self._streak.transient >= _MAX_FAILED:
            event = f"{self._streak.transient:,} rows of {self.technique.name} failed in succession"
            raise RunError(self._stop_message(event, "tries these rows again and continues"))

    def _check_first_rows(self, saved: bool) -> None:
        """Raise `RunError` if all of the step's first rows failed; called after each chunk.

        Args:
            saved: Whether the chunk was saved. The rows of an unsaved chunk count when it is processed again.
        """
        failed, completed = self._streak.take()
        if not saved:
            return
        failed = self.group.add(self._counter("failed"), failed)
        completed = self.group.add(self._counter("completed"), completed)
        if failed >= _MAX_FAILED and not completed:
            event = f"All of the first {failed:,} rows of {self.technique.name} failed"
            raise RunError(self._stop_message(event, "continues with the remaining rows"))

    def _stop_message(self, event: str, effect: str) -> str:
        lines = "".join(f"\n  {line}" for line in reason_lines(self._streak.reasons))
        return (
            f"{event}, so the run has stopped:{lines}\n"
            f"Finished chunks are kept in {self.folder.path}; the same command {effect}."
        )

    def _chunks_failed_message(self, failures: list[ChunkFailure]) -> str:
        reasons: Counter[str] = Counter()
        for failure in failures:
            reasons[failure.error] += failure.last - failure.first + 1
        lines = reason_lines(reasons) if len(failures) > 1 else []
        lines += [f"rows {f.first}-{f.last}: {f.error}" for f in failures[:_MAX_CHUNKS_LISTED]]
        if len(failures) > _MAX_CHUNKS_LISTED:
            lines.append(f"and {len(failures) - _MAX_CHUNKS_LISTED} more chunks")
        return (
            f"{self.technique.name} failed on {len(failures)} of {self.folder.num_chunks} chunks, each tried twice. "
            f"The other chunks are kept in {self.folder.path}; the same command tries only these:\n  "
            + "\n  ".join(lines)
        )

    def _is_new_failure(self, index: int, outcome: Outcome) -> bool:
        """Whether a row failed in this step, and in no earlier one."""
        return bool(outcome.error) and index - self.first not in self._failed_before

    @cached_property
    def _tables(self) -> Dataset:
        """The dataset, whose slices are Arrow tables."""
        return self.dataset.with_format("arrow")

    @cached_property
    def _failed_before(self) -> set[int]:
        """Positions in the dataset of the rows on which an earlier step failed."""
        return failed_rows(self.dataset)


@dataclass
class ChunksInFlight:
    """The rows of chunks, completed by the technique's llm.

    While an llm finishes the last rows of one chunk, rows of the next chunks fill its free slots.

    Args:
        dataset: The step's input.
        technique: The step.
        rows: Takes the number of a chunk; returns its rows.
        claim: Takes the number of chunks in flight; returns the next chunk for this process, or None.
        first: Index of the dataset's first row in the step's input.
        earlier_outcomes: Takes rows of the dataset; returns their reusable outcomes, by row index.
        watcher: Called for each completion and each finished row.
        overlaps: Whether rows of several chunks are completed beside each other.
        lookahead: Begins chunks of the next technique if no chunk of this step is left.
    """

    dataset: Dataset
    technique: Technique
    rows: Callable[[int], range]
    claim: Callable[[int], int | None]
    first: int = 0
    earlier_outcomes: Callable[[range], Mapping[int, Outcome]] | None = None
    watcher: Watcher = field(default_factory=Watcher)
    overlaps: bool = True
    lookahead: Lookahead | None = None
    _current: tuple[int, list[RowState]] | None = field(default=None, init=False)
    _started: deque[tuple[int, list[RowState]]] = field(default_factory=deque, init=False)
    _claimed: deque[int] = field(default_factory=deque, init=False)
    _flows: FlowDriver = field(init=False)

    def __post_init__(self) -> None:
        """Create the driver, with no row in flight."""
        self._flows = self._new_flows()

    def next(self) -> int | None:
        """Return the next chunk: one in flight, preferably with all rows finished, else a new one; None at the end."""
        finished = (started for started in self._started if all(row.finished for row in started[1]))
        self._current = next(finished, self._started[0] if self._started else None)
        if self._current is not None:
            self._started.remove(self._current)
        return self._current[0] if self._current else self._claim()

    def outcomes(self, number: int) -> list[Outcome]:
        """Return the outcomes of a chunk's rows.

        If the chunk raises, other chunks in flight are cancelled, and start again when `next` returns them.

        Raises:
            RuntimeError: For an `OSError` of the technique, to tell it from an error of the run directory.
        """
        try:
            if self._current and self._current[0] == number:
                return self._flows.finish(self._current[1])
            return self._flows.finish(self._start(number))
        except OSError as error:
            self.reset()
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.reset()
            raise

    def run_isolated(self, number: int) -> list[Outcome]:
        """Return the outcomes of a chunk's rows, completed without rows of other chunks.

        Raises:
            RuntimeError: As `outcomes` does.
        """
        self.reset()
        chunks = replace(self, overlaps=False, lookahead=None)
        with closing(chunks):
            return chunks.outcomes(number)

    def take_over(
        self, flows: FlowDriver | None, started: Mapping[int, list[RowState]], numbers: Sequence[int]
    ) -> None:
        """Take over chunks that began while the previous technique was running.

        Args:
            flows: The driver of their rows; None if no row is in flight.
            started: The rows of chunks in flight, by the chunk's number.
            numbers: Other chunks that this process has claimed.
        """
        self._claimed.extend(sorted(numbers))
        if flows is not None:
            flows.set_callbacks(self._start_next, self.technique.raised_rows, self.watcher)
            self._flows = flows
        self._started.extend(sorted(started.items()))
        for run in chain.from_iterable(started.values()):
            run.raised_rows, run.watcher = self.technique.raised_rows, self.watcher

    def release(self) -> FlowDriver:
        """Return the driver, with rows of the next technique in flight; this object goes on without both."""
        flows, self._flows, self.lookahead = self._flows, self._new_flows(), None
        return flows

    def advance(self) -> bool:
        """Wait for the next completion of a row of the next technique; return False if none is in flight."""
        if self.lookahead is not None:
            self.lookahead.begin_chunk(self._flows)
        return self._flows.advance()

    def close_if_idle(self) -> None:
        """Stop the llm's stream if no row is in flight."""
        self._flows.close_if_idle()

    def close(self) -> None:
        """Cancel the chunks in flight."""
        self._flows.close()
        if self.lookahead is not None:
            self.lookahead.cancel()

    def reset(self) -> None:
        """Cancel the chunks in flight, and keep their numbers for `next`."""
        self.close()
        self._claimed.extend(number for number, _ in self._started)
        self._started.clear()
        self._current = None
        self._flows = self._new_flows()

    def _new_flows(self) -> FlowDriver:
        return FlowDriver(self.technique.llm, self._start_next, self.technique.raised_rows, self.watcher)

    def _claim(self) -> int | None:
        in_flight = len(self._started) + (self._current is not None)
        return self._claimed.popleft() if self._claimed else self.claim(in_flight)

    def _start(self, number: int) -> list[RowState]:
        rows = self.rows(number)
        earlier = self.earlier_outcomes(rows) if self.earlier_outcomes is not None else {}
        indices = range(self.first + rows.start, self.first + rows.stop)
        return start_rows(self._flows, self.technique, self.inputs(rows), self.dataset.features, indices, earlier)

    def inputs(self, rows: range) -> Batch:
        """Return the columns that the technique reads, of some rows of the dataset."""
        batch: Batch = self._inputs[rows.start : rows.stop]
        return batch

    @cached_property
    def _inputs(self) -> Dataset:
        return input_columns(self.technique, self.dataset)

    def _start_next(self) -> None:
        """Start the next chunk's rows, unless chunks are isolated."""
        number = self._claim() if self.overlaps else None
        if number is not None:
            self._started.append((number, self._start(number)))
        elif self.lookahead is not None:
            self.lookahead.begin_chunk(self._flows)


@dataclass
class FailureStreak:
    """Counts of failures, by which a run decides to stop.

    A run stops if many rows in succession failed transiently, for example because a server is down, or if all of the
    step's first rows failed. Rows whose requests were never sent or were refused, for example as too long, don't
    count, since the fault is in the row.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    """Reasons of the failures that count, since the last completed row."""
    transient: int = 0
    """Rows that failed transiently, since the last completed row."""
    failed: int = 0
    """Failed rows that count, since the last `take`."""
    completed: int = 0
    """Completed rows since the last `take`."""

    def add(self, outcome: Outcome) -> None:
        """Count a row."""
        if not outcome.error:
            self.completed += 1
            self.transient = 0
            self.reasons.clear()
        elif outcome.finish_reason not in ("", "refused"):
            self.failed += 1
            self.transient += outcome.is_transient
            self.reasons[outcome.error] += 1

    def add_chunk(self, rows: int, error: BaseException) -> None:
        """Count the rows of a chunk that raised."""
        self.transient += rows
        self.reasons[f"{type(error).__name__}: {error}"] += rows

    def take(self) -> tuple[int, int]:
        """Return the numbers of failed and completed rows, and reset both to 0."""
        counts = self.failed, self.completed
        self.failed = self.completed = 0
        return counts


def run_dataset_step(
    step: DatasetStep,
    dataset: Dataset,
    folder: StepFolder,
    group: ProcessGroup,
    earlier: Sequence[Dataset] = (),
    first: int = 0,
) -> None:
    """Run a filter or function once, on process 0, and save its rows.

    If the store is lost because process 0 died, all remaining processes run the step.

    Args:
        step: The step.
        dataset: The step's input, or one round of it.
        folder: The step's files.
        group: The processes.
        earlier: The rows that a filter kept in earlier rounds.
        first: Index of the dataset's first row in the step's input.

    Raises:
        TypeError: If a function doesn't return a dataset.
        RunError: If process 0 doesn't finish the step.
    """
    if not group.is_main:
        if not wait_until(lambda: folder.finished or not group.has_store, _PROCESS_0_TIMEOUT):
            raise RunError(f"process 0 has not finished {step.name} in {_PROCESS_0_TIMEOUT:,.0f} seconds.")
        if folder.finished:
            return
    cached, began = set(_cache_files(dataset)), time.monotonic()
    with without_bars():
        kept, dropped = step.split(dataset, earlier, first)
    seconds = time.monotonic() - began
    tally = StepTally(rows=len(dataset) - len(failed_rows(dataset)))
    failed = len(failed_rows(kept))

    def record(rows_out: int) -> dict[str, Any]:
        tally.rows_out = rows_out - failed
        return step.record(dataset.column_names, tally, (seconds, seconds), group.world_size)

    try:
        with DiskErrors(folder.path):
            folder.prepare(clean=group.is_main)
            if dropped is not None:
                folder.save_dropped(dropped)
                tally.stopped.update({"": len(kept) - failed})
                tally.stopped.update(dropped_rows(dropped)["rule"])
            folder.finish(_tables(kept), record)
    except FileNotFoundError:
        if not folder.finished:  # if finished, another process was first, and removed this one's files
            raise
    written = {Path(file["filename"]) for part in (kept, dropped) if part is not None for file in part.cache_files}
    for cache in written - cached - {Path(file["filename"]) for file in dataset.cache_files}:
        cache.unlink(missing_ok=True)  # a copy of the rows, which the folder now has


def _cache_files(dataset: Dataset) -> Iterator[Path]:
    """Yield the cache files of datasets in the folders of a dataset's files."""
    for folder in {Path(file["filename"]).parent for file in dataset.cache_files}:
        yield from folder.glob("cache-*.arrow")


def _tables(dataset: Dataset, rows: int = 10_000) -> Iterator[pa.Table]:
    """Yield a dataset's rows as Arrow tables with its schema; one empty table if the dataset has no rows."""
    schema = dataset.features.arrow_schema
    if not len(dataset):
        yield schema.empty_table()
    for table in dataset.with_format("arrow").iter(rows):
        yield table.cast(schema)


@contextmanager
def frozen_heap(num_rows: int) -> Iterator[None]:
    """Exempt all present objects from garbage collection inside the `with` block, if a step has many rows.

    Torch, transformers and a model have several hundred thousand objects. Python would scan all of them again and
    again while rows come and go, which took a sixth of the processor time of a step with `EchoLLM`.

    Args:
        num_rows: Rows of the step.
    """
    if num_rows < _ROWS_TO_FREEZE or gc.get_freeze_count():  # the code that froze objects unfreezes them
        yield
        return
    gc.collect()  # garbage would stay in memory otherwise
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass(frozen=True)
class DiskErrors:
    """Context manager that turns an error of a full or read-only disk into a `RunError` that names the directory.

    Raises:
        RunError: For such an error inside the `with` block.
    """

    path: Path

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise a `RunError` for a disk error."""
        if error is not None and _is_disk_error(error):
            raise RunError(
                f"The run directory can't be written: {error}. Free some space or set another run_dir. Finished "
                f"chunks are kept in {self.path}; the same command continues."
            ) from error


class _ChunkErrors:
    """Context manager that stores the exception of a chunk, so that the chunk is tried a second time.

    Errors that would recur on every chunk propagate: disk errors, server errors and mistakes in the pipeline, such as
    an unsuitable chat template. So do interrupts, exits and the `RunError` that stops a run.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> "_ChunkErrors":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        fatal = isinstance(error, ChatTemplateError | ColumnError | FlowError | RunError | ServerError)
        if isinstance(error, Exception) and not fatal and not _is_disk_error(error):
            self.error = error
        return self.error is not None


def _is_disk_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK_ERRORS


def reason_lines(reasons: Mapping[str, int]) -> list[str]:
    """Return one line per reason with its number of rows, for the most frequent reasons.

    Reasons that differ only in numbers are counted as one.

    >>> reason_lines({"cut off after 96 tokens": 2, "Connection refused": 3, "cut off after 90 tokens": 2})
    ['4 rows: cut off after 96 tokens', '3 rows: Connection refused']
    """
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason, rows in reasons.items():
        pattern = re.sub(r"\d+", "#", reason)
        examples.setdefault(pattern, reason)
        counts[pattern] += rows
    ranked = counts.most_common()
    lines = [
        f"{counted(rows, 'row')}: {_shorten(examples[pattern])}" for pattern, rows in ranked[:_MAX_REASONS_LISTED]
    ]
    others = ranked[_MAX_REASONS_LISTED:]
    if others:
        lines.append(f"{counted(sum(rows for _, rows in others), 'row')}: {len(others):,} other reasons")
    return lines


def _shorten(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= _MAX_REASON_LENGTH else f"{line[:_MAX_REASON_LENGTH]}…"


def _count_new_failures(chunk: pa.Table) -> int:
    """Return the number of input rows in a chunk on which its step failed and no earlier step did."""
    tally = StepTally()
    tally.update(chunk)
    return sum(tally.failures.values())
