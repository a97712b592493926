"""Answers with thoughts and tool calls, as real chat templates render them and models write them."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset, Features, Json, List, load_dataset
from transformers import ByT5Tokenizer

from hfsynth import (
    Completion,
    Deduplicate,
    EchoLLM,
    Judge,
    Pipeline,
    Request,
    ScriptedLLM,
    TextGeneration,
    TrainingFormat,
    run,
    save,
)
from hfsynth.chat import ChatTemplate, ChatTokenizer, RenderedRequest
from hfsynth.thinking_and_tool_calls import ThinkingMarkers, check_call, split_thinking
from tests.test_chat import CALLED, TEMPLATES, WEATHER, template, user

HEADER = "{% for m in messages %}<|{{ m.role }}|>\n"
PROMPT = "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
END = "{% endif %}"


def thinking_template(field, opening, closing, prompt="", after="<|end|>\n", condition="loop.last"):
    """A template that shows the thoughts of its last turn alone, between these texts."""
    return (
        HEADER + f"{{% if m.{field} and {condition} %}}{opening}{{{{ m.{field} }}}}{closing}{{% endif %}}"
        f"{{{{ m.content }}}}{after}{PROMPT}{prompt}{END}"
    )


STYLES = {
    "think": ("reasoning_content", "<think>\n", "\n</think>\n\n"),
    "pipes": ("reasoning", "<|thinking|>", "<|/thinking|>"),
    "thought": ("thinking", "<thought>\n", "\n</thought>\n"),
    "brackets": ("reasoning_content", "[THOUGHTS]", "[/THOUGHTS]"),
    "seed": ("reasoning_content", "<seed:think>", "</seed:think>"),
    "minimax": ("reasoning", "<minimax:think>\n", "\n</minimax:think>\n"),
    "begin of thought": ("thinking", "<|begin_of_thought|>\n", "\n<|end_of_thought|>\n\n"),
    "channels": ("thinking", "<|channel|>inner<|message|>", "<|end|><|assistant|><|channel|>outer<|message|>"),
    "turns": ("reasoning", "<|think|>", "<|end|><|begin|>assistant<|content|>"),
    "steps": ("reasoning", "Let me think step by step:\n", "\n[BEGIN ANSWER]\n"),
    "answer tags": ("reasoning_content", "<think>\n", "\n</think>\n<answer>\n"),
    "lenticular": ("thought", "◁reflect▷", "◁/reflect▷"),
}


@pytest.mark.parametrize("is_prompted", [False, True])
@pytest.mark.parametrize(("field", "opening", "closing"), STYLES.values(), ids=STYLES.keys())
def test_thoughts_are_parted_as_the_template_marks_them(field, opening, closing, is_prompted):
    chat = template(thinking_template(field, opening, closing, opening if is_prompted else ""))
    prompt = chat.prompt([user("Hi")])
    assert prompt.endswith(opening) is is_prompted
    written = "First.\nSecond." + closing + "Four."
    for text in [written, opening + written] if is_prompted else [opening + written, "\n" + opening + written]:
        assert split_thinking(prompt, text, chat.thinking) == ("First.\nSecond.", "Four.")
    cut = "First.\nSec" if is_prompted else opening + "First.\nSec"
    assert split_thinking(prompt, cut, chat.thinking) == ("First.\nSec", "")
    if not is_prompted:
        assert split_thinking(prompt, "Four.", chat.thinking) == (None, "Four.")


@pytest.mark.parametrize("name", ["think", "thought", "brackets", "seed", "minimax"])
def test_several_thoughts_are_all_parted(name):
    field, opening, closing = STYLES[name]
    chat = template(thinking_template(field, opening, closing))
    first, second = (f"{opening}{thought}{closing}" for thought in "ab")
    prompt = chat.prompt([user("Hi")])
    assert split_thinking(prompt, first + second + "Four.", chat.thinking) == ("a\n\nb", "Four.")
    assert split_thinking(prompt, f"{first}Two,\n{second}four.", chat.thinking) == ("a\n\nb", "Two,\nfour.")


def test_tags_within_an_answer_without_thoughts_stay():
    chat = template(thinking_template(*STYLES["think"]))
    for text in ("Use <think> and </think>.", "As:\n<think>\na\n</think>\nb"):
        assert split_thinking("<|assistant|>\n", text, chat.thinking) == (None, text)


def test_split_thinking_cuts_the_answer_end():
    source = thinking_template("reasoning", "<think>", "</think>\n<answer>", after="</answer><|end|>\n")
    chat = template(source)
    for text in ("<think>a</think>\n<answer>b</answer>", "<think>a</think><answer>b</answer>", "<think>a</think>b"):
        assert split_thinking("", text, chat.thinking) == ("a", "b")


def test_a_template_that_shows_thoughts_only_if_asked_is_asked():
    source = thinking_template("reasoning", "<muse>", "</muse>", condition="enable_thinking")
    plain, asked = (template(f"{{% set enable_thinking = {value} %}}" + source) for value in ("false", "true"))
    chat = type(plain)("a-model", plain.render, "", asked.render)
    assert split_thinking("", "<muse>a</muse>b", plain.thinking) == (None, "<muse>a</muse>b")
    assert split_thinking("", "<muse>a</muse>b", chat.thinking) == ("a", "b")


def test_thoughts_in_a_content_part_are_found():
    source = (
        HEADER + "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
        "{% if part.type == 'thinking' %}[REFLECT]{{ part.thinking }}[/REFLECT]{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}" + PROMPT + END
    )
    assert split_thinking("", "[REFLECT]a[/REFLECT]b", template(source).thinking) == ("a", "b")


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("<muse>\n", "</muse>"), ("[MUSE]", "[/MUSE]"), ("<|start_of_muse|>", "<|end_of_muse|>"), ("◁muse▷", "◁/muse▷")],
)
def test_marker_of_the_prompt_closes_by_counterpart(opening, closing):
    chat = template(HEADER + "{{ m.content }}<|end|>\n" + PROMPT + opening + END)
    assert split_thinking(chat.prompt([user("Hi")]), f"a\n{closing}\n\nb", chat.thinking) == ("a", "b")


def test_a_header_that_ends_in_a_marker_opens_no_thoughts():
    chat = template(HEADER.rstrip() + "{{ m.content }}" + PROMPT.rstrip() + END)
    assert split_thinking(chat.prompt([user("Hi")]), "Four.", chat.thinking) == (None, "Four.")


REAL = {
    "qwen3": "<think>\na\n</think>\n\nb",
    "glm4moe": "<think>a</think>\nb",
    "gptoss": "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
    "muse_glimmer": " to=self<|message|>a<|eom|><|start|>assistant to=user<|message|>b",
    "nemotron_3_nano": "a\n</think>\nb",
    "deepseek_r1_distill": "a\n</think>\n\nb",
    "gemma4_v5": "<|channel>thought\na<channel|>b",
    "gemma4": "<|channel>thought\na<channel|>b",
    "lfm2_2_5": "<think>a</think>b",
}


@pytest.mark.parametrize(("name", "written"), REAL.items())
def test_thoughts_of_real_templates_are_parted(name, written):
    chat = template(TEMPLATES[name], name)
    assert split_thinking(chat.prompt([user("Hi")]), written, chat.thinking) == ("a", "b")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_no_real_template_takes_a_plain_answer_for_thoughts(name):
    chat = template(TEMPLATES[name], name)
    opened = [marks for marks in chat.thinking if chat.prompt([user("Hi")]).rstrip().endswith(marks.opening)]
    assert split_thinking("", "Hello there.\n\nBye.", chat.thinking) == (None, "Hello there.\n\nBye.")
    assert [marks.opening for marks in opened] in ([], ["<think>"], ["<think>"] * 2)


def test_an_answer_that_begins_directly_is_without_its_marker():
    marks = ThinkingMarkers(" to=self<|m|>".strip(), "<|eom|>", direct="to=user<|m|>")
    assert split_thinking("", " to=user<|m|>Hello", [marks]) == (None, "Hello")


def parses_python_calls():
    """Return whether this release of transformers parses calls such as `[now(zone="UTC")]`."""
    fields = {"tool_calls": {"open": "[", "content": "python-call-list"}, "content": {"content": "text"}}
    try:
        ByT5Tokenizer().parse_response("Hi", {"start_anchor": "a", "fields": fields}, prefix="")
    except ValueError:
        return False
    return True


PARSED = (
    *(("lfm2_2_5", "lfm2_v2") if parses_python_calls() else ()),
    "glm4moe", "gptoss", "llama3_1", "llama3_2", "nemotron_3_nano", "nemotron_3_super", "qwen2_5", "qwen3",
    "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_instruct_2507", "qwen3_vl",
)  # fmt: skip
"""Templates from whose rendering of a call a response template can be derived."""
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
BERGEN = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bergen, by the sea"}}}
QUESTION = user("Do I need a coat in Oslo?")


def chat_tokenizer(name, response_template=None):
    tokenizer = ByT5Tokenizer(bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATES[name]
    tokenizer.response_template = response_template
    return ChatTokenizer(tokenizer, ChatTemplate.of_tokenizer(name, tokenizer, {}), frozenset(), None)


def rendered(chat, tools=(WEATHER,), **fields):
    request = Request(messages=(QUESTION,), tools=tools, parse_tool_calls=True, **fields)
    result = chat.render(request)
    assert isinstance(result, RenderedRequest)
    return result


def written(chat, prompt, message):
    """Return what the model writes after a prompt, so that the conversation is rendered with this message."""
    conversation = chat.tokenizer.apply_chat_template([QUESTION, message], tools=[WEATHER], tokenize=False)
    pairs = zip(prompt, conversation, strict=False)
    return conversation[next((i for i, (a, b) in enumerate(pairs) if a != b), len(prompt)) :]


def answer(chat, text, finish_reason="stop"):
    return chat.completion_of_text(rendered(chat), text, finish_reason)


@pytest.mark.parametrize("name", PARSED)
def test_call_that_a_template_renders_is_parsed(name):
    chat = chat_tokenizer(name)
    prompt = chat.prompt(Request(messages=(QUESTION,), tools=(WEATHER,)))
    for calls in ([CALL], [BERGEN]) if name.startswith(("gptoss", "llama")) else ([CALL], [BERGEN], [CALL, BERGEN]):
        message = {"role": "assistant", "content": "", "tool_calls": calls}
        end = written(chat, prompt, {"role": "assistant", "content": "The end."}).partition("The end.")[2]
        completion = answer(chat, written(chat, prompt, message).removesuffix(end).removesuffix("<|call|>"))
        assert completion.tool_calls == tuple(calls)
        assert (completion.text, completion.tool_call_error) == ("", "")


@pytest.mark.parametrize("name", PARSED)
def test_answer_without_a_call_has_no_calls(name):
    chat = chat_tokenizer(name)
    thinks = rendered(chat).prompt.rstrip().endswith("<think>")
    completion = answer(chat, f"{'</think>' if thinks else ''}Take a coat. {{1: 2}}")
    assert (completion.tool_calls, completion.tool_call_error) == ((), "")
    assert completion.text == "Take a coat. {1: 2}"


def test_text_and_thinking_stand_beside_a_call():
    text = "<think>\nI look.\n</think>\n\nLet me look.\n<tool_call>\n{}\n</tool_call>"
    completion = answer(chat_tokenizer("qwen3"), text.format(json.dumps(CALL["function"])))
    assert (completion.thinking, completion.text) == ("I look.", "Let me look.")
    assert completion.tool_calls == (CALL,)


def test_texts_before_and_after_a_call_are_kept():
    call = f"<tool_call>{json.dumps(CALL['function'])}</tool_call>"
    completion = answer(chat_tokenizer("qwen2_5"), f"One.\n{call}\nTwo.\n{call}\nThree.")
    assert completion.text.split() == ["One.", "Two.", "Three."]
    assert completion.tool_calls == (CALL, CALL)


def test_arguments_get_the_types_of_their_schema():
    tool = {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}},
        },
    }
    chat = chat_tokenizer("qwen3_5_nothink")
    text = (
        "<tool_call>\n<function=add>\n<parameter=a>\n7\n</parameter>\n"
        "<parameter=b>\n7\n\n  8\n</parameter>\n</function>\n</tool_call>"
    )
    completion = chat.completion_of_text(rendered(chat, (tool,)), text, "stop")
    assert completion.tool_calls[0]["function"]["arguments"] == {"a": 7, "b": "7\n\n  8"}


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": \n</tool_call>',
        '<tool_call>\n["get_weather"]\n</tool_call>',
        '<tool_call>\n{"name": "get_weather"}\n</tool_call>',
        '<tool_call>\n{"name": "get_weather", "arguments": 5}\n</tool_call>',
        '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "get_weather", "arguments": "city"}\n</tool_call>',
    ],
)
def test_call_that_is_broken_stays_text(text):
    completion = answer(chat_tokenizer("qwen3"), text)
    assert (completion.text, completion.tool_calls) == (text, ())
    assert completion.tool_call_error


def test_call_that_was_cut_off_stays_text():
    completion = answer(chat_tokenizer("qwen3"), '<tool_call>\n{"name": "get', "length")
    assert (completion.text, completion.tool_calls) == ('<tool_call>\n{"name": "get', ())


def test_template_without_a_call_format_says_so():
    """LFM2's template renders tools, but leaves out calls."""
    completion = answer(chat_tokenizer("lfm2"), "[get_weather(city='Oslo')]")
    assert completion.text == "[get_weather(city='Oslo')]"
    assert "lfm2" in completion.tool_call_error
    assert "response_template" in completion.tool_call_error


