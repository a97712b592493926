"""The KV cache: keys and values of the sequences under way, one slot each, and the memory that they take.

All slots are as long as the longest sequence needs, and most sequences are far shorter. Copies cover only the tokens
in use, and a CPU takes memory for a position only when it is written.
"""

import gc
import logging
import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TypeVar

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from hfsynth.errors import GenerationError

logger = logging.getLogger(__name__)
# out of memory in words that accelerate doesn't know: of a library that CUDA calls, of CUDA itself
_OUT_OF_MEMORY = ("_STATUS_ALLOC_FAILED", "error: out of memory")
_CACHE_SHARE = {"cpu": 0.4, "cuda": 0.8}  # share of the free memory that keys and values may take
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class KeyValueSlots:
    """Keys and values of `count` sequences of at most `capacity` tokens, for each layer once it is first written."""

    count: int
    capacity: int
    device: torch.device
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Number of the layer → keys and values, each (count, heads, capacity, head_dim)."""
    sliding_windows: set[int | None] = field(default_factory=set)
    """How many positions back layers have attended; None for all."""
    num_resizes: int = 0
    """How often the keys and values have moved to other memory."""

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values; its first tokens, (1, heads, T, head_dim), determine heads and widths."""
        if index not in self.layers:
            self.layers[index] = (self._zeros(key), self._zeros(value))
        return self.layers[index]

    def resize(self, count: int, capacity: int, lengths: Sequence[int]) -> None:
        """Change number and capacity of the slots, layer by layer, so that only one layer is in memory twice.

        If memory runs out in between, the slots have their old size, and are empty.

        Args:
            count: Slots.
            capacity: Most tokens of a slot.
            lengths: Number of positions that are kept of each of the first slots.
        """
        before = self.count, self.capacity
        self.count, self.capacity = count, capacity
        self.num_resizes += 1
        slots = range(len(lengths))
        groups = cache(partial(_copy_groups, slots, slots, lengths))
        try:
            for index, pair in self.layers.items():
                keys, values = self._zeros(pair[0]), self._zeros(pair[1])
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
            targets: The slots that they are copied to.
            lengths: Number of positions of each.
        """
        groups = cache(partial(_copy_groups, sources, targets, lengths))  # on each device once for all layers
        for pair in self.layers.values():
            for tensor in pair:
                pieces = [tensor[here, :, :length] for here, _, length in groups(tensor.device)]
                for piece, (_, there, length) in zip(pieces, groups(tensor.device), strict=True):
                    tensor[there, :, :length] = piece

    def blank(self, slot: int) -> None:
        """Fill a slot with zeros."""
        with torch.inference_mode():  # the slots were made in it
            for pair in self.layers.values():
                for tensor in pair:
                    tensor[slot] = 0

    def _zeros(self, like: Tensor) -> Tensor:
        """Return zeros for all slots: masked values still enter a product, and memory never written may hold NaN."""
        shape = (self.count, like.shape[1], self.capacity, like.shape[3])
        if like.device.type == "cuda":  # position by position, as its kernels read
            return like.new_zeros((shape[0], shape[2], shape[1], shape[3])).transpose(1, 2)
        if like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
            return like.new_zeros(shape)
        try:  # mapped pages are zero, and take no memory until they are written to
            size = math.prod(shape) * like.dtype.itemsize
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise torch.OutOfMemoryError(f"out of memory: no {size} bytes for {self.count} rows ({error})") from error
        return torch.frombuffer(memory, dtype=like.dtype).view(shape)


def _copy_groups(
    sources: Sequence[int], targets: Sequence[int], lengths: Sequence[int], device: torch.device
) -> list[tuple[Tensor, Tensor, int]]:
    """Group slots that are copied at once; lengths within a group differ by less than a factor of two.

    Returns:
        For each group (sources, targets, number of positions).
    """
    kinds: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        if length:
            kinds.setdefault(length.bit_length(), []).append(place)
    groups = []
    for places in kinds.values():
        here, there = torch.tensor([[slots[place] for place in places] for slots in (sources, targets)], device=device)
        groups.append((here, there, max(lengths[place] for place in places)))
    return groups


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, so that less at once may succeed."""
    if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def cache_memory(device: torch.device) -> int:
    """Return the memory that keys and values may take on a device, a share of its free memory, in bytes."""
    is_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if is_cuda else psutil.virtual_memory().available
    return int(free * _CACHE_SHARE.get(device.type, _CACHE_SHARE["cuda"]))


def free_memory() -> None:
    """Give the memory of deleted tensors back to the device."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def split_on_oom(
    compute: Callable[[Sequence[T]], list[R]], items: Sequence[T], describe: Callable[[T], str]
) -> list[R]:
    """Compute a result for each item, all at once or, where memory runs out, in halves.

    Args:
        compute: Items → one result for each.
        items: One item at least.
        describe: Item → its description for the error.

    Raises:
        GenerationError: If one item alone runs out of memory.
    """
    try:
        return compute(items)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise GenerationError(f"out of memory with {describe(items[0])} alone; use a smaller model.") from error
    half = len(items) // 2
    logger.warning("Out of memory with %d requests in one forward; continuing with %d.", len(items), len(items) - half)
    free_memory()  # outside the handler, whose traceback holds the tensors
    parts = (items[:half], items[half:])
    return [result for part in parts for result in split_on_oom(compute, part, describe)]
