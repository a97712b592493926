"""Which texts are new: how near one is to the nearest of a pool, by ROUGE-L, exactly as `rouge_score` defines it.

Self-Instruct (arXiv 2212.10560) keeps an instruction only if no other has a ROUGE-L F-measure above 0.7 with it. Every
decision here is the one that comparing all pairs would make. What makes it fast is exact too: most texts have too few
words in common to reach the threshold, which an index of their rarest words tells (prefix filtering, Chaudhuri et al.,
2006), and the longest common subsequence is worked out in C.
"""

import math
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

_ROUNDING = 1e-9  # more than a bound is off by, less than two of them differ by
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
    _texts: list[str] = field(default_factory=list, repr=False)
    _words: list[str] = field(default_factory=list, repr=False)
    """The texts with a sign for each word."""
    _lengths: "array[int]" = field(default_factory=lambda: array("q"), repr=False)
    _having: "dict[str, array[int]]" = field(default_factory=dict, repr=False)
    """Sign → the numbers of the texts that have it among their rarest."""

    def __post_init__(self) -> None:
        """Check the threshold and take up the first texts."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it must be above 0 and below 1.")
        for text in self.texts:
            self.add(text)

    def __len__(self) -> int:
        """Return how many texts there are."""
        return len(self._texts)

    def add(self, text: str) -> None:
        """Take up a text."""
        signs = self._written(text)
        for sign in self._rarest(signs):
            self._having.setdefault(sign, array("q")).append(len(self._texts))
        self._texts.append(text)
        self._words.append(signs)
        self._lengths.append(len(signs))

    def too_near(self, text: str) -> Nearest | None:
        """Return the nearest text if it is above the threshold, the first of several; None where a text is new."""
        signs = self._written(text)
        found = self._nearest(signs, self._candidates(signs))
        return found if found is not None and found.score > self.threshold else None

    def nearest(self, text: str) -> Nearest | None:
        """Return the nearest text; None where none has a word in common with it in order."""
        return self._nearest(self._written(text), np.arange(len(self._texts)))

    def _nearest(self, signs: str, candidates: NDArray[np.int64]) -> Nearest | None:
        """Return the nearest of some texts."""
        if not signs or not len(candidates):
            return None
        others = [self._words[number] for number in candidates.tolist()]
        common = process.cdist([signs], others, scorer=LCSseq.similarity, dtype=np.int32)[0]
        scores = f_measures(common, len(signs), np.frombuffer(self._lengths, np.int64)[candidates])
        best = int(scores.argmax())
        return Nearest(self._texts[candidates[best]], float(scores[best])) if scores[best] else None

    def _candidates(self, signs: str) -> NDArray[np.int64]:
        """Return the numbers of the texts that may be above the threshold, in order."""
        having = [np.frombuffer(self._having[sign], np.int64) for sign in self._rarest(signs) if sign in self._having]
        if not having:
            return np.array([], np.int64)
        found = np.unique(np.concatenate(having))
        lengths = np.frombuffer(self._lengths, np.int64)[found]
        most = 2 * np.minimum(lengths, len(signs)) / (lengths + len(signs))  # where all of the shorter one is common
        return found[most > self.threshold - _ROUNDING]

    def _rarest(self, signs: str) -> set[str]:
        """Return so many of a text's words that any text above the threshold has one of them among its own.

        With n words, m in the other text and k in common, 2k / (n + m) is above the threshold t only if k is above
        tn / (2 - t), as k is at most m; likewise for m. Of two sets with k in common, each put in the same order, the
        beginnings to where k - 1 are left share one. In order of first use, reversed, the rare words come first.
        """
        fewest = math.ceil(self.threshold * len(signs) / (2 - self.threshold) - _ROUNDING)
        return set(sorted(signs, reverse=True)[: len(signs) - fewest + 1])

    def _written(self, text: str) -> str:
        """Write a text with one sign for each of its words."""
        return "".join(self._signs.setdefault(word, chr(_FIRST_SIGN + len(self._signs))) for word in words_of(text))


def f_measures(common: NDArray[np.int32], words: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the F-measures of a text with others, rounded as `rouge_score` does.

    Args:
        common: How many words each of the others has in common with it, in one order.
        words: Number of words of the text.
        others: Number of words of each of the others.

    >>> f_measures(np.array([2, 0]), 3, np.array([4, 4]))
    array([0.57142857, 0.        ])
    """
    precision, recall = common / words, common / np.maximum(others, 1)
    scores: NDArray[np.float64] = 2 * precision * recall / np.where(common, precision + recall, 1)
    return scores
