"""A causal language model in memory: requests go in, completions come out as they end."""

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from hfsynth.chat import (
    ChatTokenizer,
    Generated,
    NextRequest,
    RenderedChoices,
    RenderedRequest,
    TokenizedChoices,
    TokenizedRequest,
)
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.forwards import install_attention
from hfsynth.engine.kv_cache import free_memory
from hfsynth.engine.scoring import FORWARD_TOKENS, score
from hfsynth.engine.static_batches import StaticBatches
from hfsynth.llm import Completion, Request, Requests

logger = logging.getLogger(__name__)
_PACKED_ROWS = 64  # rows of an input that the layout of packed weights is chosen for
_PACKED_DTYPES = (torch.bfloat16, torch.float32)
# The products that decide on a dtype: of few rows, in weights that a core's cache doesn't hold. With many rows,
# float32 may multiply faster, but attention reads half as much in 16 bits. On a Xeon with AVX512-BF16, without AMX, a
# run in bfloat16 made 1.3 to 1.5 times the tokens of one in float32 with at most 7 rows at once, as many with 26 rows
# on average, and 0.93 times with 60.
_TRIAL_ROWS, _TRIAL_WIDTH, _TRIAL_LAYERS = 8, 1024, 8
_TRIALS = 20  # the first ones start threads


class Engine(Protocol):
    """Completes tokenized requests: the decode loop, or static batches for a model that can't be run by it."""

    @property
    def is_reusable(self) -> bool:
        """Whether the next run would be as the first: nothing is under way, and memory never ran out."""

    def run(self, next_request: NextRequest) -> Iterator[tuple[TokenizedRequest, Generated]]:
        """Complete requests until there are none left."""


class CausalLM:
    """A model with its tokenizer, made ready for the decode loop, or for static batches where it can't be.

    Args:
        model: A transformers causal language model. Its attention and its linear layers are replaced.
        chat: Its tokenizer.
    """

    def __init__(self, model: Any, chat: ChatTokenizer) -> None:
        self.model = model
        self.chat = chat
        # a checkpoint's own sampling defaults would work on the logits before a technique's parameters do
        model.generation_config = GenerationConfig.from_dict({})
        self.incompatibility = install_attention(model)
        """Why the model can't be run by the decode loop; empty where it can."""
        if self.incompatibility:
            logger.warning(
                "%s is run in static batches, which are slower: %s", chat.template.name, self.incompatibility
            )
        else:
            pack_linears(model)
        self._engine: tuple[int, Engine] | None = None

    def stream(self, requests: Requests, batch_size: int) -> Iterator[tuple[Hashable, Completion]]:
        """Complete requests as `LLM.stream` does, at most `batch_size` at once.

        Raises:
            ChatTemplateError: If every request needs something that the chat template lacks: a system role, say.
            GenerationError: If one row alone runs out of memory, or every request is an answered conversation, as a
                reward model takes them.
        """
        self.chat.check(requests.waiting())
        queue = RequestQueue(self.chat, requests, self._score)
        while True:
            for tokenized, generated in self._engine_of(batch_size).run(queue.next):
                key, rendered = queue.pending.pop(tokenized)
                yield key, self.chat.completion(rendered, generated)
                yield from queue.drain()  # at once: a chunk waits for its last row
            if not queue.ready:
                return
            yield from queue.drain()

    def _score(self, compared: Sequence[TokenizedChoices]) -> list[tuple[float, ...]]:
        return score(self.model, compared, is_replaced=not self.incompatibility)

    def _engine_of(self, batch_size: int) -> Engine:
        """Return the engine for so many rows at once: that of the last call, if it is reusable, else a new one."""
        if self._engine is None or self._engine[0] != batch_size or not self._engine[1].is_reusable:
            self._engine = None  # gives the memory back before more is asked for
            free_memory()
            kind = StaticBatches if self.incompatibility else DecodeLoop
            self._engine = batch_size, kind(self.model, self.chat.decode, batch_size)
        return self._engine[1]


