"""Assign sequences to KV-cache slots: admission, preemption, prefix reuse."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hfsynth.engine.attention import cost, window_of, windows
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.memory import free_memory
from hfsynth.engine.sampling import uniforms
from hfsynth.engine.sequence import Job, Take
from hfsynth.errors import GenerationError

_GAIN = 1.1  # rows change places where all that is read is this many times what it would be then
_COMPARED = 64  # tokens that are compared at once


@dataclass(eq=False)
class Row:
    """A job under way."""

    job: Job
    uniforms: list[float]
    """Its random numbers, one for each token it may write."""
    tokens: list[int] = field(default_factory=list)
    """What it has written."""
    filled: int = 0
    """How many of its tokens, prompt first, are in its slot."""

    @property
    def known(self) -> list[int]:
        """The prompt and what it has written."""
        return self.job.prompt + self.tokens

    @property
    def length(self) -> int:
        """How many tokens these are."""
        return len(self.job.prompt) + len(self.tokens)

    @property
    def last(self) -> int:
        """The last token it has written, or of its prompt."""
        return (self.tokens or self.job.prompt)[-1]

    @property
    def missing(self) -> int:
        """How many tokens are not in its slot yet; 1 is a row that writes."""
        return self.length - self.filled

    def common(self, tokens: Sequence[int]) -> int:
        """Return with how many of a text's first tokens it begins."""
        count = common(self.job.prompt, tokens)
        return count if count < len(self.job.prompt) else count + common(self.tokens, tokens[count:])


