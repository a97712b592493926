import random
from collections import Counter

import pytest

from hfsynth import EchoLLM, EvolInstruct, RowError
from hfsynth.techniques.evol_instruct import MUTATION_TEMPLATES
from tests.helpers import drive, say

LLM = EchoLLM()
ROW = {"instruction": "Make tea."}


def rng():
    return random.Random(1)


def test_each_round_evolves_the_version_before():
    technique = EvolInstruct(LLM, num_evolutions=2)
    requests, rows = drive(technique.flow(ROW, rng()), say("Make green tea."), say("Make green tea for two."))
    assert "Make tea." in requests[0].messages[0]["content"]
    assert "Make green tea." in requests[1].messages[0]["content"]
    assert rows[0]["evolved_instruction"] == "Make green tea for two."


def test_every_round_is_kept_with_the_operation_that_made_it():
    flow = EvolInstruct(LLM, num_evolutions=2).flow(ROW, rng())
    _, rows = drive(flow, say("Make green tea."), say("Make  green TEA!"))
    first, second = rows[0]["evolutions"]
    assert first["operation"] in MUTATION_TEMPLATES
    assert (first["instruction"], first["eliminated_by"]) == ("Make green tea.", "")
    assert (second["instruction"], second["eliminated_by"]) == ("Make  green TEA!", "unchanged")


def test_an_eliminated_round_keeps_the_version_before():
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
def test_evol_instruct_wrapped_round_stands_unwrapped(completion):
    """Words of the operation's prompt eliminate no round that has them around its text alone."""
    _, rows = drive(EvolInstruct(LLM).flow(ROW, rng()), say(completion))
    assert rows[0]["evolved_instruction"] == "Make green tea."
    assert [one["eliminated_by"] for one in rows[0]["evolutions"]] == [""]


def test_evol_instruct_announcement_alone_is_eliminated():
    _, rows = drive(EvolInstruct(LLM).flow(ROW, rng()), say("Here is the rewritten prompt:"))
    assert [one["eliminated_by"] for one in rows[0]["evolutions"]] == ["empty"]


def test_where_no_round_stood_the_original_is_what_is_left():
    _, rows = drive(EvolInstruct(LLM).flow(ROW, rng()), say("Make tea."))
    assert rows[0]["evolved_instruction"] == "Make tea."
    _, rows = drive(EvolInstruct(LLM, store_evolutions=True).flow(ROW, rng()), say("Make tea."))
    assert rows[0]["evolved_instructions"] == ["Make tea."]


@pytest.mark.parametrize(
    ("store", "include", "expected"),
    [(False, False, "c"), (True, False, ["b", "c"]), (False, True, ["a", "c"]), (True, True, ["a", "b", "c"])],
)
def test_which_versions_are_kept_is_as_asked(store, include, expected):
    technique = EvolInstruct(LLM, num_evolutions=2, store_evolutions=store, include_original_instruction=include)
    _, rows = drive(technique.flow({"instruction": "a"}, rng()), say("b"), say("c"))
    assert next(iter(rows[0].values())) == expected
    assert list(rows[0]) == list(technique.output_features)


@pytest.mark.parametrize("store", [False, True])
def test_answers_go_with_the_versions_that_are_kept(store):
    technique = EvolInstruct(LLM, num_evolutions=2, store_evolutions=store, generate_answers=True)
    answers = [say("B"), say("C")] if store else [say("C")]
    requests, rows = drive(technique.flow({"instruction": "a"}, rng()), say("b"), say("c"), *answers)
    assert requests[-1].messages[0]["content"] == "c"
    assert (rows[0]["answers"] == ["B", "C"]) if store else (rows[0]["answer"] == "C")


def test_no_evolutions_keep_every_instruction_as_it_is():
    _, rows = drive(EvolInstruct(LLM, num_evolutions=0).flow(ROW, rng()))
    assert rows == [{"evolved_instruction": "Make tea.", "evolutions": []}]


def test_operations_are_drawn_uniformly_from_the_rows_own_numbers():
    technique = EvolInstruct(LLM)
    drawn = Counter()
    for row in range(3000):
        _, rows = drive(technique.flow(ROW, random.Random(row)), say("x"))
        drawn[rows[0]["evolutions"][0]["operation"]] += 1
    assert set(drawn) == set(MUTATION_TEMPLATES)
    assert len(MUTATION_TEMPLATES) == 6
    assert all(430 < count < 570 for count in drawn.values())  # 500 expected, 20 a standard deviation


def test_the_order_of_own_templates_changes_nothing():
    one, two = (
        {"x": "X {{ instruction }}", "y": "Y {{ instruction }}"},
        {"y": "Y {{ instruction }}", "x": "X {{ instruction }}"},
    )
    asked = [
        [next(EvolInstruct(LLM, mutation_templates=own).flow(ROW, random.Random(row))) for row in range(20)]
        for own in (one, two)
    ]
    assert asked[0] == asked[1]


def test_an_empty_answer_fails_the_row():
    flow = EvolInstruct(LLM, num_evolutions=0, generate_answers=True).flow(ROW, rng())
    next(flow)
    with pytest.raises(RowError, match="the answer is empty"):
        flow.send(say(""))


def judged(*completions, **fields):
    technique = EvolInstruct(LLM, eliminate=True, **fields)
    return drive(technique.flow(ROW, rng()), *completions)


def test_elimination_asks_a_judge_whether_anything_is_new():
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
def test_elimination_looks_at_the_answer(answer, rule, kept):
    requests, rows = judged(say("Make green tea."), say("Not equal"), say(answer))
    assert requests[2].messages[0]["content"] == "Make green tea."
    assert rows[0]["evolutions"][0]["eliminated_by"] == rule
    assert rows[0]["evolved_instruction"] == kept


def test_a_round_that_fails_by_itself_is_neither_judged_nor_answered():
    requests, rows = judged(say("Make tea!"))
    assert len(requests) == 1
    assert rows[0]["evolutions"][0]["eliminated_by"] == "unchanged"


def test_an_answer_that_elimination_asked_for_is_not_asked_for_again():
    answers = say("Make green tea."), say("Not equal"), say("Boil water."), say("Leaves.")
    requests, rows = judged(*answers, generate_answers=True, include_original_instruction=True)
    assert [request.messages[0]["content"] for request in requests[2:]] == ["Make green tea.", "Make tea."]
    assert rows[0]["answers"] == ["Leaves.", "Boil water."]


def test_complicating_takes_the_input_that_belongs_to_the_instruction():
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
        ({"num_evolutions": -1}, "num_evolutions is -1"),
        ({"mutation_templates": {}}, "at least one"),
        ({"mutation_templates": {"x": "{{ text }}"}}, r"mutation_templates\['x'\] reads \['text'\]"),
    ],
)
def test_a_field_out_of_range_is_an_error_that_names_it(fields, message):
    with pytest.raises(ValueError, match=message):
        EvolInstruct(LLM, **fields)
