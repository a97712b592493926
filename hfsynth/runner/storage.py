"""Reading and writing of a run directory's files, with checksums and atomic renames.

A file is written under a temporary name, renamed once it is on disk, and checked when it is read. An Arrow file ends
with a trailer of 40 bytes: a magic with the version, the number of rows, the size and an xxh3 hash. Arrow's end mark
comes before the trailer, so other Arrow readers ignore the trailer. The first line of a JSON file has a version and a
hash.

A network file system may raise temporary errors: a stale handle, or a renamed file that is missing for a moment. Such
actions are retried.
"""

import errno
import json
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from xxhash import xxh3_128, xxh3_128_hexdigest

logger = logging.getLogger(__name__)
FORMAT_VERSION = 1
ABANDONED_AFTER = 3600.0
"""Seconds without a write, after which a process of another machine counts as dead."""
_MAGIC = b"hfsynth" + bytes([FORMAT_VERSION])
# magic, rows, bytes before the trailer, hash of these bytes and the three numbers
_TRAILER = struct.Struct("<8sQQ16s")
_PAUSES = (0.05, 0.2, 1.0, 3.0)  # seconds between attempts, after a temporary error of a network file system
_PASSING = (errno.ESTALE, errno.EINTR, errno.EAGAIN)
_SOUND: dict[tuple[str, int, int, int], int] = {}
"""Number of rows of each Arrow file that this process has checked, by path, inode, size and modification time."""
_MAX_SOUND = 100_000
T = TypeVar("T")


class DamagedFileError(Exception):
    """A file of a run directory is truncated, damaged, of another format version, or written by another program."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.file = file
        self.reason = reason


def retry_passing(action: Callable[[], T], passing: Collection[int | None] = _PASSING) -> T:
    """Return the result of an action on files, retried after temporary errors of a network file system.

    Args:
        action: The function to call.
        passing: The `errno` values after which the action is retried.

    Raises:
        OSError: If the last attempt raises one.
    """
    for pause in _PAUSES:
        try:
            return action()
        except OSError as error:
            if error.errno not in passing:
                raise
            logger.info("tried again in %s s: %s", pause, error)
            time.sleep(pause)
    return action()


def commit(written: Path, file: Path) -> None:
    """Sync a written file to disk, then rename it to its final name.

    Raises:
        OSError: If the file can't be renamed; FileNotFoundError if another process removed it.
    """
    descriptor = os.open(written, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        inode = os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)

    def rename() -> None:
        try:
            written.replace(file)
        except FileNotFoundError:  # a network file system may have renamed the file and lost the reply
            if not file.exists() or file.stat().st_ino != inode:
                raise

    # the file was just opened, so ENOENT is temporary unless another process has removed the folder
    retry_passing(rename, (*_PASSING, errno.ENOENT) if written.parent.exists() else _PASSING)


def seal(file: Path) -> int:
    """Append the trailer to an Arrow stream; return its number of rows."""
    with pa.memory_map(str(file)) as source:
        rows = int(pa.ipc.open_stream(source).read_all().num_rows)
    size = file.stat().st_size
    digest = xxh3_128(struct.pack("<8sQQ", _MAGIC, rows, size))
    with file.open("r+b") as opened:
        while block := opened.read(1 << 24):
            digest.update(block)
        opened.write(_TRAILER.pack(_MAGIC, rows, size, digest.digest()))
    return rows


def read_table(file: Path) -> pa.Table:
    """Return the rows of a sealed Arrow file, memory-mapped, after a check of its size, hash and number of rows.

    Raises:
        DamagedFileError: If the file differs from its trailer.
        FileNotFoundError: If there is no such file.
    """
    rows = check_table(file)
    with pa.memory_map(str(file)) as source:
        try:
            table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid as error:
            raise DamagedFileError(file, f"is no Arrow stream: {error}") from error
    if table.num_rows != rows:
        raise DamagedFileError(file, f"has {table.num_rows:,} rows instead of {rows:,}")
    return table


def check_table(file: Path) -> int:
    """Return the number of rows of a sealed Arrow file, after a check of its size and hash.

    Raises:
        DamagedFileError: If the file differs from its trailer.
        FileNotFoundError: If there is no such file.
    """
    status = retry_passing(file.stat)
    key = (str(file), status.st_ino, status.st_size, status.st_mtime_ns)
    if key in _SOUND:
        return _SOUND[key]
    if status.st_size <= _TRAILER.size:
        raise DamagedFileError(file, f"is truncated to {status.st_size} bytes")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = len(content) - _TRAILER.size
        magic, rows, size, checksum = _TRAILER.unpack(content[end:])
        if magic != _MAGIC:
            older = magic[:-1] == _MAGIC[:-1]
            raise DamagedFileError(
                file, f"is of version {magic[-1]}, not {FORMAT_VERSION}" if older else "has no trailer at its end"
            )
        digest = xxh3_128(struct.pack("<8sQQ", magic, rows, size))
        for start in range(0, end, 1 << 24):
            digest.update(content[start : min(start + (1 << 24), end)])
    if size != end or digest.digest() != checksum:
        raise DamagedFileError(file, "has another checksum than when it was written")
    if len(_SOUND) >= _MAX_SOUND:
        _SOUND.clear()
    _SOUND[key] = rows
    return int(rows)


def write_json(file: Path, writing: Path, value: Any) -> None:
    """Write a JSON file with a checksum.

    Args:
        file: The file.
        writing: The temporary name, until the file is on disk.
        value: The content.
    """
    text = json.dumps(value, ensure_ascii=False)
    head = json.dumps({"version": FORMAT_VERSION, "checksum": xxh3_128_hexdigest(text.encode())})
    writing.write_text(f"{head}\n{text}\n", encoding="utf-8")
    commit(writing, file)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file that `write_json` wrote.

    Raises:
        DamagedFileError: If the content does not match the checksum.
        FileNotFoundError: If there is no such file.
    """
    content = retry_passing(file.read_bytes)
    head, _, text = content.partition(b"\n")
    try:
        described = json.loads(head)
    except ValueError:
        described = None
    if not isinstance(described, dict) or not {"version", "checksum"} <= set(described):
        raise DamagedFileError(file, f"has no version and checksum in its first line: {head[:60]!r}")
    if described["version"] != FORMAT_VERSION:
        raise DamagedFileError(file, f"is of version {described['version']!r:.20}, not {FORMAT_VERSION}")
    text = text.removesuffix(b"\n")
    if xxh3_128_hexdigest(text) != described["checksum"]:
        raise DamagedFileError(file, "has another checksum than when it was written")
    return json.loads(text)


def set_aside(error: DamagedFileError, consequence: str) -> None:
    """Rename a damaged file to `damaged-TIME-NAME`, and log the damage and its consequence.

    Args:
        error: The damage.
        consequence: The consequence of the missing file, as the end of a sentence.
    """
    aside = error.file.with_name(f"damaged-{time.time_ns()}-{error.file.name}")
    try:
        error.file.replace(aside)
    except FileNotFoundError:  # another process was first
        return
    logger.warning("%s; it is kept as %s, and %s", error, aside.name, consequence)
