"""Hash the contents of files; describe the code of a user's class or function as text to be hashed.

Edits of code change its text, edits of comments don't. Pickle stores only the name of an importable class or function,
so without this text a cache would return the results of older code. The text has the bytecode of functions and
methods, and of everything that they use of the user's modules: other functions and classes, base classes, closures,
and the values of globals. Of hfsynth, the standard library and installed packages it has only names.
"""

import dataclasses
import datetime
import decimal
import dis
import enum
import fractions
import functools
import hashlib
import importlib
import importlib.util
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
from pathlib import Path
from typing import Any

from hfsynth.secrets import masked

logger = logging.getLogger(__name__)
_BLOCK, _BLOCKS = 64 * 1024, 256  # bytes of a block; number of blocks, evenly spaced from the first to the last
_READ = 1 << 20  # bytes that are read at once
_HASHES: dict[tuple[str, int, int, int, int, bool], str] = {}  # path, size, times, inode, only blocks → hash
_MAX_OBJECTS = 2_000  # maximum number of objects that are read; of others only the names count
_MAX_DEPTH = 40
_VALUES = (decimal.Decimal, fractions.Fraction, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo)
_PLAIN = (
    int,
    float,
    complex,
    bytes,
    bytearray,
    range,
    slice,
    type(None),
    type(...),
    pathlib.PurePath,
    uuid.UUID,
    *_VALUES,
)
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})
_GENERATED = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__", "__qualname__"}
_GENERATED |= {"__static_attributes__", "__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__"}
_GENERATED |= {"__dataclass_fields__", "__dataclass_params__", "__match_args__", "__annotate__", "__annotate_func__"}
_GENERATED |= {"__annotations_cache__", "__conditional_annotations__", "__subclasshook__", "__classcell__"}
_STATELESS = {"logging", "_thread", "threading", "typing", "builtins", "types", "_abc", "_contextvars", "__future__"}
_WARNED: set[str] = set()
_MUTATING = {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "put"}
_MUTATING |= {
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "difference_update",
    "intersection_update",
    "subtract",
}
_CONSTRUCTORS = {"__init__", "__new__", "__post_init__", "__setstate__", "__init_subclass__"}


def code_state(subject: Any) -> str:
    """Return a text that is the same in every process for equal code of a class or function, else another one.

    Of an object whose state can't be read, such as an open client, only the class counts; a warning names the object
    once.

    Args:
        subject: A class, function or other callable.

    >>> from hfsynth import EchoLLM
    >>> code_state(EchoLLM)
    '"hfsynth.llms.fakes.EchoLLM"'
    """
    return json.dumps(_Reader(subject).state(subject), sort_keys=True, ensure_ascii=False)


