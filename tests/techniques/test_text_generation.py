import random

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hfsynth import ColumnError, EchoLLM, Pipeline, RowError, SamplingParams, TextGeneration
from tests.helpers import RepeatingLLM, drive, say

LLM = EchoLLM()
RNG = random.Random(0)


def contents(request):
    return [(message["role"], message["content"]) for message in request.messages]


def test_text_generation_answers_an_instruction():
    (request,), rows = drive(TextGeneration(LLM).flow({"instruction": "Hi?"}, RNG), say("Hello."))
    assert contents(request) == [("user", "Hi?")]
    assert rows == [{"generation": "Hello."}]


def test_text_generation_template_reads_any_columns():
    technique = TextGeneration(LLM, template="{{ n }} words on {{ topic }}")
    assert set(technique.input_features(["n", "topic", "instruction"])) == {"n", "topic"}
    (request,), _ = drive(technique.flow({"n": 3, "topic": "tea"}, RNG), say("x"))
    assert contents(request) == [("user", "3 words on tea")]


def test_text_generation_system_prompt_column_goes_first():
    technique = TextGeneration(LLM, system_prompt="field")
    own, none = ({"instruction": "?", "system_prompt": text} for text in ("own", None))
    assert contents(drive(technique.flow(own, RNG), say("x"))[0][0])[0] == ("system", "own")
    assert contents(drive(technique.flow(none, RNG), say("x"))[0][0])[0] == ("system", "field")


def test_text_generation_answers_messages():
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
        ([{"role": "assistant", "content": "a"}], "assistant's turn"),
    ],
)
def test_text_generation_invalid_conversation_fails(messages, reason):
    with pytest.raises(RowError, match=reason):
        next(TextGeneration(LLM).flow({"messages": messages}, RNG))


def test_text_generation_several_are_rows_or_a_list():
    row = {"instruction": "?"}
    _, rows = drive(TextGeneration(LLM, num_generations=2).flow(row, RNG), say("a"), say("b"))
    assert rows == [{"generation": "a"}, {"generation": "b"}]
    grouped = TextGeneration(LLM, num_generations=2, group_generations=True)
    assert grouped.output_features["generation"] == List(Value("string"))
    assert drive(grouped.flow(row, RNG), say("a"), say("b"))[1] == [{"generation": ["a", "b"]}]


def test_text_generation_each_generation_has_its_seed(tmp_path):
    log = tmp_path / "log"
    technique = TextGeneration(RepeatingLLM(log=str(log)), num_generations=3)
    Dataset.from_dict({"instruction": ["?", "?"]}).map(technique, batched=True, with_indices=True)
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 6


def test_text_generation_keep_thinking_fills_its_column():
    _, rows = drive(TextGeneration(LLM, keep_thinking=True).flow({"instruction": "?"}, RNG), say("a", thinking="hm"))
    assert rows == [{"generation": "a", "thinking": "hm"}]
    _, rows = drive(TextGeneration(LLM).flow({"instruction": "?"}, RNG), say("a", thinking="hm"))
    assert rows == [{"generation": "a"}]


def test_text_generation_only_thinking_fails_its_row():
    flow = TextGeneration(LLM).flow({"instruction": "?"}, RNG)
    next(flow)
    with pytest.raises(RowError, match=r"empty.*thinking.*length"):
        flow.send(say("", "length", thinking="hm"))


def test_text_generation_one_empty_of_several_is_none():
    flow = TextGeneration(LLM, num_generations=2).flow({"instruction": "?"}, RNG)
    assert drive(flow, say(""), say("b"))[1] == [{"generation": None}, {"generation": "b"}]


@pytest.mark.parametrize("text", ["x" * 20_000, "👩‍👩‍👧 emoji", "שלום עולם", "a\x00b\nc\td", "{{ 7 * 7 }}"])
def test_text_generation_any_text_is_unchanged(text):
    dataset = Dataset.from_dict({"instruction": [text]})
    produced = dataset.map(
        TextGeneration(LLM, sampling=SamplingParams(max_new_tokens=99)), batched=True, with_indices=True
    )
    assert produced[0]["generation"] == text


def test_text_generation_output_mapping_replaces_column():
    dataset = Dataset.from_dict({"instruction": ["a"]})
    technique = TextGeneration(RepeatingLLM(("b",)), output_mappings={"generation": "instruction"})
    assert dataset.map(technique, batched=True, with_indices=True)[0]["instruction"] == "b"


def test_text_generation_template_reads_a_conversation():
    technique = TextGeneration(LLM, template="Sum up: {{ messages[0].content }}")
    (request,), _ = drive(technique.flow({"messages": [{"role": "user", "content": "a"}]}, RNG), say("x"))
    assert contents(request) == [("user", "Sum up: a")]


