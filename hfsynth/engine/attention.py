"""Attention over KV-cache slots: the tokens of a forward pass, length buckets, the attention function.

transformers calls `attend` for each layer, with an `AttentionBatch` that has the slot and position of every token. A
`DecodeBatch` has the next token of each sequence, a `PrefillBatch` has pieces of prompts.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface

from hfsynth.engine.kv_cache import KeyValueSlots

BUCKETS = "hfsynth"
"""The name of `attend` among transformers' attention functions."""
_ROUND = 32  # buckets grow by this many positions, a multiple of the positions that kernels read at once
_SPAN, _SHORT = 512, 384  # positions that CPU kernels sum together; up to 384 of them are summed in the plain order
# positions of a sequence that could be read in the time of one more kernel call: measured on a CPU, a guess elsewhere
_CALL_COST = {"cpu": 200, "cuda": 1 << 15}
_BLOCK = 128  # tokens of a prompt that share a bucket: a divisor of _SPAN


class UnsupportedAttention(ValueError):
    """A model needs more than attention over a sequence's earlier tokens."""


@dataclass(frozen=True)
class AttentionParams:
    """The parameters of one layer's attention."""

    scaling: float | None = None
    """Factor of the scores; None for 1/√head_dim."""
    sliding_window: int | None = None
    """Number of positions that a token attends to, its own included; None for all before it."""


