"""Keys and values of the rows under way: each row's own are in its slot, from position 0.

All slots are as long as the longest row needs, and most rows are far shorter. So nothing is copied beyond what a row
has, and a CPU takes memory for a position only when it is written.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor


@dataclass
class KeyValueSlots:
    """Keys and values of `count` rows of at most `capacity` tokens, for each layer as soon as it is first written."""

    count: int
    capacity: int
    device: torch.device
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Number of the layer → keys and values, each (count, heads, capacity, width)."""
    reaches: set[int | None] = field(default_factory=set)
    """How far back layers have asked to attend."""

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values; the first tokens, (1, heads, T, width), show what it needs."""
        if index not in self.layers:
            self.layers[index] = (self._room(key), self._room(value))
        return self.layers[index]

    def resize(self, count: int, capacity: int, lengths: Sequence[int]) -> None:
        """Change the room, layer by layer: only one is there twice.

        Where something is raised in between (memory runs out), the slots are as they were, and empty.

        Args:
            count: Slots.
            capacity: Tokens that each has room for.
            lengths: How many positions are kept of each of the first slots.
        """
        before = self.count, self.capacity
        self.count, self.capacity = count, capacity
        slots = range(len(lengths))
        groups = cache(partial(_alike, slots, slots, lengths))
        try:
            for index, pair in self.layers.items():
                keys, values = self._room(pair[0]), self._room(pair[1])
                for new, old in zip((keys, values), pair, strict=True):
                    for here, _, length in groups(new.device):
                        new[here, :, :length] = old[here, :, :length]
                self.layers[index] = keys, values
        except RuntimeError:  # memory ran out
            self.count, self.capacity = before
            self.layers.clear()
            raise

    def copy(self, sources: Sequence[int], targets: Sequence[int], lengths: Sequence[int]) -> None:
        """Copy the first positions of slots to others, all at once: slots may change places.

        Args:
            sources: The slots.
            targets: Those that they are copied to.
            lengths: How many positions of each.
        """
        groups = cache(partial(_alike, sources, targets, lengths))  # on each device once for all layers
        for pair in self.layers.values():
            for tensor in pair:
                pieces = [tensor[here, :, :length] for here, _, length in groups(tensor.device)]
                for piece, (_, there, length) in zip(pieces, groups(tensor.device), strict=True):
                    tensor[there, :, :length] = piece

    def blank(self, slot: int) -> None:
        """Make a slot as it was at first."""
        with torch.inference_mode():  # as they were made
            for pair in self.layers.values():
                for tensor in pair:
                    tensor[slot] = 0

    def _room(self, like: Tensor) -> Tensor:
        """Return zeros: what is masked still passes through a product, and memory never written may hold NaN."""
        shape = (self.count, like.shape[1], self.capacity, like.shape[3])
        if like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
            return like.new_zeros(shape)
        try:  # what the system maps is zero, and takes no memory as long as nobody has written to it
            size = math.prod(shape) * like.dtype.itemsize
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise torch.OutOfMemoryError(f"out of memory: no {size} bytes for {self.count} rows ({error})") from error
        return torch.frombuffer(memory, dtype=like.dtype).view(shape)


def _alike(
    sources: Sequence[int], targets: Sequence[int], lengths: Sequence[int], device: torch.device
) -> list[tuple[Tensor, Tensor, int]]:
    """Put slots together that are copied at once: those of which no more than twice as much is kept as of another."""
    kinds: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        if length:
            kinds.setdefault(length.bit_length(), []).append(place)
    groups = []
    for places in kinds.values():
        here, there = torch.tensor([[slots[place] for place in places] for slots in (sources, targets)], device=device)
        groups.append((here, there, max(lengths[place] for place in places)))
    return groups
