"""A bar for the rows of one batch of `Dataset.map`, whose own moves by whole batches only."""

import time
from types import TracebackType

from datasets.utils import are_progress_bars_disabled
from multiprocess import parent_process  # type: ignore[import-untyped]
from tqdm.auto import tqdm

from hfsynth.flow import Running, Watcher
from hfsynth.generation import Completion

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
