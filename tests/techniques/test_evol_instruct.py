import random
from collections import Counter

import pytest

from hfsynth import EchoLLM, EvolInstruct, RowError
from hfsynth.techniques.evol_instruct import MUTATION_TEMPLATES, elimination, elimination_by_answer
from tests.helpers import drive, say

LLM = EchoLLM()
ROW = {"instruction": "Make tea."}


def rng():
    return random.Random(1)


def test_evol_instruct_round_evolves_the_last_version():
    technique = EvolInstruct(LLM, num_evolutions=2)
    requests, rows = drive(technique.flow(ROW, rng()), say("Make green tea."), say("Make green tea for two."))
    assert "Make tea." in requests[0].messages[0]["content"]
    assert "Make green tea." in requests[1].messages[0]["content"]
    assert rows[0]["evolved_instruction"] == "Make green tea for two."


def test_evol_instruct_evolutions_hold_every_operation():
    flow = EvolInstruct(LLM, num_evolutions=2).flow(ROW, rng())
    _, rows = drive(flow, say("Make green tea."), say("Make  green TEA!"))
    first, second = rows[0]["evolutions"]
    assert first["operation"] in MUTATION_TEMPLATES
    assert (first["instruction"], first["eliminated_by"]) == ("Make green tea.", "")
    assert (second["instruction"], second["eliminated_by"]) == ("Make  green TEA!", "unchanged")


def test_evol_instruct_eliminated_round_keeps_the_last():
    flow = EvolInstruct(LLM, num_evolutions=2, store_evolutions=True).flow(ROW, rng())
    requests, rows = drive(flow, say("See the rewritten prompt."), say("Make oolong."))
    assert "Make tea." in requests[1].messages[0]["content"]
    assert rows[0]["evolved_instructions"] == ["Make oolong."]


@pytest.mark.parametrize(
    "completion",
    [
        "Here is the rewritten prompt:\n\nMake green tea.",
        "#Given Prompt#:\nMake tea.\n\n#Rewritten Prompt#:\nMake green tea.",
        'The rewritten prompt is: "Make green tea."\n\nThe rewritten prompt adds a colour.',
        "Make green tea.\n\n(Note: I made the given prompt harder.)",
    ],
)
def test_evol_instruct_wrapped_completion_is_unwrapped(completion):
    """Words of the operation's prompt eliminate no round that has them around its text alone."""
    _, rows = drive(EvolInstruct(LLM).flow(ROW, rng()), say(completion))
    assert rows[0]["evolved_instruction"] == "Make green tea."
    assert [one["eliminated_by"] for one in rows[0]["evolutions"]] == [""]


def test_evol_instruct_announcement_alone_is_eliminated():
    _, rows = drive(EvolInstruct(LLM).flow(ROW, rng()), say("Here is the rewritten prompt:"))
    assert [one["eliminated_by"] for one in rows[0]["evolutions"]] == ["empty"]


def test_evol_instruct_all_eliminated_keeps_the_original():
    _, rows = drive(EvolInstruct(LLM).flow(ROW, rng()), say("Make tea."))
    assert rows[0]["evolved_instruction"] == "Make tea."
    _, rows = drive(EvolInstruct(LLM, store_evolutions=True).flow(ROW, rng()), say("Make tea."))
    assert rows[0]["evolved_instructions"] == ["Make tea."]


@pytest.mark.parametrize(
    ("store", "include", "expected"),
    [(False, False, "c"), (True, False, ["b", "c"]), (False, True, ["a", "c"]), (True, True, ["a", "b", "c"])],
)
def test_evol_instruct_fields_choose_the_kept_versions(store, include, expected):
    technique = EvolInstruct(LLM, num_evolutions=2, store_evolutions=store, include_original_instruction=include)
    _, rows = drive(technique.flow({"instruction": "a"}, rng()), say("b"), say("c"))
    assert next(iter(rows[0].values())) == expected
    assert list(rows[0]) == list(technique.output_features)


@pytest.mark.parametrize("store", [False, True])
def test_evol_instruct_answers_match_the_versions(store):
    technique = EvolInstruct(LLM, num_evolutions=2, store_evolutions=store, generate_answers=True)
    answers = [say("B"), say("C")] if store else [say("C")]
    requests, rows = drive(technique.flow({"instruction": "a"}, rng()), say("b"), say("c"), *answers)
    assert requests[-1].messages[0]["content"] == "c"
    assert (rows[0]["answers"] == ["B", "C"]) if store else (rows[0]["answer"] == "C")


def test_evol_instruct_zero_rounds_change_nothing():
    _, rows = drive(EvolInstruct(LLM, num_evolutions=0).flow(ROW, rng()))
    assert rows == [{"evolved_instruction": "Make tea.", "evolutions": []}]


def test_evol_instruct_operations_are_sampled_uniformly():
    technique = EvolInstruct(LLM)
    counts = Counter()
    for row in range(3000):
        _, rows = drive(technique.flow(ROW, random.Random(row)), say("x"))
        counts[rows[0]["evolutions"][0]["operation"]] += 1
    assert set(counts) == set(MUTATION_TEMPLATES)
    assert len(MUTATION_TEMPLATES) == 6
    assert all(430 < count < 570 for count in counts.values())  # 500 expected, 20 a standard deviation


def test_evol_instruct_order_of_templates_is_irrelevant():
    one, two = (
        {"x": "X {{ instruction }}", "y": "Y {{ instruction }}"},
        {"y": "Y {{ instruction }}", "x": "X {{ instruction }}"},
    )
    asked = [
        [next(EvolInstruct(LLM, mutation_templates=own).flow(ROW, random.Random(row))) for row in range(20)]
        for own in (one, two)
    ]
    assert asked[0] == asked[1]


