"""Runs by real processes, started with `accelerate launch` and killed for real."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from datasets import Dataset, disable_progress_bars, enable_progress_bars, load_dataset

from hfsynth import EchoLLM, GenerationError, Pipeline, RunError, TextGeneration, TransformersLLM
from hfsynth.distributed import Crew, wait_until
from hfsynth.runner.run import RunOptions
from tests.acting import ActingLLM, note, without_first
from tests.conftest import GGUF

ROOT = Path(__file__).parent.parent
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
        """What each process was returned; all the same."""
        texts = {file.read_text() for file in self.folder.glob("rows-*.json")}
        assert len(texts) == 1
        return json.loads(texts.pop())

    def asked(self):
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


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_makes_the_same_rows_each_row_once(launched, expected, processes):
    status, output = launched.run(processes)
    assert status == 0, output
    assert launched.rows() == expected
    assert set(launched.asked().values()) == {1}
    assert len(list(launched.folder.glob("rows-*.json"))) == processes
    assert (launched.folder / "functions").read_text() == "0"


def test_the_rows_are_those_of_the_bare_maps(expected):
    made = Dataset.from_dict({"instruction": [f"say {n}" for n in range(ROWS)]})
    made = made.map(TextGeneration(EchoLLM()), batched=True, with_indices=True, batch_size=2)
    assert [row["generation"] for row in expected] == made["generation"][1:]
    assert [row["generation_metadata"][0] for row in expected] == [
        entries[0] for entries in made["generation_metadata"]
    ][1:]


def test_a_killed_process_loses_its_own_chunk_and_the_same_command_does_only_the_rest(launched, expected):
    status, _ = launched.run(action="kill any 8")
    assert status != 0
    done = launched.asked()
    assert 0 < len(done) < ROWS
    status, output = launched.run()
    assert status == 0, output
    assert launched.rows() == expected
    assert all(launched.asked()[text] <= 2 for text in done)
    assert not list(launched.run_dir.rglob("writing-*"))


def test_the_launcher_may_be_told_to_stop(launched, expected):
    assert launched.run(action="term any 8")[0] != 0
    status, output = launched.run()
    assert status == 0, output
    assert launched.rows() == expected


def test_a_run_killed_before_every_chunk_in_turn_makes_the_same_rows(launched, expected):
    """Crash at every step: a run that is killed again and again, each time one chunk further on."""
    for row in range(0, ROWS, 2):
        (launched.folder / "acted").unlink(missing_ok=True)
        assert launched.run(processes=1, seconds=0, action=f"kill any {row}")[0] == -signal.SIGKILL
    status, output = launched.run(processes=1, seconds=0)
    assert status == 0, output
    assert launched.rows() == expected
    assert set(launched.asked().values()) == {1}


def test_a_run_until_enough_rows_are_accepted_makes_the_same_on_any_number_of_processes_and_after_a_kill(tmp_path):
    alone, two, killed = (Launched(tmp_path / name) for name in ("alone", "two", "killed"))
    for one in (alone, two, killed):
        one.folder.mkdir()
    wanted = {"rows": 9, "rounds": "yes"}
    for one, processes in ((alone, 1), (two, 2)):
        status, output = one.run(processes, **wanted)
        assert status == 0, output
    assert killed.run(2, action="kill any 9", **wanted)[0] != 0  # 3 squared: in the second round
    before = killed.asked()
    status, output = killed.run(2, **wanted)
    assert status == 0, output
    assert len(alone.rows()) == 9
    assert alone.rows() == two.rows() == killed.rows()
    assert sum(killed.asked().values()) - sum(before.values()) < sum(alone.asked().values())


def test_a_run_killed_before_each_change_of_its_directory_makes_the_same_rows_and_leaves_no_trace(tmp_path):
    """Crash at every step: the script kills a run of its own at each file and folder made, renamed or removed."""
    command = [sys.executable, str(ROOT / "tests" / "crashing.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["changes"] > 40
    assert told["different"] == []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("victim", ["0", "1"])
def test_of_two_nodes_the_survivor_completes_the_dataset(launched, expected, victim):
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


def test_a_slow_process_holds_nobody_up(launched):
    status, output = launched.run(action="slow 1 any", seconds=0.2)
    assert status == 0, output
    lines = Counter((launched.folder / "log").read_text().split()[::3])
    # four times slower, it takes about a fifth of the chunks; in equal parts it would take half
    assert lines["0"] >= 2 * lines["1"]
    assert not list(launched.run_dir.rglob("chunk-*"))


def test_a_request_that_raises_once_is_asked_for_again(launched, expected):
    status, output = launched.run(action="raise any 8")
    assert status == 0, output
    assert launched.rows() == expected
    assert "LookupError: no answer" in output


def test_a_request_that_always_raises_fails_its_row_which_the_next_run_makes(launched, expected):
    status, output = launched.run(action="always any 8")
    assert status == 0, output
    assert "1 row: TextGeneration: LookupError: no answer" in output
    assert len(launched.asked()) == ROWS - 1
    assert launched.rows() != expected
    status, output = launched.run()
    assert status == 0, output
    assert launched.rows() == expected
    assert set(launched.asked().values()) == {1}


@pytest.mark.model
def test_the_real_model_makes_the_same_rows_on_one_process_and_on_two_of_which_one_is_killed(tmp_path, smollm_folder):
    flags = [
        "--model",
        smollm_folder,
        "--gguf-file",
        GGUF,
        "--dtype",
        "bfloat16",
        "--max-rows",
        8,
        "--chunk-size",
        2,
    ]
    flags += ["--instruction-max-new-tokens", 40, "--response-max-new-tokens", 10, "--keep-truncated"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}

    def start(name, launcher):
        folders = ["--output-dir", tmp_path / name, "--run-dir", tmp_path / f"{name}-run"]
        command = [*launcher, ROOT / "scripts" / "magpie.py", *flags, *folders]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(list(map(str, command)), env=environment, **pipes)

    victim = start("two", [*LAUNCH, *TWO])
    assert wait_until(lambda: list((tmp_path / "two-run").rglob("chunk-*.arrow")) or victim.poll() is not None, 200)
    workers = subprocess.run(["pgrep", "-P", str(victim.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    victim.communicate()
    assert victim.returncode != 0
    made, told = {}, {}
    for name, launcher in (("one", [sys.executable]), ("two", [*LAUNCH, *TWO])):
        process = start(name, launcher)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        told[name] = output.replace(str(tmp_path / name), "")
        made[name] = load_dataset(str(tmp_path / name), "magpie", split="train", cache_dir=str(tmp_path / "cache"))
    assert made["one"].to_list() == made["two"].to_list()
    assert told["one"] == told["two"]


@dataclass(frozen=True)
class NotedLLM(EchoLLM):
    """An echo that notes when it is used and unloaded, and that differs from another by its number."""

    number: int = 0

    def complete(self, requests):
        note("memory", f"{self.number} ")
        return super().complete(requests)

    def unload(self):
        note("memory", f"-{self.number} ")


def pipeline(seconds=0.0):
    last = TextGeneration(EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "b"})
    return TextGeneration(ActingLLM(seconds_per_request=seconds)) >> without_first >> last


@pytest.fixture
def acting(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTING_FOLDER", str(tmp_path))
    monkeypatch.setenv("ACTION", "none any any")
    return tmp_path


def rows(number=6):
    return Dataset.from_dict({"instruction": [f"say {n}" for n in range(number)]})


def test_changing_the_last_step_redoes_only_the_last_step(acting):
    pipeline().run(rows(), run_dir=acting / "run", chunk_size=2, quiet=True)
    other = TextGeneration(EchoLLM(), template="{{ generation }}!", output_mappings={"generation": "b"}, name="other")
    changed = TextGeneration(ActingLLM()) >> without_first >> other
    made = changed.run(rows(), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert made["b"][0] == "say 1!"
    assert (acting / "log").read_text().count("\n") == 6
    assert (acting / "functions").read_text() == "0"


def test_an_llm_is_unloaded_before_another_is_loaded_and_one_that_goes_on_is_not(acting):
    first, second = NotedLLM(number=1), NotedLLM(number=2)
    chain = TextGeneration(first) >> TextGeneration(first, output_mappings={"generation": "b"})
    chain = chain >> without_first >> TextGeneration(second, output_mappings={"generation": "c"})
    chain.run(rows(3), run_dir=acting / "run", quiet=True)
    assert (acting / "memory").read_text() == "1 1 -1 2 "


def test_another_input_is_never_mixed_in(acting):
    pipeline().run(rows(6), run_dir=acting / "run", chunk_size=2, quiet=True)
    made = pipeline().run(rows(4), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert made["b"][:] == ["say 1", "say 2", "say 3"]


def failures_in(run_dir):
    files = [str(file) for file in run_dir.glob("failures-*.parquet")]
    return load_dataset("parquet", data_files=files, split="train").to_list() if files else []


def test_failures_are_a_dataset_beside_the_result(acting):
    dataset = Dataset.from_dict({"instruction": ["say 0", None, "say 2", ""]})
    pipeline().run(dataset, run_dir=acting / "run", chunk_size=2, quiet=True)
    found = [
        (row["step"], row["row"], row["column"], row["reason"], row["raw"]) for row in failures_in(acting / "run")
    ]
    assert found == [
        ("TextGeneration", 1, "generation", "instruction is None", ""),
        ("TextGeneration", 3, "generation", "instruction is empty", ""),
    ]


def test_a_row_for_which_the_llm_raises_is_among_the_failures(acting, monkeypatch):
    monkeypatch.setenv("ACTION", "always any 2")
    pipeline().run(rows(10), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert [(f["row"], f["reason"]) for f in failures_in(acting / "run")] == [(2, "LookupError: no answer")]


def test_many_rows_may_raise_before_one_works(acting, monkeypatch):
    monkeypatch.setattr("tests.acting.ActingLLM.complete", failing_below(14))
    made = pipeline().run(rows(20), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert made["generation"][:] == [*[None] * 13, *(f"say {n}" for n in range(14, 20))]
    assert len(failures_in(acting / "run")) == 14


def failing_below(number):
    def complete(llm, requests):
        if int(requests[0].messages[-1]["content"].split()[-1]) < number:
            raise PermissionError(13, "not the run directory's")
        return EchoLLM.complete(llm, requests)

    return complete


def test_an_llm_that_can_not_be_loaded_stops_the_run_before_any_chunk(tmp_path):
    chain = Pipeline((TextGeneration(TransformersLLM("/nowhere")),))
    with pytest.raises(GenerationError, match="'/nowhere' can't be loaded"):
        chain.run(rows(), run_dir=tmp_path / "run", quiet=True)


def test_a_failure_of_an_earlier_run_of_the_rows_is_not_this_runs(acting):
    dataset = Dataset.from_dict({"instruction": ["a", None]})
    made = dataset.map(TextGeneration(EchoLLM()), batched=True, with_indices=True)
    again = TextGeneration(EchoLLM(), template="x{{ instruction }}", output_mappings={"generation": "b"})
    Pipeline((again,)).run(made, run_dir=acting / "run", quiet=True)
    assert failures_in(acting / "run") == []


def test_a_row_that_failed_is_told_once_and_not_by_the_steps_that_found_nothing_to_do(acting):
    chain = TextGeneration(EchoLLM()) >> TextGeneration(
        EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "b"}
    )
    chain.run(Dataset.from_dict({"instruction": ["a", None]}), run_dir=acting / "run", quiet=True)
    assert [failure["step"] for failure in failures_in(acting / "run")] == ["TextGeneration"]


def test_survivors_without_a_store_share_what_is_left(acting):
    """Both processes have lost the store: they begin at different places and skip what the other is writing."""
    command = [sys.executable, "-c", SURVIVOR, str(acting / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    survivors = [subprocess.Popen([*command, rank], env={**environment, "RANK": rank}) for rank in ("1", "2")]
    assert [survivor.wait(120) for survivor in survivors] == [0, 0]
    asked = Counter(line.split(" ", 1)[1] for line in (acting / "log").read_text().splitlines())
    assert len(asked) == 40
    assert sum(asked.values()) <= 52  # a few chunks, at the end, may be made twice


SURVIVOR = """
import sys
from datasets import Dataset
from hfsynth import Pipeline, TextGeneration
from hfsynth.runner import run
from hfsynth.distributed import Crew
from tests.acting import ActingLLM

