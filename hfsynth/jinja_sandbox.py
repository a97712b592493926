"""Render prompts with Jinja2, in a sandbox that also limits time and size.

Jinja2's sandbox blocks access to Python's internals and changes of variables, but limits neither time nor memory: it
runs `'a' * 10**9` and nested loops. Here every loop, call, filter, operator and output spends part of a budget, and an
operation with a large result is refused before it runs.
"""

import json
import re
import time
from collections.abc import Callable, Collection, Mapping, Sized
from datetime import date, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import (
    StrictUndefined,
    Template,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    meta,
    nodes,
    pass_context,
)
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from hfsynth.errors import RowError

LARGEST = 10_000_000
"""Characters that one rendering may read and write; a step counts as `STEP` characters."""
STEP = 20
SECONDS = 10.0
"""Longest time of one rendering."""
_BUDGET = " budget"  # name of its variable; the space keeps templates from reading it
_INTEGER_BITS = 10_000
_FIELDS = re.compile(r"%(?:\([^)]*\))?([-#0 +.\d*]*)|\{[^{}:]*:([^}]*)")  # fields of a format, each with its width
_CHEAP = frozenset({"length", "count", "first", "last", "default", "d", "attr", "abs", "int", "float", "round"})
_OF_LISTS = frozenset(
    {"list", "map", "select", "reject", "selectattr", "rejectattr", "sort", "unique", "groupby", "sum", "min", "max"}
    | {"items", "dictsort", "reverse", "random"}
)
_WRITING = frozenset({"tojson", "pprint", "urlize", "xmlattr"})


class Nothing(str):
    """None within a prompt: rendered as an empty text, while the test `is none` is true."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        """Return whether the other value is None or empty."""
        return other is None or str.__eq__(self, str(other))

    def __ne__(self, other: object) -> bool:
        """Return whether the other value is neither None nor empty."""
        return not self == other

    def __hash__(self) -> int:
        """Return the hash of an empty text."""
        return str.__hash__(self)


class Overspent(TemplateRuntimeError):
    """Raised when a rendering exceeds its budget."""


class Budget:
    """The remaining characters and time of one rendering."""

    def __init__(self, text_size: int) -> None:
        self.text_size = text_size
        """Characters of the template's literal text, which each call of a macro may write once."""
        self._left = LARGEST
        self._end = time.monotonic() + SECONDS

    def spend(self, amount: int) -> None:
        """Subtract the size of the next operation.

        Raises:
            Overspent: If the budget is too small, or the time limit is exceeded.
        """
        self._left -= amount
        if self._left < 0:
            raise Overspent(f"it takes more than {LARGEST:,} characters, each step counting as {STEP}")
        if time.monotonic() > self._end:
            raise Overspent(f"it takes longer than {SECONDS:.0f} seconds")


def _budget(context: Context) -> Budget:
    found: Budget = context.parent[_BUDGET]
    return found


def _size(value: Any) -> int:
    """Return the approximate number of characters of a value; counting stops above `LARGEST`."""
    total, waiting = 0, [value]
    while waiting and total <= LARGEST:
        one = waiting.pop()
        total += STEP
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, int):
            total += one.bit_length() // 3
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
    return total


def _of_format(text: str, *values: Any) -> int:
    """Return an upper bound of the size of a formatted text, in which each field may write every value."""
    fields = text.count("%") + text.count("{")
    widths = ["".join(found) for found in _FIELDS.findall(text)]
    if any("*" in width or "{" in width for width in widths):
        raise Overspent(f"the format {text!r:.40} takes a width from a value; write it as a number")
    digits = sum(int(number[:9]) for width in widths for number in re.findall(r"\d+", width))
    return len(text) + digits + fields * _size(list(values))


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(values: tuple[Any, ...], place: int, default: int) -> int:
    value = values[place] if len(values) > place else default
    return abs(value) if isinstance(value, int) else len(value) if isinstance(value, str) else default


def _of_replacing(text: str, *values: Any) -> int:
    if len(values) < 2 or not isinstance(values[0], str) or not isinstance(values[1], str):
        return len(text) + _size(list(values))
    return len(text) + text.count(values[0]) * len(values[1])


def _of_joining(separator: str, items: Any) -> int:
    return _size(items) + len(separator) * len(items)


def _of_padding(text: str, *values: Any) -> int:
    return len(text) + _number(values, 0, 80)


def _of_expanding(text: str, *values: Any) -> int:
    return len(text) + text.count("\t") * _number(values, 0, 8)


def _of_indenting(text: str, *values: Any) -> int:
    return len(text) + (1 + len(text.splitlines())) * _number(values, 0, 4)


