"""Which row sits in which slot: in a step in the first ones, and where that pays beside rows of its length.

What a freed slot holds stays there until another row sits down in it, so that a row's next turn, or another row with
the same beginning, finds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hfsynth.llms.job import Job
from hfsynth.llms.slots import KeyValueSlots
from hfsynth.llms.windows import cost, windows

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

    def next_places(self, count: int) -> list[int]:
        """Return where the next token of each of the first slots goes; a free one that is full loses its last."""
        places = list[int]()
        for row, left in zip(self._seats[:count], self._left, strict=False):
            if row is None:
                del left[self.slots.capacity - 1 :]
            places.append(len(left) if row is None else row.filled)
        return places

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
