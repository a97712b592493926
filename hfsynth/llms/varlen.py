"""Attention by one kernel that reads rows of any lengths: FlashAttention, as torch brings it for CUDA.

No mask is made and nothing is read beyond a row's end, so there are no windows; pieces of prompts and single tokens
are all the same to it. Keys are summed in one piece, not split as a row's company would have it: a row is read alike
whatever else is in the forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

NAME = "hfsynth-varlen"
"""Under which transformers knows it."""
_DTYPES = (torch.bfloat16, torch.float16)
_CAPABILITY = (8, 0)  # of the oldest device that the kernel runs on


@dataclass(frozen=True)
class Spans:
    """Whose the tokens of a forward are, for the first N slots one after the other."""

    queries: Tensor
    """Where each slot's tokens begin among those of the forward, and the end: (N + 1,), int32."""
    keys: Tensor
    """Where each slot begins among the positions of all, and the end: (N + 1,), int32."""
    used: Tensor
    """How many positions of each slot are read, its new tokens among them: (N,), int32."""
    most: int
    """No slot has more tokens than this; 1 says that each has one."""
    capacity: int
    """Positions of each slot."""

    @classmethod
    def of(cls, counts: Sequence[int], used: Sequence[int], capacity: int, device: torch.device) -> "Spans":
        """Lay out how many tokens each slot has in a forward, and how many positions are read for them."""
        begins = _int32([0, *accumulate(counts)], device)
        most = 1 if set(counts) == {1} else max(2, *counts)
        return cls(begins, _starts(len(counts), capacity, device), _int32(used, device), most, capacity)

    @classmethod
    def of_step(cls, used: Tensor, capacity: int) -> "Spans":
        """Lay out a step, in which each slot has one token: what is read of them, (N,), is on the device already."""
        count, device = len(used), used.device
        begins = torch.arange(count + 1, dtype=torch.int32, device=device)
        return cls(begins, _starts(count, capacity, device), used.to(torch.int32), 1, capacity)


def can_read(model: Any) -> bool:
    """Whether a model's device and type have the kernel; whether it reads this model rightly is for a trial to say."""
    if model.device.type != "cuda" or torch.version.cuda is None or model.dtype not in _DTYPES:
        return False
    if torch.cuda.get_device_capability(model.device) < _CAPABILITY:
        return False
    return find_spec("torch.nn.attention.varlen") is not None


def is_used(model: Any) -> bool:
    """Whether a model's attention, or that of a layer of its, has been replaced by this."""
    return bool(model.config._attn_implementation == NAME)


def read(
    query: Tensor, keys: Tensor, values: Tensor, spans: Spans, scaling: float | None, reach: int | None
) -> Tensor:
    """Attend from the tokens of a forward to their slots, each to the positions up to its own.

    Args:
        query: (1, query heads, T, width).
        keys: (slots, heads, capacity, width), in memory token by token.
        values: Likewise.
        spans: Whose the tokens are.
        scaling: Of the scores; None for the usual.
        reach: How many positions back is attended; None for all.

    Returns:
        (1, T, query heads, width).
    """
    from torch.nn.attention.varlen import varlen_attn  # torch before 2.10 has none

    # a slot's only token sees all that is read of it, and with no window to keep the kernel takes a shorter way
    window = (-1, -1) if spans.most == 1 and reach is None else (-1 if reach is None else reach - 1, 0)
    made = varlen_attn(
        query[0].transpose(0, 1),
        _in_a_row(keys),
        _in_a_row(values),
        spans.queries,
        spans.keys,
        spans.most,
        spans.capacity,
        scale=scaling,
        window_size=window,
        enable_gqa=query.shape[1] != keys.shape[1],
        seqused_k=spans.used,
        num_splits=1,
    )
    assert isinstance(made, Tensor)  # not told to return anything else
    return made[None]


def _in_a_row(kept: Tensor) -> Tensor:
    """Put slots one behind the other, copying nothing: (slots, heads, capacity, width) → (positions, heads, width)."""
    return kept.transpose(1, 2).view(-1, kept.shape[1], kept.shape[3])


def _starts(count: int, capacity: int, device: torch.device) -> Tensor:
    return torch.arange(0, (count + 1) * capacity, capacity, dtype=torch.int32, device=device)


def _int32(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32).to(device, non_blocking=True)  # in the middle of a forward
