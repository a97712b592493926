"""Hash the contents of files, so that a copy has the hash of its original."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

_BLOCK, _BLOCKS = 64 * 1024, 256  # bytes of a block; number of blocks, evenly spaced from the first to the last
_READ = 1 << 20  # bytes that are read at once
_HASHES: dict[tuple[str, int, int, int, int, bool], str] = {}  # path, size, times, inode, parts alone → hash


def hash_file(path: Path, largest: int | None = None) -> str:
    """Hash a file's content. A process hashes it again only after its size, times or inode changed.

    Args:
        path: The file.
        largest: Size in bytes above which only 256 blocks are hashed; None hashes files of any size completely.
    """
    found = path.stat()
    has_blocks = largest is not None and found.st_size > largest
    key = str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, has_blocks
    if key not in _HASHES:
        digest = hashlib.blake2b(str(found.st_size).encode(), digest_size=16)
        with path.open("rb") as file:
            for start, length in _blocks(found.st_size) if has_blocks else _parts(found.st_size):
                file.seek(start)
                digest.update(file.read(length))
        _HASHES[key] = digest.hexdigest()
    return _HASHES[key]


def hash_files(path: Path) -> str:
    """Hash the content of a file; or the names and contents of a folder's files, without hidden ones.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = [Path(folder, name) for name in ("a.txt", "b.txt")]
    ...     sizes = [file.write_text("Tea is a plant.") for file in files]
    ...     hash_files(files[0]) == hash_files(files[1])
    True
    """
    if path.is_file():
        return hash_file(path)
    digest = hashlib.blake2b(digest_size=16)
    for name, file in sorted((file.relative_to(path), file) for file in path.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def _parts(size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) in bytes of the parts of a file."""
    yield from ((start, _READ) for start in range(0, size, _READ))


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) in bytes of evenly spaced blocks of a file."""
    yield from (((size - _BLOCK) * block // (_BLOCKS - 1), _BLOCK) for block in range(_BLOCKS))
