"""Diversity of instructions: nearest neighbours by ROUGE-L and by embeddings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from hfsynth.analysis.text_stats import Spread
from hfsynth.data import Columns, batches_of, drawn, texts_at
from hfsynth.filters.deduplicate import Deduplicate
from hfsynth.similarity.minhash import repeating_texts
from hfsynth.similarity.rouge import Numbered, as_code_points, f_measures
from hfsynth.similarity.words import compared_words

NEAR_IN_MEANING = 0.025
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
            near=int((distances < NEAR_IN_MEANING).sum()),
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


NEAR = 0.7
"""Self-Instruct's threshold."""
REPEATED = 0.8
"""Deduplicate's, by minhash."""
EVEN_ROWS = (100, 1_000)
"""The numbers of rows among which datasets of different sizes are compared."""
_EVEN_DRAWS = 10
_WORDS = 13_000_000_000  # that drawn rows are compared with: a thousand rows with a million of 13 words
_FEWEST = 100  # rows that are drawn, however long that takes
_CELLS = 4_000_000  # pairs that are in memory at once
_FIRST_NUMBER = 0xE000  # of a word; as code points, numbers from here on are no surrogates
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Even:
    """Nearest neighbours among so many rows, whatever the size of the dataset."""

    rows: int
    draws: int
    """How many times so many rows were drawn; what follows is the mean of all draws."""
    mean: float
    """Mean F-measure with the nearest other row of the group."""
    near: float
    """Share of the rows that have one above 0.7."""


@dataclass(frozen=True)
class Neighbours:
    """How alike the texts are."""

    rows: int
    """Those that were compared with all others: all of them, or some drawn by chance."""
    among: int
    """All texts."""
    similarity: Spread | None
    """F-measure with the nearest other text; None where there is no other."""
    near: int
    """Rows of these with one above 0.7."""
    repeats: int
    """Of all rows compared, those that nearly repeat an earlier one, as `Deduplicate` by `minhash` measures it."""
    even: tuple[Even, ...]


def neighbours(
    read: Callable[[], Iterator[list[str]]],
    texts_at: Callable[[NDArray[np.int64]], list[str]],
    texts: int,
    size: int,
) -> Neighbours:
    """Measure how alike texts are.

    Args:
        read: Begins to give all texts, batch by batch, none of them empty.
        texts_at: Gives those at some places, in their order.
        texts: How many there are.
        size: How many of them are compared with all others (`sample_size`).
    """
    places = np.sort(drawn(texts, size))
    chosen = texts_at(places)
    scores = nearest_scores(chosen, places, read())
    each = (text for batch in read() for text in batch)
    by_place = dict(zip(places.tolist(), chosen, strict=True))
    repeats = repeating_texts(each, by_place, REPEATED, Deduplicate.shingle, Deduplicate.permutations)
    some = texts_at(drawn(texts, _EVEN_DRAWS * EVEN_ROWS[-1]))
    return Neighbours(
        rows=len(places),
        among=texts,
        similarity=Spread.of(scores, (0.0, 1.0)) if texts > 1 else None,
        near=int((scores > NEAR).sum()),
        repeats=len(repeats),
        even=tuple(_even(some, rows) for rows in EVEN_ROWS if rows <= len(some)),
    )


