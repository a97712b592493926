"""Rows of the next technique that begin before a step is finished.

At the end of a step, the llm has fewer rows left than slots. If the next technique has the same llm, its first chunks
then begin: those whose input rows are in finished chunks of the running step. Their rows are written to journals in
the next step's folder, with a hash of their input, and the rows that are in flight when the running step ends continue
in the same stream. The next step takes over the finished rows and those in flight whose hash fits its own input.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, concatenate_datasets
from numpy.typing import NDArray

from hfsynth.flow import Attempt, FlowDriver, Outcome, RaisedRows, RowState, Watcher
from hfsynth.progress import without_bars
from hfsynth.runner.chunks import Claims, StepFolder
from hfsynth.runner.journal import Journals, find_journals, read_journal
from hfsynth.runner.reuse import EarlierRows, row_digests
from hfsynth.step import DatasetStep
from hfsynth.technique import Batch, Technique

logger = logging.getLogger(__name__)
_MAX_FAILED = 8  # rows that failed transiently in succession, after which no more rows begin


def input_columns(technique: Technique, rows: Dataset) -> Dataset:
    """Return the columns that a technique reads, whose slices are plain batches."""
    inputs = rows.select_columns(technique.columns_read(rows.features))
    return inputs if inputs.format["type"] is None else inputs.with_format(None)


def start_rows(
    flows: FlowDriver,
    technique: Technique,
    batch: Batch,
    features: Features,
    indices: range,
    finished: Mapping[int, Outcome],
    raised: RaisedRows | None = None,
    watcher: Watcher | None = None,
) -> list[RowState]:
    """Start the flows of consecutive rows, and submit their first requests.

    Args:
        flows: Runs the flows.
        technique: The step.
        batch: The rows, with the columns of `input_columns`.
        features: The features of the step's input.
        indices: The rows' indices in the step's input.
        finished: Outcomes of rows that are finished already, by index.
        raised: See `FlowDriver.start`.
        watcher: See `FlowDriver.start`.
    """
    started = [
        finished.get(index, flow)
        for index, flow in zip(indices, technique.flows(batch, indices, features), strict=True)
    ]
    return flows.start(started, technique.row_seeds(indices, batch), type(technique).__name__, raised, watcher)


@dataclass
class _EarlyChunk:
    """A chunk of the next step, in flight."""

    digests: NDArray[np.uint64]
    """A hash for each input row: (rows,)."""
    rows: list[RowState] = field(default_factory=list)


@dataclass
class Lookahead:
    """The first chunks of the next technique, which begin while the last rows of a step are completed.

    Args:
        folder: The files of the running step.
        filters: Steps between the two techniques, all of them row-wise.
        technique: The next technique, which has the running step's llm.
        next_folder: The files of its step.
        earlier: Folders with reusable rows of its step, latest first.
        chunk_size: Rows of a chunk.
        first: Index of the first row in its step's input; above 0 after an earlier round.
    """

    folder: StepFolder
    filters: Sequence[DatasetStep]
    technique: Technique
    next_folder: StepFolder
    earlier: Sequence[EarlierRows]
    chunk_size: int
    first: int = 0
    claims: Claims = field(init=False)
    """The claims of all chunks that have begun."""
    journals: Journals = field(init=False)
    """The finished rows of these chunks."""
    _flows: FlowDriver | None = field(default=None, init=False)
    """Runs the rows in flight, once the running step has ended."""
    _in_flight: dict[int, _EarlyChunk] = field(default_factory=dict, init=False)
    """Chunks of the next step with rows in flight, by number."""
    _journaled: list[int] = field(default_factory=list, init=False)
    """Chunks of the next step that have begun and have no row in flight; their finished rows are in journals."""
    _unused: list[Dataset] = field(default_factory=list, init=False)
    """Input rows of the next step that aren't in a chunk yet."""
    _num_read: int = field(default=0, init=False)
    """Number of the running step's chunks that were read."""
    _next_number: int = field(default=0, init=False)
    """Number of the next step's next chunk."""
    _left_journals: dict[int, list[Path]] | None = field(default=None, init=False)
    """Journals of earlier runs, by chunk of the next step."""
    _num_failed: int = field(default=0, init=False)
    """Rows that failed transiently since the last completed one."""
    _is_stopped: bool = field(default=False, init=False)
    """Whether an exception was raised."""

    def __post_init__(self) -> None:
        """Begin with no row."""
        self.claims = Claims(self.next_folder.path, self.next_folder.worker_id)
        self.journals = Journals(self.next_folder.path, self.next_folder.worker_id, self.technique.output_features)

    def begin_chunk(self, flows: FlowDriver) -> None:
        """Start the rows of the next chunk, if they are in finished chunks of the running step.

        No more rows begin after an exception, which the next step will raise, or after 8 transient failures in
        succession.

        Args:
            flows: Runs the running step's rows.
        """
        if self._is_stopped or self._num_failed >= _MAX_FAILED:
            return
        with Attempt(()) as attempt:
            self._forget_finished()
            while (rows := self._next_rows()) is not None and not self._begin(rows, flows):
                pass
        if attempt.error is not None:
            self._stop(attempt.error)

    def cancel(self) -> None:
        """Give up the rows in flight, whose stream was closed; finished rows are in journals."""
        self._journaled += self._in_flight
        self._in_flight.clear()

    def keep(self, flows: FlowDriver) -> None:
        """Keep the stream of the running step, which has ended, for the rows in flight."""
        self._forget_finished()
        if self._is_stopped:
            self.cancel()
        if self._in_flight:
            self._flows = flows
        else:
            flows.close()

    def hand_over(self, digests: NDArray[np.uint64]) -> tuple[FlowDriver | None, dict[int, list[RowState]], list[int]]:
        """Hand all chunks over to the next step.

        Args:
            digests: A hash for each row of the step's input: (rows,).

        Returns:
            The driver of the rows in flight, if there are any; the rows of the chunks in flight, by the chunk's
            number; the numbers of other chunks that this process has claimed, whose rows are in journals.
        """
        expected = {number: self._slice(digests, number) for number in (*self._in_flight, *self._journaled)}
        if any(not np.array_equal(chunk.digests, expected[number]) for number, chunk in self._in_flight.items()):
            logger.warning(
                "rows of %s began early with other inputs than they have now, and are computed a second time; "
                "a filter that depends on earlier rows must set stateful = True",
                self.technique.name,
            )
            self.close_stream()
        flows, self._flows = self._flows, None
        started = {number: chunk.rows for number, chunk in self._in_flight.items()}
        self._in_flight.clear()
        for number in [number for number in self._journaled if not len(expected[number])]:
            self._journaled.remove(number)
            self.claims.release(number)
            self.journals.remove(number)
        return flows, started, self._journaled

    def close_stream(self) -> None:
        """Stop the stream of the rows in flight."""
        if self._flows is not None:
            self._flows.close()
            self._flows = None
        self.cancel()

    def close(self) -> None:
        """Stop the stream, and give up all claims. Journals stay, for the same command."""
        self.close_stream()
        self.journals.close()
        self.claims.close()

    def _slice(self, digests: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
        return digests[number * self.chunk_size : (number + 1) * self.chunk_size]

    def _next_rows(self) -> Dataset | None:
        """Return the rows of the next step's next chunk; None if they are not finished yet."""
        while sum(map(len, self._unused)) < self.chunk_size:
            if self._num_read >= self.folder.num_chunks or not self.folder.has_chunk(self._num_read):
                return None
            with without_bars():
                rows = Dataset.from_file(str(self.folder.chunk(self._num_read)))
                for step in self.filters:
                    rows, _ = step.split(rows)
            self._unused.append(rows)
            self._num_read += 1
        rows = concatenate_datasets(self._unused)
        rest = range(self.chunk_size, len(rows))
        self._unused = [rows.select(rest)] if rest else []
        return rows.select(range(self.chunk_size))

    def _begin(self, rows: Dataset, flows: FlowDriver) -> bool:
        """Start the next chunk with these rows, unless it is finished or claimed; return whether it has begun."""
        number = self._next_number
        self._next_number += 1
        if any(self.next_folder.path.glob(f"chunk-{number:05d}-of-*")):
            return False
        digests = row_digests(rows, self.technique.columns_read(rows.features))
        first = self.first + number * self.chunk_size
        found = self._find_outcomes(number, first, digests)
        if len(found) == len(rows):
            return False
        self.next_folder.path.mkdir(parents=True, exist_ok=True)
        if not self.claims.take(number):
            return False
        chunk = self._in_flight[number] = _EarlyChunk(digests)
        watcher = Watcher(ended=self._write, raised=self._stop)
        batch, indices = input_columns(self.technique, rows)[:], range(first, first + len(rows))
        chunk.rows = start_rows(flows, self.technique, batch, rows.features, indices, found, RaisedRows(), watcher)
        return True

    def _find_outcomes(self, number: int, first: int, digests: NDArray[np.uint64]) -> dict[int, Outcome]:
        """Return the reusable outcomes of a chunk's rows, from journals and other folders, by row index."""
        if self._left_journals is None:
            self._left_journals = find_journals(self.next_folder.path)
        found: dict[int, Outcome] = {}
        for earlier in self.earlier:
            found = {**earlier.outcomes(first, digests), **found}
        for journal in self._left_journals.get(number, ()):
            outcomes = read_journal(journal, self.technique.output_features, first, digests)
            found |= {index: outcome for index, outcome in outcomes.items() if not outcome.is_transient}
        return found

    def _write(self, run: RowState) -> None:
        """Write a finished row to its chunk's journal."""
        self._num_failed = self._num_failed + 1 if run.outcome.is_transient else 0
        number, place = divmod(run.seeds.row - self.first, self.chunk_size)
        digest = int(self._in_flight[number].digests[place])
        self.journals.append(number, run.seeds.row, run.outcome, digest)

    def _forget_finished(self) -> None:
        """Keep only the number of each chunk whose rows are all finished."""
        finished = [number for number, chunk in self._in_flight.items() if all(row.finished for row in chunk.rows)]
        for number in finished:
            del self._in_flight[number]
        self._journaled += finished

    def _stop(self, error: Exception) -> None:
        """Let no more rows begin."""
        if not self._is_stopped:
            logger.info("no more rows of %s begin early: %s: %s", self.technique.name, type(error).__name__, error)
        self._is_stopped = True
