"""Prompts: Jinja2 text over a row's columns, rendered in a sandbox."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hfsynth.errors import RowError


def _text(value: Any) -> Any:
    return "" if value is None else value


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_text)


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)


def render_prompt(template: str, variables: Mapping[str, Any]) -> str:
    """Fill a prompt; None is written as nothing.

    Raises:
        RowError: If the template can't be rendered with these values.

    >>> render_prompt("Say {{ word | upper }}.", {"word": "hi"})
    'Say HI.'
    """
    try:
        return _compiled(template).render(variables)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise RowError(f"the prompt could not be rendered: {error}") from error


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
