"""What the code of a user's class or function is, as text for a hash: an edit changes it, a comment doesn't.

Importable classes and functions are pickled by their names, so a cache would serve what an older version of them
made. The text has the bytecode of functions and methods, and of what they use of their own modules: other functions
and classes, base classes, closures, and the values of globals. hfsynth, the standard library and installed packages
are named and not read.
"""

import dataclasses
import datetime
import decimal
import dis
import enum
import fractions
import functools
import hashlib
import inspect
import json
import logging
import pathlib
import re
import sys
import sysconfig
import types
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from typing import Any

from hfsynth.secrets import masked

logger = logging.getLogger(__name__)
_MOST = 2_000  # objects that are looked at: code beyond that is named, not read
_DEEPEST = 40
_VALUES = (decimal.Decimal, fractions.Fraction, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo)
_PLAIN = (int, float, complex, bytes, range, slice, type(None), type(...), pathlib.PurePath, uuid.UUID, *_VALUES)
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})
_GENERATED = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__", "__qualname__"}
_GENERATED |= {"__static_attributes__", "__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__"}
_GENERATED |= {"__dataclass_fields__", "__dataclass_params__", "__match_args__", "__annotate__", "__annotate_func__"}
_GENERATED |= {"__annotations_cache__", "__conditional_annotations__", "__subclasshook__", "__classcell__"}
_STATELESS = {"logging", "_thread", "threading", "typing", "builtins", "types", "_abc", "_contextvars", "__future__"}
_WARNED: set[str] = set()


def code_state(subject: Any) -> str:
    """Return text that differs where the code of a class or function differs, the same in every process.

    Where it uses an object whose state can't be read, such as an open client, that object counts by its class alone,
    and a warning says so, once.

    Args:
        subject: A class, function or other callable.

    >>> from hfsynth import EchoLLM
    >>> code_state(EchoLLM)
    '"hfsynth.llms.echo.EchoLLM"'
    """
    return json.dumps(_Reader(subject).state(subject), sort_keys=True, ensure_ascii=False)


