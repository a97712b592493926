"""Assign sequences to KV-cache slots: admission, preemption, prefix reuse.

Sequence    a request under way: its tokens, of which the first `num_cached` are in its slot
SlotTable   which sequence has which slot
Scheduler   which sequences have slots and which wait, as far as memory goes
"""

import logging
from collections import abc
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from hfsynth.chat import NextRequest, TokenizedRequest
from hfsynth.engine.attention import PrefillBatch, Segment, bucket_of, forward, length_buckets, read_cost
from hfsynth.engine.kv_cache import KeyValueSlots, cache_memory, free_memory
from hfsynth.engine.sampling import uniforms
from hfsynth.errors import GenerationError

logger = logging.getLogger(__name__)
CAPACITY = 384
"""The capacity of slots at first, in tokens, and at least."""
_GROUPING_GAIN = 1.1  # sequences change slots where the read cost is this many times the cost after it
_COMPARED = 64  # tokens that are compared at once
_SHORTENING_GAIN = 1.25  # slots are shortened where there would be this many times as many
_GROWTH = 128  # tokens by which slots are made longer than needed, so that they don't grow again at once


@dataclass(eq=False)
class Sequence:
    """A request under way."""

    request: TokenizedRequest
    uniforms: list[float]
    """Its random numbers, one for each token it may generate."""
    generated: list[int] = field(default_factory=list)
    """The tokens generated so far."""
    num_cached: int = 0
    """Number of its tokens, prompt first, whose keys and values are in its slot."""

    @property
    def token_ids(self) -> list[int]:
        """The prompt and the generated tokens."""
        return self.request.prompt_ids + self.generated

    @property
    def num_tokens(self) -> int:
        """Number of these tokens."""
        return len(self.request.prompt_ids) + len(self.generated)

    @property
    def last_token(self) -> int:
        """The last of these tokens."""
        return (self.generated or self.request.prompt_ids)[-1]

    @property
    def num_uncached(self) -> int:
        """Number of tokens that are not in its slot yet; 1 for a sequence that decodes."""
        return self.num_tokens - self.num_cached

    def token(self, index: int) -> int:
        """Return one of its tokens."""
        prompt = self.request.prompt_ids
        return prompt[index] if index < len(prompt) else self.generated[index - len(prompt)]

    def begins_with(self, token_ids: abc.Sequence[int], count: int) -> bool:
        """Whether it begins with the first `count` tokens of a text; 1 ≤ count ≤ the text's length."""
        if self.num_tokens < count or self.token(count - 1) != token_ids[count - 1]:  # most texts differ there
            return False
        return self.shared_prefix_len(token_ids) >= count

    def shared_prefix_len(self, token_ids: abc.Sequence[int]) -> int:
        """Return the number of first tokens that this sequence and another text have in common."""
        prompt = self.request.prompt_ids
        count = common_prefix_len(prompt, token_ids)
        return count if count < len(prompt) else count + common_prefix_len(self.generated, token_ids[count:])


