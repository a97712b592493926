"""The files of one step of a run: chunks, their merge, and rows that are taken over from earlier runs.

A step has a folder, named by a hash of all that its rows depend on:

    chunk-00003-of-00128.arrow   the rows of a finished chunk; a chunk is consecutive rows, the unit of saving
    chunk-00003-of-00128.failed  why a chunk raised
    chunks.json                  the keys of all chunks, by which other runs recognise equal chunks
    timings.jsonl                a line for each chunk that was run
    transient-RUN                run RUN left rows with transient failures, which the next run retries
    dropped.parquet              the rows that a filter dropped
    rows-00000-of-00002.arrow    all rows, once the step is finished
    step.json                    the step's record, written last: the step is finished
    writing-WORKER-NAME          a file or folder that one process is writing

A file gets its name only once it is on disk, so a process may be killed at any moment.

Rows are compared by hashes of their content, not by the fingerprint of `datasets`, which changes when a file is
touched or copied.
"""

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, concatenate_datasets
from numpy.typing import NDArray
from xxhash import xxh3_128, xxh3_128_hexdigest

from hfsynth.flow import Outcome, is_transient, storable
from hfsynth.metadata import FAILURE_FEATURES, METADATA_COLUMN, failures_dataset
from hfsynth.secrets import redact
from hfsynth.technique import Technique

_BYTES_PER_FILE = 512 * 1024**2
_ROWS_PER_BATCH = 1000  # as datasets writes them: smaller batches make reading slow, larger ones take more memory
_ABANDONED_AFTER = 3600.0  # seconds after which files that a process of another machine was writing are a dead one's
_FAILURES_SCHEMA = FAILURE_FEATURES.arrow_schema


@dataclass(frozen=True)
class ChunkFailure:
    """A chunk on which the technique raised."""

    token: str
    """The beginning of the run's id."""
    attempts: int
    first: int
    """The chunk's first row in the dataset."""
    last: int
    """The chunk's last row."""
    error: str


