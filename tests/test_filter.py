import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import ColumnError, TextGeneration
from tests.helpers import OnlyOnce, ScriptedLLM

GIVEN = Dataset.from_dict({"instruction": ["a", "b", "a", None, None, "b"], "id": [0, 1, 2, 3, 4, 5]})


def test_a_filter_keeps_the_rows_that_no_rule_drops():
    assert OnlyOnce()(GIVEN)["id"][:] == [0, 1, 3, 4]


def test_a_dropped_row_is_told_with_its_rule_its_value_and_what_it_met():
    _, dropped = OnlyOnce(name="Once").split(GIVEN, first=10)
    assert dropped[0] == {
        "step": "Once", "row": 12, "column": "instruction", "reason": "repeated", "raw": "a", "rule": "repeated",
        "value": "1", "matched": "a",
    }  # fmt: skip
    assert dropped["row"][:] == [12, 15]


def test_what_earlier_rows_kept_counts():
    stay, dropped = OnlyOnce().split(GIVEN, kept=[Dataset.from_dict({"instruction": ["b"]})])
    assert (stay["id"][:], dropped["row"][:]) == ([0, 3, 4], [1, 2, 5])


def test_a_row_that_failed_stays_and_decides_nothing():
    answered = Dataset.from_dict({"instruction": ["a", " ", "a", "b"], "id": [0, 1, 2, 3]}).map(
        TextGeneration(ScriptedLLM(("!odd", "fine", "fine", "fine"))), batched=True, with_indices=True
    )
    assert OnlyOnce()(answered)["id"][:] == [0, 1, 2, 3]  # the first "a" failed: the second is the only one


def test_values_may_be_of_any_type():
    dataset = Dataset.from_dict({"score": [0.5, 0.25, 0.5]})
    assert OnlyOnce(column="score").split(dataset)[1]["raw"][:] == ["0.5"]


def test_a_missing_column_is_an_error_that_names_those_there_are():
    with pytest.raises(ColumnError, match=r"OnlyOnce needs column 'prompt'; the dataset has \['id', 'instruction'\]"):
        OnlyOnce(column="prompt")(GIVEN)


def test_a_filter_hashes_as_its_configuration():
    assert Hasher.hash(OnlyOnce()) == Hasher.hash(OnlyOnce(name="OnlyOnce")) != Hasher.hash(OnlyOnce(column="id"))
