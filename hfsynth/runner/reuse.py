"""Reuse of rows from other folders of the same step, found by hashes of the input's chunks and rows.

A step's folder has `input.json` (the step's hash, the index of the first row, a key per chunk) and `inputs.arrow` (a
hash per row, over the columns that the technique reads). Two rows with the same index, hash and step have the same
outcome, even in different chunks or runs.

Rows are compared by hashes of their content, not by the fingerprint of `datasets`, which changes when a file is
touched or copied.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128, xxh3_128_hexdigest

from hfsynth.flow import Outcome, is_transient
from hfsynth.record import METADATA_COLUMN
from hfsynth.runner.journal import OUTCOME_FIELDS, find_journals, read_journal
from hfsynth.runner.storage import DamagedFileError, read_json, read_table, set_aside
from hfsynth.technique import Technique

logger = logging.getLogger(__name__)
_BATCH_ROWS = 10_000

_DIGESTS: dict[tuple[str, int, int], tuple[str, ...]] = {}
"""Cache of this process: digests of chunks, by the dataset's fingerprint, number of rows and chunk size."""


def fingerprint_of(dataset: Dataset) -> str:
    """Return the fingerprint of a dataset, for which datasets has no public attribute."""
    return str(dataset._fingerprint)


def chunk_digests(dataset: Dataset, chunk_size: int) -> tuple[str, ...]:
    """Return one hash per chunk, over its rows and the names and types of its columns; () without rows."""
    key = (fingerprint_of(dataset), len(dataset), chunk_size)
    if key not in _DIGESTS:
        head = repr(list(dataset.features.items())).encode()
        tables = dataset.with_format("arrow").iter(chunk_size) if len(dataset) else ()
        _DIGESTS[key] = tuple(_digest(table, head) for table in tables)
    return _DIGESTS[key]


def content_key(dataset: Dataset, chunk_size: int = 1_000) -> str:
    """Return a hash over all rows of a dataset and the names and types of its columns."""
    head = repr((list(dataset.features.items()), len(dataset)))
    return xxh3_128_hexdigest("/".join((head, *chunk_digests(dataset, chunk_size))).encode())


def chunk_keys(dataset: Dataset, chunk_size: int, first: int, step: str) -> list[str]:
    """Return one key per chunk: a hash over its rows, their indices and the step, on which its output depends.

    Args:
        dataset: The step's input, or one round of it.
        chunk_size: Rows of a chunk.
        first: Index of the dataset's first row in the step's input.
        step: The step's hash.
    """
    digests: Sequence[str] = chunk_digests(dataset, chunk_size)
    return [
        xxh3_128_hexdigest(f"{digest}/{first + number * chunk_size}/{step}".encode())
        for number, digest in enumerate(digests)
    ]


def row_digests(dataset: Dataset, columns: Sequence[str]) -> NDArray[np.uint64]:
    """Return one hash per row, over its values in `columns`: (rows,)."""
    if not columns:
        return np.zeros(len(dataset), np.uint64)
    digests = np.empty(len(dataset), np.uint64)
    start = 0
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(_BATCH_ROWS) if len(dataset) else ():
        values = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
        rows = [xxh3_64_intdigest(repr(row).encode("utf-8", "surrogatepass")) for row in values]
        digests[start : start + len(rows)] = rows
        start += len(rows)
    return digests


def _digest(table: pa.Table, head: bytes) -> str:
    # `take` copies the rows: a slice would keep the offsets and some bits of the table that it was cut from
    rows = table.replace_schema_metadata(None).take(pa.array(range(len(table)), pa.int64())).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    digest = xxh3_128(head)
    digest.update(sink.getvalue())
    return digest.hexdigest()


@dataclass(frozen=True)
class StepInput:
    """The input of a technique's step, or one round of it, and its hashes.

    Args:
        step: The step's hash.
        dataset: The rows.
        columns: The columns that the technique reads.
        chunk_size: Rows of a chunk.
        first: Index of the first row in the step's input.
    """

    step: str
    dataset: Dataset
    columns: Sequence[str]
    chunk_size: int
    first: int = 0

    @cached_property
    def chunk_keys(self) -> list[str]:
        """A key for each chunk."""
        return chunk_keys(self.dataset, self.chunk_size, self.first, self.step)

    @cached_property
    def row_digests(self) -> NDArray[np.uint64]:
        """A hash for each row: (rows,)."""
        return row_digests(self.dataset, self.columns)

    def describe(self) -> dict[str, Any]:
        """Return the content of `input.json`."""
        return {"step": self.step, "first": self.first, "chunks": self.chunk_keys}


