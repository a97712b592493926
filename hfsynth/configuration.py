"""State that is plain configuration: the same hash in every process, and nothing heavy in a pickle.

`Dataset.map` hashes what its function pickles, and a loaded model hashes differently in each process. So techniques
and llms pickle as the canonical JSON of their fields, the same before and after a model is loaded.

The hash has more than the pickle, and less: the code of classes that aren't hfsynth's own and the state of a model's
files are part of it, since they change the rows; secrets travel to worker processes and are no part of it.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from datasets.utils._dill import Pickler, pklregister

from hfsynth.code import code_state
from hfsynth.secrets import children, is_secret_field, masked, repr_of

_CLASS = "__class__"  # key of a nested dataclass in the JSON: its place in the list of classes
_VERSION = "__version__"
_SECRET = "__secret__"  # key of a secret in the JSON: its place in the list of secrets


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
        return {_CLASS: place, _VERSION: getattr(value, "version", 1), **fields}


def _revive(value: Any, carried: _Carried) -> Any:
    """The inverse of `_Described.plain`; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(_revive(item, carried) for item in value)
    if not isinstance(value, dict):
        return value
    if _SECRET in value:
        return carried.secrets[value[_SECRET]]
    items = {key: _revive(item, carried) for key, item in value.items()}
    if _CLASS not in items:
        return items
    cls, version = carried.classes[items.pop(_CLASS)], items.pop(_VERSION)
    if version != getattr(cls, "version", 1):
        raise ValueError(f"{cls.__name__} was pickled as version {version}; the installed one is another.")
    return cls(**items)
