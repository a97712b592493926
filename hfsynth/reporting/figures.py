"""Figures of a dataset's rows: lengths, duplicates, scripts; batch by batch, with 8 bytes in memory for each text."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from hfsynth.likeness.words import normal_form
from hfsynth.record import METADATA_COLUMN

_ROWS_AT_ONCE = 5_000
_BINS = 20
_MESSAGE = {"role", "content"}


@dataclass(frozen=True)
class Lengths:
    """Lengths of texts, in characters, words or tokens.

    A quartile is the least length that this share of the texts doesn't exceed.
    """

    smallest: int
    lower: int
    """First quartile."""
    median: int
    upper: int
    """Third quartile."""
    largest: int
    mean: float
    edges: tuple[float, ...]
    """Of a histogram's bins, of equal widths from the smallest length to the largest."""
    counts: tuple[int, ...]
    """Texts in each bin; the last one holds the largest too."""

    @classmethod
    def of(cls, counted: Mapping[int, int]) -> "Lengths":
        """Work them out from length → number of texts, of which there is at least one."""
        lengths = np.array(sorted(counted))
        texts = np.array([counted[int(length)] for length in lengths])
        reached = texts.cumsum()
        quartile = [int(lengths[np.searchsorted(reached, share * reached[-1])]) for share in (0.25, 0.5, 0.75)]
        counts, edges = np.histogram(lengths, bins=_BINS, weights=texts)
        return cls(
            smallest=int(lengths[0]),
            lower=quartile[0],
            median=quartile[1],
            upper=quartile[2],
            largest=int(lengths[-1]),
            mean=float((lengths * texts).sum() / reached[-1]),
            edges=tuple(round(float(edge), 3) for edge in edges),
            counts=tuple(int(count) for count in counts),
        )


@dataclass(frozen=True)
class ColumnFigures:
    """Figures of one column of texts, or of conversations, whose contents are then taken as one text."""

    empty: int
    """Rows where it is None, or has nothing but white space."""
    duplicates: int
    """Rows whose text equals that of an earlier row, as `Deduplicate` compares them: by their normal form."""
    lengths: Lengths | None
    """Of the texts that are not empty; None where all are."""
    scripts: Mapping[str, int]
    """Unicode's name of a script, such as LATIN → letters."""

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "ColumnFigures":
        """Make them again from `dataclasses.asdict`, by way of JSON."""
        lengths = facts["lengths"]
        arrays = lengths and {name: tuple(lengths[name]) for name in ("edges", "counts")}
        return cls(**{**facts, "lengths": lengths and Lengths(**{**lengths, **arrays})})


def text_columns(features: Features) -> list[str]:
    """List the columns that hold texts or conversations."""
    return [name for name, kind in features.items() if name != METADATA_COLUMN and (_is_text(kind) or is_chat(kind))]


def column_figures(dataset: Dataset, column: str) -> ColumnFigures:
    """Work out the figures of one column that `text_columns` lists."""
    counting = _Counting()
    for texts in _texts(dataset, column):
        counting.see(texts)
    return ColumnFigures(
        empty=len(dataset) - len(counting.hashes),
        duplicates=len(counting.hashes) - counting.hashes.distinct(),
        lengths=Lengths.of(counting.lengths) if counting.lengths else None,
        scripts=dict(counting.scripts.most_common()),
    )


@dataclass
class Hashes:
    """Hashes of 8 bytes; of each batch, the different ones are kept.

    >>> hashes = Hashes()
    >>> hashes.add(np.array([1, 2, 1], np.uint64))
    >>> len(hashes), hashes.distinct()
    (3, 2)
    """

    _count: int = 0
    _batches: list[NDArray[np.uint64]] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of hashes, repeated ones included."""
        return self._count

    def add(self, values: NDArray[np.uint64]) -> None:
        """Add a batch."""
        self._count += len(values)
        self._batches.append(np.unique(values))

    def distinct(self) -> int:
        """Count the different ones."""
        return len(np.unique(np.concatenate(self._batches))) if self._batches else 0


@dataclass
class _Counting:
    """Counts of the texts seen so far."""

    hashes: Hashes = field(default_factory=Hashes)
    lengths: Counter[int] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)

    def see(self, texts: pa.Array) -> None:
        """Count texts, none of them empty, and note their hashes."""
        plain = texts.to_pylist()
        self.hashes.add(np.array([hash_of(normal_form(text)) for text in plain], np.uint64))
        lengths, counts = np.unique(pc.utf8_length(texts).to_numpy(False), return_counts=True)
        self.lengths.update(dict(zip(lengths.tolist(), counts.tolist(), strict=True)))
        self.scripts += letters_by_script(plain)


def hash_of(text: str) -> int:
    """Return 8 bytes that are the same for equal texts, and for different ones as good as never."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def letters_by_script(texts: Sequence[str]) -> Counter[str]:
    """Count the letters of texts by their script (`script_of`)."""
    letters: Counter[str] = Counter()
    points, counts = np.unique(_code_points(texts), return_counts=True)
    for point, count in zip(points.tolist(), counts.tolist(), strict=True):
        if script := script_of(point):
            letters[script] += count
    return letters


@cache
def script_of(point: int) -> str:
    """Return the script of a letter, as the first word of its Unicode name; "" of what is no letter.

    >>> [script_of(ord(sign)) for sign in "aж漢1 "]
    ['LATIN', 'CYRILLIC', 'CJK', '', '']
    """
    sign = chr(point)
    return unicodedata.name(sign, "").partition(" ")[0] if sign.isalpha() else ""


def _texts(dataset: Dataset, column: str) -> Iterator[pa.Array]:
    """Give a column's texts that have more than white space, in large pieces."""
    chat = is_chat(dataset.features[column])
    for table in dataset.select_columns(column).with_format("arrow").iter(_ROWS_AT_ONCE):
        values = table.column(column).combine_chunks()
        texts = pa.array([_said(messages) for messages in values.to_pylist()]) if chat else values
        texts = texts.cast(pa.large_string())
        yield texts.filter(pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False))


def _said(messages: Iterable[Mapping[str, Any]] | None) -> str:
    return "\n".join(str(message["content"] or "") for message in messages or ())


def _code_points(texts: Sequence[str]) -> NDArray[np.uint32]:
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)


def _is_text(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype in ("string", "large_string")


def is_chat(kind: Any) -> bool:
    """Return whether a feature is that of conversations: lists of messages with role and content."""
    return isinstance(kind, List) and isinstance(kind.feature, dict) and set(kind.feature) >= _MESSAGE