def test_evol_instruct_empty_answer_fails_the_row():
    flow = EvolInstruct(LLM, num_evolutions=0, generate_answers=True).flow(ROW, rng())
    next(flow)
    with pytest.raises(RowError, match="the answer is empty"):
        flow.send(say(""))


def judged(*completions, **fields):
    technique = EvolInstruct(LLM, eliminate=True, **fields)
    return drive(technique.flow(ROW, rng()), *completions)


def test_eliminate_judge_equal_drops_the_round():
    requests, rows = judged(say("Make green tea."), say("Equal"))
    assert requests[1].choices == ("Equal", "Not equal")
    assert (
        "First instruction:\nMake tea.\n\nSecond instruction:\nMake green tea.\n"
        in (requests[1].messages[0]["content"])
    )
    assert rows[0]["evolved_instruction"] == "Make tea."
    assert rows[0]["evolutions"][0]["eliminated_by"] == "equal"


@pytest.mark.parametrize(
    ("answer", "rule", "kept"),
    [
        ("I'm sorry, I can't.", "sorry", "Make tea."),
        ("...", "no_content", "Make tea."),
        ("Boil water.", "", "Make green tea."),
    ],
)
def test_eliminate_answer_rules_drop_the_round(answer, rule, kept):
    requests, rows = judged(say("Make green tea."), say("Not equal"), say(answer))
    assert requests[2].messages[0]["content"] == "Make green tea."
    assert rows[0]["evolutions"][0]["eliminated_by"] == rule
    assert rows[0]["evolved_instruction"] == kept


def test_eliminate_unchanged_round_costs_no_requests():
    requests, rows = judged(say("Make tea!"))
    assert len(requests) == 1
    assert rows[0]["evolutions"][0]["eliminated_by"] == "unchanged"


def test_eliminate_answer_is_reused():
    answers = say("Make green tea."), say("Not equal"), say("Boil water."), say("Leaves.")
    requests, rows = judged(*answers, generate_answers=True, include_original_instruction=True)
    assert [request.messages[0]["content"] for request in requests[2:]] == ["Make green tea.", "Make tea."]
    assert rows[0]["answers"] == ["Leaves.", "Boil water."]


def test_evol_instruct_complicate_input_reads_the_input():
    technique = EvolInstruct(
        LLM,
        input_mappings={"input": "data"},
        mutation_templates={"complicate_input": MUTATION_TEMPLATES["complicate_input"]},
    )
    assert technique.wire(["instruction", "data"]) == {"instruction": "instruction", "input": "data"}
    asked = [next(technique.flow({**ROW, "input": data}, rng())).messages[0]["content"] for data in ("3, 1", "", None)]
    assert "#Given Input#:\n3, 1\n" in asked[0]
    assert "rewrite it too" in asked[0]
    assert all("#Given Input#" not in one and "Add input data" in one for one in asked[1:])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_evolutions": -1}, "num_evolutions .*-1"),
        ({"mutation_templates": {}}, r"mutation_templates .*\{\}"),
        ({"mutation_templates": {"x": "{{ text }}"}}, r"mutation_templates\['x'\] .*\['text'\]"),
    ],
)
def test_evol_instruct_field_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        EvolInstruct(LLM, **fields)


@pytest.mark.parametrize(
    ("before", "evolved", "finish_reason", "rule"),
    [
        ("a", "b", "stop", ""),
        ("a", "", "stop", "empty"),
        ("a", "b", "length", "cut_off"),
        ("Make tea.", "make TEA", "stop", "unchanged"),
        ("Explain pointers in C", "Explain pointers in C++", "stop", ""),
        ("写一首诗", "写一首诗。", "stop", "unchanged"),
        ("यह समझाइए", "यह समझाइए।", "stop", "unchanged"),
        ("ما هذا", "ما هذا؟", "stop", "unchanged"),
        ("Qué es", "¿Qué es?", "stop", "unchanged"),
        ("写一首诗", "写一首短诗。", "stop", ""),
        ("Explain NET", "Explain .NET", "stop", ""),
        ("NET for a beginner", ".NET for a beginner", "stop", ""),
        ("🙂", "🎉", "stop", ""),
        ("a", "The given prompt asks for b", "stop", "leaked_prompt"),
        ("a", "#Rewritten Prompt#", "stop", "leaked_prompt"),
        ("a", "My created_prompt", "stop", "leaked_prompt"),
        ("Improve the given prompt", "Improve the given prompt twice", "stop", ""),
    ],
)
def test_elimination_returns_the_first_rule(before, evolved, finish_reason, rule):
    assert elimination(before, evolved, finish_reason) == rule


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("Sorry, no.", "sorry"),
        ("I am SORRY to say " + "so " * 74, "sorry"),  # 79 words
        ("I am sorry to say " + "word " * 75, ""),  # 80 words
        ("", "no_content"),
        (" ... !", "no_content"),
        ("It is what it is, and so on.", "no_content"),
        ("It is water.", ""),
        ("42", ""),
        ("Да.", ""),
        ("好。", ""),
        ("हाँ।", ""),
        ("👍", ""),
        ("。！？", "no_content"),
        ("“抱歉”的英文是 sorry。" + "这个词很常用" * 30, ""),  # 192 signs
        ("英文是 sorry。", "sorry"),
    ],
)
def test_elimination_by_answer_returns_the_rule(answer, rule):
    assert elimination_by_answer(answer) == rule
