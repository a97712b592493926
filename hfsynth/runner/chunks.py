"""The files of one step of a run: journals, claims, chunks, and their merge.

A step has a folder, named by a hash of all that its rows depend on:

    journal-00003-WORKER.jsonl   the finished rows of a chunk in flight, one per line
    claim-00003                  the process that computes a chunk
    chunk-00003-of-00128.arrow   the rows of a finished chunk; a chunk is consecutive rows
    chunk-00003-of-00128.failed  the exception that a chunk raised
    input.json, inputs.arrow     hashes of the input, by which other runs recognise equal chunks and rows
    server.json                  the model and version that the llm's server reported when the step began
    timings.jsonl                one line per computed chunk
    transient-RUN                marks that run RUN left rows with transient failures; the next run retries them
    dropped.arrow                the rows that a filter dropped
    rows-00000-of-00002.arrow    all rows, once the step is finished
    step.json                    the step's record, written last: the step is finished
    writing-WORKER-NAME          a file or folder that one process is writing
    damaged-TIME-NAME            a file that was damaged when it was read

A file gets its name only once it is on disk, so a process may be killed at any moment.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets

from hfsynth.distributed import is_running
from hfsynth.flow import storable
from hfsynth.record import FAILURE_FEATURES, failures_dataset
from hfsynth.runner.journal import find_journals
from hfsynth.runner.reuse import EqualChunk, StepInput, equal_chunks
from hfsynth.runner.storage import (
    ABANDONED_AFTER,
    DamagedFileError,
    check_table,
    commit,
    read_json,
    read_table,
    retry_passing,
    seal,
    set_aside,
    write_json,
)
from hfsynth.secrets import redact

logger = logging.getLogger(__name__)
_BYTES_PER_FILE = 512 * 1024**2
_ROWS_PER_BATCH = 1000  # the default of datasets: smaller batches make reading slow, larger ones take more memory
_FAILURES_SCHEMA = FAILURE_FEATURES.arrow_schema
_DROPPED = "dropped.arrow"
_TOUCH_SECONDS = 15.0  # between two touches of a process's claims
_DEAD_AFTER = 120.0  # seconds without a touch; the clocks of two machines may differ by several
_WRITE_SECONDS = 10.0  # seconds that a process may take to write its id into a new claim


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
        input: The step's input, used to find equal chunks in other folders; None to reuse no chunks.
    """

    path: Path
    num_chunks: int
    worker_id: str
    retries: int = 0
    input: StepInput | None = field(default=None, repr=False, compare=False)
    _equal: dict[str, EqualChunk] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Key of a chunk → the equal chunk of another folder."""
    _sound: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    """Chunks whose files passed their check in this process."""

    def newest(self) -> tuple["StepFolder", list["StepFolder"]]:
        """Return the step's current folder, and the folders of earlier runs, latest first.

        A folder in which another run left rows with transient failures belongs to that run: this run uses a new folder
        and retries these rows there.
        """
        root = f"{self.path.name}-retry-"
        names = os.listdir(self.path.parent) if self.path.parent.exists() else []
        retries = sorted(int(end) for name in names if (end := name.removeprefix(root)) != name and end.isdigit())
        numbers = [number for number in (0, *retries) if self._retry(number).path.exists()]
        last = numbers[-1] if numbers else 0
        now = last + 1 if self._retry(last)._has_transient_failures else last
        return self._retry(now), [self._retry(number) for number in reversed(numbers) if number != now]

    def remove_superseded(self) -> None:
        """Remove this folder, which a newer one replaces, unless another run may still be writing to it."""
        if self.path.exists() and (self.finished or time.time() - self.path.stat().st_mtime > ABANDONED_AFTER):
            shutil.rmtree(self.path, ignore_errors=True)

    def note_transient_failures(self) -> None:
        """Mark that this run left rows with transient failures in the folder."""
        (self.path / f"transient-{self._token}").touch()

    @property
    def left_transient_failures(self) -> bool:
        """Whether this run has left rows with transient failures in the folder."""
        return (self.path / f"transient-{self._token}").exists()

    def prepare(self, clean: bool) -> None:
        """Create the folder, find equal chunks of other folders, and, if `clean`, remove files of killed processes."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.input is not None:
            if clean and not self.finished:
                self._write_input(self.input)
            self._equal.update(equal_chunks(self.path, self.input.chunk_keys))
        for leftover in self.path.glob("writing-*") if clean else ():
            if not leftover.name.startswith(f"writing-{self._token}") and _is_abandoned(leftover):
                _remove(leftover)

    def _write_input(self, step_input: StepInput) -> None:
        """Write the hashes of the input, unless the files exist and are undamaged."""
        for name in ("inputs.arrow", "input.json"):
            file = self.path / name
            try:
                if name == "input.json":
                    read_json(file)
                else:
                    check_table(file)
                continue
            except FileNotFoundError:
                pass
            except DamagedFileError as error:
                set_aside(error, "it is written a second time")
            if name == "input.json":
                self._write(file, step_input.describe())
            else:
                self._commit_tables([pa.table({"digest": step_input.row_digests})], name)

    def is_adoptable(self, number: int) -> bool:
        """Whether another folder has an equal chunk."""
        return self.input is not None and self.input.chunk_keys[number] in self._equal

    def adopt(self, number: int) -> bool:
        """Copy an equal chunk from another folder of the step; return False if there is none."""
        if self.input is None or not self.is_adoptable(number):
            return False
        table = self._equal[self.input.chunk_keys[number]].read()
        if table is None:
            return False
        self.commit_chunk(number, self.write_chunk(number, table))
        return True

    @property
    def finished(self) -> bool:
        """Whether the step is finished: all chunks are merged, and `step.json` exists."""
        return (self.path / "step.json").exists()

    def chunk(self, number: int) -> Path:
        """Return the path of a chunk's file."""
        return self.path / f"chunk-{number:05d}-of-{self.num_chunks:05d}.arrow"

    def has_chunk(self, number: int) -> bool:
        """Whether a chunk's file exists and is undamaged; a damaged file is renamed."""
        try:
            check_table(self.chunk(number))
        except FileNotFoundError:
            return False
        except DamagedFileError as error:
            set_aside(error, "its rows are computed a second time")
            return False
        self._sound.add(number)
        return True

    def missing(self) -> list[int]:
        """List, in order, the chunks without an undamaged file that failed less than twice in this run."""
        names = set(os.listdir(self.path))
        absent = [
            number
            for number in range(self.num_chunks)
            if self.chunk(number).name not in names or not (number in self._sound or self.has_chunk(number))
        ]
        return [number for number in absent if self.attempts(number) < 2]

    def journals(self) -> dict[int, list[Path]]:
        """Return the journals of all processes, by the number of their chunk."""
        return find_journals(self.path)

    def chunk_tables(self) -> list[pa.Table]:
        """Return the rows of the finished chunks, memory-mapped."""
        return [read_table(self.chunk(number)) for number in range(self.num_chunks) if self.has_chunk(number)]

    @property
    def has_salvage(self) -> bool:
        """Whether the step was finished once, until a damaged file was found; its other files are usable."""
        return not self.finished and any(self.path.glob("rows-*.arrow"))

    def attempts(self, number: int) -> int:
        """Return the number of times that a chunk failed in this run."""
        failure = self._failure(number)
        return failure.attempts if failure else 0

    def failures(self) -> list[ChunkFailure]:
        """List the failures of chunks that failed in this run and that no process has finished since."""
        found = (self._failure(number) for number in range(self.num_chunks) if not self.chunk(number).exists())
        return [failure for failure in found if failure]

    def note_failure(self, number: int, rows: range, error: BaseException) -> None:
        """Record that a chunk raised, with its number of attempts in this run."""
        text = redact(storable(f"{type(error).__name__}: {error}"))
        failure = ChunkFailure(self._token, self.attempts(number) + 1, rows.start, rows.stop - 1, text)
        self._write(self.chunk(number).with_suffix(".failed"), asdict(failure))

    def write_chunk(self, number: int, table: pa.Table) -> Path:
        """Write and seal a chunk's rows; return the temporary file, for `commit_chunk`."""
        (file,), _ = _write_tables([table], self.writing(f"{number:05d}"))
        seal(file)
        return file

    def commit_chunk(self, number: int, written: Path) -> bool:
        """Give a file the chunk's name, and remove its folder; return False if another process finished the chunk."""
        first = not self.chunk(number).exists() and not self.finished
        commit(written, self.chunk(number))
        self.chunk(number).with_suffix(".failed").unlink(missing_ok=True)
        shutil.rmtree(written.parent, ignore_errors=True)
        return first

    def note_server(self, facts: Mapping[str, str]) -> dict[str, str]:
        """Return the facts that a server reported when the step began; if none are stored, store the given ones."""
        file = self.path / "server.json"
        try:
            earlier: dict[str, str] = read_json(file)
        except (FileNotFoundError, DamagedFileError):
            earlier = dict(facts)
            self._write(file, earlier)
        return earlier

    def note_timing(self, number: int, rows: int, seconds: float) -> None:
        """Append a chunk's line to the step's timings. A line this short is written in one piece, without a lock."""
        line = {"chunk": number, "rows": rows, "seconds": round(seconds, 6), "ended": round(time.time(), 3)}
        with (self.path / "timings.jsonl").open("a", encoding="utf-8") as timings:
            timings.write(json.dumps(line) + "\n")

    def inherit_timings(self, earlier: Path) -> None:
        """Copy the timings of another folder, from which this step reuses rows."""
        file = earlier / "timings.jsonl"
        if not file.exists() or (self.path / file.name).exists():
            return
        inherited = [{**line, "chunk": f"{earlier.name}/{line['chunk']}"} for line in _read_timings(file)]
        writing = self.path / f"writing-{self.worker_id}-{file.name}"
        writing.write_text("".join(json.dumps(line) + "\n" for line in inherited), encoding="utf-8")
        commit(writing, self.path / file.name)

    def seconds(self) -> tuple[float, float]:
        """Return the summed seconds of all chunks, and the seconds in which at least one process computed a chunk."""
        # a chunk that ran twice counts once
        last = {line["chunk"]: line for line in _read_timings(self.path / "timings.jsonl")}
        spans = [(line["ended"] - line["seconds"], line["ended"]) for line in last.values()]
        return sum(line["seconds"] for line in last.values()), covered(spans)

    def writing(self, name: str) -> Path:
        """Create an empty folder for files that this process is writing, and return its path."""
        folder = self.path / f"writing-{self.worker_id}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def merge_chunks(self, count: Callable[[pa.Table], pa.Table], record: Callable[[int], Mapping[str, Any]]) -> None:
        """Merge all chunks into few files, mark the step as finished, and remove the chunks.

        Several processes may do this at the same time, since they write the same content.

        Args:
            count: Called with each chunk's table, in order; returns the table to write.
            record: Takes the number of rows and returns the step's record; called once the rows are written.

        Raises:
            DamagedFileError: If a chunk is damaged.
        """
        sizes: list[int] = []
        try:
            self.finish(self._chunk_tables(count, sizes), record, sizes)
        except FileNotFoundError:
            if not self.finished:  # if finished, another process merged and removed the chunks first
                raise

    def _chunk_tables(self, count: Callable[[pa.Table], pa.Table], sizes: list[int]) -> Iterator[pa.Table]:
        """Yield the chunks' tables in order, and append the number of rows of each to `sizes`."""
        for number in range(self.num_chunks):
            table = count(read_table(self.chunk(number)))
            sizes.append(len(table))
            yield table

    def finish(
        self, tables: Iterable[pa.Table], record: Callable[[int], Mapping[str, Any]], sizes: Sequence[int] = ()
    ) -> None:
        """Write a step's rows as few files, and `step.json` after them.

        Args:
            tables: The rows.
            record: Takes the number of rows and returns the step's record; called once the rows are written.
            sizes: The number of output rows of each chunk. The list may grow while `tables` is consumed.
        """
        writing = self.writing("rows")
        files, num_rows = _write_tables(tables, writing)
        if self.finished:  # another run finished the step meanwhile: keep its files
            self.cleanup()
            return
        names = [f"rows-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
        for file, name in zip(files, names, strict=True):
            seal(file)
            commit(file, self.path / name)
        manifest: dict[str, Any] = {"step": dict(record(num_rows)), "files": names, "num_rows": num_rows}
        if (self.path / _DROPPED).exists():
            manifest["dropped"] = _DROPPED
        if self.input is not None:
            manifest["chunks"] = [[key, size] for key, size in zip(self.input.chunk_keys, sizes, strict=True)]
        self._write(self.path / "step.json", manifest)
        self.cleanup()

    def check_finished(self) -> None:
        """Check all files of a finished step. A damaged file is renamed, and the step is then unfinished."""
        file = self.path / "step.json"
        try:
            manifest = self._manifest()
        except FileNotFoundError:
            return
        except DamagedFileError as error:
            set_aside(error, "the step is finished a second time")
            return
        for name in (*manifest["files"], *([manifest["dropped"]] if "dropped" in manifest else [])):
            try:
                check_table(self.path / name)
            except FileNotFoundError:
                set_aside(DamagedFileError(file, f"names {name}, which is missing"), "its rows are computed again")
            except DamagedFileError as error:
                set_aside(error, "its rows are computed a second time")
                file.unlink(missing_ok=True)

    def cleanup(self) -> None:
        """Remove the files that a finished step no longer needs, except files that another run is writing."""
        for pattern in ("chunk-*", "journal-*", "claim-*", "writing-*"):
            for leftover in self.path.glob(pattern):
                own = leftover.name.startswith(f"writing-{self._token}")
                if pattern != "writing-*" or own or _is_abandoned(leftover):
                    _remove(leftover)

    def save_dropped(self, dropped: Dataset) -> None:
        """Write the rows that a filter dropped (`FAILURE_FEATURES`); call this before `finish`."""
        if not len(dropped):
            (self.path / _DROPPED).unlink(missing_ok=True)  # an earlier attempt that was killed may have left it
        else:
            self._commit_tables([dropped.with_format("arrow")[:]], _DROPPED)

    def dropped(self) -> Dataset:
        """Return the rows that a filter dropped; an empty dataset for other steps."""
        file = self.path / _DROPPED
        return Dataset(read_table(file).cast(_FAILURES_SCHEMA)) if file.exists() else failures_dataset([])

    def load_record(self) -> dict[str, Any]:
        """Return the record of a finished step as a dict with the fields of `StepRecord`."""
        record: dict[str, Any] = self._manifest()["step"]
        return record

    def load(self, features: Features | None, fingerprint: str) -> Dataset:
        """Return the rows of a finished step, memory-mapped.

        Args:
            features: The features of a technique's output, needed if it has no rows and so no file; None for other
                steps.
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
        """Whether another run has left rows with transient failures in the folder."""
        names = os.listdir(self.path) if self.path.exists() else []
        return any(name.startswith("transient-") and name != f"transient-{self._token}" for name in names)

    def _retry(self, number: int) -> "StepFolder":
        path = self.path.with_name(f"{self.path.name}-retry-{number}")
        return replace(self, path=path, retries=number) if number else self

    def _manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = read_json(self.path / "step.json")
        return manifest

    def _failure(self, number: int) -> ChunkFailure | None:
        """Return a chunk's failure in this run; None if there is none."""
        try:
            failure = ChunkFailure(**read_json(self.chunk(number).with_suffix(".failed")))
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            set_aside(error, "the chunk's attempts are counted anew")
            return None
        return failure if failure.token == self._token else None

    def _write(self, file: Path, value: Any) -> None:
        write_json(file, self.path / f"writing-{self.worker_id}-{file.name}", value)

    def _commit_tables(self, tables: Sequence[pa.Table], name: str) -> None:
        """Write tables as one sealed file."""
        writing = self.writing(name)
        (file,), _ = _write_tables(tables, writing)
        seal(file)
        commit(file, self.path / name)
        shutil.rmtree(writing, ignore_errors=True)


@dataclass
class Claims:
    """The chunks of a step that one process has claimed; processes without a common store share chunks by claims.

    The processes may be of several runs and machines. A process counts as dead if it no longer runs, or, on another
    machine or in another container, if it has not touched its claims for two minutes. If a claim is taken from a
    living process by mistake, the chunk is computed twice; no row is lost. `step_worker.py` decides which of the
    abandoned chunks a process takes over, and when.

    Args:
        folder: The step's folder.
        worker_id: This process's `ProcessGroup.worker_id`.
    """

    folder: Path
    worker_id: str
    _held: set[int] = field(default_factory=set, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def take(self, chunk: int) -> bool:
        """Claim a chunk; return False if a living process of any run has claimed it."""
        if chunk in self._held:
            return True
        if not self._create(chunk):
            if self.owner(chunk):
                return False
            self._file(chunk).unlink(missing_ok=True)
            if not self._create(chunk):
                return False
        self._held.add(chunk)
        if self._thread is None:
            self._thread = threading.Thread(target=self._touch, daemon=True)
            self._thread.start()
        return True

    def owner(self, chunk: int) -> str:
        """Return the `worker_id` of the living process that has claimed a chunk; "" if there is none."""
        file = self._file(chunk)
        try:
            owner, touched = retry_passing(lambda: (file.read_text(encoding="utf-8"), file.stat().st_mtime))
        except FileNotFoundError:
            return ""
        age = time.time() - touched
        if not owner:
            return "unknown" if age < _WRITE_SECONDS else ""
        return owner if _is_alive(owner, age) else ""

    def release(self, chunk: int) -> None:
        """Give up a claim of this process."""
        if chunk in self._held:
            self._held.discard(chunk)
            self._file(chunk).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up all claims of this process."""
        self._stop.set()
        for chunk in list(self._held):
            self.release(chunk)

    def _file(self, chunk: int) -> Path:
        return self.folder / f"claim-{chunk:05d}"

    def _create(self, chunk: int) -> bool:
        try:
            descriptor = os.open(self._file(chunk), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self.worker_id)
        return True

    def _touch(self) -> None:
        while not self._stop.wait(_TOUCH_SECONDS):
            for chunk in list(self._held):
                try:
                    os.utime(self._file(chunk))
                except OSError:  # just released, or a temporary error of a network file system
                    continue


def _is_alive(worker_id: str, age: float) -> bool:
    """Whether the process of a `ProcessGroup.worker_id` runs, as far as this machine can tell.

    Args:
        worker_id: The id of the process.
        age: Seconds since the process touched a file, which decides if it runs on another machine or in another
            container.
    """
    runs = is_running(worker_id)
    return age < _DEAD_AFTER if runs is None else runs


def _is_abandoned(leftover: Path) -> bool:
    """Whether the writing process is dead, or, on another machine, has not written for `ABANDONED_AFTER` seconds."""
    if (runs := is_running(leftover.name)) is not None:
        return not runs
    try:
        files = [leftover, *leftover.iterdir()] if leftover.is_dir() else [leftover]
        return time.time() - max(file.stat().st_mtime for file in files) > ABANDONED_AFTER
    except FileNotFoundError:
        return True


def _read_timings(file: Path) -> list[dict[str, Any]]:
    """Return the undamaged lines of a step's timings; [] if the file does not exist."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for line in content.splitlines():
        try:
            entry = json.loads(line)
            found.append({"chunk": entry["chunk"], "seconds": float(entry["seconds"]), "ended": float(entry["ended"])})
        except (ValueError, TypeError, KeyError):
            logger.warning("%s has a damaged line, whose seconds aren't counted: %r", file, line[:80])
    return found


def _remove(leftover: Path) -> None:
    shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of some intervals.

    >>> covered([(0, 2), (1, 3), (10, 11)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


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
    """Group memory-mapped tables; a group ends once it has the size of a file."""
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
