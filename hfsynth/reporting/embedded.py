"""How far instructions are from each other in meaning, by a model's vectors.

Magpie (arXiv 2406.08464) takes a row for a duplicate if the squared distance of its vector, of length 1, to the
nearest one is below 0.05. That is twice one less their cosine similarity, which is then above 0.975.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hfsynth.reporting.spread import Spread

NEAR = 0.025
"""Magpie's distance, as one less the cosine similarity."""
EMBEDDED_ROWS = 20_000
"""The most rows that are embedded, and compared with each other."""
_AT_ONCE = 1_000  # rows that are compared with all others at once


@dataclass(frozen=True)
class Embedded:
    """Rows as vectors of a model."""

    model: str
    """Its name on the Hub, or its folder's."""
    rows: int
    """Those that were embedded, and compared with each other: all of them, or some drawn by chance."""
    among: int
    """All texts."""
    distance: Spread | None
    """One less the cosine similarity with the nearest other one of these; None where there is no other."""
    near: int
    """Rows of these less than 0.025 away from it."""

    @classmethod
    def of(cls, vectors: NDArray[np.float64], among: int, model: str) -> "Embedded":
        """Compare vectors of length 1, at least one, with each other; so many texts are in the dataset."""
        # without the last digits, which are float32's own
        distances = np.maximum(1 - _nearest(vectors), 0).round(6) if len(vectors) > 1 else np.array([])
        return cls(
            model=model,
            rows=len(vectors),
            among=among,
            distance=Spread.of(distances),
            near=int((distances < NEAR).sum()),
        )


def _nearest(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the highest cosine similarity of each vector with another one."""
    highest = np.empty(len(vectors))
    for start in range(0, len(vectors), _AT_ONCE):
        similarity = vectors[start : start + _AT_ONCE] @ vectors.T
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        highest[start : start + _AT_ONCE] = similarity.max(axis=1)
    return highest
