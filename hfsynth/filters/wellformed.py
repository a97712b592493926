"""WellFormed: drop texts that are unfinished, repeat themselves, or contain parts of a chat template.

Magpie (arXiv 2406.08464) drops instructions that end in a colon or repeat themselves.
"""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from hfsynth.filter import Found, RuleFilter
from hfsynth.similarity.words import (
    LINE_TIMES,
    LINE_WORDS,
    NGRAM_SHARE,
    NGRAM_TIMES,
    NGRAM_WORDS,
    find_repeated_line,
    find_repeated_words,
    word_bounds,
    words_in,
)

MARKERS = (
    r"<[|｜][^\s<>|｜][^<>|｜]{1,30}[|｜]>",  # <|im_start|>, <|eot_id|>, <｜User｜>
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\]",
    r"<</?SYS>>",
    r"</s>|<bos>|<eos>|<pad>|<unk>",
    r"</?(?:start|end)_of_turn>",
    r"(?m)^#{2,}[ ]*(?:Instruction|Input|Response|System|User|Human|Assistant)[ ]*:",
    r"(?m)^[ ]*(?:ASSISTANT|Assistant)[ ]*:",
    r"(?m)^[ ]*(?:system|user|assistant)[ ]*$",  # a header without its special tokens
)


@dataclass(frozen=True, kw_only=True)
class WellFormed(RuleFilter):
    """Keep complete texts without repetition and without parts of a chat template.

    The first of these rules that matches drops a text; the failure holds what it found:

    - `empty`: only white space.
    - `colon`: the text ends in a colon.
    - `marker`: the text contains one of `markers`, a special token or a role's name.
    - `repeated_line`: a line or sentence of at least `line_words` words occurs `line_times` times or more, without
      regard to case and punctuation. Shorter ones recur in code and verse.
    - `repeated_words`: `ngram` words in a row occur `ngram_times` times or more, and these occurrences cover more than
      `ngram_share` of the text's words.
    - `too_short`, `too_long`: fewer or more words than the limits.

    All rules work in any language. In scripts without spaces, two characters (Chinese, Japanese) or three (Thai, Lao,
    Khmer, Burmese) count as a word. `too_short` counts every character, and every two Korean syllables, as a word.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a fruit.", "Translate this:", "Hi<|im_end|>"]})
    >>> WellFormed().split(dataset)[1]["rule"][:]
    ['colon', 'marker']

    Raises:
        ValueError: If a rule is unknown, a marker is no regular expression, or a number is out of range.
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
        default=MARKERS, metadata={"help": "Regular expressions of parts of chat templates."}
    )
    line_times: int = field(
        default=LINE_TIMES, metadata={"help": "Occurrences from which a line or sentence is a repetition."}
    )
    line_words: int = field(default=LINE_WORDS, metadata={"help": "Fewest words of a line or sentence that counts."})
    ngram: int = field(default=NGRAM_WORDS, metadata={"help": "Words of an n-gram."})
    ngram_times: int = field(
        default=NGRAM_TIMES, metadata={"help": "Occurrences from which an n-gram is a repetition."}
    )
    ngram_share: float = field(
        default=NGRAM_SHARE, metadata={"help": "Highest share of a text's words that one repeated n-gram may cover."}
    )
    min_words: int | None = field(default=None, metadata={"help": "Fewest words; by default no limit."})
    max_words: int | None = field(default=None, metadata={"help": "Most words; by default no limit."})

    def __post_init__(self) -> None:
        """Check the rules, the markers and the numbers."""
        super().__post_init__()
        for marker in self.markers:
            try:
                re.compile(marker)
            except re.error as error:
                raise ValueError(f"WellFormed.markers must be regular expressions, got {marker!r}: {error}.") from None
        for name, least in (("line_times", 2), ("line_words", 1), ("ngram", 1), ("ngram_times", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"WellFormed.{name} must be at least {least}, got {getattr(self, name)}.")
        if not 0 <= self.ngram_share < 1:
            raise ValueError(f"WellFormed.ngram_share must be at least 0 and below 1, got {self.ngram_share}.")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"WellFormed.min_words must be at most max_words={self.max_words}, got {self.min_words}.")

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
        found = find_repeated_line(text, self.line_times, self.line_words)
        return (found[0], f"{found[1]} times") if found else None

    def _repeated_words(self, text: str) -> Found | None:
        found = find_repeated_words(text, self.ngram, self.ngram_times, self.ngram_share)
        return (found[0], f"{found[1]} times, in {found[2]:.0%} of the words") if found else None

    def _too_short(self, text: str) -> Found | None:
        if self.min_words is None or (count := word_bounds(words_in(text))[1]) >= self.min_words:
            return None
        return f"{count} words", f"at least {self.min_words}"

    def _too_long(self, text: str) -> Found | None:
        if self.max_words is None or (count := word_bounds(words_in(text))[0]) <= self.max_words:
            return None
        return f"{count} words", f"at most {self.max_words}"
