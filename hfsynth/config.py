"""Configurations: a frozen dataclass to JSON and back, its fingerprint, and the checks of its fields."""

import dataclasses
import json
import math
import os
import re
from collections import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

from datasets.utils._dill import Pickler, pklregister

from hfsynth.fingerprint import code_state
from hfsynth.secrets import children, is_secret_field, masked, redact, repr_of

Description = dict[str, Any]
"""A configuration as plain values: `__class__` and the fields. Of a function of a dataset: `function` and `source`."""
CLASS_KEY = "__class__"  # in JSON, the place of a dataclass in the list of classes; in recipes its name, as "Judge/2"
_VERSION = "__version__"
_SECRET = "__secret__"  # key of a secret in the JSON: its place in the list of secrets
_SECRET_NAME = "__secret__"  # where a secret was: the name of its field, and under "text" what is left without it
_VARIABLE = "HFSYNTH_"  # how the environment variables begin that secrets are taken from


@runtime_checkable
class ReadsFiles(Protocol):
    """An llm or filter whose results depend on files."""

    def files_state(self) -> str:
        """Return what changes when a file does; "" where no file is read."""


@dataclass(frozen=True)
class Configuration:
    """A frozen dataclass that pickles as (canonical JSON of its fields, the secrets and classes in it).

    The hash that `Dataset.map` and runs take of it has the code of classes that aren't hfsynth's own, with what they
    use of their own modules, and `files_state()` of llms and filters; it doesn't depend on secrets.
    """

    version: ClassVar[int] = 1
    """Raised with every change of behaviour, so that results cached before it are made again."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Keep secrets out of the `repr` that `dataclass` would write."""
        super().__init_subclass__(**arguments)
        if "__repr__" not in cls.__dict__:
            type.__setattr__(cls, "__repr__", Configuration.__repr__)

    def __repr__(self) -> str:
        """Return the fields that aren't at their defaults, long texts cut, with `***` in the place of secrets."""
        return repr_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as configuration.

        Raises:
            TypeError: If a field holds what is not plain configuration.
        """
        described = _Described()
        text = canonical_json(described.plain(self))
        return restore, (text, _Carried(tuple(described.secrets), tuple(described.classes), described.states))

    def describe(self) -> Description:
        """Return the fields, nested ones too, as plain values for recipes and records.

        A model in a folder is described by the folder's own name, without the path to it.
        """
        described: Description = describe(self)
        return described

    def to_json(self) -> str:
        """Return the fields, nested ones too, as canonical JSON: equal configurations give equal text.

        Raises:
            TypeError: If a field holds what is not plain configuration.
        """
        return canonical_json(_Described().plain(self))


@dataclass(frozen=True)
class _Carried:
    """What a configuration's JSON refers to; the hash has the code and files' state, and no secret."""

    secrets: tuple[Any, ...] = field(repr=False)
    classes: tuple[type, ...]
    states: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Carried, (self.secrets, self.classes, ())

    def key(self) -> str:
        """Return what the hash depends on."""
        return canonical_json([self.states, [code_state(cls) for cls in self.classes]])


@pklregister(_Carried)  # type: ignore[untyped-decorator]
def _save_for_hash(pickler: Pickler, carried: _Carried) -> None:
    """Write what the hash depends on: datasets hashes with a pickler of its own, which nothing is sent with."""
    pickler.save_reduce(str, (carried.key(),), obj=carried)


def restore(text: str, carried: _Carried) -> Any:
    """Make a configuration again from what `Configuration.__reduce__` wrote.

    Raises:
        ValueError: If it was pickled by another version of the class.
    """
    return _revive(json.loads(text), carried)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text.

    >>> canonical_json({"b": [1, 2], "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class _Described:
    """A configuration as plain values, and the objects that they refer to by their places."""

    def __init__(self) -> None:
        self.classes: list[type] = []
        self.secrets: list[Any] = []
        self._states: list[str] = []

    @property
    def states(self) -> tuple[str, ...]:
        """The states of the files that llms and filters read."""
        return tuple(self._states)

    def plain(self, value: Any, name: str = "", marked: bool = False) -> Any:
        """Return plain values; a dataclass becomes a dict that names its class by its place in `classes`."""
        if (text := masked(value, name, marked)) is not None:
            self.secrets.append(value)
            return {_SECRET: len(self.secrets) - 1, "text": text}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._dataclass(value)
        if isinstance(value, Mapping):
            return {str(key): self.plain(item, inner) for key, item, inner in children(value, name)}
        if isinstance(value, (list, tuple)):
            return [self.plain(item, inner) for _, item, inner in children(value, name)]
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        raise TypeError(
            f"{value!r} of type {type(value).__name__} can't be part of a configuration; "
            "use text, numbers, lists, dicts and frozen dataclasses."
        )

    def _dataclass(self, value: Any) -> dict[str, Any]:
        if type(value) not in self.classes:
            self.classes.append(type(value))
        if isinstance(value, ReadsFiles) and (state := value.files_state()):
            self._states.append(state)
        place = self.classes.index(type(value))
        fields = {
            f.name: self.plain(getattr(value, f.name), f.name, is_secret_field(f))
            for f in dataclasses.fields(value)
            if f.init
        }
        return {CLASS_KEY: place, _VERSION: getattr(value, "version", 1), **fields}


def _revive(value: Any, carried: _Carried) -> Any:
    """The inverse of `_Described.plain`; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(_revive(item, carried) for item in value)
    if not isinstance(value, dict):
        return value
    if _SECRET in value:
        return carried.secrets[value[_SECRET]]
    items = {key: _revive(item, carried) for key, item in value.items()}
    if CLASS_KEY not in items:
        return items
    cls, version = carried.classes[items.pop(CLASS_KEY)], items.pop(_VERSION)
    if version != getattr(cls, "version", 1):
        raise ValueError(f"{cls.__name__} was pickled as version {version}; the installed one is another.")
    return cls(**items)


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


