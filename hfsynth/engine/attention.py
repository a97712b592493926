"""Attention over KV-cache slots: metadata of a forward pass, length buckets, the attention function."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from hfsynth.engine.kv_cache import KeyValueSlots


def scaled_dot_product(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Return `F.scaled_dot_product_attention`; of the mask's rows there are as many as of the query's, or one."""
    rows, whole = query.shape[-2], filled_up(query, keys, values)
    if (missing := whole.shape[-2] - rows) and mask.shape[-2] > 1:
        mask = F.pad(mask, (0, 0, 0, missing))
    return F.scaled_dot_product_attention(whole, keys, values, mask, scale=scale)[..., :rows, :]


def filled_up(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return a query with rows of zeros at its end, to as many as are read in one order."""
    missing = -query.shape[-2] % _multiple(keys, values)
    return F.pad(query, (0, 0, 0, missing)) if missing else query


def _multiple(keys: Tensor, values: Tensor) -> int:
    """Return of what the number of rows is made a multiple: more than the few, and a divisor of 32."""
    width = keys.shape[-1]
    if keys.device.type != "cpu":
        return 1
    if width != values.shape[-1]:
        return 16
    if keys.dtype is torch.bfloat16:
        return 2
    return 8 if width <= 128 else 16


_ROUND = 32  # windows grow by this many positions, a multiple of what kernels read at once
_SPAN, _SHORT = 512, 384  # positions that CPU kernels sum together, and of which they sum no more in the plain order
# positions of a row that could be read in the time that one more group takes: on a CPU as measured, elsewhere a guess
_CALL = {"cpu": 200, "cuda": 1 << 15}


def window_of(length: int) -> int:
    """Return how many positions are read for a row of this length; also a good capacity, since none is read beyond.

    >>> [window_of(length) for length in (1, 384, 385, 513)]
    [32, 384, 512, 544]
    """
    step = _ROUND if _kind(length)[1] else _SPAN
    return -(-length // step) * step


def windows(lengths: Sequence[int], device: torch.device) -> list[tuple[slice, int]]:
    """Group neighbouring rows of these lengths: (their slots, how many positions are read for them).

    A group ends where reading all its rows as far as the longest would cost as much as one more group.
    """
    groups: list[tuple[slice, int]] = []
    own, first = [window_of(length) for length in lengths], 0
    widest = needed = 0
    for row, window in enumerate(own):
        wider = max(widest, window)
        vain = wider * (row + 1 - first) - needed - window
        if row > first and (vain > _call(device) or _parted(lengths[first], lengths[row], device)):
            groups.append((slice(first, row), widest))
            first, needed, wider = row, 0, window
        widest, needed = wider, needed + window
    return [*groups, (slice(first, len(own)), widest)]


def cost(groups: Sequence[tuple[slice, int]], device: torch.device) -> int:
    """Return what a step reads, in positions: each group's rows as far as its window, and something for the group."""
    return sum(_call(device) + (part.stop - part.start) * window for part, window in groups)


def _call(device: torch.device) -> int:
    return _CALL.get(device.type, _CALL["cuda"])


def _parted(one: int, other: int, device: torch.device) -> bool:
    """Whether rows of these lengths can't share a window, since their last spans are of two kinds."""
    return device.type == "cpu" and _kind(one) != _kind(other)


def _kind(length: int) -> tuple[int, bool]:
    return (length - 1) // _SPAN, (length - 1) % _SPAN < _SHORT


_BLOCK = 128  # tokens of a prompt that share a window: a divisor of the spans of `windows.py`


@dataclass(frozen=True)
class Asked:
    """What a layer asks of its attention."""

    scaling: float | None = None
    """Of the scores; None for the usual."""
    reach: int | None = None
    """How many positions back is attended; None for all."""


class Pass(Protocol):
    """Where the tokens of a forward belong."""

    slots: KeyValueSlots

    @property
    def count(self) -> int:
        """How many tokens, T."""

    @property
    def positions(self) -> Tensor:
        """Position of each token in its row, (T,)."""

    def write(self, target: Tensor, new: Tensor) -> None:
        """Write the keys or values of the tokens, (1, heads, T, width), to a layer's slots."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, asked: Asked) -> Tensor:
        """Attend from the tokens, (1, query heads, T, width), to their rows.

        Args:
            query: Theirs.
            keys: Of a layer, with those of the tokens.
            values: Likewise.
            asked: How.

        Returns:
            (1, T, query heads, width of the values).
        """


@dataclass
class Step:
    """One next token for each of the rows in the first slots.

    Args:
        slots: The slots.
        lengths: Tokens that each row has there already.
    """

    slots: KeyValueSlots
    lengths: Sequence[int]
    _windows: list[tuple[slice, int]] = field(init=False)
    _places: dict[torch.device, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)
    _masks: dict[tuple[int | None, torch.device], list[Tensor]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Find how far each group of rows has to read."""
        self._windows = windows([length + 1 for length in self.lengths], self.slots.device)

    @property
    def count(self) -> int:
        """T."""
        return len(self.lengths)

    @property
    def positions(self) -> Tensor:
        """Position of each token in its row, (T,)."""
        return self._placed(self.slots.device)[1]

    def write(self, target: Tensor, new: Tensor) -> None:
        """Write one token a slot."""
        rows, lengths = self._placed(target.device)
        target[rows, :, lengths] = new[0].transpose(0, 1)

    def _placed(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the rows' slots and lengths on a device: a model's layers may be on several."""
        if device not in self._places:
            rows, lengths = torch.tensor([[*range(self.count)], [*self.lengths]], device=device)
            self._places[device] = rows, lengths
        return self._places[device]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, asked: Asked) -> Tensor:
        """Attend, the query heads that share a key head as if they were tokens: keys are then read once for all."""
        heads = keys.shape[1]
        tokens = query[0].transpose(0, 1)  # (T, query heads, width)
        grouped = tokens.reshape(len(tokens), heads, -1, tokens.shape[-1])  # (T, heads, query heads of each, width)
        whole = filled_up(grouped, keys, values)  # once for all groups
        if (key := (asked.reach, query.device)) not in self._masks:
            lengths = self._placed(query.device)[1]
            self._masks[key] = [
                _mask(lengths[part, None], window, asked.reach, query.dtype)[:, None, None]
                for part, window in self._windows
            ]
        read = [
            scaled_dot_product(whole[part], keys[part, :, :window], values[part, :, :window], mask, asked.scaling)
            for (part, window), mask in zip(self._windows, self._masks[key], strict=True)
        ]
        return torch.cat([part[:, :, : grouped.shape[2]] for part in read]).flatten(1, 2)[None]


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one row: those at positions `start` to `stop` of slot `slot`."""

    slot: int
    start: int
    stop: int


@dataclass
class Prefill:
    """Pieces of prompts, one after the other."""

    slots: KeyValueSlots
    segments: Sequence[Segment]
    device: torch.device
    _blocks: list[tuple[slice, int, int, int]] = field(init=False)
    _masks: dict[tuple[int | None, int, torch.device], list[Tensor]] = field(init=False, default_factory=dict)
    _places: dict[torch.device, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Cut the segments into blocks: (their place among the tokens, slot, first position, window)."""
        self._blocks, place = [], 0
        for segment in self.segments:
            start = segment.start
            while start < segment.stop:
                stop = min((start // _BLOCK + 1) * _BLOCK, segment.stop)
                self._blocks.append((slice(place, place + stop - start), segment.slot, start, window_of(stop)))
                place, start = place + stop - start, stop

    @property
    def count(self) -> int:
        """T."""
        return sum(part.stop - part.start for part in self.segments)

    @property
    def positions(self) -> Tensor:
        """Position of each token in its row, (T,)."""
        return self._placed(self.device)[1]

    def write(self, target: Tensor, new: Tensor) -> None:
        """Write every token to its slot: by blocks, or all at once where a small call costs as much as a large one."""
        if target.device.type != "cpu":
            slots, positions = self._placed(target.device)
            target[slots, :, positions] = new[0].transpose(0, 1)
            return
        for place, slot, start, _ in self._blocks:
            target[slot, :, start : start + place.stop - place.start] = new[0, :, place]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, asked: Asked) -> Tensor:
        """Attend block by block, the query heads that share a key head as if they were tokens."""
        heads, shared = keys.shape[1], query.shape[1] // keys.shape[1]
        if (key := (asked.reach, shared, query.device)) not in self._masks:
            self._masks[key] = [self._mask(block, asked.reach, query, shared) for block in self._blocks]
        out = query.new_empty(1, query.shape[2], query.shape[1], values.shape[-1])
        for (place, slot, _, window), mask in zip(self._blocks, self._masks[key], strict=True):
            grouped = query[0, :, place].reshape(1, heads, -1, query.shape[-1])  # (1, heads, shared × tokens, width)
            read = scaled_dot_product(
                grouped, keys[slot, None, :, :window], values[slot, None, :, :window], mask, asked.scaling
            )
            # reshape: some kernels on a GPU return other strides than they were given
            out[0, place] = read.reshape(query.shape[1], -1, values.shape[-1]).transpose(0, 1)
        return out

    def _placed(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return each token's slot and position on a device."""
        if device not in self._places:
            places = [(part.slot, position) for part in self.segments for position in range(part.start, part.stop)]
            slots, positions = torch.tensor(places, device=device).T
            self._places[device] = slots, positions
        return self._places[device]

    def _mask(self, block: tuple[slice, int, int, int], reach: int | None, query: Tensor, shared: int) -> Tensor:
        place, _, start, window = block
        rows = torch.arange(start, start + place.stop - place.start, device=query.device)
        return _mask(rows[:, None], window, reach, query.dtype).repeat(shared, 1)[None, None]


def _mask(positions: Tensor, window: int, reach: int | None, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores of tokens at `positions`, (…, 1): 0 up to them, else -inf. (…, window)."""
    places = torch.arange(window, device=positions.device)
    seen = places <= positions
    if reach is not None:
        seen &= places > positions - reach
    return torch.zeros(seen.shape, dtype=dtype, device=positions.device).masked_fill_(~seen, -torch.inf)


NAME = "hfsynth"
"""Under which transformers knows this attention."""


class UnsupportedAttention(ValueError):
    """A model asks for more than attention over a row's earlier tokens."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the shape of an attention function
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Write a layer's new keys and values to their slots and attend to each row's own, as transformers calls it.

    Raises:
        UnsupportedAttention: If the model needs something else than this.
    """
    tokens: Pass | None = options.get("tokens")
    if tokens is None:
        raise UnsupportedAttention(f"{type(module).__name__} doesn't hand on what its attention function is given")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if options.get(name) is not None:
            raise UnsupportedAttention(f"{type(module).__name__} needs {name}")
    count = tokens.count
    keys, values = tokens.slots.layer(module.layer_idx, key, value)
    tokens.slots.reaches.add(options.get("sliding_window"))
    tokens.write(keys, key[:, :, :count])
    tokens.write(values, value[:, :, :count])
    asked = Asked(scaling, options.get("sliding_window"))
    read = tokens.attend(query[:, :, :count], keys, values, asked)
    missing = query.shape[2] - count
    return F.pad(read, (0, 0, 0, 0, 0, missing)) if missing else read, None


def forward(model: Any, tokens: Sequence[int], where: Pass, keep: Sequence[int] | int = 0) -> Tensor:
    """Read tokens with a model whose attention is `attend`.

    Args:
        model: A transformers causal language model.
        tokens: The tokens, T of them.
        where: Their slots and positions.
        keep: Places among the tokens after which logits are wanted; 0 for all. No tensor: where a model is on several
            devices, that would be moved to the first of them, and the logits may be on another.

    Returns:
        Logits, (kept, vocabulary).
    """
    ids, positions = torch.tensor([tokens], device=model.device), where.positions[None]
    # kernels for a single token or logit round otherwise than those for many, so there are never less than two
    if len(tokens) == 1:
        ids, positions = ids.expand(1, 2), positions.expand(1, 2)
    count = len(tokens) if isinstance(keep, int) else len(keep)
    if not isinstance(keep, int) and count == 1:
        keep = [*keep, *keep]
    output = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep, tokens=where)
    logits: Tensor = output.logits[0, :count]
    return logits


AttentionInterface.register(NAME, attend)
