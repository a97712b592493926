import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

from hfsynth import ColumnError
from hfsynth.data import Columns, batches_of, drawn, texts_at

CHAT = List({"role": Value("string"), "content": Value("string")})


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


TALK = [
    talk(("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho")),
    talk(("user", "One"), ("assistant", "1"), ("user", "Two")),
    [],
    None,
    talk(("user", None)),
]


def rows(**columns):
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["instruction", "response"], ("instruction", "response")),
        (["instruction", "evolved_instruction", "generation"], ("evolved_instruction", "generation")),
        (["prompt", "completion", "text"], ("prompt", "completion")),
        (["instruction"], ("instruction", "")),
        (["prompt", "chosen", "rejected"], ("prompt", "chosen")),
    ],
)
def test_the_columns_are_found_by_their_names(names, found):
    columns = Columns.of(rows(**{name: ["a"] for name in names}), None, None)
    assert (columns.instruction, columns.response) == found


def test_a_column_of_conversations_has_both_instructions_and_responses():
    talks = Dataset.from_dict({"conversation": TALK}, features=Features({"conversation": CHAT}))
    assert Columns.of(talks, None, None) == Columns("conversation", "conversation")
    assert list(batches_of(talks, "conversation", "instruction")) == [["Hi", "One", "", "", ""]]
    assert list(batches_of(talks, "conversation", "response")) == [["Ho", "", "", "", ""]]


def test_of_a_preference_the_chosen_conversation_is_read():
    both = Dataset.from_dict({"rejected": TALK, "chosen": TALK}, features=Features({"rejected": CHAT, "chosen": CHAT}))
    assert Columns.of(both, None, None) == Columns("chosen", "chosen")


def test_of_several_versions_the_last_one_is_read():
    texts = {"evolved_instructions": [["a", "b"], [], None], "answers": [["x"], ["y", "z"], None]}
    features = Features({"instruction": Value("string")} | {name: List(Value("string")) for name in texts})
    some = Dataset.from_dict({"instruction": ["a"] * 3, **texts}, features=features)
    assert Columns.of(some, None, None) == Columns("evolved_instructions", "answers")
    assert list(batches_of(some, "evolved_instructions", "instruction")) == [["b", "", ""]]
    assert list(batches_of(some, "answers", "response")) == [["x", "z", ""]]


def test_a_column_of_nothing_but_none_is_one_of_responses_all_the_same():
    some = rows(instruction=["a", "b"], response=[None, None])
    assert Columns.of(some, None, None) == Columns("instruction", "response")
    assert list(batches_of(some, "response", "response")) == [["", ""]]


def test_a_text_that_is_none_or_blank_is_no_text():
    assert list(batches_of(rows(a=["x", None, " \n", "", " y "]), "a", "instruction")) == [["x", "", "", "", " y "]]


def test_texts_are_read_at_their_places_whatever_the_format():
    some = rows(a=["x", "y", "z"]).with_format("numpy")
    assert texts_at(some, "a", "instruction", drawn(3, 3)[:2]) == ["xyz"[place] for place in drawn(3, 2)]


def test_a_column_that_cannot_be_read_is_an_error_that_names_those_that_can():
    some = rows(number=[1], text=["a"])
    with pytest.raises(ColumnError, match=r"no column is named like instructions.*there are texts in \['text'\]"):
        Columns.of(some, None, None)
    with pytest.raises(ColumnError, match=r"no texts in column 'number'; there are in \['text'\]"):
        Columns.of(some, "text", "number")


def test_several_splits_are_an_error_that_says_to_choose():
    with pytest.raises(TypeError, match=r"not about DatasetDict; .*report\(dataset\['train'\]\)"):
        Columns.of(DatasetDict(train=rows(instruction=["a"])), None, None)


def test_a_smaller_draw_is_the_beginning_of_a_larger_one():
    assert drawn(100, 10).tolist() == drawn(100, 50)[:10].tolist()
    assert sorted(drawn(100, 200).tolist()) == list(range(100))
