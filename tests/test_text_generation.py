import random

import pytest
from datasets import Dataset, List, Value

from hfsynth import ColumnError, EchoLLM, RowError, SamplingParams, TextGeneration
from tests.helpers import ScriptedLLM, drive, say

LLM = EchoLLM()
RNG = random.Random(0)


def contents(request):
    return [(message["role"], message["content"]) for message in request.messages]


def test_an_instruction_is_answered():
    (request,), rows = drive(TextGeneration(LLM).flow({"instruction": "Hi?"}, RNG), say("Hello."))
    assert contents(request) == [("user", "Hi?")]
    assert rows == [{"generation": "Hello."}]


def test_a_template_makes_the_prompt_from_any_columns():
    technique = TextGeneration(LLM, template="{{ n }} words on {{ topic }}")
    assert set(technique.input_features(["n", "topic", "instruction"])) == {"n", "topic"}
    (request,), _ = drive(technique.flow({"n": 3, "topic": "tea"}, RNG), say("x"))
    assert contents(request) == [("user", "3 words on tea")]


def test_a_rows_own_system_prompt_goes_before_the_field():
    technique = TextGeneration(LLM, system_prompt="field")
    own, none = ({"instruction": "?", "system_prompt": text} for text in ("own", None))
    assert contents(drive(technique.flow(own, RNG), say("x"))[0][0])[0] == ("system", "own")
    assert contents(drive(technique.flow(none, RNG), say("x"))[0][0])[0] == ("system", "field")


def test_messages_are_a_conversation_to_answer_where_there_is_no_instruction():
    technique = TextGeneration(LLM, system_prompt="S")
    assert set(technique.input_features(["messages"])) == {"messages"}
    assert set(technique.input_features(["messages", "instruction"])) == {"instruction"}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    (request,), _ = drive(technique.flow({"messages": messages}, RNG), say("x"))
    assert contents(request) == [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "not a list of role and content: None"),
        ([], r"not a list of role and content: \[\]"),
        ([{"role": "user", "content": None}], "entry without role or content"),
        ([{"role": "assistant", "content": "a"}], "nothing to answer"),
    ],
)
def test_a_conversation_that_can_not_be_answered_fails_its_row(messages, reason):
    with pytest.raises(RowError, match=reason):
        next(TextGeneration(LLM).flow({"messages": messages}, RNG))


def test_several_generations_are_rows_or_one_list():
    row = {"instruction": "?"}
    _, rows = drive(TextGeneration(LLM, num_generations=2).flow(row, RNG), say("a"), say("b"))
    assert rows == [{"generation": "a"}, {"generation": "b"}]
    grouped = TextGeneration(LLM, num_generations=2, group_generations=True)
    assert grouped.output_features["generation"] == List(Value("string"))
    assert drive(grouped.flow(row, RNG), say("a"), say("b"))[1] == [{"generation": ["a", "b"]}]


def test_each_generation_of_a_row_has_a_seed_of_its_own(tmp_path):
    log = tmp_path / "log"
    technique = TextGeneration(ScriptedLLM(log=str(log)), num_generations=3)
    Dataset.from_dict({"instruction": ["?", "?"]}).map(technique, batched=True, with_indices=True)
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 6


def test_thinking_is_kept_where_asked_and_never_in_the_generation():
    _, rows = drive(TextGeneration(LLM, keep_thinking=True).flow({"instruction": "?"}, RNG), say("a", thinking="hm"))
    assert rows == [{"generation": "a", "thinking": "hm"}]
    _, rows = drive(TextGeneration(LLM).flow({"instruction": "?"}, RNG), say("a", thinking="hm"))
    assert rows == [{"generation": "a"}]


def test_an_answer_that_is_all_thinking_fails_its_row():
    flow = TextGeneration(LLM).flow({"instruction": "?"}, RNG)
    next(flow)
    with pytest.raises(RowError, match=r"the answer is empty after thinking \(finish_reason: length\)"):
        flow.send(say("", "length", thinking="hm"))


