"""How far rows are read: from position 0 to the end of a window, beyond which nothing is computed.

What a row reads doesn't depend on who shares its window, since masked places weigh nothing. On a CPU that holds to the
bit: kernels there sum keys in spans of 512, a span of more than 384 in another order than a shorter one, and only rows
whose last span is of the same kind share a window.
"""

from collections.abc import Sequence

import torch

_ROUND = 32  # windows grow by this many positions, a multiple of what kernels read at once
_SPAN, _SHORT = 512, 384  # positions that CPU kernels sum together, and of which they sum no more in the plain order
_GROUP = 16  # rows of a step that share a window on a CPU: the shorter ones then don't read as far as the longest


def window_of(length: int) -> int:
    """Return how many positions are read for a row of this length; also a good capacity, since none is read beyond.

    >>> [window_of(length) for length in (1, 384, 385, 513)]
    [32, 384, 512, 544]
    """
    step = _ROUND if (length - 1) % _SPAN < _SHORT else _SPAN
    return -(-length // step) * step


def windows(lengths: Sequence[int], device: torch.device) -> list[tuple[slice, int]]:
    """Group neighbouring rows of these lengths: (their slots, how many positions are read for them)."""
    if device.type != "cpu":
        return [(slice(0, len(lengths)), window_of(max(lengths)))]
    kinds = [((length - 1) // _SPAN, (length - 1) % _SPAN < _SHORT) for length in lengths]
    firsts = [0]
    for row, kind in enumerate(kinds):
        if kind != kinds[firsts[-1]] or row - firsts[-1] == _GROUP:
            firsts.append(row)
    parts = [slice(first, last) for first, last in zip(firsts, [*firsts[1:], len(lengths)], strict=True)]
    return [(part, window_of(max(lengths[part]))) for part in parts]
