"""How much memory a device has left, giving back what isn't needed, and going on with less at once."""

import gc
import logging
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size

from hfsynth.engine.attention import Prefill, Segment, forward, window_of
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.errors import GenerationError

logger = logging.getLogger(__name__)
_FREE = {"cpu": 0.4, "cuda": 0.8}  # share of the free memory that keys and values may take
# memory that ran out in words that accelerate doesn't know: of a library that CUDA calls, of CUDA itself
_TOLD = ("_STATUS_ALLOC_FAILED", "error: out of memory")
T = TypeVar("T")
R = TypeVar("R")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, so that less of it may go well."""
    if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TOLD)


def available_memory(device: torch.device) -> int:
    """Return what is free on a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def cache_bytes_per_token(model: Any) -> dict[torch.device, int]:
    """Return what the keys and values of one token take on each device that has layers of a model, in bytes.

    Two tokens are read to see: layers may differ, and what they keep isn't always what a configuration speaks of.

    Args:
        model: A transformers causal language model whose attention function is `attention.attend`.
    """
    slots = KeyValueSlots(1, window_of(2), model.device)
    with torch.inference_mode():
        forward(model, [0, 0], Prefill(slots, [Segment(0, 0, 2)], model.device))
    taken = dict[torch.device, int]()
    for tensor in chain.from_iterable(slots.layers.values()):
        taken[tensor.device] = taken.get(tensor.device, 0) + tensor.nbytes // slots.capacity
    return taken


def tokens_fitting(model: Any) -> int:
    """Return for how many tokens' keys and values there is memory, on every device that has layers of a model."""
    return min(
        int(available_memory(device) * _FREE.get(device.type, _FREE["cuda"])) // taken
        for device, taken in cache_bytes_per_token(model).items()
    )


def free_memory() -> None:
    """Give back what tensors that are gone have left behind."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def compute_fitting(
    compute: Callable[[Sequence[T]], list[R]], items: Sequence[T], name: Callable[[T], str]
) -> list[R]:
    """Compute something of items, all at once or, where memory runs out, in halves.

    Args:
        compute: What gives one result for each item it is given.
        items: At least one.
        name: Says what an item is, in the error.

    Raises:
        GenerationError: If one item alone runs out of memory.
    """
    try:
        return compute(items)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise GenerationError(f"out of memory with {name(items[0])} alone; use a smaller model.") from error
    half = len(items) // 2
    logger.warning("memory holds no %d requests of the same forward: on with %d", len(items), len(items) - half)
    free_memory()  # outside the handler, whose traceback holds the tensors
    parts = (items[:half], items[half:])
    return [result for part in parts for result in compute_fitting(compute, part, name)]
