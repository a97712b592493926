import random
from collections import Counter

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from hfsynth import EchoLLM, Magpie, Pipeline, RowError
from tests.helpers import drive, say

LLM = EchoLLM()


def rng():
    return random.Random(0)


def contents(request):
    return request.role, [(message["role"], message["content"]) for message in request.messages]


def test_magpie_requests_user_turn_then_answer():
    requests, rows = drive(Magpie(LLM).flow({}, rng()), say(" Why?\n"), say("Because."))
    assert [contents(request) for request in requests] == [("user", []), ("assistant", [("user", "Why?")])]
    assert rows == [{"instruction": "Why?", "response": "Because."}]


def test_magpie_default_sampling_is_the_papers():
    requests, _ = drive(Magpie(LLM).flow({}, rng()), say("Why?"), say("Because."))
    assert [(r.sampling.temperature, r.sampling.top_p) for r in requests] == [(1.0, 1.0), (0.0, 1.0)]


def test_magpie_each_turn_reads_the_earlier_turns():
    requests, rows = drive(Magpie(LLM, n_turns=2).flow({}, rng()), say("a"), say("b"), say("c"), say("d"))
    assert contents(requests[2]) == ("user", [("user", "a"), ("assistant", "b")])
    assert contents(requests[3]) == ("assistant", [("user", "a"), ("assistant", "b"), ("user", "c")])
    assert [message["content"] for message in rows[0]["messages"]] == ["a", "b", "c", "d"]


def test_magpie_end_with_user_leaves_it_unanswered():
    _, rows = drive(Magpie(LLM, n_turns=2, end_with_user=True).flow({}, rng()), say("a"), say("b"), say("c"))
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant", "user"]


def test_magpie_only_instruction_requests_no_answer():
    assert drive(Magpie(LLM, only_instruction=True).flow({}, rng()), say("a"))[1] == [{"instruction": "a"}]


def test_magpie_system_prompt_is_for_instructions_only():
    system = ("system", "You do math.")
    requests, _ = drive(Magpie(LLM, system_prompt="You do math.").flow({}, rng()), say("a"), say("b"))
    assert [contents(request)[1] for request in requests] == [[system], [("user", "a")]]
    both = Magpie(LLM, system_prompt="You do math.", answer_with_system_prompt=True)
    requests, _ = drive(both.flow({}, rng()), say("a"), say("b"))
    assert contents(requests[1])[1] == [system, ("user", "a")]


def test_magpie_system_prompt_column_takes_precedence():
    requests, _ = drive(Magpie(LLM, system_prompt="field").flow({"system_prompt": "own"}, rng()), say("a"), say("b"))
    assert contents(requests[0])[1] == [("system", "own")]
    requests, _ = drive(Magpie(LLM, system_prompt="field").flow({"system_prompt": None}, rng()), say("a"), say("b"))
    assert contents(requests[0])[1] == [("system", "field")]


def test_magpie_system_prompts_are_sampled_by_weight():
    technique = Magpie(LLM, system_prompt={"math": "M", "art": ("A", 3)}, only_instruction=True)
    counts = Counter()
    for row in range(4000):
        requests, rows = drive(technique.flow({}, random.Random(row)), say("a"))
        counts[rows[0]["system_prompt_key"], contents(requests[0])[1][0][1]] += 1
    assert set(counts) == {("math", "M"), ("art", "A")}
    assert 900 < counts["math", "M"] < 1100


def test_magpie_system_prompt_list_is_sampled():
    technique = Magpie(LLM, system_prompt=["A", "B", "C"], only_instruction=True)
    asked = [next(technique.flow({}, random.Random(row))) for row in range(50)]
    assert {request.messages[0]["content"] for request in asked} == {"A", "B", "C"}
    assert "system_prompt_key" not in technique.output_features


def test_magpie_include_system_prompt_keeps_it():
    single = Magpie(LLM, system_prompt="S", include_system_prompt=True)
    assert drive(single.flow({}, rng()), say("a"), say("b"))[1][0]["system_prompt"] == "S"
    several = Magpie(LLM, system_prompt="S", include_system_prompt=True, n_turns=2, end_with_user=True)
    _, rows = drive(several.flow({}, rng()), say("a"), say("b"), say("c"))
    assert rows[0]["messages"][0] == {"role": "system", "content": "S"}


def test_magpie_keep_thinking_is_no_part_of_turns():
    technique = Magpie(LLM, n_turns=2, keep_thinking=True)
    flow = technique.flow({}, rng())
    requests, rows = drive(flow, say("a"), say("b", thinking="hm"), say("c"), say("d", thinking="ha"))
    assert rows[0]["thinking"] == ["hm", "ha"]
    assert contents(requests[2])[1] == [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("completions", "reason"),
    [
        ([say("")], r"the user's turn 1 is empty \(finish_reason: stop\)"),
        ([say("half a", "length")], "the user's turn 1 was cut off"),
        ([say("a"), say("")], "the assistant's turn 1 is empty"),
    ],
)
def test_magpie_empty_or_truncated_turn_fails_the_row(completions, reason):
    with pytest.raises(RowError, match=reason):
        drive(Magpie(LLM).flow({}, rng()), *completions)


def test_magpie_over_a_stream_equals_a_dataset():
    produced = Dataset.from_dict({"id": range(20)}).map(Magpie(LLM), batched=True, with_indices=True, batch_size=5)
    assert len(set(produced["instruction"][:])) == 20
    stream = IterableDataset.from_generator(lambda: ({"id": n} for n in range(20)))
    streamed = list(stream.map(Magpie(LLM), batched=True, with_indices=True, batch_size=5))
    assert [row["instruction"] for row in streamed] == produced["instruction"][:]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_turns": 0}, "n_turns .*0"),
        ({"end_with_user": True}, "end_with_user .*1"),
        ({"only_instruction": True, "n_turns": 2}, "only_instruction .*n_turns=2"),
        ({"system_prompt": ""}, r"system_prompt\['0'\] must be text"),
        ({"system_prompt": {"a": ("A", 0)}}, r"system_prompt\['a'\] must be text, or \(text, weight above 0\)"),
        ({"system_prompt": {"a": ("A",)}}, r"system_prompt\['a'\] must be text, or \(text, weight above 0\)"),
    ],
)
def test_magpie_conflicting_fields_are_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        Magpie(LLM, **fields)


def test_magpie_splits_get_different_rows():
    """The indices of both begin with 0: what tells the rows apart are their ids."""
    splits = {"train": Dataset.from_dict({"id": range(6)}), "test": Dataset.from_dict({"id": range(6, 9)})}
    produced = DatasetDict(splits).map(Magpie(EchoLLM(), only_instruction=True), batched=True, with_indices=True)
    seeds = {name: [row[0]["seed"] for row in produced[name]["generation_metadata"]] for name in splits}
    assert not set(seeds["train"]) & set(seeds["test"])


@pytest.mark.parametrize(
    "columns", [{"id": [7, 7, 8]}, {"id": [7, 7, 8], "tags": [["a"], ["b"], None]}, {"text": ["a", None, "a"]}]
)
def test_magpie_in_a_run_samples_as_in_map(columns, tmp_path):
    rows = Dataset.from_dict(columns)
    technique = Magpie(EchoLLM(), only_instruction=True)
    mapped = rows.map(technique, batched=True, with_indices=True)
    ran = Pipeline((technique,)).run(rows, run_dir=tmp_path, chunk_size=2, quiet=True)
    assert ran["generation_metadata"][:] == mapped["generation_metadata"][:]
    assert len({row[0]["seed"] for row in ran["generation_metadata"]}) == 3
