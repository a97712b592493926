from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from datasets import Dataset

from hfsynth import ColumnError
from hfsynth.filter import Drop, TextFilter

TURNS = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]


@dataclass(frozen=True, kw_only=True)
class Nothing(TextFilter):
    """Drops everything, and tells its text."""

    def decide(self, values: Iterable[str], kept: Iterable[str]) -> Iterator[Drop | None]:
        return (Drop("nothing", text) for text in values)


def test_a_conversation_is_read_as_the_texts_of_its_messages():
    _, dropped = Nothing(column="conversation").split(Dataset.from_dict({"conversation": TURNS}))
    assert dropped["value"][:] == ["Hi\nHello"]


def test_a_turn_without_a_text_has_none():
    calls = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]
    assert [Nothing(column="x").read(value) for value in (calls, [])] == ["Hi", ""]


@pytest.mark.parametrize("value", [1, ["a"], [{"role": "user"}]])
def test_a_value_that_is_no_text_is_an_error_that_shows_it(value):
    with pytest.raises(ColumnError, match=r"Nothing reads texts or conversations; column 'x' has .*, of type"):
        Nothing(column="x").read(value)
