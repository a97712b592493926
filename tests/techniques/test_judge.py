import math
import random
from dataclasses import replace

import pytest
from datasets import Dataset, List, Value
from datasets.fingerprint import Hasher

from hfsynth import EchoLLM, GenerationError, Judge, Pipeline, RowError, SamplingParams
from hfsynth.llm import Completion
from hfsynth.techniques.judge import CATEGORIES, HAZARDS, QUALITY
from tests.helpers import RepeatingLLM, drive, say

LLM = EchoLLM()
RNG = random.Random(0)
PRESETS = {name: getattr(Judge, name) for name in ("quality", "difficulty", "category", "language", "safety")}


def contents(request):
    return [(message["role"], message["content"]) for message in request.messages]


def scored(text, *scores):
    return Completion(text=text, finish_reason="stop", scores=scores)


def yes_or_no(**fields):
    return Judge(LLM, template="Is {{ a }} red?", question="Yes or no?", choices=("yes", "no"), **fields)


def test_judge_likeliest_choice_is_the_label():
    (request,), rows = drive(yes_or_no().flow({"a": "blood"}, RNG), scored("yes", math.log(0.06), math.log(0.02)))
    assert contents(request) == [("user", "Is blood red?\n\nYes or no?")]
    assert request.choices == ("yes", "no")
    assert rows[0]["label"] == "yes"
    assert rows[0]["probabilities"] == pytest.approx([0.75, 0.25])


def test_judge_pre_questions_share_one_conversation():
    technique = yes_or_no(
        pre_questions={"shade": "Which shade?", "why": "Why?"}, pre_answer_sampling=SamplingParams(max_new_tokens=7)
    )
    requests, rows = drive(
        technique.flow({"a": "blood"}, RNG), say("Crimson."), say("Iron."), scored("no", -2.0, -1.0)
    )
    assert contents(requests[0]) == [("user", "Is blood red?\n\nWhich shade?")]
    assert contents(requests[2]) == [
        ("user", "Is blood red?\n\nWhich shade?"),
        ("assistant", "Crimson."),
        ("user", "Why?"),
        ("assistant", "Iron."),
        ("user", "Yes or no?"),
    ]
    assert [(r.choices, r.sampling.max_new_tokens) for r in requests[:2]] == [((), 7), ((), 7)]
    assert (rows[0]["shade"], rows[0]["why"], rows[0]["label"]) == ("Crimson.", "Iron.", "no")


def test_judge_question_may_list_the_choices():
    technique = Judge(LLM, template="{{ choices }}", question="One of {{ choices | join('/') }}.", choices=("A", "B"))
    (request,), _ = drive(technique.flow({"choices": "x"}, RNG), scored("A", -1.0, -1.0))
    assert contents(request) == [("user", "x\n\nOne of A/B.")]


@pytest.mark.parametrize("name", PRESETS)
def test_judge_preset_labels_with_one_of_its_choices(name):
    judge = PRESETS[name](LLM)
    produced = Dataset.from_dict({"instruction": ["Say a colour.", "Add 2 and 2.", "Hi"]}).map(
        judge, batched=True, with_indices=True
    )
    assert set(produced[name]) <= set(judge.choices)
    assert produced.features[f"{name}_probabilities"] == List(Value("float64"))
    for row in produced:
        assert sum(row[f"{name}_probabilities"]) == pytest.approx(1)
        best = max(range(len(judge.choices)), key=lambda place: row[f"{name}_probabilities"][place])
        assert row[name] == judge.choices[best]
        assert not row["generation_metadata"][0]["error"]


@pytest.mark.parametrize("name", ["quality", "safety"])
def test_judge_preset_reads_a_response_where_there_is_one(name):
    judge = PRESETS[name](LLM)
    assert set(judge.input_features(["instruction", "response"])) == {"instruction", "response"}
    assert set(judge.input_features(["instruction"])) == {"instruction"}
    (pair,), _ = drive(judge.flow({"instruction": "Hi", "response": "Ho"}, RNG), scored("good", -1.0, -2.0))
    (alone,), _ = drive(judge.flow({"instruction": "Hi"}, RNG), scored("good", -1.0, -2.0))
    (none,), _ = drive(judge.flow({"instruction": "Hi", "response": None}, RNG), scored("good", -1.0, -2.0))
    assert "<response>\nHo\n</response>\n\n" in pair.messages[0]["content"]
    assert "<response>" not in alone.messages[0]["content"]
    assert none == alone


