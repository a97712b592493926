"""Rank, world size, and counters that the processes of a launch share."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed
from torch.distributed import HashStore, TCPStore

from hfsynth import distributed
from hfsynth.distributed import ProcessGroup, is_main_process, machine_id, wait_until


def test_group_single_process_counts_for_itself():
    group = ProcessGroup.current()
    assert (group.rank, group.world_size, group.is_main, group.has_store) == (0, 1, True, False)
    assert [group.next_index("chunk") for _ in range(3)] == [0, 1, 2]
    assert group.read("chunk") == 3
    assert group.same_on_all_ranks("step", "anything")


def test_next_index_two_processes_each_number_once():
    store = TCPStore("127.0.0.1", 0, is_master=True)
    groups = [ProcessGroup(rank, 2, TCPStore("127.0.0.1", store.port, is_master=False), "t") for rank in (0, 1)]
    numbers = [group.next_index("chunk") for _ in range(5) for group in groups]
    assert sorted(numbers) == list(range(10))
    assert groups[0].same_on_all_ranks("step", "a")
    assert not groups[1].same_on_all_ranks("step", "b")


def test_next_index_lost_store_counts_for_itself():
    class LostStore:
        def add(self, counter, amount):
            raise RuntimeError("Connection reset by peer")

    group = ProcessGroup(1, 2, LostStore(), "t")
    assert group.next_index("chunk") == 0
    assert not group.has_store
    assert group.next_index("chunk") == 1


def test_default_store_is_that_of_the_torch_group():
    """torch has no public function for this store: a release that renames the private one fails here."""
    store = HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        num_keys = store.num_keys()
        distributed._default_store().set("key", "value")
        assert store.num_keys() == num_keys + 1
    finally:
        torch.distributed.destroy_process_group()


def test_worker_id_differs_and_begins_with_the_run():
    one, two = ProcessGroup(0, 2, None, "a" * 32), ProcessGroup(1, 2, None, "a" * 32)
    assert one.worker_id != two.worker_id
    assert one.worker_id.split("-")[0] == two.worker_id.split("-")[0] == "a" * 8


@pytest.mark.parametrize(("rank", "main"), [("0", True), ("3", False)])
def test_is_main_process_only_rank_0(monkeypatch, rank, main):
    monkeypatch.setenv("RANK", rank)
    assert is_main_process() is main


def test_launch_variables_give_rank_and_sizes(monkeypatch):
    sizes = (distributed.rank(), distributed.world_size(), distributed.local_world_size())
    assert sizes == (0, 1, 1)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    sizes = (distributed.rank(), distributed.world_size(), distributed.local_world_size())
    assert sizes == (5, 8, 4)


def test_process_device_without_accelerator_is_cpu():
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    assert distributed.process_device() == torch.device("cpu")


def test_wait_until_ends_as_soon_as_the_condition_holds():
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), seconds=5, pause=0)
    assert not wait_until(lambda: False, seconds=0)


SLURM = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[07-08,11],cpu1",
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
}


def test_slurm_environment_of_a_task_names_the_launch():
    found = distributed.slurm_environment(SLURM)
    port = found.pop("MASTER_PORT")
    assert found == {
        "RANK": "4",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "gpu07",
    }
    assert 1024 < int(port) < 65_536
    assert distributed.slurm_environment({**SLURM, "SLURM_PROCID": "1"})["MASTER_PORT"] == port
    assert distributed.slurm_environment({**SLURM, "SLURM_STEP_ID": "1"})["MASTER_PORT"] != port


@pytest.mark.parametrize("change", [{"SLURM_STEP_NUM_TASKS": "1"}, {"RANK": "0"}, {"SLURM_STEP_NUM_TASKS": ""}])
def test_slurm_environment_single_task_or_launcher_is_empty(change):
    assert distributed.slurm_environment({**SLURM, **change}) == {}


def test_slurm_tasks_give_rank_and_sizes(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is removed afterwards
        monkeypatch.delenv(name)
    assert (distributed.rank(), distributed.world_size(), distributed.local_world_size()) == (4, 5, 1)


def test_machine_id_of_a_container_differs():
    """A namespace of process numbers of its own, under the same host name."""
    code = "from hfsynth.distributed import machine_id; print(machine_id())"
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", sys.executable, "-c", code]
    try:
        inside = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces here: {error}")
    assert inside.stdout.strip() != machine_id()
