"""Journals of finished rows: each row is written to disk as soon as it is finished, before its chunk is.

Each process has a journal for each of its chunks in flight, `journal-NUMBER-WORKER.jsonl`, and removes it once the
chunk is saved. A line has a checksum, a space and JSON; the first line names the step's folder and the format's
version. The last line is incomplete if its process was killed while writing.
"""

import base64
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest

from hfsynth.flow import Outcome
from hfsynth.runner.storage import FORMAT_VERSION, DamagedFileError, retry_passing, set_aside
from hfsynth.secrets import redact

logger = logging.getLogger(__name__)
_SYNC_SECONDS = 5.0  # seconds between two fsyncs: a killed process loses no row, a crashed machine the last rows
_MAX_OPEN = 64  # journals of one process that are open at once
OUTCOME_FIELDS = ("error", "raw", "finish_reason", "prompt_tokens", "completion_tokens", "truncated")
"""Fields of an `Outcome` that are kept beside its rows."""


@dataclass
class Journals:
    """The journals that one process writes in one step.

    Args:
        folder: The step's folder.
        worker_id: This process's `ProcessGroup.worker_id`.
        features: The technique's output features, before `output_mappings` renames them.
    """

    folder: Path
    worker_id: str
    features: Features
    _open: OrderedDict[int, int] = field(default_factory=OrderedDict, init=False)
    """Descriptor of each chunk's journal, by chunk; the one written last is at the end."""
    _synced: float = field(default_factory=time.monotonic, init=False)

    def append(self, chunk: int, index: int, outcome: Outcome, digest: int | None = None) -> None:
        """Write a finished row.

        Args:
            chunk: Number of the row's chunk.
            index: The row's index in the step's input.
            outcome: The row's outputs, or its failure.
            digest: Hash of the input row (see `row_digests`), for a row that began before the step's input was
                complete.

        Raises:
            OSError: If the folder can't be written.
        """
        descriptor = self._descriptor(chunk)
        _write(descriptor, _line(encode_outcome(index, outcome, self.features, digest)))
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(descriptor)
            self._synced = time.monotonic()

    def remove(self, chunk: int) -> None:
        """Remove this process's journal of a chunk."""
        if (descriptor := self._open.pop(chunk, None)) is not None:
            os.close(descriptor)
        self._path(chunk).unlink(missing_ok=True)

    def close(self) -> None:
        """Close all journals; the files stay in the folder."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _path(self, chunk: int) -> Path:
        return self.folder / f"journal-{chunk:05d}-{self.worker_id}.jsonl"

    def _descriptor(self, chunk: int) -> int:
        if chunk not in self._open:
            while len(self._open) >= _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
            path = self._path(chunk)
            descriptor = retry_passing(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))
            self._open[chunk] = descriptor
            if not os.fstat(descriptor).st_size:
                _write(descriptor, _line(_dump({"version": FORMAT_VERSION, "folder": self.folder.name})))
        self._open.move_to_end(chunk)
        return self._open[chunk]


def find_journals(folder: Path) -> dict[int, list[Path]]:
    """Return the journals of all processes in a step's folder, by the number of their chunk."""
    found: dict[int, list[Path]] = {}
    for name in sorted(os.listdir(folder)) if folder.exists() else ():
        _, _, rest = name.partition("journal-")
        number = rest.partition("-")[0]
        if name.startswith("journal-") and name.endswith(".jsonl") and number.isdigit():
            found.setdefault(int(number), []).append(folder / name)
    return found


def read_journal(
    file: Path, features: Features, first: int = 0, digests: NDArray[np.uint64] | None = None
) -> dict[int, Outcome]:
    """Return the outcomes in a journal, by the rows' indices in the step's input.

    If several lines have the same row, the last one counts. An incomplete last line is skipped; other lines with a
    wrong checksum are skipped with a warning. The journal is renamed if its first line is damaged or names another
    step or version. If another process has removed the file, the result is empty.

    Args:
        file: The journal.
        features: The technique's output features, before `output_mappings` renames them.
        first: Index of the row that the first hash is of.
        digests: A hash for each input row, (rows,), to leave out lines with the hash of another row.
    """
    try:
        content = retry_passing(file.read_bytes)
    except FileNotFoundError:
        return {}
    *lines, rest = content.split(b"\n")
    if not lines:
        return {}
    if reason := _fault(_parse(lines[0]), file.parent.name):
        set_aside(DamagedFileError(file, reason), "its rows are computed a second time")
        return {}
    entries = [_parse(line) for line in lines[1:]]
    if rest:
        logger.info("the last line of %s was torn when its process ended, and is left out", file)
    if damaged := sum(entry is None for entry in entries):
        logger.warning("%s has %d damaged lines, whose rows are computed a second time", file, damaged)
    current = [entry for entry in entries if entry is not None and _is_of_row(entry, first, digests)]
    return dict(decode_outcome(entry, features) for entry in current)


def _is_of_row(entry: Mapping[str, Any], first: int, digests: NDArray[np.uint64] | None) -> bool:
    """Whether a line is of the input row with its index, as far as it has a hash."""
    if digests is None or "digest" not in entry:
        return True
    place = entry["row"] - first
    return bool(0 <= place < len(digests) and int(digests[place]) == entry["digest"])


def encode_outcome(index: int, outcome: Outcome, features: Features, digest: int | None = None) -> bytes:
    """Return an outcome as JSON; outputs of types that JSON lacks are encoded as an Arrow stream in base64."""
    entry: dict[str, Any] = {"row": index, **{name: getattr(outcome, name) for name in OUTCOME_FIELDS}}
    if outcome.error:
        entry |= {"error": redact(outcome.error), "raw": redact(outcome.raw)}
    if digest is not None:
        entry["digest"] = digest
    try:
        return _dump({**entry, "outputs": outcome.rows})
    except TypeError:
        batch = pa.record_batch([pa.array(outcome.rows, pa.struct(list(features.arrow_schema)))], ["outputs"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return _dump({**entry, "arrow": base64.b64encode(sink.getvalue()).decode()})


def decode_outcome(entry: Mapping[str, Any], features: Features) -> tuple[int, Outcome]:
    """Return the row's index and the outcome that `encode_outcome` encoded."""
    if "arrow" in entry:
        rows = pa.ipc.open_stream(base64.b64decode(entry["arrow"])).read_all().column("outputs").to_pylist()
    else:
        rows = [{name: row[name] for name in features} for row in entry["outputs"]]
    return int(entry["row"]), Outcome(rows, **{name: entry[name] for name in OUTCOME_FIELDS})


def _dump(entry: Mapping[str, Any]) -> bytes:
    return _ENCODER.encode(entry).encode()


def _plain(value: Any) -> Any:
    """Convert a NumPy array or number to Python values, for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"JSON has no type for {type(value).__name__}")


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_plain)


def _line(text: bytes) -> bytes:
    return xxh3_64_hexdigest(text).encode() + b" " + text + b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line's entry; None if its checksum is wrong."""
    checksum, _, text = line.partition(b" ")
    if xxh3_64_hexdigest(text).encode() != checksum:
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _fault(head: Mapping[str, Any] | None, folder: str) -> str:
    """Return the reason why a journal with this first line can't be read; "" if it can."""
    if head is None:
        return "has a damaged first line"
    if head.get("version") != FORMAT_VERSION:
        return f"is of version {head.get('version')!r:.20}, not {FORMAT_VERSION}"
    return "" if head.get("folder") == folder else f"belongs to {head.get('folder')!r:.80}"


def _write(descriptor: int, data: bytes) -> None:
    """Write all of the data."""
    while data:
        data = data[os.write(descriptor, data) :]
