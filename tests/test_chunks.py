import os
import socket
import subprocess

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value

from hfsynth.runner.chunks import StepFolder

FEATURES = Features({"n": Value("int64"), "text": Value("string")})


def rows(*numbers):
    return Dataset.from_dict({"n": list(numbers), "text": [str(n) for n in numbers]}, features=FEATURES)


def folder(tmp_path, member="aaaaaaaa-0-host-1", num_chunks=3):
    made = StepFolder(tmp_path / "Step-key", num_chunks, member)
    made.prepare(clean=True)
    return made


def write(step, number, *numbers):
    writing = step.writing(f"{number:05d}")
    rows(*numbers).map(lambda row: row, cache_file_name=str(writing / "c.arrow"), features=FEATURES)
    step.publish(number, writing / "c.arrow")


def together(step):
    step.consolidate(lambda table: table, lambda rows_out: {"rows_out": rows_out})


def test_chunks_become_one_file_in_their_order_and_are_removed(tmp_path):
    step = folder(tmp_path)
    for number, numbers in ((2, (4, 5)), (0, (0, 1)), (1, (2, 3))):
        write(step, number, *numbers)
    assert step.missing() == []
    together(step)
    assert step.finished
    assert sorted(path.name for path in step.path.iterdir()) == ["rows-00000-of-00001.arrow", "step.json"]
    made = step.load(FEATURES, "print")
    assert made["n"][:] == [0, 1, 2, 3, 4, 5]
    assert (made.features, made._fingerprint) == (FEATURES, "print")
    assert step.facts()["rows_out"] == 6


def test_large_steps_become_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("hfsynth.runner.chunks._BYTES_PER_FILE", 10)
    step = folder(tmp_path)
    for number in range(3):
        write(step, number, number)
    together(step)
    assert len(list(step.path.glob("rows-*-of-00003.arrow"))) == 3
    assert step.load(FEATURES, "")["n"][:] == [0, 1, 2]


def test_rows_are_written_in_batches_of_a_thousand_however_small_the_chunks(tmp_path):
    step = folder(tmp_path, num_chunks=50)
    for number in range(50):
        write(step, number, *range(number * 50, number * 50 + 50))
    together(step)
    with pa.memory_map(str(step.path / "rows-00000-of-00001.arrow")) as source:
        assert [batch.num_rows for batch in pa.ipc.open_stream(source)] == [1000, 1000, 500]


def test_prepare_removes_what_dead_processes_were_writing(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = [f"bbbbbbbb-0-{socket.gethostname()}-{dead.pid}", "bbbbbbbb-0-elsewhere-2"]
    gone, old = (folder(tmp_path, name).writing("00000") for name in names)
    os.utime(old, (0, 0))
    own = folder(tmp_path).writing("00001")
    folder(tmp_path)
    assert not gone.exists()
    assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_prepare_and_finish_leave_what_a_running_process_writes(tmp_path):
    alive = folder(tmp_path, f"bbbbbbbb-0-{socket.gethostname()}-{os.getppid()}").writing("rows")
    elsewhere = folder(tmp_path, "cccccccc-0-elsewhere-2").writing("00001")
    step = folder(tmp_path, num_chunks=1)
    write(step, 0, 7)
    together(step)
    assert step.finished
    assert alive.exists()
    assert elsewhere.exists()


def test_a_chunk_that_failed_twice_is_given_up_in_this_run_and_not_in_the_next(tmp_path):
    step = folder(tmp_path)
    for attempts in (1, 2):
        step.fail(1, range(2, 4), ValueError("odd"))
        assert step.attempts(1) == attempts
    assert step.missing() == [0, 2]
    assert [(f.first, f.last, f.error) for f in step.failures()] == [(2, 3, "ValueError: odd")]
    assert folder(tmp_path, "bbbbbbbb-0-host-2").missing() == [0, 1, 2]


def test_a_process_that_comes_late_to_put_chunks_together_finds_it_done(tmp_path):
    step = folder(tmp_path, num_chunks=1)
    write(step, 0, 7)
    together(step)
    together(step)
    assert step.load(FEATURES, "")["n"][:] == [7]


def test_chunks_that_are_missing_are_no_finished_step(tmp_path):
    step = folder(tmp_path)
    write(step, 0, 7)
    with pytest.raises(FileNotFoundError):
        together(step)
    assert not step.finished


def test_the_seconds_of_chunks_are_added_up_and_those_at_the_same_time_count_once_on_the_wall(tmp_path, monkeypatch):
    step = folder(tmp_path)
    assert step.seconds() == (0.0, 0.0)
    for number, seconds, ended in ((0, 10, 110), (1, 10, 115), (2, 5, 200), (2, 5, 205)):
        monkeypatch.setattr("time.time", lambda ended=ended: ended)
        step.note_timing(number, 2, seconds)
    assert step.seconds() == (25.0, 20.0)


def test_timings_of_an_earlier_run_count_too(tmp_path, monkeypatch):
    earlier, step = folder(tmp_path), folder(tmp_path / "retry")
    for made, ended in ((earlier, 110), (step, 200)):
        monkeypatch.setattr("time.time", lambda ended=ended: ended)
        if made is step:
            step.inherit_timings(earlier)
            step.inherit_timings(earlier)
        made.note_timing(0, 2, 10)
    assert step.seconds() == (20.0, 20.0)


def test_folder_with_passing_failures_of_another_run_is_followed_by_another(tmp_path):
    first = folder(tmp_path)
    assert first.newest() == (first, [])
    first.note_passing_failures()
    assert first.newest() == (first, [])  # this run's own
    later = folder(tmp_path, "bbbbbbbb-0-host-2")
    newest, earlier = later.newest()
    assert (newest.path.name, newest.retries, earlier) == ("Step-key-retry-1", 1, [later])
    newest.prepare(clean=False)
    assert later.newest() == (newest, [later])
    newest.note_passing_failures()
    assert folder(tmp_path, "cccccccc-0-host-3").newest()[0].path.name == "Step-key-retry-2"
