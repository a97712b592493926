"""The imports of hfsynth, lazy ones and those for type checkers included, go down and never in a circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hfsynth"
LAYERS = [
    ["__main__", "cli"],
    ["verification"],
    ["publish", "viewer", "dry_run"],
    ["analysis"],
    ["runner"],
    ["pipeline", "recipe"],
    ["techniques", "filters", "samplers", "training_format"],
    ["technique", "filter"],
    ["llms"],
    ["engine"],
    ["flow", "progress"],
    ["similarity", "data"],
    ["step"],
    ["record"],
    ["chat", "conversation", "thinking_and_tool_calls", "jinja_sandbox", "parsing"],
    ["llm", "distributed", "config", "fingerprint", "secrets", "text", "errors"],
]
"""Modules and packages, from the top down: each imports from its own layer and from those below."""
EXCEPTIONS = {
    ("step", "pipeline"),  # Step.__rshift__
    ("pipeline", "runner.run"),  # Pipeline.run
    ("pipeline", "runner.rounds"),  # the type of its input
    ("pipeline", "dry_run"),  # Pipeline.preview
    ("pipeline", "publish.hub"),  # Pipeline.push_to_hub
    ("pipeline", "analysis.render"),  # Pipeline.draw
    ("pipeline", ""),  # Pipeline.from_yaml: the public names
}
REMAINING: set[tuple[str, str]] = set()
"""Imports against the rule that are still to be removed; the test fails for an entry that is no longer needed."""


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported_modules(source):
    """Give the modules of hfsynth that a source imports anywhere, "" for the package itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            if root == "hfsynth":
                yield rest if rest in MODULES else rest.rpartition(".")[0]


def layer_of(module):
    unit = module.partition(".")[0]
    return next(number for number, units in enumerate(LAYERS) if unit in units)


def imports():
    """Return every import as (importer, imported), without those of `hfsynth/__init__.py`, which are lazy."""
    pairs = {(name, other) for name, path in MODULES.items() if name for other in imported_modules(path.read_text())}
    return {(name, other) for name, other in pairs if name != other}


def is_upward(pair):
    importer, imported = pair
    return imported == "" or layer_of(imported) < layer_of(importer)


def in_circles(pairs):
    """Return the pairs that are part of a circle: those left when what imports nothing, or isn't imported, is gone."""
    left = set(pairs)
    while True:
        importers, imported = {a for a, _ in left}, {b for _, b in left}
        smaller = {(a, b) for a, b in left if a in imported and b in importers}
        if smaller == left:
            return left
        left = smaller


def test_layers_have_every_module_once():
    units = [unit for layer in LAYERS for unit in layer]
    assert len(units) == len(set(units))
    assert set(units) == {name.partition(".")[0] for name in MODULES if name}


def test_imports_go_down():
    upward = {pair for pair in imports() - EXCEPTIONS if is_upward(pair)}
    assert upward == {pair for pair in REMAINING if is_upward(pair)}


def test_imports_have_no_circle():
    assert in_circles(imports() - EXCEPTIONS - REMAINING) == set()
    assert {pair for pair in REMAINING if not is_upward(pair)} <= in_circles(imports() - EXCEPTIONS)


def test_exceptions_are_needed():
    assert imports() >= EXCEPTIONS


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from hfsynth.llm import LLM", ["llm"]),
        ("def f():\n    from hfsynth.publish import hub", ["publish.hub"]),
        ("if TYPE_CHECKING:\n    import hfsynth.publish.hub as h", ["publish.hub"]),
        ("from hfsynth import Judge\nimport hfsynth", ["", ""]),
        ("import json", []),
    ],
)
def test_imported_modules_of_a_source(source, found):
    assert list(imported_modules(source)) == found


def test_in_circles_finds_a_circle_of_three():
    circle = {("a", "b"), ("b", "c"), ("c", "a")}
    assert in_circles(circle | {("c", "d"), ("e", "a")}) == circle