class SlotTable:
    """Sequences and the slots that hold their keys and values."""

    def __init__(self, slots: KeyValueSlots) -> None:
        self.slots = slots
        self._sequences: list[Sequence | None] = [None] * slots.count
        self._leftovers: list[list[int]] = [[] for _ in self._sequences]  # cached tokens of a sequence that has ended

    @property
    def assigned(self) -> list[tuple[int, Sequence]]:
        """The slots that are taken, and their sequences, in order."""
        return [(slot, sequence) for slot, sequence in enumerate(self._sequences) if sequence is not None]

    @property
    def sequences(self) -> list[Sequence]:
        """The sequences, by their slots: after `compact` those of the first slots."""
        return [sequence for _, sequence in self.assigned]

    def sequence(self, slot: int) -> Sequence:
        """Return the sequence in a slot.

        Raises:
            IndexError: If the slot is free.
        """
        sequence = self._sequences[slot]
        if sequence is None:
            raise IndexError(f"slot {slot} is free.")
        return sequence

    def assign(self, sequence: Sequence) -> None:
        """Give a sequence the free slot that holds most of its beginning."""
        free = [slot for slot, other in enumerate(self._sequences) if other is None]
        self._sequences[self._longest_prefix(free, sequence.request.prompt_ids)[0]] = sequence

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's slot, which keeps its keys and values."""
        slot = self._sequences.index(sequence)
        self._leftovers[slot] = self.cached_tokens(slot)
        self._sequences[slot] = None

    def discard(self, sequence: Sequence) -> None:
        """Free and blank a sequence's slot, whose NaN values would spread to slots that are read beside it."""
        slot = self._sequences.index(sequence)
        self.slots.blank(slot)
        self._sequences[slot], self._leftovers[slot] = None, []

    def cached_tokens(self, slot: int) -> list[int]:
        """Return the tokens whose keys and values are in a slot."""
        sequence = self._sequences[slot]
        if sequence is not None and sequence.num_cached:
            return sequence.token_ids[: sequence.num_cached]
        return self._leftovers[slot]

    def longest_shared_prefix(self, token_ids: abc.Sequence[int], slot: int) -> tuple[int, int]:
        """Find the slot that holds most of a text's beginning, `slot` itself before others.

        Returns:
            The slot, and the number of tokens.
        """
        return self._longest_prefix([slot, *range(self.slots.count)], token_ids)

    def reuse_prefix(self, slot: int, source: int, count: int) -> None:
        """Let a newly assigned sequence begin with `count` cached tokens of another slot, or of its own."""
        sequence = self.sequence(slot)
        self._leftovers[slot] = []
        if count and source != slot:
            self.slots.copy([source], [slot], [count])
        sequence.num_cached = count

    def compact(self) -> None:
        """Move the last sequences into the free slots before them."""
        count = len(self.sequences)
        gaps = [slot for slot in range(count) if self._sequences[slot] is None]
        movers = [slot for slot in range(count, len(self._sequences)) if self._sequences[slot] is not None]
        self._move(movers, gaps)

    def group_by_length(self) -> None:
        """Move sequences of near lengths to neighbouring slots, where that saves reading. Call `compact` before."""
        lengths = [sequence.num_cached for sequence in self.sequences]
        order = sorted(range(len(lengths)), key=lambda slot: -lengths[slot])
        device = self.slots.device
        wanted = length_buckets([lengths[slot] + 1 for slot in order], device)
        current = length_buckets([length + 1 for length in lengths], device)
        if read_cost(current, device) <= _GROUPING_GAIN * read_cost(wanted, device):
            return
        # sequences whose slot is one of their group's already stay there
        places = [set(range(part.start, part.stop)) for part, _ in wanted]
        group = {slot: number for number, (part, _) in enumerate(wanted) for slot in order[part]}
        movers = [slot for slot in order if slot not in places[group[slot]]]
        self._move(movers, sorted(movers))  # as many leave a group as enter it, and both are in the groups' order

    def resize(self, count: int, capacity: int) -> list[Sequence]:
        """Change number and capacity of the slots.

        Returns:
            The sequences that lose their slots; nothing is kept of them but their tokens.
        """
        evicted = [sequence for sequence in self._sequences[count:] if sequence is not None]
        for sequence in evicted:
            sequence.num_cached = 0
        kept = self._sequences[:count]
        try:
            self.slots.resize(count, capacity, [sequence.num_cached if sequence else 0 for sequence in kept])
        except RuntimeError:  # memory ran out, and nothing is left of any slot
            self._invalidate()
            raise
        self._sequences = kept + [None] * (count - len(kept))
        self._leftovers = [[] for _ in self._sequences]
        return evicted

    def clear(self) -> None:
        """Free all slots, and forget their contents."""
        self._sequences = [None] * len(self._sequences)
        self._leftovers = [[] for _ in self._sequences]

    def _longest_prefix(self, slots: abc.Sequence[int], token_ids: abc.Sequence[int]) -> tuple[int, int]:
        """Return which of some slots holds most of a text's beginning, the first of several, and how many tokens."""
        best, count = slots[0], self._shared_prefix_len(slots[0], token_ids)
        for slot in slots[1:]:
            # a slot that holds more has the next token, too: few do
            if count < len(token_ids) and self._has_token(slot, count, token_ids[count]):
                shared = self._shared_prefix_len(slot, token_ids)
                if shared > count:
                    best, count = slot, shared
        return best, count

    def _has_token(self, slot: int, index: int, token: int) -> bool:
        """Whether a slot holds a token at an index."""
        sequence = self._sequences[slot]
        if sequence is not None and sequence.num_cached:
            return index < sequence.num_cached and sequence.token(index) == token
        leftover = self._leftovers[slot]
        return index < len(leftover) and leftover[index] == token

    def _shared_prefix_len(self, slot: int, token_ids: abc.Sequence[int]) -> int:
        """Return the number of a text's first tokens that a slot holds."""
        sequence = self._sequences[slot]
        if sequence and sequence.num_cached:
            return min(sequence.shared_prefix_len(token_ids), sequence.num_cached)
        return common_prefix_len(self._leftovers[slot], token_ids)

    def _invalidate(self) -> None:
        """Forget the contents of all slots: every sequence is prefilled anew."""
        for sequence in self.sequences:
            sequence.num_cached = 0
        self._leftovers = [[] for _ in self._sequences]

    def _move(self, sources: list[int], targets: list[int]) -> None:
        """Move the sequences in `sources` to `targets`, which are free or sources themselves."""
        if not sources:
            return
        sequences = [self._sequences[slot] for slot in sources]
        try:
            self.slots.copy(sources, targets, [sequence.num_cached if sequence else 0 for sequence in sequences])
        except RuntimeError:  # memory ran out when some layers were copied, and others not
            self._invalidate()
            raise
        cached = [self.cached_tokens(slot) for slot in sources]
        for slot, token_ids in zip(sources, cached, strict=True):
            self._sequences[slot], self._leftovers[slot] = None, token_ids
        for slot, sequence in zip(targets, sequences, strict=True):
            self._sequences[slot], self._leftovers[slot] = sequence, []