def _of_wrapping(text: str, *values: Any) -> int:
    ends = max([1, *(len(value) for value in values if isinstance(value, str))])
    return len(text) + (1 + len(text.splitlines()) + len(text) // max(1, _number(values, 0, 79))) * ends


def _of_translating(text: str, *values: Any) -> int:
    return len(text) * max(1, _size(list(values)))


_METHODS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _of_padding),
    **dict.fromkeys(("format", "format_map"), _of_format),
    "expandtabs": _of_expanding,
    "replace": _of_replacing,
    "join": _of_joining,
    "translate": _of_translating,
}
"""Methods of texts that may return more than their input → an upper bound of the result's size."""
_FILTERS: dict[str, Callable[..., int]] = {
    "center": _of_padding,
    "format": _of_format,
    "indent": _of_indenting,
    "replace": _of_replacing,
    "wordwrap": _of_wrapping,
}
"""Filters that may return more than their input → an upper bound of the result's size; the text comes first."""


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and renders prompts."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_written)
        self.policies["json.dumps_function"] = _json
        del self.globals["lipsum"]  # its random text would differ in every run
        self.filters = {name: self._spending(name, function) for name, function in self.filters.items()}
        self.filters |= {"looped": _looped, "concatenated": self._spending("concatenated", _concatenated)}
        self.tests |= {"none": lambda value: value is None or isinstance(value, Nothing)}

    def compiled(self, source: str) -> Template:
        """Compile a template in which loops and `~` spend from the budget too."""
        tree = self.parse(source)
        tree = _Spending().visit(tree)
        tree.set_environment(self)
        template = self.from_string(tree)
        # one dict, since each rendering copies it, and the environment's own chain of dicts takes far longer to copy
        template.globals = {**template.globals, "text size": _text_size(tree)}
        return template

    def render(self, template: Template, variables: dict[str, Any]) -> str:
        """Render a template with a fresh budget."""
        return template.render({**variables, _BUDGET: Budget(template.globals["text size"])})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator if the budget allows the result."""
        _budget(context).spend(STEP + _of_operation(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call an object if the budget allows the result."""
        budget = _budget(__context)
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        named = _METHODS.get(getattr(method, "__name__", "")) if isinstance(owner, str) else None
        if named is not None:
            arguments = [list(one) if named is _of_joining else one for one in args]
            budget.spend(STEP + named(owner, *arguments, *kwargs.values()))
            return super().call(__context, __obj, *arguments, **kwargs)
        if owner is not None and any(map(_is_width, args)) and isinstance(owner, int):
            budget.spend(sum(one for one in args if _is_width(one)))  # to_bytes
        is_own = isinstance(__obj, Macro) or type(__obj).__module__ == "jinja2.runtime"
        budget.spend(STEP + (budget.text_size if is_own else 0))
        return super().call(__context, __obj, *args, **kwargs)

    def _spending(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that spends before and after its call."""
        passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

        @pass_context
        def spending(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            budget = _budget(context)
            value = _listed(value) if name in ("join", "list", "batch", "slice") else value
            budget.spend(STEP + _of_filter(name, value, args, kwargs))
            prefix = {"context": (context,), "eval_context": (context.eval_ctx,), "environment": (self,)}
            result = function(*prefix.get(passed, ()), value, *args, **kwargs)
            if name not in _CHEAP:
                budget.spend(len(result) if isinstance(result, Sized) else 0)
            return result

        return spending


class _Spending(NodeTransformer):
    """Wraps the values of loops in a filter that spends, and replaces `~` by such a filter."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        cost = nodes.Const(STEP + _text_size(node), lineno=node.lineno)
        node.iter = nodes.Filter(node.iter, "looped", [cost], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "concatenated", [], [], None, None, lineno=node.lineno)


def _text_size(node: nodes.Node) -> int:
    return sum(len(text.data) for text in node.find_all(nodes.TemplateData))


@pass_context
def _written(context: Context, value: Any) -> Any:
    """Spend the size of a value that is written, and return the value."""
    if value is None:
        return ""
    _budget(context).spend(_size(value))
    return value


@pass_context
def _looped(context: Context, values: Any, cost: int) -> Any:
    """Yield the values of a loop, and spend for each iteration."""
    budget = _budget(context)
    if isinstance(values, Sized):
        budget.spend(cost * len(values))
        return values
    return _counted(budget, values, cost)


def _counted(budget: Budget, values: Any, cost: int) -> Any:
    for value in values:
        budget.spend(cost)
        yield value


def _concatenated(values: list[Any]) -> str:
    return "".join("" if value is None else str(value) for value in values)


def _listed(value: Any) -> Any:
    return value if isinstance(value, Sized) or not hasattr(value, "__iter__") else list(value)


def _of_operation(operator: str, left: Any, right: Any) -> int:
    """Return an upper bound of the size of an operator's result."""
    if isinstance(left, int) and isinstance(right, int):
        bits = {"**": left.bit_length() * max(right, 0), "*": left.bit_length() + right.bit_length()}
        if bits.get(operator, 0) > _INTEGER_BITS:
            raise Overspent(f"it makes a number of more than {_INTEGER_BITS:,} bits")
        return 0
    if operator == "*":
        long, times = (left, right) if isinstance(left, Sized) else (right, left)
        return len(long) * max(times, 0) if isinstance(long, Sized) and isinstance(times, int) else 0
    if operator == "%" and isinstance(left, str):
        return _of_format(left, *(right if isinstance(right, tuple) else [right]))
    return sum(len(one) for one in (left, right) if isinstance(one, Sized))


def _of_filter(name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return an upper bound of the size of a filter's input and result."""
    if name in _CHEAP:
        return 0
    arguments = (*args, *kwargs.values())
    if name in ("batch", "slice"):
        return _number(arguments, 0, 1) + len(value)
    if name == "join":
        separator = next((one for one in arguments if isinstance(one, str)), "")
        return _size(value) + len(separator) * len(value)
    if name in _WRITING:
        return _size(value) * (1 + sum(one if _is_width(one) else _size(one) for one in arguments))
    if name in _OF_LISTS:
        return STEP * len(value) if isinstance(value, Sized) else 0
    size = _size(value)
    return _FILTERS[name](str(value), *arguments) if name in _FILTERS and size <= LARGEST else size


def _json(value: Any, **options: Any) -> str:
    """Return JSON, with null for None."""
    return json.dumps(_with_none(value), **options)


def _with_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_none(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_none(one) for one in value]
    return None if isinstance(value, Nothing) else value


_ENVIRONMENT = PromptEnvironment()
_FAILURES = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError)


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.compiled(template)


@lru_cache(maxsize=256)
def _variables(template: str) -> tuple[str, ...]:
    return tuple(sorted(meta.find_undeclared_variables(_ENVIRONMENT.parse(template))))


def render_prompt(template: str, variables: Mapping[str, Any]) -> str:
    """Render a prompt; None is rendered as an empty text.

    A template reads only texts, numbers, lists and dicts, never an object with methods, such as an image.

    Args:
        template: Jinja2 source.
        variables: Name → value.

    Raises:
        RowError: If the template can't be rendered with these values, a value has another type, or the rendering
            exceeds `LARGEST` or `SECONDS`.

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
    """Convert a column's value to texts, numbers, truth values, lists and dicts; dates and decimals become texts.

    Raises:
        RowError: If the value is or contains an object of another type.
    """
    if value is None:
        return Nothing()
    if isinstance(value, (bool, int, float)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (str, date, time_of_day, timedelta, Decimal)):
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
    """Check that at least one of the columns that a prompt reads is filled.

    Raises:
        RowError: If all are None or blank, or lists and dicts of such values.

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


def prompt_variables(template: str, owner: str = "") -> tuple[str, ...]:
    """Return the names that a template reads, sorted.

    Args:
        template: The prompt.
        owner: The field that it comes from, for error messages.

    Raises:
        ValueError: If the template is not valid Jinja2.

    >>> prompt_variables("{{ question }} in {{ language }}")
    ('language', 'question')
    """
    try:
        return _variables(template)
    except TemplateSyntaxError as error:
        start = f"{owner} is {template!r}, which" if owner else repr(template)
        reason = error.message.rstrip(".") if error.message else "it can't be parsed"
        raise ValueError(f"{start} is not a Jinja2 template: {reason} (line {error.lineno}).") from error


def optional_variables(template: str) -> frozenset[str]:
    """Return the names that a template tests with `is defined`.

    >>> sorted(optional_variables("{{ a }}{% if b is defined and b %}{{ b }}{% endif %}"))
    ['b']
    """
    tests = _ENVIRONMENT.parse(template).find_all(nodes.Test)
    return frozenset(test.node.name for test in tests if test.name == "defined" and isinstance(test.node, nodes.Name))


@lru_cache(maxsize=256)
def conditional_variables(template: str) -> frozenset[str]:
    """Return the names that a template tests, by `if`, `is defined` or `default`: it renders without them.

    >>> sorted(conditional_variables("{{ a }}{{ b if b else '' }}{% if c %}{{ c }}{% endif %}{{ d | default('') }}"))
    ['b', 'c', 'd']
    """
    parsed = _ENVIRONMENT.parse(template)
    tests: list[nodes.Node] = [branch.test for branch in parsed.find_all(nodes.If)]
    tests += [branch.test for branch in parsed.find_all(nodes.CondExpr)]
    tests += [one for one in parsed.find_all(nodes.Filter) if one.name in ("default", "d")]
    found = [name for test in tests for name in (test, *test.find_all(nodes.Name))]
    names = {name.name for name in found if isinstance(name, nodes.Name)}
    return optional_variables(template) | names


def check_prompt(owner: str, template: str, allowed: tuple[str, ...]) -> None:
    """Check that the template in a field is valid and reads only the names that its technique provides.

    Args:
        owner: The field, for the error message.
        template: Its value.
        allowed: The names that it may read.

    Raises:
        ValueError: If the template is invalid or reads another name.
    """
    unknown = sorted(set(prompt_variables(template, owner)) - set(allowed))
    if unknown:
        raise ValueError(f"{owner} must read only {list(allowed)}, got {unknown} in {template!r}.")
