"""Linear layers on a CPU, their weights stored in the layout that a library's kernels read.

FBGEMM  float32 weights, in float16, where it holds their numbers, as it does those of nearly all 16-bit checkpoints
oneDNN  all other weights, in their own type
"""

import logging
import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)
_ROWS = 64  # rows of an input that oneDNN's layout is chosen for
_CHECKED_NUMBERS = 1 << 22  # numbers of a weight that are compared with float16 at once
_MAX_NUMBERS = 1 << 31  # FBGEMM computes the size of a weight in 32 bits
_PACKING_THREADS = 8  # each has a layer in memory twice
# The products that decide on a dtype, in weights that a core's cache doesn't hold. On 2 cores of a Xeon that has
# AVX512-BF16 and no AMX, SmolLM2-135M decoded as fast in float32 as in bfloat16 up to 16 rows, 1.1 times as fast with
# 24 to 48, and read prompts 1.2 to 1.3 times as fast.
_TRIAL_ROWS, _TRIAL_WIDTH, _TRIAL_LAYERS = 24, 1024, 8
_TRIALS = 20  # the first ones start threads


class PackedWeight(Protocol):
    """A packed weight, (out, in), with the bias of its layer."""

    dtype: torch.dtype
    """The type that it is stored in."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None: ...

    def dense(self) -> Tensor:
        """Return the weight in its usual layout, (out, in), in the layer's type."""

    def multiply(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias, (…, in) → (…, out)."""


class PackedLinear(nn.Module):
    """A linear layer with a packed weight.

    Args:
        linear: The layer that it computes the same as, of a type that `can_pack` allows.
        kind: How its weight is packed; by default `packing_of` it.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, kind: type[PackedWeight] | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)
        weight = linear.weight.detach()
        self.packed = (kind or packing_of(weight))(weight, self.bias)

    @property
    def weight(self) -> Tensor:
        """The weight in its usual layout, (out, in), unpacked each time: some models compute with it themselves."""
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
    found = [  # no layers: each is freed as soon as it is replaced
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and can_pack(child.weight.dtype)
    ]
    workers = min(torch.get_num_threads(), _PACKING_THREADS)
    running: deque[Future[None]] = deque()
    # FBGEMM packs a weight with one thread, at 15 ns a number; all else is done here, where torch's threads are
    with ThreadPoolExecutor(workers) as threads:
        for parent, name in found:
            kind = packing_of(getattr(parent, name).weight.detach())
            if kind is not Float16Weight:
                _replace(parent, name, kind)
                continue
            if len(running) == workers:
                running.popleft().result()
            running.append(threads.submit(_replace, parent, name, kind))
        for replacement in running:
            replacement.result()
    return len(found)


def _replace(parent: nn.Module, name: str, kind: type[PackedWeight]) -> None:
    setattr(parent, name, PackedLinear(getattr(parent, name), kind))


def packing_of(weight: Tensor) -> type[PackedWeight]:
    """Return how a weight, (out, in), is packed, of a type that `can_pack` allows."""
    numbers = -(-weight.shape[0] // 32) * 32 * -(-weight.shape[1] // 512) * 512  # as FBGEMM fills them up
    if weight.dtype is not torch.float32 or numbers >= _MAX_NUMBERS or not has_fbgemm() or not is_float16(weight):
        return OneDnnWeight
    return Float16Weight


def is_float16(weight: Tensor) -> bool:
    """Whether float16 stores a float32 weight with no more error than float32 has itself, by their norms.

    bfloat16 numbers from 2⁻¹⁷ to 65,504 are float16 numbers, too; smaller ones are off by 2⁻²⁵ at most.
    """
    errors, norms = [], []
    for rows in torch.split(weight, max(_CHECKED_NUMBERS // max(weight.shape[1], 1), 1)):
        errors.append(_norm(rows.half().float().sub_(rows)))
        norms.append(_norm(rows))
    return math.hypot(*errors) <= torch.finfo(torch.float32).eps * math.hypot(*norms) < math.inf


def _norm(numbers: Tensor) -> float:
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64))


def faster_cpu_dtype(dtype: torch.dtype, name: str, is_packed: bool = True) -> torch.dtype:
    """Return float32 where this CPU multiplies faster in it than in a 16-bit type, otherwise the type; log why.

    Args:
        dtype: The type of a checkpoint.
        name: The model, for the log.
        is_packed: Whether `pack_linears` packs the model's weights.
    """
    if dtype.itemsize != 2:
        return dtype
    threads = torch.get_num_threads()
    seconds = {kind: seconds_of_product(kind, threads, is_packed) for kind in (torch.float32, dtype)}
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


def consists_of_linears(model: nn.Module) -> bool:
    """Whether at least half of a model's weights are those of linear layers; those of experts often aren't."""
    linear = sum(layer.weight.numel() for layer in model.modules() if type(layer) is nn.Linear)
    return 2 * linear >= sum(weight.numel() for weight in model.parameters())


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def seconds_of_product(dtype: torch.dtype, threads: int, is_packed: bool) -> float:  # noqa: ARG001 - part of the cache's key
    """Return the seconds of a linear layer on this CPU, its weight stored as that of a 16-bit checkpoint is.

    Measured once for a thread count.

    Args:
        dtype: The type that it is computed in.
        threads: torch's threads.
        is_packed: Whether its weight is packed, where `can_pack` allows it.
    """
    weights = [torch.zeros(_TRIAL_WIDTH, _TRIAL_WIDTH, dtype=dtype) for _ in range(_TRIAL_LAYERS)]
    x = torch.zeros(_TRIAL_ROWS, _TRIAL_WIDTH, dtype=dtype)
    with torch.inference_mode():
        if is_packed and can_pack(dtype):
            products = [packing_of(weight)(weight, None).multiply for weight in weights]
        else:
            products = [partial(_product, weight) for weight in weights]
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
    if not torch._C._has_mkldnn or not hasattr(ops, "_linear_pointwise"):
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported()))


def has_fbgemm() -> bool:
    """Whether this torch and this CPU have FBGEMM's kernels for float16 weights."""
    return torch.backends.quantized.engine in ("fbgemm", "x86") and hasattr(torch.ops.quantized, "linear_dynamic_fp16")


class OneDnnWeight:
    """A weight in the layout of oneDNN's kernels, in its own type."""

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
