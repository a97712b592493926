"""A decode loop with continuous batching: finished sequences are replaced while the others continue.

1. admit    on a CPU, a free slot takes the next request at once; on a GPU, requests wait until an eighth of the slots
            is free
2. prefill  the prompts of new sequences are read, many in one forward; tokens that any slot has already are copied
3. decode   otherwise the last token of every sequence is read, in one forward
4. sample   each sequence gets its next token by its own parameters and its own random numbers
5. free     a sequence that has ended (`TokenizedRequest.finish_reason` in `chat.py`) is returned, and its slot is free

A sequence's only state is its tokens, of which the first `num_cached` are in its slot. A sequence can therefore leave
its slot and return later: its tokens are then read again, as a prompt. `scheduler.py` assigns the slots; when memory
runs out, it takes them from some sequences, which wait.
"""

from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from hfsynth.chat import Decode, Generated, NextRequest, TokenizedRequest
from hfsynth.engine.attention import Segment
from hfsynth.engine.forwards import forwards_of
from hfsynth.engine.kv_cache import KeyValueSlots, is_out_of_memory
from hfsynth.engine.sampling import NON_FINITE_LOGITS, Sampler
from hfsynth.engine.scheduler import CAPACITY, Scheduler, Sequence, max_cached_tokens, out_of_memory_message

# A CPU takes half the time for half the tokens; a GPU that waits for the launch of each kernel takes as long for one
# prompt as for many. Tokens/s of an H100 with a model of 135M parameters and more requests than slots, at 1/4 and 1/8
# of the slots free: 25,000 and 25,600 with 512 slots, 20,500 and 19,600 with 256. The 4,096 prefill tokens of a GPU
# are calculated, not measured.
_PREFILL_TOKENS = {"cpu": 2048, "cuda": 4096}  # most tokens of prompts in one forward
_FREE_SHARE = {"cpu": 0.0, "cuda": 0.125}  # share of the slots that is free before more prompts are read
_REUSED_TOKENS = 16  # fewest tokens that are copied from another slot, or waited for
T = TypeVar("T")


@dataclass
class LoopStats:
    """Counts of a loop's work."""

    steps: int = 0
    """Forwards of decoding."""
    decoded: int = 0
    """Sequences over all steps: over `steps` × slots, the share of slots that were in use."""
    prefilled: int = 0
    """Prompt tokens computed."""
    reused: int = 0
    """Prompt tokens found in another slot."""


