"""Progress bars for a run with all its processes, and for one batch of `Dataset.map`."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from datasets import disable_progress_bars, enable_progress_bars
from datasets.utils import are_progress_bars_disabled
from multiprocess import parent_process  # type: ignore[import-untyped]
from tqdm.auto import tqdm

from hfsynth.distributed import ProcessGroup

_SECONDS_PER_LINE = 10.0
_BAR_DELAY = 2.0  # seconds; a batch that takes less has no bar


@dataclass
class _StepProgress:
    """The progress of one step, over all rounds of a run."""

    label: str
    total: int = 0
    """Input rows in the rounds so far."""
    seconds: float = 0.0
    """Time spent on the step before `began`."""
    began: float = 0.0


class Progress:
    """Counts rows, tokens and failures of each step in all processes of a run, and prints them on process 0.

    A terminal or notebook shows a bar for the current step; elsewhere, a line is printed to standard error every ten
    seconds. At the end, one line per step is printed.

    Args:
        group: The processes.
        num_steps: Number of steps of the run.
        quiet: Print nothing.
    """

    def __init__(self, group: ProcessGroup, num_steps: int, quiet: bool) -> None:
        self._group = group
        self._num_steps = num_steps
        self._is_visible = group.is_main and not quiet
        self._prints_lines = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        is_hidden = not self._is_visible or self._prints_lines
        self._bar = tqdm(total=0, unit="row", disable=is_hidden, dynamic_ncols=True, leave=False)
        self._steps: dict[int, _StepProgress] = {}
        self._number = 0  # number of the current step, from 1; 0 between steps
        self._last_line = time.monotonic()
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
        """Print a line for each step; after an error, only for steps with finished rows."""
        self._stop.set()
        if self._is_visible:
            self._thread.join()
        self._end_step()
        self._bar.close()
        if self._is_visible:
            for number in self._steps:
                if error is None or self._count(number, "rows"):
                    self._print_line(number)

    def begin(self, number: int, name: str, num_rows: int) -> None:
        """Begin step `number` (from 1) with `num_rows` rows; a later round adds its rows to the total."""
        self._end_step()
        step = self._steps.setdefault(number, _StepProgress(f"step {number}/{self._num_steps}, {name}"))
        step.total += num_rows
        step.began = time.monotonic()
        if not self._bar.disable:
            self._bar.reset(step.total)
            self._bar.start_t -= step.seconds
        self._number = number

    def add(self, rows: int, tokens: int = 0, failed: int = 0, found: bool = False) -> None:
        """Count finished rows of the current step.

        Args:
            rows: The number of rows.
            tokens: Completion tokens of the rows.
            failed: Rows on which the step failed and no earlier step did.
            found: Whether an earlier run had finished the rows; such rows are excluded from the speed.
        """
        for counter, amount in (
            ("rows", rows),
            ("tokens", 0 if found else tokens),
            ("failed", failed),
            ("found", rows if found else 0),
        ):
            if amount:
                self._group.add(f"progress/{self._number}/{counter}", amount)

    def _end_step(self) -> None:
        if step := self._steps.get(self._number):
            step.seconds += time.monotonic() - step.began
            self._number = 0

    def _count(self, number: int, counter: str) -> int:
        return self._group.read(f"progress/{number}/{counter}")

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            number = self._number
            if not number:
                continue
            if not self._prints_lines:
                self._refresh_bar(number)
            elif time.monotonic() - self._last_line >= _SECONDS_PER_LINE:
                self._last_line = time.monotonic()
                self._print_line(number)

    def _refresh_bar(self, number: int) -> None:
        step = self._steps[number]
        self._bar.set_description(step.label, refresh=False)
        self._bar.set_postfix_str(self._totals(number), refresh=False)
        self._bar.initial = self._count(number, "found")  # excluded from the speed
        self._bar.n = min(self._count(number, "rows"), step.total)
        self._bar.refresh()

    def _print_line(self, number: int) -> None:
        step = self._steps[number]
        rows = min(self._count(number, "rows"), step.total)  # a chunk that two processes ran may be counted twice
        rate = (rows - self._count(number, "found")) / self._seconds(number)
        if number != self._number:
            left = "done" if rows == step.total else "not finished"
        elif rows == step.total:
            left = "saving"
        else:
            left = f"{(step.total - rows) / rate:,.0f} s left" if rate > 0 else "time left unknown"
        line = f"{step.label}: {rows:,}/{step.total:,} rows, {rate:,.1f} rows/s, {self._totals(number)}, {left}"
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - the lines that a run prints

    def _totals(self, number: int) -> str:
        """Return the speed in tokens, and the number of failed rows if there are any."""
        failed = self._count(number, "failed")
        speed = f"{self._count(number, 'tokens') / self._seconds(number):,.0f} tokens/s"
        return f"{speed}, {failed:,} failed" if failed else speed

    def _seconds(self, number: int) -> float:
        step = self._steps[number]
        current = time.monotonic() - step.began if number == self._number else 0.0
        return max(step.seconds + current, 1e-3)


class BatchProgress:
    """Shows a batch's finished rows, tokens per second and failed rows.

    The bar is hidden if the bars of datasets are disabled, and in the processes of `num_proc`, which share a terminal.

    Args:
        name: The step's name.
        num_rows: Number of rows in the batch.
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
