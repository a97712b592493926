"""Attention on a CUDA device by FlashAttention's kernel for sequences of any lengths: no masks and no length buckets.

The kernel takes the slot and the length of each sequence, so pieces of prompts and decode steps have one layout.
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
    slot_mapping: Tensor
    """Index of each token's position among the positions of all slots, (T,)."""
    cu_seqlens_q: Tensor
    """Index of each sequence's first token, and T: (N + 1,), int32."""
    slot_starts: Tensor
    """Index of each slot's first position; the kernel ignores the last entry. (N + 1,), int32."""
    lengths: Tensor
    """Number of positions of each slot that are read, those of the new tokens included: (N,), int32."""
    max_tokens: int
    """Most tokens of one sequence; with 1, each sequence has one."""

    @classmethod
    def of(cls, slots: KeyValueSlots, segments: Sequence[Segment], device: torch.device) -> "VarlenBatch":
        """Lay out pieces of prompts.

        Args:
            slots: The slots.
            segments: The pieces, one of a slot.
            device: That of the slots.
        """
        counts = [part.stop - part.start for part in segments]
        firsts = [part.slot * slots.capacity for part in segments]
        positions, slot_mapping = list[int](), list[int]()
        for part, first in zip(segments, firsts, strict=True):
            positions += range(part.start, part.stop)
            slot_mapping += range(first + part.start, first + part.stop)
        tokens = torch.tensor([positions, slot_mapping], device=device)
        sequences = torch.tensor(
            [[0, *accumulate(counts)], [*firsts, 0], [*(part.stop for part in segments), 0]],
            dtype=torch.int32,
            device=device,
        )
        return cls(slots, tokens[0], tokens[1], sequences[0], sequences[1], sequences[2, :-1], max(counts))

    @classmethod
    def of_decode(cls, slots: KeyValueSlots, slot: Tensor, positions: Tensor) -> "VarlenBatch":
        """Lay out one token for each of some sequences, on their device, so that a CUDA graph contains the layout.

        Args:
            slots: The slots.
            slot: The slot of each sequence, (N,), int64.
            positions: The position of each token, (N,), int64.
        """
        firsts = slot * slots.capacity
        cu_seqlens_q = torch.arange(len(slot) + 1, dtype=torch.int32, device=slot.device)
        slot_starts = torch.cat([firsts, firsts[:1]]).int()
        return cls(slots, positions, firsts + positions, cu_seqlens_q, slot_starts, (positions + 1).int(), 1)

    @property
    def num_tokens(self) -> int:
        """See AttentionBatch.num_tokens."""
        return len(self.positions)

    def write(self, target: Tensor, new: Tensor) -> None:
        """See AttentionBatch.write."""
        _flatten_slots(target).index_copy_(0, self.slot_mapping, new[0].transpose(0, 1))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, params: AttentionParams) -> Tensor:
        """See AttentionBatch.attend."""
        # the only token of a sequence sees all that is read; without a window, the kernel reads a key head once for
        # all its query heads
        left = -1 if params.sliding_window is None else params.sliding_window - 1
        is_causal = self.max_tokens > 1
        attended = flash_attention(
            query[0].transpose(0, 1),
            _flatten_slots(keys),
            _flatten_slots(values),
            self,
            params.scaling,
            (left, 0 if is_causal or left >= 0 else -1),
        )
        return attended[None]


def _flatten_slots(slots: Tensor) -> Tensor:
    """Return a view of slots one after the other: (slots, heads, capacity, dim) → (slots × capacity, heads, dim)."""
    return slots.transpose(1, 2).view(-1, slots.shape[1], slots.shape[3])


def flash_attention(
    query: Tensor, keys: Tensor, values: Tensor, batch: VarlenBatch, scaling: float | None, window: tuple[int, int]
) -> Tensor:
    """Return the attention of each token to its sequence, (T, query heads, value_dim).

    torch's public function for this kernel takes the lengths of sequences since torch 2.12, its private one since 2.5;
    this function is all that touches it.

    Args:
        query: (T, query heads, head_dim).
        keys: (slots × capacity, heads, head_dim).
        values: (slots × capacity, heads, value_dim).
        batch: Where the sequences are.
        scaling: Factor of the scores; None for 1/√head_dim.
        window: Positions before and after its own that a token attends to, -1 for all; the tokens have the last
            positions of their sequence.
    """
    attended: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        keys,
        values,
        batch.cu_seqlens_q,
        batch.slot_starts,
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
