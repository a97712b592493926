"""Which rows sit in slots, and which wait until memory has room for them.

All slots have the same capacity, so that one long row makes all of them long, and there are fewer. A row that doesn't
fit waits while shorter ones go on, but lets no more of them pass than there are slots at most. Once it has ended, the
others have the memory again.
"""

import logging
from collections.abc import Iterable, Sequence

from hfsynth.errors import GenerationError
from hfsynth.llms.job import Take
from hfsynth.llms.memory import free_memory
from hfsynth.llms.sampling import uniforms
from hfsynth.llms.seating import Row, Seating
from hfsynth.llms.slots import KeyValueSlots
from hfsynth.llms.windows import window_of

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
