"""How a column's texts are worded: lengths, scripts, equal texts, and how many of their n-grams are different.

Distinct-n (Li et al., arXiv 1510.03055) is the share of different ones among all runs of n words. It falls as texts
are added, so it is also worked out on as many runs, drawn by rows, for datasets of different sizes to be compared.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from hfsynth.likeness.words import normal_form, words_in
from hfsynth.reporting.figures import Hashes, Lengths, hash_of, letters_by_script

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GRAMS = (1, 2, 3)
EVEN_GRAMS = (1_000, 10_000, 100_000)
"""The numbers of n-grams on which datasets of different sizes are compared."""
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, and without a pattern: the golden ratio's first bits


@dataclass(frozen=True)
class Wording:
    """A column's texts."""

    texts: int
    """Rows that have one."""
    empty: int
    """Rows that have none, or nothing but white space."""
    characters: Lengths | None
    """None where there are no texts."""
    words: Lengths | None
    """Words as `words_in` finds them: each sign of a script without spaces is one."""
    tokens: Lengths | None
    """None where there is no tokenizer."""
    scripts: Mapping[str, int]
    """Unicode's name of a script → letters."""


@dataclass(frozen=True)
class EvenShare:
    """The different ones among so many n-grams, whatever the size of the dataset."""

    grams: int
    """The first so many of rows drawn by chance."""
    share: float


@dataclass(frozen=True)
class Distinct:
    """The different ones among the n-grams of all texts; none of them goes from one text to another."""

    length: int
    """Words of an n-gram."""
    grams: int
    distinct: int
    even: tuple[EvenShare, ...]
    """Among 1,000, 10,000 and 100,000, as far as there are so many."""


@dataclass
class WordingCounts:
    """What is known of the texts seen so far."""

    texts: int = 0
    empty: int = 0
    characters: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)

    def see(
        self, texts: Sequence[str], words: Sequence[Sequence[str]], tokenizer: "PreTrainedTokenizerBase | None" = None
    ) -> None:
        """Count rows' texts, "" for none, and the words and tokens of those that aren't empty."""
        full = [text for text in texts if text]
        self.texts += len(full)
        self.empty += len(texts) - len(full)
        self.characters.update(map(len, full))
        self.words.update(map(len, words))
        if tokenizer is not None and full:
            self.tokens.update(map(len, tokenizer(full, add_special_tokens=False, verbose=False)["input_ids"]))
        self.scripts += letters_by_script(full)

    def result(self) -> Wording:
        """Return what was counted."""
        return Wording(
            self.texts,
            self.empty,
            Lengths.of(self.characters) if self.characters else None,
            Lengths.of(self.words) if self.words else None,
            Lengths.of(self.tokens) if self.tokens else None,
            dict(self.scripts.most_common()),
        )


@dataclass
class Equals:
    """Counts texts of which the normal form is that of an earlier one, as `Deduplicate` by `exact` drops them."""

    forms: Hashes = field(default_factory=Hashes)

    def see(self, texts: Sequence[str]) -> None:
        """Note texts that aren't empty."""
        self.forms.add(np.array([hash_of(normal_form(text)) for text in texts], np.uint64))

    def result(self) -> int:
        """Return how many repeat an earlier one."""
        return len(self.forms) - self.forms.distinct()


@dataclass
class GramCounts:
    """N-grams of the texts seen so far, as hashes."""

    grams: tuple[Hashes, ...] = field(default_factory=lambda: tuple(Hashes() for _ in GRAMS))

    def see(self, words: Sequence[Sequence[str]]) -> None:
        """Note the n-grams of texts, given as their words."""
        flat = [word for text in words for word in text]
        by_word = {word: hash_of(word) for word in set(flat)}
        tokens = np.array([by_word[word] for word in flat], np.uint64)
        text = np.repeat(np.arange(len(words)), [len(found) for found in words])
        grams = tokens
        for place, (length, hashes) in enumerate(zip(GRAMS, self.grams, strict=True)):
            if place:  # each run of words is the one that is a word shorter, and the word after it
                grams = (grams[:-1] * _MIX) ^ tokens[place:]
                grams ^= grams >> np.uint64(29)
            hashes.add(grams[text[: len(grams)] == text[length - 1 :]])

    def result(self, even: Mapping[int, tuple[EvenShare, ...]]) -> tuple[Distinct, ...]:
        """Return the figures, with those on as many n-grams (`even_shares`)."""
        return tuple(
            Distinct(length, len(hashes), hashes.distinct(), even[length])
            for length, hashes in zip(GRAMS, self.grams, strict=True)
        )


def even_shares(texts: Iterable[str]) -> dict[int, tuple[EvenShare, ...]]:
    """Return for each length of n-grams the share of different ones among the first, as many as `EVEN_GRAMS` says.

    Args:
        texts: The texts in an order drawn by chance; no more of them are read than are needed.
    """
    words: list[list[str]] = []
    total = 0
    for text in texts:
        words.append(words_in(text))
        total += max(0, len(words[-1]) - GRAMS[-1] + 1)
        if total >= EVEN_GRAMS[-1]:
            break
    return {length: tuple(_shares(words, length)) for length in GRAMS}


def _shares(words: Sequence[Sequence[str]], length: int) -> Iterator[EvenShare]:
    grams = (tuple(text[at : at + length]) for text in words for at in range(len(text) - length + 1))
    first = list(islice(grams, EVEN_GRAMS[-1]))
    for size in EVEN_GRAMS:
        if len(first) >= size:
            yield EvenShare(size, len(set(first[:size])) / size)


def words_of_batch(texts: Sequence[str]) -> list[list[str]]:
    """Return the words of texts that aren't empty."""
    return [words_in(text) for text in texts if text]
