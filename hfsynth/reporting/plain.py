"""Dataclasses from the plain values that JSON keeps of them: the way back from `dataclasses.asdict`."""

from collections import abc
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints


def from_plain(kind: Any, value: Any) -> Any:
    """Make a value of a type from plain values.

    Args:
        kind: A dataclass, or what its fields may be here: a tuple, a mapping from names, any of these or None, or a
            plain type.
        value: As JSON has it.

    Raises:
        TypeError: If it is not the plain form of such a value.

    >>> from_plain(tuple[float, ...], [1, 2])
    (1, 2)
    """
    args = get_args(kind)
    if NoneType in args:
        return None if value is None else from_plain(next(arg for arg in args if arg is not NoneType), value)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise TypeError(f"{kind.__name__} has no {unknown[0]!r}")
        return kind(**{name: from_plain(hints[name], part) for name, part in value.items()})
    if get_origin(kind) is tuple and isinstance(value, list):
        kinds = [args[0]] * len(value) if args[-1] is ... else args
        return tuple(from_plain(part, one) for part, one in zip(kinds, value, strict=True))
    if get_origin(kind) is abc.Mapping and isinstance(value, dict):
        return {name: from_plain(args[1], part) for name, part in value.items()}
    if not args and isinstance(value, (float, int) if kind is float else kind):
        return value
    raise TypeError(f"{value!r} is no {getattr(kind, '__name__', kind)}")
