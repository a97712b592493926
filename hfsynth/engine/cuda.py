"""Forwards on one CUDA device: FlashAttention for sequences of any lengths, and decode steps as CUDA graphs.

VarlenBatch    the tokens of a forward. The kernel takes the slot and the length of each sequence, so pieces of prompts
               and decode steps have one layout, without masks and buckets.
CudaForwards   forwards by it. A step of a small model is hundreds of kernels, and launching one from Python takes
               longer than running it. A CUDA graph launches all of them in one call, on fixed memory; each step first
               copies its tokens, slots and positions there. There is a graph for each power of two of sequences from
               16 on.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import AttentionInterface

from hfsynth.engine.attention import AttentionParams, Segment, attend, forward
from hfsynth.engine.kv_cache import KeyValueSlots

logger = logging.getLogger(__name__)
VARLEN = "hfsynth-varlen"
"""The name of `attend` among transformers' attention functions, for a model whose batches are `VarlenBatch`."""
_DTYPES = (torch.bfloat16, torch.float16)
_MIN_SEQUENCES = 16  # a step of fewer takes as long: reading the weights is most of it
_UNCAPTURABLE: "WeakSet[Any]" = WeakSet()  # models whose steps can't be captured, found by trying
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
            segments: The pieces, at most one of each slot.
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


@dataclass(frozen=True)
class DecodeGraph:
    """A captured step."""

    graph: Any
    """A `torch.cuda.CUDAGraph`."""
    inputs: Tensor
    """Token, slot and position of each sequence, (3, N)."""
    logits: Tensor
    """(N, vocabulary), of the last launch."""


class CudaForwards:
    """Forwards of a model whose attention is by `VarlenBatch`; its decode steps are captured once and replayed.

    Args:
        model: A transformers causal language model on one CUDA device.
        slots: The slots of its sequences.
    """

    has_buckets = False

    def __init__(self, model: Any, slots: KeyValueSlots) -> None:
        self._model = model
        self._slots = slots
        self._graphs: dict[int, DecodeGraph] = {}
        self._num_resizes = slots.num_resizes
        self._pool: Any = None  # memory that all graphs share, since one runs at a time
        self._is_capturing = model.device.type == "cuda" and model not in _UNCAPTURABLE

    def prefill(self, tokens: Sequence[int], segments: Sequence[Segment], keep: Sequence[int]) -> Tensor:
        """See Forwards.prefill."""
        return forward(self._model, tokens, VarlenBatch.of(self._slots, segments, self._model.device), keep)

    def decode(self, tokens: Sequence[int], slots: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """See Forwards.decode."""
        count = max(_MIN_SEQUENCES, 1 << (len(tokens) - 1).bit_length())
        missing = count - len(tokens)  # as many copies of the first sequence, which write what it writes
        rows = [[*row, *[row[0]] * missing] for row in (tokens, slots, lengths)]
        inputs = torch.tensor(rows).to(self._model.device, non_blocking=True)
        if self._num_resizes != self._slots.num_resizes:  # graphs point to memory that is gone
            self._forget()
            self._num_resizes = self._slots.num_resizes
            self._is_capturing = self._model.device.type == "cuda" and self._model not in _UNCAPTURABLE
        if captured := self._graphs.get(count):
            captured.inputs.copy_(inputs)
            captured.graph.replay()
            return captured.logits[: len(tokens)]
        logits = self._read(inputs)  # also the warm-up that a capture needs
        if self._is_capturing:
            self._capture(inputs)
        return logits[: len(tokens)]

    def _capture(self, inputs: Tensor) -> None:
        """Capture a step of as many sequences; where that fails, steps stay as they are."""
        device = inputs.device
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            graph: Any = torch.cuda.CUDAGraph()
            # the outer context restores the stream, which the inner one doesn't after an error
            with (
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=_capture_stream(device), capture_error_mode="thread_local"
                ),
            ):
                logits = self._read(inputs)
            self._graphs[inputs.shape[1]] = DecodeGraph(graph, inputs, logits)
            return
        except RuntimeError as error:  # the model waits for the device, or memory ran out
            _end_allocation(device, self._pool)
            cause = error.__context__ or error  # the end of a failed capture raises an error of its own
            logger.warning("Decode steps are not captured as CUDA graphs, and are slower: %s", cause)
            if not isinstance(cause, torch.OutOfMemoryError):
                _UNCAPTURABLE.add(self._model)
        self._is_capturing = False  # until the slots are resized
        self._forget()

    def _forget(self) -> None:
        self._graphs.clear()
        self._pool = None  # without graphs, its memory is given back

    def _read(self, inputs: Tensor) -> Tensor:
        tokens, slots, positions = inputs
        logits: Tensor = self._model(
            input_ids=tokens[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=0,
            tokens=VarlenBatch.of_decode(self._slots, slots, positions),
        ).logits[0]
        return logits


@cache
def _capture_stream(device: torch.device) -> Any:
    """Return the stream of captures on a device: graphs that share memory are captured on one stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _end_allocation(device: torch.device, pool: Any) -> None:
    """End the allocation from a pool, which a failed capture leaves on: no cached memory could be given back.

    torch's function is private; it raises where the allocation has ended.
    """
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device.index, pool)