RESPONSE_TEMPLATE = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"CALL (?P<name>\w+) ",
            "close": "END",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"content": "text"},
    },
}


def test_response_template_of_the_tokenizer_goes_first():
    chat = chat_tokenizer("qwen3", RESPONSE_TEMPLATE)
    completion = answer(chat, '<think>Hm.</think>Look: CALL get_weather {"city": "Oslo"}END')
    assert (completion.thinking, completion.text) == ("Hm.", "Look:")
    assert completion.tool_calls == (CALL,)
    own_format = f"<tool_call>{json.dumps(CALL['function'])}</tool_call>"
    assert answer(chat, own_format).text == own_format
    assert answer(chat, "CALL get_weather {END").tool_call_error
    broken = answer(chat_tokenizer("qwen3", {"fields": 5}), "Hi")
    assert (broken.text, bool(broken.tool_call_error)) == ("Hi", True)


def test_request_that_wants_text_keeps_calls_in_it():
    chat = chat_tokenizer("qwen3")
    text = f"<tool_call>\n{json.dumps(CALL['function'])}\n</tool_call>"
    plain = replace(rendered(chat), request=Request(messages=(QUESTION,), tools=(WEATHER,)))
    completion = chat.completion_of_text(plain, text, "stop")
    assert (completion.text, completion.tool_calls) == (text, ())


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ({"function": {"name": "f", "arguments": {"a": None}}}, {"a": None}),
        ({"function": {"name": "f", "arguments": '{"a": 1}'}, "index": 0}, {"a": 1}),
        ({"function": {"name": "f", "arguments": ""}}, {}),
    ],
)
def test_check_call_returns_arguments_as_a_dict(call, arguments):
    assert check_call(call) == {"type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    "call",
    [None, {}, {"function": {"arguments": {}}}, {"function": {"name": "f", "arguments": None}}, {"function": 5}],
)
def test_check_call_without_its_parts_is_an_error(call):
    with pytest.raises(ValueError, match=r"tool call|arguments"):
        check_call(call)


