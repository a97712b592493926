"""Several runs at once in one run directory."""

import json
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

from datasets import Dataset

from hfsynth import EchoLLM, TextGeneration
from tests.helpers import OnlyOnce, fork, kill_at_random

ROWS = [f"say {n * n % 60}" for n in range(60)]


class LoggedLLM(EchoLLM):
    """An echo that completes one request after the other, each logged in the folder that the environment names."""

    def stream(self, requests):
        log = os.open(os.environ["LOGGED_FOLDER"] + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while item := requests.take():
            text = item[1].messages[-1]["content"]
            os.write(log, f"{os.getpid()} {text}\n".encode())
            yield item[0], self.complete([item[1]])[0]


def run(folder, num_rows=None, seconds=0.0):
    os.environ["LOGGED_FOLDER"] = str(folder)
    second = TextGeneration(
        LoggedLLM(seconds_per_request=seconds),
        output_mappings={"generation": "b"},
        template="2 {{ generation }}",
        name="B",
    )
    chain = TextGeneration(LoggedLLM(seconds_per_request=seconds)) >> OnlyOnce(column="generation") >> second
    rows = Dataset.from_dict({"instruction": ROWS})
    return chain.run(rows, num_rows=num_rows, run_dir=folder / "run", chunk_size=8, quiet=True).to_list()


def start(folder, number, num_rows=None, seconds=0.0):
    """Run in a child, which writes its rows, or what it raised, to a file."""
    if child := fork():
        return child
    try:
        text = json.dumps(run(folder, num_rows, seconds))
    except BaseException as error:  # noqa: BLE001 - the parent reads it
        text = json.dumps(repr(error))
    (folder / f"rows-{number}.json").write_text(text)
    os._exit(0)


def logged(folder):
    return [line.split(" ", 1) for line in (folder / "log").read_text().splitlines()]


def test_run_three_times_at_once_shares_the_work(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    alone.mkdir()
    shared.mkdir()
    expected = run(alone)
    children = [start(shared, number, seconds=0.01) for number in range(3)]
    for child in children:
        os.waitpid(child, 0)
    for number in range(3):
        assert json.loads((shared / f"rows-{number}.json").read_text()) == expected
    asked = Counter(text for _, text in logged(shared))
    assert sum(asked.values()) <= len(logged(alone)) + 2 * 8  # a chunk may be completed twice, as a step ends
    assert len({process for process, _ in logged(shared)}) > 1  # on a busy machine, one may come too late
    assert [path.name for path in (shared / "run").rglob("claim-*")] == []


def test_run_killed_at_random_asks_for_few_rows_twice(tmp_path):
    """Thirty kills of one to three processes at once: equal rows, and at most the rows in flight asked for twice."""
    chance = random.Random(5)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir()
    killed.mkdir()
    expected = run(alone, num_rows=25)
    kills = kill_at_random(lambda number: start(killed, number, 25, 0.004), chance, 30, 3, (0.02, 0.35))
    assert kills >= 30
    assert json.loads((killed / "rows-0.json").read_text()) == expected
    repeated = sum((Counter(text for _, text in logged(killed)) - Counter(text for _, text in logged(alone))).values())
    assert repeated <= kills + 2 * 8  # one request is in flight in each process; a chunk may be completed twice


def test_run_slurm_tasks_without_a_launcher_share_the_rows(tmp_path):
    """Two tasks as `srun` starts them, with nothing but Slurm's variables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2"}
    slurm |= {"MASTER_PORT": str(port), "SLURM_JOB_ID": "7", "ACTION": "none any any", "ACTING_FOLDER": str(tmp_path)}
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "tests" / "launched.py"), str(tmp_path / "run"), "20", "0.05"]
    tasks = [
        subprocess.Popen(
            command,
            env={**os.environ, **slurm, "PYTHONPATH": str(root), "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)},
        )
        for n in range(2)
    ]
    assert [task.wait(240) for task in tasks] == [0, 0]
    rows = {(tmp_path / f"rows-{rank}.json").read_text() for rank in range(2)}
    assert len(rows) == 1
    assert len(json.loads(rows.pop())) == 19
    lines = [line.split(" ", 1) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(text for _, text in lines) == sorted(f"say {n}" for n in range(20))
