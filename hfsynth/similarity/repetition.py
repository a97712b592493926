"""Find a line, a sentence or a run of words that a text repeats."""

import re
from collections import Counter
from itertools import pairwise

from hfsynth.similarity.words import SPACED_ENDS, UNSPACED_ENDS, signs_of_words, word_bounds, words_in

LINE_TIMES = 3
"""Occurrences from which a line or sentence counts as repeated."""
LINE_WORDS = 3
"""Fewest words of a line or sentence that counts: shorter ones recur in code and verse."""
NGRAM_WORDS = 4
"""Words of a run."""
NGRAM_TIMES = 3
"""Occurrences from which a run of words counts as repeated."""
NGRAM_SHARE = 0.3
"""Share of a text's words that must exceed this within one repeated run."""

_SENTENCE_END = re.compile(rf"(?<=[{SPACED_ENDS}])\s+|(?<=[{UNSPACED_ENDS}])|\n")


def find_repeated_line(text: str, min_times: int = LINE_TIMES, min_words: int = LINE_WORDS) -> tuple[str, int] | None:
    r"""Find the most frequent line of a text, or else its most frequent sentence, without case and punctuation.

    Args:
        text: The text.
        min_times: Fewest occurrences.
        min_words: Fewest words of the line or sentence.

    Returns:
        The words of the line and its occurrences; None where no line or sentence has so many.

    >>> find_repeated_line("So it goes on.\nSo it goes on!\nso it goes on")
    ('so it goes on', 3)
    """
    for parts in (text.splitlines(), _SENTENCE_END.split(text)):
        in_words = (words_in(part) for part in parts)
        counts = Counter(" ".join(words) for words in in_words if word_bounds(words)[0] >= min_words)
        for part, times in counts.most_common(1):
            if times >= min_times:
                return part, times
    return None


def find_repeated_words(
    text: str, length: int = NGRAM_WORDS, min_times: int = NGRAM_TIMES, max_share: float = NGRAM_SHARE
) -> tuple[str, int, float] | None:
    """Find the repeated run of words that covers the largest share of a text.

    Args:
        text: The text.
        length: Words of a run; of scripts without spaces, as many characters as make so many words on average.
        min_times: Fewest occurrences.
        max_share: The largest share of the words, from 0 to 1, that one repeated run may cover.

    Returns:
        The run, its occurrences and the share that they cover; None where no repeated run covers more than allowed.

    >>> find_repeated_words("go on and on " * 5)
    ('go on and on', 5, 1.0)
    """
    words = words_in(text)
    size = signs_of_words(length, words)
    starts: dict[tuple[str, ...], list[int]] = {}
    for start in range(len(words) - size + 1):
        starts.setdefault(tuple(words[start : start + size]), []).append(start)
    repeated = {gram: places for gram, places in starts.items() if len(places) >= min_times}
    shares = {gram: _covered_words(places, size) / len(words) for gram, places in repeated.items()}
    gram = max(shares, key=shares.__getitem__, default=())
    if not gram or shares[gram] <= max_share:
        return None
    return " ".join(gram), len(repeated[gram]), shares[gram]


def _covered_words(starts: list[int], length: int) -> int:
    """Count the words within runs of a length that begin at `starts`, in ascending order and perhaps overlapping.

    >>> _covered_words([0, 1, 10], 4)
    9
    """
    return length + sum(min(following - start, length) for start, following in pairwise(starts))