def from_plain(kind: Any, value: Any) -> Any:
    """Make a value of a type from plain values.

    Args:
        kind: A dataclass, or what its fields may be here: a tuple, a mapping from names, any of these or None, a plain
            type, or Any.
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
    if kind is Any or (not args and isinstance(value, (float, int) if kind is float else kind)):
        return value
    raise TypeError(f"{value!r} is no {getattr(kind, '__name__', kind)}")


def describe(value: Any, name: str = "", marked: bool = False, place: str = "") -> Any:
    """Return plain values; in the place of a secret, the name by which it is asked for and what is left of it."""
    text = masked(value, name, marked) if value or hasattr(value, "get_secret_value") else None
    if text is not None:
        return {_SECRET_NAME: place or name, "text": text}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: describe(getattr(value, f.name), f.name, is_secret_field(f), f.name)
            for f in dataclasses.fields(value)
            if f.init
        }
        return {CLASS_KEY: _class_name(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item, inner, place=f"{place}.{key}") for key, item, inner in children(value, name)}
    if isinstance(value, (list, tuple)):
        return [describe(item, inner, place=f"{place}.{index}") for index, item, inner in children(value, name)]
    if (name == "model" and os.path.isdir(value)) or (name == "benchmarks" and os.path.exists(value)):
        return os.path.basename(os.path.abspath(value))
    return value


def build(value: Any, known: Mapping[str, Any], secrets: Mapping[str, str]) -> Any:
    """The inverse of `describe`; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(build(item, known, secrets) for item in value)
    if not isinstance(value, dict):
        return value
    if _SECRET_NAME in value:
        return _secret(str(value[_SECRET_NAME]), secrets)
    fields = {str(key): build(item, known, secrets) for key, item in value.items() if key != CLASS_KEY}
    if CLASS_KEY not in value:
        return fields
    cls = find_known(str(value[CLASS_KEY]).partition("/")[0], known, "a class")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or _class_name(cls) != value[CLASS_KEY]:
        raise ValueError(f"the recipe was written for {value[CLASS_KEY]}; what is installed is {_class_name(cls)}.")
    if unknown := sorted(set(fields) - {field.name for field in dataclasses.fields(cls) if field.init}):
        raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}; the recipe is of another version.")
    try:
        return cls(**fields)
    except TypeError as error:  # a field is missing, or of another type
        raise ValueError(f"{cls.__name__} can't be made from the recipe: {redact(str(error))}") from error


def _secret(name: str, secrets: Mapping[str, str]) -> str:
    """Return a secret that a recipe leaves out.

    Raises:
        ValueError: If there is none.
    """
    variable = _VARIABLE + re.sub(r"\W+", "_", name).upper()
    value = secrets.get(name) or os.environ.get(variable)
    if not value:
        raise ValueError(
            f"the recipe leaves out {name!r}, which is secret: set the environment variable {variable}, or give it as "
            f"Pipeline.from_yaml(…, secrets={{{name!r}: …}})."
        )
    return value


def _class_name(cls: Any) -> str:
    version = getattr(cls, "version", 1)
    return str(getattr(cls, "__name__", cls)) if version == 1 else f"{cls.__name__}/{version}"


def find_known(name: Any, known: Mapping[str, Any], kind: str) -> Any:
    """Return the class or function of a name.

    Raises:
        ValueError: If there is none; `kind` is "a class" or "a function".
    """
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"the recipe names {name!r}, {kind} that hfsynth doesn't have; give it to from_yaml.")
    return known[name]
