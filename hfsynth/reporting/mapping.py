"""A map of instructions: each is a point, near those that mean the same, or that have the same words.

The vectors are a model's, or counts of words; the two axes are the directions in which the vectors differ most.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hfsynth.likeness.words import words_in

MAPPED_ROWS = 2_000
"""The most rows that are on a map."""
_VOCABULARY = 1_000  # words that make a text's vector
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
class InstructionMap:
    """Where instructions lie."""

    model: str
    """The model whose vectors they are, by its name on the Hub or its folder's; "" where words are counted."""
    rows: int
    """Those that are on the map: all that there are, or some drawn by chance."""
    among: int
    """All texts."""
    points: tuple[tuple[float, float], ...] = field(repr=False)
    """Where they lie along the two directions in which the vectors differ most (principal components)."""
    told: float
    """Share of all differences (variance) that lies along these two."""
    examples: tuple[Example, ...]
    """Texts that lie far from each other on the map."""

    @classmethod
    def of(cls, texts: Sequence[str], vectors: NDArray[np.float64], among: int, model: str = "") -> "InstructionMap":
        """Lay out texts, at least one, by their vectors."""
        points, told = principal(vectors)
        return cls(
            model=model,
            rows=len(texts),
            among=among,
            points=tuple((float(x), float(y)) for x, y in points.round(4)),
            told=told,
            examples=tuple(Example(place, _beginning(texts[place])) for place in _far_apart(points)),
        )


def word_vectors(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return vectors by the words that texts share: log(texts / texts with the word) if it is there, to length 1.

    Words are in any script, as `words_in` finds them: the 1,000 that most texts have, of those that two have or more.
    A text with none of them is at the origin.
    """
    parted = [set(words_in(text)) for text in texts]
    counts = Counter(word for words in parted for word in words)
    ordered = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
    places = {word: place for place, word in enumerate(ordered[:_VOCABULARY])}
    vectors = np.zeros((len(texts), max(len(places), 1)))
    for vector, words in zip(vectors, parted, strict=True):
        for word in words & places.keys():
            vector[places[word]] = np.log(len(texts) / counts[word])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


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
