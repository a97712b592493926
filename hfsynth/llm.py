"""Requests to a language model and its completions: LLM, Request, Completion, SamplingParams, messages.

`flow.py` derives the seed of each request; the modules of `llms/` complete requests.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar

from hfsynth.config import as_texts, settle_fields
from hfsynth.errors import GenerationError
from hfsynth.secrets import repr_of

Role = Literal["assistant", "user"]
MESSAGE_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "environment")
"""Roles of messages that chat templates know; the last ones are of models that call tools."""
FinishReason = Literal["stop", "length", "error", "refused"]
Need = Literal["user turn", "choices", "schema", "reward"]
"""Abilities of an llm that a technique may need besides answers to chats: a turn written as the user, scores of
choices, an answer that follows a JSON schema, a score of an answer as a reward model gives it."""
SameRows = Literal["row", "chunk", "none"]
"""Which rows a repeated run reproduces, on the same device, dtype and package versions. "row": every row, whatever
else is in its batch. "chunk": every row, if no row of another chunk is completed beside it. "none": none reliably."""


class _Turn(TypedDict):
    role: str
    content: str


class Message(_Turn, total=False):
    """One turn of a conversation: `role` is "system", "user" or "assistant", say; `content` is its text.

    The other fields are read by the chat templates of models that call tools or think.
    """

    tool_calls: list[Any]
    tool_call_id: str
    name: str
    reasoning_content: str
    reasoning: str
    thinking: str


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the tokens of a completion are chosen.

    Raises:
        ValueError: If a value is out of its range.
    """

    max_new_tokens: int = field(default=512, metadata={"help": "Longest completion, in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Divides the logits; 0 takes the likeliest token."})
    top_p: float = field(default=1.0, metadata={"help": "Keep the likeliest tokens up to this share of probability."})
    top_k: int = field(default=0, metadata={"help": "Keep this many of the likeliest tokens; 0 keeps all."})
    min_p: float = field(default=0.0, metadata={"help": "Keep tokens at least this share as likely as the likeliest."})
    presence_penalty: float = field(
        default=0.0, metadata={"help": "Taken off the logits of tokens that the completion has already; 0 is off."}
    )
    stop: tuple[str, ...] = field(default=(), metadata={"help": "Texts that end a completion and are cut from it."})

    def __repr__(self) -> str:
        """Return the fields that aren't at their defaults."""
        return repr_of(self)

    def __post_init__(self) -> None:
        """Check every type and range; a whole number where a float belongs becomes a float."""
        settle_fields(self)
        for name in ("temperature", "top_p", "min_p", "presence_penalty"):
            object.__setattr__(self, name, float(getattr(self, name)))
        ranges = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 (greedy) or more, and finite"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "between -2 and 2"),
            "stop": (all(self.stop), "texts that are not empty"),
        }
        for name, (holds, wanted) in ranges.items():
            if not holds:
                raise ValueError(f"SamplingParams.{name} must be {wanted}, got {getattr(self, name)!r}.")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion that a flow asks for."""

    messages: tuple[Message, ...]
    """The conversation so far. If empty, the prompt is the text that the chat template puts before any answer."""
    role: Role = "assistant"
    """Whose turn is to be written: "assistant" answers the conversation, "user" writes the user's turn (Magpie)."""
    sampling: SamplingParams = SamplingParams()
    """How its tokens are chosen."""
    seed: int = 0
    """Start of this request's own random stream; `flow.derive_seed` derives it from the row's index and the turn."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tools that the model may call, as JSON schemas; the chat template gets them as `tools`."""
    parse_tool_calls: bool = False
    """Whether the tool calls in the answer are parsed, and taken out of its text."""
    choices: tuple[str, ...] = ()
    """Texts to be scored as the next turn, instead of one to be written."""
    keep_truncated: bool | None = False
    """Whether a text that was cut off is kept, its row marked `truncated`; by default the row fails with the text.
    With None, the flow gets the completion and checks `finish_reason` itself."""

    def __post_init__(self) -> None:
        """Read one choice as a tuple of one."""
        if self.choices != ():
            object.__setattr__(self, "choices", as_texts("Request.choices", self.choices))

    def with_seed(self, seed: int) -> "Request":
        """Return the request with another seed. Its other fields aren't checked again, which takes longer."""
        request = object.__new__(type(self))
        vars(request).update(vars(self), seed=seed)
        return request


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The text that an llm wrote for one request, or its scores of the request's choices."""

    text: str
    """The text, without end tokens, stop texts and thinking. Of a request with choices, the likeliest one, on a
    tie the first."""
    finish_reason: FinishReason
    """"stop": the model ended it. "length": `max_new_tokens` or the context cut it off. "error": it failed this time,
    `text` is what was generated until then, and the next run retries the row. "refused": it would fail every time
    (the prompt is too long, or the chat template rejects it), and the row is not retried."""
    prompt_tokens: int = 0
    """Tokens that the model read."""
    completion_tokens: int = 0
    """Tokens that the model wrote, thinking and end token included."""
    cached_tokens: int = 0
    """Those of `prompt_tokens` that were in a cache already, if the llm reports them."""
    reasoning_tokens: int = 0
    """Those of `completion_tokens` that are thinking, if the llm reports them."""
    written: str = ""
    """All that the model wrote, special tokens and thinking included; "" if the llm doesn't report it."""
    thinking: str | None = None
    """The thoughts before the answer; None if the model wrote none."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """The tools that the model calls, if the request asked for parsed ones:
    `{"type": "function", "function": {"name": …, "arguments": {…}}}`, with an `id` if the model writes one."""
    tool_call_error: str = ""
    """Why the tool calls of an answer could not be parsed and stay in `text`; else ""."""
    error: str = ""
    """Why the text is missing or incomplete, if `finish_reason` is "error" or "refused"."""
    scores: tuple[float, ...] = ()
    """Natural logarithm of each choice's likelihood, the end of its turn included; of a reward model, its logits."""
    scored_tokens: tuple[int, ...] = ()
    """Tokens of each choice that were scored, the end included."""


