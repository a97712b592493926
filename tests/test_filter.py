from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import ColumnError, TextGeneration
from hfsynth.filter import Drop, TextFilter
from tests.helpers import OnlyOnce, RepeatingLLM

ROWS = Dataset.from_dict({"instruction": ["a", "b", "a", None, None, "b"], "id": [0, 1, 2, 3, 4, 5]})


def test_filter_keeps_the_rows_that_no_rule_drops():
    assert OnlyOnce()(ROWS)["id"][:] == [0, 1, 3, 4]


def test_split_names_rule_value_and_match_of_a_dropped_row():
    _, dropped = OnlyOnce(name="Once").split(ROWS, first=10)
    assert dropped[0] == {
        "step": "Once", "row": 12, "column": "instruction", "reason": "repeated", "raw": "a", "rule": "repeated",
        "value": "1", "matched": "a",
    }  # fmt: skip
    assert dropped["row"][:] == [12, 15]


def test_split_compares_with_rows_kept_earlier():
    stay, dropped = OnlyOnce().split(ROWS, kept=[Dataset.from_dict({"instruction": ["b"]})])
    assert (stay["id"][:], dropped["row"][:]) == ([0, 3, 4], [1, 2, 5])


def test_split_passes_failed_rows_through():
    answered = Dataset.from_dict({"instruction": ["a", " ", "a", "b"], "id": [0, 1, 2, 3]}).map(
        TextGeneration(RepeatingLLM(("!odd", "fine", "fine", "fine"))), batched=True, with_indices=True
    )
    assert OnlyOnce()(answered)["id"][:] == [0, 1, 2, 3]  # the first "a" failed: the second is the only one


def test_split_takes_values_of_any_type():
    dataset = Dataset.from_dict({"score": [0.5, 0.25, 0.5]})
    assert OnlyOnce(column="score").split(dataset)[1]["raw"][:] == ["0.5"]


def test_split_of_a_missing_column_raises_with_the_columns():
    with pytest.raises(ColumnError, match=r"OnlyOnce .*'prompt'.*\['id', 'instruction'\]"):
        OnlyOnce(column="prompt")(ROWS)


def test_filter_hashes_as_its_configuration():
    assert Hasher.hash(OnlyOnce()) == Hasher.hash(OnlyOnce(name="OnlyOnce")) != Hasher.hash(OnlyOnce(column="id"))


TURNS = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]


@dataclass(frozen=True, kw_only=True)
class Nothing(TextFilter):
    """Drops everything, and tells its text."""

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:
        return (Drop("nothing", text) for text in values)


def test_text_filter_reads_the_texts_of_a_conversation():
    _, dropped = Nothing(column="conversation").split(Dataset.from_dict({"conversation": TURNS}))
    assert dropped["value"][:] == ["Hi\nHello"]


CALL = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}


def test_text_filter_reads_the_calls_of_a_turn():
    turn = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert Nothing(column="x").read([*TURNS[0], turn]) == 'Hi\nHello\nnow({"zone": "UTC"})'


@pytest.mark.parametrize("value", [1, ["a"], [{"text": "a"}]])
def test_text_filter_of_a_wrong_type_is_an_error(value):
    """Before a row is read: in `check_features`, as a run calls it, and in a call of the filter."""
    rows = Dataset.from_dict({"x": [value]})
    for call in (lambda: Nothing(column="x").check_features(rows.features), lambda: Nothing(column="x")(rows)):
        with pytest.raises(ColumnError, match=r"^Nothing .*'x'"):
            call()


def test_text_filter_drops_an_unreadable_conversation():
    """A row that can't be read is recorded; the decisions on other rows, and their order, stay as they are."""
    talks = [TURNS[0], [], TURNS[0], [{"role": "user", "content": None}]]
    stay, dropped = Keeping(column="x").split(Dataset.from_dict({"x": talks, "id": [0, 1, 2, 3]}), first=10)
    assert stay["id"][:] == [0, 2]
    assert (dropped["row"][:], dropped["rule"][:]) == ([11, 13], ["unreadable"] * 2)
    assert dropped["raw"][0] == "[]"
    assert "role and content" in dropped["value"][0]


@dataclass(frozen=True, kw_only=True)
class Keeping(TextFilter):
    """Keeps everything."""

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:
        return (None for _ in values)
