"""A watchdog for llms: it logs a warning while no completion comes.

Python can't stop code from another thread, so there is no time limit here. An llm that waits for something of its own,
such as a server, sets a timeout there and returns a `Completion` with `finish_reason="error"`.
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
    """Warns while no completion comes: after `patience` seconds, and each time the silence has doubled since.

    >>> with Watchdog("TextGeneration", "some/model", lambda: 3, patience=60) as watchdog:
    ...     watchdog.note_completion()

    Args:
        step: Name of the step, for the warning.
        model: Name of the llm, for the warning.
        rows: Returns the number of waiting rows.
        patience: Seconds before the first warning.
    """

    def __init__(self, step: str, model: str, rows: Callable[[], int], patience: float = PATIENCE) -> None:
        self._step, self._model, self._rows = step, model, rows
        self._patience = self._next_warning = patience
        self._last_completion = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hfsynth-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Start the thread that warns."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def note_completion(self) -> None:
        """Note that a completion has come."""
        self._last_completion, self._next_warning = time.monotonic(), self._patience

    def _watch(self) -> None:
        while not self._stop.wait(max(self._last_completion + self._next_warning - time.monotonic(), 0.01)):
            seconds = time.monotonic() - self._last_completion
            if seconds >= self._next_warning:
                self._next_warning *= 2
                logger.warning(
                    "%s: no completion from %s for %.0f seconds; %d rows wait. If the llm hangs, interrupt the "
                    "process: a run keeps its finished chunks",
                    self._step,
                    self._model,
                    seconds,
                    self._rows(),
                )
