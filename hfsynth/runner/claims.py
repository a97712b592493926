"""Claim files, by which processes of all runs and machines share the chunks of a step without a common store.

The file `claim-00003` names the process that computes chunk 3. A process counts as dead if it no longer runs, or, on
another machine or in another container, if it has not touched its claims for two minutes. If a claim is taken from a
living process by mistake, the chunk is computed twice; no row is lost. `step_worker.py` decides which of the abandoned
chunks a process takes over, and when.
"""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from hfsynth.distributed import is_running
from hfsynth.runner.storage import retry_passing

_TOUCH_SECONDS = 15.0  # between two touches of a process's claims
_DEAD_AFTER = 120.0  # seconds without a touch; the clocks of two machines may differ by some of them
_WRITE_SECONDS = 10.0  # seconds that a process may take to write its id into a new claim


@dataclass
class Claims:
    """The claims of one process in one step's folder.

    Args:
        folder: The step's folder.
        worker_id: This process's `ProcessGroup.worker_id`.
    """

    folder: Path
    worker_id: str
    _held: set[int] = field(default_factory=set, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def take(self, chunk: int) -> bool:
        """Claim a chunk; return False if a living process of any run has claimed it."""
        if chunk in self._held:
            return True
        if not self._create(chunk):
            if self.owner(chunk):
                return False
            self._file(chunk).unlink(missing_ok=True)
            if not self._create(chunk):
                return False
        self._held.add(chunk)
        if self._thread is None:
            self._thread = threading.Thread(target=self._touch, daemon=True)
            self._thread.start()
        return True

    def owner(self, chunk: int) -> str:
        """Return the `worker_id` of the living process that has claimed a chunk; "" if there is none."""
        file = self._file(chunk)
        try:
            owner, touched = retry_passing(lambda: (file.read_text(encoding="utf-8"), file.stat().st_mtime))
        except FileNotFoundError:
            return ""
        age = time.time() - touched
        if not owner:
            return "unknown" if age < _WRITE_SECONDS else ""
        return owner if is_alive(owner, age) else ""

    def release(self, chunk: int) -> None:
        """Give up a claim of this process."""
        if chunk in self._held:
            self._held.discard(chunk)
            self._file(chunk).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up all claims of this process."""
        self._stop.set()
        for chunk in list(self._held):
            self.release(chunk)

    def _file(self, chunk: int) -> Path:
        return self.folder / f"claim-{chunk:05d}"

    def _create(self, chunk: int) -> bool:
        try:
            descriptor = os.open(self._file(chunk), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self.worker_id)
        return True

    def _touch(self) -> None:
        while not self._stop.wait(_TOUCH_SECONDS):
            for chunk in list(self._held):
                try:
                    os.utime(self._file(chunk))
                except OSError:  # just released, or a temporary error of a network file system
                    continue


def is_alive(worker_id: str, age: float) -> bool:
    """Whether the process of a `ProcessGroup.worker_id` runs, as far as this machine can tell.

    Args:
        worker_id: The id of the process.
        age: Seconds since the process touched a file, which decides if it runs on another machine or in another
            container.
    """
    runs = is_running(worker_id)
    return age < _DEAD_AFTER if runs is None else runs
