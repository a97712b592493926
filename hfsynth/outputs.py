"""What a flow returns, held against the outputs that its technique declares."""

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds
from datasets import Features

from hfsynth.errors import FlowError, RowError
from hfsynth.flow import Row, lone_surrogate


def check_rows(owner: str, result: object, features: Features) -> list[Row]:
    """Return what a flow returned as a list of rows.

    Args:
        owner: The technique's class.
        result: What its flow returned.
        features: Its outputs.

    Raises:
        FlowError: If it isn't a dict of the outputs, or a list of such dicts, or a value has another type.
        RowError: If a value has its output's type, and still can't be stored.
    """
    wanted = f"it must return a dict with the keys {list(features)}, or a list of such dicts, or raise RowError"
    if isinstance(result, Mapping):
        rows: list[Any] = [result]
    elif isinstance(result, Iterable) and not isinstance(result, str | bytes):
        rows = list(result)
    else:
        returned = "nothing" if result is None else f"{result!r:.200}, of type {type(result).__name__}"
        raise FlowError(f"{owner}.flow returned {returned}; {wanted}.")
    schema = features.arrow_schema
    for row in rows:
        if not isinstance(row, Mapping):
            raise FlowError(f"{owner}.flow returned a list with {row!r:.200}, of type {type(row).__name__}; {wanted}.")
        if set(row) != set(features):
            raise FlowError(f"{owner}.flow returned a dict with the keys {list(row)}; {wanted}.")
        for name, value in row.items():
            _check_value(f"{owner}.flow returned", name, value, schema.field(name).type)
    return [dict(row) for row in rows]


def _check_value(who: str, name: str, value: Any, kind: pa.DataType) -> None:
    fault = misfit(value, kind)
    if fault:
        raise FlowError(f"{who} {value!r:.200} for {name!r}, whose type is {kind}: {fault}.")
    if isinstance(value, str) and (fault := lone_surrogate(value)):
        raise RowError(f"{name} has {fault}", value)
    try:
        pa.array([value], kind)
    except UnicodeEncodeError as error:
        raise RowError(f"{name} has {lone_surrogate(error.object)}", repr(value)) from error
    except (OverflowError, pa.ArrowInvalid) as error:
        raise RowError(f"{name} can't be stored: {error}", repr(value)) from error
    except (TypeError, pa.ArrowNotImplementedError) as error:
        raise FlowError(f"{who} {value!r:.200} for {name!r}, whose type is {kind}: {error}.") from error


def misfit(value: Any, kind: pa.DataType) -> str:
    """Say why a value is not of an Arrow type, which Arrow would bend it into or refuse; "" where it is.

    >>> misfit("x", pa.int64()), misfit(["a"], pa.list_(pa.string()))
    ('str is no int64', '')
    """
    if value is None:
        return ""
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        if not isinstance(value, list | tuple | np.ndarray):
            return f"{type(value).__name__} is no list"
        return next((fault for item in value if (fault := misfit(item, kind.value_type))), "")
    if kinds.is_struct(kind):
        return _misfit_of_struct(value, kind)
    return "" if _fits(value, kind) else f"{type(value).__name__} is no {kind}"


def _misfit_of_struct(value: Any, kind: pa.StructType) -> str:
    if not isinstance(value, Mapping):
        return f"{type(value).__name__} is no dict"
    fields = {field.name: field.type for field in kind}
    if unknown := sorted(map(str, set(value) - set(fields))):
        return f"it has no field {unknown[0]!r}"
    return next((fault for name, item in value.items() if (fault := misfit(item, fields[name]))), "")


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether a value is of a type that is neither list nor struct; types without a check of their own fit."""
    boolean = isinstance(value, bool | np.bool_)
    if kinds.is_string(kind) or kinds.is_large_string(kind):
        return isinstance(value, str)
    if kinds.is_boolean(kind):
        return boolean
    if kinds.is_integer(kind):
        return not boolean and (isinstance(value, Integral) or (isinstance(value, float) and value.is_integer()))
    if kinds.is_floating(kind):
        return not boolean and isinstance(value, Real)
    return True
