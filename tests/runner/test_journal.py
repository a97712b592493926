"""Journals of finished rows, and runs that go on from them."""

import datetime
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from hfsynth import Pipeline, TextGeneration
from hfsynth.flow import Outcome
from hfsynth.runner.journal import Journals, find_journals, read_journal
from tests.helpers import RepeatingLLM

TEXT = Features({"text": Value("string")})
ROOT = Path(__file__).parents[2]


def journal(tmp_path, *outcomes, features=TEXT):
    """Write a journal of chunk 3 and return its file."""
    journals = Journals(tmp_path, "aaaaaaaa-0-host-1", features)
    for index, outcome in enumerate(outcomes):
        journals.append(3, index, outcome)
    journals.close()
    (file,) = find_journals(tmp_path)[3]
    return file


OUTCOMES = [
    Outcome([{"text": "é\n\u2028"}, {"text": None}], finish_reason="stop", prompt_tokens=3, completion_tokens=2),
    Outcome([], error="no number", raw="x", finish_reason="stop"),
    Outcome([{"text": "z"}], finish_reason="length", truncated=True),
]


def test_read_journal_has_the_outcomes(tmp_path):
    file = journal(tmp_path, *OUTCOMES)
    assert read_journal(file, TEXT) == dict(enumerate(OUTCOMES))


def test_read_journal_other_types_come_back_equal(tmp_path):
    features = Features({"when": Value("timestamp[us]"), "blob": Value("binary"), "vector": List(Value("float32"))})
    row = {"when": datetime.datetime(2026, 1, 2, 3, 4, 5, 6), "blob": b"\x00\xff", "vector": np.float32([0.5, 0.25])}
    file = journal(tmp_path, Outcome([row]), features=features)
    assert read_journal(file, features)[0].rows == [{**row, "vector": [0.5, 0.25]}]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_read_journal_torn_last_line_is_left_out(tmp_path, cut):
    file = journal(tmp_path, *OUTCOMES)
    file.write_bytes(file.read_bytes()[:-cut])
    assert read_journal(file, TEXT) == dict(enumerate(OUTCOMES[:2]))


def test_read_journal_damaged_line_is_left_out(tmp_path, caplog):
    file = journal(tmp_path, *OUTCOMES)
    file.write_bytes(file.read_bytes().replace(b"no number", b"no letter"))
    assert sorted(read_journal(file, TEXT)) == [0, 2]
    assert file.name in caplog.text


def test_read_journal_line_of_other_input_is_left_out(tmp_path):
    """A line with the hash of its input row counts only if that row has its index; lines without a hash count."""
    journals = Journals(tmp_path, "w", TEXT)
    for index, digest in ((5, 50), (6, 61), (7, 70), (8, None), (4, 40)):
        journals.append(3, index, OUTCOMES[0], digest)
    journals.close()
    (file,) = find_journals(tmp_path)[3]
    assert sorted(read_journal(file, TEXT, 5, np.array([50, 60, 70], np.uint64))) == [5, 7, 8]
    assert sorted(read_journal(file, TEXT)) == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("old", [b'"version": 1', b'"folder": "'])
def test_read_journal_other_version_is_set_aside(tmp_path, old, caplog):
    file = journal(tmp_path, *OUTCOMES)
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0].replace(old, old + b"9"), *lines[1:]]))
    assert read_journal(file, TEXT) == {}
    assert not file.exists()
    assert str(file) in caplog.text


def test_journals_many_chunks_keep_few_files_open(tmp_path):
    journals = Journals(tmp_path, "w", TEXT)
    open_before = len(os.listdir("/proc/self/fd"))
    for index in range(300):
        journals.append(index % 150, index, OUTCOMES[0])
    assert len(os.listdir("/proc/self/fd")) - open_before <= 64
    found = [read_journal(file, TEXT) for files in find_journals(tmp_path).values() for file in files]
    assert sorted(index for outcomes in found for index in outcomes) == list(range(300))
    journals.close()


def test_journal_secret_in_an_error_is_redacted(tmp_path):
    secret = "hf_" + "abcdefghij" * 4
    file = journal(tmp_path, Outcome([], error=f"token {secret} refused", raw=secret))
    assert secret not in file.read_text()


KILLED = """
import os, signal, sys
from pathlib import Path
from datasets import Dataset
from hfsynth import Pipeline, TextGeneration
from tests.runner.test_journal import OneByOne

rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(20)]})
Pipeline((TextGeneration(OneByOne(log=sys.argv[1] + "/log")),)).run(rows, run_dir=sys.argv[1] + "/run", quiet=True)
"""


class OneByOne(RepeatingLLM):
    """Completes one request at a time; is killed before the row that the file `kill` names."""

    def complete(self, requests):
        kill = Path(self.log).with_name("kill")
        if kill.exists() and requests[0].messages[-1]["content"] == kill.read_text():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().complete(requests)

    def stream(self, requests):
        while item := requests.take():
            yield item[0], self.complete([item[1]])[0]


def test_run_killed_within_a_chunk_asks_for_no_row_twice(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    (tmp_path / "kill").write_text("say 13")
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    (tmp_path / "kill").unlink()
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(20)]})
    chain = Pipeline((TextGeneration(OneByOne(log=str(tmp_path / "log"))),))
    result = chain.run(rows, run_dir=tmp_path / "run", quiet=True)
    asked = (tmp_path / "log").read_text().splitlines()
    assert len(asked) == len(set(asked)) == 20
    assert result.to_list() == chain.run(rows, run_dir=tmp_path / "other", quiet=True).to_list()
    assert not list((tmp_path / "run").rglob("journal-*"))


def test_run_interrupted_keeps_failed_but_no_transient_rows(tmp_path):
    """Failures that may go away are tried a second time, others are not."""

    class Faulty(OneByOne):
        def complete(self, requests):
            text = requests[0].messages[-1]["content"]
            if text == "say 4" and not (tmp_path / "fine").exists():
                raise KeyboardInterrupt
            replies = super().complete(requests)
            if text == "say 1" and not (tmp_path / "fine").exists():
                return [type(replies[0])(text="", finish_reason="error", error="refused")]
            return [type(replies[0])(text="", finish_reason="refused", error="long")] if text == "say 2" else replies

    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(6)]})
    chain = Pipeline((TextGeneration(Faulty(log=str(tmp_path / "log"))),))
    with pytest.raises(KeyboardInterrupt):
        chain.run(rows, run_dir=tmp_path / "run", quiet=True)
    (tmp_path / "fine").touch()
    (tmp_path / "log").unlink()
    result = chain.run(rows, run_dir=tmp_path / "run", quiet=True)
    assert result["generation"][:] == ["ok", "ok", None, "ok", "ok", "ok"]
    asked = [
        json.loads(line.split(" ", 1)[1].replace("'", '"')) for line in (tmp_path / "log").read_text().splitlines()
    ]
    assert asked == ["say 1", "say 4", "say 5"]
