"""The folder of a step: its chunks, their merge, and claims of chunks."""

import os
import socket
import subprocess
import time

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value

from hfsynth import Pipeline, TextGeneration
from hfsynth.distributed import process_id
from hfsynth.runner.chunks import Claims, StepFolder
from hfsynth.runner.reuse import fingerprint_of
from tests.helpers import RepeatingLLM

FEATURES = Features({"n": Value("int64"), "text": Value("string")})


def rows(*numbers):
    return Dataset.from_dict({"n": list(numbers), "text": [str(n) for n in numbers]}, features=FEATURES)


def folder(tmp_path, worker_id="aaaaaaaa-0-host-1", num_chunks=3):
    created = StepFolder(tmp_path / "Step-key", num_chunks, worker_id)
    created.prepare(clean=True)
    return created


def write(step, number, *numbers):
    step.commit_chunk(number, step.write_chunk(number, rows(*numbers).with_format("arrow")[:]))


def merge(step):
    step.merge_chunks(lambda table: table, lambda rows_out: {"rows_out": rows_out})


def test_merge_chunks_writes_one_file_in_order(tmp_path):
    step = folder(tmp_path)
    for number, numbers in ((2, (4, 5)), (0, (0, 1)), (1, (2, 3))):
        write(step, number, *numbers)
    assert step.missing() == []
    merge(step)
    assert step.finished
    assert sorted(path.name for path in step.path.iterdir()) == ["rows-00000-of-00001.arrow", "step.json"]
    loaded = step.load(FEATURES, "print")
    assert loaded["n"][:] == [0, 1, 2, 3, 4, 5]
    assert (loaded.features, fingerprint_of(loaded)) == (FEATURES, "print")
    assert step.load_record()["rows_out"] == 6


def test_merge_chunks_large_step_writes_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("hfsynth.runner.chunks._BYTES_PER_FILE", 10)
    step = folder(tmp_path)
    for number in range(3):
        write(step, number, number)
    merge(step)
    assert len(list(step.path.glob("rows-*-of-00003.arrow"))) == 3
    assert step.load(FEATURES, "")["n"][:] == [0, 1, 2]


def test_merge_chunks_small_chunks_writes_large_batches(tmp_path):
    step = folder(tmp_path, num_chunks=50)
    for number in range(50):
        write(step, number, *range(number * 50, number * 50 + 50))
    merge(step)
    with pa.memory_map(str(step.path / "rows-00000-of-00001.arrow")) as source:
        assert [batch.num_rows for batch in pa.ipc.open_stream(source)] == [1000, 1000, 500]


def test_prepare_removes_files_of_dead_processes(tmp_path):
    dead = subprocess.Popen(["true"])
    names = [f"bbbbbbbb-0-host-{process_id(dead.pid)}", "bbbbbbbb-0-elsewhere-2"]
    dead.wait()
    gone, old = (folder(tmp_path, name).writing("00000") for name in names)
    os.utime(old, (0, 0))
    own = folder(tmp_path).writing("00001")
    folder(tmp_path)
    assert not gone.exists()
    assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_merge_chunks_keeps_files_of_running_processes(tmp_path):
    alive = folder(tmp_path, f"bbbbbbbb-0-host-{process_id(os.getppid())}").writing("rows")
    elsewhere = folder(tmp_path, "cccccccc-0-elsewhere-2").writing("00001")
    step = folder(tmp_path, num_chunks=1)
    write(step, 0, 7)
    merge(step)
    assert step.finished
    assert alive.exists()
    assert elsewhere.exists()


def test_missing_chunk_failed_twice_waits_for_next_run(tmp_path):
    step = folder(tmp_path)
    for attempts in (1, 2):
        step.note_failure(1, range(2, 4), ValueError("odd"))
        assert step.attempts(1) == attempts
    assert step.missing() == [0, 2]
    assert [(f.first, f.last, f.error) for f in step.failures()] == [(2, 3, "ValueError: odd")]
    assert folder(tmp_path, "bbbbbbbb-0-host-2").missing() == [0, 1, 2]


