"""Progress bars of runs and of batches of `Dataset.map`."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from datasets import disable_progress_bars, enable_progress_bars
from datasets.utils import are_progress_bars_disabled
from multiprocess import parent_process  # type: ignore[import-untyped]
from tqdm.auto import tqdm

from hfsynth.distributed import Crew
from hfsynth.flow import Running, Watcher
from hfsynth.llm import Completion

_SECONDS_PER_LINE = 10.0


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep datasets from showing bars of its own beside the run's."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


class Progress:
    """Counts rows, tokens and failures of all processes, and shows them on process 0 while the run goes on.

    A bar where there is a terminal or a notebook; else a line on standard error every ten seconds.

    Args:
        crew: The processes.
        num_steps: Steps of the run; a step not yet reached is taken to have as many rows as the one before.
        quiet: Show nothing.
    """

    def __init__(self, crew: Crew, num_steps: int, quiet: bool) -> None:
        self._crew = crew
        self._num_steps = num_steps
        self._shows = crew.is_main and not quiet
        self._plain = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        self._bar = tqdm(total=0, unit="row", disable=not self._shows or self._plain, dynamic_ncols=True)
        self._label = ""
        self._rows_before = 0
        self._began = self._said = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Progress":
        """Begin to show."""
        if self._shows:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last state and leave it standing."""
        self._stop.set()
        if self._shows:
            self._thread.join()
            self._show(last=True)
        self._bar.close()

    def begin(self, number: int, name: str, num_rows: int) -> None:
        """Say that step `number` (from 1) begins, on this many rows."""
        self._label = f"step {number}/{self._num_steps}, {name}"
        self._bar.total = self._rows_before + num_rows * (self._num_steps - number + 1)
        self._rows_before += num_rows

    def add(self, rows: int, tokens: int = 0, failed: int = 0, found: bool = False) -> None:
        """Count rows that have ended, in this run or, where they were found, in an earlier one.

        Args:
            rows: How many.
            tokens: Tokens that were written.
            failed: Rows on which the step failed, and no step before it.
            found: Whether they were found finished.
        """
        amounts = {"rows": rows, "tokens": 0 if found else tokens, "failed": failed, "found": rows if found else 0}
        for counter, amount in amounts.items():
            if amount:
                self._crew.add(f"progress/{counter}", amount)

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self._show(last=False)

    def _show(self, last: bool) -> None:
        rows, tokens, failed, found = (
            self._crew.read(f"progress/{counter}") for counter in ("rows", "tokens", "failed", "found")
        )
        rows = min(rows, self._bar.total)  # a chunk that two processes made was counted twice
        seconds = max(time.monotonic() - self._began, 1e-3)
        facts = f"{tokens / seconds:,.0f} tokens/s, {failed} failed"
        if not self._plain:
            self._bar.set_description(self._label, refresh=False)
            self._bar.set_postfix_str(facts, refresh=False)
            self._bar.initial = found  # what was found is no measure of speed
            self._bar.n = rows
            self._bar.refresh()
        elif last or time.monotonic() - self._said >= _SECONDS_PER_LINE:
            self._said = time.monotonic()
            rate = (rows - found) / seconds
            left = f"{(self._bar.total - rows) / rate:,.0f} s left" if rate else "time left unknown"
            left = "done" if rows == self._bar.total else left
            line = f"{self._label}: {rows:,}/{self._bar.total:,} rows, {rate:,.1f} rows/s, {facts}, {left}"
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is the one thing a run prints


_SECONDS = 2.0  # a batch that takes less has no bar


class BatchProgress:
    """Shows the rows of a batch that have ended, tokens per second and the rows that failed.

    Nothing is shown where datasets shows no bars, nor in the processes of `num_proc`, which share a terminal.

    Args:
        name: The step's.
        num_rows: The batch's.
    """

    def __init__(self, name: str, num_rows: int) -> None:
        hidden = are_progress_bars_disabled() or parent_process() is not None
        self._bar = tqdm(
            total=num_rows,
            desc=f"{name}, this batch",
            unit="row",
            delay=_SECONDS,
            mininterval=0.5,
            leave=False,
            disable=hidden,
        )
        self._tokens = self._failed = 0
        self._began = time.monotonic()

    def __enter__(self) -> Watcher:
        """Return what counts the rows."""
        return Watcher(self._answered, self._ended)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.close()

    def _answered(self, run: Running, completion: Completion) -> None:  # noqa: ARG002 - as a watcher is called
        self._tokens += completion.completion_tokens

    def _ended(self, run: Running) -> None:
        self._failed += bool(run.outcome.error)
        rate = self._tokens / max(time.monotonic() - self._began, 1e-3)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s, {self._failed} failed", refresh=False)
        self._bar.update()
