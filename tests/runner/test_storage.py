"""Files of a run directory that are truncated, damaged or of another version."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from hfsynth import TextGeneration
from hfsynth.runner.storage import (
    DamagedFileError,
    commit,
    read_json,
    read_table,
    retry_passing,
    seal,
    write_json,
)
from tests.helpers import OnlyOnce, RepeatingLLM

TABLE = pa.table({"n": list(range(100)), "text": [str(n) for n in range(100)]})


def sealed(tmp_path):
    file = tmp_path / "a.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    assert seal(file) == 100
    return file


def truncate(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])


def empty(file):
    file.write_bytes(b"")


def zero(file):
    file.write_bytes(bytes(file.stat().st_size))


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def age(file):
    """Turn a file into one of another version of the format."""
    content = file.read_bytes()
    if file.suffix == ".arrow":
        content = content.replace(b"hfsynth\x01", b"hfsynth\x00")
    elif file.suffix == ".parquet":
        content = b"PAR0" + content[4:]
    else:
        content = content.replace(b'"version": 1', b'"version": 0')
    file.write_bytes(content)


DAMAGES = [truncate, empty, zero, flip, age]


def test_read_table_sealed_file_is_the_table_for_datasets_too(tmp_path):
    file = sealed(tmp_path)
    assert read_table(file) == TABLE
    assert Dataset.from_file(str(file))["n"][:] == list(range(100))


@pytest.mark.parametrize("damage", DAMAGES)
def test_read_table_damaged_file_raises(tmp_path, damage):
    file = sealed(tmp_path)
    damage(file)
    with pytest.raises(DamagedFileError, match=file.name):
        read_table(file)


def test_read_table_cut_at_a_message_border_raises(tmp_path):
    """Arrow itself reads such a file, with rows missing."""
    file = tmp_path / "a.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE.slice(0, 50))
        border = sink.tell()
        writer.write_table(TABLE.slice(50))
    seal(file)
    file.write_bytes(file.read_bytes()[:border])
    with pa.memory_map(str(file)) as source:
        assert pa.ipc.open_stream(source).read_all().num_rows == 50
    with pytest.raises(DamagedFileError):
        read_table(file)


def test_read_json_is_the_written_value(tmp_path):
    value = {"a": [1, None, "é"], "b": {"c": 0.1}}
    write_json(tmp_path / "a.json", tmp_path / "writing", value)
    assert read_json(tmp_path / "a.json") == value
    assert not (tmp_path / "writing").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_read_json_damaged_file_raises(tmp_path, damage):
    write_json(tmp_path / "a.json", tmp_path / "writing", {"rows": list(range(50))})
    damage(tmp_path / "a.json")
    with pytest.raises(DamagedFileError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_commit_removed_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        commit(tmp_path / "nothing", tmp_path / "a")


def test_retry_passing_stale_handle_tries_several_times():
    errors = [OSError(116, "Stale file handle"), OSError(116, "Stale file handle")]

    def action():
        if errors:
            raise errors.pop()
        return 7

    assert retry_passing(action) == 7
    with pytest.raises(PermissionError):
        retry_passing(lambda: (_ for _ in ()).throw(PermissionError(13, "no")))


class Interrupted(RepeatingLLM):
    """Completes one request at a time, logs it in the folder that the environment names, and stops the run at one."""

    def stream(self, requests):
        folder = Path(os.environ["INTERRUPTED_FOLDER"])
        while item := requests.take():
            text = item[1].messages[-1]["content"]
            if text == "say 11" and not (folder / "complete").exists():
                raise KeyboardInterrupt
            with (folder / "log").open("a") as log:
                log.write(f"{text}\n")
            yield item[0], self.complete([item[1]])[0]


ROWS = Dataset.from_dict({"instruction": [None if n == 3 else f"say {n}" for n in range(14)] + ["say 0"]})


def run(folder):
    os.environ["INTERRUPTED_FOLDER"] = str(folder)
    second = TextGeneration(
        Interrupted(),
        input_mappings={"instruction": "generation"},
        output_mappings={"generation": "b"},
        name="B",
    )
    chain = OnlyOnce() >> TextGeneration(Interrupted()) >> second
    return chain.run(ROWS, run_dir=folder / "run", chunk_size=4, quiet=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An interrupted run, which has chunks and a journal, the same run finished, and its rows."""
    interrupted, finished = tmp_path_factory.mktemp("interrupted"), tmp_path_factory.mktemp("finished")
    with pytest.raises(KeyboardInterrupt):
        run(interrupted)
    (finished / "complete").touch()
    (interrupted / "complete").touch()
    return {"interrupted": interrupted, "finished": finished, "rows": run(finished).to_list()}


KINDS = {
    "interrupted": ["chunk-00001-*.arrow", "journal-00002-*.jsonl", "input.json", "inputs.arrow", "timings.jsonl"],
    "finished": ["step.json", "rows-*.arrow", "input.json", "inputs.arrow", "timings.jsonl", "dropped.arrow"],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("state", "pattern"), [(state, pattern) for state in KINDS for pattern in KINDS[state]])
def test_run_damaged_file_is_written_anew(tmp_path, folders, caplog, state, pattern, damage):
    """The rows are those of a sound run, and no more rows than the file's are asked for."""
    shutil.copytree(folders[state], tmp_path, dirs_exist_ok=True)
    files = list((tmp_path / "run").rglob(pattern))
    assert files
    before = (tmp_path / "log").read_text().count("\n")
    caplog.clear()
    damage(files[0])
    assert run(tmp_path).to_list() == folders["rows"]
    asked = (tmp_path / "log").read_text().count("\n") - before
    missing = {"finished": 0, "interrupted": 16}[state]  # of 26: 10 rows of the first step were finished
    assert asked <= missing + {"rows": 13, "chunk": 4, "journal": 3}.get(pattern.partition("-")[0], 0)


def test_run_damaged_failures_file_is_written_anew(tmp_path, folders):
    shutil.copytree(folders["finished"], tmp_path, dirs_exist_ok=True)
    (file,) = (tmp_path / "run").glob("failures-*.parquet")
    content = file.read_bytes()
    truncate(file)
    run(tmp_path)
    assert file.read_bytes() == content


def test_run_foreign_journal_is_set_aside(tmp_path, folders, caplog):
    shutil.copytree(folders["interrupted"], tmp_path, dirs_exist_ok=True)
    (journal,) = (tmp_path / "run").rglob("journal-*.jsonl")
    journal.write_bytes(journal.read_bytes().replace(json.dumps(journal.parent.name).encode(), b'"Other-1"'))
    assert run(tmp_path).to_list() == folders["rows"]
    assert len(list((tmp_path / "run").rglob("damaged-*"))) == 1