@dataclass(frozen=True)
class StepFolder:
    """The files of one step.

    Args:
        path: The folder, named by the step and a hash of all that its rows depend on.
        num_chunks: How many chunks the step has.
        worker_id: This process's `ProcessGroup.worker_id`.
        retries: Number of earlier runs that left rows with transient failures, each with a folder of its own.
        keys: A key for each chunk (`chunk_keys`), by which equal chunks of other folders are taken over; () to take
            over none.
    """

    path: Path
    num_chunks: int
    worker_id: str
    retries: int = 0
    keys: Sequence[str] = ()
    _earlier: dict[str, tuple[Path, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def newest(self) -> tuple["StepFolder", list["StepFolder"]]:
        """Return the step's current folder, and the folders of earlier runs, latest first.

        A folder in which another run left rows with transient failures is an earlier run's; the current one is new.
        """
        root = f"{self.path.name}-retry-"
        names = os.listdir(self.path.parent) if self.path.parent.exists() else []
        retries = sorted(int(end) for name in names if (end := name.removeprefix(root)) != name and end.isdigit())
        numbers = [number for number in (0, *retries) if self._retry(number).path.exists()]
        last = numbers[-1] if numbers else 0
        now = last + 1 if self._retry(last)._has_transient_failures else last
        return self._retry(now), [self._retry(number) for number in reversed(numbers) if number != now]

    def remove_superseded(self) -> None:
        """Remove the folder, whose rows are in a newer one, unless another run may still be writing here."""
        if self.path.exists() and (self.finished or time.time() - self.path.stat().st_mtime > _ABANDONED_AFTER):
            shutil.rmtree(self.path, ignore_errors=True)

    def note_transient_failures(self) -> None:
        """Note that this run leaves rows with transient failures here."""
        (self.path / f"transient-{self._token}").touch()

    @property
    def left_transient_failures(self) -> bool:
        """Whether this run has left rows with transient failures here."""
        return (self.path / f"transient-{self._token}").exists()

    def written_tables(self) -> list[pa.Table]:
        """Return the finished rows, memory-mapped: all rows of a finished step, else those of finished chunks."""
        if self.finished:
            return [_read(self.path / name) for name in self._manifest()["files"]]
        return [_read(self.chunk(number)) for number in range(self.num_chunks) if self.chunk(number).exists()]

    def prepare(self, clean: bool) -> None:
        """Create the folder, find equal chunks of other folders, and, if `clean`, remove files of killed processes."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.keys and not (self.path / "chunks.json").exists() and not self.finished:
            self._write(self.path / "chunks.json", json.dumps(list(self.keys)))
        if self.keys:
            self._earlier.update(_earlier_chunks(self.path, self.keys))
        for leftover in self.path.glob("writing-*") if clean else ():
            if not leftover.name.startswith(f"writing-{self._token}") and _is_abandoned(leftover):
                _remove(leftover)

    def is_adoptable(self, number: int) -> bool:
        """Whether another folder has an equal chunk."""
        return bool(self.keys) and self.keys[number] in self._earlier

    def adopt(self, number: int) -> bool:
        """Copy an equal chunk from another folder of the step; return whether there was one."""
        if not self.is_adoptable(number):
            return False
        folder, number_there = self._earlier[self.keys[number]]
        writing = self.writing(f"{number:05d}")
        try:
            (file,), _ = _write_tables([_read_chunk(folder, number_there)], writing)
        except (FileNotFoundError, KeyError):  # its folder is being merged, or was removed
            return False
        else:
            self.commit_chunk(number, file)
            return True
        finally:
            shutil.rmtree(writing, ignore_errors=True)

    @property
    def finished(self) -> bool:
        """Whether all rows are there, merged."""
        return (self.path / "step.json").exists()

    def chunk(self, number: int) -> Path:
        """Return the file of a chunk."""
        return self.path / f"chunk-{number:05d}-of-{self.num_chunks:05d}.arrow"

    def missing(self) -> list[int]:
        """List the chunks that are not there and that failed less than twice in this run, in order."""
        names = set(os.listdir(self.path))
        absent = [number for number in range(self.num_chunks) if self.chunk(number).name not in names]
        return [number for number in absent if self.attempts(number) < 2]

    def attempts(self, number: int) -> int:
        """Return how often a chunk failed in this run."""
        failure = self._failure(number)
        return failure.attempts if failure else 0

    def failures(self) -> list[ChunkFailure]:
        """List the missing chunks that failed in this run."""
        found = (self._failure(number) for number in range(self.num_chunks) if not self.chunk(number).exists())
        return [failure for failure in found if failure]

    def note_failure(self, number: int, rows: range, error: BaseException) -> None:
        """Note that a chunk raised."""
        text = redact(storable(f"{type(error).__name__}: {error}"))
        failure = ChunkFailure(self._token, self.attempts(number) + 1, rows.start, rows.stop - 1, text)
        self._write(self.chunk(number).with_suffix(".failed"), json.dumps(asdict(failure)))

    def commit_chunk(self, number: int, written: Path) -> bool:
        """Rename a complete file to the chunk's name; return whether no other process had finished the chunk."""
        first = not self.chunk(number).exists() and not self.finished
        _commit(written, self.chunk(number))
        self.chunk(number).with_suffix(".failed").unlink(missing_ok=True)
        return first

    def being_written(self) -> set[int]:
        """Return the chunks that other processes of this run are writing, or were writing when they died."""
        names = (path.name for path in self.path.glob(f"writing-{self._token}-*"))
        others = (name for name in names if not name.startswith(f"writing-{self.worker_id}-"))
        ends = (name.rpartition("-")[2] for name in others)
        return {int(end) for end in ends if end.isdigit()}

    def note_timing(self, number: int, rows: int, seconds: float) -> None:
        """Append a chunk's line to the step's timings; a line this short is written at once."""
        line = {"chunk": number, "rows": rows, "seconds": round(seconds, 6), "ended": round(time.time(), 3)}
        with (self.path / "timings.jsonl").open("a", encoding="utf-8") as timings:
            timings.write(json.dumps(line) + "\n")

    def inherit_timings(self, earlier: "StepFolder") -> None:
        """Copy the timings of an earlier run's chunks, from which rows are taken over."""
        file = earlier.path / "timings.jsonl"
        if not file.exists() or (self.path / file.name).exists():
            return
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        inherited = [{**line, "chunk": f"{earlier.path.name}/{line['chunk']}"} for line in lines]
        self._write(self.path / file.name, "".join(json.dumps(line) + "\n" for line in inherited))

    def seconds(self) -> tuple[float, float]:
        """Return the seconds that all processes spent on the chunks, and those in which at least one was at work."""
        try:
            lines = (self.path / "timings.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return 0.0, 0.0
        last = {line["chunk"]: line for line in map(json.loads, lines)}  # a chunk that ran twice counts once
        spans = [(line["ended"] - line["seconds"], line["ended"]) for line in last.values()]
        return sum(line["seconds"] for line in last.values()), covered(spans)

    def writing(self, name: str) -> Path:
        """Return a new folder for files that this process is writing."""
        folder = self.path / f"writing-{self.worker_id}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def merge_chunks(self, count: Callable[[pa.Table], pa.Table], record: Callable[[int], Mapping[str, Any]]) -> None:
        """Merge all chunks into few files, mark the step as finished, and remove the chunks.

        Several processes may do this at once: they write the same.

        Args:
            count: Called with each chunk's table, in order; returns the table.
            record: As `finish` takes it.
        """
        sizes: list[int] = []
        try:
            self.finish(self._chunk_tables(count, sizes), record, sizes)
        except FileNotFoundError:
            if not self.finished:  # else another process was first, and has removed the chunks
                raise

    def _chunk_tables(self, count: Callable[[pa.Table], pa.Table], sizes: list[int]) -> Iterator[pa.Table]:
        """Yield the chunks' tables in order, and append the number of rows of each to `sizes`."""
        for number in range(self.num_chunks):
            table = count(_read(self.chunk(number)))
            sizes.append(len(table))
            yield table

    def finish(
        self, tables: Iterable[pa.Table], record: Callable[[int], Mapping[str, Any]], sizes: Sequence[int] = ()
    ) -> None:
        """Write a step's rows as few files, and `step.json` after them.

        Args:
            tables: The rows.
            record: Takes the number of rows and returns the step's record; called once the rows are written.
            sizes: The number of output rows of each chunk; complete once the rows are written.
        """
        writing = self.writing("rows")
        files, num_rows = _write_tables(tables, writing)
        if self.finished:  # by another run, whose files stay
            self.cleanup()
            return
        names = [f"rows-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
        for file, name in zip(files, names, strict=True):
            _commit(file, self.path / name)
        manifest: dict[str, Any] = {"step": dict(record(num_rows)), "files": names}
        if self.keys:
            manifest["chunks"] = [[key, size] for key, size in zip(self.keys, sizes, strict=True)]
        self._write(self.path / "step.json", json.dumps(manifest, indent=1, ensure_ascii=False))
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the files that a finished step no longer needs, except files that another run is writing."""
        for pattern in ("chunk-*", "chunks.json", "writing-*"):
            for leftover in self.path.glob(pattern):
                own = leftover.name.startswith(f"writing-{self._token}")
                if pattern != "writing-*" or own or _is_abandoned(leftover):
                    _remove(leftover)

    def save_dropped(self, dropped: Dataset) -> None:
        """Write the rows that a filter dropped (`FAILURE_FEATURES`); call this before `finish`."""
        if not len(dropped):
            (self.path / "dropped.parquet").unlink(missing_ok=True)  # of an attempt that was killed
        else:
            writing = self.writing("dropped") / "dropped.parquet"
            pq.write_table(dropped.with_format("arrow")[:], writing)
            _commit(writing, self.path / writing.name)

    def dropped(self) -> Dataset:
        """Return the rows that a filter dropped; no rows for any other step."""
        file = self.path / "dropped.parquet"
        return Dataset(pq.read_table(file).cast(_FAILURES_SCHEMA)) if file.exists() else failures_dataset([])

    def load_record(self) -> dict[str, Any]:
        """Return the record of a finished step, as the fields of `StepRecord`."""
        record: dict[str, Any] = self._manifest()["step"]
        return record

    def load(self, features: Features | None, fingerprint: str) -> Dataset:
        """Return the rows of a finished step, memory-mapped.

        Args:
            features: The features of a technique's output, which without rows has no file; None for other steps.
            fingerprint: The dataset's fingerprint, the same in all processes.
        """
        parts = [Dataset.from_file(str(self.path / name)) for name in self._manifest()["files"]]
        if parts:
            rows = concatenate_datasets(parts)
        else:
            rows = Dataset.from_dict({name: [] for name in features or {}}, features=features)
        return Dataset(rows.data, rows.info, rows.split, fingerprint=fingerprint)

    @property
    def _token(self) -> str:
        """The beginning of the run's id, the same for all its processes."""
        return self.worker_id.partition("-")[0]

    @property
    def _has_transient_failures(self) -> bool:
        """Whether another run has left rows with transient failures here."""
        names = os.listdir(self.path) if self.path.exists() else []
        return any(name.startswith("transient-") and name != f"transient-{self._token}" for name in names)

    def _retry(self, number: int) -> "StepFolder":
        path = self.path.with_name(f"{self.path.name}-retry-{number}")
        return replace(self, path=path, retries=number) if number else self

    def _manifest(self) -> dict[str, Any]:
        return _read_manifest(self.path)

    def _failure(self, number: int) -> ChunkFailure | None:
        """Return a chunk's failure in this run; None if there is none."""
        try:
            text = self.chunk(number).with_suffix(".failed").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        failure = ChunkFailure(**json.loads(text))
        return failure if failure.token == self._token else None

    def _write(self, file: Path, text: str) -> None:
        writing = self.path / f"writing-{self.worker_id}-{file.name}"
        writing.write_text(text, encoding="utf-8")
        _commit(writing, file)


@dataclass
class EarlierRows:
    """The outcomes of a step's rows in an earlier run.

    Args:
        folder: The earlier run's folder.
        technique: The step.
        same_input: Whether the step had the same input. Else a row is taken over only if the columns that the
            technique reads are equal.
    """

    folder: StepFolder
    technique: Technique
    same_input: bool
    _names: dict[str, str] = field(init=False)
    """The dataset's column of an output → the technique's name for it."""

    def __post_init__(self) -> None:
        """Look up the output columns."""
        mappings = self.technique.output_mappings
        self._names = {mappings.get(name, name): name for name in self.technique.output_features}

    def outcomes(self, indices: range, inputs: Sequence[Mapping[str, Any]]) -> dict[int, Outcome]:
        """Return the outcomes that may be taken over, by index: all but transient failures.

        Args:
            indices: The rows' indices in the step's input.
            inputs: For each row, the columns that the technique reads.
        """
        if not self.same_input and any(set(row) & set(self._names) for row in inputs[:1]):
            return {}  # an output replaced a column that was read, so the earlier input is lost
        places = {index: self._places[index] for index in indices if index in self._places}
        if not places:
            return {}
        begin, end = min(start for start, _ in places.values()), max(stop for _, stop in places.values())
        rows = self._table.slice(begin, end - begin).to_pylist()
        kept: dict[int, Outcome] = {}
        for index, (start, stop) in places.items():
            row = inputs[index - indices.start] if inputs else {}
            outcome = self._outcome(rows[start - begin : stop - begin], row)
            if outcome is not None:
                kept[index] = outcome
        return kept

    def _outcome(self, rows: Sequence[Mapping[str, Any]], read: Mapping[str, Any]) -> Outcome | None:
        entry = rows[0][METADATA_COLUMN][-1]
        if is_transient(entry["error"], entry["finish_reason"]):
            return None
        if not self.same_input and any(rows[0][column] != value for column, value in read.items()):
            return None
        outputs = [{name: row[column] for column, name in self._names.items()} for row in rows]
        kept = ("error", "raw", "finish_reason", "truncated", "prompt_tokens", "completion_tokens")
        return Outcome([] if entry["error"] else outputs, **{name: entry[name] for name in kept})

    @cached_property
    def _table(self) -> pa.Table:
        return pa.concat_tables(self.folder.written_tables())

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        """Index of a row of the input → positions where its output rows begin and end."""
        if not self.folder.written_tables():
            return {}
        parts = [
            _last_rows(batch.column(METADATA_COLUMN)) for batch in self._table.select([METADATA_COLUMN]).to_batches()
        ]
        rows = np.concatenate(parts) if parts else np.empty(0, np.int64)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        ends = [*starts[1:].tolist(), len(rows)]
        return {int(rows[start]): (start, end) for start, end in zip(starts.tolist(), ends, strict=True)}


def read_inputs(technique: Technique, dataset: Dataset, rows: range) -> list[dict[str, Any]]:
    """Return the columns of some rows that a technique reads, as Arrow's plain values, under the dataset's names."""
    read = technique.columns_read(dataset.features)
    if not read:
        return []
    inputs: list[dict[str, Any]] = dataset.select_columns(read).select(rows).with_format("arrow")[:].to_pylist()
    return inputs


def _last_rows(column: pa.ListArray) -> NDArray[np.int64]:
    """Return the row index in the last metadata entry of each row: (rows,)."""
    offsets = column.offsets.to_numpy()
    rows: NDArray[np.int64] = column.values.field("row").take(pa.array(offsets[1:] - 1)).to_numpy(False)
    return rows


_DIGESTS: dict[tuple[str, int, int], tuple[str, ...]] = {}
"""Fingerprint, number of rows and chunk size → digests: a cache for the datasets of this process."""


def fingerprint_of(dataset: Dataset) -> str:
    """Return the fingerprint of a dataset, for which datasets has no public attribute."""
    return str(dataset._fingerprint)


def chunk_digests(dataset: Dataset, chunk_size: int) -> tuple[str, ...]:
    """Return a hash for each chunk, of its rows and of the names and types of the columns; () without rows."""
    key = (fingerprint_of(dataset), len(dataset), chunk_size)
    if key not in _DIGESTS:
        head = repr(list(dataset.features.items())).encode()
        tables = dataset.with_format("arrow").iter(chunk_size) if len(dataset) else ()
        _DIGESTS[key] = tuple(_digest(table, head) for table in tables)
    return _DIGESTS[key]


def content_key(dataset: Dataset, chunk_size: int = 1_000) -> str:
    """Return a hash of all rows of a dataset and of the names and types of its columns."""
    head = repr((list(dataset.features.items()), len(dataset)))
    return xxh3_128_hexdigest("/".join((head, *chunk_digests(dataset, chunk_size))).encode())


def chunk_keys(dataset: Dataset, chunk_size: int, first: int, step: str) -> list[str]:
    """Return a key for each chunk, of all that its output depends on: its rows, their indices, and the step.

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


def _digest(table: pa.Table, head: bytes) -> str:
    # `take` copies the rows: a slice keeps the offsets of the table it was cut from, and bits of neighbouring rows
    rows = table.replace_schema_metadata(None).take(pa.array(range(len(table)), pa.int64())).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    digest = xxh3_128(head)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def _is_abandoned(leftover: Path) -> bool:
    """Whether the process that was writing is dead; on another machine, whether it has long stopped writing."""
    own = re.match(rf"writing-\w+-\d+-{re.escape(socket.gethostname())}-(\d+)-", leftover.name)
    if own and not _is_running(int(own[1])):
        return True
    try:
        files = [leftover, *leftover.iterdir()] if leftover.is_dir() else [leftover]
        return time.time() - max(file.stat().st_mtime for file in files) > _ABANDONED_AFTER
    except FileNotFoundError:
        return True


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a zombie can still be signalled
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return state.rpartition(")")[2].split()[0] != "Z"


def _remove(leftover: Path) -> None:
    shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _earlier_chunks(path: Path, keys: Sequence[str]) -> dict[str, tuple[Path, int]]:
    """Find equal chunks in the step's other folders: key → folder and number, finished folders first.

    Chunks with transient failures are left out, since those rows must be tried again.
    """
    wanted = set(keys)
    found: dict[str, tuple[Path, int]] = {}
    step = re.sub(r"-retry-\d+$", "", path.name).rpartition("-")[0]
    siblings = [sibling for sibling in path.parent.glob(f"{step}-*") if sibling != path]
    for name in ("step.json", "chunks.json"):
        for sibling in siblings:
            try:
                listed = json.loads((sibling / name).read_text(encoding="utf-8"))
            except (FileNotFoundError, NotADirectoryError):
                continue
            keys_listed = [key for key, _ in listed.get("chunks", ())] if name == "step.json" else listed
            checks_rows = any(sibling.glob("transient-*"))
            for number, key in enumerate(keys_listed):
                exists = name == "step.json" or _chunk_file(sibling, number)
                if key not in wanted or key in found or not exists:
                    continue
                if not checks_rows or _is_final(sibling, number):
                    found[key] = (sibling, number)
    return found


def _is_final(folder: Path, number: int) -> bool:
    """Whether a chunk has no transient failures."""
    try:
        column = _read_chunk(folder, number).column(METADATA_COLUMN)
    except (FileNotFoundError, KeyError):  # its folder is being merged, or was removed
        return False
    return not any(is_transient(row[-1]["error"], row[-1]["finish_reason"]) for row in column.to_pylist())


def _chunk_file(folder: Path, number: int) -> Path | None:
    return next(folder.glob(f"chunk-{number:05d}-of-*.arrow"), None)


def _read_chunk(folder: Path, number: int) -> pa.Table:
    """Return the rows of a chunk, from its own file or from the files of the finished step.

    Raises:
        FileNotFoundError: If the folder was removed.
    """
    if file := _chunk_file(folder, number):
        return _read(file)
    manifest = _read_manifest(folder)
    sizes = [size for _, size in manifest["chunks"]]
    rows = pa.concat_tables([_read(folder / name) for name in manifest["files"]])
    return rows.slice(sum(sizes[:number]), sizes[number])


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "step.json").read_text(encoding="utf-8"))
    return manifest


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the total length of a line that is covered by at least one of the spans.

    >>> covered([(0, 2), (1, 3), (10, 11)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _commit(written: Path, file: Path) -> None:
    """Write a file to disk, then give it its name."""
    with written.open("rb") as opened:
        os.fsync(opened.fileno())
    written.replace(file)


def _read(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).read_all()


def _write_tables(tables: Iterable[pa.Table], folder: Path) -> tuple[list[Path], int]:
    """Write tables as Arrow streams of a limited size; return the files and the number of rows."""
    files: list[Path] = []
    num_rows = 0
    for number, group in enumerate(_groups(tables)):
        files.append(folder / f"{number}.arrow")
        schema = group[0].schema
        with pa.OSFile(str(files[-1]), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in _batches(group):
                writer.write_table(batch)
                num_rows += len(batch)
    return files, num_rows


def _groups(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    """Group memory-mapped tables up to the size of a file."""
    group: list[pa.Table] = []
    size = 0
    for table in tables:
        group.append(table)
        size += table.nbytes
        if size >= _BYTES_PER_FILE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _batches(tables: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Cut a group of tables into batches of `_ROWS_PER_BATCH` rows."""
    table = pa.concat_tables(tables)
    for start in range(0, len(table), _ROWS_PER_BATCH):
        yield table.slice(start, _ROWS_PER_BATCH).combine_chunks()
