"""How far instructions are from each other in meaning, by a model's vectors, and where each lies on a map of two axes.

Magpie (arXiv 2406.08464) takes a row less than 0.05 away from its nearest neighbour for a duplicate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hfsynth.reporting.spread import Spread

NEAR = 0.05
"""Magpie's distance."""
EMBEDDED_ROWS = 2_000
"""The most rows that are embedded, and compared with each other."""
_EXAMPLES = 8  # texts that are written on the map
_EXAMPLE = 40  # characters of them


@dataclass(frozen=True)
class Example:
    """A text on the map."""

    place: int
    """Its place among the points."""
    text: str
    """Its beginning."""


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
    """Rows of these less than 0.05 away from it."""
    points: tuple[tuple[float, float], ...] = field(repr=False)
    """Where they lie along the two directions in which the vectors differ most (principal components)."""
    told: float
    """Share of all differences (variance) that lies along these two."""
    examples: tuple[Example, ...]
    """Texts that lie far from each other on the map."""


def embedded(
    texts: Sequence[str], among: int, model: str, embed: Callable[[list[str]], NDArray[np.float32]]
) -> Embedded:
    """Measure texts by their vectors.

    Args:
        texts: At least one, all of a dataset's or some drawn by chance.
        among: How many the dataset has.
        model: The model's name.
        embed: Texts → their vectors, each of length 1.
    """
    vectors = embed(list(texts)).astype(np.float64)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    # without the last digits, which are float32's own
    distances = (1 - similarity.max(axis=1)).round(6) if len(texts) > 1 else np.array([])
    points, told = principal(vectors)
    return Embedded(
        model=model,
        rows=len(texts),
        among=among,
        distance=Spread.of(distances),
        near=int((distances < NEAR).sum()),
        points=tuple((float(x), float(y)) for x, y in points.round(4)),
        told=told,
        examples=tuple(Example(place, _beginning(texts[place])) for place in _far_apart(points)),
    )


def principal(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return vectors along their two principal components, (vectors, 2), and the share of variance that these tell.

    A component points to where its largest weight is positive, so that equal vectors always make an equal map.
    """
    centred = vectors - vectors.mean(axis=0)
    _, strengths, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(np.take_along_axis(directions, largest[:, None], axis=1))
    points = np.zeros((len(vectors), 2))
    points[:, : len(directions)] = centred @ (directions * signs).T
    variance = float((strengths**2).sum())
    return points, float((strengths[:2] ** 2).sum()) / variance if variance else 0.0


def _beginning(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _EXAMPLE else f"{line[: _EXAMPLE - 1]}…"


def _far_apart(points: NDArray[np.float64]) -> list[int]:
    """Choose points one by one, each the farthest from those chosen before; the first is farthest from the middle."""
    chosen: list[int] = []
    distances = np.linalg.norm(points, axis=1)
    while len(chosen) < min(_EXAMPLES, len(points)) and (not chosen or distances.max() > 0):
        place = int(distances.argmax())
        apart = np.linalg.norm(points - points[place], axis=1)
        distances = np.minimum(distances, apart) if chosen else apart
        chosen.append(place)
    return chosen