def test_one_empty_answer_of_several_is_none():
    flow = TextGeneration(LLM, num_generations=2).flow({"instruction": "?"}, RNG)
    assert drive(flow, say(""), say("b"))[1] == [{"generation": None}, {"generation": "b"}]


@pytest.mark.parametrize("text", ["x" * 20_000, "👩‍👩‍👧 emoji", "שלום עולם", "a\x00b\nc\td", "{{ 7 * 7 }}"])
def test_any_text_comes_through_unchanged(text):
    dataset = Dataset.from_dict({"instruction": [text]})
    made = dataset.map(
        TextGeneration(LLM, sampling=SamplingParams(max_new_tokens=99)), batched=True, with_indices=True
    )
    assert made[0]["generation"] == text


def test_the_courses_mapping_of_generation_to_instruction_replaces_it():
    dataset = Dataset.from_dict({"instruction": ["a"]})
    technique = TextGeneration(ScriptedLLM(("b",)), output_mappings={"generation": "instruction"})
    assert dataset.map(technique, batched=True, with_indices=True)[0]["instruction"] == "b"


def test_a_template_may_read_a_conversation():
    technique = TextGeneration(LLM, template="Sum up: {{ messages[0].content }}")
    (request,), _ = drive(technique.flow({"messages": [{"role": "user", "content": "a"}]}, RNG), say("x"))
    assert contents(request) == [("user", "Sum up: a")]


def test_a_template_that_can_not_be_rendered_fails_its_row_alone():
    dataset = Dataset.from_dict({"a": [1, 1], "b": [1, 0]})
    made = dataset.map(TextGeneration(LLM, template="{{ a / b }}"), batched=True, with_indices=True)
    assert made["generation"][:] == ["1.0", None]
    assert "division by zero" in made[1]["generation_metadata"][0]["error"]


def test_a_list_that_begins_without_thinking_may_go_on_with_it():
    technique = TextGeneration(ScriptedLLM(), num_generations=2, group_generations=True, keep_thinking=True)
    made = Dataset.from_dict({"instruction": ["a", "b"]}).map(technique, batched=True, with_indices=True, batch_size=1)
    assert made.features["thinking"] == List(Value("string"))


def test_a_template_that_reads_no_column_is_an_error():
    with pytest.raises(ValueError, match=r"reads no column.*'Hi'"):
        TextGeneration(LLM, template="Hi")


def test_no_generations_are_an_error():
    with pytest.raises(ValueError, match="num_generations is 0"):
        TextGeneration(LLM, num_generations=0)


def test_a_dataset_without_anything_to_answer_is_an_error():
    with pytest.raises(ColumnError, match="needs column 'instruction'"):
        TextGeneration(LLM).wire(["text"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"a": None}, "^a is None$"),
        ({"a": " \n"}, "^a is empty$"),
        ({"a": None, "b": ""}, "^a and b are empty$"),
        ({"a": None, "b": None}, "^a and b are None$"),
        ({"a": []}, "^a is empty$"),
        ({"a": [None, {"b": " "}]}, "^a is empty$"),
    ],
)
def test_template_whose_columns_are_all_blank_fails_the_row(row, reason):
    template = "Summarise:" + "".join(f"{{{{ {name} }}}}" for name in row)
    with pytest.raises(RowError, match=reason):
        next(TextGeneration(LLM, template=template).flow(row, RNG))


@pytest.mark.parametrize("value", [0, False, 0.0, [0], {"x": 1}])
def test_template_whose_column_has_a_number_is_filled(value):
    (request,), _ = drive(TextGeneration(LLM, template="{{ a }}!").flow({"a": value}, RNG), say("x"))
    assert contents(request) == [("user", f"{value}!")]


def test_template_with_one_of_two_columns_filled_writes_the_other_as_nothing():
    technique = TextGeneration(LLM, template="{{ a }}{{ '\nInput: ' ~ b if b else '' }}")
    (request,), _ = drive(technique.flow({"a": "Say hi.", "b": None}, RNG), say("x"))
    assert contents(request) == [("user", "Say hi.")]
