"""A causal language model in memory: requests go in, completions come out as they end."""

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
from hfsynth.engine.packed_linear import pack_linears
from hfsynth.engine.scoring import FORWARD_TOKENS, score
from hfsynth.engine.static_batches import StaticBatches
from hfsynth.llm import Completion, Request, Requests

logger = logging.getLogger(__name__)


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