def sound_tables(folder: Path) -> list[pa.Table]:
    """Return all rows in a step's folder, memory-mapped, from merged files and from chunks.

    A damaged file is renamed, and its rows are left out.
    """
    tables = []
    for file in sorted((*folder.glob("rows-*.arrow"), *folder.glob("chunk-*.arrow"))):
        try:
            tables.append(read_table(file))
        except DamagedFileError as error:
            set_aside(error, "its rows are computed a second time")
        except FileNotFoundError:  # merged or removed by another process
            continue
    return tables


@dataclass
class EarlierRows:
    """Outcomes that a step can reuse from another of its folders: an earlier run, or another input with equal rows.

    Args:
        folder: The other folder.
        technique: The step.
    """

    folder: Path
    technique: Technique

    def is_reusable(self, first: int, digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return a mask of the rows for which the folder may have an outcome, completed or failed: (rows,).

        Args:
            first: Index of the first row in the step's input.
            digests: A hash for each row (see `row_digests`): (rows,).
        """
        indices = np.arange(first, first + len(digests))
        start, stored = self._digests
        places = indices - start  # in the other folder's input
        inside = (places >= 0) & (places < len(stored))
        if not inside.any():
            return inside
        equal = stored[np.where(inside, places, 0)] == digests
        journaled = np.fromiter((index in self._journaled for index in indices.tolist()), np.bool_, len(indices))
        reusable: NDArray[np.bool_] = inside & equal & (journaled | (self._find(indices) >= 0))
        return reusable

    def outcomes(self, first: int, digests: NDArray[np.uint64]) -> dict[int, Outcome]:
        """Return the reusable outcomes, by index in the step's input; transient failures are left out.

        Args:
            first: Index of the first row in the step's input.
            digests: A hash for each row (see `row_digests`): (rows,).
        """
        indices = np.flatnonzero(self.is_reusable(first, digests)) + first
        found = {index: self._journaled[index] for index in indices.tolist() if index in self._journaled}
        found |= self._stored(indices)
        return {index: outcome for index, outcome in found.items() if not outcome.is_transient}

    def _stored(self, indices: NDArray[np.int64]) -> dict[int, Outcome]:
        """Return the outcomes of those rows that are in the folder's tables."""
        numbers, starts, ends = self._rows
        places = self._find(indices)
        places = places[places >= 0]
        if not len(places):
            return {}
        table = self._table.take(np.concatenate([np.arange(starts[place], ends[place]) for place in places]))
        rows = iter(table.to_pylist())
        return {
            int(numbers[place]): self._outcome([next(rows) for _ in range(int(ends[place] - starts[place]))])
            for place in places
        }

    def _find(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of each row in `_rows`, or -1 if the row is missing there: (indices,)."""
        numbers = self._rows[0]
        if not len(numbers):
            return np.full(len(indices), -1)
        places = np.minimum(np.searchsorted(numbers, indices), len(numbers) - 1)
        return np.where(numbers[places] == indices, places, -1)

    def _outcome(self, rows: Sequence[Mapping[str, Any]]) -> Outcome:
        entry = rows[0][METADATA_COLUMN][-1]
        outputs = [{name: row[column] for column, name in self._names.items()} for row in rows]
        return Outcome([] if entry["error"] else outputs, **{name: entry[name] for name in OUTCOME_FIELDS})

    @cached_property
    def _names(self) -> dict[str, str]:
        """The technique's name of each output, by the dataset's column."""
        mappings = self.technique.output_mappings
        return {mappings.get(name, name): name for name in self.technique.output_features}

    @cached_property
    def _digests(self) -> tuple[int, NDArray[np.uint64]]:
        """Index of the first row of the folder's input, and one hash per row: (rows,)."""
        try:
            first = int(read_json(self.folder / "input.json")["first"])
            digests = read_table(self.folder / "inputs.arrow").column("digest").to_numpy()
        except FileNotFoundError:
            return 0, np.empty(0, np.uint64)
        except DamagedFileError as error:
            set_aside(error, "no row of this folder is taken over by another")
            return 0, np.empty(0, np.uint64)
        return first, digests

    @cached_property
    def _table(self) -> pa.Table:
        columns = [*self._names, METADATA_COLUMN]
        tables = [table.select(columns).replace_schema_metadata(None) for table in sound_tables(self.folder)]
        return pa.concat_tables(tables) if tables else pa.table({name: [] for name in columns})

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The sorted indices of input rows, and the start and end of their output rows in `_table`: (rows,) each."""
        batches = self._table.select([METADATA_COLUMN]).to_batches() if len(self._table) else []
        parts = [_last_rows(batch.column(METADATA_COLUMN)) for batch in batches]
        rows = np.concatenate(parts) if parts else np.empty(0, np.int64)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        ends = np.append(starts[1:], len(rows))
        order = np.argsort(rows[starts], kind="stable")
        return rows[starts][order], starts[order], ends[order]

    @cached_property
    def _journaled(self) -> dict[int, Outcome]:
        """Outcomes in the folder's journals, by row index."""
        found: dict[int, Outcome] = {}
        for files in find_journals(self.folder).values():
            for file in files:
                found |= read_journal(file, self.technique.output_features, *self._digests)
        return found


def _last_rows(column: pa.ListArray) -> NDArray[np.int64]:
    """Return the row index in the last metadata entry of each row: (rows,)."""
    offsets = column.offsets.to_numpy()
    rows: NDArray[np.int64] = column.values.field("row").take(pa.array(offsets[1:] - 1)).to_numpy(False)
    return rows


def sibling_folders(folder: Path, step: str) -> list[Path]:
    """Return the other folders of the same step, over any input, latest first.

    Args:
        folder: The step's folder.
        step: The step's hash.
    """
    found = [sibling for sibling, described in _described_siblings(folder) if described["step"] == step]
    return sorted(found, key=lambda path: path.stat().st_mtime if path.exists() else 0.0, reverse=True)


def _described_siblings(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the other folders of steps with the same name, each with the content of its `input.json`."""
    name = re.sub(r"-retry-\d+$", "", folder.name).rpartition("-")[0]
    for sibling in folder.parent.glob(f"{name}-*"):
        if sibling != folder:
            try:
                yield sibling, read_json(sibling / "input.json")
            except (FileNotFoundError, NotADirectoryError):
                continue
            except DamagedFileError as error:
                set_aside(error, "no row of this folder is taken over by another")


@dataclass(frozen=True)
class EqualChunk:
    """A chunk in another folder that has the same rows."""

    folder: Path
    number: int

    def read(self) -> pa.Table | None:
        """Return the rows, from the chunk's file or the finished step's files; None if they are removed or damaged."""
        try:
            if file := _chunk_file(self.folder, self.number):
                return read_table(file)
            manifest = read_json(self.folder / "step.json")
            sizes = [size for _, size in manifest["chunks"]]
            rows = pa.concat_tables([read_table(self.folder / name) for name in manifest["files"]])
        except FileNotFoundError:  # the folder is being merged, or was removed
            return None
        except DamagedFileError as error:
            set_aside(error, "its rows are computed a second time")
            return None
        return rows.slice(sum(sizes[: self.number]), sizes[self.number])

    def is_final(self) -> bool:
        """Whether the chunk is free of transient failures, so that no row must be retried."""
        table = self.read()
        if table is None:
            return False
        entries = (row[-1] for row in table.column(METADATA_COLUMN).to_pylist())
        return not any(is_transient(entry["error"], entry["finish_reason"]) for entry in entries)


def equal_chunks(folder: Path, keys: Sequence[str]) -> dict[str, EqualChunk]:
    """Return equal chunks of the step's other folders, by key; chunks with transient failures are left out."""
    wanted = set(keys)
    found: dict[str, EqualChunk] = {}
    for sibling, described in _described_siblings(folder):
        is_finished, has_transient = (sibling / "step.json").exists(), any(sibling.glob("transient-*"))
        for number, key in enumerate(described["chunks"]):
            if key in wanted and key not in found and (is_finished or _chunk_file(sibling, number)):
                chunk = EqualChunk(sibling, number)
                if not has_transient or chunk.is_final():
                    found[key] = chunk
    return found


def _chunk_file(folder: Path, number: int) -> Path | None:
    return next(folder.glob(f"chunk-{number:05d}-of-*.arrow"), None)