@pytest.mark.parametrize("name", ["difficulty", "category", "language"])
def test_judge_preset_of_the_instruction_ignores_responses(name):
    assert set(PRESETS[name](LLM).input_features(["instruction", "response"])) == {"instruction"}


CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TURNS = [
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Red."},
    {"role": "user", "content": "And 1 + 1?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
]
SYSTEM = {"role": "system", "content": "Be brief."}
SHAREGPT = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]


@pytest.mark.parametrize(
    ("column", "value", "instruction", "response"),
    [
        ("messages", TURNS[:2], "Name a colour.", "Red."),
        ("messages", TURNS[:1], "Name a colour.", None),
        ("messages", TURNS, "user: Name a colour.\n\nassistant: Red.\n\nuser: And 1 + 1?", 'add({"a": 1})'),
        ("messages", [SYSTEM, *TURNS[:2]], "system: Be brief.\n\nuser: Name a colour.", "Red."),
        ("conversations", SHAREGPT, "Hi.", "Hello."),
        ("conversations", '[{"role": "user", "content": "Hi."}]', "Hi.", None),
    ],
)
@pytest.mark.parametrize("name", PRESETS)
def test_judge_preset_reads_conversations(name, column, value, instruction, response):
    technique = PRESETS[name](LLM)
    assert list(technique.input_features(["id", column])) == [column]
    replies = [
        *[say("x")] * len(technique.pre_questions),
        scored("easy", -1.0, *[-2.0] * (len(technique.choices) - 1)),
    ]
    requests, _ = drive(technique.flow({column: value}, RNG), *replies)
    pair = {"instruction": instruction} | ({"response": response} if response else {})
    expected, _ = drive(technique.flow(pair, RNG), *replies)
    assert contents(requests[0]) == contents(expected[0])
    assert instruction in requests[0].messages[0]["content"]


def test_judge_prefers_instruction_to_messages():
    assert list(Judge.difficulty(LLM).input_features(["messages", "instruction"])) == ["instruction"]
    own = Judge(LLM, template="{{ messages }} {{ instruction }}", question="?", choices=("a", "b"))
    assert set(own.input_features(["messages"])) == {"messages", "instruction"}


def test_judge_unreadable_conversation_fails_its_row():
    wrong = ([{"role": "alien", "content": "x"}], [{"role": "user", "content": " "}])
    rows = Dataset.from_dict({"messages": [TURNS[:2], *wrong]})
    judged = rows.map(Judge.safety(LLM), batched=True, with_indices=True)
    assert [label is None for label in judged["safety"]] == [False, True, True]


def test_judge_quality_defines_its_levels_in_the_prompt():
    (request,), _ = drive(Judge.quality(LLM).flow({"instruction": "Hi"}, RNG), scored("good", -1.0, -2.0))
    assert all(f"\n- {level}: {meaning}" in request.messages[0]["content"] for level, meaning in QUALITY.items())


def test_judge_optional_column_may_be_mapped():
    judge = replace(Judge.quality(LLM), input_mappings={"response": "generation"})
    dataset = Dataset.from_dict({"instruction": ["Say a colour."], "generation": ["Blue."]})
    assert judge.wire(dataset.column_names) == {"instruction": "instruction", "response": "generation"}


def test_judge_presets_are_magpies_tags():
    assert list(Judge.difficulty(LLM).written_features) == [
        "difficulty",
        "difficulty_probabilities",
        "intent",
        "knowledge",
    ]
    assert [len(preset(LLM).choices) for preset in PRESETS.values()] == [5, 5, 12, 22, len(HAZARDS)]
    assert Judge.language(LLM, ["French", "Dutch"]).choices == ("French", "Dutch")
    (request,), _ = drive(Judge.category(LLM).flow({"instruction": "Hi"}, RNG), scored("Math", *[-1.0] * 12))
    assert all(f"- {name}: it {meaning}" in request.messages[0]["content"] for name, meaning in CATEGORIES.items())


