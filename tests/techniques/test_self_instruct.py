import random

import pytest

from hfsynth import EchoLLM, RowError, SelfInstruct
from tests.helpers import drive, say

LLM = EchoLLM()
RNG = random.Random(0)
ROW = {"input": "Tea is a drink."}


def test_self_instruct_prompt_holds_the_fields():
    technique = SelfInstruct(
        LLM, num_instructions=7, application_description="A tea shop's chat", criteria_for_query_generation="Be rude."
    )
    (request,), _ = drive(technique.flow(ROW, RNG), say("1. a"))
    prompt = request.messages[0]["content"]
    for part in ("Tea is a drink.", "7 queries", "A tea shop's chat", "Be rude."):
        assert part in prompt


def test_self_instruct_one_row_each_or_one_list():
    assert drive(SelfInstruct(LLM).flow(ROW, RNG), say("1. a\n2. b"))[1] == [
        {"instruction": "a"},
        {"instruction": "b"},
    ]
    one = SelfInstruct(LLM, one_row_each=False)
    assert drive(one.flow(ROW, RNG), say("1. a\n2. b"))[1] == [{"instructions": ["a", "b"]}]


@pytest.mark.parametrize(
    "completion",
    [
        "Here are 2 queries:\n\n1. **What is tea?**\n2) Who drinks it?\n\nI hope this helps!",
        '```json\n[{"query": "What is tea?"}, {"query": "Who drinks it?"}]\n```',
        "以下是问题：\n\n一、What is tea?\n二、Who drinks it?",
    ],
)
def test_self_instruct_list_in_any_form_is_a_row_each(completion):
    _, rows = drive(SelfInstruct(LLM).flow(ROW, RNG), say(completion))
    assert rows == [{"instruction": "What is tea?"}, {"instruction": "Who drinks it?"}]


def test_self_instruct_json_cut_off_keeps_complete_items():
    completion = say('["What is tea?", "Who dri', "length")
    assert drive(SelfInstruct(LLM).flow(ROW, RNG), completion)[1] == [{"instruction": "What is tea?"}]


def test_self_instruct_keeps_at_the_requested_number():
    assert len(drive(SelfInstruct(LLM, num_instructions=2).flow(ROW, RNG), say("1. a\n2. b\n3. c"))[1]) == 2


def test_self_instruct_truncated_instruction_is_dropped():
    assert drive(SelfInstruct(LLM).flow(ROW, RNG), say("1. a\n2. b", "length"))[1] == [{"instruction": "a"}]


@pytest.mark.parametrize("completion", [say("Here you go:"), say(""), say("1. a", "length")])
def test_self_instruct_without_instruction_fails(completion):
    flow = SelfInstruct(LLM).flow(ROW, RNG)
    next(flow)
    with pytest.raises(RowError, match="no usable instruction") as caught:
        flow.send(completion)
    assert caught.value.raw == completion.text


def test_self_instruct_prompt_with_unknown_name_is_an_error():
    with pytest.raises(ValueError, match=r"SelfInstruct\.prompt .*\['text'\]"):
        SelfInstruct(LLM, prompt="{{ text }}")


def test_self_instruct_zero_instructions_is_an_error():
    with pytest.raises(ValueError, match=r"num_instructions .*0"):
        SelfInstruct(LLM, num_instructions=0)
