"""What a dataset's rows are, as hashes of their content: equal rows have equal ones, wherever they were read from.

The fingerprint of datasets has the path and time of a file, so it changes when one is touched or copied.
"""

from collections.abc import Sequence

import pyarrow as pa
from datasets import Dataset
from xxhash import xxh3_128, xxh3_128_hexdigest

_DIGESTS: dict[tuple[str, int, int], tuple[str, ...]] = {}
"""Fingerprint, number of rows and chunk size → digests, of the datasets of this process."""


def fingerprint_of(dataset: Dataset) -> str:
    """Return the fingerprint that datasets gives to these rows; datasets has no public name for it."""
    return str(dataset._fingerprint)


def chunk_digests(dataset: Dataset, chunk_size: int) -> tuple[str, ...]:
    """Return a hash of the rows of each chunk, with the names and types of the columns; () where there are none."""
    place = (fingerprint_of(dataset), len(dataset), chunk_size)
    if place not in _DIGESTS:
        head = repr(list(dataset.features.items())).encode()
        tables = dataset.with_format("arrow").iter(chunk_size) if len(dataset) else ()
        _DIGESTS[place] = tuple(_digest(table, head) for table in tables)
    return _DIGESTS[place]


def content_key(dataset: Dataset, chunk_size: int = 1_000) -> str:
    """Return a hash of all rows of a dataset, and of the names and types of its columns."""
    head = repr((list(dataset.features.items()), len(dataset)))
    return xxh3_128_hexdigest("/".join((head, *chunk_digests(dataset, chunk_size))).encode())


def chunk_keys(dataset: Dataset, chunk_size: int, first: int, step: str) -> list[str]:
    """Return for each chunk what its output depends on: its rows, their indices in the step's input, and the step.

    Args:
        dataset: The step's input, or what it gets of it in one round.
        chunk_size: Rows of a chunk.
        first: Index of the dataset's first row in the step's input.
        step: The step's hash.
    """
    digests: Sequence[str] = chunk_digests(dataset, chunk_size)
    return [
        xxh3_128_hexdigest(f"{digest}/{first + number * chunk_size}/{step}".encode())
        for number, digest in enumerate(digests)
    ]


def _digest(table: pa.Table, head: bytes) -> str:
    # `take` lays the rows out anew: a slice has the offsets of what it was cut from, and bits of its neighbours
    rows = table.replace_schema_metadata(None).take(pa.array(range(len(table)), pa.int64())).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    digest = xxh3_128(head)
    digest.update(sink.getvalue())
    return digest.hexdigest()
