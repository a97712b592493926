"""Choose the next token of every row, each by its own parameters and its own random number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hfsynth.errors import GenerationError
from hfsynth.llm import SamplingParams

_LIKELIEST = (128, 4096)  # tokens that are sorted before all are
_BLOCK = 256  # weights that are summed first
_WITHOUT_FLOAT64 = {"mps"}
NON_FINITE_LOGITS = (
    "the model's logits are not numbers (NaN or infinite); use another dtype, such as bfloat16 or float32"
)
"""The error of a row for which no token can be chosen."""
# beyond these, a temperature or share makes no difference, and would become 0 or infinite in float32
_LEAST, _GREATEST = 1e-30, 1e30


@dataclass
class Sampler:
    """The sampling parameters of a batch of rows, as columns. B rows, V words in the vocabulary.

    Everything that depends on the parameters alone is computed once: at each step, it would wait for the device.
    """

    temperature: Tensor  # (B, 1), of greedy rows 1
    top_k: Tensor  # (B, 1), V where off
    top_p: Tensor  # (B, 1)
    min_p: Tensor | None  # (B, 1), None where off in all rows
    presence_penalty: tuple[float, ...]
    greedy: Tensor  # rows at temperature 0
    cut: Tensor  # other rows, of which only the likeliest tokens are kept
    max_top_k: int  # the most tokens that top-k leaves any of these

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> "Sampler":
        """Lay out the parameters of a batch."""

        def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)[:, None]

        def rows(chosen: Iterable[bool]) -> Tensor:
            found = torch.tensor([row for row, is_in in enumerate(chosen) if is_in], dtype=torch.int64)
            return found.to(device, non_blocking=True)

        top_k = [min(p.top_k or vocabulary, vocabulary) for p in params]
        # a row is cut by its own parameters only: other rows of the batch must not change its token
        cut = [p.temperature > 0 and (p.top_p < 1 or k < vocabulary) for p, k in zip(params, top_k, strict=True)]
        return cls(
            temperature=column([min(max(p.temperature, _LEAST), _GREATEST) if p.temperature else 1.0 for p in params]),
            top_k=column(top_k, torch.int64),
            top_p=column([max(p.top_p, _LEAST) for p in params]),
            min_p=column([p.min_p for p in params]) if any(p.min_p for p in params) else None,
            presence_penalty=tuple(p.presence_penalty for p in params),
            greedy=rows(p.temperature == 0 for p in params),
            cut=rows(cut),
            max_top_k=max(compress(top_k, cut), default=0),
        )

    def choose(
        self,
        logits: Tensor,
        uniform: Tensor,
        generated: Sequence[Sequence[int]] = (),
        buffer: Tensor | None = None,
    ) -> Tensor:
        """Choose one token a row, by the inverse of the cumulative distribution.

        Args:
            logits: (B, V), of any floating type.
            uniform: (B,), one random number in [0, 1) a row, unused at temperature 0.
            generated: The tokens that each row has so far, for presence penalties.
            buffer: Memory for the weights on a CPU, (B or more, V), float32, that a caller keeps between steps: the
                system would take back so much memory after each step, and clear it anew.

        Returns:
            (B,) token ids, on the CPU, where the next step's tokens are collected; -1 for a row whose logits are
            not numbers.

        Raises:
            GenerationError: If there are several rows, and the logits of none are numbers: the model is at fault.
        """
        if any(self.presence_penalty):
            logits = self._penalised(logits, generated)
        if len(self.greedy) == len(logits):
            return _on_cpu(_likeliest(logits))
        weights = self._weights(logits, buffer)
        chosen = self._draw(weights, uniform)
        if len(self.greedy):
            chosen[self.greedy] = _likeliest(logits)[self.greedy]
        return _on_cpu(chosen)

    def _penalised(self, logits: Tensor, generated: Sequence[Sequence[int]]) -> Tensor:
        """Subtract each row's penalty from the logits of its generated tokens. (B, V) → (B, V), float32."""
        pairs = zip(self.presence_penalty, generated, strict=True)
        found = [(row, token, off) for row, (off, own) in enumerate(pairs) if off for token in set(own)]
        if not found:
            return logits
        rows, tokens, offs = zip(*found, strict=True)
        places = torch.tensor([rows, tokens]).to(logits.device, non_blocking=True)
        penalties = -torch.tensor(offs).to(logits.device, non_blocking=True)
        return logits.float().index_put(tuple(places), penalties, accumulate=True)

    def _weights(self, logits: Tensor, buffer: Tensor | None) -> Tensor:
        """Return the probabilities at each row's temperature, in the buffer if there is one. (B, V), float32."""
        if buffer is None:
            return (logits / self.temperature).softmax(-1)
        weights = buffer[: len(logits)]
        torch.div(logits, self.temperature, out=weights)
        return torch.softmax(weights, -1, out=weights)

    def _draw(self, weights: Tensor, uniform: Tensor) -> Tensor:
        """Draw a token for every row by its own random number; -1 where its logits are not numbers. (B, V) → (B,)."""
        if self.min_p is not None:
            weights = weights.masked_fill(weights < self.min_p * weights.amax(-1, True), 0.0)
        every = len(self.cut) == len(weights)
        chosen = torch.empty_like(self.cut) if every else _inverse_cdf(weights, uniform)
        if len(self.cut):
            part = (weights, uniform) if every else (weights[self.cut], uniform[self.cut])
            chosen[self.cut] = self._draw_among_likeliest(*part)
        return chosen.masked_fill(weights[:, 0].isnan(), -1)  # a single NaN makes the whole row NaN

    def _draw_among_likeliest(self, weights: Tensor, uniform: Tensor) -> Tensor:
        """Draw for the rows that are cut, sorting no more of their tokens than needed. (C, V), (C,) → (C,).

        Top-p is a share of the weights that top-k and min-p keep; the token that crosses it is kept, too.
        """
        chosen = torch.empty_like(self.cut)
        left, rows = torch.arange(len(chosen), device=chosen.device), self.cut
        for count in (*(few for few in _LIKELIEST if few < weights.shape[-1]), weights.shape[-1]):
            top_k, top_p = self.top_k[rows], self.top_p[rows]
            ordered, tokens = weights.topk(count)
            ordered = ordered.masked_fill(torch.arange(count, device=rows.device) >= top_k, 0.0)
            cumulative = ordered.cumsum(-1)
            total = cumulative[:, -1:]
            if self.max_top_k > count:
                total = torch.where(top_k <= count, total, _blocks(weights).sum(-1).sum(-1, True))
            kept = ordered.masked_fill(cumulative - ordered >= top_p * total, 0.0)
            chosen[left] = tokens.gather(-1, _inverse_cdf(kept, uniform)[:, None])[:, 0]
            if self.max_top_k <= count:
                break
            remaining = ((top_k > count) & (cumulative[:, -1:] < top_p * total))[:, 0].nonzero()[:, 0]
            if not len(remaining):
                break
            left, rows, weights, uniform = left[remaining], rows[remaining], weights[remaining], uniform[remaining]
        return chosen


