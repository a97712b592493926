"""Runs by real processes, started with `accelerate launch` and killed for real."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset

from hfsynth import EchoLLM, TextGeneration
from hfsynth.distributed import wait_until

ROOT = Path(__file__).parents[2]
ROWS = 20
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
TWO = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


@dataclass
class Launched:
    """A folder in which launches leave their traces."""

    folder: Path

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def start(self, *flags, rows=ROWS, seconds=0.02, action="none any any", launcher=LAUNCH, rounds=""):
        environment = {
            **os.environ,
            "ACTING_ROUNDS": rounds,
            "ACTING_FOLDER": str(self.folder),
            "ACTION": action,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [*launcher, *map(str, flags), str(ROOT / "tests" / "launched.py"), self.run_dir, rows, seconds]
        return subprocess.Popen(
            list(map(str, command)),
            env=environment,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, processes=2, **options):
        """Launch on one node and wait; the exit status and the output."""
        flags = ["--multi_gpu", "--num_processes", processes, "--main_process_port", 0] if processes > 1 else []
        launcher = LAUNCH if processes > 1 else [sys.executable]
        process = self.start(*flags, launcher=launcher, **options)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def rows(self):
        """The rows that every process returned; all the same."""
        return self._same_in_all_processes("rows")

    def details(self):
        """The failures and the record that every process returned; all the same."""
        return self._same_in_all_processes("details")

    def _same_in_all_processes(self, name):
        texts = {file.read_text() for file in self.folder.glob(f"{name}-*.json")}
        assert len(texts) == 1
        return json.loads(texts.pop())

    def completed(self):
        """How often each row was completed."""
        return Counter(line.split(" ", 1)[1] for line in (self.folder / "log").read_text().splitlines())


@pytest.fixture
def launched(tmp_path):
    return Launched(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The rows of one process that nothing happened to."""
    alone = Launched(tmp_path_factory.mktemp("alone"))
    status, output = alone.run(processes=1)
    assert status == 0, output
    return alone.rows()


def test_run_three_processes_same_rows_each_once(launched, expected):
    status, output = launched.run(3)
    assert status == 0, output
    assert launched.rows() == expected
    assert set(launched.completed().values()) == {1}
    assert len(list(launched.folder.glob("rows-*.json"))) == 3
    assert (launched.folder / "functions").read_text() == "0"


def test_run_rows_are_those_of_dataset_map(expected):
    result = Dataset.from_dict({"instruction": [f"say {n}" for n in range(ROWS)]})
    result = result.map(TextGeneration(EchoLLM()), batched=True, with_indices=True, batch_size=2)
    assert [row["generation"] for row in expected] == result["generation"][1:]
    assert [row["generation_metadata"][0] for row in expected] == [
        entries[0] for entries in result["generation_metadata"]
    ][1:]


def test_run_killed_process_loses_only_its_chunk(launched, expected):
    status, _ = launched.run(action="kill any 8")
    assert status != 0
    done = launched.completed()
    assert 0 < len(done) < ROWS
    status, output = launched.run()
    assert status == 0, output
    assert launched.rows() == expected
    assert all(launched.completed()[text] <= 2 for text in done)
    assert not list(launched.run_dir.rglob("writing-*"))


def test_run_terminated_launcher_is_continued(launched, expected):
    """Fewer processes than before may continue the run."""
    assert launched.run(action="term any 8")[0] != 0
    status, output = launched.run(processes=1)
    assert status == 0, output
    assert launched.rows() == expected


