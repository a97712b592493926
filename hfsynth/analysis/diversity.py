"""Similarity of a dataset's instructions: the nearest other instruction of each, by ROUGE-L and by embeddings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from hfsynth.analysis.text_stats import Spread
from hfsynth.data import find_instruction_column, iter_text_batches, sample_indices, texts_at
from hfsynth.similarity.near_duplicates import find_repeating
from hfsynth.similarity.rouge import Numbered, as_code_points, f_measures
from hfsynth.similarity.words import compared_words

NEAR = 0.7
"""Self-Instruct's threshold (arXiv 2212.10560): instructions with a higher ROUGE-L F-measure count as the same."""
NEAR_DUPLICATE_SIMILARITY = 0.8
"""The Jaccard similarity of shingles from which `Deduplicate(by="minhash")` drops a text."""
NEAR_EMBEDDING_DISTANCE = 0.025
"""Magpie's threshold (arXiv 2406.08464), as one minus the cosine similarity."""
EMBEDDED_ROWS = 20_000
"""The largest number of rows that are embedded and compared with each other."""
FIXED_NUMBERS_OF_ROWS = (100, 1_000)
"""Numbers of rows among which datasets of different sizes are compared."""
_FIXED_SIZE_DRAWS = 10
_FEWEST_SAMPLED = 100  # texts, whatever their length
_REPORT_WORDS = 13_000_000_000  # words that a sample is compared with: 1,000 texts × 1,000,000 of 13 words; minutes
_QUICK_WORDS = 1_000_000_000  # the same for `measure_quick_diversity`: seconds
_CELLS = 4_000_000  # pairs of texts whose scores are in memory at once
_EMBEDDINGS_AT_ONCE = 1_000  # embeddings that are compared with all others at once
_FIRST_NUMBER = 0xE000  # the number of the first word: no code point from here on is a surrogate
_ROUNDING = 1e-12


@dataclass(frozen=True)
class FixedSizeSample:
    """Nearest neighbours among a fixed number of rows, comparable between datasets of different sizes."""

    rows: int
    draws: int
    """Random samples of so many rows; `mean` and `near` are means of all samples."""
    mean: float
    """Mean ROUGE-L F-measure with the nearest other row of the sample."""
    near: float
    """Share of rows whose F-measure is above `NEAR`."""


@dataclass(frozen=True)
class NearestNeighbours:
    """How similar texts are by their words."""

    rows: int
    """Texts that were compared with all others: all, or a random sample."""
    among: int
    """All texts."""
    similarity: Spread | None
    """ROUGE-L F-measure with the nearest other text; None where there is no other."""
    near: int
    """Compared texts whose F-measure is above `NEAR`."""
    repeats: int
    """Compared texts that `Deduplicate(by="minhash")` drops as near-duplicates of an earlier text."""
    fixed_size_samples: tuple[FixedSizeSample, ...]


@dataclass(frozen=True)
class QuickDiversity:
    """How similar a split's instructions are, measured within seconds: for a dataset card."""

    column: str
    """The column with the instructions."""
    among: int
    """All instructions."""
    rows: int
    """Instructions that were compared with all others: all, or a random sample."""
    similarity: Spread | None
    """ROUGE-L F-measure with the nearest other instruction."""
    near: int
    """Compared instructions whose F-measure is above `NEAR`."""


@dataclass(frozen=True)
class EmbeddingNeighbours:
    """How similar texts are by the embeddings of a model."""

    model: str
    """The model's name on the Hub, or its folder's name."""
    rows: int
    """Texts that were embedded and compared with each other: all, or a random sample."""
    among: int
    """All texts."""
    distance: Spread | None
    """One minus the cosine similarity with the nearest other embedded text; None where there is no other."""
    near: int
    """Embedded texts whose distance is below `NEAR_EMBEDDING_DISTANCE`."""

    @classmethod
    def of(cls, vectors: NDArray[np.float64], among: int, model: str) -> "EmbeddingNeighbours":
        """Compare embeddings with each other.

        Args:
            vectors: (texts, dimensions), of length 1; at least one.
            among: The number of all texts.
            model: The model's name.
        """
        # rounded, since the last digits are errors of float32
        distances = np.maximum(1 - _nearest_cosines(vectors), 0).round(6) if len(vectors) > 1 else np.array([])
        return cls(
            model=model,
            rows=len(vectors),
            among=among,
            distance=Spread.of(distances),
            near=int((distances < NEAR_EMBEDDING_DISTANCE).sum()),
        )


def measure_neighbours(
    read: Callable[[], Iterator[list[str]]],
    texts_at: Callable[[NDArray[np.int64]], list[str]],
    texts: int,
    size: int,
) -> NearestNeighbours:
    """Compare texts by their words.

    Args:
        read: Returns a new iterator over all texts in batches, none of them empty.
        texts_at: Returns the texts at some places, in their order.
        texts: The number of texts.
        size: How many of them to compare with all others (`sample_size`).
    """
    places = np.sort(sample_indices(texts, size))
    sampled = texts_at(places)
    scores = nearest_scores(sampled, places, read())
    each = (text for batch in read() for text in batch)
    by_place = dict(zip(places.tolist(), sampled, strict=True))
    repeats = find_repeating(each, by_place, NEAR_DUPLICATE_SIMILARITY)
    pool = texts_at(sample_indices(texts, _FIXED_SIZE_DRAWS * FIXED_NUMBERS_OF_ROWS[-1]))
    return NearestNeighbours(
        rows=len(places),
        among=texts,
        similarity=Spread.of(scores, (0.0, 1.0)) if texts > 1 else None,
        near=int((scores > NEAR).sum()),
        repeats=len(repeats),
        fixed_size_samples=tuple(
            _fixed_size_sample(pool, rows) for rows in FIXED_NUMBERS_OF_ROWS if rows <= len(pool)
        ),
    )


