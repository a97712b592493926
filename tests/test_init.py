import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import hfsynth

SOURCE = ast.parse(Path(hfsynth.__file__).read_text())
FOR_TYPE_CHECKERS = {
    alias.asname: node.module for node in ast.walk(SOURCE) if isinstance(node, ast.ImportFrom) for alias in node.names
}


RUN = """from datasets import Dataset; from hfsynth import Deduplicate, EchoLLM, TextGeneration
rows = Dataset.from_dict({"instruction": ["a"]})
(TextGeneration(EchoLLM()) >> Deduplicate()).run(rows, run_dir=sys.argv[1], quiet=True)
"""


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import hfsynth", ("torch", "transformers", "datasets")),
        ("from hfsynth import *", ("torch", "transformers")),
        (RUN, ("torch", "transformers", "matplotlib", "hfsynth.publish", "hfsynth.analysis")),
    ],
)
def test_import_loads_no_large_package(code, modules, tmp_path):
    code = f"import sys; {code}\nprint([name for name in {modules} if name in sys.modules])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "[]"


def test_public_names_are_sorted_and_listed_by_dir():
    assert sorted(hfsynth.__all__) == sorted(set(hfsynth.__all__))
    assert set(dir(hfsynth)) == {*hfsynth.__all__, "__version__"}


@pytest.mark.parametrize("name", hfsynth.__all__)
def test_public_name_is_the_one_of_type_checkers(name):
    value = getattr(hfsynth, name)
    assert value.__doc__
    assert value is getattr(import_module(FOR_TYPE_CHECKERS[name]), name)


def test_type_checkers_find_no_other_name():
    assert FOR_TYPE_CHECKERS.keys() - {None} == set(hfsynth.__all__)


@pytest.mark.parametrize("package", ["techniques", "filters"])
def test_steps_of_hfsynth_are_public(package):
    home = import_module(f"hfsynth.{package}")
    modules = [import_module(f"{home.__name__}.{module.name}") for module in iter_modules(home.__path__)]
    steps = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, hfsynth.Technique | hfsynth.Filter)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    assert len(steps) > 3
    assert steps <= set(hfsynth.__all__)


def test_package_ships_its_types():
    assert (Path(hfsynth.__file__).parent / "py.typed").exists()


def test_missing_name_raises_an_attribute_error():
    with pytest.raises(AttributeError, match="'Instruct'"):
        hfsynth.Instruct  # noqa: B018