class Scheduler:
    """The sequences under way.

    Args:
        slots: Their slots, no more than memory holds.
        max_sequences: Most sequences at once, where memory allows.
        max_tokens: Number of tokens whose keys and values memory holds, in all slots.
    """

    def __init__(self, slots: KeyValueSlots, max_sequences: int, max_tokens: int) -> None:
        self.table = SlotTable(slots)
        self._max_sequences, self._max_tokens = max_sequences, max_tokens
        self._limits = max_sequences, max_tokens
        self._waiting: list[Sequence] = []  # preempted, or too long for the memory that is left now
        self._overtakes = 0  # sequences admitted since the first of them waits

    @property
    def sequences(self) -> list[Sequence]:
        """The sequences in slots."""
        return self.table.sequences

    @property
    def free_share(self) -> float:
        """Share of the slots that are free."""
        return 1 - len(self.sequences) / self.table.slots.count

    @property
    def is_pristine(self) -> bool:
        """Whether no sequence is here, and memory never ran out."""
        return not self._waiting and not self.sequences and self._limits == (self._max_sequences, self._max_tokens)

    def clear(self) -> None:
        """Remove all sequences."""
        self._waiting = []
        self.table.clear()

    def admit(self, next_request: NextRequest) -> Sequence | None:
        """Return the sequence to be allocated next, if there is one: a waiting one, or that of the next request.

        A request whose sequence doesn't fit beside the others is taken too, and waits; about an eighth as many
        sequences as slots may wait.
        """
        while len(self.sequences) < self._max_sequences:
            fitting = (sequence for sequence in self._waiting if self._fits(sequence) or not self.sequences)
            if (sequence := next(fitting, None)) is not None:
                self._waiting.remove(sequence)
                self._overtakes = 0
                return sequence
            if self._overtakes >= self._max_sequences or len(self._waiting) > self._max_sequences // 8:
                return None
            if (request := next_request()) is None:
                return None
            sequence = Sequence(request, uniforms(request.seed, request.max_new_tokens).tolist())
            if self._fits(sequence) or not self.sequences:
                self._overtakes += bool(self._waiting)
                return sequence
            self._waiting.append(sequence)
        return None

    def allocate(self, sequence: Sequence) -> bool:
        """Give a sequence a slot; False if there is none long enough, even for it alone."""
        try:
            if not self._fit_slots([*self.sequences, sequence]):
                return False
        except RuntimeError:  # memory ran out: the sequence waits until others have ended
            self._waiting.insert(0, sequence)
            raise
        self.table.assign(sequence)
        return True

    def extend(self) -> list[Sequence]:
        """Make room for one more token of every sequence, even if some must wait.

        Returns:
            A sequence that is too long for all of memory, which loses its slot.
        """
        sequences, capacity = self.sequences, self.table.slots.capacity
        if _longest(sequences) <= capacity:
            return []
        over = len(sequences) - self._max_tokens // bucket_of(_longest(sequences))
        over = min(over, len(sequences) - 1)
        if over > 0:  # a few long ones wait, or else those that are prefilled again the soonest
            grown = [sequence for sequence in sequences if sequence.num_tokens > capacity]
            shortest = sorted(sequences, key=lambda sequence: sequence.num_tokens)[:over]
            self._preempt(grown if len(grown) <= over else shortest)
        return [] if self._fit_slots(self.sequences) else self._evict(self.sequences)

    def preempt_half(self) -> list[Sequence]:
        """Preempt the longer half of the sequences, since memory ran out.

        Returns:
            A sequence that is too long for all of memory, which loses its slot.

        Raises:
            GenerationError: If memory doesn't hold one slot of the least capacity.
        """
        sequences, slots = sorted(self.sequences, key=lambda sequence: sequence.num_tokens), self.table.slots
        for sequence in sequences:  # the last token is read again where it was read, but no token was sampled
            sequence.num_cached = min(sequence.num_cached, sequence.num_tokens - 1)
        if len(sequences) == 1 and self._max_tokens <= bucket_of(sequences[0].num_tokens):  # no other slot takes any
            if sequences[0].num_tokens <= CAPACITY:
                raise GenerationError(out_of_memory_message(sequences[0].num_tokens))
            return self._evict(sequences)
        kept = sequences[: max(len(sequences) // 2, 1)]
        needed = len(kept) * max(slots.capacity if len(sequences) > 1 else 0, bucket_of(_longest(kept)))
        self._max_tokens = min(self._max_tokens, needed) if kept else self._max_tokens // 2
        self._max_sequences = len(kept) or self._max_sequences
        self._preempt(sequences[len(kept) :])
        self._fit_slots(kept)
        free_memory()
        return []

    def _evict(self, sequences: abc.Sequence[Sequence]) -> list[Sequence]:
        for sequence in sequences:
            self.table.release(sequence)
        return list(sequences)

    def _preempt(self, sequences: abc.Sequence[Sequence]) -> None:
        """Let sequences wait; nothing is kept of them but their tokens."""
        if not sequences:
            return
        logger.warning(
            "Out of memory with %d sequences of %d tokens; continuing with %d.",
            len(self.sequences),
            _longest(self.sequences),
            len(self.sequences) - len(sequences),
        )
        for sequence in sequences:
            self.table.release(sequence)
            sequence.num_cached = 0
        self._waiting = [*sequences, *self._waiting]

    def _fits(self, sequence: Sequence) -> bool:
        """Whether memory holds a sequence beside those in slots."""
        sequences, slots = [*self.sequences, sequence], self.table.slots
        length = _longest(sequences)
        if len(sequences) * max(CAPACITY, bucket_of(length)) > self._max_tokens:
            return False
        if length > slots.capacity or len(sequences) <= slots.count:
            return True
        # shorter slots would be more, but all their contents would have to be copied
        shorter = min(self._max_sequences, self._max_tokens // max(CAPACITY, bucket_of(length + _GROWTH)))
        return shorter > _SHORTENING_GAIN * slots.count

    def _fit_slots(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Provide a slot for each of these sequences, and as many more as memory holds; False if it doesn't."""
        slots, length = self.table.slots, _longest(sequences)
        is_within_memory = slots.count * slots.capacity <= self._max_tokens
        if length <= slots.capacity and len(sequences) <= slots.count and is_within_memory:
            return True
        capacity = CAPACITY if length <= CAPACITY else bucket_of(length + _GROWTH)
        ample = bucket_of(slots.capacity * 3 // 2)
        if len(sequences) * capacity > self._max_tokens:
            capacity = bucket_of(length)
        elif length > slots.capacity and self._max_sequences * ample <= self._max_tokens:
            capacity = max(capacity, ample)  # so that slots are copied few times, however long they become
        count = min(self._max_sequences, self._max_tokens // capacity)
        if count < len(sequences):
            return False
        self.table.compact()  # slots are given up from the last
        self.table.resize(count, capacity)
        return True


def max_cached_tokens(model: Any) -> int:
    """Return the number of tokens whose keys and values fit in memory, on every device that has layers of a model."""
    return min(cache_memory(device) // size for device, size in cache_bytes_per_token(model).items())


def cache_bytes_per_token(model: Any) -> dict[torch.device, int]:
    """Return the size of one token's keys and values on each device that has layers of a model, in bytes.

    Two tokens are read to measure it: layers may differ, and the configuration doesn't always describe their cache.

    Args:
        model: A transformers causal language model whose attention function is `attention.attend`.
    """
    slots = KeyValueSlots(1, bucket_of(2), model.device)
    with torch.inference_mode():
        forward(model, [0, 0], PrefillBatch(slots, [Segment(0, 0, 2)], model.device))
    sizes = dict[torch.device, int]()
    for tensor in chain.from_iterable(slots.layers.values()):
        sizes[tensor.device] = sizes.get(tensor.device, 0) + tensor.nbytes // slots.capacity
    return sizes


def common_prefix_len(token_ids: abc.Sequence[int], other: abc.Sequence[int]) -> int:
    """Return the number of first tokens that two texts have in common.

    >>> common_prefix_len([1, 2, 3], [1, 2, 4, 5])
    2
    """
    end, place = min(len(token_ids), len(other)), 0
    while place < end and token_ids[place : place + _COMPARED] == other[place : place + _COMPARED]:
        place += _COMPARED  # beginnings are long, and slices are compared faster than tokens
    while place < end and token_ids[place] == other[place]:
        place += 1
    return min(place, end)


def out_of_memory_message(num_tokens: int) -> str:
    """Return the error of a sequence of so many tokens that memory doesn't hold."""
    return f"out of memory with one row of {num_tokens} tokens; use a smaller max_new_tokens or model."


def _longest(sequences: Iterable[Sequence]) -> int:
    """Return the capacity that slots need for each of these sequences to get one more token."""
    return max((sequence.num_tokens for sequence in sequences), default=1)
