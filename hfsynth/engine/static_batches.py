"""Static batches: whole batches of prompts through `model.generate`, which every transformers model has.

Each row keeps its own sampling parameters, random stream, end tokens, stop texts and length: the choice of a token
and the decision to stop are handed to `generate` as a logits processor and a stopping criterion.
"""

import logging
import sys
from collections.abc import Iterator, Sequence, Set
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from hfsynth.engine.memory import free_memory, is_out_of_memory
from hfsynth.engine.sampling import NOT_NUMBERS, Sampler, uniforms
from hfsynth.engine.sequence import Decode, Job, Take, Written
from hfsynth.errors import GenerationError
from hfsynth.llm import FinishReason

logger = logging.getLogger(__name__)


class StaticBatches:
    """Completes jobs in batches, longest prompts first, each batch as long as its longest answer.

    Args:
        model: A transformers causal language model.
        decode: Tokens → text.
        size: Most rows in a batch; fewer where memory runs out.
    """

    def __init__(self, model: Any, decode: Decode, size: int) -> None:
        self._model = model
        self._decode = decode
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        self._size = self._whole = size

    @property
    def fresh(self) -> bool:
        """Whether it would complete jobs as when it was made."""
        return self._size == self._whole

    def run(self, take: Take) -> Iterator[tuple[Job, Written]]:
        """Complete jobs until there are none left.

        Args:
            take: Gives the next job, or None if none waits now.

        Raises:
            GenerationError: If one row alone runs out of memory.
        """
        waiting: list[Job] = []
        while True:
            waiting = sorted([*waiting, *iter(take, None)], key=lambda job: -len(job.prompt))
            if not waiting:
                return
            # a row that has ended is read on until the last one has, which must not take it out of the context
            room = self._context - len(waiting[0].prompt)
            batch = [job for job in waiting if job.max_new_tokens <= room][: self._size] or waiting[:1]
            try:
                written = generate_batch(self._model, batch, self._decode)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise GenerationError(
                        f"out of memory with one row of {len(batch[0].prompt)} tokens; "
                        "use a smaller max_new_tokens or model."
                    ) from error
            else:
                through = set(batch)
                waiting = [job for job in waiting if job not in through]
                yield from zip(batch, written, strict=True)
                continue
            self._size = len(batch) // 2
            logger.warning(
                "memory holds no %d rows of %d tokens: on with %d", len(batch), len(batch[0].prompt), self._size
            )
            free_memory()  # outside the handler, whose traceback holds the tensors


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
    choosing = _Choosing(jobs, longest, device)
    stopping = _Stopping(jobs, longest, decode, choosing.lost)
    with torch.inference_mode():
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max(job.max_new_tokens for job in jobs),
            pad_token_id=0,
            logits_processor=[choosing],
            stopping_criteria=[stopping],
        )
    rows = output[:, longest:].tolist()
    ends = zip(rows, stopping.lengths, stopping.reasons, strict=True)
    return [Written(row[:n], why, NOT_NUMBERS if why == "refused" else "") for row, n, why in ends]


class _Choosing(LogitsProcessor):
    """Leaves `generate`, which takes the likeliest token, only the one that the row's own sampling chose."""

    def __init__(self, jobs: Sequence[Job], prompt_length: int, device: torch.device) -> None:
        self._prompt_length = prompt_length
        steps = max(job.max_new_tokens for job in jobs)
        self._jobs = jobs
        self._sampler: Sampler | None = None
        self._uniforms = torch.stack([uniforms(job.seed, steps) for job in jobs]).to(device)
        self.lost: set[int] = set()
        """Rows for which nothing could be chosen."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._sampler is None:
            self._sampler = Sampler.of([job.sampling for job in self._jobs], scores.shape[-1], scores.device)
        written = input_ids[:, self._prompt_length :]
        chosen = self._sampler.choose(scores, self._uniforms[:, written.shape[1]], written.tolist())
        self.lost.update((chosen < 0).nonzero()[:, 0].tolist())
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen.clamp(min=0)[:, None].to(scores.device), 0.0)


class _Stopping(StoppingCriteria):
    """Ends each row by its own end tokens, stop texts and length, and notes where and why."""

    def __init__(self, jobs: Sequence[Job], prompt_length: int, decode: Decode, lost: Set[int]) -> None:
        self._jobs = jobs
        self._lost = lost
        self._prompt_length = prompt_length
        self._decode = decode
        self.lengths = [0] * len(jobs)
        self.reasons: list[FinishReason] = ["length"] * len(jobs)
        self._done = [False] * len(jobs)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the shape of a criterion
        rows = input_ids[:, self._prompt_length :].tolist()
        for index, (job, row) in enumerate(zip(self._jobs, rows, strict=True)):
            if self._done[index]:
                continue
            if index in self._lost:
                self.reasons[index], self._done[index] = "refused", True
                continue
            self.lengths[index] += 1
            if reason := job.ended(row, self._decode):
                self.reasons[index] = reason
                self._done[index] = True
        return torch.tensor(self._done, device=input_ids.device)
