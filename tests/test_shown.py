from datasets import Dataset

from hfsynth import EchoLLM, EvolInstruct, Judge, Magpie, TextGeneration
from hfsynth.viewing.shown import Layout
from tests.helpers import ScriptedLLM


def shown(dataset):
    return list(Layout.of(dataset).rows(dataset))


def mapped(dataset, technique):
    return dataset.map(technique, batched=True, with_indices=True)


def test_instruction_input_and_response_are_a_conversation():
    dataset = Dataset.from_dict({"instruction": ["Sort."], "input": ["3, 1"], "response": ["1, 3"], "id": [7]})
    (row,) = shown(dataset)
    assert row["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]
    assert row["columns"] == {"id": "7"}


def test_a_column_of_messages_is_the_conversation():
    made = mapped(Dataset.from_dict({"id": [0]}), Magpie(EchoLLM(), n_turns=2))
    assert [role for role, _ in shown(made)[0]["turns"]] == ["user", "assistant"] * 2


def test_an_evolved_row_is_its_chain_of_versions_with_the_operation_and_the_rule():
    llm = ScriptedLLM(("Make green tea.",))
    made = mapped(Dataset.from_dict({"instruction": ["Make tea."]}), EvolInstruct(llm, num_evolutions=2))
    first, second, third = shown(made)[0]["chain"]
    assert first == ("", "Make tea.", "")
    assert second[1:] == ("Make green tea.", "")
    assert third[1:] == ("Make green tea.", "unchanged")
    assert shown(made)[0]["turns"] == [("user", "Make green tea.")]


def test_columns_with_few_short_values_are_tags():
    dataset = Dataset.from_dict({"instruction": [f"say {n}" for n in range(40)], "kind": ["a", "b"] * 20})
    made = mapped(dataset, Judge.quality(EchoLLM()))
    layout = Layout.of(made)
    assert layout.tags == ("kind", "quality")
    assert layout.values(made)["kind"] == ["a", "b"]
    assert shown(made)[1]["tags"]["kind"] == "b"


def test_what_is_always_another_or_always_the_same_is_no_tag():
    dataset = Dataset.from_dict(
        {"name": [f"n{n}" for n in range(9)], "same": ["x"] * 9, "long": ["y" * 99, "z"] * 4 + [""]}
    )
    assert Layout.of(dataset).tags == ()


def test_steps_are_told_with_how_they_ended():
    made = mapped(Dataset.from_dict({"instruction": ["a"]}), TextGeneration(EchoLLM()))
    assert shown(made)[0]["steps"] == [("TextGeneration", "stop", "")]