class _Reader:
    """Reads the code that a class or function reaches."""

    def __init__(self, subject: Any) -> None:
        self._label = _qualified_name(subject)
        self._home = str(getattr(subject, "__module__", "")).partition(".")[0]
        self._places: dict[int, int] = {}
        self._kept: list[Any] = []  # keeps objects alive, so that their ids stay unique
        self._active: set[int] = set()
        self._changed: dict[int, set[str]] = {}  # id of a module's namespace → globals that its functions change
        self._depth = 0
        self._readers: list[tuple[Any, Callable[[Any, str], Any]]] = [
            (types.CodeType, lambda code, _: self._code(code)),
            (types.ModuleType, lambda module, _: module.__name__),
            (enum.Enum, lambda member, _: self._member(member)),
            (Mapping, lambda items, _: self._mapping(items)),
            ((list, tuple), lambda items, name: [self.state(item, name) for item in items]),
            ((set, frozenset), lambda items, name: sorted(json.dumps(self.state(item, name)) for item in items)),
            (re.Pattern, lambda pattern, _: [str(pattern.pattern), pattern.flags]),
            (
                functools.partial,
                lambda value, _: [self.state(part) for part in (value.func, value.args, value.keywords)],
            ),
            (functools.cached_property, lambda value, _: self.state(value.func)),
            (property, lambda value, _: [self.state(part) for part in (value.fget, value.fset, value.fdel)]),
            ((staticmethod, classmethod), lambda value, _: self.state(value.__func__)),
            (types.MethodType, lambda method, _: [self.state(method.__func__), self.state(method.__self__)]),
            (types.SimpleNamespace, lambda names, _: self._mapping(vars(names))),
        ]

    def state(self, value: Any, name: str = "") -> Any:
        """Return an object's state as values that JSON can store."""
        if isinstance(value, (bool, *_PLAIN)) and not isinstance(value, enum.Enum):
            return repr(value)
        if isinstance(value, str) and not isinstance(value, enum.Enum):
            return masked(value, name) or str(value)
        if id(value) in self._active or self._depth >= _MAX_DEPTH:
            return f"... {_qualified_name(value)}"
        self._active.add(id(value))
        self._depth += 1
        try:
            read = next((read for kinds, read in self._readers if isinstance(value, kinds)), None)
            return read(value, name) if read else self._object(value, name)
        finally:
            self._depth -= 1
            self._active.discard(id(value))

    def _object(self, value: Any, name: str) -> Any:
        """Return the state of a function, class or instance at its first occurrence; later ones refer to that."""
        if id(value) in self._places:
            return f"#{self._places[id(value)]}"
        if len(self._places) >= _MAX_OBJECTS:
            return _qualified_name(value)
        self._places[id(value)] = len(self._places)
        self._kept.append(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(getattr(value, "__wrapped__", None), types.FunctionType):  # decorated with functools.cache
            return [_qualified_name(type(value)), self.state(value.__wrapped__)]
        if isinstance(value, type):
            return self._class(value)
        return self._instance(value, name)

    def _mapping(self, value: Mapping[Any, Any]) -> list[Any]:
        pairs = ([json.dumps(self.state(key)), self.state(item, str(key))] for key, item in value.items())
        return sorted(pairs, key=lambda pair: str(pair[0]))

    def _function(self, function: types.FunctionType) -> Any:
        if not self._is_own(function):
            return _qualified_name(function)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        if "globals" in _used_names(function) and "globals" not in function.__globals__:
            self._warn("globals()", "names that are looked up as it runs")
        return [
            self.state(function.__code__),
            self.state(function.__defaults__),
            self.state(function.__kwdefaults__),
            [[name, self._cell(name, cell)] for name, cell in cells.items()],
            [
                [name, self._global(function, name)]
                for name in sorted(_used_names(function))
                if name in function.__globals__
            ],
            self.state(getattr(function, "__wrapped__", None)),
            *self._imported(function),
            *self._registered(function),
        ]

    def _imported(self, function: types.FunctionType) -> Iterator[Any]:
        """Yield the state of everything a function uses of the modules that it imports in its body."""
        for name in sorted(_imported_names(function.__code__, str(function.__globals__.get("__package__") or ""))):
            module = self._own_module(name)
            if module is not None:
                yield self._module(module, _used_names(function))

    def _own_module(self, name: str) -> types.ModuleType | None:
        """Import and return a user's module by its name; None for any other module."""
        if name.partition(".")[0] in sys.stdlib_module_names or name.partition(".")[0] == "hfsynth":
            return None
        try:
            spec = importlib.util.find_spec(name)
            origin = str(spec.origin or "") if spec else ""
            if not origin or origin.startswith(_INSTALLED) or "site-packages" in origin or "dist-packages" in origin:
                return None
            return importlib.import_module(name)
        except (ImportError, ValueError):  # the import fails, or the module has no spec, like __main__
            return None

    def _registered(self, function: types.FunctionType) -> Iterator[Any]:
        """Yield the state of the implementations of a `functools.singledispatch` function."""
        registry = getattr(function, "registry", None)
        if isinstance(registry, Mapping):
            pairs = ((_qualified_name(kind), implementation) for kind, implementation in registry.items())
            yield [
                [kind, self.state(implementation)] for kind, implementation in sorted(pairs, key=lambda pair: pair[0])
            ]

    def _member(self, member: enum.Enum) -> Any:
        """Return the state of an enumeration member: its name, value and methods."""
        methods = {name: value for name, value in vars(type(member)).items() if isinstance(value, types.FunctionType)}
        own = {name: value for name, value in methods.items() if not name.startswith("__")}
        return [_qualified_name(type(member)), member.name, self.state(member.value), self._mapping(own)]

    def _cell(self, name: str, cell: Any) -> Any:
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            return None
        return _qualified_name(content) if name == "__class__" else self.state(content, name)

    def _global(self, function: types.FunctionType, name: str) -> Any:
        """Return the state of a global that a function reads; None, with a warning, if a function changes it."""
        value = function.__globals__[name]
        if name in self._changed_globals(function):
            self._warn(name, "a function changes it")
            return None
        if isinstance(value, types.ModuleType):
            return self._module(value, _used_names(function))
        return self.state(value, name)

    def _changed_globals(self, function: types.FunctionType) -> set[str]:
        """Return the globals that functions of this function's module change, by assignment or in place."""
        module = function.__globals__
        if id(module) not in self._changed:
            own = [
                value
                for value in list(module.values())
                if getattr(value, "__module__", None) == module.get("__name__")
            ]
            members = (vars(value).values() for value in own if isinstance(value, type))
            codes = [_code_of(value) for value in (*own, *(member for group in members for member in group))]
            self._changed[id(module)] = {name for code in codes if code for name in _changed_globals(code)}
        return self._changed[id(module)] | _changed_globals(function.__code__)

    def _module(self, module: types.ModuleType, attributes: Collection[str]) -> Any:
        """Return the state of the used attributes of a user's module and of its submodules."""
        if not self._is_own(module) or id(module) in self._active:
            return module.__name__
        self._active.add(id(module))
        found = {name: vars(module)[name] for name in sorted(attributes) if name in vars(module)}
        read = [
            [name, self._module(value, attributes) if isinstance(value, types.ModuleType) else self.state(value, name)]
            for name, value in found.items()
        ]
        self._active.discard(id(module))
        return read

    def _class(self, cls: type) -> Any:
        if not self._is_own(cls):
            return _qualified_name(cls)
        members = {name: value for name, value in vars(cls).items() if name not in _GENERATED}
        own = {name: value for name, value in members.items() if not _is_generated(name, value)}
        declared = getattr(cls, "__dataclass_fields__", {})
        defaults = [[name, self._default(field)] for name, field in declared.items()]
        bases = [self.state(base) for base in cls.__bases__ if base is not object]
        return [_qualified_name(cls), bases, defaults, [[name, self.state(own[name], name)] for name in sorted(own)]]

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
        """Return the state of an object: its fields if they can be read, else the name of its class."""
        kind = type(value)
        if dataclasses.is_dataclass(value):
            return [self.state(kind), self._mapping({f.name: getattr(value, f.name) for f in fields(value)})]
        if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tobytes"):
            return [str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        if self._is_own(kind) and hasattr(value, "__dict__"):
            changed = {attribute for cls in kind.__mro__ for attribute in _changed_attributes(cls)} & set(vars(value))
            if changed:
                self._warn(name or kind.__qualname__, f"its methods change {', '.join(sorted(changed))}")
            return [self.state(kind), self._mapping({k: v for k, v in vars(value).items() if k not in changed})]
        if hasattr(value, "__qualname__"):  # a built-in function
            return _qualified_name(value)
        if name and kind.__module__.partition(".")[0] not in _STATELESS:
            self._warn(name, f"a {kind.__module__}.{kind.__qualname__}")
        return _qualified_name(kind)

    def _warn(self, name: str, reason: str) -> None:
        text = f"{self._label} uses {name!r} ({reason}), whose state is not part of the key of cached rows"
        if text not in _WARNED:
            _WARNED.add(text)
            logger.warning("%s: raise the class's `version`, or change the step's `name`, when the rows change", text)

    def _is_own(self, value: Any) -> bool:
        """Return whether an object's code is the user's: in the package of the subject, or in no installed package."""
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


def _qualified_name(value: Any) -> str:
    """Return the module and name of a class or function, or of the class of another object."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}"


def _is_generated(name: str, value: Any) -> bool:
    """Return whether a member of a class was written by `dataclass` or hfsynth, not by the user."""
    if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
        return True
    code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
    return name.startswith("__") and (
        (code is not None and code.co_filename == "<string>" and name not in ("__call__", "__post_init__"))
        or str(getattr(value, "__module__", "")).startswith("hfsynth.")
    )


def _nested_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code object and those nested in it, of comprehensions, inner functions and classes."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested_codes(constant)


def _used_names(function: types.FunctionType) -> set[str]:
    """Return the names of globals and attributes that a function uses."""
    return {name for code in _nested_codes(function.__code__) for name in code.co_names}


def _code_of(value: Any) -> types.CodeType | None:
    """Return the code of a function, method, property or cached function, or None for another object."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, functools.cached_property):
        value = value.func
    while isinstance(wrapped := getattr(value, "__wrapped__", None), types.FunctionType):
        value = wrapped
    return value.__code__ if isinstance(value, types.FunctionType) else None


@functools.lru_cache(maxsize=10_000)
def _changed_globals(code: types.CodeType) -> frozenset[str]:
    """Return the globals that code assigns, or changes in place."""
    found: set[str] = set()
    for one in _nested_codes(code):
        steps = list(dis.get_instructions(one))
        found |= {str(step.argval) for step in steps if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
        loads = [place for place, step in enumerate(steps) if step.opname == "LOAD_GLOBAL"]
        found |= {str(steps[place].argval) for place in loads if _is_changed(steps, place)}
    return frozenset(found)


@functools.lru_cache(maxsize=10_000)
def _changed_attributes(cls: type) -> frozenset[str]:
    """Return the attributes of an instance that methods of its class change, constructors excluded."""
    codes = [_code_of(member) for name, member in vars(cls).items() if name not in _CONSTRUCTORS]
    found: set[str] = set()
    for code in codes:
        if code is None or not code.co_argcount:
            continue
        steps = list(dis.get_instructions(code))
        for place, step in enumerate(steps[:-1]):
            if not step.opname.startswith("LOAD_FAST") or step.argval != code.co_varnames[0]:
                continue
            following = steps[place + 1]
            if following.opname in ("STORE_ATTR", "DELETE_ATTR"):
                found.add(str(following.argval))
            attribute = next((one for one in steps[place + 1 : place + 3] if one.opname == "LOAD_ATTR"), None)
            if attribute and _is_changed(steps, place):
                found.add(str(attribute.argval))
    return frozenset(found)


def _is_changed(steps: list[dis.Instruction], place: int) -> bool:
    """Return whether the object that an instruction loads, or one of its items or attributes, is changed in place.

    Follows the object on the stack: `X[key] = 1`, `X.name = 1`, `X[key] += 1`, `X.rows.append(1)`.

    Args:
        steps: The instructions of a function.
        place: Index of the instruction that loads the object.
    """
    depth, swapped = 1, False  # stack height, counted from the object
    for step in steps[place + 1 :]:
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and depth == 1 and step.argval in _MUTATING:
            return True
        if step.opname.startswith(("SWAP", "ROT_")):
            swapped = True
        if step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR") and depth <= 3:
            return depth == 2 or (depth == 3 and swapped)
        if step.opname in ("STORE_ATTR", "DELETE_ATTR") and depth <= 2:
            return depth == 1 or swapped
        if step.opname.startswith(("JUMP", "POP_JUMP", "RETURN", "RAISE", "FOR_ITER")):
            return False
        depth += dis.stack_effect(step.opcode, step.arg)
        if depth < 1:
            return False
    return False


@functools.lru_cache(maxsize=10_000)
def _imported_names(code: types.CodeType, package: str) -> frozenset[str]:
    """Return the full names of the modules that code imports as it runs, and of their top-level packages."""
    found: set[str] = set()
    for one in _nested_codes(code):
        steps = [step for step in dis.get_instructions(one) if step.opname != "EXTENDED_ARG"]
        for place, step in enumerate(steps):
            if step.opname != "IMPORT_NAME":
                continue
            level, name = int(steps[place - 2].argval or 0), str(step.argval)
            if level:
                name = importlib.util.resolve_name("." * level + name, package) if package else ""
            found |= {name, name.partition(".")[0]} - {""}
    return frozenset(found)


def hash_file(path: Path, largest: int | None = None) -> str:
    """Hash a file's content. A process hashes it again only after its size, times or inode changed.

    Args:
        path: The file.
        largest: Size in bytes above which only 256 blocks are hashed; None hashes files of any size completely.
    """
    found = path.stat()
    has_blocks = largest is not None and found.st_size > largest
    key = str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, has_blocks
    if key not in _HASHES:
        digest = hashlib.blake2b(str(found.st_size).encode(), digest_size=16)
        with path.open("rb") as file:
            for start, length in _blocks(found.st_size) if has_blocks else _parts(found.st_size):
                file.seek(start)
                digest.update(file.read(length))
        _HASHES[key] = digest.hexdigest()
    return _HASHES[key]


def hash_files(path: Path) -> str:
    """Hash the content of a file; or the names and contents of a folder's files, without hidden ones.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = [Path(folder, name) for name in ("a.txt", "b.txt")]
    ...     sizes = [file.write_text("Tea is a plant.") for file in files]
    ...     hash_files(files[0]) == hash_files(files[1])
    True
    """
    if path.is_file():
        return hash_file(path)
    digest = hashlib.blake2b(digest_size=16)
    for name, file in sorted((file.relative_to(path), file) for file in path.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def _parts(size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) in bytes of the parts of a file."""
    yield from ((start, _READ) for start in range(0, size, _READ))


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) in bytes of evenly spaced blocks of a file."""
    yield from (((size - _BLOCK) * block // (_BLOCKS - 1), _BLOCK) for block in range(_BLOCKS))
