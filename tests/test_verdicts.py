import statistics
from collections import Counter

import pytest
from datasets import Dataset, Features, List, Value

from hfsynth.analysis.text_stats import labels_of, scores_of

NUMBERS = List(Value("float64"))
ROWS = {
    "quality": ["good", "poor", None, "good", "fair"],
    "quality_probabilities": [[0.5, 0.5]] * 5,
    "label": ["a", "b", "a", "a", None],
    "probabilities": [[1.0]] * 5,
    "note": ["x"] * 5,
    "task_category": ["maths", "code", "maths", None, "maths"],
    "ifd": [0.5, 1.5, None, float("nan"), 0.7],
    "reward": [None] * 5,
}
TYPES = {"quality_probabilities": NUMBERS, "probabilities": NUMBERS, "ifd": "float64", "reward": "float32"}


@pytest.fixture
def rows():
    kinds = {name: TYPES.get(name, "string") for name in ROWS}
    features = Features({name: Value(kind) if isinstance(kind, str) else kind for name, kind in kinds.items()})
    return Dataset.from_dict(ROWS, features=features)


def test_the_labels_that_judges_made_are_counted(rows):
    for found in labels_of(rows):
        assert found.counts == Counter(label for label in ROWS[found.column] if label)
        assert found.missing == 1
    assert [found.column for found in labels_of(rows)] == ["quality", "label", "task_category"]


def test_scores_are_spread_as_the_finite_numbers_are(rows):
    ifd, reward = scores_of(rows)
    assert (ifd.column, ifd.missing, ifd.spread.count) == ("ifd", 2, 3)
    assert ifd.spread.median == statistics.median([0.5, 1.5, 0.7])
    assert ifd.spread.mean == pytest.approx(0.9)
    assert (reward.column, reward.spread, reward.missing) == ("reward", None, 5)


def test_scores_may_be_whole_numbers():
    (reward,) = scores_of(Dataset.from_dict({"reward": [1, 2, 6, None]}))
    assert (reward.spread.mean, reward.spread.largest, reward.missing) == (3, 6, 1)


def test_without_such_columns_nothing_is_told(rows):
    plain = rows.select_columns(["note"])
    assert (labels_of(plain), scores_of(plain)) == ((), ())
