"""Prefix tree of the tokens of choices: which next-token probabilities scoring needs, and the scores from them.

    choices     [7, 8], [7, 9], [5]      end tokens {2}
    prefix      ()       (7,)    (5,)    (7, 8)   (7, 9)      first tokens of choices, after the prompt
    wanted      7, 5     8, 9    2       2        2           next tokens whose probabilities are needed

An engine evaluates each prefix once, however many choices share it. If every choice is one token, it evaluates the
prompt, for the choices' probabilities, and the prompt with each choice, for the probability that the turn then ends.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hfsynth.chat import TokenizedChoices

Beginning = tuple[int, ...]
"""Prefix of a choice: its first tokens; () for none."""


@dataclass(frozen=True, eq=False)
class ChoiceTree:
    """The tokens of a request's choices.

    >>> tree = ChoiceTree(TokenizedChoices([1], [[7, 8], [5]], frozenset({2})))
    >>> tree.wanted
    {(): [7, 5], (7,): [8], (7, 8): [2], (5,): [2]}
    >>> tree.scores({(): {7: -0.5, 5: -1.0}, (7,): {8: -0.25}, (7, 8): {2: -0.25}, (5,): {2: -2.0}})
    (-1.0, -3.0)
    """

    choices: TokenizedChoices

    @cached_property
    def wanted(self) -> dict[Beginning, list[int]]:
        """Prefix → the next tokens whose probabilities are needed."""
        wanted: dict[Beginning, dict[int, None]] = {}
        for choice in map(tuple, self.choices.choices):
            for place, token in enumerate(choice):
                wanted.setdefault(choice[:place], {})[token] = None
            if self.choices.end_tokens:
                wanted.setdefault(choice, {}).update(dict.fromkeys(sorted(self.choices.end_tokens)))
        return {beginning: list(tokens) for beginning, tokens in wanted.items()}

    def scores(self, found: Mapping[Beginning, Mapping[int, float]]) -> tuple[float, ...]:
        """Return each choice's score: the log-probability of its tokens and its end.

        Args:
            found: Prefix → wanted token → its log-probability.
        """
        return tuple(self._score(tuple(choice), found) for choice in self.choices.choices)

    def _score(self, choice: Beginning, found: Mapping[Beginning, Mapping[int, float]]) -> float:
        own = math.fsum(found[choice[:place]][token] for place, token in enumerate(choice))
        ends = [found[choice][token] for token in sorted(self.choices.end_tokens)]
        return own + (log_sum(ends) if ends else 0.0)


def log_sum(values: Sequence[float]) -> float:
    """Return the logarithm of a sum of probabilities from their logarithms (log-sum-exp).

    >>> round(log_sum([math.log(0.25), math.log(0.5)]), 6) == round(math.log(0.75), 6)
    True
    """
    largest = max(values)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))
