"""Decontaminate: drop rows that share an n-gram with a benchmark.

GPT-3 (arXiv 2005.14165, appendix C) compares n-grams of 13 words, and of 8 to 12 words for benchmarks of short texts.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from datasets.exceptions import DatasetsError
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from hfsynth.data import find_path, load_splits
from hfsynth.filter import Drop, TextFilter
from hfsynth.fingerprint import hash_files
from hfsynth.similarity.words import num_items, word_bounds, words_in

_ROWS_AT_ONCE = 1_000  # rows of a benchmark that are read at once


@dataclass(frozen=True, kw_only=True)
class Decontaminate(TextFilter):
    """Keep a text if it shares no n-gram of `ngram` words with a benchmark.

    Words are compared without case and punctuation. All text columns of a benchmark are read, questions and answers
    alike. A benchmark text of fewer than `ngram` words is one n-gram; one of fewer than `shortest` words, such as a
    one-word answer, is ignored, since any text may contain it. In Chinese and Japanese, two characters count as a
    word; in Thai, Lao, Khmer and Burmese, three. The benchmarks are loaded when the first row is decided on.

    Rule: `in_benchmark`, with the n-gram, and the benchmark, row and column that contain it.

    Raises:
        ValueError: If there is no benchmark or a number is out of range; or, at the first row, if a benchmark can't
            be read or has no text of `shortest` words.
    """

    version: ClassVar[int] = 2

    benchmarks: tuple[str, ...] = field(
        metadata={
            "help": "Datasets on the Hub, as name, name:config or name:config:split (default: all splits), or json, "
            "jsonl, csv, parquet or txt files."
        }
    )
    ngram: int = field(default=13, metadata={"help": "Words of an n-gram that must not be shared."})
    shortest: int = field(default=8, metadata={"help": "Fewest words of a benchmark text that is compared."})

    def __post_init__(self) -> None:
        """Check the benchmarks and the numbers."""
        super().__post_init__()
        if not self.benchmarks:
            raise ValueError("Decontaminate.benchmarks is empty; name at least one dataset or file.")
        if not 1 <= self.shortest <= self.ngram:
            raise ValueError(f"Decontaminate.shortest must be from 1 to ngram={self.ngram}, got {self.shortest}.")

    def check_ready(self) -> None:
        """Check that each benchmark with the form of a path exists.

        Raises:
            ValueError: If a file is missing.
        """
        for benchmark in self.benchmarks:
            try:
                benchmark_parts(benchmark)
            except ValueError as error:
                raise ValueError(f"the benchmark {benchmark!r} can't be read: {error}") from error

    def files_state(self) -> str:
        """Return a hash of the contents of each benchmark that is a file or a folder."""
        paths = (Path(benchmark).expanduser() for benchmark in self.benchmarks)
        return " ".join(hash_files(path) for path in paths if path.exists())

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:  # noqa: ARG002
        """Look up the n-grams of each text in the index of the benchmarks."""
        index: NgramIndex | None = None
        for text in values:
            index = index or _build_index(self.benchmarks, self.shortest, self.ngram, self.files_state())
            found = index.find(text)
            yield Drop("in_benchmark", found.ngram, found.place) if found else None


@lru_cache(maxsize=1)
def _build_index(benchmarks: tuple[str, ...], shortest: int, ngram: int, state: str) -> "NgramIndex":  # noqa: ARG001 - a key
    """Index the benchmarks once for all rounds of a run."""
    found = chain.from_iterable(passages(benchmark, shortest) for benchmark in benchmarks)
    return index_passages(found, ngram)


@dataclass(frozen=True)
class Passage:
    """A text of a benchmark."""

    words: list[str]
    place: str
    """The benchmark, the row and the column."""


@dataclass(frozen=True)
class SharedNgram:
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

    def find(self, text: str) -> SharedNgram | None:
        """Return the first of the longest n-grams that a text shares; None if it shares none."""
        words = words_in(text)
        for length, (hashes, owners) in self.runs.items():
            ngrams = _ngrams(words, length)
            sought = np.array([_hash(ngram) for ngram in ngrams], np.uint64)
            places = np.searchsorted(hashes, sought).clip(max=len(hashes) - 1)
            for hit in np.flatnonzero(hashes[places] == sought):
                owner = owners[places[hit]]
                if f" {ngrams[hit]} " in self.texts[owner]:
                    return SharedNgram(ngrams[hit], self.places[owner])
        return None


def index_passages(found: Iterable[Passage], n: int) -> NgramIndex:
    """Index the n-grams of texts.

    Args:
        found: The texts.
        n: Words of an n-gram; in scripts without spaces, as many characters as make `n` words on average.
    """
    texts: list[str] = []
    places: list[str] = []
    hashes: dict[int, array[int]] = {}
    owners: dict[int, array[int]] = {}
    for owner, passage in enumerate(found):
        length = min(num_items(n, passage.words), len(passage.words))
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
