import json
import re

import pytest
from datasets import Dataset, Features, Image, Json, List, Value

from hfsynth import (
    ColumnError,
    Deduplicate,
    EchoLLM,
    InstructionFollowingDifficulty,
    InstructionRules,
    Judge,
    Novelty,
    Pipeline,
    Reward,
    RowError,
    ScriptedLLM,
    TextGeneration,
    TrainingFormat,
    TransformersLLM,
    WellFormed,
    Where,
    run,
)
from hfsynth.conversation import conversation_fault, read_conversation, read_tools

CALL = [{"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}]
USER = {"role": "user", "content": "Hi"}


def part(text):
    return {"type": "text", "text": text, "image": None}


@pytest.mark.parametrize("content", ["", None, "I look."])
@pytest.mark.parametrize("field", [{"tool_calls": CALL}, {"function_call": CALL[0]["function"]}])
def test_turn_that_calls_a_tool_keeps_its_call(content, field):
    called = {"role": "assistant", "content": content, **field}
    answer = {"role": "tool", "content": "4 degrees", "tool_call_id": "1", "name": None}
    read = read_conversation("messages", [USER, called, answer])
    assert read[1] == {"role": "assistant", "content": content or "", "tool_calls": CALL}
    assert read[2] == {"role": "tool", "content": "4 degrees", "tool_call_id": "1"}


def test_none_that_a_dataset_filled_in_is_left_out_of_calls():
    calls = [{"function": {"name": "now", "arguments": {"city": None, "zone": "UTC"}}}]
    read = read_conversation("messages", [{"role": "assistant", "content": "", "tool_calls": calls}])
    assert read[0]["tool_calls"] == [{"function": {"name": "now", "arguments": {"zone": "UTC"}}}]


TALK = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"})


@pytest.mark.parametrize(
    "value",
    [
        [{"from": "human", "value": "Hi", "weight": None}, {"from": "gpt", "value": "Ho"}],
        {"role": ["user", "assistant"], "content": ["Hi", "Ho"]},
        {"from": ["human", "gpt"], "value": ["Hi", "Ho"]},
        json.dumps(TALK),
        json.dumps({"messages": TALK}),
        [json.dumps(turn) for turn in TALK],
    ],
    ids=["ShareGPT", "dict of lists", "ShareGPT as lists", "JSON", "JSON of an object", "list of JSON"],
)
def test_conversation_of_any_shape_is_read(value):
    assert read_conversation("messages", value) == TALK


@pytest.mark.parametrize(
    ("value", "lengths"),
    [
        ({"role": ["user", "assistant"], "content": ["Hi"]}, ["2 of role", "1 of content"]),
        ({"from": ["human"], "value": ["Hi", "Ho"]}, ["1 of from", "2 of value"]),
        ({"role": ["user"], "content": ["Hi"], "reasoning": []}, ["1 of role", "0 of reasoning"]),
        ({"role": ["user"], "content": ["Hi"], "tool_calls": [None, CALL]}, ["1 of content", "2 of tool_calls"]),
    ],
)
def test_dict_of_unequal_lists_fails_its_row(value, lengths):
    with pytest.raises(RowError, match=r"^talk ") as error:
        read_conversation("talk", value)
    assert [length for length in lengths if length not in error.value.reason] == []


def test_longer_list_that_is_not_read_is_ignored():
    value = {"role": ["user", "assistant"], "content": ["Hi", "Ho"], "labels": ["a", "b", "c"]}
    assert read_conversation("talk", value) == TALK


@pytest.mark.parametrize(
    "value",
    [
        ['{"role": "user"'],
        [{"role": "assistant", "content": "", "function_call": '{"name": "now"'}],
        [{"role": "assistant", "content": "", "tool_calls": ['{"function": ']}],
        [{"role": "assistant", "content": "", "tool_calls": '[{"function": '}],
        [{"from": "function_call", "value": '{"name": '}],
    ],
)
def test_broken_json_fails_its_row(value):
    with pytest.raises(RowError, match="x is not JSON"):
        read_conversation("x", value)
    with pytest.raises(RowError, match="tools is not JSON"):
        read_tools("tools", ['{"type": "function"'])


@pytest.mark.parametrize("calls", [5, "now", ["now"], [{"function": "now"}], {"function": {"name": "now"}}])
def test_tool_calls_of_a_wrong_kind_fail_their_row(calls):
    with pytest.raises(RowError, match=r"^x has tool_calls that are not a list of calls: "):
        read_conversation("x", [{"role": "assistant", "content": "", "tool_calls": calls}])


def test_function_call_without_a_call_fails_its_row():
    with pytest.raises(RowError, match=r"x has a function_call .*'now'"):
        read_conversation("x", [{"role": "assistant", "content": "", "function_call": "now"}])


def test_sharegpt_call_becomes_a_tool_call():
    call = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    turns = [{"from": "function_call", "value": json.dumps(call)}, {"from": "observation", "value": "4 degrees"}]
    read = read_conversation("conversations", turns)
    assert read[0]["tool_calls"] == [{"type": "function", "function": call}]
    assert read[1] == {"role": "tool", "content": "4 degrees"}


@pytest.mark.parametrize("value", [[], {}, "Hello", "[1, 2", 5, None, [{"from": "narrator", "value": "x"}]])
def test_value_that_is_no_conversation_fails_its_row(value):
    with pytest.raises(RowError, match=r"^talk "):
        read_conversation("talk", value)


TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("value", [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)]])
def test_tools_are_read_as_schemas(value):
    assert read_tools("tools", value) == (TOOL,)