class Seating:
    """Rows and the slots that hold their keys and values."""

    def __init__(self, slots: KeyValueSlots) -> None:
        self.slots = slots
        self._seats: list[Row | None] = [None] * slots.count
        self._left: list[list[int]] = [[] for _ in self._seats]  # tokens that a slot holds of a row that is gone

    @property
    def seated(self) -> list[tuple[int, Row]]:
        """The slots that are taken, and their rows, in order."""
        return [(slot, row) for slot, row in enumerate(self._seats) if row is not None]

    @property
    def rows(self) -> list[Row]:
        """The rows, by their slots: after `close_ranks` those of the first slots."""
        return [row for _, row in self.seated]

    def row(self, slot: int) -> Row:
        """Return the row in a slot.

        Raises:
            IndexError: If it is free.
        """
        row = self._seats[slot]
        if row is None:
            raise IndexError(f"no row sits in slot {slot}")
        return row

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return None in self._seats

    def seat(self, row: Row) -> None:
        """Give a row the free slot that holds most of its beginning."""
        free = [slot for slot, other in enumerate(self._seats) if other is None]
        self._seats[max(free, key=lambda slot: common(self._left[slot], row.job.prompt))] = row

    def free(self, row: Row) -> None:
        """Take a row out; its slot keeps what it holds."""
        slot = self._seats.index(row)
        self._left[slot] = self.held(slot)
        self._seats[slot] = None

    def discard(self, row: Row) -> None:
        """Take out a row of which nothing may be left: what isn't a number would spoil what is read beside it."""
        slot = self._seats.index(row)
        self.slots.blank(slot)
        self._seats[slot], self._left[slot] = None, []

    def held(self, slot: int) -> list[int]:
        """Return the tokens whose keys and values are in a slot."""
        row = self._seats[slot]
        return row.known[: row.filled] if row is not None and row.filled else self._left[slot]

    def longest_beginning(self, tokens: Sequence[int], slot: int) -> tuple[int, int]:
        """Find the slot that holds most of a text's beginning, `slot` itself before others.

        Returns:
            The slot, and how many tokens.
        """
        shared = {other: self._common(other, tokens) for other in range(self.slots.count)}
        best = max(shared, key=lambda other: (shared[other], other == slot))
        return best, shared[best]

    def _common(self, slot: int, tokens: Sequence[int]) -> int:
        """Return how many of a text's first tokens a slot holds."""
        row = self._seats[slot]
        return min(row.common(tokens), row.filled) if row and row.filled else common(self._left[slot], tokens)

    def adopt(self, slot: int, source: int, count: int) -> None:
        """Begin a row that has just sat down with `count` tokens of another slot, or of its own."""
        row = self.row(slot)
        self._left[slot] = []
        if count and source != slot:
            self.slots.copy([source], [slot], [count])
        row.filled = count

    def close_ranks(self) -> None:
        """Move the last rows into gaps before them."""
        count = len(self.rows)
        gaps = [slot for slot in range(count) if self._seats[slot] is None]
        self._move([slot for slot in range(count, len(self._seats)) if self._seats[slot] is not None], gaps)

    def arrange(self) -> None:
        """Seat rows of near lengths together, where that saves reading."""
        lengths = [row.filled for row in self.rows]
        order = sorted(range(len(lengths)), key=lambda slot: -lengths[slot])
        device = self.slots.device
        wanted = windows([lengths[slot] + 1 for slot in order], device)
        if cost(windows([length + 1 for length in lengths], device), device) <= _GAIN * cost(wanted, device):
            return
        # rows that are in a place of their group already stay there
        places = [set(range(part.start, part.stop)) for part, _ in wanted]
        group = {slot: number for number, (part, _) in enumerate(wanted) for slot in order[part]}
        movers = [slot for slot in order if slot not in places[group[slot]]]
        self._move(movers, sorted(movers))  # as many leave a group as enter it, and both are in the groups' order

    def resize(self, count: int, capacity: int) -> list[Row]:
        """Change the slots; of rows that lose theirs, nothing is kept but their tokens.

        Returns:
            These rows.
        """
        unseated = [row for row in self._seats[count:] if row is not None]
        for row in unseated:
            row.filled = 0
        kept = self._seats[:count]
        try:
            self.slots.resize(count, capacity, [row.filled if row else 0 for row in kept])
        except RuntimeError:  # memory ran out, and nothing is left of any slot
            self._forget()
            raise
        self._seats = kept + [None] * (count - len(kept))
        self._left = [[] for _ in self._seats]
        return unseated

    def clear(self) -> None:
        """Take all rows out, and forget what slots hold."""
        self._seats = [None] * len(self._seats)
        self._left = [[] for _ in self._seats]

    def _forget(self) -> None:
        """Trust nothing that slots hold: every row is read again."""
        for row in self.rows:
            row.filled = 0
        self._left = [[] for _ in self._seats]

    def _move(self, sources: list[int], targets: list[int]) -> None:
        """Move the rows in `sources` to `targets`, which are free or sources themselves."""
        if not sources:
            return
        rows = [self._seats[slot] for slot in sources]
        try:
            self.slots.copy(sources, targets, [row.filled if row else 0 for row in rows])
        except RuntimeError:  # memory ran out when some layers were copied, and others not
            self._forget()
            raise
        held = [self.held(slot) for slot in sources]
        for slot, tokens in zip(sources, held, strict=True):
            self._seats[slot], self._left[slot] = None, tokens
        for slot, row in zip(targets, rows, strict=True):
            self._seats[slot], self._left[slot] = row, []


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two texts begin with in common.

    >>> common([1, 2, 3], [1, 2, 4, 5])
    2
    """
    end, place = min(len(one), len(other)), 0
    while place < end and one[place : place + _COMPARED] == other[place : place + _COMPARED]:
        place += _COMPARED  # beginnings are long, and pieces are compared faster than tokens
    while place < end and one[place] == other[place]:
        place += 1
    return min(place, end)


logger = logging.getLogger(__name__)
CAPACITY = 384
"""Tokens that a slot has room for at first, and at least."""
_WORTH = 1.25  # times as many slots are worth making them shorter
_GROWTH = 128  # tokens that it is made longer than it need be, not to be made longer again at once


class Room:
    """The rows under way.

    Args:
        slots: Where they sit: no more of them than memory holds.
        most: Rows at once, where memory allows.
        tokens: Of how many tokens it holds keys and values, in all slots together.
    """

    def __init__(self, slots: KeyValueSlots, most: int, tokens: int) -> None:
        self.seating = Seating(slots)
        self._most, self._tokens = most, tokens
        self._parked: list[Row] = []
        self._passed = 0
        self._whole = most, tokens

    @property
    def rows(self) -> list[Row]:
        """The rows in slots."""
        return self.seating.rows

    @property
    def free(self) -> float:
        """Share of the slots that no row sits in."""
        return 1 - len(self.rows) / self.seating.slots.count

    @property
    def is_whole(self) -> bool:
        """Whether it is as it was made: nobody is here, and memory held what it promised."""
        return not self._parked and not self.rows and self._whole == (self._most, self._tokens)

    def clear(self) -> None:
        """Send all rows away."""
        self._parked = []
        self.seating.clear()

    def next(self, take: Take) -> Row | None:
        """Return the row that is to sit down now, if there is one: one that waits here, or that of the next job.

        A job whose row doesn't fit beside the others is taken all the same, and waits; an eighth of the slots may.
        """
        while len(self.rows) < self._most:
            fitting = (row for row in self._parked if self._fits(row) or not self.rows)
            if (row := next(fitting, None)) is not None:
                self._parked.remove(row)
                self._passed = 0
                return row
            if self._passed >= self._most or len(self._parked) > self._most // 8:
                return None
            if (job := take()) is None:
                return None
            row = Row(job, uniforms(job.seed, job.max_new_tokens).tolist())
            if self._fits(row) or not self.rows:
                self._passed += bool(self._parked)
                return row
            self._parked.append(row)
        return None

    def seat(self, row: Row) -> bool:
        """Give a row a slot; False if there is none long enough, even for it alone."""
        try:
            if not self._arrange([*self.rows, row]):
                return False
        except RuntimeError:  # memory ran out: it waits for the others to make room
            self._parked.insert(0, row)
            raise
        self.seating.seat(row)
        return True

    def grow(self) -> list[Row]:
        """See that every row has room for one more token, even if some must wait; return one that never will."""
        rows, capacity = self.rows, self.seating.slots.capacity
        if _longest(rows) <= capacity:
            return []
        over = min(len(rows) - self._tokens // window_of(_longest(rows)), len(rows) - 1)
        if over > 0:  # a few long ones wait, or else those that are soonest read again
            grown = [row for row in rows if _length(row) > capacity]
            self._park(grown if len(grown) <= over else sorted(rows, key=_length)[:over])
        return [] if self._arrange(self.rows) else self._given_up(self.rows)

    def halve(self) -> list[Row]:
        """Go on with half of the rows, the shorter ones, since memory ran out; return one that is too long for it.

        Raises:
            GenerationError: If memory doesn't hold what slots are made for at least.
        """
        rows, slots = sorted(self.rows, key=_length), self.seating.slots
        for row in rows:  # one that was read, but didn't come to choose, reads its last token again
            row.filled = min(row.filled, row.length - 1)
        if len(rows) == 1 and self._tokens <= window_of(_length(rows[0])):  # no other slot takes any of it
            if _length(rows[0]) <= CAPACITY:
                raise GenerationError(told(_length(rows[0])))
            return self._given_up(rows)
        kept = rows[: max(len(rows) // 2, 1)]
        needed = len(kept) * max(slots.capacity if len(rows) > 1 else 0, window_of(_longest(kept)))
        self._tokens = min(self._tokens, needed) if kept else self._tokens // 2
        self._most = len(kept) or self._most
        self._park(rows[len(kept) :])
        self._arrange(kept)
        free_memory()
        return []

    def _given_up(self, rows: Sequence[Row]) -> list[Row]:
        for row in rows:
            self.seating.free(row)
        return list(rows)

    def _park(self, rows: Sequence[Row]) -> None:
        """Let rows wait; nothing is kept of them but their tokens."""
        if not rows:
            return
        left = len(self.rows) - len(rows)
        logger.warning("memory holds no %d rows of %d tokens: on with %d", len(self.rows), _longest(self.rows), left)
        for row in rows:
            self.seating.free(row)
            row.filled = 0
        self._parked = [*rows, *self._parked]

    def _fits(self, row: Row) -> bool:
        """Whether memory holds a row beside those that sit."""
        rows, slots = [*self.rows, row], self.seating.slots
        length = _longest(rows)
        if len(rows) * max(CAPACITY, window_of(length)) > self._tokens:
            return False
        if length > slots.capacity or len(rows) <= slots.count:
            return True
        # shorter slots would be more, but all that they hold has to be copied
        return min(self._most, self._tokens // max(CAPACITY, window_of(length + _GROWTH))) > _WORTH * slots.count

    def _arrange(self, rows: Sequence[Row]) -> bool:
        """See that there is a slot for each of these rows, and as many more as memory holds; False if it can't be."""
        slots, length = self.seating.slots, _longest(rows)
        if length <= slots.capacity and len(rows) <= slots.count and slots.count * slots.capacity <= self._tokens:
            return True
        capacity = CAPACITY if length <= CAPACITY else window_of(length + _GROWTH)
        if len(rows) * capacity > self._tokens:
            capacity = window_of(length)
        elif length > slots.capacity and self._most * (ample := window_of(slots.capacity * 3 // 2)) <= self._tokens:
            capacity = max(capacity, ample)  # so that rows are copied few times, however long they become
        count = min(self._most, self._tokens // capacity)
        if count < len(rows):
            return False
        self.seating.close_ranks()  # slots are given up from the last
        self.seating.resize(count, capacity)
        return True


def told(length: int) -> str:
    """Say that memory doesn't hold one row of so many tokens."""
    return f"out of memory with one row of {length} tokens; use a smaller max_new_tokens or model."


def _length(row: Row) -> int:
    """Return how many tokens a row's slot must hold for it to write one more."""
    return row.length


def _longest(rows: Iterable[Row]) -> int:
    return max(map(_length, rows), default=1)
