"""Choices as a tree of tokens: which probabilities an engine has to find to score them, and the scores of these.

    choices     [7, 8], [7, 9], [5]      end tokens {2}
    after       ()       (7,)    (5,)    (7, 8)   (7, 9)      beginnings of choices, after the prompt
    wanted      7, 5     8, 9    2       2        2           tokens whose probabilities are needed there

An engine that gives the probabilities of chosen tokens after a prompt reads each beginning once, whatever number of
choices share it. For choices of one token each, that is the prompt and a token more for the end of each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hfsynth.chat import TokenizedChoices

Beginning = tuple[int, ...]
"""The first tokens of a choice; () before the first one."""


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
        """The tokens whose probabilities are needed after each beginning."""
        wanted: dict[Beginning, dict[int, None]] = {}
        for choice in map(tuple, self.choices.choices):
            for place, token in enumerate(choice):
                wanted.setdefault(choice[:place], {})[token] = None
            if self.choices.end_tokens:
                wanted.setdefault(choice, {}).update(dict.fromkeys(sorted(self.choices.end_tokens)))
        return {beginning: list(tokens) for beginning, tokens in wanted.items()}

    def scores(self, found: Mapping[Beginning, Mapping[int, float]]) -> tuple[float, ...]:
        """Return each choice's score: the logarithm of its probability, its end included.

        Args:
            found: The logarithms of the probabilities of the wanted tokens after each beginning.
        """
        return tuple(self._score(tuple(choice), found) for choice in self.choices.choices)

    def _score(self, choice: Beginning, found: Mapping[Beginning, Mapping[int, float]]) -> float:
        own = math.fsum(found[choice[:place]][token] for place, token in enumerate(choice))
        ends = [found[choice][token] for token in sorted(self.choices.end_tokens)]
        return own + (log_sum(ends) if ends else 0.0)


def log_sum(values: Sequence[float]) -> float:
    """Return the logarithm of a sum of probabilities, from their logarithms.

    >>> round(log_sum([math.log(0.25), math.log(0.5)]), 6) == round(math.log(0.75), 6)
    True
    """
    largest = max(values)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))
