import pickle

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import ColumnError, Where

NAN = float("nan")


def told(where, values):
    """The rule, value and limit of each row that is dropped; None of one that stays."""
    return [drop and (drop.rule, drop.value, drop.matched) for drop in where.decide(values, [])]


def test_numbers_within_the_limits_stay_and_the_limits_are_within():
    where = Where("reward", at_least=-10, at_most=1)
    assert told(where, [-10, 1.0, -10.5, 1.5]) == [None, None, ("below", "-10.5", "-10"), ("above", "1.5", "1")]


def test_one_limit_is_enough():
    assert told(Where("ifd", at_most=1), [-1e9, 2]) == [None, ("above", "2", "1")]
    assert told(Where("ifd", at_least=0), [1e9]) == [None]


def test_values_among_those_given_stay():
    where = Where("quality", among=["good", "excellent"])
    assert told(where, ["good", "poor"]) == [None, ("not_among", "poor", "good, excellent")]


@pytest.mark.parametrize("where", [Where("x", at_least=0), Where("x", among=(0.0,))])
def test_what_is_not_a_number_is_dropped_by_a_rule_of_its_own(where):
    assert told(where, [NAN, 0.0]) == [("not_a_number", "nan", ""), None]


def test_rows_of_a_dataset_are_kept_whole():
    dataset = Dataset.from_dict({"reward": [1.0, None, NAN, -20.0], "id": [0, 1, 2, 3]})
    stay, dropped = Where("reward", at_least=-10).split(dataset)
    assert (stay["id"][:], dropped["rule"][:]) == ([0], ["missing", "not_a_number", "below"])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({}, "needs limits or values, one of the two: at_least=None, at_most=None, among="),
        ({"at_least": 1, "among": (1,)}, "needs limits or values, one of the two: at_least=1"),
        ({"at_least": 2, "at_most": 1}, "no number lies within: at_least=2, at_most=1"),
        ({"at_most": NAN}, r"Where\.at_most is nan; it must be a number"),
        ({"among": ({"a": 1},)}, r"Where.among is .*; it must be texts or numbers"),
    ],
)
def test_a_condition_that_says_nothing_or_too_much_is_an_error(condition, message):
    with pytest.raises(ValueError, match=message):
        Where("x", **condition)


def test_a_text_where_a_number_is_compared_is_an_error_that_shows_it():
    with pytest.raises(ColumnError, match=r"Where compares numbers; column 'quality' has 'good', of type str.*among"):
        told(Where("quality", at_least=1), ["good"])


def test_a_threshold_is_its_configuration():
    where = Where("quality", among=["good"], name="Good")
    assert pickle.loads(pickle.dumps(where)) == where
    assert Hasher.hash(where) != Hasher.hash(Where("quality", among=["fair"], name="Good"))
