"""Decode steps as CUDA graphs: captured once for each number of sequences, then launched as one.

A step of a small model is hundreds of kernels, each of which takes less time than its launch from Python. A graph
launches them all, always the same ones on the same memory: what differs between steps is copied to its input.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.varlen_attention import VarlenBatch

logger = logging.getLogger(__name__)
_MIN_SEQUENCES = 16  # a step of fewer takes as long: reading the weights is most of it


@dataclass(frozen=True)
class DecodeGraph:
    """A captured step."""

    graph: Any
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
        self._is_capturable = True

    def forward(self, tokens: Sequence[int], slots: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Read one more token of some sequences.

        Args:
            tokens: The token of each, N of them.
            slots: The slot of each.
            lengths: Number of tokens that each has there already.

        Returns:
            Logits, (N, vocabulary), which the next call may overwrite.
        """
        count = max(_MIN_SEQUENCES, 1 << (len(tokens) - 1).bit_length())
        missing = count - len(tokens)  # as many copies of the first sequence, which write what it writes
        rows = [[*row, *[row[0]] * missing] for row in (tokens, slots, lengths)]
        inputs = torch.tensor(rows).to(self._model.device, non_blocking=True)
        if self._num_resizes != self._slots.num_resizes:  # graphs point to memory that is gone
            self._graphs.clear()
            self._num_resizes = self._slots.num_resizes
        if captured := self._graphs.get(count):
            captured.inputs.copy_(inputs)
            captured.graph.replay()
            return captured.logits[: len(tokens)]
        logits = self._read(inputs)  # also the warm-up that a capture needs
        if self._is_capturable:
            self._capture(inputs)
        return logits[: len(tokens)]

    def _capture(self, inputs: Tensor) -> None:
        """Capture a step of as many sequences, if the model can be captured."""
        try:
            graph: Any = torch.cuda.CUDAGraph()
            # the outer context restores the stream, which the inner one doesn't after an error
            with (
                torch.cuda.device(inputs.device),
                torch.cuda.stream(torch.cuda.current_stream(inputs.device)),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                logits = self._read(inputs)
        except RuntimeError as error:  # a model that waits for the device, or memory ran out
            logger.warning("Decode steps are not captured as CUDA graphs, and are slower: %s", error)
            self._is_capturable = False
            self._graphs.clear()
            return
        self._pool = self._pool or graph.pool()
        self._graphs[inputs.shape[1]] = DecodeGraph(graph, inputs, logits)

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
