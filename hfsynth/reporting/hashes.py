"""How many different ones there are among millions of hashes, which lie in a file: memory doesn't grow with them."""

import tempfile
import weakref
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hfsynth.reporting.figures import distinct_values


@dataclass
class Hashes:
    """Hashes of 8 bytes, in a temporary file that is gone when they are.

    >>> hashes = Hashes()
    >>> hashes.add(np.array([1, 2, 1], np.uint64))
    >>> len(hashes), hashes.distinct()
    (3, 2)
    """

    _count: int = 0
    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def __post_init__(self) -> None:
        """See to it that the file is closed."""
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def add(self, values: NDArray[np.uint64]) -> None:
        """Put some behind the others."""
        self._file.write(values.tobytes())
        self._count += len(values)

    def distinct(self) -> int:
        """Count the different ones; their order is lost."""
        if not self._count:
            return 0
        self._file.flush()
        return distinct_values(np.memmap(self._file, np.uint64, "r+", shape=(self._count,)))
