import random

import pytest

from hfsynth import EchoLLM, RowError, SelfInstruct
from hfsynth.techniques.self_instruct import parse_instructions
from tests.helpers import drive, say

LLM = EchoLLM()
RNG = random.Random(0)
ROW = {"input": "Tea is a drink."}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. What is tea?\n2. Who drinks it?", ["What is tea?", "Who drinks it?"]),
        ("Here are 2 queries:\n\n1) What is tea?\n\n2) Who drinks it?", ["What is tea?", "Who drinks it?"]),
        ("Sure! Here you go.\n- What is tea?\n- Who drinks it?\n\nLet me know!", ["What is tea?", "Who drinks it?"]),
        ("* **What is tea?**\n• “Who drinks it?”", ["What is tea?", "Who drinks it?"]),
        ("Query 1: What is tea?\nQuery 2: Who drinks it?", ["What is tea?", "Who drinks it?"]),
        ("**1.** What is tea?\n(2) 'Who drinks it?'", ["What is tea?", "Who drinks it?"]),
        ("### Question 1\nWhat is tea?", ["What is tea?"]),
        ("What is tea?\n\nWho drinks it?\n", ["What is tea?", "Who drinks it?"]),
        ("The queries are:\nWhat is tea?", ["What is tea?"]),
        ("1. What is tea?\n2. what  is TEA?", ["What is tea?"]),
        ("1. Rewrite this:\n   Tea is nice.\n2. Sum up.", ["Rewrite this:\nTea is nice.", "Sum up."]),
        ("1. 3.5 cups make how many ml?", ["3.5 cups make how many ml?"]),
        ("3.5 cups make how many ml?", ["3.5 cups make how many ml?"]),
        ("1) מה זה תה?\n2) 茶とは何ですか？", ["מה זה תה?", "茶とは何ですか？"]),
        ("1. Compare:\n   - tea\n   - milk\n2. Sum up.", ["Compare:\n- tea\n- milk", "Sum up."]),
        ("Query 3 databases at once.\nWhat is tea?", ["Query 3 databases at once.", "What is tea?"]),
        ("1. “Tea” or “coffee”\n2. *Why?*", ["“Tea” or “coffee”", "Why?"]),
        ("a) Why?\nb) How?", ["Why?", "How?"]),
        ("Q1: Why?\nQ2: How?", ["Why?", "How?"]),
        ("1 - Why?\n2 - How?", ["Why?", "How?"]),
        ("+ Why?\n+ How?", ["Why?", "How?"]),
        ("1、何？\n２．何故？\n③ 誰？", ["何？", "何故？", "誰？"]),
        ("Sure! Here are two queries for you.\nWhat is tea?", ["What is tea?"]),
        ("1.\n2.\n---\n", []),
        ("", []),
        ("Here are your queries:", []),
    ],
)
def test_instructions_are_read_without_what_the_model_wrote_around_them(text, expected):
    assert parse_instructions(text) == expected


def test_the_prompt_says_what_is_asked_for():
    technique = SelfInstruct(
        LLM, num_instructions=7, application_description="A tea shop's chat", criteria_for_query_generation="Be rude."
    )
    (request,), _ = drive(technique.flow(ROW, RNG), say("1. a"))
    prompt = request.messages[0]["content"]
    for part in ("Tea is a drink.", "7 queries", "A tea shop's chat", "Be rude."):
        assert part in prompt


def test_each_instruction_is_a_row_or_all_are_one_list():
    assert drive(SelfInstruct(LLM).flow(ROW, RNG), say("1. a\n2. b"))[1] == [
        {"instruction": "a"},
        {"instruction": "b"},
    ]
    one = SelfInstruct(LLM, one_row_each=False)
    assert drive(one.flow(ROW, RNG), say("1. a\n2. b"))[1] == [{"instructions": ["a", "b"]}]


def test_no_more_are_kept_than_were_asked_for():
    assert len(drive(SelfInstruct(LLM, num_instructions=2).flow(ROW, RNG), say("1. a\n2. b\n3. c"))[1]) == 2


def test_an_instruction_that_was_cut_off_is_dropped():
    assert drive(SelfInstruct(LLM).flow(ROW, RNG), say("1. a\n2. b", "length"))[1] == [{"instruction": "a"}]


def test_one_that_was_complete_before_the_cut_is_kept():
    assert parse_instructions("1. A\n2. B\n3. A", cut_off=True) == ["A", "B"]
    assert parse_instructions("1. A\n2. B\n\nThese queries are", cut_off=True) == ["A", "B"]


@pytest.mark.parametrize("completion", [say("Here you go:"), say(""), say("1. a", "length")])
def test_a_completion_without_a_usable_instruction_is_a_failure_with_its_raw_text(completion):
    flow = SelfInstruct(LLM).flow(ROW, RNG)
    next(flow)
    with pytest.raises(RowError, match="no usable instruction") as caught:
        flow.send(completion)
    assert caught.value.raw == completion.text


def test_a_prompt_that_reads_something_else_is_an_error():
    with pytest.raises(ValueError, match=r"SelfInstruct\.prompt reads \['text'\]"):
        SelfInstruct(LLM, prompt="{{ text }}")


def test_asking_for_no_instructions_is_an_error():
    with pytest.raises(ValueError, match="num_instructions is 0"):
        SelfInstruct(LLM, num_instructions=0)