@pytest.mark.parametrize("value", [5, "now", [5], json.dumps(TOOL), [{"function": "now"}]])
def test_tools_of_a_wrong_kind_fail_their_row(value):
    with pytest.raises(RowError, match=r"^tools "):
        read_tools("tools", value)


USER_ROW = {"messages": [[USER]]}


@pytest.mark.parametrize("technique", [TextGeneration, Reward, InstructionFollowingDifficulty])
@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        ({"messages": [3]}, "conversations in column 'messages': it holds int64"),
        ({"conversations": [["a"]]}, "conversations in column 'conversations': it holds List"),
        ({"messages": [[{"text": "a"}]]}, "conversations in column 'messages': it holds List"),
        ({**USER_ROW, "tools": [3]}, "tools in column 'tools': it holds int64"),
        ({**USER_ROW, "tools": [[3]]}, "tools in column 'tools': it holds List"),
        ({**USER_ROW, "tools": [{"type": "function"}]}, "tools in column 'tools': it holds "),
    ],
)
def test_column_of_a_wrong_shape_is_an_error(technique, columns, shape):
    """Named with its shape before a model is loaded, which does not exist here."""
    rows = Dataset.from_dict(columns)
    step = technique(TransformersLLM("no-such-user/no-such-model"))
    calls = (
        lambda: step.check_features(rows.features),
        lambda: rows.map(step, batched=True, with_indices=True),
        lambda: run(Pipeline((step,)), rows, quiet=True),
    )
    for call in calls:
        with pytest.raises(ColumnError, match=f"{step.name} can't read {re.escape(shape)}"):
            call()


def test_conversation_of_answers_alone_fails_its_row():
    talk = [{"role": "assistant", "content": "Hi"}]
    with pytest.raises(RowError, match="only answers"):
        next(TextGeneration(EchoLLM(), regenerate=True).flow({"messages": talk}, None))


STRUCT = {"role": Value("string"), "content": Value("string")}


@pytest.mark.parametrize(
    "kind",
    [List(STRUCT), STRUCT, List({"from": Value("string"), "value": Value("string")}), Value("string"), List(Json())],
)
def test_feature_that_may_hold_conversations_has_no_fault(kind):
    assert conversation_fault(kind) == ""


