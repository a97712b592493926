"""Figures of a dataset's texts: lengths, scripts, duplicates, refusals, verdicts."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from hfsynth.data import is_chat
from hfsynth.filters.wellformed import WellFormed
from hfsynth.similarity.words import normal_form, words_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_BINS = 20


@dataclass(frozen=True)
class Spread:
    """The spread of numbers that may be fractions; as `reporting.figures.Lengths` is of whole ones.

    A quartile is the least number that this share of the numbers doesn't exceed.
    """

    count: int
    smallest: float
    lower: float
    """First quartile."""
    median: float
    upper: float
    """Third quartile."""
    largest: float
    mean: float
    edges: tuple[float, ...]
    """Of a histogram's bins, of equal widths."""
    counts: tuple[int, ...]
    """Numbers in each bin; the last one holds the largest too."""

    @classmethod
    def of(cls, values: NDArray[np.float64], limits: tuple[float, float] | None = None) -> "Spread | None":
        """Work it out; None where there are no numbers.

        Args:
            values: The numbers, all finite.
            limits: Where the histogram begins and ends. Default: at the smallest number and the largest.
        """
        if not len(values):
            return None
        lower, median, upper = (float(np.quantile(values, q, method="inverted_cdf")) for q in (0.25, 0.5, 0.75))
        counts, edges = np.histogram(values, bins=_BINS, range=limits)
        return cls(
            count=len(values),
            smallest=float(values.min()),
            lower=lower,
            median=median,
            upper=upper,
            largest=float(values.max()),
            mean=float(values.mean()),
            edges=tuple(edges.tolist()),
            counts=tuple(counts.tolist()),
        )


_FIGURE_ROWS = 5_000
_LENGTH_BINS = 20


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
        counts, edges = np.histogram(lengths, bins=_LENGTH_BINS, weights=texts)
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
    for table in dataset.select_columns(column).with_format("arrow").iter(_FIGURE_ROWS):
        values = table.column(column).combine_chunks()
        texts = pa.array([_said(messages) for messages in values.to_pylist()]) if chat else values
        texts = texts.cast(pa.large_string())
        yield texts.filter(pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), False))


def _said(messages: Iterable[Mapping[str, Any]] | None) -> str:
    return "\n".join(str(message["content"] or "") for message in messages or ())


def _code_points(texts: Sequence[str]) -> NDArray[np.uint32]:
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)


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


_REFUSED = (
    "answer", "assist", "complete that", "complete this", "comply", "create", "discuss", "do that", "do this",
    "engage in", "fulfill", "generate", "give you", "help", "offer", "produce", "provide", "respond", "share",
    "support", "write",
)  # fmt: skip
REFUSALS = (
    "i'm sorry, but", "i am sorry, but", "i apologize, but", "sorry, i can't", "sorry, i cannot", "sorry. i can't",
    "sorry. i cannot", "i'm unable to", "i am unable to", "i'm not able to", "i am not able to",
    "i won't be able to", "i must decline", "i have to decline", "as an ai", "as a language model",
    "as a large language model", "against my guidelines", "against my programming",
    *(f"i {no} {verb}" for no in ("can't", "cannot") for verb in _REFUSED),
)  # fmt: skip
"""English phrases of a refusal, in their normal form; whole words."""
_BEGINNING = 200  # characters in which a refusal stands
_REFUSAL = re.compile(rf"\b(?:{'|'.join(map(re.escape, REFUSALS))})(?!\w)")
_REPETITION = WellFormed(rules=("repeated_line", "repeated_words"))


@dataclass(frozen=True)
class Answers:
    """What is wrong with the responses."""

    asked: int
    """Rows with an instruction."""
    unanswered: int
    """Those of them without a response."""
    responses: int
    """Rows with a response."""
    refusals: int
    """Responses that have one of `REFUSALS` among their first 200 characters."""
    looked_at: int
    """Responses in which repetition was looked for: all of them, or some drawn by chance."""
    repetitions: Mapping[str, int]
    """Rule of `WellFormed` that finds repetition → responses of these."""


