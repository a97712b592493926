"""The key of cached rows has the code of classes and functions that aren't hfsynth's own."""

import subprocess
import sys
import types

import pytest
from datasets.fingerprint import Hasher

from hfsynth import EchoLLM, TextGeneration
from hfsynth.fingerprint import code_state
from hfsynth.step import as_step

OWN = """
from dataclasses import dataclass
from hfsynth import EchoLLM

LIMIT = 3
NAMES = {"b", "a"}


def helper(text):
    return text[:LIMIT]


@dataclass(frozen=True)
class Base(EchoLLM):
    def shorten(self, text):
        return helper(text)


@dataclass(frozen=True)
class Own(Base):
    def complete(self, requests):
        key = lambda text: text.upper()
        return [key(self.shorten(x)) for x in requests if x not in NAMES]


def step(dataset):
    return dataset.filter(lambda row: len(helper(row["a"])) > 1)
"""


def module(text: str) -> types.ModuleType:
    made = types.ModuleType("usermodule")
    sys.modules["usermodule"] = made
    exec(compile(text, "usermodule.py", "exec"), vars(made))
    return made


@pytest.fixture(autouse=True)
def no_module_left():
    yield
    sys.modules.pop("usermodule", None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ('{"b", "a"}', '{"b", "c"}'),
        ("text[:LIMIT]", "text[1:LIMIT]"),
        ("return helper(text)", "return helper(text).strip()"),
        ("text.upper()", "text.lower()"),
    ],
)
def test_an_edit_that_a_class_depends_on_changes_its_hash(old, new):
    before = Hasher.hash(TextGeneration(module(OWN).Own()))
    assert Hasher.hash(TextGeneration(module(OWN.replace(old, new)).Own())) != before


@pytest.mark.parametrize("edit", ["LIMIT = 4", "LIMIT = 'x'"])
def test_an_edit_that_a_function_depends_on_changes_its_hash(edit):
    assert (
        as_step(module(OWN).step).fingerprint() != as_step(module(OWN.replace("LIMIT = 3", edit)).step).fingerprint()
    )


def test_a_comment_leaves_the_hash_as_it_was():
    before = Hasher.hash(module(OWN).Own())
    assert Hasher.hash(module("# a comment\n" + OWN).Own()) == before


def test_the_hash_of_an_own_class_is_the_same_in_every_process(tmp_path):
    (tmp_path / "usermodule.py").write_text(OWN)
    code = "import usermodule; from datasets.fingerprint import Hasher; print(Hasher.hash(usermodule.Own()))"
    found = set()
    for seed in ("1", "2", "3"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([str(tmp_path), *filter(None, sys.path)])}
        command = [sys.executable, "-c", code]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


def test_an_open_client_in_a_global_is_warned_of_and_stable(caplog):
    text = "import sqlite3\nCLIENT = sqlite3.connect(':memory:')\ndef step(dataset):\n    return CLIENT and dataset\n"
    first, second = module(text).step, module(text).step
    assert as_step(first).fingerprint() == as_step(second).fingerprint()
    assert "'CLIENT'" in caplog.text


def test_hfsynth_is_named_and_not_read():
    assert code_state(EchoLLM) == '"hfsynth.llms.echo.EchoLLM"'


def test_the_state_of_a_models_files_is_part_of_the_hash(tmp_path):
    class Filed(EchoLLM):
        def files_state(self):
            return (tmp_path / "weights").read_text()

    (tmp_path / "weights").write_text("1")
    before = Hasher.hash(TextGeneration(Filed()))
    assert Hasher.hash(TextGeneration(Filed())) == before
    (tmp_path / "weights").write_text("2")
    assert Hasher.hash(TextGeneration(Filed())) != before