class Requests:
    """A queue of requests, each with a key that its completion is returned with.

    Args:
        more: Called when a request is taken from an empty queue; it may add some.
    """

    def __init__(self, more: Callable[[], None] | None = None) -> None:
        self._more = more
        self._later: deque[tuple[Hashable, Request]] = deque()
        self._first: deque[tuple[Hashable, Request]] = deque()

    def put(self, key: Hashable, request: Request, first: bool = False) -> None:
        """Add a request; with `first`, before all that were added without it."""
        (self._first if first else self._later).append((key, request))

    def take(self) -> tuple[Hashable, Request] | None:
        """Remove and return the next request with its key; None if there is none now."""
        if not self and self._more:
            self._more()
        waiting = self._first or self._later
        return waiting.popleft() if waiting else None

    def take_waiting(self) -> list[tuple[Hashable, Request]]:
        """Remove and return all waiting requests with their keys; if there is none, those that `more` adds."""
        if not self and self._more:
            self._more()
        taken = [*self._first, *self._later]
        self.clear()
        return taken

    def waiting(self) -> list[Request]:
        """Return the waiting requests, in their order."""
        return [request for _, request in (*self._first, *self._later)]

    def clear(self) -> None:
        """Remove all waiting requests."""
        self._first.clear()
        self._later.clear()

    def keys(self) -> list[Hashable]:
        """Return the keys of the waiting requests, in their order."""
        return [key for key, _ in (*self._first, *self._later)]

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return len(self._first) + len(self._later)


@dataclass(frozen=True)
class Origin:
    """The origin of a model or dataset, as far as its card or files state it."""

    commit: str = ""
    """Its commit on the Hub."""
    license: str = ""
    """The license that its card or file names, by the Hub's identifier."""
    languages: tuple[str, ...] = ()
    """The languages that its card or file names, as ISO codes."""

    @classmethod
    def of_card(cls, metadata: Mapping[str, Any], commit: str = "") -> "Origin":
        """Read a card's metadata."""
        languages = metadata.get("language") or ()
        listed = [languages] if isinstance(languages, str) else languages
        license = metadata.get("license")
        return cls(commit, license if isinstance(license, str) else "", tuple(map(str, listed)))


L = TypeVar("L", bound="LLM")


def complete_by_stream(llm: "LLM", requests: Sequence[Request]) -> list[Completion]:
    """Complete requests by an llm's `stream`, and return the completions in the requests' order.

    For an llm that defines `stream` itself; the default `stream` calls `complete`.
    """
    waiting = Requests()
    for index, request in enumerate(requests):
        waiting.put(index, request)
    completions = dict(llm.stream(waiting)) if requests else {}
    return [completions[index] for index in range(len(requests))]