def measure_quick_diversity(dataset: Dataset) -> QuickDiversity | None:
    """Compare a dataset's instructions by their words; None where it has fewer than two."""
    column = find_instruction_column(dataset)
    if column is None:
        return None
    every = (text for batch in iter_text_batches(dataset, column, "instruction") for text in batch)
    words_by_place = {place: _estimated_words(text) for place, text in enumerate(every) if text}
    if len(words_by_place) < 2:
        return None
    places = np.array(list(words_by_place), np.int64)
    size = sample_size(len(places), sum(words_by_place.values()), _QUICK_WORDS)
    sampled = np.sort(sample_indices(len(places), size))
    batches = ([text for text in batch if text] for batch in iter_text_batches(dataset, column, "instruction"))
    scores = nearest_scores(texts_at(dataset, column, "instruction", places[sampled]), sampled, batches)
    return QuickDiversity(
        column=column,
        among=len(places),
        rows=len(sampled),
        similarity=Spread.of(scores, (0.0, 1.0)),
        near=int((scores > NEAR).sum()),
    )


def sample_size(texts: int, words: int, compared_words: int = _REPORT_WORDS) -> int:
    """Return the number of texts that can be compared with all texts in minutes: of short texts, up to 31,000.

    Args:
        texts: The number of texts.
        words: The words of all texts together.
        compared_words: The words that all sampled texts together may be compared with.

    >>> [sample_size(rows, 13 * rows) for rows in (10_000, 100_000, 1_000_000)]
    [10000, 10000, 1000]
    """
    return min(texts, max(_FEWEST_SAMPLED, compared_words // max(words, 1)))


def nearest_scores(
    texts: Sequence[str], places: NDArray[np.int64], batches: Iterable[Sequence[str]]
) -> NDArray[np.float64]:
    """Return the highest ROUGE-L F-measure of each text with another one: (texts,).

    Args:
        texts: The texts to compare.
        places: The place of each among all texts.
        batches: All texts, in order.
    """
    nearest = _NearestScores([compared_words(text) for text in texts], places)
    first = 0
    for batch in batches:
        nearest.update(batch, first)
        first += len(batch)
    return nearest.scores


@dataclass
class _NearestScores:
    """The highest F-measures of some texts with the batches of all texts so far.

    Words are numbered and a text is written as a string of these numbers, on which rapidfuzz computes the longest
    common subsequence of many pairs at once.
    """

    words: list[list[str]]
    places: NDArray[np.int64]
    scores: NDArray[np.float64] = field(init=False)
    _numbers: dict[str, int] = field(default_factory=dict)
    _numbered: list[Numbered] = field(init=False)
    _lengths: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Number the words of the texts."""
        for word in (word for text in self.words for word in text):
            self._numbers.setdefault(word, _FIRST_NUMBER + 1 + len(self._numbers))
        self._numbered = [self._number(text) for text in self.words]
        self._lengths = np.array([len(text) for text in self.words], np.int64)
        self.scores = np.zeros(len(self.words))

    def update(self, others: Sequence[str], first: int) -> None:
        """Compare the texts with a batch of all texts, of which the first one has the place `first`."""
        block = max(1, _CELLS // max(len(self.words), 1))
        for start in range(0, len(others) if self.words else 0, block):
            self._compare([compared_words(text) for text in others[start : start + block]], first + start)

    def _compare(self, others: list[list[str]], first: int) -> None:
        lengths = np.array([len(other) for other in others])
        numbered = [self._number(other) for other in others]
        # (texts, others): length of the longest common subsequence, in words
        common = process.cdist(self._numbered, numbered, scorer=LCSseq.similarity, dtype=np.int32, workers=-1)
        own = np.flatnonzero((self.places >= first) & (self.places < first + len(others)))
        common[own, self.places[own] - first] = 0  # a text is no neighbour of itself
        scores = 2 * common / (self._lengths[:, None] + lengths[None, :])
        best = scores.argmax(axis=1)
        for text in np.flatnonzero(scores.max(axis=1) > self.scores + _ROUNDING):
            other = best[text]
            self.scores[text] = f_measures(
                common[text, other : other + 1], int(self._lengths[text]), lengths[other : other + 1]
            )[0]

    def _number(self, words: Sequence[str]) -> Numbered:
        """Replace words by their numbers; words that are in none of the texts share one number."""
        return as_code_points([self._numbers.get(word, _FIRST_NUMBER) for word in words])


def _fixed_size_sample(texts: Sequence[str], rows: int) -> FixedSizeSample:
    """Compare the texts within each of several random samples of so many."""
    draws = _FIXED_SIZE_DRAWS if rows < len(texts) else 1
    samples = [[texts[place] for place in sample_indices(len(texts), rows, seed)] for seed in range(draws)]
    scores = np.concatenate([nearest_scores(sample, np.arange(rows), [sample]) for sample in samples])
    return FixedSizeSample(rows, draws, float(scores.mean()), float((scores > NEAR).mean()))


def _nearest_cosines(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the highest cosine similarity of each vector with another one: (vectors,)."""
    highest = np.empty(len(vectors))
    for start in range(0, len(vectors), _EMBEDDINGS_AT_ONCE):
        similarity = vectors[start : start + _EMBEDDINGS_AT_ONCE] @ vectors.T  # (at once, vectors)
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        highest[start : start + _EMBEDDINGS_AT_ONCE] = similarity.max(axis=1)
    return highest


def _estimated_words(text: str) -> int:
    """Return the approximate number of a text's compared words."""
    return text.count(" ") + 1 if text.isascii() else len(compared_words(text))