def completion_of(text, calls=(), error=""):
    return Completion(text=text, finish_reason="stop", tool_calls=calls, tool_call_error=error)


ANSWERS = (completion_of("", (CALL,)), completion_of("Look:", (CALL, BERGEN)), completion_of("No."))
ROWS = {"messages": [[QUESTION]] * 3, "tools": [json.dumps([WEATHER])] * 3}


def test_text_generation_keeps_parsed_calls():
    llm = ScriptedLLM([*ANSWERS[:2], completion_of("<call", error="it is cut off")])
    rows = Dataset.from_dict(ROWS).map(TextGeneration(llm, keep_tool_calls=True), batched=True, with_indices=True)
    assert all(request.parse_tool_calls for request in llm.requests)
    assert rows["generation"][:] == ["", "Look:", "<call"]
    assert [calls and json.loads(calls) for calls in rows["tool_calls"]] == [[CALL], [CALL, BERGEN], None]
    metadata = [entries[-1] for entries in rows["generation_metadata"]]
    assert [entry["error"] for entry in metadata] == ["", "", ""]
    assert [entry["raw"] for entry in metadata] == ["", "", "tool calls are kept as text: it is cut off"]


def test_text_generation_groups_parsed_calls():
    technique = TextGeneration(ScriptedLLM(ANSWERS), keep_tool_calls=True, num_generations=3, group_generations=True)
    rows = Dataset.from_dict(ROWS).select([0]).map(technique, batched=True, with_indices=True)
    assert rows[0]["generation"] == ["", "Look:", "No."]
    assert [json.loads(calls) for calls in rows[0]["tool_calls"]] == [[CALL], [CALL, BERGEN], []]
    trained = TrainingFormat("prompt-completion")(rows)
    assert [message.get("tool_calls") for (message,) in trained["completion"]] == [[CALL], [CALL, BERGEN], None]


