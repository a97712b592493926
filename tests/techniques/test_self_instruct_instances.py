import pytest
from datasets import Dataset

from hfsynth import RowError
from hfsynth.parsing.instances import Instance
from hfsynth.techniques.self_instruct_instances import SelfInstructInstances, clean_instances
from tests.helpers import ScriptedLLM, drive, say

YES, NO = say("Yes"), say("No")


def flow(instruction="Sort the numbers.", **fields):
    return SelfInstructInstances(ScriptedLLM(), **fields).flow({"instruction": instruction}, None)


def test_instances_first_request_asks_for_classification():
    request = next(flow("Say which animal it is."))
    assert request.choices == ("Yes", "No")
    assert request.messages[0]["content"].endswith("Task: Say which animal it is.\nClassification:")


def test_instances_classification_writes_output_first():
    requests, rows = drive(flow(), YES, say("Label: Odd\nInput: 3\nLabel: Even\nInput: 4"))
    assert "for each possible label an input" in requests[1].messages[0]["content"]
    assert rows == [
        {"input": "3", "response": "Odd", "is_classification": True, "dropped_instances": []},
        {"input": "4", "response": "Even", "is_classification": True, "dropped_instances": []},
    ]


def test_instances_other_task_writes_input_first():
    requests, rows = drive(flow(), NO, say("Example 1\nInput: 3, 1\nOutput: 1, 3"))
    assert "write one and then the output" in requests[1].messages[0]["content"]
    assert rows == [{"input": "3, 1", "response": "1, 3", "is_classification": False, "dropped_instances": []}]


def test_instances_default_sampling_is_the_papers():
    (_, first), _ = drive(flow(), NO, say("Output: a"))
    (_, second), _ = drive(flow(), YES, say("Label: a\nInput: b"))
    assert [(one.sampling.temperature, one.sampling.presence_penalty) for one in (first, second)] == [(0.0, 1.5)] * 2
    assert (first.sampling.max_new_tokens, second.sampling.max_new_tokens) == (350, 300)


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
def test_clean_instances_drops_by_rule(dropped, rule):
    kept = Instance("x", "y")
    assert clean_instances([dropped, kept, kept], 5) == ([kept], [(dropped, rule), (kept, "repeated")])


def test_clean_instances_contradiction_drops_all():
    found = [Instance("a", "b"), Instance("c", ""), Instance("a", "e")]
    kept, dropped = clean_instances(found, 5)
    assert kept == []
    assert dropped == list(zip(found, ["contradicted", "empty", "contradicted"], strict=True))


def test_clean_instances_without_input_keeps_all():
    found = [Instance("", "Tea."), Instance("", "Milk.")]
    assert clean_instances(found, 5) == (found, [])


def test_clean_instances_keeps_limit_without_the_cut_off():
    text = "\n".join(f"Input: {n}\nOutput: o{n}" for n in range(9))
    _, rows = drive(flow(), NO, say(text))
    assert [row["input"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [one["rule"] for one in rows[0]["dropped_instances"]] == ["surplus"] * 4
    with pytest.raises(RowError, match="no instance that stands: cut_off"):
        drive(flow(), NO, say("Output: The Nile, the Con", "length"))
    _, rows = drive(flow(num_instances=9), NO, say(text, "length"))
    assert len(rows) == 8
    assert rows[0]["dropped_instances"] == [{"input": "8", "response": "o8", "rule": "cut_off"}]


def test_instances_completion_without_instance_fails():
    produced = Dataset.from_dict({"instruction": ["Sort."]}).map(
        SelfInstructInstances(ScriptedLLM(("Output:",))), batched=True, with_indices=True
    )
    entry = produced[0]["generation_metadata"][0]
    assert (entry["error"], entry["raw"]) == ("the completion has no instance that stands: empty", "Output:")
    assert (produced[0]["input"], produced[0]["response"], produced[0]["is_classification"]) == (None, None, None)


def test_instances_number_below_one_is_an_error():
    with pytest.raises(ValueError, match=r"SelfInstructInstances.num_instances .*0"):
        flow(num_instances=0)