def test_merge_chunks_finished_step_changes_nothing(tmp_path):
    step = folder(tmp_path, num_chunks=1)
    write(step, 0, 7)
    merge(step)
    merge(step)
    assert step.load(FEATURES, "")["n"][:] == [7]


def test_merge_chunks_missing_chunk_raises(tmp_path):
    step = folder(tmp_path)
    write(step, 0, 7)
    with pytest.raises(FileNotFoundError):
        merge(step)
    assert not step.finished


def test_seconds_adds_chunks_and_counts_overlap_once(tmp_path, monkeypatch):
    step = folder(tmp_path)
    assert step.seconds() == (0.0, 0.0)
    for number, seconds, ended in ((0, 10, 110), (1, 10, 115), (2, 5, 200), (2, 5, 205)):
        monkeypatch.setattr("time.time", lambda ended=ended: ended)
        step.note_timing(number, 2, seconds)
    assert step.seconds() == (25.0, 20.0)


def test_seconds_includes_timings_of_an_earlier_run(tmp_path, monkeypatch):
    earlier, step = folder(tmp_path), folder(tmp_path / "retry")
    for one, ended in ((earlier, 110), (step, 200)):
        monkeypatch.setattr("time.time", lambda ended=ended: ended)
        if one is step:
            step.inherit_timings(earlier.path)
            step.inherit_timings(earlier.path)
        one.note_timing(0, 2, 10)
    assert step.seconds() == (20.0, 20.0)


def test_newest_transient_failures_starts_a_new_folder(tmp_path):
    first = folder(tmp_path)
    assert first.newest() == (first, [])
    first.note_transient_failures()
    assert first.newest() == (first, [])  # this run's own
    later = folder(tmp_path, "bbbbbbbb-0-host-2")
    newest, earlier = later.newest()
    assert (newest.path.name, newest.retries, earlier) == ("Step-key-retry-1", 1, [later])
    newest.prepare(clean=False)
    assert later.newest() == (newest, [later])
    newest.note_transient_failures()
    assert folder(tmp_path, "cccccccc-0-host-3").newest()[0].path.name == "Step-key-retry-2"


def test_run_step_name_with_path_stays_in_run_dir(tmp_path):
    step = TextGeneration(RepeatingLLM(), name="../../x")
    Pipeline((step,)).run(Dataset.from_dict({"instruction": ["a"]}), run_dir=tmp_path / "a" / "run", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run"]


# claims


def claims(folder, process=None):
    """Claims of a process of this machine, or of one with another id, such as HOST-MACHINE-NUMBER-START."""
    process = process or os.getpid()
    return Claims(folder, f"aaaaaaaa-0-{process if isinstance(process, str) else process_id(process)}")


def test_take_living_process_keeps_its_claim(tmp_path):
    mine, other = claims(tmp_path), claims(tmp_path, os.getppid())
    assert other.take(3)
    assert not mine.take(3)
    assert mine.owner(3) == other.worker_id
    assert mine.take(4)
    other.release(3)
    assert mine.take(3)
    mine.close()
    assert list(tmp_path.iterdir()) == []


def test_take_dead_process_loses_its_claim(tmp_path):
    dying = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert claims(tmp_path, dying.pid).take(3)
    assert not claims(tmp_path).take(3)
    dying.communicate()
    assert claims(tmp_path).owner(3) == ""
    assert claims(tmp_path).take(3)


def test_take_reused_process_number_loses_its_claim(tmp_path):
    """A process has the number of a dead one, and began later."""
    dead = process_id(os.getpid()).rpartition("-")[0] + "-1"
    assert claims(tmp_path, dead).take(3)
    assert claims(tmp_path).take(3)


@pytest.mark.parametrize(("age", "taken"), [(0, False), (1000, True)])
@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_take_other_machine_goes_by_its_touches(tmp_path, host, age, taken):
    """Machines and containers may share a host name, and have a process of this process's number each."""
    assert claims(tmp_path, f"{host}-000000000000-{os.getpid()}-5").take(3)
    then = time.time() - age
    os.utime(tmp_path / "claim-00003", (then, then))
    assert claims(tmp_path).take(3) is taken
