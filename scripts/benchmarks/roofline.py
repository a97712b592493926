"""Compute the roofline of `generation.py`: the least time of a model's work, from measured speeds of its device.

The time of a step is the longer of two: that of its matrix products, and that of reading the weights of its linear
layers and the keys and values of its rows. The same holds for each forward over prompts. All slots count as in use,
and attention, norms, sampling and Python as taking no time.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from hfsynth.engine.packed_linear import PackedLinear
from hfsynth.engine.scheduler import cache_bytes_per_token

_PREFILL = 1024  # tokens of prompts in one forward
_READ = 2**29  # bytes that are read to measure the memory: more than caches hold


def roofline(model: Any, slots: int, rows: list[tuple[int, int]], read: int, size: int = _READ) -> dict[str, float]:
    """Compute the largest possible number of tokens per second.

    Args:
        model: The model, with its linear layers packed if the loop packs them.
        slots: Rows of a step.
        rows: The prompt tokens and the completion tokens of each row.
        read: Prompt tokens that were computed.
        size: Bytes to read, to measure the memory.

    Returns:
        The memory's bytes per second; the tokens per second by matrix products alone, by reading alone, and by the
        longer of both in each forward.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear | torch.nn.Linear)]
    body = [layer for layer in layers if layer is not model.get_output_embeddings()]
    written, slots = sum(count for _, count in rows), min(slots, len(rows))
    steps, forwards = written / slots, read / _PREFILL
    # a row's n-th step reads the keys and values of its prompt and of the n tokens before
    kept = sum(cache_bytes_per_token(model).values()) * sum(count * (prompt + count / 2) for prompt, count in rows)
    speed = bandwidth(model.device, size)
    products = seconds_of_products(model, layers, slots), seconds_of_products(model, body, _PREFILL)
    reading = (weight_bytes(layers) + kept / steps) / speed, weight_bytes(body) / speed
    longer = max(products[0], reading[0]), max(products[1], reading[1])

    def tokens_per_second(step: float, forward: float) -> float:
        return written / (steps * step + forwards * forward)

    return {
        "bytes_per_second": speed,
        "products": tokens_per_second(*products),
        "reading": tokens_per_second(*reading),
        "tokens_per_second": tokens_per_second(*longer),
    }


def weight_bytes(layers: list[Any]) -> int:
    """Return the size of the weights of linear layers, in bytes."""
    return sum(layer.in_features * layer.out_features * stored_dtype(layer).itemsize for layer in layers)


def stored_dtype(layer: Any) -> torch.dtype:
    """Return the type that a layer's weight is stored in."""
    dtype: torch.dtype = layer.packed.dtype if isinstance(layer, PackedLinear) else layer.weight.dtype
    return dtype


def seconds_of_products(model: Any, layers: list[Any], count: int) -> float:
    """Return the seconds that a model's linear layers take for `count` tokens."""
    like = {"device": model.device, "dtype": model.dtype}
    inputs = {width: torch.randn(1, count, width, **like) for width in {layer.in_features for layer in layers}}

    def run() -> None:
        for layer in layers:
            layer(inputs[layer.in_features])

    return least_seconds(run, model.device)


def bandwidth(device: torch.device, size: int = _READ) -> float:
    """Return how many bytes a device reads from its memory in a second."""
    numbers = torch.ones(size // 4, device=device)
    return size / least_seconds(numbers.sum, device)


def least_seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of five measured times of a call, in seconds."""
    taken = []
    with torch.inference_mode():
        for _ in range(5):
            settle(device)
            began = time.perf_counter()
            run()
            settle(device)
            taken.append(time.perf_counter() - began)
    return min(taken)


def settle(device: torch.device) -> None:
    """Wait for a device's queued work, so that the call that queued it is the one that is timed."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
