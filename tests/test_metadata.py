import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from hfsynth import EchoLLM, SelfInstruct, TextGeneration, split_failures
from hfsynth.llms.fakes import ScriptedLLM
from hfsynth.metadata import StepTally, step_names
from tests.helpers import RepeatingLLM


def test_split_failures_keeps_every_row_once():
    dataset = Dataset.from_dict({"instruction": ["a", None, "b", ""]})
    answered = dataset.map(TextGeneration(EchoLLM()), batched=True, with_indices=True)
    rows, failures = split_failures(answered)
    assert rows["instruction"][:] == ["a", "b"]
    assert failures[:] == {
        "step": ["TextGeneration"] * 2,
        "row": [1, 3],
        "column": ["generation", "generation"],
        "reason": ["instruction is None", "instruction is empty"],
        "raw": ["", ""],
        "rule": ["", ""],
        "value": ["", ""],
        "matched": ["", ""],
    }


def test_split_failures_in_many_batches_finds_each_row(monkeypatch):
    monkeypatch.setattr("hfsynth.metadata._BATCH_ROWS", 7)
    texts = [None if n % 9 == 4 else f"say {n}" for n in range(100)]
    answered = Dataset.from_dict({"instruction": texts}).map(
        TextGeneration(EchoLLM()), batched=True, with_indices=True, batch_size=13
    )
    rows, failures = split_failures(answered.select(range(3, 100)).select(range(95)))
    assert failures["row"][:] == [n for n in range(3, 98) if n % 9 == 4]
    assert rows["instruction"][:] == [f"say {n}" for n in range(3, 98) if n % 9 != 4]


def test_split_failures_names_the_first_failed_step():
    dataset = Dataset.from_dict({"instruction": [None]})
    answered = dataset.map(
        TextGeneration(EchoLLM(), output_mappings={"generation": "a"}), batched=True, with_indices=True
    )
    second = TextGeneration(EchoLLM(), input_mappings={"instruction": "a"}, name="second")
    _, failures = split_failures(answered.map(second, batched=True, with_indices=True))
    assert failures["step"][:] == ["TextGeneration"]


def test_split_failures_without_metadata_is_an_error():
    with pytest.raises(ValueError, match=r"'generation_metadata'.*'a'"):
        split_failures(Dataset.from_dict({"a": [1]}))


def test_split_failures_of_dataset_dict_is_an_error():
    with pytest.raises(TypeError, match="DatasetDict"):
        split_failures(DatasetDict({"train": Dataset.from_dict({"a": [1]})}))


def test_step_names_lists_steps_and_counts_other_rows():
    answered = Dataset.from_dict({"instruction": ["a", "b"]}).map(
        TextGeneration(EchoLLM()), batched=True, with_indices=True
    )
    second = TextGeneration(EchoLLM(), output_mappings={"generation": "second"}, name="second")
    both = answered.map(second, batched=True, with_indices=True)
    mixed = concatenate_datasets([Dataset.from_dict({"instruction": ["c"]}), answered, both.select([1])])
    assert step_names(mixed) == (["TextGeneration", "second"], 1)
    assert step_names(Dataset.from_dict({"a": [1, 2]})) == ([], 2)


def counted(dataset, step):
    tally = StepTally(step=step)
    tally.update(dataset.with_format("arrow")[:])
    return tally.rows, tally.rows_out, tally.completion_tokens


def test_tally_of_concatenated_results_counts_every_row():
    """Rows of two calls have equal indices, and so equal seeds."""
    technique = TextGeneration(RepeatingLLM())
    parts = [
        Dataset.from_dict({"instruction": texts}).map(technique, batched=True, with_indices=True)
        for texts in (["a", "b", "c"], ["a", "b"])
    ]
    assert counted(concatenate_datasets(parts), "TextGeneration") == (5, 5, 10)


def test_tally_of_rows_that_became_several_counts_them_once():
    """Two rows became two each, then three each; shuffled, repeated or filtered, the first step worked on two."""
    requested = Dataset.from_dict({"input": ["a", "b"]}).map(
        SelfInstruct(RepeatingLLM(("1. What?\n2. Who?",))), batched=True, with_indices=True
    )
    answered = requested.map(TextGeneration(RepeatingLLM(), num_generations=3), batched=True, with_indices=True)
    assert len(answered) == 12
    assert counted(answered.shuffle(seed=1), "SelfInstruct") == (2, 12, 4)
    assert counted(answered.shuffle(seed=1), "TextGeneration") == (4, 12, 24)
    assert counted(answered.select(range(1, 12)), "SelfInstruct")[0] == 2
    assert counted(concatenate_datasets([answered, answered]), "SelfInstruct")[0] == 4


def halves_without_siblings(llm, texts):
    """Two halves of equal indices whose rows became two each, of which a filter has left the first."""
    technique = SelfInstruct(llm)
    halves = [Dataset.from_dict({"input": half}) for half in (texts[:4], texts[4:])]
    asked = concatenate_datasets([half.map(technique, batched=True, with_indices=True) for half in halves])
    return asked.select(range(0, len(asked), 2))


def test_tally_of_halves_without_siblings_uses_tokens():
    """By seeds and shares alone they would be 4 rows, but the prompts differ in length."""
    llm = ScriptedLLM(lambda request: "1. What?\n2. Who?")
    texts = [" ".join(["word"] * n) for n in range(1, 9)]
    assert counted(halves_without_siblings(llm, texts), "SelfInstruct")[:2] == (8, 8)


def test_tally_of_rows_with_equal_entries_is_a_minimum():
    llm = RepeatingLLM(("1. What?\n2. Who?",))
    assert counted(halves_without_siblings(llm, list("abcdefgh")), "SelfInstruct") == (4, 8, 8)


def test_tally_of_a_later_step_leaves_failed_rows_out():
    first = Dataset.from_dict({"instruction": ["a", "b", "c"]}).map(
        TextGeneration(RepeatingLLM(("ok", "!odd", "ok"))), batched=True, with_indices=True
    )
    second = TextGeneration(
        RepeatingLLM(), name="Second", input_mappings={"instruction": "generation"},
        output_mappings={"generation": "answer"},
    )  # fmt: skip
    answered = first.map(second, batched=True, with_indices=True)
    assert counted(answered, "TextGeneration")[:2] == (3, 2)
    assert counted(answered, "Second") == (2, 2, 4)


def test_metadata_seed_is_that_of_the_first_request(tmp_path):
    llm = RepeatingLLM(log=str(tmp_path / "log"))
    answered = Dataset.from_dict({"instruction": ["a", "b"]}).map(TextGeneration(llm), batched=True, with_indices=True)
    requested = [int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()]
    assert [row[0]["seed"] for row in answered["generation_metadata"]] == requested
