"""A batch of `Dataset.map` as rows, and rows as a batch again.

`Dataset.map` hands over a `LazyBatch` backed by an Arrow table, `IterableDataset.map` a plain dict of lists.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Features
from datasets.formatting.formatting import LazyBatch

from hfsynth.flow import Row

Batch = Mapping[str, Sequence[Any]]
Columns = dict[str, list[Any]]


def checked_indices(owner: str, batch: object, indices: Sequence[int] | None) -> Sequence[int]:
    """Return the indices of a batch, if `map` was called in the way that a technique needs.

    Raises:
        TypeError: If it wasn't, with the call that would do.
    """
    call = f"dataset.map({owner}(...), batched=True, with_indices=True)"
    if isinstance(indices, int) or not isinstance(batch, Mapping):
        raise TypeError(f"{owner} takes a batch as a dict of columns, not {type(batch).__name__}; call {call}.")
    if indices is None:
        raise TypeError(f"{owner} draws each row's random numbers from its index, and got no indices; call {call}.")
    return indices


def batch_rows(batch: Batch, wiring: Mapping[str, str], num_rows: int) -> list[Row]:
    """Read `num_rows` rows of a batch, with the columns of `wiring` (a technique's name → the batch's column)."""
    columns = {name: batch[column] for name, column in wiring.items()}
    return [{name: values[index] for name, values in columns.items()} for index in range(num_rows)]


def merge_columns(batch: Batch, sources: Sequence[int], made: Columns, features: Features) -> Columns | pa.Table:
    """Put a technique's columns beside the batch's own, repeated where one row became several.

    Args:
        batch: What `map` handed over.
        sources: For each row made, the batch's row it comes from.
        made: The columns made, one value for each of `sources`.
        features: Their types.

    Returns:
        A dict of columns. Where the values alone don't show a column's type (all None), `map` would take it for null
        and fail on a later batch: then an Arrow table, which carries the types.
    """
    if isinstance(batch, LazyBatch) and any(_untyped(values) for values in made.values()):
        return _typed_table(batch.pa_table, sources, made, features)
    num_rows = len(next(iter(batch.values()))) if batch else len(sources)
    if list(sources) == list(range(num_rows)):
        return made  # `map` keeps the other columns by itself
    kept = {name: [batch[name][source] for source in sources] for name in batch if name not in made}
    return {**kept, **made}


def _untyped(values: Sequence[Any]) -> bool:
    return all(value is None or value == [] for value in values)


def _typed_table(table: pa.Table, sources: Sequence[int], made: Columns, features: Features) -> pa.Table:
    table = table.take(pa.array(sources, pa.int64()))
    types = features.arrow_schema
    for name, values in made.items():
        column = pa.array(values, types.field(name).type)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table
