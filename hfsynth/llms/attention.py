"""Attention over key/value slots, as a function that any transformers model can be given for its own.

A forward reads one flat list of tokens, (1, T), and everything in a model but attention treats each token by itself.
So tokens of many rows, at any positions, are computed together without padding; only attention knows whose they are:

    slots    keys and values of every layer, (slots, heads, capacity, width): a row's own are at its slot (`slots.py`)
    pass     which slots and positions the T tokens of a forward belong to: `Step` or `Prefill`
    attend   registered with transformers under `NAME`: writes the tokens' keys and values, reads each row's own

Windows (`windows.py`) begin at position 0 and masked places weigh nothing, so what a row reads doesn't depend on the
others' lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from hfsynth.llms.rounding import filled_up, scaled_dot_product
from hfsynth.llms.slots import KeyValueSlots
from hfsynth.llms.windows import window_of, windows

NAME = "hfsynth"
_BLOCK = 128  # tokens of a prompt that share a window: a divisor of the spans of `windows.py`


class UnsupportedAttention(ValueError):
    """A model asks for more than attention over a row's earlier tokens."""


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

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, reach: int | None) -> Tensor:
        """Attend from the tokens, (1, query heads, T, width), to their rows; `reach` positions back, None for all.

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

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, reach: int | None) -> Tensor:
        """Attend, the query heads that share a key head as if they were tokens: keys are then read once for all."""
        heads = keys.shape[1]
        tokens = query[0].transpose(0, 1)  # (T, query heads, width)
        grouped = tokens.reshape(len(tokens), heads, -1, tokens.shape[-1])  # (T, heads, query heads of each, width)
        whole = filled_up(grouped, keys, values)  # once for all groups
        if (reach, query.device) not in self._masks:
            lengths = self._placed(query.device)[1]
            self._masks[reach, query.device] = [
                _mask(lengths[part, None], window, reach, query.dtype)[:, None, None] for part, window in self._windows
            ]
        read = [
            scaled_dot_product(whole[part], keys[part, :, :window], values[part, :, :window], mask, scaling)
            for (part, window), mask in zip(self._windows, self._masks[reach, query.device], strict=True)
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
        return torch.cat([torch.arange(part.start, part.stop, device=self.device) for part in self.segments])

    def write(self, target: Tensor, new: Tensor) -> None:
        """Write every block to its slot."""
        for place, slot, start, _ in self._blocks:
            target[slot, :, start : start + place.stop - place.start] = new[0, :, place]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, reach: int | None) -> Tensor:
        """Attend block by block, the query heads that share a key head as if they were tokens."""
        heads, shared = keys.shape[1], query.shape[1] // keys.shape[1]
        if (key := (reach, shared, query.device)) not in self._masks:
            self._masks[key] = [self._mask(block, reach, query, shared) for block in self._blocks]
        out = query.new_empty(1, query.shape[2], query.shape[1], values.shape[-1])
        for (place, slot, _, window), mask in zip(self._blocks, self._masks[key], strict=True):
            grouped = query[0, :, place].reshape(1, heads, -1, query.shape[-1])  # (1, heads, shared × tokens, width)
            read = scaled_dot_product(
                grouped, keys[slot, None, :, :window], values[slot, None, :, :window], mask, scaling
            )
            # reshape: some kernels on a GPU return other strides than they were given
            out[0, place] = read.reshape(query.shape[1], -1, values.shape[-1]).transpose(0, 1)
        return out

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
    read = tokens.attend(query[:, :, :count], keys, values, scaling, options.get("sliding_window"))
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
