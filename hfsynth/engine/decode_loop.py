"""A decode loop of our own, in which no slot is idle while a request waits.

1. refill   a free slot takes the next request at once, whoever else is in the middle of its answer (a GPU: an eighth
            of the slots together)
2. prefill  new rows' prompts are read, many in one forward; what any slot has read already is copied, not computed
3. step     otherwise every row's last token is read, in one forward
4. sample   each row chooses its next token by its own parameters and its own random numbers
5. free     a row that has ended hands over what it wrote and frees its slot

All that a row is known by is its tokens, of which the first `filled` are in its slot. So a row can be taken out and
put back at any time: its tokens are read again, as a prompt. Where memory runs out, some rows wait (`room.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from hfsynth.engine.attention import Prefill, Segment, Step, forward
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.memory import is_out_of_memory, tokens_fitting
from hfsynth.engine.sampling import NOT_NUMBERS, Sampler
from hfsynth.engine.scheduler import CAPACITY, Room, Row, told
from hfsynth.engine.sequence import Decode, Job, Take, Written

# A CPU takes half the time for half the tokens; a GPU that waits to be asked for each kernel takes as long for one
# prompt as for many. Its two numbers are worked out for an H100, not measured.
_PREFILL = {"cpu": 2048, "cuda": 4096}  # most tokens of prompts in one forward
_GATHERED = {"cpu": 0.0, "cuda": 0.125}  # share of the slots that is free before more prompts are read
_SHARED = 16  # tokens that are worth copying from another slot, or waiting for
T = TypeVar("T")


@dataclass
class Tally:
    """What a loop has done."""

    steps: int = 0
    stepped: int = 0
    """Rows over all steps: over `steps` × slots, the share of slots that were in use."""
    read: int = 0
    """Tokens of prompts computed."""
    copied: int = 0
    """Tokens of prompts found in another slot."""


class DecodeLoop:
    """Completes jobs as they come, at most `slots` at a time.

    Args:
        model: A transformers causal language model whose attention function is `attention.attend`.
        decode: Tokens → text.
        slots: Most rows at once; fewer where memory runs out.
    """

    def __init__(self, model: Any, decode: Decode, slots: int) -> None:
        self.tally = Tally()
        self._model = model
        self._decode = decode
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        self._prefill_tokens = self._most_tokens = _PREFILL[kind]
        self._gathered = _GATHERED[kind]
        tokens = tokens_fitting(model)
        count = max(min(slots, tokens // CAPACITY), 1)
        self._room = Room(KeyValueSlots(count, CAPACITY, model.device), slots, tokens)
        self._seating = self._room.seating
        self._sampler: tuple[list[Row], Sampler] | None = None
        self._lost: list[Row] = []
        self._under_way = False

    @property
    def fresh(self) -> bool:
        """Whether it is as it was made: nobody runs it or has left it in the middle, and memory hasn't run out."""
        return self._room.is_whole and self._prefill_tokens == self._most_tokens and not self._under_way

    def run(self, take: Take) -> Iterator[tuple[Job, Written]]:
        """Complete jobs until there are none left; one whose row can't go on ends with an "error" or is "refused".

        Args:
            take: Gives the next job, or None if none waits now. It is asked whenever there is room, so what becomes of
                one job may bring another.

        Raises:
            GenerationError: If memory doesn't hold a short row either, or a model's logits are no numbers for any row.
        """
        self._under_way = True
        try:
            while self._refill(take):
                rows, chosen = self._surviving(self._advance) or ([], [])
                yield from self._free(rows, chosen)
            self._under_way = False
        finally:  # one who doesn't wait for the end gives up what is under way
            self._room.clear()  # and what slots hold is forgotten: how a run's rows are computed is its own affair
            self._sampler = None

    def _refill(self, take: Take) -> bool:
        """Seat the next rows as long as there is room; whether there is anything to do."""
        if self._room.free >= self._gathered:
            while row := self._room.next(take):
                if self._surviving(partial(self._room.seat, row)) is False:
                    self._lost.append(row)
        return bool(self._room.rows or self._lost)

    def _advance(self) -> tuple[list[Row], list[int]]:
        """Go on by one forward: the rows that have read all they have, and the tokens that they choose."""
        reading = any(row.missing > 1 for row in self._room.rows)
        rows, logits = self._prefill() if reading else self._step()
        return rows, [] if logits is None or not rows else self._sample(rows, logits)

    def _prefill(self) -> tuple[list[Row], Tensor | None]:
        """Read as much of the prompts as one forward takes; the rows that are through, and their logits."""
        segments, chosen, left = list[Segment](), list[int](), self._prefill_tokens
        for slot, row in self._seating.seated:
            if row.missing == 1:
                continue
            if not row.filled and not self._share(slot, chosen):
                continue  # the next forward finds its beginning computed by this one
            count = min(row.missing, left)
            segments.append(Segment(slot, row.filled, row.filled + count))
            chosen.append(slot)
            left -= count
            if not left:
                break
        rows = [self._seating.row(slot) for slot in chosen]
        read = [row.known[part.start : part.stop] for row, part in zip(rows, segments, strict=True)]
        through = [row.filled + len(part) == row.length for row, part in zip(rows, read, strict=True)]
        ends = accumulate(map(len, read))
        last = [end - 1 for end, done in zip(ends, through, strict=True) if done]
        where = Prefill(self._seating.slots, segments, self._model.device)
        logits = forward(self._model, [token for part in read for token in part], where, last)
        for row, part in zip(rows, read, strict=True):
            row.filled += len(part)
            self.tally.read += len(part)
        return [row for row, done in zip(rows, through, strict=True) if done], logits

    def _share(self, slot: int, chosen: Sequence[int]) -> bool:
        """Copy the beginning of a row's prompt from the slot that has most of it; False if one soon has more."""
        seating = self._seating
        beginning = seating.row(slot).known[:-1]
        source, shared = seating.longest_beginning(beginning, slot)
        if any(seating.row(other).common(beginning) >= shared + _SHARED for other in chosen):
            return False
        if shared < _SHARED and source != slot:
            shared = 0
        seating.adopt(slot, source, shared)
        self.tally.copied += shared
        return True

    def _step(self) -> tuple[list[Row], Tensor | None]:
        """Read every row's last token; the rows, and their logits."""
        self._lost += self._room.grow()
        if not self._room.rows:
            return [], None
        logits = self._next_logits()
        rows = self._room.rows
        self.tally.steps += 1
        self.tally.stepped += len(rows)
        for row in rows:
            row.filled += 1
        return rows, logits

    def _next_logits(self) -> Tensor:
        """Read every row's last token, once the rows are where that is fastest: the logits, in their order then."""
        seating = self._seating
        seating.close_ranks()
        seating.arrange()
        return forward(
            self._model, [row.last for row in seating.rows], Step(seating.slots, [row.filled for row in seating.rows])
        )

    def _sample(self, rows: list[Row], logits: Tensor) -> list[int]:
        """Choose each row's next token."""
        if self._sampler is None or self._sampler[0] != rows:
            params = [row.job.sampling for row in rows]
            self._sampler = rows, Sampler.of(params, logits.shape[-1], logits.device)
        # without waiting for the forward, so that the device finds the next kernels when it has done that
        uniform = torch.tensor([row.uniforms[len(row.tokens)] for row in rows]).to(logits.device, non_blocking=True)
        chosen: list[int] = self._sampler[1].choose(logits, uniform, [row.tokens for row in rows]).tolist()
        return chosen

    def _free(self, rows: Sequence[Row], chosen: Sequence[int]) -> list[tuple[Job, Written]]:
        """Give the rows their tokens, and free the slots of those that have ended."""
        ended = [(row.job, Written(row.tokens, "error", told(row.length))) for row in self._lost]
        self._lost = []
        for row, token in zip(rows, chosen, strict=True):
            if token < 0:
                self._seating.discard(row)
                ended.append((row.job, Written(row.tokens, "refused", NOT_NUMBERS)))
                continue
            row.tokens.append(token)
            if reason := row.job.ended(row.tokens, self._decode):
                self._seating.free(row)
                ended.append((row.job, Written(row.tokens, reason)))
        return ended

    def _surviving(self, work: Callable[[], T]) -> T | None:
        """Do some work; None where memory runs out, to go on with fewer rows from then on."""
        try:
            with torch.inference_mode():
                return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # outside the handler, whose traceback holds the tensors
        self._prefill_tokens = max(self._prefill_tokens // 2, _SHARED)
        self._lost += self._surviving(self._room.halve) or []
        return None