@pytest.mark.parametrize("name", PRESETS)
def test_judge_preset_survives_pickle_and_json(name):
    judge = PRESETS[name](LLM)
    assert Hasher.hash(judge) == Hasher.hash(PRESETS[name](EchoLLM()))
    (repeated,) = Pipeline.from_yaml(Pipeline((judge,)).to_yaml()).steps
    assert repeated == judge
    assert Hasher.hash(repeated) == Hasher.hash(judge)


def test_judge_presets_chain_in_one_pipeline():
    first, *others = [replace(preset(LLM), input_mappings={"instruction": "task"}) for preset in PRESETS.values()]
    produced = Pipeline((first, *others)).run(Dataset.from_dict({"task": ["Hi"]}), quiet=True)
    assert set(PRESETS) < set(produced.column_names)
    assert len({entry["seed"] for entry in produced[0]["generation_metadata"]}) == len(PRESETS)


@pytest.mark.parametrize(
    ("row", "reason"),
    [({"a": None, "b": "x"}, "a is None"), ({"a": "", "b": " "}, "a and b are empty")],
)
def test_judge_row_without_content_fails(row, reason):
    with pytest.raises(RowError, match=reason):
        next(Judge(LLM, template="{{ a }} {{ b }}").flow(row, RNG))


def test_judge_one_blank_column_of_several_is_judged():
    assert contents(next(Judge(LLM, template="{{ a }}{{ b }}").flow({"a": "x", "b": ""}, RNG)))[0][1].startswith("x\n")


def test_judge_empty_pre_answer_fails_its_row():
    flow = yes_or_no(pre_questions={"why": "Why?"}).flow({"a": "x"}, RNG)
    next(flow)
    with pytest.raises(RowError, match=r"'why' .*length"):
        flow.send(say("", "length", thinking="hm"))


def test_judge_impossible_choices_fail_the_row():
    flow = yes_or_no().flow({"a": "x"}, RNG)
    next(flow)
    with pytest.raises(RowError, match="none of the choices is possible"):
        flow.send(scored("yes", -math.inf, -math.inf))


def test_judge_llm_without_scores_is_an_error():
    with pytest.raises(GenerationError, match=r"5 choices.* 0 scores"):
        Dataset.from_dict({"instruction": ["Hi"]}).map(
            Judge.quality(RepeatingLLM(scores=False)), batched=True, with_indices=True
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"choices": ("yes",)}, r"choices .*\('yes',\)"),
        ({"choices": ("yes", "yes")}, r"choices .*'yes', 'yes'"),
        ({"choices": ("yes", " ")}, r"choices .*'yes', ' '"),
        ({"template": "Hi"}, r"template .*'Hi'"),
        ({"question": "{{ instruction }}?"}, r"Judge\.question .*\['instruction'\]"),
        ({"pre_questions": {"label": "Why?"}}, r"pre_questions .*'label'"),
        ({"pre_questions": {"why": " "}}, r"pre_questions .*'why'"),
    ],
)
def test_judge_invalid_field_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        Judge(LLM, **fields)


@pytest.mark.model
def test_judge_real_model_rates_instructions(smollm):
    produced = Dataset.from_dict({"instruction": ["Say a colour.", "asdf", None]}).map(
        Judge.quality(smollm), batched=True, with_indices=True
    )
    for row in produced.select(range(2)):
        assert sum(row["quality_probabilities"]) == pytest.approx(1)
        assert (
            row["quality"]
            == Judge.quality(smollm).choices[max(range(5), key=lambda place: row["quality_probabilities"][place])]
        )
    assert produced[2]["quality"] is None
    assert produced[2]["generation_metadata"][0]["error"] == "instruction is None"
