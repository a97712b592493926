"""Decontaminate: drop rows that share an n-gram with a benchmark.

GPT-3 (arXiv 2005.14165, appendix C) compares n-grams of 13 words, and of 8 to 12 words for benchmarks of short texts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import ClassVar

from hfsynth.filter import Drop, TextFilter
from hfsynth.fingerprint import hash_files
from hfsynth.similarity.ngrams import NgramIndex, benchmark_parts, index_passages, passages


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
def _build_index(benchmarks: tuple[str, ...], shortest: int, ngram: int, state: str) -> NgramIndex:  # noqa: ARG001 - a key
    """Index the benchmarks once for all rounds of a run."""
    found = chain.from_iterable(passages(benchmark, shortest) for benchmark in benchmarks)
    return index_passages(found, ngram)