def is_refusal(response: str) -> bool:
    """Return whether a response begins like an English refusal.

    >>> is_refusal("I’m sorry, but I can’t help with that."), is_refusal("Sorry is a word.")
    (True, False)
    """
    return _REFUSAL.search(normal_form(response[:_BEGINNING]).replace("’", "'")) is not None


def repetitions(responses: Iterable[str]) -> Mapping[str, int]:
    """Count responses that repeat a line, or words in a row, by `WellFormed`'s rule that finds it first."""
    drops = _REPETITION.decide(responses, ())
    return dict.fromkeys(_REPETITION.rules, 0) | Counter(drop.rule for drop in drops if drop is not None)


@dataclass
class AnswerCounts:
    """What is known of the rows seen so far."""

    asked: int = 0
    unanswered: int = 0
    responses: int = 0
    refusals: int = 0

    def see(self, instructions: Sequence[str], responses: Sequence[str]) -> None:
        """Count rows, by their texts, "" for none."""
        for instruction, response in zip(instructions, responses, strict=True):
            self.asked += bool(instruction)
            self.unanswered += bool(instruction) and not response
            self.responses += bool(response)
            self.refusals += bool(response) and is_refusal(response)

    def result(self, drawn: Sequence[str]) -> Answers:
        """Return the figures, with those of some responses that were drawn."""
        return Answers(self.asked, self.unanswered, self.responses, self.refusals, len(drawn), repetitions(drawn))


LABELS = (
    "intent", "category", "task_category", "difficulty", "quality", "input_quality", "language", "safety",
    "llama_guard_2", "system_prompt_key",
)  # fmt: skip
"""Columns of labels, by the names of `Judge`'s presets, of Magpie's datasets and of `Magpie`."""
SCORES = ("ifd", "reward", "instruct_reward")
"""Columns of scores."""
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class Labels:
    """A column of labels, such as `Judge` makes."""

    column: str
    counts: Mapping[str, int]
    """Label → rows, the most frequent first."""
    missing: int
    """Rows without one."""


@dataclass(frozen=True)
class Scores:
    """A column of numbers."""

    column: str
    spread: Spread | None
    """None where no row has one."""
    missing: int
    """Rows without one, or with one that is not finite."""


def labels_of(dataset: Dataset) -> tuple[Labels, ...]:
    """Count the labels in the columns that `label_columns` lists."""
    return tuple(_labels(dataset, column) for column in label_columns(dataset.features))


def label_columns(features: Features) -> list[str]:
    """List the columns of texts that are named like labels, or beside which their probabilities stand (`Judge`)."""
    beside = {name: "probabilities" if name == "label" else f"{name}_probabilities" for name in features}
    texts = [name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype.endswith("string")]
    return [name for name in texts if name in LABELS or _is_numbers(features.get(beside[name]))]


def scores_of(dataset: Dataset) -> tuple[Scores, ...]:
    """Work out how the scores in the columns of `SCORES` are spread."""
    there = [name for name in SCORES if _is_number(dataset.features.get(name))]
    return tuple(_scores(dataset, column) for column in there)


def _labels(dataset: Dataset, column: str) -> Labels:
    counts: Counter[str | None] = Counter()
    for values in _values(dataset, column):
        counts.update({entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()})
    missing = counts.pop(None, 0)
    return Labels(column, {str(label): count for label, count in counts.most_common()}, missing)


def _scores(dataset: Dataset, column: str) -> Scores:
    parts = [
        values.cast(pa.float64()).drop_null().to_numpy(zero_copy_only=False) for values in _values(dataset, column)
    ]
    every = np.concatenate([np.array([], np.float64), *parts])
    finite = every[np.isfinite(every)]
    return Scores(column, Spread.of(finite), len(dataset) - len(finite))


def _values(dataset: Dataset, column: str) -> Iterator[pa.Array]:
    for table in dataset.select_columns(column).with_format("arrow").iter(_ROWS_AT_ONCE):
        yield table.column(column).combine_chunks()


def _is_number(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype.startswith(("float", "int", "uint"))


def _is_numbers(kind: Any) -> bool:
    return isinstance(kind, List) and _is_number(kind.feature)
