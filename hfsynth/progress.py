"""Progress bars: of a run over all its processes, and of one batch of `Dataset.map`."""

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

from hfsynth.distributed import ProcessGroup

_SECONDS_PER_LINE = 10.0
_BAR_DELAY = 2.0  # seconds; a batch that takes less has no bar


class Progress:
    """Counts rows, tokens and failures of all processes of a run, and prints them on process 0.

    A terminal or notebook shows a bar; elsewhere a line goes to standard error every ten seconds.

    Args:
        group: The processes.
        num_steps: Steps of the run; later steps are expected to have as many rows as the current one.
        quiet: Print nothing.
    """

    def __init__(self, group: ProcessGroup, num_steps: int, quiet: bool) -> None:
        self._group = group
        self._num_steps = num_steps
        self._is_visible = group.is_main and not quiet
        self._prints_lines = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        is_hidden = not self._is_visible or self._prints_lines
        self._bar = tqdm(total=0, unit="row", disable=is_hidden, dynamic_ncols=True)
        self._label = ""
        self._rows_before = 0
        self._began = self._last_line = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Progress":
        """Start the thread that prints."""
        if self._is_visible:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Print the last state."""
        self._stop.set()
        if self._is_visible:
            self._thread.join()
            self._print(last=True)
        self._bar.close()

    def begin(self, number: int, name: str, num_rows: int) -> None:
        """Begin step `number` (from 1), which has `num_rows` rows."""
        self._label = f"step {number}/{self._num_steps}, {name}"
        self._bar.total = self._rows_before + num_rows * (self._num_steps - number + 1)
        self._rows_before += num_rows

    def add(self, rows: int, tokens: int = 0, failed: int = 0, found: bool = False) -> None:
        """Count finished rows.

        Args:
            rows: The number of rows.
            tokens: Completion tokens of the rows.
            failed: Rows on which the step failed, and no earlier step.
            found: Whether an earlier run had finished them; they don't count for the speed.
        """
        amounts = {"rows": rows, "tokens": 0 if found else tokens, "failed": failed, "found": rows if found else 0}
        for counter, amount in amounts.items():
            if amount:
                self._group.add(f"progress/{counter}", amount)

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self._print(last=False)

    def _print(self, last: bool) -> None:
        rows, tokens, failed, found = (
            self._group.read(f"progress/{counter}") for counter in ("rows", "tokens", "failed", "found")
        )
        rows = min(rows, self._bar.total)  # a chunk that two processes ran was counted twice
        seconds = max(time.monotonic() - self._began, 1e-3)
        totals = f"{tokens / seconds:,.0f} tokens/s, {failed} failed"
        if not self._prints_lines:
            self._bar.set_description(self._label, refresh=False)
            self._bar.set_postfix_str(totals, refresh=False)
            self._bar.initial = found  # excluded from the speed
            self._bar.n = rows
            self._bar.refresh()
        elif last or time.monotonic() - self._last_line >= _SECONDS_PER_LINE:
            self._last_line = time.monotonic()
            rate = (rows - found) / seconds
            left = f"{(self._bar.total - rows) / rate:,.0f} s left" if rate else "time left unknown"
            left = "done" if rows == self._bar.total else left
            line = f"{self._label}: {rows:,}/{self._bar.total:,} rows, {rate:,.1f} rows/s, {totals}, {left}"
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - the one line that a run prints


class BatchProgress:
    """Shows a batch's finished rows, tokens per second and failed rows.

    Nothing is shown if the bars of datasets are disabled, nor in the processes of `num_proc`, which share a terminal.

    Args:
        name: The step's name.
        num_rows: Rows of the batch.
    """

    def __init__(self, name: str, num_rows: int) -> None:
        self._bar = tqdm(
            total=num_rows,
            desc=f"{name}, this batch",
            unit="row",
            delay=_BAR_DELAY,
            mininterval=0.5,
            leave=False,
            disable=are_progress_bars_disabled() or parent_process() is not None,
        )
        self._tokens = self._failed = 0
        self._began = time.monotonic()

    def __enter__(self) -> "BatchProgress":
        """Return the progress itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._bar.close()

    def add_tokens(self, tokens: int) -> None:
        """Count the tokens of a completion."""
        self._tokens += tokens

    def add_row(self, failed: bool) -> None:
        """Count a finished row."""
        self._failed += failed
        rate = self._tokens / max(time.monotonic() - self._began, 1e-3)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s, {self._failed} failed", refresh=False)
        self._bar.update()


@contextmanager
def without_bars() -> Iterator[None]:
    """Disable the progress bars of datasets inside the `with` block."""
    were_enabled = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if were_enabled:
            enable_progress_bars()
