"""What a dataset's rows are, as hashes of their content: equal rows have equal ones, wherever they were read from.

The fingerprint of datasets has the path and time of a file, so it changes when one is touched or copied.
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
from xxhash import xxh3_128, xxh3_128_hexdigest

from hfsynth.flow import Outcome, is_passing, storable
from hfsynth.metadata import FAILURE_FEATURES, METADATA_COLUMN, failures_dataset
from hfsynth.secrets import redact
from hfsynth.technique import Technique

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


_BYTES_PER_FILE = 512 * 1024**2
_FAILURES = FAILURE_FEATURES.arrow_schema
_IN_USE = 3600.0  # seconds after which nobody is taken to be writing into a folder any more
_LEFT_OVER = 3600.0  # seconds after which what a process of another machine was writing is a dead one's
_ROWS_PER_BATCH = 1000  # as datasets writes them: fewer make reading slow, more make it heavy


@dataclass(frozen=True)
class ChunkFailure:
    """A chunk whose technique raised: in which run, how often, which rows of the step's input, and what."""

    token: str
    attempts: int
    first: int
    last: int
    error: str


@dataclass(frozen=True)
class StepFolder:
    """The files of one step.

    Args:
        path: The folder, named by the step and a hash of all that its rows depend on.
        num_chunks: How many chunks the step has.
        member: A name for this process that no other has; begins with the run's token.
        retries: Which retry of the step's rows the folder is for; 0 for the first run.
        keys: What each chunk's output depends on (`content.chunk_keys`); () where chunks are not taken over.
    """

    path: Path
    num_chunks: int
    member: str
    retries: int = 0
    keys: Sequence[str] = ()
    _earlier: dict[str, tuple[Path, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def newest(self) -> tuple["StepFolder", list["StepFolder"]]:
        """Return the folder that the step's rows are in or belong into, and those of earlier runs, the latest first.

        A folder in which an earlier run left rows that failed for the time being is an earlier run's.
        """
        root = f"{self.path.name}-retry-"
        names = os.listdir(self.path.parent) if self.path.parent.exists() else []
        retries = sorted(int(end) for name in names if (end := name.removeprefix(root)) != name and end.isdigit())
        numbers = [number for number in (0, *retries) if self._retry(number).path.exists()]
        last = numbers[-1] if numbers else 0
        now = last + 1 if self._retry(last)._has_passing_failures else last
        return self._retry(now), [self._retry(number) for number in reversed(numbers) if number != now]

    def remove_superseded(self) -> None:
        """Remove the folder, whose rows are in a finished one, unless another run may still be writing here."""
        if self.path.exists() and (self.finished or time.time() - self.path.stat().st_mtime > _IN_USE):
            shutil.rmtree(self.path, ignore_errors=True)

    def note_passing_failures(self) -> None:
        """Note that this run leaves rows here that failed for the time being."""
        (self.path / f"passing-{self._token}").touch()

    @property
    def left_passing_failures(self) -> bool:
        """Whether this run has left rows here that failed for the time being."""
        return (self.path / f"passing-{self._token}").exists()

    def written_tables(self) -> list[pa.Table]:
        """Return the rows that are there, memory-mapped: of a finished step all, else those of finished chunks."""
        if self.finished:
            return [_read(self.path / name) for name in self._told()["files"]]
        return [_read(self.chunk(number)) for number in range(self.num_chunks) if self.chunk(number).exists()]

    def prepare(self, clean: bool) -> None:
        """Make the folder and look for equal chunks; where asked, remove what killed processes left behind."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.keys and not (self.path / "chunks.json").exists() and not self.finished:
            self._write(self.path / "chunks.json", json.dumps(list(self.keys)))
        if self.keys:
            self._earlier.update(_earlier_chunks(self.path, self.keys))
        for leftover in self.path.glob("writing-*") if clean else ():
            if not leftover.name.startswith(f"writing-{self._token}") and _is_abandoned(leftover):
                _remove(leftover)

    def is_adoptable(self, number: int) -> bool:
        """Return whether another folder has an equal chunk."""
        return bool(self.keys) and self.keys[number] in self._earlier

    def adopt(self, number: int) -> bool:
        """Take over an equal chunk of another folder of the step; return whether there was one."""
        if not self.is_adoptable(number):
            return False
        folder, place = self._earlier[self.keys[number]]
        writing = self.writing(f"{number:05d}")
        try:
            (file,), _ = _write_tables([_read_chunk(folder, place)], writing)
        except (FileNotFoundError, KeyError):  # its folder is being put together, or was removed
            return False
        else:
            self.publish(number, file)
            return True
        finally:
            shutil.rmtree(writing, ignore_errors=True)

    @property
    def finished(self) -> bool:
        """Whether all rows are there, put together."""
        return (self.path / "step.json").exists()

    def chunk(self, number: int) -> Path:
        """Return the file of a chunk."""
        return self.path / f"chunk-{number:05d}-of-{self.num_chunks:05d}.arrow"

    def missing(self) -> list[int]:
        """List the chunks that are neither there nor given up, in order."""
        names = set(os.listdir(self.path))
        absent = [number for number in range(self.num_chunks) if self.chunk(number).name not in names]
        return [number for number in absent if self.attempts(number) < 2]

    def attempts(self, number: int) -> int:
        """Return how often a chunk failed in this run."""
        failure = self._failure(number)
        return failure.attempts if failure else 0

    def failures(self) -> list[ChunkFailure]:
        """List the chunks that were given up in this run."""
        found = (self._failure(number) for number in range(self.num_chunks) if not self.chunk(number).exists())
        return [failure for failure in found if failure]

    def fail(self, number: int, rows: range, error: BaseException) -> None:
        """Note that a chunk failed."""
        text = redact(storable(f"{type(error).__name__}: {error}"))
        failure = ChunkFailure(self._token, self.attempts(number) + 1, rows.start, rows.stop - 1, text)
        self._write(self.chunk(number).with_suffix(".failed"), json.dumps(asdict(failure)))

    def publish(self, number: int, written: Path) -> bool:
        """Make a file that was written elsewhere the chunk; return whether this process was the first.

        The file is on disk before it has the name.
        """
        first = not self.chunk(number).exists() and not self.finished
        _publish(written, self.chunk(number))
        self.chunk(number).with_suffix(".failed").unlink(missing_ok=True)
        return first

    def being_written(self) -> set[int]:
        """Return the chunks that other processes of this run are writing, or were when they died."""
        names = (path.name for path in self.path.glob(f"writing-{self._token}-*"))
        others = (name for name in names if not name.startswith(f"writing-{self.member}-"))
        ends = (name.rpartition("-")[2] for name in others)
        return {int(end) for end in ends if end.isdigit()}

    def note_timing(self, number: int, rows: int, seconds: float) -> None:
        """Add a chunk's line to the step's timings; lines this short are appended whole."""
        line = {"chunk": number, "rows": rows, "seconds": round(seconds, 6), "ended": round(time.time(), 3)}
        with (self.path / "timings.jsonl").open("a", encoding="utf-8") as timings:
            timings.write(json.dumps(line) + "\n")

    def inherit_timings(self, earlier: "StepFolder") -> None:
        """Take over the timings of an earlier run's chunks, whose rows are in this one's."""
        file = earlier.path / "timings.jsonl"
        if not file.exists() or (self.path / file.name).exists():
            return
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        inherited = [{**line, "chunk": f"{earlier.path.name}/{line['chunk']}"} for line in lines]
        self._write(self.path / file.name, "".join(json.dumps(line) + "\n" for line in inherited))

    def seconds(self) -> tuple[float, float]:
        """Return the time that processes spent on the chunks, added up, and that in which at least one was at work."""
        try:
            lines = (self.path / "timings.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return 0.0, 0.0
        last = {line["chunk"]: line for line in map(json.loads, lines)}  # a chunk that was made twice counts once
        spans = [(line["ended"] - line["seconds"], line["ended"]) for line in last.values()]
        return sum(line["seconds"] for line in last.values()), covered(spans)

    def writing(self, what: str) -> Path:
        """Return a new folder for what this process alone is writing."""
        folder = self.path / f"writing-{self.member}-{what}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def consolidate(self, see: Callable[[pa.Table], pa.Table], facts: Callable[[int], Mapping[str, Any]]) -> None:
        """Put all chunks together into few files, say that the step is finished, and remove the chunks.

        Several processes may do this at once: they write the same.

        Args:
            see: Is shown each chunk's table, in order.
            facts: As `finish` takes it.
        """
        sizes: list[int] = []
        try:
            self.finish(self._chunk_tables(see, sizes), facts, sizes)
        except FileNotFoundError:
            if not self.finished:  # else another process was first, and has removed the chunks
                raise

    def _chunk_tables(self, see: Callable[[pa.Table], pa.Table], sizes: list[int]) -> Iterator[pa.Table]:
        """Give the chunks' tables in order, and note how many rows each has."""
        for number in range(self.num_chunks):
            table = see(_read(self.chunk(number)))
            sizes.append(len(table))
            yield table

    def finish(
        self, tables: Iterable[pa.Table], facts: Callable[[int], Mapping[str, Any]], sizes: Sequence[int] = ()
    ) -> None:
        """Write a step's rows as few files, and `step.json` after them.

        Args:
            tables: The rows.
            facts: Given how many rows there were, what is known of the step once they are written.
            sizes: How many rows each chunk has made, once the rows are written.
        """
        writing = self.writing("rows")
        files, num_rows = _write_tables(tables, writing)
        if self.finished:  # by another run, whose files stay
            self.tidy()
            return
        names = [f"rows-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
        for file, name in zip(files, names, strict=True):
            _publish(file, self.path / name)
        told: dict[str, Any] = {"step": dict(facts(num_rows)), "files": names}
        if self.keys:
            told["chunks"] = [[key, size] for key, size in zip(self.keys, sizes, strict=True)]
        self._write(self.path / "step.json", json.dumps(told, indent=1, ensure_ascii=False))
        self.tidy()

    def tidy(self) -> None:
        """Remove what a finished step has no more use for, but what another run is writing."""
        for pattern in ("chunk-*", "chunks.json", "writing-*"):
            for leftover in self.path.glob(pattern):
                own = leftover.name.startswith(f"writing-{self._token}")
                if pattern != "writing-*" or own or _is_abandoned(leftover):
                    _remove(leftover)

    def keep_dropped(self, dropped: Dataset) -> None:
        """Write the rows that a filter dropped (`FAILURE_FEATURES`), before the step is finished."""
        if not len(dropped):
            (self.path / "dropped.parquet").unlink(missing_ok=True)  # of an attempt that was killed
        else:
            writing = self.writing("dropped") / "dropped.parquet"
            pq.write_table(dropped.with_format("arrow")[:], writing)
            _publish(writing, self.path / writing.name)

    def dropped(self) -> Dataset:
        """Return the rows that a filter dropped; none of any other step."""
        file = self.path / "dropped.parquet"
        return Dataset(pq.read_table(file).cast(_FAILURES)) if file.exists() else failures_dataset([])

    def facts(self) -> dict[str, Any]:
        """Read what was known of the step when it was finished."""
        facts: dict[str, Any] = self._told()["step"]
        return facts

    def load(self, features: Features | None, fingerprint: str) -> Dataset:
        """Return the rows of a finished step, memory-mapped, under a fingerprint that is the same everywhere."""
        parts = [Dataset.from_file(str(self.path / name)) for name in self._told()["files"]]
        if parts:
            whole = concatenate_datasets(parts)
        else:
            whole = Dataset.from_dict({name: [] for name in features or {}}, features=features)
        return Dataset(whole.data, whole.info, whole.split, fingerprint=fingerprint)

    @property
    def _token(self) -> str:
        return self.member.partition("-")[0]

    @property
    def _has_passing_failures(self) -> bool:
        """Whether another run has left rows here that failed for the time being."""
        names = os.listdir(self.path) if self.path.exists() else []
        return any(name.startswith("passing-") and name != f"passing-{self._token}" for name in names)

    def _retry(self, number: int) -> "StepFolder":
        path = self.path.with_name(f"{self.path.name}-retry-{number}")
        return replace(self, path=path, retries=number) if number else self

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.path / "step.json").read_text(encoding="utf-8"))
        return told

    def _failure(self, number: int) -> ChunkFailure | None:
        """Read why a chunk failed in this run, if it did."""
        try:
            text = self.chunk(number).with_suffix(".failed").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        failure = ChunkFailure(**json.loads(text))
        return failure if failure.token == self._token else None

    def _write(self, file: Path, text: str) -> None:
        writing = self.path / f"writing-{self.member}-{file.name}"
        writing.write_text(text, encoding="utf-8")
        _publish(writing, file)


def _is_abandoned(leftover: Path) -> bool:
    """Return whether who was writing is dead; of a process of another machine, whether it stopped long ago."""
    own = re.match(rf"writing-\w+-\d+-{re.escape(socket.gethostname())}-(\d+)-", leftover.name)
    if own and not _is_running(int(own[1])):
        return True
    try:
        files = [leftover, *leftover.iterdir()] if leftover.is_dir() else [leftover]
        return time.time() - max(file.stat().st_mtime for file in files) > _LEFT_OVER
    except FileNotFoundError:
        return True


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # one that has ended, and that nobody has waited for, can still be signalled
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return state.rpartition(")")[2].split()[0] != "Z"


def _remove(leftover: Path) -> None:
    shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _earlier_chunks(path: Path, keys: Sequence[str]) -> dict[str, tuple[Path, int]]:
    """Find chunks in the other folders of a step: key → folder and place, finished folders first.

    Folders with rows that failed for the time being are left out: those rows are to be made again.
    """
    wanted = set(keys)
    found: dict[str, tuple[Path, int]] = {}
    siblings = [
        sibling
        for sibling in path.parent.glob(f"{path.name.rpartition('-')[0]}-*")
        if sibling != path and not any(sibling.glob("passing-*"))
    ]
    for name in ("step.json", "chunks.json"):
        for sibling in siblings:
            try:
                listed = json.loads((sibling / name).read_text(encoding="utf-8"))
            except (FileNotFoundError, NotADirectoryError):
                continue
            there = [key for key, _ in listed.get("chunks", ())] if name == "step.json" else listed
            for place, key in enumerate(there):
                if key in wanted and key not in found and (name == "step.json" or _chunk_file(sibling, place)):
                    found[key] = (sibling, place)
    return found


def _chunk_file(folder: Path, place: int) -> Path | None:
    return next(folder.glob(f"chunk-{place:05d}-of-*.arrow"), None)


def _read_chunk(folder: Path, place: int) -> pa.Table:
    """Return the rows of a chunk, from its own file or from those of the finished step.

    Raises:
        FileNotFoundError: If it is gone.
    """
    if file := _chunk_file(folder, place):
        return _read(file)
    told = json.loads((folder / "step.json").read_text(encoding="utf-8"))
    sizes = [size for _, size in told["chunks"]]
    rows = pa.concat_tables([_read(folder / name) for name in told["files"]])
    return rows.slice(sum(sizes[:place]), sizes[place])


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return how much of a line is under at least one of the spans on it.

    >>> covered([(0, 2), (1, 3), (10, 11)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _publish(written: Path, file: Path) -> None:
    """Give a file its name once all of it is on disk."""
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
    """Gather memory-mapped tables into groups of about a file's size."""
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
    whole = pa.concat_tables(tables)
    for start in range(0, len(whole), _ROWS_PER_BATCH):
        yield whole.slice(start, _ROWS_PER_BATCH).combine_chunks()


Places = dict[int, tuple[int, int]]


@dataclass
class EarlierRows:
    """What became of a step's rows in an earlier run.

    Args:
        folder: Where it kept them.
        technique: The step.
        same_input: Whether the step had the same input; else a row counts only if what the technique reads is equal.
    """

    folder: StepFolder
    technique: Technique
    same_input: bool
    _names: dict[str, str] = field(init=False)
    """The dataset's name of an output → the technique's."""

    def __post_init__(self) -> None:
        """Look up the outputs' names."""
        mappings = self.technique.output_mappings
        self._names = {mappings.get(name, name): name for name in self.technique.output_features}

    def outcomes(self, indices: range, inputs: Sequence[Mapping[str, Any]]) -> dict[int, Outcome]:
        """Return what became of rows that need not be made again.

        Args:
            indices: The rows' indices in the step's input.
            inputs: What the technique reads of each.
        """
        if not self.same_input and any(set(row) & set(self._names) for row in inputs[:1]):
            return {}  # a column that was read has been replaced: nothing says whether it was the same
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
        if is_passing(entry["error"], entry["finish_reason"]):
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
    def _places(self) -> Places:
        """Index of a row of the input → where what was made of it begins and ends."""
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
    """Return what a technique reads of some rows, as Arrow has it, under the dataset's names."""
    read = technique.columns_read(dataset.features)
    if not read:
        return []
    inputs: list[dict[str, Any]] = dataset.select_columns(read).select(rows).with_format("arrow")[:].to_pylist()
    return inputs


def _last_rows(column: pa.ListArray) -> Any:
    """Return the row that the last entry of each list names: (rows,)."""
    offsets = column.offsets.to_numpy()
    return column.values.field("row").take(pa.array(offsets[1:] - 1)).to_numpy(False)
