"""InstructionRules: what Self-Instruct (arXiv 2212.10560) drops of the instructions that a model makes up."""

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
    """Keep the instructions that are of a fair length, and that a model of text can carry out.

    Drops by the first of these rules, with what was found:

    - `too_short`, `too_long`: it has fewer or more words than the limits, counted by the spaces. Chinese, Japanese,
      Thai, Lao, Khmer and Burmese have none: each sign counts as a word where a text may be too short, and where it
      may be too long, two signs do, or three of the last four. Korean may be too short by every two syllables;
    - `unsuitable`: it has one of `words` as a whole word, in upper or lower case. The default ones are English. A word
      without spaces around it is found anywhere, and a Korean one with any ending;
    - `beginning`: it begins with one of `beginnings`; the default one is English;
    - `punctuation`: it begins with a punctuation mark of ASCII;
    - `not_ascii`: it begins with a character that isn't ASCII. It is the paper's, for English, and drops most of what
      is in another language, so it applies only where it is named: `rules=InstructionRules.all_rules` are the paper's.

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"instruction": ["Name a red fruit.", "Draw a red fruit.", "Hello there"]})
    >>> InstructionRules().split(dataset)[1]["rule"][:]
    ['unsuitable', 'too_short']

    Raises:
        ValueError: If a rule isn't known, or no number of words lies within the limits.
    """

    version: ClassVar[int] = 2
    default_rules: ClassVar[tuple[str, ...]] = ("too_short", "too_long", "unsuitable", "beginning", "punctuation")
    all_rules: ClassVar[tuple[str, ...]] = (*default_rules, "not_ascii")

    rules: tuple[str, ...] = field(
        default=(),
        metadata={"help": "The rules that apply. Default: all but not_ascii, which is in the paper, for English."},
    )
    min_words: int = field(default=4, metadata={"help": "Fewest words that stay."})
    max_words: int = field(default=150, metadata={"help": "Most words that stay."})
    words: tuple[str, ...] = field(
        default=UNSUITABLE,
        metadata={"help": "Words, or several with a space, of what a model of text can't do. Default: English ones."},
    )
    beginnings: tuple[str, ...] = field(
        default=("Write a program",),
        metadata={"help": "What an instruction may not begin with. Default: as in the paper, for English."},
    )

    def __post_init__(self) -> None:
        """Check the rules, the words and the limits."""
        super().__post_init__()
        if not 0 <= self.min_words <= self.max_words:
            raise ValueError(
                f"InstructionRules.min_words is {self.min_words} and max_words {self.max_words}; "
                "no number of words lies within them."
            )

    def _too_short(self, text: str) -> Found | None:
        _, most = spaced_word_bounds(text)
        return (f"{most} words", f"at least {self.min_words}") if most < self.min_words else None

    def _too_long(self, text: str) -> Found | None:
        fewest, _ = spaced_word_bounds(text)
        return (f"{fewest} words", f"at most {self.max_words}") if fewest > self.max_words else None

    def _unsuitable(self, text: str) -> Found | None:
        spread = " ".join(text.split())  # "go to" may be parted by a line break
        found = (find_word(word, spread) for word in self.words)
        return next(((word, "") for word in found if word), None)

    def _beginning(self, text: str) -> Found | None:
        return next(((start, "") for start in self.beginnings if text.lstrip().startswith(start)), None)

    def _punctuation(self, text: str) -> Found | None:
        first = text.lstrip()[:1]
        return (first, "") if first and first in punctuation else None

    def _not_ascii(self, text: str) -> Found | None:
        first = text.lstrip()[:1]
        return None if first.isascii() else (first, "")
