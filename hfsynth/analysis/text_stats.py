"""Statistics of the texts of a column: lengths, scripts, distinct n-grams, duplicates, refusals, labels and scores.

Counters are updated with one batch after the other, so that a dataset is read once and never held in memory.
"""

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

from hfsynth.conversation import conversation_text, read_conversation
from hfsynth.data import is_chat
from hfsynth.errors import RowError
from hfsynth.similarity.words import find_repeated_line, find_repeated_words, normal_form, words_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS = (
    "intent", "category", "task_category", "difficulty", "quality", "input_quality", "language", "safety",
    "llama_guard_2", "system_prompt_key",
)  # fmt: skip
"""Names of label columns: those of `Judge`'s presets, of Magpie's datasets and of `Magpie`."""
SCORES = ("ifd", "reward", "instruct_reward")
"""Names of score columns."""
GRAM_LENGTHS = (1, 2, 3)
"""Words of the n-grams that are counted."""
FIXED_NUMBERS_OF_GRAMS = (1_000, 10_000, 100_000)
"""Numbers of n-grams on which datasets of different sizes are compared."""
_REFUSED_ACTIONS = (
    "answer", "assist", "complete that", "complete this", "comply", "create", "discuss", "do that", "do this",
    "engage in", "fulfill", "generate", "give you", "help", "offer", "produce", "provide", "respond", "share",
    "support", "write",
)  # fmt: skip
REFUSALS = (
    "i'm sorry, but", "i am sorry, but", "i apologize, but", "sorry, i can't", "sorry, i cannot", "sorry. i can't",
    "sorry. i cannot", "i'm unable to", "i am unable to", "i'm not able to", "i am not able to",
    "i won't be able to", "i must decline", "i have to decline", "as an ai", "as a language model",
    "as a large language model", "against my guidelines", "against my programming",
    *(f"i {no} {action}" for no in ("can't", "cannot") for action in _REFUSED_ACTIONS),
)  # fmt: skip
"""English phrases of a refusal, in their normal form; whole words."""
_REFUSAL = re.compile(rf"\b(?:{'|'.join(map(re.escape, REFUSALS))})(?!\w)")
_REFUSAL_CHARACTERS = 200  # a refusal is searched in so many characters from the start
_BINS = 20
_BATCH_SIZE = 10_000  # rows
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, without a pattern in its bits: 2^64 / golden ratio


# --- distributions ---


@dataclass(frozen=True)
class Spread:
    """The distribution of numbers that may be fractions; `Lengths` is that of whole numbers.

    A quartile is the smallest number that this share of the numbers does not exceed.
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
    """Edges of a histogram's bins, which have equal widths."""
    counts: tuple[int, ...]
    """Numbers in each bin; the last bin includes its right edge."""

    @classmethod
    def of(cls, values: NDArray[np.float64], limits: tuple[float, float] | None = None) -> "Spread | None":
        """Compute the distribution, or return None where there are no numbers.

        Args:
            values: The numbers, all finite.
            limits: The ends of the histogram. Default: the smallest and the largest number.
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


@dataclass(frozen=True)
class Lengths:
    """The distribution of texts' lengths, in characters, words or tokens.

    A quartile is the smallest length that this share of the texts does not exceed.
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
    """Edges of a histogram's bins, which have equal widths, from the smallest length to the largest."""
    counts: tuple[int, ...]
    """Texts in each bin; the last bin includes its right edge."""

    @classmethod
    def of(cls, texts_by_length: Mapping[int, int]) -> "Lengths | None":
        """Compute the distribution from length → number of texts, or return None where there are no texts."""
        if not texts_by_length:
            return None
        lengths = np.array(sorted(texts_by_length))
        texts = np.array([texts_by_length[int(length)] for length in lengths])
        cumulated = texts.cumsum()
        lower, median, upper = (
            int(lengths[np.searchsorted(cumulated, share * cumulated[-1])]) for share in (0.25, 0.5, 0.75)
        )
        counts, edges = np.histogram(lengths, bins=_BINS, weights=texts)
        return cls(
            smallest=int(lengths[0]),
            lower=lower,
            median=median,
            upper=upper,
            largest=int(lengths[-1]),
            mean=float((lengths * texts).sum() / cumulated[-1]),
            edges=tuple(round(float(edge), 3) for edge in edges),
            counts=tuple(int(count) for count in counts),
        )


