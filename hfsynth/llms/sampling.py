"""Choose the next token of every row, each by its own parameters and its own random number."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hfsynth.generation import SamplingParams

_LIKELIEST = (128, 4096)  # tokens that are sorted before all are
_SPAN = 256  # weights that are summed first


@dataclass
class Sampler:
    """The sampling parameters of a batch of rows, as columns. B rows, V words in the vocabulary."""

    temperature: Tensor  # (B, 1)
    top_k: Tensor  # (B, 1), V where off
    top_p: Tensor  # (B, 1)
    min_p: Tensor  # (B, 1)
    presence_penalty: tuple[float, ...]

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> "Sampler":
        """Lay out the parameters of a batch."""

        def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        return cls(
            temperature=column([p.temperature for p in params]),
            top_k=column([min(p.top_k or vocabulary, vocabulary) for p in params], torch.int64),
            top_p=column([p.top_p for p in params]),
            min_p=column([p.min_p for p in params]),
            presence_penalty=tuple(p.presence_penalty for p in params),
        )

    def choose(self, logits: Tensor, uniform: Tensor, written: Sequence[Sequence[int]] = ()) -> Tensor:
        """Choose one token a row, by the inverse of the cumulative distribution.

        Args:
            logits: (B, V), of any floating type.
            uniform: (B,), one random number in [0, 1) a row; a row at temperature 0 makes no use of it.
            written: What each row has written so far: for those with a presence penalty.

        Returns:
            (B,) token ids.
        """
        if any(self.presence_penalty):
            logits = self._penalised(logits, written)
        greedy = self.temperature == 0
        if bool(greedy.all()):
            return logits.argmax(-1)
        weights = (logits / torch.where(greedy, 1.0, self.temperature)).softmax(-1)  # (B, V), float32
        if bool(self.min_p.any()):
            weights = weights.masked_fill(weights < self.min_p * weights.amax(-1, True), 0.0)
        chosen = _invert(weights, uniform)
        # a row is cut by its own parameters only: what else is in the batch must not change what it draws
        some = ((self.top_p < 1) | (self.top_k < logits.shape[-1]))[:, 0].nonzero()[:, 0]
        if len(some):
            chosen[some] = self._choose_among_likeliest(weights[some], uniform[some], some)
        return torch.where(greedy[:, 0], logits.argmax(-1), chosen) if bool(greedy.any()) else chosen

    def _penalised(self, logits: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """Take each row's penalty off the logits of the tokens that it has written. (B, V) → (B, V), float32."""
        there = zip(self.presence_penalty, written, strict=True)
        found = [(row, token, off) for row, (off, own) in enumerate(there) if off for token in set(own)]
        if not found:
            return logits
        rows, tokens, offs = zip(*found, strict=True)
        places = torch.tensor([rows, tokens], device=logits.device)
        return logits.float().index_put(tuple(places), -torch.tensor(offs, device=logits.device), accumulate=True)

    def _choose_among_likeliest(self, weights: Tensor, uniform: Tensor, rows: Tensor) -> Tensor:
        """Choose for the rows that keep the likeliest tokens only, looking at no more of them than hold what is kept.

        Top-p is a share of what top-k and min-p have left; the token that crosses it still belongs to it.
        """
        top_k, top_p = self.top_k[rows], self.top_p[rows]
        chosen = torch.empty_like(rows)
        left = torch.arange(len(rows), device=rows.device)
        for count in (*(few for few in _LIKELIEST if few < weights.shape[-1]), weights.shape[-1]):
            ordered, tokens = weights[left].topk(count)
            ordered = ordered.masked_fill(torch.arange(count, device=rows.device) >= top_k[left], 0.0)
            cumulative = ordered.cumsum(-1)
            within = (top_k[left] <= count)[:, 0]
            total = torch.where(within, cumulative[:, -1], weights[left].sum(-1))[:, None]
            done = within | (cumulative[:, -1:] >= top_p[left] * total)[:, 0] | (count == weights.shape[-1])
            kept = ordered.masked_fill(cumulative - ordered >= top_p[left] * total, 0.0)
            places = _invert(kept[done], uniform[left[done]])
            chosen[left[done]] = tokens[done].gather(-1, places[:, None])[:, 0]
            left = left[~done]
            if not len(left):
                break
        return chosen


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the first place where the cumulative weights pass `uniform` of their sum. (B, V), (B,) → (B,).

    In two levels, since summing all of V exactly is most of the cost: first the span, then the place in it.
    """
    missing = -weights.shape[-1] % _SPAN
    whole = F.pad(weights, (0, missing)) if missing else weights
    spans = whole.view(len(weights), whole.shape[-1] // _SPAN, _SPAN)  # (B, spans, _SPAN)
    span, before = _first_past(spans.sum(-1).double(), uniform.double())
    inside = spans[torch.arange(len(spans), device=spans.device), span].double()  # (B, _SPAN)
    place, _ = _first_past(inside, before / inside.sum(-1))
    return (span * _SPAN + place).clamp(max=weights.shape[-1] - 1)  # where weights are not numbers


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
    """Return a request's own random stream: `count` numbers in [0, 1), one for each token it may write."""
    return (
        torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        .float()
        .clamp_(max=1 - 2**-24)
    )
