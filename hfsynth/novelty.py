"""Which texts are new: how near one is to the nearest of a pool, by ROUGE-L, exactly as `rouge_score` defines it.

Self-Instruct (arXiv 2212.10560) keeps an instruction only if no other has a ROUGE-L F-measure above 0.7 with it. Every
decision here is the one that comparing all pairs would make. What makes it fast is exact too: texts whose numbers of
words differ too much can't reach the threshold, and the longest common subsequence is worked out in C.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from rapidfuzz import process
from rapidfuzz.distance import LCSseq

_ROUNDING = 1e-9  # more than an F-measure is off by, less than two of them differ by
_FIRST_SIGN = 0xE000  # words are written as one sign each; from here on there are signs enough without surrogates
_WORD = re.compile(r"[a-z0-9]+")


def words_of(text: str) -> list[str]:
    """Part a text into words as `rouge_score` does without a stemmer: runs of a-z and 0-9, in lower case.

    >>> words_of("What's 2+2, naïvely?")
    ['what', 's', '2', '2', 'na', 'vely']
    """
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Nearest:
    """The text of a pool that is nearest to another."""

    text: str
    score: float
    """Their ROUGE-L F-measure."""


@dataclass
class NoveltyPool:
    """Texts that others are compared with.

    >>> pool = NoveltyPool(["Name three primary colours."])
    >>> pool.nearest("Name three primary colors, please.").score
    0.6666666666666665
    >>> pool.too_near("Name the three primary colours!")
    Nearest(text='Name three primary colours.', score=0.888888888888889)

    Args:
        texts: The first ones.
        threshold: A text is too near if its F-measure with another is above this.

    Raises:
        ValueError: If the threshold isn't between 0 and 1.
    """

    texts: Iterable[str] = ()
    threshold: float = 0.7
    _signs: dict[str, str] = field(default_factory=dict, repr=False)
    _by_length: dict[int, tuple[list[str], list[str]]] = field(default_factory=dict, repr=False)
    """Number of words → texts of that length as signs, and as they are."""

    def __post_init__(self) -> None:
        """Check the threshold and take up the first texts."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it must be above 0 and below 1.")
        for text in self.texts:
            self.add(text)

    def __len__(self) -> int:
        """Return how many texts there are."""
        return sum(len(texts) for texts, _ in self._by_length.values())

    def add(self, text: str) -> None:
        """Take up a text."""
        signs = self._written(text)
        written, texts = self._by_length.setdefault(len(signs), ([], []))
        written.append(signs)
        texts.append(text)

    def too_near(self, text: str) -> Nearest | None:
        """Return the nearest text if it is above the threshold; None where a text is new."""
        found = self._nearest(text, self.threshold)
        return found if found is not None and found.score > self.threshold else None

    def nearest(self, text: str) -> Nearest | None:
        """Return the nearest text; None where none has a word in common with it in order."""
        return self._nearest(text, 0.0)

    def _nearest(self, text: str, least: float) -> Nearest | None:
        """Return the nearest text that may be as near as `least`, looking at lengths that allow it alone.

        The F-measure of n and m words with k in common is 2k / (n + m), and k is at most the smaller of n and m.
        """
        signs = self._written(text)
        best: Nearest | None = None
        for length in self._by_length:
            reachable = 2 * min(length, len(signs)) / (length + len(signs)) if length and signs else 0.0
            floor = max(least, best.score if best else 0.0)
            if not reachable or reachable < floor - _ROUNDING:
                continue
            written, texts = self._by_length[length]
            # whole numbers: a cutoff that is a fraction of words is rounded wrongly in places
            common = max(int(floor * (length + len(signs)) / 2) - 1, 1)
            found = process.extractOne(signs, written, scorer=LCSseq.similarity, score_cutoff=common)
            score = f_measure(int(found[1]), len(signs), length) if found else 0.0
            if found and score > (best.score if best else 0.0):
                best = Nearest(texts[found[2]], score)
        return best

    def _written(self, text: str) -> str:
        """Write a text with one sign for each of its words."""
        return "".join(self._signs.setdefault(word, chr(_FIRST_SIGN + len(self._signs))) for word in words_of(text))


def f_measure(common: int, words: int, others: int) -> float:
    """Return the F-measure of texts with so many words, `common` of them in one order, rounded as `rouge_score` does.

    >>> f_measure(2, 3, 4)
    0.5714285714285715
    """
    if not common:
        return 0.0
    precision, recall = common / words, common / others
    return 2 * precision * recall / (precision + recall)
