import pickle

import pytest
from datasets import ClassLabel, Dataset, Features
from datasets.fingerprint import Hasher

from hfsynth import ColumnError, Where

NAN = float("nan")


def drops(where, values):
    """The rule, value and limit of each dropped row; None for a kept row."""
    return [drop and (drop.rule, drop.value, drop.matched) for drop in where.decide(values, [])]


def test_where_keeps_numbers_within_limits_inclusive():
    where = Where("reward", minimum=-10, maximum=1)
    assert drops(where, [-10, 1.0, -10.5, 1.5]) == [None, None, ("below", "-10.5", "-10"), ("above", "1.5", "1")]


def test_where_one_limit_suffices():
    assert drops(Where("ifd", maximum=1), [-1e9, 2]) == [None, ("above", "2", "1")]
    assert drops(Where("ifd", minimum=0), [1e9]) == [None]


def test_where_among_keeps_listed_values():
    where = Where("quality", among=["good", "excellent"])
    assert drops(where, ["good", "poor"]) == [None, ("not_among", "poor", "good, excellent")]


@pytest.mark.parametrize("where", [Where("x", minimum=0), Where("x", among=(0.0,))])
def test_where_nan_is_dropped_by_not_a_number(where):
    assert drops(where, [NAN, 0.0]) == [("not_a_number", "nan", ""), None]


def test_where_split_keeps_all_columns():
    dataset = Dataset.from_dict({"reward": [1.0, None, NAN, -20.0], "id": [0, 1, 2, 3]})
    stay, dropped = Where("reward", minimum=-10).split(dataset)
    assert (stay["id"][:], dropped["rule"][:]) == ([0], ["missing", "not_a_number", "below"])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({}, "minimum=None, maximum=None, among="),
        ({"minimum": 1, "among": (1,)}, "minimum=1.*among="),
        ({"minimum": 2, "maximum": 1}, r"maximum=1\b.*\b2\b"),
        ({"maximum": NAN}, r"Where\.maximum.*nan"),
        ({"among": ({"a": 1},)}, r"Where\.among.*'a': 1"),
    ],
)
def test_where_invalid_condition_is_an_error(condition, message):
    with pytest.raises(ValueError, match=message):
        Where("x", **condition)


def test_where_text_with_limits_is_an_error():
    with pytest.raises(ColumnError, match=r"'quality'.*'good'.*among"):
        drops(Where("quality", minimum=1), ["good"])


def test_where_equal_fields_have_one_hash():
    where = Where("quality", among=["good"], name="Good")
    assert pickle.loads(pickle.dumps(where)) == where
    assert Hasher.hash(where) != Hasher.hash(Where("quality", among=["fair"], name="Good"))


def test_where_compares_class_labels_by_name():
    rows = Dataset.from_dict({"topic": [1, 0]}, features=Features({"topic": ClassLabel(names=["tea", "coffee"])}))
    assert Where("topic", among=("tea",))(rows)["topic"][:] == [0]
    with pytest.raises(ColumnError, match="coffee"):
        Where("topic", minimum=0).check_features(rows.features)