def test_run_killed_at_every_chunk_same_rows(launched, expected):
    """Crash at every step: a run that is killed again and again, each time one chunk further on."""
    command = [sys.executable, str(ROOT / "tests" / "crashing.py"), "chunks", str(launched.run_dir), str(ROWS)]
    environment = {**os.environ, "ACTING_FOLDER": str(launched.folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert launched.rows() == expected
    assert set(launched.completed().values()) == {1}


def test_run_num_rows_same_on_two_processes_and_after_a_kill(tmp_path):
    alone, two, killed = (Launched(tmp_path / name) for name in ("alone", "two", "killed"))
    for one in (alone, two, killed):
        one.folder.mkdir()
    wanted = {"rows": 9, "rounds": "yes"}
    for one, processes in ((alone, 1), (two, 2)):
        status, output = one.run(processes, **wanted)
        assert status == 0, output
    assert killed.run(2, action="kill any 9", **wanted)[0] != 0  # 3 squared: in the second round
    before = killed.completed()
    status, output = killed.run(2, **wanted)
    assert status == 0, output
    assert len(alone.rows()) == 9
    assert alone.rows() == two.rows() == killed.rows()
    assert sum(killed.completed().values()) - sum(before.values()) < sum(alone.completed().values())


def test_run_killed_at_every_file_change_same_rows_no_trace(tmp_path):
    """Crash at every step: the script kills a run of its own at each file and folder created, renamed or removed."""
    command = [sys.executable, str(ROOT / "tests" / "crashing.py"), "changes", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["changes"] > 40
    assert report["different"] == []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("victim", ["0", "1"])
def test_run_one_of_two_nodes_killed_other_completes(launched, expected, victim):
    """Process 0's node holds the store: when it dies, the other goes on without one."""
    port = free_port()
    nodes = [
        launched.start(
            "--multi_gpu", "--num_machines", 2, "--machine_rank", rank, "--num_processes", 2,
            "--main_process_ip", "127.0.0.1", "--main_process_port", port, action=f"kill {victim} any", seconds=0.1,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    survivor = launched.folder / f"rows-{1 - int(victim)}.json"
    try:
        wait_until(survivor.exists, 120)
    finally:
        for node in nodes:  # a launcher waits five minutes for the other node's, with nothing left to do
            node.kill()
        outputs = [node.communicate()[0] for node in nodes]
    assert survivor.exists(), "\n\n".join(outputs)
    assert not (launched.folder / f"rows-{victim}.json").exists()
    assert launched.rows() == expected


def test_run_slow_process_takes_fewer_chunks(launched):
    status, output = launched.run(action="slow 1 any", seconds=0.2)
    assert status == 0, output
    lines = Counter((launched.folder / "log").read_text().split()[::3])
    # four times slower, it takes about a fifth of the chunks; in equal parts it would take half
    assert lines["0"] >= 2 * lines["1"]
    assert not list(launched.run_dir.rglob("chunk-*"))


def test_run_request_raises_once_is_retried(launched, expected):
    status, output = launched.run(processes=1, action="raise any 8")
    assert status == 0, output
    assert launched.rows() == expected
    assert "LookupError: no answer" in output


def test_run_request_always_raises_next_run_completes_it(launched, expected):
    status, output = launched.run(action="always any 8")
    assert status == 0, output
    assert "1 row: TextGeneration: LookupError: no answer" in output
    assert len(launched.completed()) == ROWS - 1
    assert launched.rows() != expected
    failures, record = launched.details().values()
    assert [(row["row"], row["reason"]) for row in failures] == [(8, "LookupError: no answer")]
    assert record["steps"][0]["failures"] == {"LookupError: no answer": 1}
    assert Path(record["failures_file"]).exists()
    for file in launched.folder.glob("*-*.json"):
        file.unlink()
    status, output = launched.run(processes=1)
    assert status == 0, output
    assert launched.rows() == expected
    assert set(launched.completed().values()) == {1}


@pytest.mark.model
def test_run_real_model_killed_process_same_rows(tmp_path, smollm_weights):
    flags = ["--model", smollm_weights, "--dtype", "float32", "--max-rows", 8, "--chunk-size", 2]
    flags += ["--instruction-max-new-tokens", 64, "--response-max-new-tokens", 16, "--keep-truncated"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}

    def start(name, launcher):
        folders = ["--output-dir", tmp_path / name, "--run-dir", tmp_path / f"{name}-run"]
        command = [*launcher, ROOT / "scripts" / "magpie.py", *flags, *folders]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(list(map(str, command)), env=environment, **pipes)

    victim = start("two", [*LAUNCH, *TWO])
    # rows are in a journal until their chunk is finished
    finished = ("journal-*", "chunk-*.arrow")

    def has_rows():
        return any(any((tmp_path / "two-run").rglob(name)) for name in finished)

    assert wait_until(lambda: has_rows() or victim.poll() is not None, 200)
    assert victim.poll() is None, victim.communicate()
    workers = subprocess.run(["pgrep", "-P", str(victim.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    victim.communicate()
    assert victim.returncode != 0
    result, outputs = {}, {}
    for name, launcher in (("one", [sys.executable]), ("two", [*LAUNCH, *TWO])):
        process = start(name, launcher)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        outputs[name] = output.replace(str(tmp_path / name), "")
        result[name] = load_dataset(str(tmp_path / name), "magpie", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(result["one"]) > 0
    assert result["one"].to_list() == result["two"].to_list()
    assert outputs["one"] == outputs["two"]


def test_run_interrupted_names_the_run_dir(launched):
    process = launched.start(launcher=[sys.executable], seconds=2)
    while not list(launched.run_dir.rglob("chunk-*.arrow")):
        time.sleep(0.1)
    time.sleep(0.3)  # into the next request: Python drops an interrupt that falls into the clean-up of an object
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"kept in {launched.run_dir}" in output


def test_run_survivors_without_store_share_chunks(tmp_path, monkeypatch):
    """Both processes have lost the store: they begin at different places and skip what the other is writing."""
    monkeypatch.setenv("ACTING_FOLDER", str(tmp_path))
    monkeypatch.setenv("ACTION", "none any any")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".run-{'a' * 32}").touch()  # as process 0 did before it died
    command = [sys.executable, "-c", SURVIVOR, str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    survivors = [subprocess.Popen([*command, rank], env={**environment, "RANK": rank}) for rank in ("1", "2")]
    assert [survivor.wait(120) for survivor in survivors] == [0, 0]
    asked = Counter(line.split(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines())
    assert len(asked) == 40
    assert sum(asked.values()) <= 52  # a few chunks, at the end, may be made twice


SURVIVOR = """
import sys
from datasets import Dataset
from hfsynth import Pipeline, TextGeneration
from hfsynth.distributed import ProcessGroup
from tests.acting import ActingLLM

ProcessGroup.current = classmethod(lambda cls: cls(rank=int(sys.argv[2]), world_size=3, run_id="a" * 32))
dataset = Dataset.from_dict({"instruction": [f"say {n}" for n in range(40)]})
llm = ActingLLM(seconds_per_request=0.05)
Pipeline((TextGeneration(llm),)).run(dataset, run_dir=sys.argv[1], chunk_size=2, quiet=True)
"""
