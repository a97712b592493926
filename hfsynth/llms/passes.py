"""Which slots and positions the tokens of a forward belong to, and what they read there.

    Step      one next token for each of the rows in the first slots
    Prefill   pieces of prompts, one after the other

A device that has a kernel for it reads rows of any lengths at once (`varlen.py`). Elsewhere windows (`windows.py`) are
read: they begin at position 0 and masked places weigh nothing, so what a row reads doesn't depend on the others'
lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from hfsynth.llms import varlen
from hfsynth.llms.rounding import filled_up, scaled_dot_product
from hfsynth.llms.slots import KeyValueSlots
from hfsynth.llms.windows import window_of, windows

_BLOCK = 128  # tokens of a prompt that share a window: a divisor of the spans of `windows.py`


@dataclass(frozen=True)
class Asked:
    """What a layer asks of its attention."""

    scaling: float | None = None
    """Of the scores; None for the usual."""
    reach: int | None = None
    """How many positions back is attended; None for all."""
    by_varlen: bool = False
    """Whether the kernel that reads rows of any lengths is wanted, rather than windows."""


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
    _spans: dict[torch.device, varlen.Spans] = field(init=False, default_factory=dict)

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
        if asked.by_varlen:
            if query.device not in self._spans:
                used = self._placed(query.device)[1] + 1
                self._spans[query.device] = varlen.Spans.of_step(used, self.slots.capacity)
            return varlen.read(query, keys, values, self._spans[query.device], asked.scaling, asked.reach)
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
    _spans: dict[torch.device, varlen.Spans] = field(init=False, default_factory=dict)
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
        if asked.by_varlen:
            return varlen.read(query, keys, values, self._spanned(query.device), asked.scaling, asked.reach)
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

    def _spanned(self, device: torch.device) -> varlen.Spans:
        """Return on a device how many tokens each slot has here, of all slots up to the last that has any."""
        if device not in self._spans:
            found = {part.slot: part for part in self.segments}
            if list(found) != sorted(part.slot for part in self.segments):
                raise ValueError(f"segments are read in the order of their slots, one of each, not {list(found)}")
            parts = [found.get(slot, Segment(slot, 0, 0)) for slot in range(max(found) + 1)]
            counts, used = [part.stop - part.start for part in parts], [part.stop for part in parts]
            self._spans[device] = varlen.Spans.of(counts, used, self.slots.capacity, device)
        return self._spans[device]

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
