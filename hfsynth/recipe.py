"""A pipeline as YAML from which it can be made again: every field of every step, by the names of their classes."""

import dataclasses
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml

from hfsynth.configuration import Configuration
from hfsynth.filter import Filter
from hfsynth.steps import Step, step_name
from hfsynth.technique import Technique

Description = dict[str, Any]
"""A step as plain values: `__class__` and the fields of a technique or filter, or `function` and its `source`."""
_BREAKS = "\x85\u2028\u2029"
_MOST_CHARACTERS = 500_000  # of a recipe: PyYAML reads that in seconds
_MOST_VALUES = 20_000  # a pipeline of ten steps has some 400
_DEEPEST = 50
_TOO_LARGE = (
    f"a recipe has at most {_MOST_VALUES:,} values, those behind anchors counted at each use, and {_DEEPEST} levels; "
    "this one has more."
)
_CLASS = "__class__"  # the name of a class, and "/2" where it is at version 2


def describe_step(step: Step) -> Description:
    """Return a step as plain values.

    A model in a folder is described by the folder's own name: where it lies is nobody else's business, and of no use.
    """
    if isinstance(step, Technique | Filter):
        described: Description = _describe(step)
        return described
    try:
        source = inspect.getsource(step)
    except (OSError, TypeError):  # typed at a prompt, or compiled
        source = ""
    return {"function": step_name(step), "source": inspect.cleandoc(source) if source else ""}


def make_step(description: Description, known: Mapping[str, Any]) -> Step:
    """Make a step again.

    Args:
        description: What `describe_step` returned.
        known: Classes and functions by their names.

    Raises:
        ValueError: If a class or function isn't known, is of another version, or has no such field.
    """
    if "function" in description:
        return _function(_find(description["function"], known, "a function"), description)
    made = _make(description, known)
    if not isinstance(made, Technique | Filter):
        raise ValueError(f"a recipe's step is a technique, a filter or a function, not {description!r}.")
    return made


def write_recipe(
    steps: Sequence[Mapping[str, Any]], chunk_size: int | None = None, source: Mapping[str, Any] | None = None
) -> str:
    """Return a recipe as YAML, its long texts as they read; with the input, where that is plain configuration."""
    head: Description = {"hfsynth": version("hfsynth")}
    if chunk_size is not None:
        head["chunk_size"] = chunk_size
    if source:
        head["source"] = dict(source)
    return dump({**head, "steps": list(steps)})


def dump(value: Any) -> str:
    """Return plain values as YAML, texts of several lines as blocks."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, indent=2)


def describe_source(source: Any) -> Description:
    """Return the input of a run as plain values, if it is plain configuration; else nothing."""
    described: Description = _describe(source) if isinstance(source, Configuration) else {}
    return described


def read_source(text: str) -> Any:
    """Return the input that a recipe has, made again; None where it has none.

    Raises:
        ValueError: If its class isn't known, or is of another version.
    """
    described = _load(text).get("source")
    return None if described is None else _make(described, known_names(()))


def read_recipe(text: str) -> tuple[list[Description], int | None]:
    """Return the steps of a recipe, described, and its `chunk_size`, if it has one.

    Raises:
        ValueError: If it isn't a recipe.
    """
    recipe = _load(text)
    steps = recipe.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise ValueError(
            f"a recipe needs 'steps', a list of techniques, filters and functions that is not empty; got {steps!r}."
        )
    chunk_size = recipe.get("chunk_size")
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int)):
        raise ValueError(f"chunk_size of a recipe must be a whole number, got {chunk_size!r}.")
    return steps, chunk_size


def _load(text: str) -> dict[str, Any]:
    """Read YAML that has one mapping, within the limits of size, nesting and repetition that recipes need.

    Raises:
        ValueError: If it is no YAML, no mapping, or beyond a limit.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"a recipe has at most {_MOST_CHARACTERS:,} characters, got {len(text):,}.")
    try:
        if any(place > 2 * _MOST_VALUES for place, _ in enumerate(yaml.parse(text, Loader=yaml.SafeLoader))):
            raise ValueError(_TOO_LARGE)
        _check_size(yaml.compose(text, Loader=yaml.SafeLoader))
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the recipe is not YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"the recipe is nested deeper than {_DEEPEST} levels.") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"a recipe is a mapping with 'steps', as pipeline.to_yaml() writes it; got {text[:80]!r}.")
    return recipe


def _check_size(node: yaml.Node | None) -> None:
    """Count the values of YAML, each as often as its anchor is used.

    Raises:
        ValueError: If there are too many, or they are nested too deep.
    """
    waiting = [(node, 1)] if node else []
    count = 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise ValueError(_TOO_LARGE)
        if isinstance(one, yaml.MappingNode):
            waiting += [(child, depth + 1) for pair in one.value for child in pair]
        elif isinstance(one, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in one.value]


def _function(found: Any, description: Mapping[str, Any]) -> Step:
    """Return what a recipe names as a function, if it is one of the user's.

    Raises:
        ValueError: If it is a class or a value, or one of the library's own functions.
    """
    is_own = str(getattr(found, "__module__", "")).partition(".")[0] == "hfsynth"
    if is_own or isinstance(found, type) or not callable(found):
        raise ValueError(
            f"function {description['function']!r} of a recipe must be a function of a dataset that is your own; "
            f"that name is {'hfsynth' if is_own else 'a class or value'}. Classes are named by {_CLASS!r}."
        )
    function: Step = found
    return function


def replace_model(description: Description, model: str) -> Description:
    """Return a step, described, with another name or folder for its model."""
    llm = description.get("llm")
    if not isinstance(llm, dict) or "model" not in llm:
        return description
    return {**description, "llm": {**llm, "model": model}}


def known_names(names: Iterable[Any]) -> dict[str, Any]:
    """Return what hfsynth has itself and some more classes and functions, by their names."""
    import hfsynth

    own = {name: getattr(hfsynth, name) for name in hfsynth.__all__}
    return {**own, **{name.__name__: name for name in names}}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and equal values out each time."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is yaml's
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if any(sign in text for sign in _BREAKS):  # what YAML takes for the end of a line
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _describe(value: Any, name: str = "") -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _describe(getattr(value, f.name), f.name) for f in dataclasses.fields(value) if f.init}
        return {_CLASS: _class_name(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(key): _describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item, name) for item in value]
    if (name == "model" and os.path.isdir(value)) or (name == "benchmarks" and os.path.exists(value)):
        return os.path.basename(os.path.abspath(value))
    return value


def _make(value: Any, known: Mapping[str, Any]) -> Any:
    """The inverse of `_describe`; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(_make(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {key: _make(item, known) for key, item in value.items() if key != _CLASS}
    if _CLASS not in value:
        return fields
    cls = _find(str(value[_CLASS]).partition("/")[0], known, "a class")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or _class_name(cls) != value[_CLASS]:
        raise ValueError(f"the recipe was written for {value[_CLASS]}; what is installed is {_class_name(cls)}.")
    if unknown := sorted(set(fields) - {field.name for field in dataclasses.fields(cls)}):
        raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}; the recipe is of another version.")
    return cls(**fields)


def _class_name(cls: Any) -> str:
    version = getattr(cls, "version", 1)
    return cls.__name__ if version == 1 else f"{cls.__name__}/{version}"


def _find(name: Any, known: Mapping[str, Any], what: str) -> Any:
    if name not in known:
        raise ValueError(f"the recipe names {name!r}, {what} that hfsynth doesn't have; give it to from_yaml.")
    return known[name]