class LLM(ABC):
    """An engine that completes requests. A subclass must define `model_name` and `complete`.

    An llm is pickled and hashed with its techniques, so it is a frozen dataclass of plain configuration, which
    inherits from `hfsynth.Configuration` too, and loads its model on the first `complete`. `with llm:` loads
    the model on entry and unloads it at the end.

    >>> from hfsynth import Configuration
    >>> @dataclass(frozen=True)
    ... class Shout(Configuration, LLM):
    ...     model_name = "shout"
    ...
    ...     def complete(self, requests):
    ...         texts = [request.messages[-1]["content"].upper() for request in requests]
    ...         return [Completion(text=text, finish_reason="stop") for text in texts]
    >>> Shout().complete([Request(messages=({"role": "user", "content": "Hi"},))])[0].text
    'HI'
    """

    @property
    @abstractmethod
    def model_name(self) -> str:
        """The name of the model in records and cards."""

    @property
    def same_rows(self) -> SameRows:
        """Which rows of a repeated run are equal, for the record and the card.

        A run starts rows of its next chunks, and of the next technique with the same llm, while earlier chunks are
        still being completed. With "chunk", rows therefore depend on the number of processes, unless
        `deterministic=True` completes one chunk after the other. With "row", rows are equal without it; with "none",
        rows differ even with it.
        """
        return "chunk"

    @property
    def parallel_requests(self) -> int | None:
        """Maximum number of requests that are completed at once, for logs and records; None if it is not known.

        Known without loading the model, since the size of isolated chunks depends on it.
        """
        return None

    def lacks(self, need: Need) -> str:
        """Return why the llm can't do what a technique needs, and what to use instead; "" if it can.

        A run calls this before its first row, without loading, and again before each step, once the llm is loaded. An
        llm of your own that scores answers, for `Reward`, returns "" for "reward".
        """
        if need == "schema":
            return f"{self.model_name} can't constrain its answers to a JSON schema"
        return f"{self.model_name} writes text; use RewardModel(...)" if need == "reward" else ""

    def server_facts(self) -> Mapping[str, str]:
        """Return the facts that a server states of itself and the model, for the record; by default, none.

        They are known once the llm is loaded. "left_out" lists the fields of requests that the server doesn't know. A
        continued run logs a warning if another fact has changed since it began.
        """
        return {}

    @abstractmethod
    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, in their order; for a request with choices, return their scores.

        Raises:
            GenerationError: If the llm can't continue. For a request that can't be completed, return a `Completion`
                with `finish_reason="error"`, or "refused" if every retry would fail. If `complete` raises, a technique
                repeats the requests in halves, so that a request that always raises fails alone.
        """

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Yield the completion of each request as soon as it is finished, with the request's key.

        A completion may lead to another request. By default, all waiting requests are passed to `complete`, until
        none is left.

        Raises:
            GenerationError: If the llm can't continue.
        """
        while waiting := requests.take_waiting():
            completions = self.complete([request for _, request in waiting])
            if len(completions) != len(waiting):
                raise GenerationError(
                    f"{self.model_name} gave {len(completions)} completions for {len(waiting)} requests."
                )
            yield from zip((key for key, _ in waiting), completions, strict=True)

    def prompt(self, request: Request) -> str:
        """Return the text that the model reads for a request; by default, its messages with their roles.

        Raises:
            ChatTemplateError: If it can't be rendered.
        """
        return "\n".join(f"{message['role']}: {message['content']}" for message in request.messages)

    def origin(self) -> Origin:
        """Return the origin of the model, for the record, without loading it."""
        return Origin()

    def files_state(self) -> str:
        """Return a text that changes whenever the model's files change, as a part of every cache key.

        The text is computed without loading a model, and equal in all processes. "" for an llm without files.
        """
        return ""

    def check_ready(self) -> None:  # noqa: B027 - an llm without files has nothing to check
        """Check that the files that `load` needs exist, without loading or downloading them; by default, check none.

        Raises:
            GenerationError: If a file is missing.
        """

    def load(self: L) -> L:
        """Load everything that `complete` needs, if it isn't loaded yet; by default, nothing.

        Raises:
            GenerationError: If it can't be loaded.
        """
        return self

    def unload(self) -> None:  # noqa: B027 - an llm without a model has nothing to do
        """Free the model's memory; the next `complete` loads it again."""

    def __enter__(self: L) -> L:
        """Load."""
        return self.load()

    def __exit__(self, *exception: object) -> None:
        """Unload."""
        self.unload()
