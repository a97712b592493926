"""The rows of a step's chunks on their way through an llm: one chunk after the other, or without a gap between them.

An llm that takes requests as it has room is never left half empty by a chunk's last rows: the next chunk's enter
beside them. Their completions don't depend on it (`LLM.overlaps`), so neither do the rows.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import TracebackType

from datasets import Dataset

from hfsynth.flow import Flows, Outcome, Running, Watcher
from hfsynth.technique import Technique


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
