"""The processes of a launch: rank, world size, device, and counters that all of them share.

`accelerate launch` names each process in environment variables and gives all of them one store. The store's counters
are atomic, so each process takes the next chunk as soon as it is free, without a collective call: no process ever
waits for all others. A process that runs alone counts for itself.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_RUNS = count()  # runs of this process so far; equal in all processes, since all run the same script
_RUN_ID_TIMEOUT = timedelta(minutes=10)  # a process may start late: it downloads a dataset, or its node boots slowly


def rank() -> int:
    """Return this process's number among those that `accelerate launch` started; 0 for a single process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes that `accelerate launch` started, on all nodes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes that `accelerate launch` started on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is process 0, which does everything that is done once."""
    return rank() == 0


def process_device() -> "torch.device":
    """Return the device of this process; the first call connects the processes of the launch."""
    device: torch.device = _accelerate_state().device
    return device


@dataclass
class ProcessGroup:
    """This process among those of its run.

    Attributes:
        rank: The process's number.
        world_size: The number of processes.
        store: The store of `torch.distributed`; None if this process is alone or the store was lost.
        run_id: A random text, the same in all processes of this run.
    """

    rank: int = 0
    world_size: int = 1
    store: Any = None
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _own_counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def current(cls) -> "ProcessGroup":
        """Connect to the other processes that `accelerate launch` started, if any."""
        if world_size() == 1:
            return cls()
        from torch.distributed.distributed_c10d import PrefixStore

        state = _accelerate_state()
        store = PrefixStore(f"hfsynth-{next(_RUNS)}", _default_store())
        if state.process_index == 0:
            store.set("run-id", uuid.uuid4().hex)
        store.wait(["run-id"], _RUN_ID_TIMEOUT)
        return cls(state.process_index, state.num_processes, store, store.get("run-id").decode())

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which does everything that is done once."""
        return self.rank == 0

    @property
    def worker_id(self) -> str:
        """A name that no other process of any run has, for files that this process writes; it begins with the run."""
        return f"{self.run_id[:8]}-{self.rank}-{socket.gethostname()}-{os.getpid()}"

    @property
    def has_store(self) -> bool:
        """Whether counters are shared: False for a single process, and after the store's process died."""
        if self.store is not None:
            self.add("alive", 0)
        return self.store is not None

    def add(self, counter: str, amount: int) -> int:
        """Add to a counter of all processes and return its new value.

        If the store is lost (its process died), the counter continues as this process's own, from 0, and no longer
        covers the other processes: ask `has_store` before relying on the value.
        """
        if self.store is not None:
            try:
                return int(self.store.add(counter, amount))
            except RuntimeError:  # torch's DistError, and what a closed socket raises
                self.store = None
        self._own_counts[counter] = self._own_counts.get(counter, 0) + amount
        return self._own_counts[counter]

    def read(self, counter: str) -> int:
        """Return a counter's value."""
        return self._own_counts.get(counter, 0) if self.store is None else self.add(counter, 0)

    def next_index(self, counter: str) -> int:
        """Return the counter's next number, from 0, which no other process gets."""
        return self.add(counter, 1) - 1

    def same_on_all_ranks(self, name: str, value: str) -> bool:
        """Whether this process has the same value as the first that asked; True without a store."""
        if self.store is None:
            return True
        try:
            return bool(self.store.compare_set(name, "", value).decode() == value)
        except RuntimeError:
            self.store = None
            return True


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Poll a condition until it holds or the seconds have passed; return whether it holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
    return True


def _accelerate_state() -> Any:
    import torch
    from accelerate import PartialState

    # without cpu=True, each process on a machine without an accelerator takes itself for the only one
    return PartialState(cpu=not torch.accelerator.is_available())


def _default_store() -> Any:
    """Return the store of the launch's processes, for which torch has no public function."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
