"""Values of configuration fields, checked by the fields' annotations: in techniques, filters and llms alike."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

Rule = tuple[Callable[[Any], Any], str]
"""What brings a value to a type or returns `_REFUSED`, and how an error names the type."""
_REFUSED: Any = object()


def settle_fields(configuration: Any) -> None:
    """Check the fields of a frozen dataclass by their annotations, and bring each value to its field's type.

    One text where several belong becomes a tuple of one, a list a tuple, a path its text, a number of numpy Python's.
    Annotations other than text, numbers, bool, tuples of texts, mappings and None are left to the class.

    Raises:
        ValueError: If a value has another type, with the field's name; a bool or NaN is no number.
    """
    owner: Any = type(configuration)
    for name, hint in _annotations(owner).items():
        value = getattr(configuration, name)
        settled = _settled(value, hint)
        if settled is _REFUSED:
            raise ValueError(f"{owner.__name__}.{name} is {value!r:.200}; it must be {_wanted(hint)}.")
        if settled is not value:
            object.__setattr__(configuration, name, settled)


def as_texts(name: str, value: Any) -> tuple[str, ...]:
    """Return the texts of a field or argument that takes several: one text is a tuple of one.

    Raises:
        ValueError: If it is neither a text nor a series of texts, with `name`.

    >>> as_texts("SamplingParams.stop", "END")
    ('END',)
    """
    texts: tuple[str, ...] = _texts(value)
    if texts is _REFUSED:
        raise ValueError(f"{name} is {value!r:.200}; it must be {_RULES[tuple[str, ...]][1]}.")
    return texts


@cache
def _annotations(owner: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields; those whose annotation can't be resolved are left out."""
    try:
        hints = get_type_hints(owner)
    except (NameError, TypeError):  # an annotation as a string, of a name that only a type checker sees
        hints = {}
    found = {field.name: hints.get(field.name, field.type) for field in fields(owner) if field.init}
    return {name: hint for name, hint in found.items() if not isinstance(hint, str)}


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _settled(value: Any, hint: Any) -> Any:
    """Return a value as its annotation has it; as it is, where there is no rule; or `_REFUSED`."""
    options = _options(hint)
    if value is None and NoneType in options:
        return None
    rules = [_rule(option) for option in options if option is not NoneType]
    if None in rules:
        return value
    return next((found for rule in rules if rule and (found := rule[0](value)) is not _REFUSED), _REFUSED)


def _rule(kind: Any) -> "Rule | None":
    """Return an annotation's rule: one of the table, or for a dataclass such as SamplingParams that it is one."""
    if isinstance(kind, type) and is_dataclass(kind):
        return lambda value: value if isinstance(value, kind) else _REFUSED, f"{kind.__name__}(...)"
    return _RULES.get(kind)


def _wanted(hint: Any) -> str:
    rules = [(None, "None") if option is NoneType else _rule(option) for option in _options(hint)]
    return " or ".join(rule[1] for rule in rules if rule)


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, (str, os.PathLike)) else _REFUSED


def _texts(value: Any) -> Any:
    return _tuple(value, _text)


def _values(value: Any) -> Any:
    return _tuple(value, lambda one: one)


def _tuple(value: Any, settle: Callable[[Any], Any]) -> Any:
    """Return a series as a tuple; a single value becomes one of one, and a set is sorted, to be the same each time."""
    if isinstance(value, (bytes, bytearray, Mapping, NoneType)):
        return _REFUSED
    if isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable):
        value = (value,)
    settled = tuple(settle(one) for one in (sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value))
    return _REFUSED if any(one is _REFUSED for one in settled) else settled


def _whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else _REFUSED


def _number(value: Any) -> Any:
    if not isinstance(value, Real) or isinstance(value, bool) or math.isnan(value):
        return _REFUSED
    return value if isinstance(value, (int, float)) else float(value)


def _mapping(value: Any) -> Any:
    return value if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) else _REFUSED


def _texts_by_name(value: Any) -> Any:
    named = _mapping(value)
    return named if named is not _REFUSED and all(isinstance(text, str) for text in named.values()) else _REFUSED


_RULES: dict[Any, Rule] = {
    str: (_text, "text"),
    bool: (lambda value: value if isinstance(value, bool) else _REFUSED, "True or False"),
    int: (_whole_number, "a whole number"),
    float: (_number, "a number"),
    tuple[str, ...]: (_texts, "texts, such as ('one', 'another')"),
    tuple[Any, ...]: (_values, "values, such as ('one', 2)"),
    Mapping[str, str]: (_texts_by_name, "a dict of texts, such as {'name': 'text'}"),
    Mapping[str, Any]: (_mapping, "a dict with names for keys"),
}
"""Annotation → its rule."""
