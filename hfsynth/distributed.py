"""The processes of a launch: rank, world size, device, and counters that all of them share.

`accelerate launch` and `torchrun` name each process in environment variables (RANK, WORLD_SIZE, …) and give all of
them one store; for the tasks of a plain `srun`, Slurm's variables stand for these (`slurm_environment`). The store's
counters are atomic, so each process takes the next chunk as soon as it is free, without a collective call: no process
ever waits for all others. A process that runs alone keeps the counters in its own memory.
"""

import hashlib
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfsynth.errors import RunError

if TYPE_CHECKING:
    import torch

_RUNS = count()  # runs of this process so far; equal in all processes, since all run the same script
_BLOCKS: dict[str, int] = {}  # number of the last block of `only_process_0` for each action
_BLOCK_TIMEOUT = timedelta(days=1)
_LONGEST_PAUSE = 2.0  # seconds between two polls
_FIRST_PORT, _PORTS = 20_000, 20_000  # of process 0 in a job of Slurm
_RUN_ID_TIMEOUT = timedelta(minutes=10)  # a process may start late: it downloads a dataset, or its node boots slowly


def rank() -> int:
    """Return this process's number among those of the launch; 0 for a single process."""
    return int(_environment().get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes of the launch, on all nodes."""
    return int(_environment().get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes of the launch on this node."""
    return int(_environment().get("LOCAL_WORLD_SIZE", "1"))


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Convert the variables of an `srun` task to those of a launch; none for a single task.

    Process 0 runs on the first node of the step. Its port follows from the numbers of the job and the step, unless
    MASTER_PORT is set.

    Args:
        environment: The process's environment.

    >>> slurm_environment(
    ...     {
    ...         "SLURM_STEP_NUM_TASKS": "4",
    ...         "SLURM_PROCID": "3",
    ...         "SLURM_LOCALID": "1",
    ...         "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    ...         "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    ...         "SLURM_NODEID": "1",
    ...         "SLURM_JOB_ID": "1234",
    ...     }
    ... )["MASTER_ADDR"]
    'gpu07'
    """
    tasks, own = environment.get("SLURM_STEP_NUM_TASKS", ""), environment.get("SLURM_PROCID", "")
    if not (tasks.isdigit() and own.isdigit()) or int(tasks) < 2 or "RANK" in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    job = int(environment.get("SLURM_JOB_ID", "0")) * 31 + int(environment.get("SLURM_STEP_ID", "0"))
    sizes = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", tasks))
    node = int(environment.get("SLURM_NODEID", "0"))
    return {
        "RANK": own,
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(sizes[node] if node < len(sizes) else 1),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or _first_node(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(_FIRST_PORT + job % _PORTS),
    }


def _tasks_per_node(text: str) -> list[int]:
    """Return the numbers of tasks of the nodes, which Slurm writes as `2(x3),1`."""
    sizes: list[int] = []
    for tasks, repeats in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        sizes += [int(tasks)] * int(repeats or 1)
    return sizes


def _first_node(nodes: str) -> str:
    """Return the first of a list of nodes, which Slurm writes as `gpu[07-08,11],cpu1`."""
    name, number = re.match(r"([^,\[]*)(?:\[(\d+))?", nodes).groups()  # type: ignore[union-attr] # matches ""
    return f"{name}{number or ''}" or "localhost"


def _environment() -> Mapping[str, str]:
    """Return the environment; for a task of a plain `srun`, first add the variables of a launch, which torch reads."""
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
        os.environ.update(slurm_environment(os.environ))
    return os.environ


def is_main_process() -> bool:
    """Whether this is process 0, which does everything that is done once."""
    return rank() == 0


@contextmanager
def only_process_0(action: str) -> Iterator[bool]:
    """Context manager for a block that process 0 runs, while the other processes wait for its end.

    They wait only if all processes are connected, as after a run. A block that only process 0 enters waits for none.

    Args:
        action: The block's action and its object, such as "saving data/default"; the same in all processes.

    Yields:
        Whether this process is to run the block.

    Raises:
        RunError: In the other processes, if the block raised in process 0, or process 0 has died.

    >>> with only_process_0("writing a file") as is_chosen:
    ...     is_chosen
    True
    """
    number = _BLOCKS[action] = _BLOCKS.get(action, -1) + 1
    store, key, result = _store_if_connected(), f"hfsynth-block/{action}/{number}", "failed"
    if is_main_process():
        try:
            yield True
            result = ""
        finally:
            if store is not None:
                store.set(key, result)
        return
    if store is not None:
        try:
            store.wait([key], _BLOCK_TIMEOUT)
            result = store.get(key).decode()
        except RuntimeError as error:  # torch's DistError, and what a closed socket raises
            raise RunError(f"{action}: process 0 has ended or takes longer than a day.") from error
        if result:
            raise RunError(f"{action} {result} in process 0; see its error.")
    yield False


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
        return f"{self.run_id[:8]}-{self.rank}-{socket.gethostname()}-{process_id(os.getpid())}"

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
        """Whether this process has the same value as the first process that called this; True without a store."""
        if self.store is None:
            return True
        try:
            return bool(self.store.compare_set(name, "", value).decode() == value)
        except RuntimeError:
            self.store = None
            return True


@cache
def machine_id() -> str:
    """Return a text that two processes share exactly if each can look up the other by its number.

    A hash of the kernel's boot and of the namespace of process numbers: containers may have equal host names, and
    equal numbers for different processes. Without a `/proc`, a hash of the host's name and network address.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
        parts = (boot, os.readlink("/proc/self/ns/pid"))
    except OSError:
        parts = (socket.gethostname(), str(uuid.getnode()))
    return hashlib.blake2b("/".join(parts).encode(), digest_size=6).hexdigest()


def process_id(process: int) -> str:
    """Return an id of a process of this machine that no other process has had, from its machine, number and start."""
    return f"{machine_id()}-{process}-{_state_and_start(process)[1]}"


def is_running(text: str) -> bool | None:
    """Whether a process runs, by a text that has its `process_id`; None if it is one of another machine.

    A zombie does not run, and neither does a process whose number another process has by now.
    """
    own = re.search(rf"-{machine_id()}-(\d+)-(\d+)(?=-|$)", text)
    if own is None:
        return None
    try:
        os.kill(int(own[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        pass
    state, start = _state_and_start(int(own[1]))
    return state != "Z" and start in (own[2], "0")


def _state_and_start(process: int) -> tuple[str, str]:
    """Return a process's state, such as "R", and its start in ticks since the boot; ("", "0") if they are unknown."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", "0"
    fields = stat.rpartition(")")[2].split()  # after the name, which may have spaces
    return fields[0], fields[19]


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Poll a condition until it holds or the seconds have passed; return whether it holds.

    The pauses grow, up to two seconds: many processes may wait for hours, and look at a shared folder.
    """
    end = time.monotonic() + seconds
    while not condition():
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 1.2, _LONGEST_PAUSE)
    return True


def _accelerate_state() -> Any:
    import torch
    from accelerate import PartialState

    # without cpu=True, each process on a machine without an accelerator takes itself for the only one
    return PartialState(cpu=not torch.accelerator.is_available())


def _store_if_connected() -> Any:
    """Return the store of the launch's processes; None before they are connected, and for a single process."""
    if world_size() == 1 or "torch.distributed" not in sys.modules:
        return None
    from torch import distributed

    return _default_store() if distributed.is_available() and distributed.is_initialized() else None


def _default_store() -> Any:
    """Return the store of the launch's processes, for which torch has no public function."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
