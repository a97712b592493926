"""Decontaminate: drop what shares a run of words with a benchmark, which would else measure what was learnt by heart.

Runs of 13 words are GPT-3's (arXiv 2005.14165, appendix C), and the practice since. There, benchmarks of short texts
are compared by fewer words, but never by fewer than 8.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import ClassVar

from hfsynth.filter import Drop, TextFilter
from hfsynth.similarity.ngrams import NgramIndex, benchmark_parts, index_passages, passages


@dataclass(frozen=True, kw_only=True)
class Decontaminate(TextFilter):
    """Keep a text if no `ngram` words in a row of it are in a text of a benchmark.

    Words are compared without case and punctuation. All columns with text are read, of questions and answers alike. A
    benchmark's text of fewer words counts as a whole; one of fewer than `shortest`, such as an answer of one word,
    isn't compared, since any text may have it. Of Chinese and Japanese, two signs count as a word; of Thai, Lao, Khmer
    and Burmese, three. The benchmarks are loaded when the first row is to be decided on.

    Drops by the rule `in_benchmark`, with the run of words, and the benchmark, row and column that have it.

    Raises:
        ValueError: If no benchmark is given, a number is out of its range; or, before anything is decided, if a
            benchmark can't be read or has no text that could be compared.
    """

    version: ClassVar[int] = 2

    benchmarks: tuple[str, ...] = field(
        metadata={
            "help": "Datasets on the Hub, as name, name:config or name:config:split (default: all splits), or json, "
            "jsonl, csv, parquet or txt files."
        }
    )
    ngram: int = field(default=13, metadata={"help": "Words in a row that may not be shared."})
    shortest: int = field(default=8, metadata={"help": "Fewest words of a benchmark's text that is compared."})

    def __post_init__(self) -> None:
        """Check the benchmarks and the numbers."""
        super().__post_init__()
        if not self.benchmarks:
            raise ValueError("Decontaminate.benchmarks is empty; give a dataset or file to compare with.")
        if not 1 <= self.shortest <= self.ngram:
            raise ValueError(
                f"Decontaminate.shortest is {self.shortest}; it must be at least 1 and at most ngram, {self.ngram}."
            )

    def check_ready(self) -> None:
        """Check that benchmarks that are files are there.

        Raises:
            ValueError: If one isn't.
        """
        for benchmark in self.benchmarks:
            try:
                benchmark_parts(benchmark)
            except ValueError as error:
                raise ValueError(f"the benchmark {benchmark!r} can't be read: {error}") from error

    def files_state(self) -> str:
        """Name the size and time of each benchmark that is a file."""
        paths = (Path(benchmark).expanduser() for benchmark in self.benchmarks)
        states = (path.stat() for path in paths if path.is_file())
        return " ".join(f"{state.st_size}-{state.st_mtime_ns}" for state in states)

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:  # noqa: ARG002
        """Look every text's runs of words up; what came before doesn't matter."""
        index: NgramIndex | None = None
        for text in values:
            index = index or _index(self.benchmarks, self.shortest, self.ngram, self.files_state())
            found = index.find(text)
            yield Drop("in_benchmark", found.ngram, found.place) if found else None


@lru_cache(maxsize=1)
def _index(benchmarks: tuple[str, ...], shortest: int, ngram: int, state: str) -> NgramIndex:  # noqa: ARG001 - a key
    """Read the benchmarks, once for all the rounds of a run."""
    found = chain.from_iterable(passages(benchmark, shortest) for benchmark in benchmarks)
    return index_passages(found, ngram)
