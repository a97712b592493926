"""WellFormed: texts that a model left unfinished, began to repeat, or wrote its chat template into.

Magpie (arXiv 2406.08464) drops instructions that end in a colon or repeat themselves.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from hfsynth.filter import Found, RuleFilter
from hfsynth.similarity.words import SPACED_ENDS, UNSPACED_ENDS, signs_of_words, word_bounds, words_in

MARKERS = (
    r"<[|｜][^\s<>|｜][^<>|｜]{1,30}[|｜]>",  # <|im_start|>, <|eot_id|>, <｜User｜>
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\]",
    r"<</?SYS>>",
    r"</s>|<bos>|<eos>|<pad>|<unk>",
    r"</?(?:start|end)_of_turn>",
    r"(?m)^#{2,}[ ]*(?:Instruction|Input|Response|System|User|Human|Assistant)[ ]*:",
    r"(?m)^[ ]*(?:ASSISTANT|Assistant)[ ]*:",
    r"(?m)^[ ]*(?:system|user|assistant)[ ]*$",  # what is left of a header without its special tokens
)
_SENTENCE_END = re.compile(rf"(?<=[{SPACED_ENDS}])\s+|(?<=[{UNSPACED_ENDS}])|\n")


@dataclass(frozen=True, kw_only=True)
class WellFormed(RuleFilter):
    """Keep the texts that are whole, and free of repetition and of a chat template's signs.

    Drops by the first of these rules, with what was found:

    - `empty`: nothing but white space;
    - `colon`: it ends in a colon, after which something was to come;
    - `marker`: one of `markers` is found in it: a special token or a role's name;
    - `repeated_line`: a line or sentence of at least `line_words` words is there `line_times` times or more,
      whatever its case and punctuation; shorter ones repeat themselves in code and verse;
    - `repeated_words`: some `ngram` words in a row are there `ngram_times` times or more, and over `ngram_share` of
      the text's words stand within one of them;
    - `too_short`, `too_long`: it has fewer or more words than the limits.

    All rules hold for any language. Chinese, Japanese, Thai, Lao, Khmer and Burmese have no spaces between words: two
    of their signs count as a word, or three of the last four; where a text may be too short, each sign does,
    and every two Korean syllables.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a fruit.", "Translate this:", "Hi<|im_end|>"]})
    >>> WellFormed().split(dataset)[1]["rule"][:]
    ['colon', 'marker']

    Raises:
        ValueError: If a rule isn't known, a marker is no regular expression, or a number is out of its range.
    """

    version: ClassVar[int] = 2
    all_rules: ClassVar[tuple[str, ...]] = (
        "empty",
        "colon",
        "marker",
        "repeated_line",
        "repeated_words",
        "too_short",
        "too_long",
    )

    markers: tuple[str, ...] = field(
        default=MARKERS, metadata={"help": "Regular expressions of what a chat template writes."}
    )
    line_times: int = field(default=3, metadata={"help": "From so many times on, a line or sentence is repetition."})
    line_words: int = field(default=3, metadata={"help": "Fewest words of a line or sentence that is counted."})
    ngram: int = field(default=4, metadata={"help": "Length, in words, of what may be repeated in running text."})
    ngram_times: int = field(default=3, metadata={"help": "From so many times on, such words are repetition."})
    ngram_share: float = field(
        default=0.3, metadata={"help": "Highest share of a text's words that may stand in one such repetition."}
    )
    min_words: int | None = field(default=None, metadata={"help": "Fewest words that stay. Default: no limit."})
    max_words: int | None = field(default=None, metadata={"help": "Most words that stay. Default: no limit."})

    def __post_init__(self) -> None:
        """Check the rules, the markers and the numbers."""
        super().__post_init__()
        for marker in self.markers:
            try:
                re.compile(marker)
            except re.error as error:
                raise ValueError(f"WellFormed.markers has {marker!r}, no regular expression: {error}.") from None
        for name, least in (("line_times", 2), ("line_words", 1), ("ngram", 1), ("ngram_times", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"WellFormed.{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 <= self.ngram_share < 1:
            raise ValueError(f"WellFormed.ngram_share is {self.ngram_share}; it must be at least 0 and below 1.")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"WellFormed.min_words is {self.min_words}, above max_words, {self.max_words}.")

    def _empty(self, text: str) -> Found | None:
        return None if text.strip() else (repr(text), "")

    def _colon(self, text: str) -> Found | None:
        return (text.split()[-1], "") if text.rstrip().endswith((":", "：", "៖", "፦")) else None

    def _marker(self, text: str) -> Found | None:
        for marker in self.markers:
            if found := re.search(marker, text):
                return found.group().strip(), marker
        return None

    def _repeated_line(self, text: str) -> Found | None:
        for parts in (text.splitlines(), _SENTENCE_END.split(text)):
            part, times = _most_common(" ".join(words_in(part)) for part in parts if self._counts(part))
            if times >= self.line_times:
                return part, f"{times} times"
        return None

    def _repeated_words(self, text: str) -> Found | None:
        words = words_in(text)
        length = signs_of_words(self.ngram, words)
        starts: dict[tuple[str, ...], list[int]] = {}
        for start in range(len(words) - length + 1):
            starts.setdefault(tuple(words[start : start + length]), []).append(start)
        repeated = {gram: places for gram, places in starts.items() if len(places) >= self.ngram_times}
        shares = {gram: _covered(places, length) / len(words) for gram, places in repeated.items()}
        gram = max(shares, key=shares.__getitem__, default=())
        if not gram or shares[gram] <= self.ngram_share:
            return None
        return " ".join(gram), f"{len(repeated[gram])} times, in {shares[gram]:.0%} of the words"

    def _too_short(self, text: str) -> Found | None:
        if self.min_words is None or (count := word_bounds(words_in(text))[1]) >= self.min_words:
            return None
        return f"{count} words", f"at least {self.min_words}"

    def _too_long(self, text: str) -> Found | None:
        if self.max_words is None or (count := word_bounds(words_in(text))[0]) <= self.max_words:
            return None
        return f"{count} words", f"at most {self.max_words}"

    def _counts(self, part: str) -> bool:
        return word_bounds(words_in(part))[0] >= self.line_words


def _most_common(parts: Iterable[str]) -> tuple[str, int]:
    """Return the part that is there most often, and how often; the first of several."""
    return next(iter(Counter(parts).most_common(1)), ("", 0))


def _covered(places: list[int], length: int) -> int:
    """Count the words that stand within what begins at one of some places, in ascending order.

    >>> _covered([0, 1, 10], 4)
    9
    """
    steps = (min(after - place, length) for place, after in pairwise(places))
    return length + sum(steps)
