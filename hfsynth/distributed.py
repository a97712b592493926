"""The processes of a run: numbers that they draw from one counter, and nothing that waits for all of them.

`accelerate launch` gives every process the store of its process group. Its counters are atomic, so each process takes
the next chunk when it is free, and no collective call is made. A process that runs alone counts for itself.
"""

import os
import socket
import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

_RUNS = count()  # runs of this process so far; the same in all processes, since all run the same script
_TOKEN_WAIT = timedelta(minutes=10)  # a process may come late: it downloads a dataset, or its node starts slowly


def is_main_process() -> bool:
    """Whether this is process 0 of those that `accelerate launch` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@dataclass
class Crew:
    """This process among those of its run."""

    rank: int = 0
    size: int = 1
    store: Any = None
    """The process group's store, or None where this process is alone or the store was lost."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """One word for all processes of this run, and for no other run."""
    _own: dict[str, int] = field(default_factory=dict)

    @classmethod
    def here(cls) -> "Crew":
        """Find the other processes that `accelerate launch` started, if any."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        import torch
        from accelerate import PartialState
        from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

        # on CPU accelerate must be told so, or each process thinks it is alone
        state = PartialState(cpu=not torch.accelerator.is_available())
        store = PrefixStore(f"hfsynth-{next(_RUNS)}", _get_default_store())
        if state.process_index == 0:
            store.set("token", uuid.uuid4().hex)
        store.wait(["token"], _TOKEN_WAIT)
        return cls(state.process_index, state.num_processes, store, store.get("token").decode())

    @property
    def is_main(self) -> bool:
        """Whether this process does what is done once."""
        return self.rank == 0

    @property
    def member(self) -> str:
        """A name for this process that no other has: for files that it alone writes."""
        return f"{self.token[:8]}-{self.rank}-{socket.gethostname()}-{os.getpid()}"

    def add(self, counter: str, amount: int) -> int:
        """Add to a counter of all processes and return its new value.

        Where the store is lost (the process that held it died), the counter goes on as this process's own, from 0. It
        then says nothing of the others, so ask `on_its_own` before it is believed.
        """
        if self.store is not None:
            try:
                return int(self.store.add(counter, amount))
            except RuntimeError:  # torch's DistError, and what a closed socket raises
                self.store = None
        self._own[counter] = self._own.get(counter, 0) + amount
        return self._own[counter]

    def read(self, counter: str) -> int:
        """Return a counter's value."""
        return self._own.get(counter, 0) if self.store is None else self.add(counter, 0)

    def agrees(self, name: str, value: str) -> bool:
        """Whether this process has the same value as the first that asked; True where there is nobody to ask."""
        if self.store is None:
            return True
        try:
            return bool(self.store.compare_set(name, "", value).decode() == value)
        except RuntimeError:
            self.store = None
            return True

    @property
    def on_its_own(self) -> bool:
        """Whether there is no store to ask: this process is alone, or the one that held it (process 0's node) died."""
        if self.store is not None:
            self.add("alive", 0)
        return self.store is None

    def draw(self, counter: str) -> int:
        """Take the next number, from 0, that no process has taken."""
        return self.add(counter, 1) - 1


def wait_until(condition: Any, seconds: float, pause: float = 0.05) -> bool:
    """Ask again and again whether a condition holds; return whether it came to hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
    return True
