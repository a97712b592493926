"""Decode steps as CUDA graphs, one for each power of two of sequences from 16 on.

A step of a small model is hundreds of kernels, and launching one from Python takes longer than running it. A graph
launches all of them in one call, on fixed memory; each step first copies its tokens, slots and positions there.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.varlen_attention import VarlenBatch

logger = logging.getLogger(__name__)
_MIN_SEQUENCES = 16  # a step of fewer takes as long: reading the weights is most of it
_UNCAPTURABLE: "WeakSet[Any]" = WeakSet()  # models whose steps can't be captured, found by trying


@dataclass(frozen=True)
class DecodeGraph:
    """A captured step."""

    graph: Any
    """A `torch.cuda.CUDAGraph`."""
    inputs: Tensor
    """Token, slot and position of each sequence, (3, N)."""
    logits: Tensor
    """(N, vocabulary), of the last launch."""


class DecodeGraphs:
    """Decode steps of a model, whose attention is by `VarlenBatch`.

    Args:
        model: A transformers causal language model on one CUDA device.
        slots: The slots of its sequences.
    """

    def __init__(self, model: Any, slots: KeyValueSlots) -> None:
        self._model = model
        self._slots = slots
        self._graphs: dict[int, DecodeGraph] = {}
        self._num_resizes = slots.num_resizes
        self._pool: Any = None  # memory that all graphs share, since one runs at a time
        self._is_capturing = model.device.type == "cuda" and model not in _UNCAPTURABLE

    def forward(self, tokens: Sequence[int], slots: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Read one more token of some sequences.

        Args:
            tokens: The token of each, N of them.
            slots: The slot of each.
            lengths: Number of tokens that each has there already.

        Returns:
            Logits, (N, vocabulary), which the next call may overwrite.

        Raises:
            torch.OutOfMemoryError: If memory runs out in a step that isn't captured.
        """
        count = max(_MIN_SEQUENCES, 1 << (len(tokens) - 1).bit_length())
        missing = count - len(tokens)  # as many copies of the first sequence, which write what it writes
        rows = [[*row, *[row[0]] * missing] for row in (tokens, slots, lengths)]
        inputs = torch.tensor(rows).to(self._model.device, non_blocking=True)
        if self._num_resizes != self._slots.num_resizes:  # graphs point to memory that is gone
            self._forget()
            self._num_resizes = self._slots.num_resizes
            self._is_capturing = self._model.device.type == "cuda" and self._model not in _UNCAPTURABLE
        if captured := self._graphs.get(count):
            captured.inputs.copy_(inputs)
            captured.graph.replay()
            return captured.logits[: len(tokens)]
        logits = self._read(inputs)  # also the warm-up that a capture needs
        if self._is_capturing:
            self._capture(inputs)
        return logits[: len(tokens)]

    def _capture(self, inputs: Tensor) -> None:
        """Capture a step of as many sequences; where that fails, steps stay as they are."""
        device = inputs.device
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            graph: Any = torch.cuda.CUDAGraph()
            # the outer context restores the stream, which the inner one doesn't after an error
            with (
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=_capture_stream(device), capture_error_mode="thread_local"
                ),
            ):
                logits = self._read(inputs)
            self._graphs[inputs.shape[1]] = DecodeGraph(graph, inputs, logits)
            return
        except RuntimeError as error:  # the model waits for the device, or memory ran out
            _end_allocation(device, self._pool)
            cause = error.__context__ or error  # the end of a failed capture raises an error of its own
            logger.warning("Decode steps are not captured as CUDA graphs, and are slower: %s", cause)
            if not isinstance(cause, torch.OutOfMemoryError):
                _UNCAPTURABLE.add(self._model)
        self._is_capturing = False  # until the slots are resized
        self._forget()

    def _forget(self) -> None:
        self._graphs.clear()
        self._pool = None  # without graphs, its memory is given back

    def _read(self, inputs: Tensor) -> Tensor:
        tokens, slots, positions = inputs
        logits: Tensor = self._model(
            input_ids=tokens[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=0,
            tokens=VarlenBatch.of_decode(self._slots, slots, positions),
        ).logits[0]
        return logits


@cache
def _capture_stream(device: torch.device) -> Any:
    """Return the stream of captures on a device: graphs that share memory are captured on one stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _end_allocation(device: torch.device, pool: Any) -> None:
    """End the allocation from a pool, which a failed capture leaves on: no cached memory could be given back.

    torch's function is private; it raises where the allocation has ended.
    """
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device.index, pool)
