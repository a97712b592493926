"""The least time that a model's work takes on a device, from what is measured there: the roofline of `generation.py`.

A step takes as long as its matrix products, or as reading the weights of its linear layers and the keys and values of
its rows, whichever is longer; so does each forward over prompts. All slots are taken to be in use, and attention,
norms, sampling and Python to take no time.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from hfsynth.engine.model import PackedLinear
from hfsynth.engine.scheduler import cache_bytes_per_token

_PREFILL = 1024  # tokens of prompts in one forward
_READ = 2**29  # bytes that are read to measure the memory: more than caches hold


def roofline(model: Any, slots: int, rows: list[tuple[int, int]], read: int, size: int = _READ) -> dict[str, float]:
    """Work out the tokens per second that are possible at most.

    Args:
        model: What is run, as it is run.
        slots: Rows of a step.
        rows: Of each, the tokens of its prompt and those it wrote.
        read: Tokens of prompts that were computed.
        size: Bytes to read, to measure the memory.

    Returns:
        The memory's bytes per second, and tokens per second if only matrix products took time, if only reading the
        memory did, and if each forward took the longer of both.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear | torch.nn.Linear)]
    body = [layer for layer in layers if layer is not model.get_output_embeddings()]
    written, slots = sum(count for _, count in rows), min(slots, len(rows))
    steps, forwards = written / slots, read / _PREFILL
    # a row's n-th step reads the keys and values of its prompt and of the n tokens before
    kept = sum(cache_bytes_per_token(model).values()) * sum(count * (prompt + count / 2) for prompt, count in rows)
    speed = bandwidth(model.device, size)
    products = seconds_of_products(model, layers, slots), seconds_of_products(model, body, _PREFILL)
    reading = (weight_bytes(model, layers) + kept / steps) / speed, weight_bytes(model, body) / speed
    longer = max(products[0], reading[0]), max(products[1], reading[1])

    def tokens_per_second(step: float, forward: float) -> float:
        return written / (steps * step + forwards * forward)

    return {
        "bytes_per_second": speed,
        "products": tokens_per_second(*products),
        "reading": tokens_per_second(*reading),
        "tokens_per_second": tokens_per_second(*longer),
    }


def weight_bytes(model: Any, layers: list[Any]) -> int:
    """Return what the weights of linear layers take."""
    return sum(layer.in_features * layer.out_features * model.dtype.itemsize for layer in layers)


def seconds_of_products(model: Any, layers: list[Any], count: int) -> float:
    """Return how long a model's linear layers take for so many tokens."""
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
    """Return how long something takes at best, of a few times."""
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
    """Wait for what a device has still to do, so that it is counted where it was asked for."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