def sample_size(texts: int, words: int, compared: int = _WORDS) -> int:
    """Return how many of some texts can be compared with all of them in minutes: of short ones, all up to 31,000.

    Args:
        texts: How many there are.
        words: How many these have together.
        compared: How many words the chosen ones may be compared with, all together.

    >>> [sample_size(rows, 13 * rows) for rows in (10_000, 100_000, 1_000_000)]
    [10000, 10000, 1000]
    """
    return min(texts, max(_FEWEST, compared // max(words, 1)))


def nearest_scores(
    chosen: Sequence[str], places: NDArray[np.int64], batches: Iterable[Sequence[str]]
) -> NDArray[np.float64]:
    """Return the F-measure of chosen texts with the nearest other one, in their order.

    Args:
        chosen: The texts.
        places: Their places among all.
        batches: All texts, in order.
    """
    nearest = _Nearest([compared_words(text) for text in chosen], places)
    first = 0
    for batch in batches:
        nearest.see(batch, first)
        first += len(batch)
    return nearest.scores


def _even(texts: Sequence[str], rows: int) -> Even:
    """Draw so many rows several times, and compare those of each draw among themselves."""
    draws = _EVEN_DRAWS if rows < len(texts) else 1
    parts = [[texts[place] for place in drawn(len(texts), rows, seed)] for seed in range(draws)]
    scores = np.concatenate([nearest_scores(part, np.arange(rows), [part]) for part in parts])
    return Even(rows, draws, float(scores.mean()), float((scores > NEAR).mean()))


@dataclass
class _Nearest:
    """The highest F-measures of some texts with others, so far."""

    words: list[list[str]]
    places: NDArray[np.int64]
    scores: NDArray[np.float64] = field(init=False)
    _numbers: dict[str, int] = field(default_factory=dict)
    _written: list[Numbered] = field(init=False)
    _lengths: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Number the words, and write each text with their numbers."""
        for word in (word for text in self.words for word in text):
            self._numbers.setdefault(word, _FIRST_NUMBER + 1 + len(self._numbers))
        self._written = [self._write(text) for text in self.words]
        self._lengths = np.array([len(text) for text in self.words], np.int64)
        self.scores = np.zeros(len(self.words))

    def see(self, texts: Sequence[str], first: int) -> None:
        """Compare them with a batch of texts, the first of which is at this place."""
        block = max(1, _CELLS // max(len(self.words), 1))
        for start in range(0, len(texts) if self.words else 0, block):
            self._compare([compared_words(text) for text in texts[start : start + block]], first + start)

    def _compare(self, others: list[list[str]], first: int) -> None:
        lengths = np.array([len(other) for other in others])
        written = [self._write(other) for other in others]
        # (texts, others): the words in common, in order
        common = process.cdist(self._written, written, scorer=LCSseq.similarity, dtype=np.int32, workers=-1)
        own = np.flatnonzero((self.places >= first) & (self.places < first + len(others)))
        common[own, self.places[own] - first] = 0
        reached = 2 * common / (self._lengths[:, None] + lengths[None, :])
        best = reached.argmax(axis=1)
        for text in np.flatnonzero(reached.max(axis=1) > self.scores + _ROUNDING):
            other = best[text]
            self.scores[text] = f_measures(
                common[text, other : other + 1], int(self._lengths[text]), lengths[other : other + 1]
            )[0]

    def _write(self, words: Sequence[str]) -> Numbered:
        """Write words by their numbers; all that none of the texts has are one."""
        return as_code_points([self._numbers.get(word, _FIRST_NUMBER) for word in words])


_GLANCE_WORDS = 1_000_000_000  # that drawn rows are compared with: some seconds


@dataclass(frozen=True)
class QuickDiversity:
    """How alike a split's instructions are."""

    column: str
    """Where they are."""
    among: int
    """All instructions."""
    rows: int
    """Those that were compared with all others by ROUGE-L: all, or some drawn by chance."""
    similarity: Spread | None
    """F-measure with the nearest other one."""
    near: int
    """Of these, those with one above 0.7."""


def measure_quick_diversity(dataset: Dataset) -> QuickDiversity | None:
    """Look at a dataset's instructions; None where it has fewer than two."""
    column = Columns.found(dataset)
    places, words = np.array(list(_filled(dataset, column)) if column else [], np.int64).reshape(-1, 2).T
    if column is None or len(places) < 2:
        return None
    chosen = np.sort(drawn(len(places), sample_size(len(places), int(words.sum()), _GLANCE_WORDS)))
    every = ([text for text in batch if text] for batch in batches_of(dataset, column, "instruction"))
    scores = nearest_scores(texts_at(dataset, column, "instruction", places[chosen]), chosen, every)
    return QuickDiversity(
        column=column,
        among=len(places),
        rows=len(chosen),
        similarity=Spread.of(scores, (0.0, 1.0)),
        near=int((scores > NEAR).sum()),
    )


def _filled(dataset: Dataset, column: str) -> Iterator[tuple[int, int]]:
    """Give the places of the rows that have an instruction, and about how many words of it are compared."""
    texts = (text for batch in batches_of(dataset, column, "instruction") for text in batch)
    return ((place, _number_of_words(text)) for place, text in enumerate(texts) if text)


def _number_of_words(text: str) -> int:
    return text.count(" ") + 1 if text.isascii() else len(compared_words(text))