def test_text_generation_template_error_fails_one_row():
    dataset = Dataset.from_dict({"a": [1, 1], "b": [1, 0]})
    produced = dataset.map(TextGeneration(LLM, template="{{ a / b }}"), batched=True, with_indices=True)
    assert produced["generation"][:] == ["1.0", None]
    assert "division by zero" in produced[1]["generation_metadata"][0]["error"]


def test_text_generation_thinking_may_begin_later():
    technique = TextGeneration(RepeatingLLM(), num_generations=2, group_generations=True, keep_thinking=True)
    produced = Dataset.from_dict({"instruction": ["a", "b"]}).map(
        technique, batched=True, with_indices=True, batch_size=1
    )
    assert produced.features["thinking"] == List(Value("string"))


def test_text_generation_template_without_column_is_an_error():
    with pytest.raises(ValueError, match=r"template .*'Hi'"):
        TextGeneration(LLM, template="Hi")


def test_text_generation_zero_generations_is_an_error():
    with pytest.raises(ValueError, match=r"num_generations .*0"):
        TextGeneration(LLM, num_generations=0)


def test_text_generation_without_instruction_is_an_error():
    with pytest.raises(ColumnError, match="needs column 'instruction'"):
        TextGeneration(LLM).wire(["text"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"a": None}, "^a is None$"),
        ({"a": " \n"}, "^a is empty$"),
        ({"a": None, "b": ""}, "^a is None$"),
        ({"a": "Tea", "b": " "}, "^b is empty$"),
        ({"a": []}, "^a is empty$"),
        ({"a": [None, {"b": " "}]}, "^a is empty$"),
    ],
)
def test_text_generation_template_with_a_blank_column_fails(row, reason):
    template = "Summarise:" + "".join(f"{{{{ {name} }}}}" for name in row)
    with pytest.raises(RowError, match=reason):
        next(TextGeneration(LLM, template=template).flow(row, RNG))


@pytest.mark.parametrize("value", [0, False, 0.0, [0], {"x": 1}])
def test_text_generation_template_fills_numbers(value):
    (request,), _ = drive(TextGeneration(LLM, template="{{ a }}!").flow({"a": value}, RNG), say("x"))
    assert contents(request) == [("user", f"{value}!")]


def test_text_generation_template_writes_none_as_nothing():
    technique = TextGeneration(LLM, template="{{ a }}{{ '\nInput: ' ~ b if b else '' }}")
    (request,), _ = drive(technique.flow({"a": "Say hi.", "b": None}, RNG), say("x"))
    assert contents(request) == [("user", "Say hi.")]


def test_text_generation_reads_tools_and_calls():
    call = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
    talk = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    talk.append({"role": "tool", "content": "9"})
    row = {"messages": talk, "tools": '[{"type": "function", "function": {"name": "now"}}]'}
    requests, rows = drive(TextGeneration(EchoLLM()).flow(row, None), say("At 9."))
    assert requests[0].tools == ({"type": "function", "function": {"name": "now"}},)
    assert requests[0].messages[1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert rows == [{"generation": "At 9."}]


@pytest.mark.parametrize(("use_input", "expected"), [(None, "Translate.\n\nTea"), (False, "Translate.")])
def test_text_generation_reads_the_input_of_alpaca(use_input, expected):
    rows = Dataset.from_dict({"instruction": ["Translate."], "input": ["Tea"], "output": ["Tee"]})
    answered = rows.map(TextGeneration(EchoLLM(), use_input=use_input), batched=True, with_indices=True)
    assert answered["generation"][:] == [expected]


def test_text_generation_regenerates_the_last_answer():
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    requests, _ = drive(TextGeneration(EchoLLM(), regenerate=True).flow({"messages": talk}, None), say("Hello"))
    assert requests[0].messages == (talk[0],)


def test_text_generation_of_a_system_prompt_alone_fails():
    with pytest.raises(RowError, match="only a system prompt"):
        next(TextGeneration(EchoLLM()).flow({"messages": [{"role": "system", "content": "Be brief."}]}, None))


def test_text_generation_of_no_conversations_is_an_error():
    features = Dataset.from_dict({"messages": [[1, 2]]}).features
    with pytest.raises(ColumnError, match=r"conversations in column 'messages'.*role and content"):
        TextGeneration(EchoLLM()).check_features(features)


def test_template_reads_the_names_of_class_labels():
    features = Features({"topic": ClassLabel(names=["tea", "coffee"])})
    rows = Dataset.from_dict({"topic": [1, 0]}, features=features)
    technique = TextGeneration(EchoLLM(), template="On {{ topic }}.")
    mapped = rows.map(technique, batched=True, with_indices=True)
    run = Pipeline((technique,)).run(rows, quiet=True)
    assert mapped["generation"][:] == run["generation"][:] == ["On coffee.", "On tea."]