def test_text_generation_reads_tools_beside_an_instruction():
    llm = ScriptedLLM([*ANSWERS, *ANSWERS])
    columns = {"instruction": ["a", "b", "c"], "tools": [ROWS["tools"][0], None, []]}
    Dataset.from_dict({**columns, "tools": [columns["tools"][0], None, None]}).map(
        TextGeneration(llm, keep_tool_calls=True), batched=True, with_indices=True
    )
    assert [request.tools for request in llm.requests] == [(WEATHER,), (), ()]
    assert [request.parse_tool_calls for request in llm.requests] == [True, False, False]


def test_text_generation_with_a_template_parses_no_calls():
    with pytest.raises(ValueError, match=r"keep_tool_calls .*'\{\{ a \}\}'"):
        TextGeneration(ScriptedLLM(()), template="{{ a }}", keep_tool_calls=True)


def saved_rows(result, folder, **options):
    save(result.dataset, folder, **options)
    (file,) = folder.rglob("train-*.parquet")
    return Dataset.from_parquet(str(file), cache_dir=str(folder / "cache"))


def test_saved_calls_are_rendered_as_the_template_does(tmp_path):
    """A run's rows, saved in a training format, are rendered as the model's own answers."""
    technique = TextGeneration(ScriptedLLM(ANSWERS), keep_tool_calls=True)
    result = run(Pipeline((technique,)), Dataset.from_dict(ROWS), run_dir=tmp_path / "run", quiet=True)
    trained = saved_rows(result, tmp_path / "saved", format="language-modeling")
    assert [row[-1] for row in trained["messages"]] == [
        {"role": "assistant", "content": one.text, **({"tool_calls": list(one.tool_calls)} if one.tool_calls else {})}
        for one in ANSWERS
    ]
    tokenizer = chat_tokenizer("qwen3").tokenizer
    text = tokenizer.apply_chat_template(trained[1]["messages"], tools=json.loads(trained[1]["tools"]), tokenize=False)
    assert f"Look:\n<tool_call>\n{json.dumps(CALL['function'])}\n</tool_call>" in text