class DecodeLoop:
    """Completes requests as they come, at most `slots` at a time.

    Args:
        model: A transformers causal language model whose attention function is `attention.attend`.
        decode: Token ids → text.
        slots: Most sequences at once; fewer where memory runs out.
    """

    def __init__(self, model: Any, decode: Decode, slots: int) -> None:
        self.stats = LoopStats()
        self._decode = decode
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        self._prefill_tokens = self._max_prefill_tokens = _PREFILL_TOKENS[kind]
        self._free_share = _FREE_SHARE[kind]
        max_tokens = max_cached_tokens(model)
        count = max(min(slots, max_tokens // CAPACITY), 1)
        self._scheduler = Scheduler(KeyValueSlots(count, CAPACITY, model.device), slots, max_tokens)
        self._table = self._scheduler.table
        self._forwards = forwards_of(model, self._table.slots)
        self._sampler: tuple[list[Sequence], Sampler] | None = None
        self._weights: Tensor | None = None  # on a CPU, the sampler's buffer
        self._evicted: list[Sequence] = []
        self._is_running = False

    @property
    def is_reusable(self) -> bool:
        """Whether the loop is idle, has no leftover state and never ran out of memory."""
        is_full_size = self._prefill_tokens == self._max_prefill_tokens
        return self._scheduler.is_pristine and is_full_size and not self._is_running

    def run(self, next_request: NextRequest) -> Iterator[tuple[TokenizedRequest, Generated]]:
        """Complete requests until there are none left; one that can't go on ends with an "error" or is "refused".

        Args:
            next_request: Called whenever there is room, so that a completion may lead to another request.

        Raises:
            GenerationError: If memory doesn't hold a short sequence either, or no row's logits are numbers.
        """
        self._is_running = True
        try:
            while self._admit(next_request):
                sequences, tokens = self._within_memory(self._advance) or ([], [])
                yield from self._free(sequences, tokens)
            self._is_running = False
        finally:  # a caller who stops early gives up the sequences under way
            self._scheduler.clear()  # cached tokens, too: a run must not depend on the runs before it
            self._sampler = None

    def _admit(self, next_request: NextRequest) -> bool:
        """Give slots to the next sequences as long as there is room; return whether there is anything to do."""
        if self._scheduler.free_share >= self._free_share:
            while sequence := self._scheduler.admit(next_request):
                if self._within_memory(partial(self._scheduler.allocate, sequence)) is False:
                    self._evicted.append(sequence)
        return bool(self._scheduler.sequences or self._evicted)

    def _advance(self) -> tuple[list[Sequence], list[int]]:
        """Run one forward and return the sequences whose tokens are all read, and the next token of each."""
        is_prefill = any(sequence.num_uncached > 1 for sequence in self._scheduler.sequences)
        sequences, logits = self._prefill() if is_prefill else self._decode_step()
        return sequences, [] if logits is None or not sequences else self._sample(sequences, logits)

    def _prefill(self) -> tuple[list[Sequence], Tensor | None]:
        """Read as much of the prompts as one forward takes.

        Returns:
            The sequences whose tokens are all read, and their logits, (sequences, vocabulary).
        """
        segments, chosen, left = list[Segment](), list[int](), self._prefill_tokens
        for slot, sequence in self._table.assigned:
            if sequence.num_uncached == 1:
                continue
            if not sequence.num_cached and not self._reuse_prefix(slot, chosen):
                continue  # this forward computes its beginning, which the next one finds
            count = min(sequence.num_uncached, left)
            segments.append(Segment(slot, sequence.num_cached, sequence.num_cached + count))
            chosen.append(slot)
            left -= count
            if not left:
                break
        sequences = [self._table.sequence(slot) for slot in chosen]
        pieces = [one.token_ids[part.start : part.stop] for one, part in zip(sequences, segments, strict=True)]
        is_read = [one.num_cached + len(piece) == one.num_tokens for one, piece in zip(sequences, pieces, strict=True)]
        ends = accumulate(map(len, pieces))
        lasts = [end - 1 for end, done in zip(ends, is_read, strict=True) if done]
        logits = self._forwards.prefill(list(chain.from_iterable(pieces)), segments, lasts)
        for sequence, piece in zip(sequences, pieces, strict=True):
            sequence.num_cached += len(piece)
            self.stats.prefilled += len(piece)
        return [sequence for sequence, done in zip(sequences, is_read, strict=True) if done], logits

    def _reuse_prefix(self, slot: int, chosen: abc.Sequence[int]) -> bool:
        """Copy the beginning of a prompt from the slot that has most of it.

        Args:
            slot: The slot of the prompt.
            chosen: Slots whose tokens the next forward computes.

        Returns:
            False if one of the chosen slots soon has more.
        """
        beginning = self._table.sequence(slot).token_ids[:-1]
        source, shared = self._table.longest_shared_prefix(beginning, slot)
        enough = shared + _REUSED_TOKENS
        if enough <= len(beginning) and any(
            self._table.sequence(slot).begins_with(beginning, enough) for slot in chosen
        ):
            return False
        if shared < _REUSED_TOKENS and source != slot:
            shared = 0
        self._table.reuse_prefix(slot, source, shared)
        self.stats.reused += shared
        return True

    def _decode_step(self) -> tuple[list[Sequence], Tensor | None]:
        """Read every sequence's last token; return the sequences and their logits, (sequences, vocabulary)."""
        self._evicted += self._scheduler.extend()
        if not self._scheduler.sequences:
            return [], None
        if self._forwards.has_buckets:
            self._table.compact()
            self._table.group_by_length()
        slots, sequences = zip(*self._table.assigned, strict=True)
        lengths = [sequence.num_cached for sequence in sequences]
        logits = self._forwards.decode([sequence.last_token for sequence in sequences], slots, lengths)
        self.stats.steps += 1
        self.stats.decoded += len(sequences)
        for sequence in sequences:
            sequence.num_cached += 1
        return list(sequences), logits

    def _sample(self, sequences: list[Sequence], logits: Tensor) -> list[int]:
        """Choose each sequence's next token."""
        if self._sampler is None or self._sampler[0] != sequences:
            params = [sequence.request.sampling for sequence in sequences]
            self._sampler = sequences, Sampler.of(params, logits.shape[-1], logits.device)
        numbers = [sequence.uniforms[len(sequence.generated)] for sequence in sequences]
        # without waiting for the forward, so that the device has its next kernels by the time it ends
        uniform = torch.tensor(numbers).to(logits.device, non_blocking=True)
        generated = [one.generated for one in sequences]
        tokens: list[int] = self._sampler[1].choose(logits, uniform, generated, self._buffer(logits)).tolist()
        return tokens

    def _buffer(self, logits: Tensor) -> Tensor | None:
        """Return memory for the weights of these logits on a CPU, the same at each step."""
        if logits.device.type != "cpu":
            return None
        if self._weights is None or len(self._weights) < len(logits):
            self._weights = logits.new_empty(logits.shape, dtype=torch.float32)
        return self._weights

    def _free(
        self, sequences: abc.Sequence[Sequence], tokens: abc.Sequence[int]
    ) -> list[tuple[TokenizedRequest, Generated]]:
        """Append the tokens to their sequences, free the slots of those that have ended, and return these."""
        ended = [
            (one.request, Generated(one.generated, "error", out_of_memory_message(one.num_tokens)))
            for one in self._evicted
        ]
        self._evicted = []
        for sequence, token in zip(sequences, tokens, strict=True):
            request = sequence.request
            if token < 0:
                self._table.discard(sequence)
                ended.append((request, Generated(sequence.generated, "refused", NON_FINITE_LOGITS)))
                continue
            sequence.generated.append(token)
            if reason := request.finish_reason(sequence.generated, self._decode):
                self._table.release(sequence)
                ended.append((request, Generated(sequence.generated, reason)))
        return ended

    def _within_memory(self, work: Callable[[], T]) -> T | None:
        """Do some work; return None where memory runs out, after which fewer sequences are under way."""
        try:
            with torch.inference_mode():
                return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # outside the handler, whose traceback holds the tensors
        self._prefill_tokens = max(self._prefill_tokens // 2, _REUSED_TOKENS)
        self._evicted += self._within_memory(self._scheduler.preempt_half) or []
        return None
