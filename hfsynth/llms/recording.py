"""Steps that are recorded once on a GPU and then run again, without the time that Python takes to ask for each kernel.

A step of a small model is hundreds of kernels, each of which takes less time than asking for it. A CUDA graph asks for
all of them at once, but always for the same ones in the same memory: so there is one for each number of rows, rounded
up to a power of two, and what differs between steps is written to a tensor that the recording reads.

    rows      first the rows under way, then slots that are free
    told      (3, rows): the token of each, its position, how many positions are read for it

A free slot's token is written where the slot holds nothing, and what comes of it is never looked at.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hfsynth.llms import varlen
from hfsynth.llms.slots import KeyValueSlots

logger = logging.getLogger(__name__)


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

    def attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scaling: float | None,
        reach: int | None,
        by_varlen: bool = True,  # noqa: ARG002 - there is no other way, since windows are known only when it runs
    ) -> Tensor:
        """Attend by the kernel that reads rows of any lengths."""
        return varlen.read(query, keys, values, self._spans, scaling, reach)

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
    told: Tensor
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
        self._fault = ""

    def forward(self, tokens: Sequence[int], held: Sequence[int]) -> Tensor:
        """Read the next token of each row.

        Args:
            tokens: Of the rows in the first slots, T of them.
            held: How many positions are filled of these slots and of those after them, up to `rounded(T)` in all.

        Returns:
            Logits, (T, vocabulary), which the next step overwrites.
        """
        spare = len(held) - len(tokens)
        reads = [*(count + 1 for count in held[: len(tokens)]), *[1] * spare]
        told = torch.tensor([[*tokens, *[0] * spare], held, reads], device=self._model.device)
        if self._moved != self._slots.moved:  # recordings speak of memory that is gone
            self.forget()
        recording = self._recordings.get(len(held))
        if recording is None:
            return self._first(told)[: len(tokens)]
        recording.told.copy_(told)
        recording.graph.replay()
        return recording.logits[: len(tokens)]

    def rounded(self, count: int) -> int:
        """Return how many rows a step of `count` rows is recorded for: 2, 4, 8, …, or as many as there are slots."""
        return min(max(2, 1 << (count - 1).bit_length()), self._slots.count)

    def forget(self) -> None:
        """Give back the memory of the recordings."""
        self._recordings, self._pool = {}, None
        self._moved = self._slots.moved

    def _first(self, told: Tensor) -> Tensor:
        """Run a step of a new kind, which also makes what kernels keep, and record it for those to come."""
        logits = self._read(ToldStep(self._slots, told))
        if not self._fault:
            try:
                self._recordings[told.shape[1]] = self._record(ToldStep(self._slots, told))
            except RuntimeError as error:
                self._fault = str(error)
                self.forget()
                logger.warning("steps are not recorded, which is slower on a GPU: %s", self._fault)
        return logits

    def _record(self, step: ToldStep) -> Recording:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(step.told.device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            # of this thread alone: another may be reading a dataset to the GPU
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                logits = self._read(step)
        return Recording(graph, step.told, logits)

    def _read(self, step: ToldStep) -> Tensor:
        logits: Tensor = self._model(
            input_ids=step.told[:1], position_ids=step.positions[None], use_cache=False, logits_to_keep=0, tokens=step
        ).logits[0]
        return logits


def can_record(model: Any) -> bool:
    """Whether a model's steps can be recorded: all of it is on one GPU, and its rows are read without windows."""
    on = {parameter.device for parameter in model.parameters()}
    return len(on) == 1 and model.device.type == "cuda" and varlen.is_used(model)
