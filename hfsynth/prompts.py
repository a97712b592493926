"""Prompts: Jinja2 text over a row's columns, rendered in a sandbox from plain values, with bounded time and size."""

from collections.abc import Collection, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import Template, TemplateError, TemplateSyntaxError, meta, nodes

from hfsynth.errors import RowError
from hfsynth.prompt_sandbox import Nothing, PromptEnvironment

_ENVIRONMENT = PromptEnvironment()
_FAILURES = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError)


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.compiled(template)


def render_prompt(template: str, variables: Mapping[str, Any]) -> str:
    """Fill a prompt; None is written as nothing.

    The template gets text, numbers, lists and dicts alone, never an object with methods of its own, such as an image.

    Raises:
        RowError: If the template can't be rendered with these values, a value isn't plain, or the rendering would
            take longer or make more than `prompt_sandbox` allows.

    >>> render_prompt("Say {{ word | upper }}.", {"word": "hi"})
    'Say HI.'
    """
    plain = {name: plain_value(name, value) for name, value in variables.items()}
    try:
        return _ENVIRONMENT.render(_compiled(template), plain)
    except _FAILURES as error:
        reason = f"{error}" or type(error).__name__
        raise RowError(f"the prompt could not be rendered: {reason:.500}: {template!r:.80}") from error


def plain_value(name: str, value: Any) -> Any:
    """Return a column's value as text, numbers, bools, lists and dicts of such; dates and decimals become text.

    Raises:
        RowError: If it is or holds anything else, with the column and the type.
    """
    if value is None:
        return Nothing()
    if isinstance(value, (bool, int, float)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (str, date, time, timedelta, Decimal)):
        return str(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return plain_value(name, value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain_value(name, one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain_value(name, one) for key, one in value.items()}
    raise RowError(
        f"column {name!r} has a value of type {type(value).__name__}; a prompt reads text, numbers, lists and dicts."
    )


def check_filled(row: Mapping[str, Any], columns: Collection[str]) -> None:
    """Check that a row has something in one of the columns that a prompt reads.

    Raises:
        RowError: If all are None or blank, or lists and dicts of nothing else.

    >>> check_filled({"text": " ", "title": "Tea"}, ("text", "title"))
    """
    if columns and all(_is_blank(row[name]) for name in columns):
        reason = "None" if all(row[name] is None for name in columns) else "empty"
        raise RowError(f"{' and '.join(columns)} {'is' if len(columns) == 1 else 'are'} {reason}")


def _is_blank(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(map(_is_blank, value.values()))
    return all(map(_is_blank, value)) if isinstance(value, (list, tuple)) else value is None


def prompt_variables(template: str) -> tuple[str, ...]:
    """Return the names that a prompt reads, sorted.

    Raises:
        ValueError: If the template is not valid Jinja2.

    >>> prompt_variables("{{ question }} in {{ language }}")
    ('language', 'question')
    """
    try:
        return tuple(sorted(meta.find_undeclared_variables(_ENVIRONMENT.parse(template))))
    except TemplateSyntaxError as error:
        raise ValueError(f"{template!r} is not a Jinja2 template: {error.message} (line {error.lineno}).") from error


def optional_variables(template: str) -> frozenset[str]:
    """Return the names that a prompt tests with `is defined`, so that it can do without them.

    >>> sorted(optional_variables("{{ a }}{% if b is defined and b %}{{ b }}{% endif %}"))
    ['b']
    """
    tests = _ENVIRONMENT.parse(template).find_all(nodes.Test)
    return frozenset(test.node.name for test in tests if test.name == "defined" and isinstance(test.node, nodes.Name))


def check_prompt(owner: str, template: str, allowed: tuple[str, ...]) -> None:
    """Check that a prompt field is valid and reads only what its technique gives it.

    Raises:
        ValueError: If it doesn't, with the names it may read.
    """
    unknown = sorted(set(prompt_variables(template)) - set(allowed))
    if unknown:
        raise ValueError(f"{owner} reads {unknown}; a prompt there may read {list(allowed)}: {template!r}")
