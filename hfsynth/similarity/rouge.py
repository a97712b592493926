"""Compare texts by ROUGE-L with a pool of texts, as the novelty filter of Self-Instruct (arXiv 2212.10560) does.

Self-Instruct keeps an instruction only if its ROUGE-L F-measure with every other one is at most 0.7. Every decision
and every score equals that of comparing all pairs with `rouge_score`. Two optimizations save time without changing a
result: an index of each text's rarest words rules out the texts with too few words in common (prefix filtering,
Chaudhuri et al., 2006), and rapidfuzz computes the longest common subsequences in C.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from hfsynth.similarity.words import TOKENIZERS, Match, Tokenizer, check_tokenizer

_ROUNDING = 1e-9  # larger than the rounding error of a bound, smaller than the distance of two bounds
_FIRST_NUMBER = 0xE000  # number of the first word: code points from here on are not surrogates
_CODE_POINTS = 0x110000
Numbered = str | list[int]
"""A text as the numbers of its words: a string of code points, or a list where a number is too large for one."""


def as_code_points(numbers: Sequence[int]) -> Numbered:
    """Return the numbers of words in the form that rapidfuzz compares fastest.

    >>> as_code_points([0xE000, 0xE001]), as_code_points([0xE000, 0x110000])
    ('\ue000\ue001', [57344, 1114112])
    """
    return "".join(map(chr, numbers)) if max(numbers, default=0) < _CODE_POINTS else list(numbers)


@dataclass
class NoveltyPool:
    """A growing pool of texts, searched for the one with the highest ROUGE-L F-measure.

    >>> pool = NoveltyPool(["Name three primary colours."])
    >>> pool.nearest("Name three primary colors, please.").score
    0.6666666666666665
    >>> pool.match("Name the three primary colours!")
    Match(text='Name three primary colours.', score=0.888888888888889)

    Args:
        texts: The first texts of the pool.
        threshold: A text is a match if its F-measure is above this.
        tokenizer: The words that are compared: those of any script, or those of `rouge_score`.

    Raises:
        ValueError: If the threshold is not between 0 and 1, or the tokenizer is unknown.
    """

    texts: Iterable[str] = ()
    threshold: float = 0.7
    tokenizer: Tokenizer = "unicode"
    _numbers: dict[str, int] = field(default_factory=dict, repr=False)
    """Word → its number, in the order of first use."""
    _texts: list[str] = field(default_factory=list, repr=False)
    _words: list[Numbered] = field(default_factory=list, repr=False)
    """The texts, as numbers of words."""
    _lengths: "array[int]" = field(default_factory=lambda: array("q"), repr=False)
    _places: "dict[int, array[int]]" = field(default_factory=dict, repr=False)
    """Number of a word → places of the texts that have it among their rarest words."""

    def __post_init__(self) -> None:
        """Check the threshold and the tokenizer, and add the first texts."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be above 0 and below 1, got {self.threshold}.")
        check_tokenizer("tokenizer", self.tokenizer)
        for text in self.texts:
            self.add(text)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._texts)

    def add(self, text: str) -> None:
        """Add a text."""
        numbers = self._number_words(text)
        for number in self._rarest_words(numbers):
            self._places.setdefault(number, array("q")).append(len(self._texts))
        self._texts.append(text)
        self._words.append(as_code_points(numbers))
        self._lengths.append(len(numbers))

    def match(self, text: str) -> Match | None:
        """Return the nearest text, the first of several, if its score is above the threshold; else None."""
        numbers = self._number_words(text)
        found = self._nearest(numbers, self._candidates(numbers))
        return found if found is not None and found.score > self.threshold else None

    def nearest(self, text: str) -> Match | None:
        """Return the nearest text, whatever its score; None if no text has a word in common."""
        return self._nearest(self._number_words(text), np.arange(len(self._texts)))

    def _nearest(self, numbers: list[int], candidates: NDArray[np.int64]) -> Match | None:
        """Return the nearest of the texts at the places `candidates`."""
        if not numbers or not len(candidates):
            return None
        others = [self._words[place] for place in candidates.tolist()]
        common = process.cdist([as_code_points(numbers)], others, scorer=LCSseq.similarity, dtype=np.int32)[0]
        scores = f_measures(common, len(numbers), np.frombuffer(self._lengths, np.int64)[candidates])
        best = int(scores.argmax())
        return Match(self._texts[candidates[best]], float(scores[best])) if scores[best] else None

    def _candidates(self, numbers: list[int]) -> NDArray[np.int64]:
        """Return the places of the texts whose score may be above the threshold, in order."""
        rarest = self._rarest_words(numbers)
        places = [np.frombuffer(self._places[number], np.int64) for number in rarest if number in self._places]
        if not places:
            return np.array([], np.int64)
        found = np.unique(np.concatenate(places))
        lengths = np.frombuffer(self._lengths, np.int64)[found]
        # the score where all words of the shorter text are in the longer one
        bound = 2 * np.minimum(lengths, len(numbers)) / (lengths + len(numbers))
        return found[bound > self.threshold - _ROUNDING]

    def _rarest_words(self, numbers: list[int]) -> set[int]:
        """Return so many rarest words of a text that any text above the threshold has one among its own rarest words.

        Let two texts have n and m words, k of them in common. 2k / (n + m) > t implies k > tn / (2 - t), since
        k <= m; likewise with m for n. If two sets that are sorted in the same order have k elements in common, then
        their prefixes without the last k - 1 elements share one. The numbers follow the order of first use, so in
        descending order rare words come first.
        """
        fewest = math.ceil(self.threshold * len(numbers) / (2 - self.threshold) - _ROUNDING)
        return set(sorted(numbers, reverse=True)[: len(numbers) - fewest + 1])

    def _number_words(self, text: str) -> list[int]:
        words = TOKENIZERS[self.tokenizer](text)
        return [self._numbers.setdefault(word, _FIRST_NUMBER + len(self._numbers)) for word in words]


def f_measures(common: NDArray[np.int32], words: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the ROUGE-L F-measures of a text with others, with the rounding errors of `rouge_score`.

    Args:
        common: Length of the longest common subsequence with each of the others, in words: (others,).
        words: Number of words of the text.
        others: Number of words of each of the others: (others,).

    >>> f_measures(np.array([2, 0]), 3, np.array([4, 4]))
    array([0.57142857, 0.        ])
    """
    precision, recall = common / words, common / np.maximum(others, 1)
    scores: NDArray[np.float64] = 2 * precision * recall / np.where(common, precision + recall, 1)
    return scores
