"""How far rows are read: from position 0 to the end of a window, beyond which nothing is computed.

What a row reads doesn't depend on who shares its window, since masked places weigh nothing. How it is rounded may:
CPU kernels sum keys in spans of 512, a span of more than 384 in another order than a shorter one. Only rows whose last
span is of the same kind share a window, which makes that rarer.
"""

from collections.abc import Sequence

import torch

_ROUND = 32  # windows grow by this many positions, a multiple of what kernels read at once
_SPAN, _SHORT = 512, 384  # positions that CPU kernels sum together, and of which they sum no more in the plain order
# positions of a row that could be read in the time that one more group takes: on a CPU as measured, elsewhere a guess
_CALL = {"cpu": 200, "cuda": 1 << 15}


def window_of(length: int) -> int:
    """Return how many positions are read for a row of this length; also a good capacity, since none is read beyond.

    >>> [window_of(length) for length in (1, 384, 385, 513)]
    [32, 384, 512, 544]
    """
    step = _ROUND if _kind(length)[1] else _SPAN
    return -(-length // step) * step


def windows(lengths: Sequence[int], device: torch.device) -> list[tuple[slice, int]]:
    """Group neighbouring rows of these lengths: (their slots, how many positions are read for them).

    A group ends where reading all its rows as far as the longest would cost as much as one more group.
    """
    groups: list[tuple[slice, int]] = []
    own, first = [window_of(length) for length in lengths], 0
    widest = needed = 0
    for row, window in enumerate(own):
        wider = max(widest, window)
        vain = wider * (row + 1 - first) - needed - window
        if row > first and (vain > _call(device) or _parted(lengths[first], lengths[row], device)):
            groups.append((slice(first, row), widest))
            first, needed, wider = row, 0, window
        widest, needed = wider, needed + window
    return [*groups, (slice(first, len(own)), widest)]


def cost(groups: Sequence[tuple[slice, int]], device: torch.device) -> int:
    """Return what a step reads, in positions: each group's rows as far as its window, and something for the group."""
    return sum(_call(device) + (part.stop - part.start) * window for part, window in groups)


def _call(device: torch.device) -> int:
    return _CALL.get(device.type, _CALL["cuda"])


def _parted(one: int, other: int, device: torch.device) -> bool:
    """Whether rows of these lengths can't share a window, since their last spans are of two kinds."""
    return device.type == "cpu" and _kind(one) != _kind(other)


def _kind(length: int) -> tuple[int, bool]:
    return (length - 1) // _SPAN, (length - 1) % _SPAN < _SHORT
