"""InstructionRules: the rules by which Self-Instruct (arXiv 2212.10560) drops generated instructions."""

from dataclasses import dataclass, field
from string import punctuation
from typing import ClassVar

from hfsynth.filter import Found, RuleFilter
from hfsynth.similarity.words import find_word, spaced_word_bounds

UNSUITABLE = (
    "image",
    "images",
    "graph",
    "graphs",
    "picture",
    "pictures",
    "file",
    "files",
    "map",
    "maps",
    "draw",
    "draws",
    "plot",
    "plots",
    "go to",
)


@dataclass(frozen=True, kw_only=True)
class InstructionRules(RuleFilter):
    """Keep instructions of a suitable length that a text model can follow.

    The first of these rules that matches drops an instruction; the failure holds what it found:

    - `too_short`, `too_long`: fewer or more words, separated by spaces, than the limits. In scripts without spaces,
      `too_long` counts two characters (Chinese, Japanese) or three (Thai, Lao, Khmer, Burmese) as a word, and
      `too_short` each character, and every two Korean syllables.
    - `unsuitable`: one of `words` occurs as a complete word, in upper or lower case. The default words are English. In
      scripts without spaces a word matches anywhere; a Korean word matches with any ending.
    - `beginning`: the instruction begins with one of `beginnings`; the default is English.
    - `punctuation`: the instruction begins with an ASCII punctuation mark.
    - `not_ascii`: the instruction begins with a character outside ASCII. This rule of the paper drops almost all
      instructions in other scripts than Latin, so it is off by default; `rules=InstructionRules.all_rules` turns on
      all rules of the paper.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a red fruit.", "Draw a red fruit.", "Hello there"]})
    >>> InstructionRules().split(dataset)[1]["rule"][:]
    ['unsuitable', 'too_short']

    Raises:
        ValueError: If a rule is unknown, or min_words is negative or above max_words.
    """

    version: ClassVar[int] = 2
    default_rules: ClassVar[tuple[str, ...]] = ("too_short", "too_long", "unsuitable", "beginning", "punctuation")
    all_rules: ClassVar[tuple[str, ...]] = (*default_rules, "not_ascii")

    rules: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Rules that apply; by default all but not_ascii, the paper's rule for English."},
    )
    min_words: int = field(default=4, metadata={"help": "Fewest words."})
    max_words: int = field(default=150, metadata={"help": "Most words."})
    words: tuple[str, ...] = field(
        default=UNSUITABLE,
        metadata={"help": "Words or phrases that name tasks beyond a text model; by default English ones."},
    )
    beginnings: tuple[str, ...] = field(
        default=("Write a program",),
        metadata={"help": "Forbidden beginnings of an instruction; by default the paper's, in English."},
    )

    def __post_init__(self) -> None:
        """Check the rules, the words and the limits."""
        super().__post_init__()
        if not 0 <= self.min_words <= self.max_words:
            raise ValueError(
                f"InstructionRules.min_words must be from 0 to max_words={self.max_words}, got {self.min_words}."
            )

    def _too_short(self, text: str) -> Found | None:
        _, upper = spaced_word_bounds(text)
        return (f"{upper} words", f"at least {self.min_words}") if upper < self.min_words else None

    def _too_long(self, text: str) -> Found | None:
        lower, _ = spaced_word_bounds(text)
        return (f"{lower} words", f"at most {self.max_words}") if lower > self.max_words else None

    def _unsuitable(self, text: str) -> Found | None:
        line = " ".join(text.split())  # a line break may divide a phrase such as "go to"
        found = (find_word(word, line) for word in self.words)
        return next(((word, "") for word in found if word), None)

    def _beginning(self, text: str) -> Found | None:
        return next(((start, "") for start in self.beginnings if text.lstrip().startswith(start)), None)

    def _punctuation(self, text: str) -> Found | None:
        first = text.lstrip()[:1]
        return (first, "") if first and first in punctuation else None

    def _not_ascii(self, text: str) -> Found | None:
        first = text.lstrip()[:1]
        return None if first.isascii() else (first, "")