@dataclass
class RequestQueue:
    """Tokenizes requests as an engine asks for them; those that are refused or scored never reach the engine.

    Requests with choices are gathered, and scored when a forward is full or no other request waits.
    """

    chat: ChatTokenizer
    requests: Requests
    score: Callable[[Sequence[TokenizedChoices]], list[tuple[float, ...]]]
    pending: dict[TokenizedRequest, tuple[Hashable, RenderedRequest]] = field(default_factory=dict)
    """Tokenized request → the request's key, and the request."""
    ready: deque[tuple[Hashable, Completion]] = field(default_factory=deque)
    """Completions of refused and scored requests, with their keys."""
    _gathered: list[tuple[Hashable, RenderedChoices]] = field(default_factory=list)

    def drain(self) -> Iterator[tuple[Hashable, Completion]]:
        """Remove and return the completions that are ready."""
        while self.ready:
            yield self.ready.popleft()

    def next(self) -> TokenizedRequest | None:
        """Return the next tokenized request; None where none waits now.

        Also None while a completion is ready, which `drain` must return before further requests are put.
        """
        while self.requests or not (self.ready or self._gathered):
            if (item := self.requests.take()) is None:
                return None
            if tokenized := self._tokenize(*item):
                return tokenized
        self._score_gathered()
        return None

    def _tokenize(self, key: Hashable, request: Request) -> TokenizedRequest | None:
        """Return a request as token ids, or None if it is refused or has choices."""
        rendered = self.chat.render(request)
        if isinstance(rendered, RenderedRequest):
            self.pending[rendered.tokens] = key, rendered
            return rendered.tokens
        if isinstance(rendered, RenderedChoices):
            self._gather(key, rendered)
        else:
            self.ready.append((key, rendered))
        return None

    def _gather(self, key: Hashable, rendered: RenderedChoices) -> None:
        """Add a request to the next forward, or to one after it where that is full."""
        gathered_tokens = sum(len(one.tokens.token_ids) for _, one in self._gathered)
        if gathered_tokens + len(rendered.tokens.token_ids) > FORWARD_TOKENS:
            self._score_gathered()
        self._gathered.append((key, rendered))

    def _score_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        scores = self.score([rendered.tokens for _, rendered in gathered]) if gathered else []
        for (key, rendered), own in zip(gathered, scores, strict=True):
            self.ready.append((key, self.chat.scored(rendered, own)))


class PackedLinear(nn.Module):
    """A linear layer whose weight is stored in the layout of oneDNN's kernels for CPUs."""

    packed: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("packed", pack_weight(linear.weight.detach()), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight in its usual layout, (out, in): some models compute with a layer's weight themselves."""
        dense: Tensor = self.packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias, (…, in) → (…, out)."""
        return packed_linear(x, self.packed, self.bias)


def pack_linears(model: Any) -> int:
    """Replace a model's linear layers by packed ones, where its device is a CPU whose kernels take them.

    Returns:
        The number of layers replaced.
    """
    if model.device.type != "cpu" or model.dtype not in _PACKED_DTYPES or not can_pack(model.dtype):
        return 0
    found = [  # no layers: each is freed as soon as it is replaced, so only one is in memory twice
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.dtype in _PACKED_DTYPES
    ]
    with torch.inference_mode(False), torch.no_grad():
        for parent, name in found:
            setattr(parent, name, PackedLinear(getattr(parent, name)))
    return len(found)


def faster_cpu_dtype(dtype: torch.dtype, name: str) -> torch.dtype:
    """Return float32 where this CPU multiplies faster in it than in a 16-bit type, otherwise the type; log why.

    Args:
        dtype: The type of a checkpoint.
        name: The model, for the log.
    """
    if dtype.itemsize != 2:
        return dtype
    threads = torch.get_num_threads()
    seconds = {kind: seconds_of_product(kind, threads) for kind in (torch.float32, dtype)}
    chosen = min(seconds, key=lambda kind: seconds[kind])
    logger.log(
        logging.WARNING if chosen is torch.float32 else logging.INFO,
        "dtype auto: %s is computed in %s on this CPU (%s, %d threads), where a product of %d rows takes %s.",
        name,
        _dtype_name(chosen),
        torch.backends.cpu.get_cpu_capability(),
        threads,
        _TRIAL_ROWS,
        " and ".join(f"{taken * 1e3:.2f} ms in {_dtype_name(kind)}" for kind, taken in seconds.items()),
    )
    return chosen


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def seconds_of_product(dtype: torch.dtype, threads: int) -> float:  # noqa: ARG001 - part of the cache's key
    """Return the seconds of a linear layer on this CPU, packed where it can be; measured once for a thread count."""
    weights = [torch.zeros(_TRIAL_WIDTH, _TRIAL_WIDTH, dtype=dtype) for _ in range(_TRIAL_LAYERS)]
    x = torch.zeros(_TRIAL_ROWS, _TRIAL_WIDTH, dtype=dtype)
    with torch.inference_mode():
        is_packed = dtype in _PACKED_DTYPES and can_pack(dtype)
        layers = [pack_weight(weight) for weight in weights] if is_packed else weights
        multiply = packed_linear if is_packed else nn.functional.linear
        seconds = []
        for _ in range(_TRIALS):
            began = time.perf_counter()
            for layer in layers:
                multiply(x, layer, None)
            seconds.append(time.perf_counter() - began)
    return min(seconds) / _TRIAL_LAYERS


# torch's operations for packed weights are private; these three functions are all that touch them.


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU have kernels for packed weights of a type."""
    ops = torch.ops.mkldnn
    if not torch._C._has_mkldnn or not hasattr(ops, "_linear_pointwise"):
        return False
    return dtype is torch.float32 or bool(ops._is_mkldnn_bf16_supported())


def pack_weight(weight: Tensor) -> Tensor:
    """Return a weight, (out, in), in the packed layout."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_ROWS)
    return packed


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Return x · weightᵀ + bias for a packed weight, (…, in) → (…, out)."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