def test_saved_conversations_keep_calls_and_tools(tmp_path, hub):
    """Through a filter, a judge and an answer, to the saved file, its card and the Hub."""
    talks = [list(CALLED), [QUESTION]]
    rows = Dataset.from_dict({"messages": talks, "tools": [[WEATHER], None]})
    judge = Judge(ScriptedLLM(["good"] * 2), template="{{ messages }}", choices=("good", "poor"), question="Which?")
    pipeline = Deduplicate(column="messages") >> judge >> TextGeneration(ScriptedLLM(ANSWERS[:2]))
    result = run(pipeline, rows, run_dir=tmp_path / "run", quiet=True)
    saved = saved_rows(result, tmp_path / "saved")
    assert saved.select_columns(["messages", "tools"]).to_dict() == rows.to_dict()
    assert "messages" in (tmp_path / "saved" / "README.md").read_text()
    pipeline.push_to_hub(result.dataset, "user/tool-talks")
    pushed = load_dataset("user/tool-talks", split="train", cache_dir=str(tmp_path / "cache"))
    assert pushed.select_columns(["messages", "tools"]).to_dict() == rows.to_dict()


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "llama3_1", "gptoss", "glm4moe", "lfm2_2_5"])
@pytest.mark.parametrize("shape", ["structs", "JSON", "Json feature"])
def test_text_generation_prompt_is_the_templates_rendering(name, shape):
    """From a dataset's columns to the prompt: as `apply_chat_template(messages, tools=...)` renders the row."""
    chat = chat_tokenizer(name)
    other = {"type": "function", "function": {"name": "now", "description": "Time.", "parameters": {"zone": "text"}}}
    rows = {"messages": [list(CALLED), [QUESTION]], "tools": [[WEATHER], [other]]}
    if shape == "JSON":
        stored = Dataset.from_dict({column: list(map(json.dumps, values)) for column, values in rows.items()})
    else:
        features = Features(dict.fromkeys(rows, List(Json()))) if shape == "Json feature" else None
        stored = Dataset.from_dict(rows, features=features)
    for number, row in enumerate(stored):
        request = next(TextGeneration(EchoLLM()).flow(row, None))
        expected = chat.tokenizer.apply_chat_template(
            rows["messages"][number], tools=rows["tools"][number], tokenize=False, add_generation_prompt=True
        )
        assert chat.prompt(request) == expected
