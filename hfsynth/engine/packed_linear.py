"""Linear layers on a CPU, their weights stored in the layout that a library's kernels read.

FBGEMM  a float32 model's weights in float16, where no precision is lost by it, as with every 16-bit checkpoint
oneDNN  all other weights, in the model's type
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)
_DTYPES = (torch.bfloat16, torch.float32)
_ROWS = 64  # rows of an input that oneDNN's layout is chosen for
# The products that decide on a dtype: of some rows, in weights that a core's cache doesn't hold.
_TRIAL_ROWS, _TRIAL_WIDTH, _TRIAL_LAYERS = 24, 1024, 8
_TRIALS = 20  # the first ones start threads


class PackedWeight(Protocol):
    """A packed weight, (out, in), with the bias of its layer."""

    dtype: torch.dtype
    """The type that it is stored in."""

    def dense(self) -> Tensor:
        """Return the weight in its usual layout, (out, in), in the model's type."""

    def multiply(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias, (…, in) → (…, out)."""


class PackedLinear(nn.Module):
    """A linear layer with a packed weight.

    Args:
        linear: The layer that it computes the same as, of a type that `can_pack` allows.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = pack(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())

    @property
    def weight(self) -> Tensor:
        """The weight in its usual layout, (out, in): some models compute with a layer's weight themselves."""
        return self.packed.dense()

    def forward(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias, (…, in) → (…, out)."""
        return self.packed.multiply(x)


def pack_linears(model: Any) -> int:
    """Replace a model's linear layers by packed ones, where its device is a CPU whose kernels take them.

    Returns:
        The number of layers replaced.
    """
    if model.device.type != "cpu" or not can_pack(model.dtype):
        return 0
    found = [  # no layers: each is freed as soon as it is replaced, so only one for each thread is in memory twice
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.dtype in _DTYPES
    ]
    # FBGEMM packs a weight with one thread, at 15 ns a number
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(_replace, *zip(*found, strict=True)) if found else ())
    return len(found)


@torch.inference_mode(False)
@torch.no_grad()
def _replace(parent: nn.Module, name: str) -> None:
    setattr(parent, name, PackedLinear(getattr(parent, name)))


def pack(weight: Tensor, bias: Tensor | None = None) -> PackedWeight:
    """Return a weight, (out, in), of a type that `can_pack` allows, with the bias of its layer, packed."""
    fits = weight.dtype is torch.float32 and has_fbgemm() and is_float16(weight)
    return Float16Weight(weight, bias) if fits else OneDnnWeight(weight, bias)


def is_float16(weight: Tensor) -> bool:
    """Whether float16 stores float32 weights with no more error than float32 has itself, by their norm.

    bfloat16 numbers from 2⁻¹⁷ to 65,504 are float16 numbers, too; smaller ones are off by 2⁻²⁵ at most.
    """
    error = weight.half().float().sub_(weight).norm()
    return bool(error <= torch.finfo(torch.float32).eps * weight.norm())


def faster_cpu_dtype(dtype: torch.dtype, name: str) -> torch.dtype:
    """Return float32 where this CPU multiplies faster in it than in a 16-bit type, otherwise the type; log why.

    Args:
        dtype: The type of a checkpoint.
        name: The model, for the log.
    """
    if dtype.itemsize != 2:
        return dtype
    threads = torch.get_num_threads()
    seconds = {kind: seconds_of_product(kind, threads) for kind in (torch.float32, dtype)}
    chosen = min(seconds, key=lambda kind: seconds[kind])
    logger.log(
        logging.WARNING if chosen is torch.float32 else logging.INFO,
        "dtype auto: %s is computed in %s on this CPU (%s, %d threads), where a product of %d rows takes %s.",
        name,
        _dtype_name(chosen),
        torch.backends.cpu.get_cpu_capability(),
        threads,
        _TRIAL_ROWS,
        " and ".join(f"{taken * 1e3:.2f} ms in {_dtype_name(kind)}" for kind, taken in seconds.items()),
    )
    return chosen


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def seconds_of_product(dtype: torch.dtype, threads: int) -> float:  # noqa: ARG001 - part of the cache's key
    """Return the seconds of a linear layer of a 16-bit checkpoint on this CPU; measured once for a thread count."""
    weights = [torch.zeros(_TRIAL_WIDTH, _TRIAL_WIDTH, dtype=dtype) for _ in range(_TRIAL_LAYERS)]
    x = torch.zeros(_TRIAL_ROWS, _TRIAL_WIDTH, dtype=dtype)
    with torch.inference_mode():
        is_packed = can_pack(dtype)
        products = [pack(weight).multiply if is_packed else partial(_product, weight) for weight in weights]
        seconds = []
        for _ in range(_TRIALS):
            began = time.perf_counter()
            for product in products:
                product(x)
            seconds.append(time.perf_counter() - began)
    return min(seconds) / _TRIAL_LAYERS


def _product(weight: Tensor, x: Tensor) -> Tensor:
    return nn.functional.linear(x, weight)


# torch's operations for packed weights are private; the rest of this file is all that touches them.


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU have kernels for packed weights of a model's type."""
    ops = torch.ops.mkldnn
    if dtype not in _DTYPES or not torch._C._has_mkldnn or not hasattr(ops, "_linear_pointwise"):
        return False
    return dtype is torch.float32 or bool(ops._is_mkldnn_bf16_supported())


def has_fbgemm() -> bool:
    """Whether this torch and this CPU have FBGEMM's kernels for float16 weights."""
    return torch.backends.quantized.engine in ("fbgemm", "x86") and hasattr(torch.ops.quantized, "linear_dynamic_fp16")


class OneDnnWeight:
    """A weight in the layout of oneDNN's kernels, in the model's type."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.dtype, self._bias = weight.dtype, bias
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)

    def dense(self) -> Tensor:
        """See PackedWeight.dense."""
        return self._packed.to_dense()

    def multiply(self, x: Tensor) -> Tensor:
        """See PackedWeight.multiply."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return product


class Float16Weight:
    """A weight in the layout of FBGEMM's kernels, stored in float16; inputs, sums and products are float32."""

    dtype = torch.float16

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed: Any = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def dense(self) -> Tensor:
        """See PackedWeight.dense."""
        weight: Tensor = torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
        return weight

    def multiply(self, x: Tensor) -> Tensor:
        """See PackedWeight.multiply."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return product
