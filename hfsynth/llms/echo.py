"""An llm without a model, for doctests and for trying out a pipeline's columns."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from hfsynth.config import Configuration
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
            return _scored(request, read)
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


def _scored(request: Request, read: int) -> Completion:
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
