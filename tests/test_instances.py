import pytest
from datasets import Dataset

from hfsynth import RowError
from hfsynth.techniques.instances import Instance, SelfInstructInstances, clean_instances, parse_instances
from tests.helpers import ScriptedLLM, drive, say

YES, NO = say("Yes"), say("No")


def flow(instruction="Sort the numbers.", **fields):
    return SelfInstructInstances(ScriptedLLM(), **fields).flow({"instruction": instruction}, None)


def test_it_is_first_asked_whether_the_task_is_a_classification():
    request = next(flow("Say which animal it is."))
    assert request.choices == ("Yes", "No")
    assert request.messages[0]["content"].endswith("Task: Say which animal it is.\nClassification:")


def test_a_classification_gets_its_labels_first():
    requests, rows = drive(flow(), YES, say("Label: Odd\nInput: 3\nLabel: Even\nInput: 4"))
    assert "for each possible label an input" in requests[1].messages[0]["content"]
    assert rows == [
        {"input": "3", "response": "Odd", "is_classification": True, "dropped_instances": []},
        {"input": "4", "response": "Even", "is_classification": True, "dropped_instances": []},
    ]


def test_any_other_task_gets_its_inputs_first():
    requests, rows = drive(flow(), NO, say("Example 1\nInput: 3, 1\nOutput: 1, 3"))
    assert "write one and then the output" in requests[1].messages[0]["content"]
    assert rows == [{"input": "3, 1", "response": "1, 3", "is_classification": False, "dropped_instances": []}]


def test_the_paper_s_sampling_is_the_default():
    (_, first), _ = drive(flow(), NO, say("Output: a"))
    (_, second), _ = drive(flow(), YES, say("Label: a\nInput: b"))
    assert [(one.sampling.temperature, one.sampling.presence_penalty) for one in (first, second)] == [(0.0, 1.5)] * 2
    assert (first.sampling.max_new_tokens, second.sampling.max_new_tokens) == (350, 300)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Output: The Nile.", [Instance("", "The Nile.")]),
        ("The Nile.\nThe Congo.", [Instance("", "The Nile.\nThe Congo.")]),
        ("Input: None\nOutput: The Nile.", [Instance("", "The Nile.")]),
        ("Output: a\nOutput: b", [Instance("", "a"), Instance("", "b")]),
        ("**Input:** a\n**Output:** b\nc", [Instance("a", "b\nc")]),
        ("Example 1:\nInput: a\nOutput: b\n\nExample 2:\nOutput: c", [Instance("a", "b"), Instance("", "c")]),
        ("Class label: Good\nInput: x y\nz", [Instance("x y\nz", "Good")]),
        ("Label: a\nInput: 1\nInput: 2", [Instance("1", "a"), Instance("2", "")]),
        ("Input: the output: of it\nOutput: b", [Instance("the output: of it", "b")]),
        (" \n", []),
    ],
)
def test_instances_are_read_however_they_are_written(text, found):
    assert list(parse_instances(text)) == found


@pytest.mark.parametrize(
    ("dropped", "rule"),
    [
        (Instance("same", "same"), "copied"),
        (Instance("a", ""), "empty"),
        (Instance("a:", "b"), "colon"),
        (Instance("a", "b:"), "colon"),
    ],
    ids=str,
)
def test_what_is_no_instance_is_dropped_and_told_with_its_rule(dropped, rule):
    kept = Instance("x", "y")
    assert clean_instances([dropped, kept, kept], 5) == ([kept], [(dropped, rule), (kept, "repeated")])


def test_a_task_of_which_an_input_has_two_responses_is_dropped_whole():
    found = [Instance("a", "b"), Instance("c", ""), Instance("a", "e")]
    kept, dropped = clean_instances(found, 5)
    assert kept == []
    assert dropped == list(zip(found, ["contradicted", "empty", "contradicted"], strict=True))


def test_a_task_without_input_may_have_several_responses():
    found = [Instance("", "Tea."), Instance("", "Milk.")]
    assert clean_instances(found, 5) == (found, [])


def test_no_more_instances_are_kept_than_asked_for_and_none_that_was_cut_off():
    text = "\n".join(f"Input: {n}\nOutput: o{n}" for n in range(9))
    _, rows = drive(flow(), NO, say(text))
    assert [row["input"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [one["rule"] for one in rows[0]["dropped_instances"]] == ["surplus"] * 4
    with pytest.raises(RowError, match="no instance that stands: cut_off"):
        drive(flow(), NO, say("Output: The Nile, the Con", "length"))
    _, rows = drive(flow(num_instances=9), NO, say(text, "length"))
    assert len(rows) == 8
    assert rows[0]["dropped_instances"] == [{"input": "8", "response": "o8", "rule": "cut_off"}]


def test_a_task_without_an_instance_failed():
    made = Dataset.from_dict({"instruction": ["Sort."]}).map(
        SelfInstructInstances(ScriptedLLM(("Output:",))), batched=True, with_indices=True
    )
    entry = made[0]["generation_metadata"][0]
    assert (entry["error"], entry["raw"]) == ("the completion has no instance that stands: empty", "Output:")
    assert (made[0]["input"], made[0]["response"], made[0]["is_classification"]) == (None, None, None)


def test_a_number_of_instances_below_one_is_an_error():
    with pytest.raises(ValueError, match=r"SelfInstructInstances.num_instances is 0; it must be at least 1"):
        flow(num_instances=0)
