"""Attention on a CUDA device by FlashAttention's kernel for sequences of any lengths: no masks and no length buckets.

Pieces of prompts and single tokens are all the same to the kernel: it reads each sequence in its slot up to its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from hfsynth.engine.attention import AttentionParams, Segment, attend
from hfsynth.engine.kv_cache import KeyValueSlots

VARLEN = "hfsynth-varlen"
"""The name of `attend` among transformers' attention functions, for a model whose batches are `VarlenBatch`."""
_DTYPES = (torch.bfloat16, torch.float16)
AttentionInterface.register(VARLEN, attend)


def has_varlen_kernel(model: Any) -> bool:
    """Whether the kernel may run a model: on one CUDA device, in 16 bits. `install_attention` then tries it."""
    devices = {parameter.device for parameter in model.parameters()}
    return {device.type for device in devices} == {"cuda"} and len(devices) == 1 and model.dtype in _DTYPES


@dataclass
class VarlenBatch:
    """The tokens of a forward, T of N sequences, one sequence after the other."""

    slots: KeyValueSlots
    positions: Tensor
    """Position of each token in its sequence, (T,)."""
    places: Tensor
    """Place of each token among the positions of all slots, (T,)."""
    query_starts: Tensor
    """Index of each sequence's first token, and T: (N + 1,), int32."""
    key_starts: Tensor
    """Place of each slot's first position, and any number: (N + 1,), int32."""
    lengths: Tensor
    """Number of positions of each slot that are read, those of the new tokens included: (N,), int32."""
    max_tokens: int
    """Most tokens of one sequence; with 1, each sequence has one."""

    @classmethod
    def of(cls, slots: KeyValueSlots, segments: Sequence[Segment], device: torch.device) -> "VarlenBatch":
        """Lay out pieces of prompts."""
        counts = [part.stop - part.start for part in segments]
        firsts = [part.slot * slots.capacity for part in segments]
        positions, places = list[int](), list[int]()
        for part, first in zip(segments, firsts, strict=True):
            positions += range(part.start, part.stop)
            places += range(first + part.start, first + part.stop)
        tokens = torch.tensor([positions, places], device=device)
        sequences = torch.tensor(
            [[0, *accumulate(counts)], [*firsts, 0], [*(part.stop for part in segments), 0]],
            dtype=torch.int32,
            device=device,
        )
        return cls(slots, tokens[0], tokens[1], sequences[0], sequences[1], sequences[2, :-1], max(counts))

    @classmethod
    def of_decode(cls, slots: KeyValueSlots, slot: Tensor, positions: Tensor) -> "VarlenBatch":
        """Lay out one token for each of some slots, (N,); computed on the device, so that a CUDA graph contains it."""
        firsts = slot * slots.capacity
        query_starts = torch.arange(len(slot) + 1, dtype=torch.int32, device=slot.device)
        key_starts = torch.cat([firsts, firsts[:1]]).int()
        return cls(slots, positions, firsts + positions, query_starts, key_starts, (positions + 1).int(), 1)

    @property
    def num_tokens(self) -> int:
        """See AttentionBatch.num_tokens."""
        return len(self.positions)

    def write(self, target: Tensor, new: Tensor) -> None:
        """See AttentionBatch.write."""
        _by_place(target).index_copy_(0, self.places, new[0].transpose(0, 1))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, params: AttentionParams) -> Tensor:
        """See AttentionBatch.attend."""
        # the only token of a sequence sees all that is read; without a window, the kernel reads a key head once for
        # all its query heads
        left = -1 if params.sliding_window is None else params.sliding_window - 1
        is_causal = self.max_tokens > 1
        attended = _flash_attention(
            query[0].transpose(0, 1),
            _by_place(keys),
            _by_place(values),
            self,
            params.scaling,
            (left, 0 if is_causal or left >= 0 else -1),
        )
        return attended[None]


def _by_place(slots: Tensor) -> Tensor:
    """Return a view of slots one after the other: (slots, heads, capacity, dim) → (slots × capacity, heads, dim)."""
    return slots.transpose(1, 2).view(-1, slots.shape[1], slots.shape[3])


def _flash_attention(
    query: Tensor, keys: Tensor, values: Tensor, batch: VarlenBatch, scaling: float | None, window: tuple[int, int]
) -> Tensor:
    """Return the attention of each token to its sequence, (T, query heads, value_dim).

    torch's public function for this kernel takes the lengths of sequences since torch 2.12, its private one since 2.5;
    this function is all that touches it.

    Args:
        query: (T, query heads, head_dim).
        keys: (places, heads, head_dim).
        values: (places, heads, value_dim).
        batch: Where the sequences are.
        scaling: Factor of the scores; None for 1/√head_dim.
        window: Positions before and after a token that it attends to, as the last positions of the sequence are the
            tokens'; -1 for all.
    """
    attended: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        keys,
        values,
        batch.query_starts,
        batch.key_starts,
        batch.max_tokens,
        batch.slots.capacity,
        0.0,
        window == (-1, 0),
        False,
        scale=scaling,
        window_size_left=window[0],
        window_size_right=window[1],
        seqused_k=batch.lengths,
    )[0]
    return attended
