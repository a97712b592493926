"""The key of cached rows has the code of classes and functions that aren't hfsynth's own."""

import importlib
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
    loaded = types.ModuleType("usermodule")
    sys.modules["usermodule"] = loaded
    exec(compile(text, "usermodule.py", "exec"), vars(loaded))
    return loaded


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
def test_hash_changes_with_the_code_of_a_class(old, new):
    before = Hasher.hash(TextGeneration(module(OWN).Own()))
    assert Hasher.hash(TextGeneration(module(OWN.replace(old, new)).Own())) != before


@pytest.mark.parametrize("edit", ["LIMIT = 4", "LIMIT = 'x'"])
def test_hash_changes_with_the_globals_of_a_function(edit):
    assert (
        as_step(module(OWN).step).fingerprint() != as_step(module(OWN.replace("LIMIT = 3", edit)).step).fingerprint()
    )


def test_hash_is_unchanged_by_a_comment():
    before = Hasher.hash(module(OWN).Own())
    assert Hasher.hash(module("# a comment\n" + OWN).Own()) == before


def test_hash_of_an_own_class_is_the_same_in_every_process(tmp_path):
    (tmp_path / "usermodule.py").write_text(OWN)
    code = "import usermodule; from datasets.fingerprint import Hasher; print(Hasher.hash(usermodule.Own()))"
    found = set()
    for seed in ("1", "2", "3"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([str(tmp_path), *filter(None, sys.path)])}
        command = [sys.executable, "-c", code]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


def test_code_state_of_an_open_client_warns_and_is_stable(caplog):
    text = "import sqlite3\nCLIENT = sqlite3.connect(':memory:')\ndef step(dataset):\n    return CLIENT and dataset\n"
    first, second = module(text).step, module(text).step
    assert as_step(first).fingerprint() == as_step(second).fingerprint()
    assert "'CLIENT'" in caplog.text


def test_code_state_of_hfsynth_is_its_name():
    assert code_state(EchoLLM) == '"hfsynth.llms.fakes.EchoLLM"'


def test_hash_changes_with_a_models_files(tmp_path):
    class Filed(EchoLLM):
        def files_state(self):
            return (tmp_path / "weights").read_text()

    (tmp_path / "weights").write_text("1")
    before = Hasher.hash(TextGeneration(Filed()))
    assert Hasher.hash(TextGeneration(Filed())) == before
    (tmp_path / "weights").write_text("2")
    assert Hasher.hash(TextGeneration(Filed())) != before


FILLED = {
    "subscript": "def f(x):\n    if x not in MEMO:\n        MEMO[x] = x\n    return MEMO[x]",
    "method": "def f(x):\n    MEMO.update({x: x})\n    return x",
    "augmented": "def f(x):\n    MEMO['n'] = MEMO.get('n', 0)\n    MEMO['n'] += 1\n    return x",
    "nested": "MEMO['rows'] = []\ndef f(x):\n    MEMO['rows'].append(x)\n    return x",
    "another function": "def load():\n    MEMO[1] = 1\ndef f(x):\n    load()\n    return MEMO.get(x)",
    "deleted": "MEMO[1] = 1\ndef f(x):\n    del MEMO[1]\n    return x",
    "assigned": "def f(x):\n    global MEMO\n    MEMO = {x: x}\n    return x",
}


@pytest.mark.parametrize("case", FILLED)
def test_code_state_changed_global_is_stable(case, caplog):
    """A memo that the code itself fills makes no new key, and a warning names it, once."""
    name = f"MEMO_{list(FILLED).index(case)}"
    filled = module(f"MEMO = {{}}\n{FILLED[case]}".replace("MEMO", name))
    before = code_state(filled.f)
    filled.f(1)
    assert code_state(filled.f) == before
    assert f"'{name}'" in caplog.text


COUNTERS = {
    "attribute": "self.sent += 1",
    "list": "self.rows.append(1)",
    "dictionary": "self.memo[1] = 1",
}


@pytest.mark.parametrize("change", COUNTERS.values(), ids=COUNTERS)
def test_code_state_changed_instance_is_stable(change):
    """A client of the user's in a global counts by its class and by what its methods leave as it was."""
    text = (
        "class Client:\n    def __init__(self, url):\n"
        "        self.url, self.sent, self.rows, self.memo = url, 0, [], {}\n"
        f"    def ask(self):\n        {change}\n"
        "CLIENT = Client('here')\ndef f(x):\n    CLIENT.ask()\n    return x"
    )
    used = module(text)
    before = code_state(used.f)
    used.f(1)
    assert code_state(used.f) == before
    assert code_state(module(text.replace("'here'", "'there'")).f) != before


UNCHANGED = {
    "key": "def f(x):\n    found = {}\n    found[TABLE['a']] = x\n    return found",
    "value": "def f(x):\n    found = {}\n    found['a'] = TABLE\n    return found",
    "read": "def f(x):\n    return TABLE.get(x, TABLE['a'])",
    "other name": "def f(x):\n    table = dict(TABLE)\n    table['b'] = 2\n    return table",
}


@pytest.mark.parametrize("body", UNCHANGED.values(), ids=UNCHANGED)
def test_code_state_read_global_counts(body):
    old, new = (code_state(module(f"TABLE = {{'a': {value}}}\n{body}").f) for value in (1, 2))
    assert old != new


RETURNING = "def g():\n    return '{}'"
REACHED = {
    "module in a package": ("import pkg.inner\ndef f(x):\n    return pkg.inner.SUFFIX", "SUFFIX = '{}'"),
    "function of a module in a package": (
        "import pkg.inner\ndef f(x):\n    return pkg.inner.g()",
        "def g():\n    return '{}'",
    ),
    "package by another name": (
        "import pkg.inner as other\ndef f(x):\n    return other.g()",
        "def g():\n    return '{}'",
    ),
    "import from inside": ("def f(x):\n    from pkg.inner import g\n    return g()", "def g():\n    return '{}'"),
    "import inside": ("def f(x):\n    import pkg.inner\n    return pkg.inner.g()", "def g():\n    return '{}'"),
    "two deep": ("def f(x):\n    from pkg.inner import g\n    return g()", "SIZE = '{}'\ndef g():\n    return SIZE"),
    "single dispatch": (
        "from pkg.inner import g\ndef f(x):\n    return g(x)",
        "from functools import singledispatch\n@singledispatch\ndef g(x):\n    return x\n"
        "@g.register\ndef _(x: int):\n    return '{}'",
    ),
    "bytearray": ("from pkg.inner import B\ndef f(x):\n    return B", "B = bytearray(b'{}')"),
    "member": (
        "from pkg.inner import M\nMODE = M.A\ndef f(x):\n    return MODE",
        "import enum\nclass M(str, enum.Enum):\n    A = '{}'",
    ),
}


@pytest.mark.parametrize(("using", "used"), REACHED.values(), ids=REACHED)
def test_code_state_follows_users_modules(using, used, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    found = []
    for word in ("first", "a second"):
        (tmp_path / "pkg" / "inner.py").write_text(used.format(word))
        importlib.invalidate_caches()
        found.append(code_state(module(using).f))
        for name in ("pkg", "pkg.inner"):
            sys.modules.pop(name, None)
    assert found[0] != found[1]


def test_code_state_globals_by_name_warns(caplog):
    code_state(module("A = 1\ndef f(x):\n    return globals()['A']").f)
    assert "globals()" in caplog.text