class _Reader:
    """Reads code from one class or function on."""

    def __init__(self, subject: Any) -> None:
        self._label = _name(subject)
        self._home = str(getattr(subject, "__module__", "")).partition(".")[0]
        self._places: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self._active: set[int] = set()
        self._depth = 0
        self._readers: list[tuple[Any, Callable[[Any, str], Any]]] = [
            (types.CodeType, lambda code, _: self._code(code)),
            (types.ModuleType, lambda module, _: module.__name__),
            (enum.Enum, lambda member, _: [_name(type(member)), member.name]),
            (Mapping, lambda items, _: self._mapping(items)),
            ((list, tuple), lambda items, name: [self.state(item, name) for item in items]),
            ((set, frozenset), lambda items, name: sorted(json.dumps(self.state(item, name)) for item in items)),
            (re.Pattern, lambda pattern, _: [str(pattern.pattern), pattern.flags]),
            (functools.partial, lambda made, _: [self.state(part) for part in (made.func, made.args, made.keywords)]),
            (functools.cached_property, lambda made, _: self.state(made.func)),
            (property, lambda made, _: [self.state(part) for part in (made.fget, made.fset, made.fdel)]),
            ((staticmethod, classmethod), lambda made, _: self.state(made.__func__)),
            (types.MethodType, lambda method, _: [self.state(method.__func__), self.state(method.__self__)]),
            (types.SimpleNamespace, lambda names, _: self._mapping(vars(names))),
        ]

    def state(self, value: Any, name: str = "") -> Any:
        """Return an object as plain values."""
        if isinstance(value, (bool, *_PLAIN)) and not isinstance(value, enum.Enum):
            return repr(value)
        if isinstance(value, str) and not isinstance(value, enum.Enum):
            return masked(value, name) or str(value)
        if id(value) in self._active or self._depth >= _DEEPEST:
            return f"... {_name(value)}"
        self._active.add(id(value))
        self._depth += 1
        try:
            read = next((read for kinds, read in self._readers if isinstance(value, kinds)), None)
            return read(value, name) if read else self._object(value, name)
        finally:
            self._depth -= 1
            self._active.discard(id(value))

    def _object(self, value: Any, name: str) -> Any:
        """Return the state of a function, class or instance; where it comes up twice, of the first alone."""
        if id(value) in self._places:
            return f"#{self._places[id(value)]}"
        if len(self._places) >= _MOST:
            return _name(value)
        self._places[id(value)] = len(self._places)
        self._kept.append(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(getattr(value, "__wrapped__", None), types.FunctionType):  # by functools.cache
            return [_name(type(value)), self.state(value.__wrapped__)]
        if isinstance(value, type):
            return self._class(value)
        return self._instance(value, name)

    def _mapping(self, value: Mapping[Any, Any]) -> list[Any]:
        pairs = ([json.dumps(self.state(key)), self.state(item, str(key))] for key, item in value.items())
        return sorted(pairs, key=lambda pair: str(pair[0]))

    def _function(self, function: types.FunctionType) -> Any:
        if not self._is_own(function):
            return _name(function)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        return [
            self.state(function.__code__),
            self.state(function.__defaults__),
            self.state(function.__kwdefaults__),
            [[name, self._cell(name, cell)] for name, cell in cells.items()],
            [
                [name, self._global(function, name)]
                for name in sorted(_names(function))
                if name in function.__globals__
            ],
            self.state(getattr(function, "__wrapped__", None)),
        ]

    def _cell(self, name: str, cell: Any) -> Any:
        try:
            content = cell.cell_contents
        except ValueError:  # not filled yet
            return None
        return _name(content) if name == "__class__" else self.state(content, name)

    def _global(self, function: types.FunctionType, name: str) -> Any:
        """Return the state of what a function finds under a name among its module's globals, if it does."""
        if name in _written_names(function.__code__):
            self._warn(name, "a function changes it")
            return None
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            return self._module(value, _names(function))
        return self.state(value, name)

    def _module(self, module: types.ModuleType, attributes: Collection[str]) -> Any:
        """Return the state of what is used of a module of the user's."""
        if not self._is_own(module):
            return module.__name__
        found = {name: vars(module)[name] for name in sorted(attributes) if name in vars(module)}
        modules = {name: value for name, value in found.items() if isinstance(value, types.ModuleType)}
        return [
            [name, value.__name__ if name in modules else self.state(value, name)] for name, value in found.items()
        ]

    def _class(self, cls: type) -> Any:
        if not self._is_own(cls):
            return _name(cls)
        members = {name: value for name, value in vars(cls).items() if name not in _GENERATED}
        own = {name: value for name, value in members.items() if not _is_generated(name, value)}
        declared = getattr(cls, "__dataclass_fields__", {})
        defaults = [[name, self._default(field)] for name, field in declared.items()]
        bases = [self.state(base) for base in cls.__bases__ if base is not object]
        return [_name(cls), bases, defaults, [[name, self.state(own[name], name)] for name in sorted(own)]]

    def _default(self, field: Any) -> Any:
        factory = field.default_factory
        return self.state(factory) if callable(factory) else None  # a default's value is in the configuration

    def _code(self, code: types.CodeType) -> list[Any]:
        return [
            code.co_code.hex(),
            list(code.co_names),
            list(code.co_varnames),
            [self.state(constant) for constant in code.co_consts],
        ]

    def _instance(self, value: Any, name: str) -> Any:
        """Return the state of an object: its fields where its class says what they are, else its class."""
        kind = type(value)
        if dataclasses.is_dataclass(value):
            return [self.state(kind), self._mapping({f.name: getattr(value, f.name) for f in fields(value)})]
        if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tobytes"):
            return [str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        if self._is_own(kind) and hasattr(value, "__dict__"):
            return [self.state(kind), self._mapping(vars(value))]
        if hasattr(value, "__qualname__"):  # built in
            return _name(value)
        if name and kind.__module__.partition(".")[0] not in _STATELESS:
            self._warn(name, f"a {kind.__module__}.{kind.__qualname__}")
        return _name(kind)

    def _warn(self, name: str, reason: str) -> None:
        text = f"{self._label} uses {name!r} ({reason}), whose state is no part of the key of cached rows"
        if text not in _WARNED:
            _WARNED.add(text)
            logger.warning("%s: raise `version` of the class, or the step's `name`, where it changes the rows", text)

    def _is_own(self, value: Any) -> bool:
        """Return whether an object's code is the user's: of the same package, or of none that is installed."""
        module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        root = str(module or "").partition(".")[0]
        if root in ("hfsynth", "datasets"):
            return False
        if root in (self._home, "__main__", ""):
            return True
        file = getattr(sys.modules.get(str(module)), "__file__", None)
        if not file:
            return root not in sys.stdlib_module_names
        return not (file.startswith(_INSTALLED) or "site-packages" in file or "dist-packages" in file)


def _name(value: Any) -> str:
    """Return the module and name of a class or function; of another object, of its class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}"


def _is_generated(name: str, value: Any) -> bool:
    """Return whether a member of a class was written by `dataclass` or by hfsynth, and not by the user."""
    if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
        return True
    code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
    return name.startswith("__") and (
        (code is not None and code.co_filename == "<string>" and name not in ("__call__", "__post_init__"))
        or str(getattr(value, "__module__", "")).startswith("hfsynth.")
    )


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give a piece of code and those inside it: of comprehensions, inner functions and classes."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _names(function: types.FunctionType) -> set[str]:
    """Return the names of globals and attributes that a function uses."""
    return {name for code in _codes(function.__code__) for name in code.co_names}


@functools.lru_cache(maxsize=10_000)
def _written_names(code: types.CodeType) -> frozenset[str]:
    """Return the globals that a function assigns."""
    found = (step for one in _codes(code) for step in dis.get_instructions(one))
    return frozenset(str(step.argval) for step in found if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"))
