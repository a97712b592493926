"""Static batches: whole batches of prompts through `model.generate`, which every transformers model has.

Each row keeps its own sampling parameters, random stream, end tokens, stop texts and length: the choice of a token
and the decision to stop are handed to `generate` as a logits processor and a stopping criterion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from hfsynth.generation import FinishReason, SamplingParams
from hfsynth.llms.sampling import Sampler, uniforms

Decode = Callable[[Sequence[int]], str]
_TAIL = 8  # tokens read beyond the longest stop text's characters, for one that begins inside a token


@dataclass(frozen=True)
class Job:
    """One row of a batch."""

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


@dataclass(frozen=True)
class Written:
    """What the model wrote for a job: its tokens, the one that ended it included, and why it ended."""

    tokens: list[int]
    finish_reason: FinishReason


def generate_batch(model: Any, jobs: Sequence[Job], decode: Decode) -> list[Written]:
    """Complete a batch of jobs, left-padded, in one `generate`.

    Args:
        model: A transformers causal language model.
        jobs: The rows, best of near lengths.
        decode: Tokens → text, to look for stop texts.
    """
    longest = max(len(job.prompt) for job in jobs)
    device = model.device
    # any token can pad, since the attention mask hides it
    input_ids = torch.tensor([[0] * (longest - len(job.prompt)) + job.prompt for job in jobs], device=device)
    mask = torch.tensor([[0] * (longest - len(job.prompt)) + [1] * len(job.prompt) for job in jobs], device=device)
    stopping = _Stopping(jobs, longest, decode)
    with torch.inference_mode():
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max(job.max_new_tokens for job in jobs),
            pad_token_id=0,
            logits_processor=[_Choosing(jobs, longest, device)],
            stopping_criteria=[stopping],
        )
    rows = output[:, longest:].tolist()
    return [Written(row[:n], why) for row, n, why in zip(rows, stopping.lengths, stopping.reasons, strict=True)]


class _Choosing(LogitsProcessor):
    """Leaves `generate`, which takes the likeliest token, only the one that the row's own sampling chose."""

    def __init__(self, jobs: Sequence[Job], prompt_length: int, device: torch.device) -> None:
        self._prompt_length = prompt_length
        steps = max(job.max_new_tokens for job in jobs)
        self._greedy = all(job.sampling.temperature == 0 for job in jobs)
        self._jobs = jobs
        self._sampler: Sampler | None = None
        self._uniforms = None if self._greedy else torch.stack([uniforms(job.seed, steps) for job in jobs]).to(device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._uniforms is None:
            return scores
        if self._sampler is None:
            self._sampler = Sampler.of([job.sampling for job in self._jobs], scores.shape[-1], scores.device)
        chosen = self._sampler.choose(scores, self._uniforms[:, input_ids.shape[1] - self._prompt_length])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class _Stopping(StoppingCriteria):
    """Ends each row by its own end tokens, stop texts and length, and notes where and why."""

    def __init__(self, jobs: Sequence[Job], prompt_length: int, decode: Decode) -> None:
        self._jobs = jobs
        self._prompt_length = prompt_length
        self._decode = decode
        self.lengths = [0] * len(jobs)
        self.reasons: list[FinishReason] = ["length"] * len(jobs)
        self._done = [False] * len(jobs)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the shape of a criterion
        rows = input_ids[:, self._prompt_length :]
        for index, (job, last) in enumerate(zip(self._jobs, rows[:, -1].tolist(), strict=True)):
            if self._done[index]:
                continue
            self.lengths[index] += 1
            if last in job.end_tokens or self._stops(job, rows[index]):
                self.reasons[index] = "stop"
                self._done[index] = True
            self._done[index] |= self.lengths[index] >= job.max_new_tokens
        return torch.tensor(self._done, device=input_ids.device)

    def _stops(self, job: Job, row: Tensor) -> bool:
        if not job.stop:
            return False
        tail = self._decode(row[-max(map(len, job.stop)) - _TAIL :].tolist())
        return any(stop in tail for stop in job.stop)
