"""`Configuration`, the base class of techniques, filters and llms: its codec, its hash and its field checks.

One codec writes a configuration as plain values and builds it again. Recipes (`recipe.py` writes them as YAML) and
records have the name of each class and secret. A pickle has numbers in their place, and lists of the classes and
secrets that they stand for.
"""

import dataclasses
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

from hfsynth.fingerprint import code_state
from hfsynth.secrets import children, is_secret_field, masked, redact, repr_of

Description = dict[str, Any]
"""Plain values of a configuration, `CLASS_KEY` and the fields, or of a dataset function, `function` and `source`."""
CLASS_KEY = "__class__"  # the reference to a class, with "/2" appended where the class is at version 2
UNHASHED: Mapping[str, Any] = {"hashed": False}
"""Metadata of a field that rows don't depend on, such as an address: another value finds the same cached rows."""
SECRET_KEY = "__secret__"  # the reference to a secret; "text" beside it has the value with *** for its secret part


@runtime_checkable
class ReadsFiles(Protocol):
    """An llm or filter whose results depend on files."""

    def files_state(self) -> str:
        """Return a text that changes when a file does; "" if no file is read."""


@dataclass(frozen=True)
class Configuration:
    """A frozen dataclass that pickles as canonical JSON of its fields, with the secrets and classes beside it.

    The hash that `Dataset.map` and runs take of it covers the fields, the code of classes that are not hfsynth's own
    (with what they use of their own modules), and the `files_state()` of llms and filters. Secrets and fields that are
    marked `UNHASHED` don't change it.
    """

    version: ClassVar[int] = 1
    """Increased with every change of behaviour, so that results cached before the change are computed anew."""

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
            TypeError: If a field holds anything but plain configuration.
        """
        encoder = _PickleEncoder()
        text = canonical_json(encoder.encode(self))
        return restore, (text, _References(tuple(encoder.secrets), tuple(encoder.classes), tuple(encoder.states)))

    def to_json(self) -> str:
        """Return the fields, nested ones too, as canonical JSON: equal configurations give equal text.

        Raises:
            TypeError: If a field holds anything but plain configuration.
        """
        return canonical_json(_PickleEncoder().encode(self))

    def describe(self) -> Description:
        """Return the fields, nested ones too, as plain values for recipes and records; `build` reads them.

        A secret is left out: its field's name takes its place. A model in a folder is described by the folder's own
        name, without the path to it.

        Raises:
            TypeError: If a field holds anything but plain configuration.
        """
        description: Description = _RecipeEncoder().encode(self)
        return description


class _Encoder(ABC):
    """Writes a configuration as plain values."""

    def encode(self, value: Any, name: str = "", marked: bool = False, place: str = "") -> Any:
        """Return the plain form of a value.

        Args:
            value: The value of a field, or a part of it.
            name: The name of the field, or the key of the mapping.
            marked: Whether the field is marked as secret.
            place: The path to the value from its dataclass, such as "headers.Authorization".
        """
        if (text := masked(value, name, marked)) is not None:
            return self.secret(value, text, place or name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: self.encode_field(value, f) for f in dataclasses.fields(value) if f.init}
            version = getattr(value, "version", 1)
            reference = self.class_reference(value)
            return {CLASS_KEY: reference if version == 1 else f"{reference}/{version}", **fields}
        if isinstance(value, Mapping):
            return {str(k): self.encode(item, inner, place=f"{place}.{k}") for k, item, inner in children(value, name)}
        if isinstance(value, (list, tuple)):
            return [self.encode(item, inner, place=f"{place}.{k}") for k, item, inner in children(value, name)]
        if value is None or isinstance(value, (str, int, float, bool)):
            return self.leaf(value, name)
        raise TypeError(
            f"{value!r} of type {type(value).__name__} can't be part of a configuration; "
            "use text, numbers, lists, dicts and frozen dataclasses."
        )

    def encode_field(self, owner: Any, field: "dataclasses.Field[Any]") -> Any:
        """Return the plain form of a dataclass's field."""
        return self.encode(getattr(owner, field.name), field.name, is_secret_field(field), field.name)

    @abstractmethod
    def class_reference(self, value: Any) -> str:
        """Return the reference to a dataclass's class."""

    @abstractmethod
    def secret(self, value: Any, text: str, place: str) -> Any:
        """Return the reference to a secret, with the part of the text that is not secret."""

    def leaf(self, value: Any, name: str) -> Any:  # noqa: ARG002 - for recipes
        """Return the plain form of a text, number or None."""
        return value