@pytest.mark.parametrize("kind", [Value("int64"), List(Value("string")), List({"text": Value("string")}), Image()])
def test_feature_without_conversations_has_a_fault(kind):
    assert "role and content" in conversation_fault(kind)


@pytest.mark.parametrize("none", [None, []])
def test_turn_without_a_call_where_others_have_one_is_read(none):
    assert read_conversation("messages", [{**USER, "tool_calls": none}]) == (USER,)


def test_content_parts_of_text_are_read_as_one_text():
    assert read_conversation("x", [{"role": "user", "content": [part("Hi")]}]) == (USER,)
    two = read_conversation("x", [{"role": "user", "content": [part("a"), {"type": "input_text", "text": "b"}, "c"]}])
    assert two[0]["content"] == "a\nb\nc"


@pytest.mark.parametrize("kind", ["image", "image_url", "audio", "video", "input_image", "file"])
def test_content_part_that_is_no_text_fails_its_row(kind):
    content = [part("What is this?"), {"type": kind, "text": None, "image": b"png"}]
    with pytest.raises(RowError, match=rf"x has a turn of 'user' with a part of type '{kind}'"):
        read_conversation("x", [{"role": "user", "content": content}])


@pytest.mark.parametrize(
    "message",
    [{"role": "user", "content": []}, {"role": 5, "content": "a"}, {"role": "user"}, {"content": "a"}, "a", 5],
)
def test_entry_that_is_no_message_fails_its_row(message):
    with pytest.raises(RowError, match="x has an entry without role or content"):
        read_conversation("x", [message])


def test_content_of_wrong_type_fails_its_row():
    with pytest.raises(RowError, match="x has a turn of 'user' with content of type int"):
        read_conversation("x", [{"role": "user", "content": 5}])


@pytest.mark.parametrize("keep", [Deduplicate, Novelty, WellFormed], ids=lambda keep: keep.__name__)
def test_filter_reads_content_parts(keep):
    texts = ["Name a fruit that is red.", "Why is the sky blue at noon?", "Write a haiku on rain."]
    turns = [[{"role": "user", "content": [part(text)]}] for text in (*texts, texts[0])]
    rows = Dataset.from_dict({"messages": turns})
    expected = turns if keep is WellFormed else turns[:3]
    assert [row["messages"] for row in keep(column="messages")(rows)] == expected


def test_filter_of_a_part_that_is_no_text_drops_its_row():
    rows = Dataset.from_dict({"messages": [[{"role": "user", "content": [{"type": "image", "text": None}]}]]})
    stay, dropped = Deduplicate(column="messages").split(rows)
    assert (len(stay), dropped["rule"][:]) == (0, ["unreadable"])
    assert "a part of type 'image'" in dropped["value"][0]


FILTERS = (
    Deduplicate(column="talk"),
    Deduplicate("minhash", column="talk"),
    InstructionRules(column="talk"),
    Novelty(column="talk"),
    WellFormed(column="talk"),
)
TEXTS = (
    "Name a fruit that is red.",
    "name a fruit that is RED.",
    "Sing:",
    "Draw a picture of a fig.",
    "Why is it so?",
)
SHAPES = {
    "messages": lambda text: [{"role": "user", "content": text, "name": None}],
    "parts": lambda text: [{"role": "user", "content": [part(text)]}],
    "ShareGPT": lambda text: [{"from": "human", "value": text}],
    "dict of lists": lambda text: {"role": ["user"], "content": [text]},
    "JSON": lambda text: json.dumps([{"role": "user", "content": text}]),
    "JSON of ShareGPT": lambda text: json.dumps([{"from": "human", "value": text}]),
    "Json feature": lambda text: [{"role": "user", "content": text}],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep", FILTERS, ids=lambda keep: keep.name)
def test_filter_decides_alike_on_any_shape(keep, shape):
    values = [SHAPES[shape](text) for text in TEXTS]
    features = Features({"talk": List(Json())}) if shape == "Json feature" else None
    rows = Dataset.from_dict({"talk": values}, features=features)
    plain = keep.split(Dataset.from_dict({"talk": list(TEXTS)})).dropped
    dropped = keep.split(rows).dropped
    assert 0 < len(plain) < len(TEXTS)
    for column in ("row", "rule", "value", "matched"):
        assert dropped[column][:] == plain[column][:]


def test_filter_compares_the_calls_of_conversations():
    """Conversations that differ only in a call are no duplicates; equal ones are."""
    talks = [
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": a}}}]},
        ]
        for a in (1, 2, 1)
    ]
    rows = Dataset.from_dict({"talk": talks, "id": [0, 1, 2]})
    assert Deduplicate(column="talk")(rows)["id"][:] == [0, 1]


