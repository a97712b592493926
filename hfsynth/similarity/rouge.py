"""Which texts are new: how near one is to the nearest of a pool, by ROUGE-L, exactly as `rouge_score` defines it.

Self-Instruct (arXiv 2212.10560) keeps an instruction only if no other has a ROUGE-L F-measure above 0.7 with it. The
words are those of any script, or `rouge_score`'s own. Every decision is the one that comparing all pairs would make.
The speed is exact, too: most texts have too few words in common to reach the threshold, which an index of their rarest
words tells (prefix filtering, Chaudhuri et al., 2006), and the longest common subsequence is worked out in C.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from hfsynth.similarity.words import TOKENIZERS, Tokenizer, check_tokenizer

_ROUNDING = 1e-9  # more than a bound is off by, less than two of them differ by
_FIRST_NUMBER = 0xE000  # of a word; as code points, numbers from here on are no surrogates
_CODE_POINTS = 0x110000
Numbered = str | list[int]
"""The numbers of a text's words: as code points, which is fastest, or as a list where one is too large for that."""


def as_code_points(numbers: Sequence[int]) -> Numbered:
    """Write the numbers of a text's words for rapidfuzz, which takes a character and its code point for the same.

    >>> as_code_points([0xE000, 0xE001]), as_code_points([0xE000, 0x110000])
    ('\ue000\ue001', [57344, 1114112])
    """
    return "".join(map(chr, numbers)) if max(numbers, default=0) < _CODE_POINTS else list(numbers)


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
        tokenizer: The words that are compared.

    Raises:
        ValueError: If the threshold isn't between 0 and 1, or there is no such tokenizer.
    """

    texts: Iterable[str] = ()
    threshold: float = 0.7
    tokenizer: Tokenizer = "unicode"
    _numbers: dict[str, int] = field(default_factory=dict, repr=False)
    """Word → its number, in order of first use."""
    _texts: list[str] = field(default_factory=list, repr=False)
    _words: list[Numbered] = field(default_factory=list, repr=False)
    """The texts as the numbers of their words."""
    _lengths: "array[int]" = field(default_factory=lambda: array("q"), repr=False)
    _having: "dict[int, array[int]]" = field(default_factory=dict, repr=False)
    """Number of a word → the places of the texts that have it among their rarest."""

    def __post_init__(self) -> None:
        """Check the threshold and the tokenizer, and take up the first texts."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it must be above 0 and below 1.")
        check_tokenizer("tokenizer", self.tokenizer)
        for text in self.texts:
            self.add(text)

    def __len__(self) -> int:
        """Return how many texts there are."""
        return len(self._texts)

    def add(self, text: str) -> None:
        """Take up a text."""
        numbers = self._numbered(text)
        for number in self._rarest(numbers):
            self._having.setdefault(number, array("q")).append(len(self._texts))
        self._texts.append(text)
        self._words.append(as_code_points(numbers))
        self._lengths.append(len(numbers))

    def too_near(self, text: str) -> Nearest | None:
        """Return the nearest text if it is above the threshold, the first of several; None where a text is new."""
        numbers = self._numbered(text)
        found = self._nearest(numbers, self._candidates(numbers))
        return found if found is not None and found.score > self.threshold else None

    def nearest(self, text: str) -> Nearest | None:
        """Return the nearest text; None where none has a word in common with it in order."""
        return self._nearest(self._numbered(text), np.arange(len(self._texts)))

    def _nearest(self, numbers: list[int], candidates: NDArray[np.int64]) -> Nearest | None:
        """Return the nearest of some texts."""
        if not numbers or not len(candidates):
            return None
        others = [self._words[place] for place in candidates.tolist()]
        common = process.cdist([as_code_points(numbers)], others, scorer=LCSseq.similarity, dtype=np.int32)[0]
        scores = f_measures(common, len(numbers), np.frombuffer(self._lengths, np.int64)[candidates])
        best = int(scores.argmax())
        return Nearest(self._texts[candidates[best]], float(scores[best])) if scores[best] else None

    def _candidates(self, numbers: list[int]) -> NDArray[np.int64]:
        """Return the places of the texts that may be above the threshold, in order."""
        rarest = self._rarest(numbers)
        having = [np.frombuffer(self._having[number], np.int64) for number in rarest if number in self._having]
        if not having:
            return np.array([], np.int64)
        found = np.unique(np.concatenate(having))
        lengths = np.frombuffer(self._lengths, np.int64)[found]
        most = 2 * np.minimum(lengths, len(numbers)) / (lengths + len(numbers))  # where the shorter one is a part
        return found[most > self.threshold - _ROUNDING]

    def _rarest(self, numbers: list[int]) -> set[int]:
        """Return so many of a text's words that any text above the threshold has one of them among its own.

        With n words, m in the other text and k in common, 2k / (n + m) is above the threshold t only if k is above
        tn / (2 - t), as k is at most m; likewise for m. Of two sets with k in common, each put in the same order, the
        beginnings to where k - 1 are left share one. In order of first use, reversed, the rare words come first.
        """
        fewest = math.ceil(self.threshold * len(numbers) / (2 - self.threshold) - _ROUNDING)
        return set(sorted(numbers, reverse=True)[: len(numbers) - fewest + 1])

    def _numbered(self, text: str) -> list[int]:
        """Return the numbers of a text's words."""
        words = TOKENIZERS[self.tokenizer](text)
        return [self._numbers.setdefault(word, _FIRST_NUMBER + len(self._numbers)) for word in words]


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
