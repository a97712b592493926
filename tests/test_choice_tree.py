import math
import random

import pytest

from hfsynth.chat import TokenizedChoices
from hfsynth.choice_tree import ChoiceTree, log_sum


def probability(beginning, token):
    """Return the logarithm of a made-up probability that depends on all tokens before it."""
    return math.log(random.Random(str((*beginning, token))).uniform(0.01, 0.5))


def found(tree):
    return {
        beginning: {token: probability(beginning, token) for token in tokens}
        for beginning, tokens in tree.wanted.items()
    }


def test_wanted_shares_beginnings():
    tree = ChoiceTree(TokenizedChoices([1, 2], [[7, 8], [7, 9], [7], [5]], frozenset({3, 2})))
    assert tree.wanted == {(): [7, 5], (7,): [8, 9, 2, 3], (7, 8): [2, 3], (7, 9): [2, 3], (5,): [2, 3]}


def test_wanted_without_end_tokens_reads_no_ends():
    tree = ChoiceTree(TokenizedChoices([1], [[7, 8], [5]], frozenset()))
    assert tree.wanted == {(): [7, 5], (7,): [8]}
    assert tree.scores({(): {7: -1.0, 5: -2.0}, (7,): {8: -0.5}}) == (-1.5, -2.0)


def test_scores_are_sums_over_a_choice_and_its_ends():
    choices = [[7, 8, 7, 8], [7, 8], [9], [7, 8]]
    tree = ChoiceTree(TokenizedChoices([1], choices, frozenset({2, 3})))
    expected = []
    for choice in choices:
        own = sum(probability(choice[:place], token) for place, token in enumerate(choice))
        expected.append(own + math.log(sum(math.exp(probability(choice, end)) for end in (2, 3))))
    assert tree.scores(found(tree)) == pytest.approx(expected)


def test_log_sum_of_impossible_events_is_impossible():
    assert log_sum([-math.inf, -math.inf]) == -math.inf
    assert log_sum([-2000.0, -2000.0]) == pytest.approx(-2000 + math.log(2))
