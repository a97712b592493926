"""State that is plain configuration: the same hash in every process, and nothing heavy in a pickle.

`Dataset.map` hashes what its function pickles, and a loaded model hashes differently in each process. So techniques
and llms pickle as the canonical JSON of their fields, the same before and after a model is loaded.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

_CLASS = "__class__"  # key of a nested dataclass in the JSON: its place in the list of classes
_VERSION = "__version__"


@dataclass(frozen=True)
class Configuration:
    """A frozen dataclass that pickles as (canonical JSON of its fields, the classes in it).

    The classes travel as objects, so that one defined in a script or notebook is hashed by its code.
    """

    version: ClassVar[int] = 1
    """Raised with every change of behaviour, so that results cached before it are made again."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as configuration.

        Raises:
            TypeError: If a field holds what is not plain configuration.
        """
        classes: list[type] = []
        text = canonical_json(_describe(self, classes))
        return restore, (text, *classes)

    def to_json(self) -> str:
        """Return the fields, nested ones too, as canonical JSON: equal configurations give equal text.

        Raises:
            TypeError: If a field holds what is not plain configuration.
        """
        return canonical_json(_describe(self, []))


def restore(text: str, *classes: type) -> Any:
    """Make a configuration again from what `Configuration.__reduce__` wrote.

    Raises:
        ValueError: If it was pickled by another version of the class.
    """
    return _revive(json.loads(text), classes)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text.

    >>> canonical_json({"b": [1, 2], "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _describe(value: Any, classes: list[type]) -> Any:
    """Plain JSON of a value; a dataclass becomes a dict that names its class by its place in `classes`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value) not in classes:
            classes.append(type(value))
        fields = {f.name: _describe(getattr(value, f.name), classes) for f in dataclasses.fields(value) if f.init}
        return {_CLASS: classes.index(type(value)), _VERSION: getattr(value, "version", 1), **fields}
    if isinstance(value, Mapping):
        return {str(key): _describe(item, classes) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item, classes) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(
        f"{value!r} of type {type(value).__name__} can't be part of a configuration; "
        "use text, numbers, lists, dicts and frozen dataclasses."
    )


def _revive(value: Any, classes: tuple[type, ...]) -> Any:
    """The inverse of `_describe`; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(_revive(item, classes) for item in value)
    if not isinstance(value, dict):
        return value
    items = {key: _revive(item, classes) for key, item in value.items()}
    if _CLASS not in items:
        return items
    cls, version = classes[items.pop(_CLASS)], items.pop(_VERSION)
    if version != getattr(cls, "version", 1):
        raise ValueError(f"{cls.__name__} was pickled as version {version}; the installed one is another.")
    return cls(**items)
