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

from hfsynth.chat import Decode, Generated, NextRequest, TokenizedRequest
from hfsynth.engine.kv_cache import free_memory, is_out_of_memory
from hfsynth.engine.sampling import NON_FINITE_LOGITS, Sampler, uniforms
from hfsynth.errors import GenerationError
from hfsynth.llm import FinishReason

logger = logging.getLogger(__name__)


class StaticBatches:
    """Completes requests in batches, longest prompts first, each batch as long as its longest answer.

    Args:
        model: A transformers causal language model.
        decode: Token ids → text.
        size: Most rows in a batch; fewer where memory runs out.
    """

    def __init__(self, model: Any, decode: Decode, size: int) -> None:
        self._model = model
        self._decode = decode
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        self._size = self._max_size = size

    @property
    def is_reusable(self) -> bool:
        """Whether memory never ran out."""
        return self._size == self._max_size

    def run(self, next_request: NextRequest) -> Iterator[tuple[TokenizedRequest, Generated]]:
        """Complete requests until there are none left.

        Args:
            next_request: Called until it returns None, before each batch.

        Raises:
            GenerationError: If one row alone runs out of memory.
        """
        waiting: list[TokenizedRequest] = []
        while True:
            waiting = sorted([*waiting, *iter(next_request, None)], key=lambda request: -len(request.prompt_ids))
            if not waiting:
                return
            # a row that has ended is padded until the last one ends, and must stay within the context until then
            longest_answer = self._context - len(waiting[0].prompt_ids)
            fitting = [request for request in waiting if request.max_new_tokens <= longest_answer]
            batch = fitting[: self._size] or waiting[:1]
            try:
                generated = generate_batch(self._model, batch, self._decode)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise GenerationError(
                        f"out of memory with one row of {len(batch[0].prompt_ids)} tokens; "
                        "use a smaller max_new_tokens or model."
                    ) from error
            else:
                done = set(batch)
                waiting = [request for request in waiting if request not in done]
                yield from zip(batch, generated, strict=True)
                continue
            self._size = len(batch) // 2
            logger.warning(
                "Out of memory with %d rows of %d tokens; continuing with %d.",
                len(batch),
                len(batch[0].prompt_ids),
                self._size,
            )
            free_memory()  # outside the handler, whose traceback holds the tensors


def generate_batch(model: Any, requests: Sequence[TokenizedRequest], decode: Decode) -> list[Generated]:
    """Complete a batch of requests, left-padded, in one `generate`.

    Args:
        model: A transformers causal language model.
        requests: The rows, ideally of similar lengths.
        decode: Token ids → text, to look for stop texts.
    """
    longest = max(len(request.prompt_ids) for request in requests)
    device = model.device
    # any token can pad, since the attention mask hides it
    input_ids = torch.tensor(
        [[0] * (longest - len(request.prompt_ids)) + request.prompt_ids for request in requests], device=device
    )
    mask = torch.tensor(
        [[0] * (longest - len(request.prompt_ids)) + [1] * len(request.prompt_ids) for request in requests],
        device=device,
    )
    processor = _SamplingProcessor(requests, longest, device)
    criterion = _PerRowStopping(requests, longest, decode, processor.lost)
    with torch.inference_mode():
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max(request.max_new_tokens for request in requests),
            pad_token_id=0,
            logits_processor=[processor],
            stopping_criteria=[criterion],
        )
    rows = output[:, longest:].tolist()
    ends = zip(rows, criterion.lengths, criterion.reasons, strict=True)
    return [Generated(row[:n], why, NON_FINITE_LOGITS if why == "refused" else "") for row, n, why in ends]


class _SamplingProcessor(LogitsProcessor):
    """Gives `generate`, which takes the likeliest token, only the token that the row's own sampling chose."""

    def __init__(self, requests: Sequence[TokenizedRequest], prompt_length: int, device: torch.device) -> None:
        self._prompt_length = prompt_length
        steps = max(request.max_new_tokens for request in requests)
        self._requests = requests
        self._sampler: Sampler | None = None
        self._uniforms = torch.stack([uniforms(request.seed, steps) for request in requests]).to(device)
        self.lost: set[int] = set()
        """Rows whose logits were not numbers."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._sampler is None:
            self._sampler = Sampler.of(
                [request.sampling for request in self._requests], scores.shape[-1], scores.device
            )
        generated = input_ids[:, self._prompt_length :]
        chosen = self._sampler.choose(scores, self._uniforms[:, generated.shape[1]], generated.tolist())
        self.lost.update((chosen < 0).nonzero()[:, 0].tolist())
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen.clamp(min=0)[:, None].to(scores.device), 0.0)


class _PerRowStopping(StoppingCriteria):
    """Ends each row by its own end tokens, stop texts and length, and records where and why."""

    def __init__(
        self, requests: Sequence[TokenizedRequest], prompt_length: int, decode: Decode, lost: Set[int]
    ) -> None:
        self._requests = requests
        self._lost = lost
        self._prompt_length = prompt_length
        self._decode = decode
        self.lengths = [0] * len(requests)
        self.reasons: list[FinishReason] = ["length"] * len(requests)
        self._is_done = [False] * len(requests)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the signature of a criterion
        rows = input_ids[:, self._prompt_length :].tolist()
        for index, (request, row) in enumerate(zip(self._requests, rows, strict=True)):
            if self._is_done[index]:
                continue
            if index in self._lost:
                self.reasons[index], self._is_done[index] = "refused", True
                continue
            self.lengths[index] += 1
            if reason := request.finish_reason(row, self._decode):
                self.reasons[index] = reason
                self._is_done[index] = True
        return torch.tensor(self._is_done, device=input_ids.device)