def _likeliest(logits: Tensor) -> Tensor:
    """Return each row's likeliest token; -1 where its logits are not numbers. (B, V) → (B,)."""
    tokens = logits.argmax(-1, keepdim=True)
    return tokens.masked_fill(~logits.gather(-1, tokens).isfinite(), -1)[:, 0]


def _on_cpu(chosen: Tensor) -> Tensor:
    """Move the tokens to the CPU, and only there check that there are any, to wait for the device once."""
    chosen = chosen.cpu()
    if len(chosen) > 1 and int(chosen.max()) < 0:
        raise GenerationError(f"for each of {len(chosen)} rows, {NON_FINITE_LOGITS}.")
    return chosen


def _blocks(weights: Tensor) -> Tensor:
    """Divide rows into blocks, padded with zeros: (B, V) → (B, blocks, _BLOCK).

    Sums over blocks first are equal in every batch: a single long row would be shared among threads.
    """
    missing = -weights.shape[-1] % _BLOCK
    padded = F.pad(weights, (0, missing)) if missing else weights
    return padded.view(len(weights), padded.shape[-1] // _BLOCK, _BLOCK)


def _inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the first place where the cumulative weights pass `uniform` of their sum. (B, V), (B,) → (B,).

    In two levels, since summing all of V exactly is most of the cost: first the block, then the place in it.
    """
    blocks = _blocks(weights)
    block, before = _first_past(_exact(blocks.sum(-1)), _exact(uniform))
    inside = _exact(blocks.take_along_dim(block.to(blocks.device)[:, None, None], 1)[:, 0])  # (B, _BLOCK)
    place, _ = _first_past(inside, before / inside.sum(-1))
    chosen = (block * _BLOCK + place).clamp(max=weights.shape[-1] - 1)  # where weights are not numbers
    return chosen.to(weights.device)


def _exact(values: Tensor) -> Tensor:
    """Return numbers as float64, on the CPU where their device has none of these."""
    return (values.cpu() if values.device.type in _WITHOUT_FLOAT64 else values).double()


def _first_past(weights: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the cumulative weights pass a share of their sum, and by how much of that place's weight."""
    cumulative = weights.cumsum(-1)
    target = share[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True)
    # rounding can put the target on the very sum: then the last that has any weight
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).int().argmax(-1, keepdim=True)
    place = torch.minimum(place, last)
    rest = (target - cumulative.gather(-1, place) + weights.gather(-1, place)).clamp(min=0)
    return place[:, 0], rest[:, 0]


def uniforms(seed: int, count: int) -> Tensor:
    """Return a request's own random stream: `count` numbers in [0, 1), one for each token it may write.

    The stream is numpy's Philox with all bits of the seed as its key: torch's CPU generator keeps 32 of them. The
    numbers are read from the generator's bits, which numpy promises not to change.

    Args:
        seed: Any integer; its lowest 128 bits count.
        count: A longer stream begins with the shorter one.

    Returns:
        (count,), float32, on the CPU whatever the model's device.
    """
    bits = np.random.Philox(key=seed % (1 << 128)).random_raw(count)
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))