Crew.here = classmethod(lambda cls: cls(rank=int(sys.argv[2]), size=3, token="a" * 32))
run._check_shared = lambda run_dir, crew: run_dir.mkdir(exist_ok=True)
dataset = Dataset.from_dict({"instruction": [f"say {n}" for n in range(40)]})
llm = ActingLLM(seconds_per_request=0.05)
Pipeline((TextGeneration(llm),)).run(dataset, run_dir=sys.argv[1], chunk_size=2, quiet=True)
"""


def test_a_function_shows_no_bars_and_leaves_no_copy_beside_its_input(acting, capsys, monkeypatch):
    enable_progress_bars()
    try:
        (TextGeneration(EchoLLM()) >> only_even).run(rows(), run_dir=acting / "run", quiet=True)
    finally:
        disable_progress_bars()
    assert capsys.readouterr().err == ""
    assert not list((acting / "run").rglob("cache-*"))


def only_even(dataset):
    return dataset.filter(lambda row: int(row["instruction"].split()[-1]) % 2 == 0)


def test_a_run_killed_earlier_leaves_nothing_of_its_own_in_the_directory(acting):
    (acting / "run").mkdir()
    for name in (".run-dead", ".failures-dead", ".run-starting"):
        (acting / "run" / name).touch()
        os.utime(acting / "run" / name, (0, 0) if "dead" in name else None)
    pipeline().run(rows(), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert [path.name for path in (acting / "run").glob(".*")] == [".run-starting"]


def test_a_function_that_returns_no_dataset_is_an_error(acting):
    def nothing(dataset):
        return None

    with pytest.raises(TypeError, match="nothing returned NoneType; a step returns a Dataset"):
        (TextGeneration(EchoLLM()) >> nothing).run(rows(), run_dir=acting / "run", quiet=True)


def test_a_column_that_a_function_took_away_is_an_error_at_its_step(acting):
    def bare(dataset):
        return dataset.remove_columns("instruction")

    chain = TextGeneration(EchoLLM()) >> bare >> TextGeneration(EchoLLM(), output_mappings={"generation": "b"})
    with pytest.raises(ValueError, match="step 3, TextGeneration_2 needs column 'instruction'"):
        chain.run(rows(), run_dir=acting / "run", quiet=True)


def test_a_full_disk_is_told_and_what_was_finished_is_kept(acting):
    """A limit on the size of files stands in for a full disk; the same command goes on once there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    long = Dataset.from_dict({"instruction": ["say 0", "say 1", *(["word " * 9000] * 4)]})
    answer = Pipeline((TextGeneration(EchoLLM()),))
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(RunError, match=r"the run directory can't be written: .*the same command goes on"):
            answer.run(long, run_dir=acting / "run", chunk_size=2, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, kept)
    (chunk,) = acting.glob("run/*/chunk-*.arrow")
    made_at = chunk.stat().st_mtime_ns
    again = Path(answer.run(long, run_dir=acting / "run", chunk_size=2, quiet=True).cache_files[0]["filename"])
    assert made_at < again.stat().st_mtime_ns
    assert len((again.parent / "timings.jsonl").read_text().splitlines()) == 3


def test_a_run_directory_that_can_not_be_made_is_told(acting):
    (acting / "file").touch()
    with pytest.raises(RunError, match=r"the run directory can't be written: .*Make room or give another one"):
        pipeline().run(rows(), run_dir=acting / "file" / "run", quiet=True)


def test_ctrl_c_says_that_what_was_finished_is_kept(launched):
    process = launched.start(launcher=[sys.executable], seconds=2)
    while not list(launched.run_dir.rglob("chunk-*.arrow")):
        time.sleep(0.1)
    time.sleep(0.3)  # into the next request: Python drops an interrupt that falls into the clean-up of an object
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "keeps what was finished; the same command goes on where it is run again" in output


def test_a_folder_that_nodes_don_t_share_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("hfsynth.runner.run._SHARED_WAIT", 0.1)
    monkeypatch.setattr(Crew, "here", classmethod(lambda cls: cls(rank=1, size=2)))
    with pytest.raises(RunError, match="is not the folder that process 0 writes to"):
        pipeline().run(rows(), run_dir=tmp_path / "run", quiet=True)


def test_chunks_of_no_rows_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="chunk_size is 0; it must be at least 1"):
        RunOptions(tmp_path, chunk_size=0)
