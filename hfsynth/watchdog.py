"""A watchdog for llms: one that hangs says nothing, so the log says that no completion comes.

Python code can't be stopped from another thread, so there is no time limit here. An llm that waits for something of
its own, such as a server, sets a timeout there and returns a `Completion` with `finish_reason="error"`.
"""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

logger = logging.getLogger(__name__)
PATIENCE = 300.0
"""Seconds without a completion before the first warning."""


class Watchdog:
    """Warns while no completion comes: after `patience` seconds, and then each time the silence has doubled.

    >>> with Watchdog("TextGeneration", "some/model", lambda: 3, patience=60) as watchdog:
    ...     watchdog.note_completion()

    Args:
        step: Name of the step, for the warning.
        model: Name of the llm, for the warning.
        rows: Returns how many rows wait.
        patience: Seconds before the first warning.
    """

    def __init__(self, step: str, model: str, rows: Callable[[], int], patience: float = PATIENCE) -> None:
        self._step, self._model, self._rows = step, model, rows
        self._patience = self._silence = patience
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hfsynth-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def note_completion(self) -> None:
        """Note that a completion has come."""
        self._last, self._silence = time.monotonic(), self._patience

    def _watch(self) -> None:
        while not self._stop.wait(max(self._last + self._silence - time.monotonic(), 0.01)):
            seconds = time.monotonic() - self._last
            if seconds >= self._silence:
                self._silence *= 2
                logger.warning(
                    "%s: no completion from %s for %.0f seconds; %d rows wait. If it hangs, interrupt the process; "
                    "a run goes on from its finished chunks",
                    self._step,
                    self._model,
                    seconds,
                    self._rows(),
                )
