"""LLMs without a model: `EchoLLM` to try out the columns of a pipeline, `ScriptedLLM` to test techniques and flows."""

import hashlib
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from hfsynth.config import Configuration
from hfsynth.errors import RunError
from hfsynth.fingerprint import code_state
from hfsynth.llm import LLM, Completion, Request


@dataclass(frozen=True)
class EchoLLM(Configuration, LLM):
    """Answer with the text of the last message. Words count as tokens.

    A user's turn is a question with a number from the seed. A choice's score is a hash of the conversation and choice.

    >>> llm = EchoLLM()
    >>> request = Request(messages=({"role": "user", "content": "Say it again, please."},))
    >>> llm.complete([request])[0].text
    'Say it again, please.'
    """

    seconds_per_request: float = field(default=0.0, metadata={"help": "Sleep this long over each request."})

    @property
    def model_name(self) -> str:
        """The name in records."""
        return "echo"

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, in their order."""
        return [self._complete(request) for request in requests]

    def _complete(self, request: Request) -> Completion:
        if self.seconds_per_request:
            time.sleep(self.seconds_per_request)
        read = sum(len(message["content"].split()) for message in request.messages)
        if request.choices:
            return _hashed_scores(request, read)
        if request.role == "user":
            text = f"Question {len(request.messages)}: what is the square of {request.seed % 1000}?"
        else:
            text = request.messages[-1]["content"] if request.messages else ""
        words = text.split()
        limit = request.sampling.max_new_tokens
        if len(words) > limit:
            text = " ".join(words[:limit])
        return Completion(
            text=text,
            finish_reason="length" if len(words) > limit else "stop",
            prompt_tokens=read,
            completion_tokens=min(len(words), limit),
        )


def _hashed_scores(request: Request, read: int) -> Completion:
    conversation = "".join(f"{message['role']}: {message['content']}\n" for message in request.messages)
    tokens = tuple(len(choice.split()) + 1 for choice in request.choices)
    scores = tuple(
        -count * (0.5 + hashlib.blake2b(f"{conversation}{choice}".encode(), digest_size=1).digest()[0] / 256)
        for choice, count in zip(request.choices, tokens, strict=True)
    )
    return Completion(
        text=request.choices[scores.index(max(scores))],
        finish_reason="stop",
        prompt_tokens=read + sum(tokens) - len(tokens),
        scores=scores,
        scored_tokens=tokens,
    )


Reply = str | Completion
"""The text of a completion, or a `Completion`."""
_FUNCTIONS: dict[tuple[str, str], Callable[[Request], Reply]] = {}


@dataclass(frozen=True)
class ScriptedLLM(Configuration, LLM):
    """Return scripted replies, one for each request in order, and record the requests.

    Words count as tokens. The reply to a request with choices must be one of them: it gets the score 0, the others -1.

    Args:
        replies: Texts or completions, or a function that returns one for a request.
        name: `model_name`.

    Raises:
        RunError: In `complete`, if there are more requests than replies.

    >>> llm = ScriptedLLM(["Paris.", "Oslo."])
    >>> requests = [Request(messages=({"role": "user", "content": f"Capital of {name}?"},)) for name in ("F", "N")]
    >>> [completion.text for completion in llm.complete(requests)]
    ['Paris.', 'Oslo.']
    >>> llm.requests[1].messages[0]["content"]
    'Capital of N?'

    >>> ScriptedLLM(lambda request: request.messages[-1]["content"].upper()).complete(requests[:1])[0].text
    'CAPITAL OF F?'
    """

    replies: Any = field(
        metadata={"help": "Texts or completions in the order of requests, or a function of a request."}
    )
    name: str = field(default="scripted", kw_only=True, metadata={"help": "Name of the model in records."})
    requests: list[Request] = field(default_factory=list, init=False, repr=False, compare=False)
    """The requests so far, in their order. A copy of the llm in another process has a list of its own."""

    def __post_init__(self) -> None:
        """Convert a sequence to a tuple, and a function to its name and a hash of its code, which can be pickled.

        Raises:
            ValueError: If `replies` is neither a sequence nor a function.
        """
        if isinstance(self.replies, _Function):
            return
        if callable(self.replies):
            object.__setattr__(self, "replies", _Function.of(self.replies))
        elif isinstance(self.replies, Sequence) and not isinstance(self.replies, (str, bytes)):
            object.__setattr__(self, "replies", tuple(self.replies))
        else:
            raise ValueError(
                f"ScriptedLLM.replies must be a sequence of texts or a function, got {self.replies!r:.200}."
            )

    @property
    def model_name(self) -> str:
        """The name in records."""
        return self.name

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Return the next replies, one for each request.

        Raises:
            RunError: If there are fewer replies than requests.
            ValueError: If a reply is not one of its request's choices.
        """
        return [self._complete(request) for request in requests]

    def _complete(self, request: Request) -> Completion:
        number = len(self.requests)
        if isinstance(self.replies, _Function):
            reply = self.replies(request)
        elif number < len(self.replies):
            reply = self.replies[number]
        else:
            raise RunError(
                f"ScriptedLLM has {number} replies, and got request {number + 1}: {request.messages!r:.200}. "
                "Add a reply, or pass a function as replies."
            )
        self.requests.append(request)
        return reply if isinstance(reply, Completion) else _scripted_completion(request, reply)


@dataclass(frozen=True)
class _Function:
    """A function as plain configuration: its name, by which another process imports it, and a hash of its code."""

    name: str
    code: str

    @classmethod
    def of(cls, function: Any) -> "_Function":
        state = hashlib.blake2b(code_state(function).encode(), digest_size=16).hexdigest()
        described = cls(f"{function.__module__}:{function.__qualname__}", state)
        _FUNCTIONS[described.name, described.code] = function
        return described

    def __call__(self, request: Request) -> Reply:
        if (self.name, self.code) not in _FUNCTIONS:
            module, _, path = self.name.partition(":")
            if "<" in path:  # a lambda, or a function inside a function
                raise ValueError(
                    f"ScriptedLLM: {self.name} can't be imported here; define it at a module's top level."
                )
            owner: Any = importlib.import_module(module)
            _FUNCTIONS[self.name, self.code] = reduce(getattr, path.split("."), owner)
        return _FUNCTIONS[self.name, self.code](request)


def _scripted_completion(request: Request, text: str) -> Completion:
    """Return a text as the completion of a request."""
    prompt_tokens = sum(len(message["content"].split()) for message in request.messages)
    if not request.choices:
        return Completion(
            text=text, finish_reason="stop", prompt_tokens=prompt_tokens, completion_tokens=len(text.split())
        )
    if text not in request.choices:
        raise ValueError(f"ScriptedLLM: the reply must be one of the choices {request.choices}, got {text!r}.")
    return Completion(
        text=text,
        finish_reason="stop",
        prompt_tokens=prompt_tokens,
        scores=tuple(0.0 if choice == text else -1.0 for choice in request.choices),
        scored_tokens=tuple(len(choice.split()) + 1 for choice in request.choices),
    )