class _PickleEncoder(_Encoder):
    """Refers to classes, secrets and unhashed values by their places in lists, and collects the states of files."""

    def __init__(self) -> None:
        self.classes: list[type] = []
        self.secrets: list[Any] = []
        self.states: list[str] = []

    def encode_field(self, owner: Any, field: "dataclasses.Field[Any]") -> Any:
        if field.metadata.get("hashed", True):
            return super().encode_field(owner, field)
        self.secrets.append(getattr(owner, field.name))  # beside the JSON, which the hash covers
        return {SECRET_KEY: len(self.secrets) - 1}

    def class_reference(self, value: Any) -> str:
        if type(value) not in self.classes:
            self.classes.append(type(value))
        if isinstance(value, ReadsFiles) and (state := value.files_state()):
            self.states.append(state)
        return str(self.classes.index(type(value)))

    def secret(self, value: Any, text: str, place: str) -> Any:  # noqa: ARG002
        self.secrets.append(value)
        return {SECRET_KEY: len(self.secrets) - 1, "text": text}


class _RecipeEncoder(_Encoder):
    """Refers to classes and secrets by their names."""

    def class_reference(self, value: Any) -> str:
        return type(value).__name__

    def secret(self, value: Any, text: str, place: str) -> Any:
        is_empty = not value and not hasattr(value, "get_secret_value")
        return value if is_empty else {SECRET_KEY: place, "text": text}

    def leaf(self, value: Any, name: str) -> Any:
        exists = {"model": os.path.isdir, "benchmarks": os.path.exists, "personas": os.path.exists}.get(name)
        if exists is not None and isinstance(value, str) and exists(value):
            return os.path.basename(os.path.abspath(value))
        return value


def build(value: Any, find_class: Callable[[str], Any], find_secret: Callable[[Any], Any]) -> Any:
    """Build a configuration from its plain form; lists become tuples.

    Args:
        value: The plain form.
        find_class: Reference to a class → the class.
        find_secret: Reference to a secret → the secret.

    Raises:
        ValueError: If a class is of another version, lacks a field, or refuses a value.
    """
    if isinstance(value, list):
        return tuple(build(item, find_class, find_secret) for item in value)
    if not isinstance(value, dict):
        return value
    if SECRET_KEY in value:
        return find_secret(value[SECRET_KEY])
    fields = {str(key): build(item, find_class, find_secret) for key, item in value.items() if key != CLASS_KEY}
    if CLASS_KEY not in value:
        return fields
    name, _, version = str(value[CLASS_KEY]).partition("/")
    cls = find_class(name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"{cls!r} is not a class of configurations; the recipe needs one under {CLASS_KEY!r}.")
    if str(getattr(cls, "version", 1)) != (version or "1"):
        installed = getattr(cls, "version", 1)
        advice = "" if version else f", or write {cls.__name__}/{installed} in a recipe of your own"
        raise ValueError(
            f"{cls.__name__} was written at version {version or 1}, and is installed at version {installed}; "
            f"install the hfsynth that wrote it{advice}."
        )
    if unknown := sorted(set(fields) - {f.name for f in dataclasses.fields(cls) if f.init}):
        raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}; the recipe is of another version of hfsynth.")
    try:
        return cls(**fields)
    except TypeError as error:  # a field is missing, or of another type
        raise ValueError(f"{cls.__name__} can't be built from its fields: {redact(str(error))}") from error


@dataclass(frozen=True)
class _References:
    """The objects that a pickled configuration's JSON refers to by their places."""

    secrets: tuple[Any, ...] = field(repr=False)
    classes: tuple[type, ...]
    states: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _References, (self.secrets, self.classes, ())

    def key(self) -> str:
        """Return the text that stands for these objects in a hash: code and states of files, no secrets."""
        return canonical_json([self.states, [code_state(cls) for cls in self.classes]])


def restore(text: str, references: _References) -> Any:
    """Build a configuration from what `Configuration.__reduce__` wrote.

    Raises:
        ValueError: If it was pickled by another version of the class.
    """
    return build(json.loads(text), lambda place: references.classes[int(place)], references.secrets.__getitem__)


def _hash_by_key(cls: type) -> None:
    """Have datasets hash objects of a class by their `key()`.

    `datasets` hashes with a pickler of its own. Classes are registered with it in a private module of `datasets`.
    """
    from datasets.utils import _dill

    def save(pickler: Any, value: Any) -> None:
        pickler.save_reduce(str, (value.key(),), obj=value)

    _dill.pklregister(cls)(save)


