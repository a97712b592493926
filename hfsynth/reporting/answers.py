"""What is wrong with responses: rows without one, refusals, and texts that repeat themselves."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hfsynth.filters.wellformed import WellFormed
from hfsynth.likeness.words import normal_form

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
    drops = (_REPETITION.verdict(response) for response in responses)
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
