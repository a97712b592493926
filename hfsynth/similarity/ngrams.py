"""N-grams: those that a text shares with a benchmark, and lines, sentences or runs of words that a text repeats."""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.exceptions import DatasetsError
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from hfsynth.data import find_path, load_splits
from hfsynth.similarity.words import SPACED_ENDS, UNSPACED_ENDS, signs_of_words, word_bounds, words_in

_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Passage:
    """A text of a benchmark."""

    words: list[str]
    place: str
    """The benchmark, the row and the column."""


@dataclass(frozen=True)
class Shared:
    """An n-gram that a text shares with a benchmark."""

    ngram: str
    place: str
    """The benchmark, the row and the column."""


def passages(benchmark: str, shortest: int) -> Iterator[Passage]:
    """Read the texts of a benchmark that are long enough, including those within lists and structs.

    Args:
        benchmark: A json, jsonl, csv, parquet or txt file; or a dataset on the Hub or in a folder, as name,
            name:config or name:config:split. Without a split, all of them are read.
        shortest: Fewest words of a text.

    Raises:
        ValueError: If the benchmark can't be read, or has no text of `shortest` words.
    """
    found = False
    for place, text in _located_texts(benchmark):
        words = words_in(text)
        if word_bounds(words)[0] >= shortest:
            found = True
            yield Passage(words, place)
    if not found:
        raise ValueError(f"the benchmark {benchmark!r} has no text of {shortest} words or more to compare with.")


def _located_texts(benchmark: str) -> Iterator[tuple[str, str]]:
    """Yield the place of each text of a benchmark, and the text."""
    for label, rows in _load_splits(benchmark).items():
        for index, row in enumerate(_rows(rows)):
            for column, value in row.items():
                for text in _texts(value):
                    yield f"{label} row {index} {column}", text


def _load_splits(benchmark: str) -> dict[str, Dataset]:
    """Load a benchmark: the label of each split → its rows."""
    try:
        name, config, split = benchmark_parts(benchmark)
        loaded = load_splits(name, config, split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise ValueError(f"the benchmark {benchmark!r} can't be read: {type(error).__name__}: {error}") from error
    path = find_path(name)
    if path is not None and path.is_file():
        return {path.name: loaded["train"]}
    if split:
        return {benchmark: loaded[split]}
    return {":".join((name, config or "", part)): rows for part, rows in loaded.items()}


def benchmark_parts(benchmark: str) -> tuple[str, str | None, str | None]:
    """Parse a benchmark's name into those of its dataset, its configuration and its split; None for those left out.

    Args:
        benchmark: A file or folder; or name, name:config or name:config:split.

    Raises:
        ValueError: If the name has the form of a path that does not exist.
    """
    if Path(benchmark).expanduser().exists():
        return benchmark, None, None
    name, _, rest = benchmark.partition(":")
    find_path(name)
    config, _, split = rest.partition(":")
    return name, config or None, split or None


def _rows(rows: Dataset) -> Iterator[dict[str, Any]]:
    for batch in rows.with_format(None).iter(_ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


@dataclass(frozen=True)
class NgramIndex:
    """The n-grams of texts; a text with fewer words is one n-gram.

    An n-gram takes 12 bytes: its hash and the number of the first text that contains it. A matching hash is verified
    in that text. If two n-grams have one hash, the second is missed; among ten million n-grams the chance of one such
    pair is one in a million.
    """

    texts: tuple[str, ...]
    """The words of each text, with a space before and after each word."""
    places: tuple[str, ...]
    """The benchmark, the row and the column of each text."""
    runs: dict[int, tuple[NDArray[np.uint64], NDArray[np.uint32]]]
    """Number of words n → the sorted hashes of all n-grams, and the number of the text of each."""

    def find(self, text: str) -> Shared | None:
        """Return the first of the longest n-grams that a text shares; None where it shares none."""
        words = words_in(text)
        for length, (hashes, owners) in self.runs.items():
            ngrams = _ngrams(words, length)
            sought = np.array([_hash(ngram) for ngram in ngrams], np.uint64)
            places = np.searchsorted(hashes, sought).clip(max=len(hashes) - 1)
            for hit in np.flatnonzero(hashes[places] == sought):
                owner = owners[places[hit]]
                if f" {ngrams[hit]} " in self.texts[owner]:
                    return Shared(ngrams[hit], self.places[owner])
        return None


def index_passages(found: Iterable[Passage], n: int) -> NgramIndex:
    """Index the n-grams of texts.

    Args:
        found: The texts.
        n: Words of an n-gram; of scripts without spaces, as many characters as make `n` words on average.
    """
    texts: list[str] = []
    places: list[str] = []
    hashes: dict[int, array[int]] = {}
    owners: dict[int, array[int]] = {}
    for owner, passage in enumerate(found):
        length = min(signs_of_words(n, passage.words), len(passage.words))
        run = [_hash(ngram) for ngram in _ngrams(passage.words, length)]
        hashes.setdefault(length, array("Q")).extend(run)
        owners.setdefault(length, array("I")).extend([owner] * len(run))
        texts.append(f" {' '.join(passage.words)} ")
        places.append(passage.place)
    runs = {length: _sort_by_hash(hashes[length], owners[length]) for length in sorted(hashes, reverse=True)}
    return NgramIndex(tuple(texts), tuple(places), runs)


def _sort_by_hash(hashes: "array[int]", owners: "array[int]") -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    unique, first = np.unique(np.frombuffer(hashes, np.uint64), return_index=True)
    return unique, np.frombuffer(owners, np.uint32)[first]


def _ngrams(words: list[str], length: int) -> list[str]:
    return [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]


def _hash(ngram: str) -> int:
    return xxh3_64_intdigest(ngram.encode("utf-8", "surrogatepass"))


LINE_TIMES = 3
"""Occurrences from which a line or sentence counts as repeated."""
LINE_WORDS = 3
"""Fewest words of a line or sentence that counts: shorter ones recur in code and verse."""
NGRAM_WORDS = 4
"""Words of a run."""
NGRAM_TIMES = 3
"""Occurrences from which a run of words counts as repeated."""
NGRAM_SHARE = 0.3
"""Share of a text's words above which one repeated run counts as a repetition."""

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
