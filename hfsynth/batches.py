"""A batch of `Dataset.map` as rows, and rows as a batch again.

`Dataset.map` hands over a `LazyBatch` backed by an Arrow table, `IterableDataset.map` a plain dict of lists.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Features
from datasets.formatting.formatting import LazyBatch

from hfsynth.flow import Row
from hfsynth.record import METADATA_COLUMN

Batch = Mapping[str, Sequence[Any]]
Columns = dict[str, list[Any]]


def checked_indices(owner: str, batch: object, indices: object, rest: Sequence[object] = ()) -> Sequence[int]:
    """Return the indices of a batch, if `map` was called in the way that a technique needs.

    Args:
        owner: The technique's class, for error messages.
        batch: What `map` handed over first.
        indices: What it handed over next.
        rest: What else it handed over: the process's rank, or columns.

    Raises:
        TypeError: If it was called in another way, with the call that would do.
    """
    call = f"dataset.map({owner}(...), batched=True, with_indices=True)"
    is_column = isinstance(batch, list | tuple | str | int | float | None)
    # the rank is None where map runs in one process
    if is_column or len(rest) > 1 or not isinstance(rest[0] if rest else 0, int | None):
        raise TypeError(
            f"{owner} reads columns by their names, and got single columns; leave input_columns out: {call}. "
            "Columns of other names are read with input_mappings={'<input>': '<column>'}."
        )
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"{owner} takes a batch as a dict of lists, not {type(batch).__name__} in a dataset's format; "
            f"take the format off: dataset.with_format(None).map({owner}(...), batched=True, with_indices=True)."
        )
    if isinstance(indices, int):
        raise TypeError(
            f"{owner} takes a batch of rows and their indices, and got the number {indices}: one row's index without "
            f"batched=True, or with_rank=True without with_indices=True; call {call}."
        )
    if indices is None:
        raise TypeError(f"{owner} draws each row's random numbers from its index, and got no indices; call {call}.")
    if not isinstance(indices, Sequence):
        raise TypeError(f"{owner} needs a list of indices, got {type(indices).__name__}; call {call}.")
    return indices


def column_type(batch: Batch, column: str) -> pa.DataType | None:
    """Return the type of a column that all its rows have, of a `Dataset`; None where each row may have its own."""
    if not isinstance(batch, LazyBatch):
        return None
    kind = batch.pa_table.schema.field(column).type
    return None if isinstance(kind, pa.BaseExtensionType) else kind  # one is JSON


def batch_rows(batch: Batch, wiring: Mapping[str, str], num_rows: int) -> list[Row]:
    """Read `num_rows` rows of a batch, with the columns of `wiring` (a technique's name → the batch's column)."""
    columns = {name: plain_values(batch[column]) for name, column in wiring.items()}
    return [{name: values[index] for name, values in columns.items()} for index in range(num_rows)]


def row_contents(batch: Batch, num_rows: int) -> list[str]:
    """Return a text for each row that differs where its texts, numbers or truth values do.

    `generation_metadata`, lists, structs, media and None count for nothing.
    """
    names = scalar_columns(batch.pa_table.schema) if isinstance(batch, LazyBatch) else sorted(batch)
    columns = {name: plain_values(batch[name]) for name in names if name != METADATA_COLUMN}
    return [
        repr([(name, values[row]) for name, values in columns.items() if isinstance(values[row], str | int | float)])
        for row in range(num_rows)
    ]


def scalar_columns(schema: pa.Schema) -> list[str]:
    """Return the names of columns of texts, numbers and truth values, sorted."""
    kinds = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
    )
    return sorted(field.name for field in schema if any(is_kind(field.type) for is_kind in kinds))


def plain_values(values: Any) -> Any:
    """Return values without the arrays and tensors that a dataset in the format of numpy, torch or jax has.

    >>> import numpy
    >>> plain_values({"a": numpy.arange(2), "b": ["x"]})
    {'a': [0, 1], 'b': ['x']}
    """
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, Mapping):
        return {name: plain_values(value) for name, value in values.items()}
    return [plain_values(value) for value in values] if isinstance(values, list) else values


def merge_columns(batch: Batch, sources: Sequence[int], made: Columns, features: Features) -> Columns:
    """Put a technique's columns beside the batch's own, repeated where one row became several.

    `Dataset.map` keeps the types of Arrow arrays, while of Python lists it would take the type from the first batch:
    null where all of that batch failed, and then a later batch can't be written. A function may not return arrays,
    but it may put them into the batch that it was given: `map` merges that with what is returned, and drops
    `remove_columns` from it.

    Args:
        batch: What `map` handed over; of a `Dataset`, it is changed.
        sources: For each row made, the batch's row it comes from.
        made: The columns made, one value for each of `sources`.
        features: Their types.

    Returns:
        What the batched function returns to `map`.
    """
    if isinstance(batch, LazyBatch):
        return _merge_into(batch, sources, made, features)
    num_rows = len(next(iter(batch.values()))) if batch else len(sources)
    if list(sources) == list(range(num_rows)):
        return made  # `map` keeps the other columns by itself
    kept = {name: [batch[name][source] for source in sources] for name in batch if name not in made}
    return {**kept, **made}


def _merge_into(batch: LazyBatch, sources: Sequence[int], made: Columns, features: Features) -> Columns:
    table, types = batch.pa_table, features.arrow_schema
    taken = pa.array(sources, pa.int64())
    for name in table.column_names if list(sources) != list(range(len(table))) else ():
        batch[name] = table.column(name).take(taken)
    for name, values in made.items():
        batch[name] = pa.array(values, types.field(name).type)
    return {}
