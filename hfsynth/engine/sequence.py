"""One request as a model sees it: tokens to read, tokens and texts that end it, and what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hfsynth.llm import FinishReason, SamplingParams

Decode = Callable[[Sequence[int]], str]
_TAIL = 8  # tokens read beyond the longest stop text's bytes, for one that begins inside a token


class PromptTooLongError(ValueError):
    """What a request asks for doesn't fit into the model's context."""


@dataclass(frozen=True, eq=False)
class Job:
    """A prompt to be completed."""

    prompt: list[int]
    """Its tokens."""
    sampling: SamplingParams
    seed: int
    max_new_tokens: int
    """The sampling's, or what the context has left."""
    end_tokens: frozenset[int]
    """Tokens that end it."""
    stop: tuple[str, ...]
    """Texts that end it."""

    def ended(self, tokens: Sequence[int], decode: Decode) -> FinishReason | None:
        """Say why a completion ends with the last of these tokens, if it does.

        Args:
            tokens: What was written so far; every shorter beginning of it has not ended.
            decode: Tokens → text, to look for stop texts.
        """
        if tokens[-1] in self.end_tokens:
            return "stop"
        if self.stop:
            longest = max(len(stop.encode()) for stop in self.stop)  # a token may be a single byte of a character
            tail = decode(tokens[-longest - _TAIL :])
            if any(stop in tail for stop in self.stop):
                return "stop"
        return "length" if len(tokens) >= self.max_new_tokens else None


@dataclass(frozen=True)
class Written:
    """What the model wrote for a job: its tokens, the one that ended it included, and why it ended."""

    tokens: list[int]
    finish_reason: FinishReason
    error: str = ""
    """Why it couldn't go on, where that ended it."""


Take = Callable[[], Job | None]
"""Gives the next job, or None if none waits now."""