class AttentionBatch(Protocol):
    """The tokens of a forward pass, T of them, and where each belongs."""

    slots: KeyValueSlots

    @property
    def num_tokens(self) -> int:
        """T."""

    @property
    def positions(self) -> Tensor:
        """Position of each token in its sequence, (T,)."""

    def write(self, target: Tensor, new: Tensor) -> None:
        """Write the keys or values of the tokens, (1, heads, T, head_dim), to a layer's slots."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, params: AttentionParams) -> Tensor:
        """Attend from each token to its sequence, up to its own position.

        Args:
            query: (1, query heads, T, head_dim).
            keys: A layer's slots, (slots, heads, capacity, head_dim), those of the tokens written already.
            values: Likewise, (slots, heads, capacity, value_dim).
            params: The layer's parameters.

        Returns:
            (1, T, query heads, value_dim).
        """


@dataclass
class DecodeBatch:
    """The next token of each of the sequences in the first slots.

    Args:
        slots: The slots.
        lengths: Number of tokens that each sequence has there already.
    """

    slots: KeyValueSlots
    lengths: Sequence[int]
    _buckets: list[tuple[slice, int]] = field(init=False)
    _places: dict[torch.device, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)
    _masks: dict[tuple[int | None, torch.device], list[Tensor]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Group the slots by length."""
        self._buckets = length_buckets([length + 1 for length in self.lengths], self.slots.device)

    @property
    def num_tokens(self) -> int:
        """T, one for each sequence."""
        return len(self.lengths)

    @property
    def positions(self) -> Tensor:
        """See AttentionBatch.positions."""
        return self._slots_and_positions(self.slots.device)[1]

    def write(self, target: Tensor, new: Tensor) -> None:
        """See AttentionBatch.write."""
        slots, positions = self._slots_and_positions(target.device)
        target[slots, :, positions] = new[0].transpose(0, 1)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, params: AttentionParams) -> Tensor:
        """See AttentionBatch.attend.

        The query heads that share a key head are attended as if they were tokens, so that keys are read once for all.
        Their number is the same at every step, so they need no `scaled_dot_product`.
        """
        heads = keys.shape[1]
        tokens = query[0].transpose(0, 1)  # (T, query heads, head_dim)
        grouped = tokens.reshape(len(tokens), heads, -1, tokens.shape[-1])  # (T, heads, queries per head, head_dim)
        if (key := (params.sliding_window, query.device)) not in self._masks:
            positions = self._slots_and_positions(query.device)[1]
            self._masks[key] = [
                _mask(positions[part, None], bucket, params.sliding_window, query.dtype)[:, None, None]
                for part, bucket in self._buckets
            ]
        attended = [
            F.scaled_dot_product_attention(
                grouped[part], keys[part, :, :bucket], values[part, :, :bucket], mask, scale=params.scaling
            )
            for (part, bucket), mask in zip(self._buckets, self._masks[key], strict=True)
        ]
        return torch.cat(attended).flatten(1, 2)[None]

    def _slots_and_positions(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return each token's slot and position, (T,), on a device: a model's layers may be on several."""
        if device not in self._places:
            slots, positions = torch.tensor([[*range(self.num_tokens)], [*self.lengths]], device=device)
            self._places[device] = slots, positions
        return self._places[device]


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one sequence: positions `start` to `stop` of slot `slot`."""

    slot: int
    start: int
    stop: int


@dataclass
class PrefillBatch:
    """Pieces of prompts, one after the other."""

    slots: KeyValueSlots
    segments: Sequence[Segment]
    device: torch.device
    _blocks: list[tuple[slice, int, int, int]] = field(init=False)
    _masks: dict[tuple[int | None, int, torch.device], list[Tensor]] = field(init=False, default_factory=dict)
    _places: dict[torch.device, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Cut the segments into blocks: (their place among the tokens, slot, first position, bucket)."""
        self._blocks, place = [], 0
        for segment in self.segments:
            start = segment.start
            while start < segment.stop:
                stop = min((start // _BLOCK + 1) * _BLOCK, segment.stop)
                self._blocks.append((slice(place, place + stop - start), segment.slot, start, bucket_of(stop)))
                place, start = place + stop - start, stop

    @property
    def num_tokens(self) -> int:
        """T."""
        return sum(segment.stop - segment.start for segment in self.segments)

    @property
    def positions(self) -> Tensor:
        """See AttentionBatch.positions."""
        return self._slots_and_positions(self.device)[1]

    def write(self, target: Tensor, new: Tensor) -> None:
        """See AttentionBatch.write; by blocks, or all at once where a small call costs as much as a large one."""
        if target.device.type != "cpu":
            slots, positions = self._slots_and_positions(target.device)
            target[slots, :, positions] = new[0].transpose(0, 1)
            return
        for place, slot, start, _ in self._blocks:
            target[slot, :, start : start + place.stop - place.start] = new[0, :, place]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, params: AttentionParams) -> Tensor:
        """See AttentionBatch.attend; block by block, the query heads that share a key head as if they were tokens."""
        heads, shared = keys.shape[1], query.shape[1] // keys.shape[1]
        if (key := (params.sliding_window, shared, query.device)) not in self._masks:
            self._masks[key] = [self._mask(block, params.sliding_window, query, shared) for block in self._blocks]
        out = query.new_empty(1, query.shape[2], query.shape[1], values.shape[-1])
        for (place, slot, _, bucket), mask in zip(self._blocks, self._masks[key], strict=True):
            grouped = query[0, :, place].reshape(
                1, heads, -1, query.shape[-1]
            )  # (1, heads, shared × tokens, head_dim)
            attended = scaled_dot_product(
                grouped, keys[slot, None, :, :bucket], values[slot, None, :, :bucket], mask, params.scaling
            )
            # reshape: some kernels on a GPU return other strides than those of the query
            out[0, place] = attended.reshape(query.shape[1], -1, values.shape[-1]).transpose(0, 1)
        return out

    def _slots_and_positions(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return each token's slot and position, (T,), on a device."""
        if device not in self._places:
            places = [(part.slot, position) for part in self.segments for position in range(part.start, part.stop)]
            slots, positions = torch.tensor(places, device=device).T
            self._places[device] = slots, positions
        return self._places[device]

    def _mask(
        self, block: tuple[slice, int, int, int], sliding_window: int | None, query: Tensor, shared: int
    ) -> Tensor:
        """Return the mask of a block, (1, 1, shared × tokens, bucket)."""
        place, _, start, bucket = block
        positions = torch.arange(start, start + place.stop - place.start, device=query.device)
        return _mask(positions[:, None], bucket, sliding_window, query.dtype).repeat(shared, 1)[None, None]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the signature of an attention function
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Write a layer's new keys and values to their slots and attend from each token, as transformers calls it.

    Raises:
        UnsupportedAttention: If the model needs more than `AttentionParams`.
    """
    batch: AttentionBatch | None = options.get("tokens")
    if batch is None:
        raise UnsupportedAttention(f"{type(module).__name__} doesn't pass options to its attention function")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if options.get(name) is not None:
            raise UnsupportedAttention(f"{type(module).__name__} needs {name}")
    count = batch.num_tokens
    keys, values = batch.slots.layer(module.layer_idx, key, value)
    batch.slots.sliding_windows.add(options.get("sliding_window"))
    batch.write(keys, key[:, :, :count])
    batch.write(values, value[:, :, :count])
    params = AttentionParams(scaling, options.get("sliding_window"))
    attended = batch.attend(query[:, :, :count], keys, values, params)
    missing = query.shape[2] - count
    return F.pad(attended, (0, 0, 0, 0, 0, missing)) if missing else attended, None


AttentionInterface.register(BUCKETS, attend)


def forward(model: Any, tokens: Sequence[int], batch: AttentionBatch, keep: Sequence[int] | int = 0) -> Tensor:
    """Run a model whose attention is `attend` on tokens.

    Args:
        model: A transformers causal language model.
        tokens: T token ids.
        batch: Their slots and positions.
        keep: Indices of the tokens after which logits are wanted; 0 for all. Not a tensor, which a model on several
            devices would move to the first of them, while the logits may be on another.

    Returns:
        Logits, (kept, vocabulary).
    """
    ids, positions = torch.tensor([tokens], device=model.device), batch.positions[None]
    # kernels for a single token or logit round otherwise than those for many, so there are always two or more
    if len(tokens) == 1:
        ids, positions = ids.expand(1, 2), positions.expand(1, 2)
    count = len(tokens) if isinstance(keep, int) else len(keep)
    if not isinstance(keep, int) and count == 1:
        keep = [*keep, *keep]
    with without_cudnn_attention(model.device):
        output = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep, tokens=batch)
    logits: Tensor = output.logits[0, :count]
    return logits


def without_cudnn_attention(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which PyTorch doesn't choose cuDNN's attention on a CUDA device.

    cuDNN plans its kernel anew for each shape, and nearly every forward of a loop has another one: on an H100, a model
    of 135M parameters made 430 tokens/s with it and 2,590 without.
    """
    if device.type != "cuda":
        return nullcontext()
    context: AbstractContextManager[Any] = sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )
    return context


def bucket_of(length: int) -> int:
    """Return the number of positions that are read for a sequence of this length; also a good capacity of slots.

    >>> [bucket_of(length) for length in (1, 384, 385, 513)]
    [32, 384, 512, 544]
    """
    step = _ROUND if _summation_order(length)[1] else _SPAN
    return -(-length // step) * step


def length_buckets(lengths: Sequence[int], device: torch.device) -> list[tuple[slice, int]]:
    """Group neighbouring slots with sequences of these lengths, each group read as far as its longest sequence.

    A group ends where reading all of it that far would cost as much as one more group.

    Returns:
        For each group its slots and the number of positions that are read of them.
    """
    groups: list[tuple[slice, int]] = []
    buckets, first = [bucket_of(length) for length in lengths], 0
    widest = needed = 0
    for slot, bucket in enumerate(buckets):
        wider = max(widest, bucket)
        wasted = wider * (slot + 1 - first) - needed - bucket
        if slot > first and (wasted > _call_cost(device) or _incompatible(lengths[first], lengths[slot], device)):
            groups.append((slice(first, slot), widest))
            first, needed, wider = slot, 0, bucket
        widest, needed = wider, needed + bucket
    return [*groups, (slice(first, len(buckets)), widest)]


def read_cost(groups: Sequence[tuple[slice, int]], device: torch.device) -> int:
    """Return the cost of reading these groups, in positions: all that are read, and a constant for each group."""
    return sum(_call_cost(device) + (part.stop - part.start) * bucket for part, bucket in groups)


def _call_cost(device: torch.device) -> int:
    return _CALL_COST.get(device.type, _CALL_COST["cuda"])


def _incompatible(length: int, other: int, device: torch.device) -> bool:
    """Whether sequences of these lengths can't share a bucket, since a CPU would sum one of them in another order."""
    return device.type == "cpu" and _summation_order(length) != _summation_order(other)


def _summation_order(length: int) -> tuple[int, bool]:
    """Return the number of full spans before the last position, and whether the last span is summed in plain order."""
    return (length - 1) // _SPAN, (length - 1) % _SPAN < _SHORT


def scaled_dot_product(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Return `F.scaled_dot_product_attention`, rounded alike for any number of query rows.

    Args:
        query: (…, rows, head_dim).
        keys: (…, positions, head_dim).
        values: (…, positions, value_dim).
        mask: (…, rows, positions) or (…, 1, positions), added to the scores.
        scale: Factor of the scores; None for 1/√head_dim.
    """
    rows = query.shape[-2]
    if missing := -rows % _row_multiple(keys, values):  # filled up with zeros, so that kernels sum all in one order
        query = F.pad(query, (0, 0, 0, missing))
        mask = F.pad(mask, (0, 0, 0, missing)) if mask.shape[-2] > 1 else mask
    return F.scaled_dot_product_attention(query, keys, values, mask, scale=scale)[..., :rows, :]


def _row_multiple(keys: Tensor, values: Tensor) -> int:
    """Return the number whose multiples of rows are summed in one order: a divisor of 32, 1 on a GPU."""
    width = keys.shape[-1]
    if keys.device.type != "cpu":
        return 1
    if width != values.shape[-1]:
        return 16
    if keys.dtype is torch.bfloat16:
        return 2
    return 8 if width <= 128 else 16


def _mask(positions: Tensor, bucket: int, sliding_window: int | None, dtype: torch.dtype) -> Tensor:
    """Return the values added to the scores of tokens at `positions`, (…, 1): 0 up to them, else -inf; (…, bucket)."""
    places = torch.arange(bucket, device=positions.device)
    visible = places <= positions
    if sliding_window is not None:
        visible &= places > positions - sliding_window
    return torch.zeros(visible.shape, dtype=dtype, device=positions.device).masked_fill_(~visible, -torch.inf)
