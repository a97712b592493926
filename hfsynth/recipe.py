"""A pipeline as YAML from which it can be made again: every field of every step, by the names of their classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml

from hfsynth.config import CLASS_KEY, Configuration, Description, build, find_known
from hfsynth.secrets import redact
from hfsynth.step import Step, as_step

_BREAKS = "\x85\u2028\u2029"
_LONGEST, _MOST_VALUES, _DEEPEST = 4_000_000, 200_000, 50  # characters of a recipe, its values, lists in lists
_LONG_NUMBER = re.compile(r"[-+\d._:xob]{1000,}")  # which takes long to read
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def make_step(description: Description, known: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> Step:
    """Make a step again.

    Args:
        description: What `describe_step` returned.
        known: Classes and functions by their names.
        secrets: Values of the fields that a recipe leaves out, by the names that it has for them.

    Raises:
        ValueError: If a class or function isn't known, is of another version, or has no such field; or if a secret is
            missing.
    """
    if "function" in description:
        function = find_known(description["function"], known, "a function")
        if isinstance(function, type) or str(getattr(function, "__module__", "")).partition(".")[0] == "hfsynth":
            raise ValueError(
                f"the recipe names {description['function']!r} as a function of a dataset, which it isn't; "
                "a recipe's functions are the user's own, given to from_yaml."
            )
        return as_step(function)
    step = build(description, known, secrets or {})
    if not isinstance(step, Step):
        raise ValueError(f"a recipe's step is a technique, a filter or a function, not {str(description)[:200]!r}.")
    return step


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
    return source.describe() if isinstance(source, Configuration) else {}


def read_source(text: str) -> Any:
    """Return the input that a recipe has, made again; None where it has none.

    Raises:
        ValueError: If it isn't a recipe, or its class isn't known, or is of another version.
    """
    described = _load(text).get("source")
    if described is None:
        return None
    if not isinstance(described, dict) or CLASS_KEY not in described:
        raise ValueError(f"a recipe's 'source' is a mapping with a {CLASS_KEY!r}, not {str(described)[:80]!r}.")
    return build(described, known_names(()), {})


def read_recipe(text: str) -> tuple[list[Description], int | None]:
    """Return the steps of a recipe, described, and its `chunk_size`, if it has one.

    Raises:
        ValueError: If it isn't a recipe.
    """
    recipe = _load(text)
    steps, chunk_size = recipe.get("steps"), recipe.get("chunk_size")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise ValueError(f"a recipe has 'steps', a list of techniques and functions; this is {text[:80]!r}.")
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise ValueError(f"a recipe's chunk_size is a number of rows, at least 1, not {str(chunk_size)[:80]!r}.")
    return steps, chunk_size


def _load(text: str) -> dict[str, Any]:
    """Read YAML whose size, once its aliases are written out, is bounded.

    Raises:
        ValueError: If it isn't a mapping, or too large.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"the recipe has {len(text):,} characters; at most {_LONGEST:,} are read.")
    try:
        _check_size(text)
        recipe = yaml.load(text, _Loader)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"the recipe is not YAML: {redact(str(error))}") from None
    except ValueError as error:  # a date or number that can't be one, and what is too large
        raise ValueError(f"the recipe can't be read: {redact(str(error))}") from None
    if not isinstance(recipe, dict):
        raise ValueError(
            f"a recipe is a mapping with 'steps', a list of techniques and functions; this is {text[:80]!r}."
        )
    return recipe


def _check_size(text: str) -> None:
    """Check how deep YAML is and how many values it has, each alias counted as what it stands for."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # the anchor of each list and mapping, and the values before it
    total = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            total += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            _check_number(event)
        if total > _MOST_VALUES or len(open_nodes) > _DEEPEST:
            raise ValueError(f"more than {_MOST_VALUES:,} values, or more than {_DEEPEST} lists in one another.")


def _check_number(event: yaml.ScalarEvent) -> None:
    if event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
        raise ValueError(f"a number has {len(event.value):,} characters.")


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
