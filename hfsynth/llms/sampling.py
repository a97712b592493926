"""Choose the next token of every row, each by its own parameters and its own random number."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hfsynth.generation import SamplingParams


@dataclass
class Sampler:
    """The sampling parameters of a batch of rows, as columns. B rows, V words in the vocabulary."""

    temperature: Tensor  # (B, 1)
    top_k: Tensor  # (B, 1), V where off
    top_p: Tensor  # (B, 1)
    min_p: Tensor  # (B, 1)

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
        )

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Choose one token a row, by the inverse of the cumulative distribution.

        Args:
            logits: (B, V), of any floating type.
            uniform: (B,), one random number in [0, 1) a row; a row at temperature 0 makes no use of it.

        Returns:
            (B,) token ids.
        """
        greedy = self.temperature == 0
        likeliest = logits.argmax(-1)
        if bool(greedy.all()):
            return likeliest
        scaled = logits.float() / torch.where(greedy, 1.0, self.temperature)
        probabilities = scaled.softmax(-1)  # (B, V)
        probabilities = probabilities.masked_fill(probabilities < self.min_p * probabilities.amax(-1, True), 0.0)
        chosen = _invert(probabilities, uniform)
        # a row is sorted by its own parameters only: what else is in the batch must not change what it draws
        some = ((self.top_p < 1) | (self.top_k < logits.shape[-1]))[:, 0].nonzero()[:, 0]
        if len(some):
            chosen[some] = self._choose_sorted(probabilities[some], uniform[some], some)
        return torch.where(greedy[:, 0], likeliest, chosen)

    def _choose_sorted(self, probabilities: Tensor, uniform: Tensor, rows: Tensor) -> Tensor:
        """Keep the likeliest tokens of these rows, by number and by share, before choosing."""
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(ordered.shape[-1], device=ordered.device)
        # top-p is a share of what top-k and min-p have left; the token that crosses it still belongs to it
        ordered = ordered.masked_fill(rank >= self.top_k[rows], 0.0)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= self.top_p[rows] * ordered.sum(-1, keepdim=True), 0.0)
        return tokens.gather(-1, _invert(ordered, uniform)[:, None])[:, 0]


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the first place where the cumulative weights pass `uniform` of their sum. (B, V), (B,) → (B,)."""
    cumulative = weights.double().cumsum(-1)
    target = uniform.double()[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # rounding can put the target on the very sum: then the last token that has any weight
    last = (weights > 0).long().cumsum(-1).argmax(-1)
    return torch.minimum(place, last)


def uniforms(seed: int, count: int) -> Tensor:
    """Return a request's own random stream: `count` numbers in [0, 1), one for each token it may write."""
    return (
        torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        .float()
        .clamp_(max=1 - 2**-24)
    )