# --- texts: lengths, scripts, duplicates ---


@dataclass(frozen=True)
class TextStats:
    """Statistics of the texts of a column."""

    texts: int
    """Rows with a text."""
    empty: int
    """Rows whose text is None or only white space."""
    characters: Lengths | None
    """None where there are no texts."""
    words: Lengths | None
    """Words as `words_in` counts them: each character of a script without spaces is one."""
    tokens: Lengths | None
    """None where there is no tokenizer."""
    scripts: Mapping[str, int]
    """Script by its Unicode name, such as LATIN → letters."""


@dataclass
class TextCounter:
    """Counts for `TextStats`."""

    texts: int = 0
    empty: int = 0
    characters: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)

    def update(
        self,
        texts: Sequence[str],
        words: Sequence[Sequence[str]] = (),
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> None:
        """Count a batch.

        Args:
            texts: The texts of the rows, "" for none.
            words: The words of each text that is not empty.
            tokenizer: Counts the tokens, without special ones.
        """
        full = [text for text in texts if text]
        self.texts += len(full)
        self.empty += len(texts) - len(full)
        self.characters.update(map(len, full))
        self.words.update(map(len, words))
        if tokenizer is not None and full:
            self.tokens.update(map(len, tokenizer(full, add_special_tokens=False, verbose=False)["input_ids"]))
        self.scripts += letters_by_script(full)

    def result(self) -> TextStats:
        """Return the statistics of all batches."""
        return TextStats(
            texts=self.texts,
            empty=self.empty,
            characters=Lengths.of(self.characters),
            words=Lengths.of(self.words),
            tokens=Lengths.of(self.tokens),
            scripts=dict(self.scripts.most_common()),
        )


@dataclass
class Hashes:
    """Hashes of 8 bytes; of each batch the distinct ones are kept.

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
        """Add a batch of hashes."""
        self._count += len(values)
        self._batches.append(np.unique(values))

    def distinct(self) -> int:
        """Count the distinct hashes."""
        return len(np.unique(np.concatenate(self._batches))) if self._batches else 0


@dataclass
class DuplicateCounter:
    """Counts the texts that `Deduplicate(by="exact")` drops: those whose normal form an earlier text has."""

    normal_forms: Hashes = field(default_factory=Hashes)

    def update(self, texts: Iterable[str]) -> None:
        """Count a batch of texts; "" stands for none."""
        self.normal_forms.add(np.array([hash_of(normal_form(text)) for text in texts if text], np.uint64))

    def result(self) -> int:
        """Return the number of duplicates."""
        return len(self.normal_forms) - self.normal_forms.distinct()


@dataclass(frozen=True)
class ColumnFigures:
    """Statistics of a column of texts or conversations, for a dataset card.

    The messages of a conversation count as one text.
    """

    empty: int
    """Rows whose text is None or only white space."""
    duplicates: int
    """Rows whose text equals that of an earlier row (`DuplicateCounter`)."""
    lengths: Lengths | None
    """Characters of the texts; None where there are none."""
    scripts: Mapping[str, int]
    """Script by its Unicode name, such as LATIN → letters."""


def column_figures(dataset: Dataset, column: str) -> ColumnFigures:
    """Compute the statistics of one of a dataset's `text_columns`."""
    counter, duplicates = TextCounter(), DuplicateCounter()
    is_conversation = is_chat(dataset.features, column)
    for rows in dataset.select_columns(column).with_format(None).iter(_BATCH_SIZE):
        values = map(_joined_messages, rows[column]) if is_conversation else rows[column]
        texts = [text if text and not text.isspace() else "" for text in values]
        counter.update(texts)
        duplicates.update(texts)
    stats = counter.result()
    return ColumnFigures(stats.empty, duplicates.result(), stats.characters, stats.scripts)


def hash_of(text: str) -> int:
    """Return a hash of 8 bytes that does not depend on the process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def letters_by_script(texts: Sequence[str]) -> Counter[str]:
    """Count the letters of texts by their script (`script_of`)."""
    letters: Counter[str] = Counter()
    code_points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    points, counts = np.unique(code_points, return_counts=True)
    for point, count in zip(points.tolist(), counts.tolist(), strict=True):
        if script := script_of(point):
            letters[script] += count
    return letters


@cache
def script_of(code_point: int) -> str:
    """Return the script of a letter, the first word of its Unicode name; "" for a character that is no letter.

    >>> [script_of(ord(character)) for character in "aж漢1 "]
    ['LATIN', 'CYRILLIC', 'CJK', '', '']
    """
    character = chr(code_point)
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""


def _joined_messages(value: Any) -> str:
    try:
        return conversation_text(read_conversation("", value))
    except RowError:
        return ""


# --- distinct n-grams ---


@dataclass(frozen=True)
class DistinctShare:
    """The share of distinct n-grams among a fixed number of them, comparable between datasets of different sizes."""

    grams: int
    """The first n-grams of the texts in a random order."""
    share: float


@dataclass(frozen=True)
class Distinct:
    """The distinct n-grams of all texts (distinct-n, arXiv 1510.03055); no n-gram spans two texts."""

    length: int
    """Words of an n-gram."""
    grams: int
    distinct: int
    at_fixed_sizes: tuple[DistinctShare, ...]
    """Among 1,000, 10,000 and 100,000 n-grams, as far as there are so many."""


@dataclass
class GramCounter:
    """Hashes of n-grams, for `Distinct`."""

    grams: tuple[Hashes, ...] = field(default_factory=lambda: tuple(Hashes() for _ in GRAM_LENGTHS))

    def update(self, words: Sequence[Sequence[str]]) -> None:
        """Add the n-grams of a batch of texts, each as its words."""
        flat = [word for text in words for word in text]
        hash_by_word = {word: hash_of(word) for word in set(flat)}
        tokens = np.array([hash_by_word[word] for word in flat], np.uint64)  # (words of all texts,)
        text = np.repeat(np.arange(len(words)), [len(text) for text in words])  # the text of each word
        grams = tokens
        for place, (length, hashes) in enumerate(zip(GRAM_LENGTHS, self.grams, strict=True)):
            if place:  # an n-gram's hash: that of the n-gram one word shorter, mixed with that of the next word
                grams = (grams[:-1] * _HASH_FACTOR) ^ tokens[place:]
                grams ^= grams >> np.uint64(29)
            hashes.add(grams[text[: len(grams)] == text[length - 1 :]])  # first and last word are of one text

    def result(self, shares: Mapping[int, tuple[DistinctShare, ...]]) -> tuple[Distinct, ...]:
        """Return the statistics of each length.

        Args:
            shares: Length of n-grams → the shares that `distinct_shares` returns.
        """
        return tuple(
            Distinct(length, len(hashes), hashes.distinct(), shares[length])
            for length, hashes in zip(GRAM_LENGTHS, self.grams, strict=True)
        )


def distinct_shares(texts: Iterable[str]) -> dict[int, tuple[DistinctShare, ...]]:
    """Return for each length of n-grams the share of distinct ones among the first `FIXED_NUMBERS_OF_GRAMS`.

    Args:
        texts: The texts in a random order; only as many are read as are needed.
    """
    words: list[list[str]] = []
    total = 0
    for text in texts:
        words.append(words_in(text))
        total += max(0, len(words[-1]) - GRAM_LENGTHS[-1] + 1)
        if total >= FIXED_NUMBERS_OF_GRAMS[-1]:
            break
    return {length: tuple(_distinct_shares(words, length)) for length in GRAM_LENGTHS}


def _distinct_shares(words: Sequence[Sequence[str]], length: int) -> Iterator[DistinctShare]:
    grams = (tuple(text[at : at + length]) for text in words for at in range(len(text) - length + 1))
    first = list(islice(grams, FIXED_NUMBERS_OF_GRAMS[-1]))
    for size in FIXED_NUMBERS_OF_GRAMS:
        if len(first) >= size:
            yield DistinctShare(size, len(set(first[:size])) / size)


# --- responses: refusals and repetition ---


@dataclass(frozen=True)
class Answers:
    """Faults of the responses."""

    asked: int
    """Rows with an instruction."""
    unanswered: int
    """Rows with an instruction and no response."""
    responses: int
    """Rows with a response."""
    refusals: int
    """Responses that `is_refusal` recognises."""
    checked: int
    """Responses that were checked for repetition: all, or a random sample."""
    repetitions: Mapping[str, int]
    """Rule of `WellFormed` that finds repetition → responses of those checked."""


@dataclass
class AnswerCounter:
    """Counts for `Answers`."""

    asked: int = 0
    unanswered: int = 0
    responses: int = 0
    refusals: int = 0

    def update(self, instructions: Sequence[str], responses: Sequence[str]) -> None:
        """Count a batch of rows; "" stands for no text."""
        for instruction, response in zip(instructions, responses, strict=True):
            self.asked += bool(instruction)
            self.unanswered += bool(instruction) and not response
            self.responses += bool(response)
            self.refusals += bool(response) and is_refusal(response)

    def result(self, sample: Sequence[str]) -> Answers:
        """Return the statistics of all batches.

        Args:
            sample: Responses to check for repetition.
        """
        return Answers(
            self.asked, self.unanswered, self.responses, self.refusals, len(sample), count_repetitions(sample)
        )


def is_refusal(response: str) -> bool:
    """Return whether the first 200 characters of a response have one of `REFUSALS`.

    >>> is_refusal("I’m sorry, but I can’t help with that."), is_refusal("Sorry is a word.")
    (True, False)
    """
    return _REFUSAL.search(normal_form(response[:_REFUSAL_CHARACTERS]).replace("’", "'")) is not None


def count_repetitions(responses: Iterable[str]) -> Mapping[str, int]:
    """Count the responses that repeat a line or words, by the first rule of `WellFormed` that finds it."""
    counts = {"repeated_line": 0, "repeated_words": 0}
    for response in responses:
        if find_repeated_line(response):
            counts["repeated_line"] += 1
        elif find_repeated_words(response):
            counts["repeated_words"] += 1
    return counts


# --- columns of labels and scores ---


@dataclass(frozen=True)
class Labels:
    """A column of labels, such as those that `Judge` writes."""

    column: str
    counts: Mapping[str, int]
    """Label → rows, the most frequent first."""
    missing: int
    """Rows without a label."""


@dataclass(frozen=True)
class Scores:
    """A column of numbers."""

    column: str
    spread: Spread | None
    """None where no row has a number."""
    missing: int
    """Rows without a finite number."""


def count_labels(dataset: Dataset) -> tuple[Labels, ...]:
    """Count the labels of each of the `label_columns`."""
    columns = []
    for column in label_columns(dataset.features):
        counts: Counter[str | None] = Counter()
        for values in _column_batches(dataset, column):
            counts.update({entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()})
        missing = counts.pop(None, 0)
        columns.append(Labels(column, {str(label): count for label, count in counts.most_common()}, missing))
    return tuple(columns)


def label_columns(features: Features) -> list[str]:
    """List the text columns that have a name of `LABELS`, or a column of probabilities beside them (`Judge`)."""
    probabilities = {name: "probabilities" if name == "label" else f"{name}_probabilities" for name in features}
    texts = [name for name, kind in features.items() if isinstance(kind, Value) and kind.dtype.endswith("string")]
    return [name for name in texts if name in LABELS or _is_number_list(features.get(probabilities[name]))]


def measure_scores(dataset: Dataset) -> tuple[Scores, ...]:
    """Compute the distribution of each column of numbers that has a name of `SCORES`."""
    columns = []
    for column in (name for name in SCORES if _is_number(dataset.features.get(name))):
        batches = [
            values.cast(pa.float64()).drop_null().to_numpy(zero_copy_only=False)
            for values in _column_batches(dataset, column)
        ]
        values = np.concatenate([np.array([], np.float64), *batches])
        finite = values[np.isfinite(values)]
        columns.append(Scores(column, Spread.of(finite), len(dataset) - len(finite)))
    return tuple(columns)


def _column_batches(dataset: Dataset, column: str) -> Iterator[pa.Array]:
    for table in dataset.select_columns(column).with_format("arrow").iter(_BATCH_SIZE):
        yield table.column(column).combine_chunks()


def _is_number(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype.startswith(("float", "int", "uint"))


def _is_number_list(kind: Any) -> bool:
    return isinstance(kind, List) and _is_number(kind.feature)
