"""Steps that are recorded once on a GPU and then run again, without the time that Python takes to ask for each kernel.

A step of a small model is hundreds of kernels, each of which takes less time than asking for it. A CUDA graph asks for
all of them at once, but always for the same ones in the same memory: so there is one for each number of rows, rounded
up to a power of two, and what differs between steps is written to a tensor that the recording reads.

    rows      the first slots, as many as are recorded: those of the rows under way, and free ones among and after them
    told      (3, rows): the token of each, its position, how many positions are read for it

A free slot's token is written where the slot holds nothing, and what comes of it is never looked at.
"""

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from hfsynth.engine.attention import Asked
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.memory import is_out_of_memory
from hfsynth.llms import varlen

logger = logging.getLogger(__name__)
_TOLERANCE = 0.01  # of the logits' size, by which a recorded step may differ from the step: kernels are the same
_UNRECORDED: "WeakSet[Any]" = WeakSet()  # models whose steps can't be recorded, found by trying


@dataclass(frozen=True)
class ToldStep:
    """One next token for each of the first slots, as a tensor tells them."""

    slots: KeyValueSlots
    told: Tensor
    """(3, T), int64."""

    @property
    def count(self) -> int:
        """T."""
        return self.told.shape[1]

    @property
    def positions(self) -> Tensor:
        """Position of each token in its row, (T,)."""
        return self.told[1]

    def write(self, target: Tensor, new: Tensor) -> None:
        """Write one token a slot."""
        target[self._rows, :, self.told[1]] = new[0].transpose(0, 1)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, asked: Asked) -> Tensor:
        """Attend by the kernel that reads rows of any lengths: windows aren't known before it is run."""
        return varlen.read(query, keys, values, self._spans, asked.scaling, asked.reach)

    @cached_property
    def _rows(self) -> Tensor:
        return torch.arange(self.count, device=self.told.device)

    @cached_property
    def _spans(self) -> varlen.Spans:
        return varlen.Spans.of_step(self.told[2], self.slots.capacity)


@dataclass(frozen=True)
class Recording:
    """A step that can be run again."""

    graph: Any
    step: ToldStep
    """All that it reads from, which must stay where it is."""
    logits: Tensor
    """(rows, vocabulary), of the last time it was run."""


class RecordedSteps:
    """Forwards of steps, each kind recorded the first time.

    Args:
        model: A transformers causal language model on one GPU, whose attention is by the kernel of `varlen.py`.
        slots: Its keys and values.
    """

    def __init__(self, model: Any, slots: KeyValueSlots) -> None:
        self._model = model
        self._slots = slots
        self._recordings: dict[int, Recording] = {}
        self._moved = slots.moved
        self._pool: Any = None  # memory that all of them share, since one runs at a time
        self._stream: Any = None
        self._too_many = sys.maxsize  # rows for whose recording memory ran out

    def forward(self, tokens: Mapping[int, int], next_places: Sequence[int]) -> Tensor:
        """Read the next token of each row.

        Args:
            tokens: Slot → token, in the order of the slots; T of them, in some of the first `rounded(T)` slots.
            next_places: Where the next token of each of these slots goes, or would go if a row sat there.

        Returns:
            Logits, (T, vocabulary).
        """
        count, device = len(next_places), self._model.device
        own = [tokens.get(slot, 0) for slot in range(count)]
        reads = [place + 1 if slot in tokens else 1 for slot, place in enumerate(next_places)]
        told = torch.tensor([own, next_places, reads], device=device)
        rows = torch.tensor([*tokens], device=device)
        if self._moved != self._slots.moved:  # recordings speak of memory that is gone
            self.forget()
            self._moved, self._too_many = self._slots.moved, sys.maxsize
        if recording := self._recordings.get(count):
            recording.step.told.copy_(told)
            recording.graph.replay()
            return recording.logits[rows]
        logits = self._read(ToldStep(self._slots, told))  # this also makes what kernels keep
        self._begin(told, logits)
        return logits[rows]

    def rounded(self, count: int) -> int:
        """Return how many rows a step of `count` rows is recorded for: 2, 4, 8, …, or as many as there are slots."""
        return min(max(2, 1 << (count - 1).bit_length()), self._slots.count)

    def forget(self) -> None:
        """Give back the memory of the recordings."""
        self._recordings, self._pool, self._stream = {}, None, None

    def _begin(self, told: Tensor, logits: Tensor) -> None:
        """Record steps of this number of rows, unless it has turned out that they can't be."""
        count = told.shape[1]
        if self._model in _UNRECORDED or count >= self._too_many:
            return
        try:
            with torch.cuda.device(told.device):
                self._recordings[count] = self._record(told, logits)
            return
        except RuntimeError as error:
            if is_out_of_memory(error):
                self._too_many = count
            else:
                logger.warning("steps are not recorded, which is slower on a GPU: %s", error)
                _UNRECORDED.add(self._model)
        self.forget()  # outside the handler, whose traceback holds the tensors

    def _record(self, told: Tensor, logits: Tensor) -> Recording:
        """Record a step and see that it gives the logits of the step as it is.

        Raises:
            RuntimeError: If it can't be recorded, or gives others.
        """
        with _without_waiting():  # what waits for the device can't be recorded, and trying leaves memory behind
            self._read(ToldStep(self._slots, told))
        if self._stream is None:  # one for all, as they share the memory
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph, step, before = torch.cuda.CUDAGraph(), ToldStep(self._slots, told), torch.cuda.current_stream()
        try:
            # what another thread does at the time is no part of it
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                recorded = self._read(step)
        except RuntimeError:
            torch.cuda.set_stream(before)  # which torch does only where nothing is raised
            raise
        graph.replay()  # once more, to the same places
        known = logits.isfinite()
        off, size = (_norm(values.where(known, 0.0)) for values in (recorded - logits, logits))
        if not off <= _TOLERANCE * size:
            raise RuntimeError("a recorded step computes something else than the step")
        return Recording(graph, step, recorded)

    def _read(self, step: ToldStep) -> Tensor:
        logits: Tensor = self._model(
            input_ids=step.told[:1], position_ids=step.positions[None], use_cache=False, logits_to_keep=0, tokens=step
        ).logits[0]
        return logits


def can_record(model: Any) -> bool:
    """Whether a model's steps can be recorded: all of it is on one GPU, and its rows are read without windows."""
    on = {parameter.device for parameter in model.parameters()}
    return len(on) == 1 and model.device.type == "cuda" and varlen.is_used(model)


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Have torch raise where something waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # that it doesn't find everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float32))