def test_text_that_resembles_json_stays_text():
    texts = ['[{"role": "user"', "[{x}]", '["role"]', '[{"a": "role"}]', '{"role": "user", "content": "Hi"}']
    rows = Dataset.from_dict({"instruction": texts})
    assert Deduplicate()(rows)["instruction"][:] == texts


def test_where_of_conversations_is_an_error():
    rows = Dataset.from_dict({"messages": [[USER]]})
    for keep in (Where("messages", minimum=1), Where("messages", among=("a",))):
        with pytest.raises(ColumnError, match=r"Where .*'messages'"):
            keep.check_features(rows.features)


CALL_JSON = '[{"function": {"name": "now", "arguments": {"zone": null}}}]'


def test_none_in_json_is_kept():
    """As `apply_chat_template` renders it."""
    call = {"function": {"name": "now", "arguments": {"zone": None}}}
    turns = (
        {"role": "assistant", "content": "", "tool_calls": CALL_JSON},
        json.dumps({"role": "assistant", "content": "", "tool_calls": [call]}),
        {"from": "function_call", "value": json.dumps(call["function"])},
    )
    for turn in turns:
        assert read_conversation("x", [turn])[0]["tool_calls"][0]["function"] == call["function"]
    as_text = json.dumps([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert read_conversation("x", as_text)[0]["tool_calls"] == [call]
    tool = {"type": "function", "function": {"name": "now", "parameters": {"default": None}}}
    assert read_tools("tools", json.dumps([tool])) == read_tools("tools", [json.dumps(tool)]) == (tool,)


@pytest.mark.parametrize("column", ["messages", "conversations", "conversation"])
def test_conversations_are_found_by_name(column):
    llm = ScriptedLLM(["Ho"])
    rows = Dataset.from_dict({column: [[{"from": "human", "value": "Hi"}]], "id": [1]})
    answered = rows.map(TextGeneration(llm), batched=True, with_indices=True)
    assert answered["generation"][:] == ["Ho"]
    assert llm.requests[0].messages == (USER,)
    trained = TrainingFormat("language-modeling")(answered)
    assert trained["messages"][0] == [USER, {"role": "assistant", "content": "Ho"}]


def test_messages_go_before_conversations():
    rows = Dataset.from_dict({"conversations": [[{"from": "human", "value": "a"}]], "messages": [[USER]]})
    assert rows.map(TextGeneration(EchoLLM()), batched=True, with_indices=True)["generation"][:] == ["Hi"]


def test_judge_keeps_calls_and_tools():
    """Every other column stays as it was, and a template reads the calls."""
    talk = [USER, {"role": "assistant", "content": "", "tool_calls": CALL}]
    rows = Dataset.from_dict({"messages": [talk], "tools": [[TOOL]]})
    llm = ScriptedLLM(["good"])
    calls = "{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}"
    template = "{% for m in messages %}{{ m.content }}" + calls + "{% endfor %}"
    judged = rows.map(
        Judge(llm, template=template, choices=("good", "poor"), question="Which?"), batched=True, with_indices=True
    )
    assert llm.requests[0].messages[0]["content"] == "Higet_weather\n\nWhich?"
    assert judged.select_columns(["messages", "tools"]).to_dict() == rows.to_dict()