_hash_by_key(_References)


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text.

    >>> canonical_json({"b": [1, 2], "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_plain(kind: Any, value: Any) -> Any:
    """Build a value of an annotated type from its plain form, which `dataclasses.asdict` and JSON return.

    Args:
        kind: A dataclass, or the type of a field: a tuple, a mapping from names, any of these or None, a plain
            type, or Any.
        value: The plain form.

    Raises:
        TypeError: If it is not the plain form of such a value.

    >>> from_plain(tuple[float, ...], [1, 2])
    (1, 2)
    """
    args = get_args(kind)
    if NoneType in args:
        return None if value is None else from_plain(next(arg for arg in args if arg is not NoneType), value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        if unknown := sorted(set(value) - set(hints)):
            raise TypeError(f"{kind.__name__} has no {unknown[0]!r}")
        return kind(**{name: from_plain(hints[name], part) for name, part in value.items()})
    if get_origin(kind) is tuple and isinstance(value, list):
        kinds = [args[0]] * len(value) if args[-1] is ... else args
        return tuple(from_plain(part, one) for part, one in zip(kinds, value, strict=True))
    if get_origin(kind) is Mapping and isinstance(value, dict):
        return {name: from_plain(args[1], part) for name, part in value.items()}
    if kind is Any or (not args and isinstance(value, (float, int) if kind is float else kind)):
        return value
    raise TypeError(f"{value!r} is no {getattr(kind, '__name__', kind)}")


_REFUSED: Any = object()
_Rule = tuple[Callable[[Any], Any], str]
"""A function that converts a value to a type or returns `_REFUSED`, and the name of the type in errors."""


def settle_fields(configuration: Any) -> None:
    """Check the fields of a frozen dataclass by their annotations, and bring each value to its field's type.

    A list, or one text where several may be given, becomes a tuple; a path becomes a text, and a number of NumPy one
    of Python. Annotations other than text, numbers, bool, tuples of texts, mappings and None are left to the class.

    Raises:
        ValueError: If a value has another type; the error names the field. A bool or NaN is not a number.
    """
    owner: Any = type(configuration)
    for name, hint in _annotations(owner).items():
        value = getattr(configuration, name)
        settled = _convert(value, hint)
        if settled is _REFUSED:
            raise ValueError(f"{owner.__name__}.{name} must be {_expectation(hint)}, got {value!r:.200}.")
        if settled is not value:
            object.__setattr__(configuration, name, settled)


def as_texts(name: str, value: Any) -> tuple[str, ...]:
    """Return the texts of a field or argument that takes several: one text is a tuple of one.

    Raises:
        ValueError: If it is neither a text nor a series of texts; the error has `name`.

    >>> as_texts("SamplingParams.stop", "END")
    ('END',)
    """
    texts: tuple[str, ...] = _texts(value)
    if texts is _REFUSED:
        raise ValueError(f"{name} must be {_RULES[tuple[str, ...]][1]}, got {value!r:.200}.")
    return texts


@cache
def _annotations(owner: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields; those whose annotation can't be resolved are left out."""
    try:
        hints = get_type_hints(owner)
    except (NameError, TypeError):  # an annotation as a string, of a name that only a type checker sees
        hints = {}
    found = {f.name: hints.get(f.name, f.type) for f in dataclasses.fields(owner) if f.init}
    return {name: hint for name, hint in found.items() if not isinstance(hint, str)}


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _convert(value: Any, hint: Any) -> Any:
    """Convert a value to its annotation, if that has a rule; return `_REFUSED` if the value doesn't fit."""
    options = _options(hint)
    if value is None and NoneType in options:
        return None
    rules = [_rule(option) for option in options if option is not NoneType]
    if None in rules:
        return value
    return next((found for rule in rules if rule and (found := rule[0](value)) is not _REFUSED), _REFUSED)


def _expectation(hint: Any) -> str:
    rules = [(None, "None") if option is NoneType else _rule(option) for option in _options(hint)]
    return " or ".join(rule[1] for rule in rules if rule)


def _rule(kind: Any) -> "_Rule | None":
    """Return an annotation's rule: that of the table, or for a dataclass a check that a value is an instance."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return lambda value: value if isinstance(value, kind) else _REFUSED, f"{kind.__name__}(...)"
    return _RULES.get(kind)


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, (str, os.PathLike)) else _REFUSED


def _texts(value: Any) -> Any:
    return _tuple(value, _text)


def _tuple(value: Any, settle: Callable[[Any], Any]) -> Any:
    """Return a series, or a single value, as a tuple; a set is sorted, so that its order is always the same."""
    if isinstance(value, (bytes, bytearray, Mapping, NoneType)):
        return _REFUSED
    if isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable):
        value = (value,)
    settled = tuple(settle(one) for one in (sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value))
    return _REFUSED if any(one is _REFUSED for one in settled) else settled


def _integer(value: Any) -> Any:
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


_RULES: dict[Any, _Rule] = {
    str: (_text, "text"),
    bool: (lambda value: value if isinstance(value, bool) else _REFUSED, "True or False"),
    int: (_integer, "a whole number"),
    float: (_number, "a number"),
    tuple[str, ...]: (_texts, "texts, such as ('one', 'another')"),
    tuple[Any, ...]: (lambda value: _tuple(value, lambda one: one), "values, such as ('one', 2)"),
    Mapping[str, str]: (_texts_by_name, "a dict of texts, such as {'name': 'text'}"),
    Mapping[str, Any]: (_mapping, "a dict with names for keys"),
}
"""Annotation → its rule."""
