"""A decode loop of our own, in which no slot is idle while a request waits.

1. refill   a free slot takes the next request at once, whoever else is in the middle of its answer
2. prefill  new rows' prompts are read, many in one forward; what any slot has read already is copied, not computed
3. step     otherwise every row's last token is read, in one forward
4. sample   each row chooses its next token by its own parameters and its own random numbers
5. free     a row that has ended hands over what it wrote and frees its slot

All that a row is known by is its tokens, of which the first `filled` are in its slot. So a row can be taken out and
put back at any time: its tokens are read again, as a prompt.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from hfsynth.errors import GenerationError
from hfsynth.llms.attention import KeyValueSlots, Prefill, Segment, Step, forward, window_of
from hfsynth.llms.job import Decode, Job, Take, Written
from hfsynth.llms.memory import free_memory, tokens_fitting
from hfsynth.llms.sampling import Sampler, uniforms
from hfsynth.llms.seating import Row, Seating, common
from hfsynth.llms.splitting import SplitModel

logger = logging.getLogger(__name__)
_PREFILL = 2048  # most tokens of prompts in one forward
_CAPACITY = 384  # tokens that a slot has room for at first
_SHARED = 16  # tokens that are worth copying from another slot, or waiting for


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
        self._prefill_tokens = _PREFILL
        self._parked: list[Row] = []
        # how many tokens' keys and values there is memory for, in all slots together
        split = isinstance(model, SplitModel)
        self._tokens = model.tokens_fitting() if split else tokens_fitting(model)
        self._fitting = max(min(slots, self._tokens // _CAPACITY), 1)
        new_slots = model.new_slots if split else partial(KeyValueSlots, device=model.device)
        self._seating = Seating(new_slots(self._fitting, _CAPACITY))
        self._sampler: tuple[list[Row], Sampler] | None = None

    @property
    def fresh(self) -> bool:
        """Whether it is as it was made: nothing is under way, and no slots were given up for want of memory."""
        whole = (self._seating.slots.count, self._prefill_tokens) == (self._fitting, _PREFILL)
        return whole and not self._parked and not self._seating.rows

    def run(self, take: Take) -> Iterator[tuple[Job, Written]]:
        """Complete jobs until there are none left.

        Args:
            take: Gives the next job, or None if none waits now. It is asked whenever there is room, so what becomes of
                one job may bring another.

        Raises:
            GenerationError: If one row alone runs out of memory.
        """
        try:
            while self._refill(take):
                yield from self._advance_or_shrink()
        finally:  # one who doesn't wait for the end gives up what is under way
            self._parked = []
            self._seating.clear()  # and forget what slots hold: how a run's rows are computed is its own affair

    def _refill(self, take: Take) -> bool:
        """Seat the next jobs in the free slots; whether there is any row at all."""
        seating = self._seating
        while seating.has_room:
            if self._parked:
                seating.seat(self._parked.pop(0))
            elif job := take():
                seating.seat(Row(job, uniforms(job.seed, job.max_new_tokens).tolist()))
            else:
                break
        return bool(seating.rows)

    def _advance_or_shrink(self) -> list[tuple[Job, Written]]:
        """Go on by one forward; where memory runs out, with half of the rows from then on."""
        try:
            with torch.inference_mode():
                return self._advance()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        # outside the handler, whose traceback holds the tensors
        self._prefill_tokens = max(self._prefill_tokens // 2, _SHARED)
        for row in self._seating.rows:  # one that was read, but didn't come to choose, reads its last token again
            row.filled = min(row.filled, len(row.known) - 1)
        self._shrink(len(self._seating.rows) // 2 or int(self._seating.slots.count > 1))
        return []

    def _advance(self) -> list[tuple[Job, Written]]:
        """Read the new rows' prompts, or every row's last token, and let those that are through choose their next."""
        if any(row.missing > 1 for row in self._seating.rows):
            return self._prefill()
        self._seating.close_ranks()  # first: slots are given up from the last
        self._make_room(max(row.filled for row in self._seating.rows) + 1)
        self._seating.arrange()
        rows = self._seating.rows
        lengths = torch.tensor([row.filled for row in rows], device=self._model.device)
        tokens = [row.last for row in rows]
        logits = forward(self._model, tokens, Step(self._seating.slots, lengths))
        self.tally.steps += 1
        self.tally.stepped += len(rows)
        for row in rows:
            row.filled += 1
        return self._choose(rows, logits)

    def _prefill(self) -> list[tuple[Job, Written]]:
        """Read as much of the prompts as one forward takes."""
        self._make_room(max(len(row.known) for row in self._seating.rows))
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
        return self._read(segments) if segments else []  # none where every row has lost its slot

    def _read(self, segments: Sequence[Segment]) -> list[tuple[Job, Written]]:
        rows = [self._seating.row(segment.slot) for segment in segments]
        read = [row.known[part.start : part.stop] for row, part in zip(rows, segments, strict=True)]
        through = [row.filled + len(part) == len(row.known) for row, part in zip(rows, read, strict=True)]
        lengths = torch.tensor([len(part) for part in read])
        last = (lengths.cumsum(0) - 1)[torch.tensor(through)]  # on the CPU: the logits may be on another device
        where = Prefill(self._seating.slots, segments, self._model.device)
        logits = forward(self._model, [token for part in read for token in part], where, last)
        for row, part in zip(rows, read, strict=True):
            row.filled += len(part)
            self.tally.read += len(part)
        return self._choose([row for row, done in zip(rows, through, strict=True) if done], logits)

    def _share(self, slot: int, chosen: Sequence[int]) -> bool:
        """Copy the beginning of a row's prompt from the slot that has most of it; False if one soon has more."""
        seating = self._seating
        prompt = seating.row(slot).known
        source, shared = seating.longest_beginning(prompt[:-1], slot)
        if any(common(seating.row(other).known, prompt[:-1]) >= shared + _SHARED for other in chosen):
            return False
        if shared < _SHARED and source != slot:
            shared = 0
        seating.adopt(slot, source, shared)
        self.tally.copied += shared
        return True

    def _choose(self, rows: list[Row], logits: Tensor) -> list[tuple[Job, Written]]:
        """Give each row its next token, and free the slots of those that have ended."""
        if not rows:
            return []
        if self._sampler is None or self._sampler[0] != rows:
            params = [row.job.sampling for row in rows]
            self._sampler = rows, Sampler.of(params, logits.shape[-1], logits.device)
        uniform = torch.tensor([row.uniforms[len(row.tokens)] for row in rows], device=logits.device)
        ended = []
        chosen = self._sampler[1].choose(logits, uniform, [row.tokens for row in rows])
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.tokens.append(token)
            if reason := row.job.ended(row.tokens, self._decode):
                self._seating.free(row)
                ended.append((row.job, Written(row.tokens, reason)))
        return ended

    def _make_room(self, length: int) -> None:
        """See that slots hold rows of this length, and give up as many slots as that takes."""
        slots = self._seating.slots
        if length <= slots.capacity:
            return
        capacity = window_of(max(length, slots.capacity + 128))
        if self._tokens < slots.count * capacity:
            self._shrink(max(self._tokens // capacity, 1))
        self._seating.resize(self._seating.slots.count, capacity)

    def _shrink(self, count: int) -> None:
        """Go on with this many slots; rows in the others wait for one to be free.

        Raises:
            GenerationError: If there are no fewer.
        """
        longest = max(len(row.known) for row in self._seating.rows)
        if count < 1:
            raise GenerationError(
                f"out of memory with one row of {longest} tokens; use a smaller max_new_tokens or model."
            )
        logger.warning("memory holds no %d rows of %d tokens: on with %d", self._seating.slots.count, longest, count)
        self._parked = self._seating.resize(count, self._seating.slots.capacity) + self._parked
        free_memory()
