"""Recipes: write the steps of a pipeline as YAML, and build steps from that YAML."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import yaml

from hfsynth.config import CLASS_KEY, Description, build
from hfsynth.secrets import redact
from hfsynth.step import Step, as_step

_MAX_CHARACTERS, _MAX_VALUES, _MAX_DEPTH = 4_000_000, 200_000, 50  # of a recipe; depth counts nested collections
_LONG_NUMBER = re.compile(r"[-+\d._:xob]{1000,}")  # Python parses an integer in time quadratic in its digits
_LINE_BREAKS = "\x85\u2028\u2029"  # line breaks of YAML besides "\n"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SECRET_VARIABLE = "HFSYNTH_"  # prefix of the environment variables with secrets
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_recipe(
    steps: Sequence[Mapping[str, Any]], chunk_size: int | None = None, source: Mapping[str, Any] | None = None
) -> str:
    """Return a recipe as YAML.

    Args:
        steps: Descriptions from `Step.describe`.
        chunk_size: The run's chunk size.
        source: The description of the run's input, if it is a configuration such as a `SeedPool`.
    """
    head: Description = {"hfsynth": version("hfsynth")}
    if chunk_size is not None:
        head["chunk_size"] = chunk_size
    if source:
        head["source"] = dict(source)
    return dump({**head, "steps": list(steps)})


def dump(value: Any) -> str:
    """Return plain values as YAML; texts of several lines become blocks."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, indent=2)


def read_recipe(text: str) -> tuple[list[Description], int | None]:
    """Return a recipe's descriptions of steps, and its `chunk_size` if it has one.

    Raises:
        ValueError: If it isn't a recipe.
    """
    recipe = _load(text)
    steps, chunk_size = recipe.get("steps"), recipe.get("chunk_size")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise ValueError(f"a recipe must have 'steps', a list of techniques and functions, got {text[:80]!r}.")
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise ValueError(f"a recipe's chunk_size must be a positive number of rows, got {str(chunk_size)[:80]!r}.")
    return steps, chunk_size


def build_step(description: Description, names: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> Step:
    """Build a step from its description.

    Args:
        description: The description from `Step.describe`.
        names: Name → class or function.
        secrets: Name of a secret that the recipe leaves out → its value. Default: environment variables such as
            `HFSYNTH_API_KEY`.

    Raises:
        ValueError: If a name or a secret is missing, or a class has another version than the recipe's.
    """
    if "function" in description:
        function = _find(description["function"], names, "a function")
        if isinstance(function, type) or str(getattr(function, "__module__", "")).partition(".")[0] == "hfsynth":
            raise ValueError(
                f"the recipe names {description['function']!r} as a function of a dataset, but it isn't one; "
                "pass your own functions to from_yaml."
            )
        return as_step(function)
    step = _build(description, names, secrets or {})
    if not isinstance(step, Step):
        raise ValueError(f"a recipe's step must be a technique, filter or function, got {str(description)[:200]!r}.")
    return step


def build_source(text: str, names: Mapping[str, Any]) -> Any:
    """Build the input that a recipe describes; return None if it describes no input.

    Args:
        text: The recipe.
        names: Name → class.

    Raises:
        ValueError: If the text isn't a recipe, or the input's class is missing or has another version.
    """
    description = _load(text).get("source")
    if description is None:
        return None
    if not isinstance(description, dict) or CLASS_KEY not in description:
        raise ValueError(f"a recipe's 'source' must be a mapping with a {CLASS_KEY!r}, got {str(description)[:80]!r}.")
    return _build(description, names, {})


def check_trusted(steps: Sequence[Mapping[str, Any]], model: str | None) -> None:
    """Check that an untrusted recipe runs no remote code and sends no requests without the user's consent.

    Requests carry prompts and the key of an environment variable.

    Args:
        steps: Descriptions of steps.
        model: The model that the user sets in place of the recipe's; None if they don't.

    Raises:
        ValueError: If an llm sets `trust_remote_code` and `model` is None, or if it sends requests to another machine
            whose address is not in `OPENAI_BASE_URL`.
    """
    for llm in (step.get("llm") for step in steps):
        if not isinstance(llm, Mapping):
            continue
        if llm.get("trust_remote_code") and not model:
            raise ValueError(
                f"the recipe runs the code of the repository of {llm.get('model')!r}; name the model with --model if "
                "you trust it."
            )
        for address in _addresses(llm):
            if urlsplit(address).hostname not in _LOOPBACK and address != os.environ.get("OPENAI_BASE_URL"):
                raise ValueError(
                    f"the recipe sends prompts and a key to {redact(address)}; set OPENAI_BASE_URL to this address if "
                    "you trust it."
                )


def _addresses(value: Any) -> Iterator[str]:
    """Yield the web addresses in plain values."""
    if isinstance(value, str) and value.strip().lower().startswith(("http://", "https://")):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _addresses(item)


def replace_model(description: Description, model: str) -> Description:
    """Return a description with the model of its llm replaced."""
    llm = description.get("llm")
    if not isinstance(llm, dict) or "model" not in llm:
        return description
    return {**description, "llm": {**llm, "model": model}}


def _build(description: Description, names: Mapping[str, Any], secrets: Mapping[str, str]) -> Any:
    return build(
        description, lambda name: _find(name, names, "a class"), lambda name: _find_secret(str(name), secrets)
    )


def _find(name: Any, names: Mapping[str, Any], kind: str) -> Any:
    """Return the class or function with a name; `kind` is "a class" or "a function".

    Raises:
        ValueError: If there is none.
    """
    if not isinstance(name, str) or name not in names:
        raise ValueError(
            f"the recipe names {name!r}, {kind} that hfsynth doesn't have; name its module with --import, or pass it "
            "to from_yaml."
        )
    return names[name]


def _find_secret(name: str, secrets: Mapping[str, str]) -> str:
    """Return the value of a secret that a recipe leaves out.

    Raises:
        ValueError: If it is neither in `secrets` nor in the environment.
    """
    variable = _SECRET_VARIABLE + re.sub(r"\W+", "_", name).upper()
    value = secrets.get(name) or os.environ.get(variable)
    if not value:
        raise ValueError(
            f"the recipe leaves out {name!r}, which is secret: set the environment variable {variable}, or pass "
            f"Pipeline.from_yaml(…, secrets={{{name!r}: …}})."
        )
    return value


def _load(text: str) -> dict[str, Any]:
    """Return a recipe's mapping, after checking its size with all aliases expanded.

    Raises:
        ValueError: If it isn't a mapping, or too large.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"the recipe has {len(text):,} characters; at most {_MAX_CHARACTERS:,} are read.")
    try:
        _check_size(text)
        recipe = yaml.load(text, _Loader)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"the recipe is not YAML: {redact(str(error))}") from None
    except ValueError as error:  # an invalid date or number, or a size over the limits
        raise ValueError(f"the recipe can't be read: {redact(str(error))}") from None
    if not isinstance(recipe, dict):
        raise ValueError(
            f"a recipe must be a mapping with 'steps', a list of techniques and functions, got {text[:80]!r}."
        )
    return recipe


def _check_size(text: str) -> None:
    """Check the depth of YAML and the number of its values, with all aliases expanded.

    Raises:
        ValueError: If one of them is over its limit.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, number of values before it) of each open list and mapping
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
            if event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
                raise ValueError(f"a number has {len(event.value):,} characters.")
        if total > _MAX_VALUES or len(open_nodes) > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_VALUES:,} values, or lists nested more than {_MAX_DEPTH} deep.")


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and uses no aliases for repeated values."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is yaml's
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if any(character in text for character in _LINE_BREAKS) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
