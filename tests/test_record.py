import sys
from collections import Counter

import pytest
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets, load_dataset, load_from_disk

from hfsynth import EchoLLM, EvolInstruct, Magpie, SelfInstruct, TextGeneration, split_failures
from hfsynth.llms.fakes import ScriptedLLM
from hfsynth.record import RunRecord, Source, StepTally, machine, records, step_names, versions
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
    monkeypatch.setattr("hfsynth.record._BATCH_ROWS", 7)
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


def only_some(dataset):
    return dataset.filter(lambda row: row["instruction"] != "b")


def second_answer(**fields):
    return TextGeneration(
        EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "second"}, **fields
    )


def ran(pipeline, rows, **options):
    return pipeline.run(Dataset.from_dict({"instruction": rows}), quiet=True, **options)


def test_records_of_run_count_rows_failures_and_tokens():
    result = ran(TextGeneration(RepeatingLLM(("ok", "!odd"))) >> only_some >> second_answer(), ["a", "x", "b", None])
    (record,) = records(result)
    first, function, last = record.steps
    assert record.source == Source(4, ("instruction",))
    assert (first.name, first.rows_in, first.rows_out) == ("TextGeneration", 4, 2)
    assert (function.name, function.rows_in, function.rows_out) == ("only_some", 2, len(result) - 2)
    assert first.failures == {"odd": 1, "instruction is None": 1}
    assert last.failures == {}, "both failed before"
    assert (first.prompt_tokens, first.completion_tokens) == (6, 4)
    assert first.finish_reasons == {"stop": 2, "refused": 1}
    assert (first.node.model, function.node.model, last.node.model) == ("scripted", "", "echo")
    assert first.seconds >= first.wall_seconds > 0
    assert first.versions["datasets"]
    assert first.recipe["template"] is None


def test_records_row_that_became_several_is_counted_once():
    llm = RepeatingLLM(("one thing?\nanother thing?",))
    pipeline = SelfInstruct(llm, num_instructions=2) >> TextGeneration(llm)
    result = pipeline.run(Dataset.from_dict({"input": ["a", "b", "c"]}), quiet=True, chunk_size=2)
    first, last = records(result)[0].steps
    assert (first.rows_in, first.rows_out, first.completion_tokens) == (3, 6, 6)
    assert (last.rows_in, last.completion_tokens, last.finish_reasons) == (6, 12, {"stop": 6})


def test_records_eliminated_rounds_are_counted_by_rule():
    llm = RepeatingLLM(("Explain tea in 20 words.", "Tell me.", ""))
    result = ran(EvolInstruct(llm, output_mappings={"evolutions": "rounds"}) >> answer_evolved(), ["Tell me"] * 6)
    stopped = Counter(one["eliminated_by"] for row in result["rounds"] for one in row)
    assert records(result)[0].steps[0].stopped == stopped == {"": 2, "unchanged": 2, "empty": 2}


def answer_evolved():
    return TextGeneration(EchoLLM(), input_mappings={"instruction": "evolved_instruction"})


def test_records_survive_changes_of_the_dataset(tmp_path):
    result = ran(TextGeneration(EchoLLM()) >> second_answer(), ["a", "b"])
    (record,) = records(result)
    changed = (
        result.filter(lambda row: True)
        .map(lambda row: row, remove_columns=["second"])
        .rename_column("generation", "x")
    )
    changed.select([0]).save_to_disk(str(tmp_path / "disk"))
    assert records(load_from_disk(str(tmp_path / "disk"))) == [record]
    assert records(concatenate_datasets([result, result])) == [record]


def test_records_of_two_runs_in_a_row_are_both_kept():
    result = ran(TextGeneration(EchoLLM()) >> only_some, ["a", "b"])
    twice = (second_answer() >> only_some).run(result, quiet=True)
    assert [[step.name for step in record.steps] for record in records(twice)] == [
        ["TextGeneration", "only_some"],
        ["TextGeneration", "only_some"],
    ]


def test_records_of_a_finished_run_are_the_same(tmp_path):
    first = ran(TextGeneration(EchoLLM()) >> second_answer(), ["a", "b"], run_dir=tmp_path / "run")
    second = ran(TextGeneration(EchoLLM()) >> second_answer(), ["a", "b"], run_dir=tmp_path / "run")
    assert records(first) == records(second)


def test_records_line_separator_in_a_prompt_is_kept():
    (record,) = records(ran(TextGeneration(EchoLLM(), template="a\u2028b\x85{{ instruction }}") >> only_some, ["a"]))
    assert record.steps[0].recipe["template"] == "a\u2028b\x85{{ instruction }}"
    assert RunRecord.from_json(record.to_json()) == record


def test_records_of_plain_dataset_are_empty():
    assert records(Dataset.from_dict({"a": [1]})) == []


def test_source_of_a_file_is_named_by_its_type(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a"}\n')
    rows = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    assert Source.of(rows) == Source(1, ("instruction",), "json")


def test_records_of_magpie_count_rows():
    result = (Magpie(EchoLLM()) >> TextGeneration(EchoLLM())).run(Dataset.from_dict({"id": [1, 2]}), quiet=True)
    assert [step.rows_out for step in records(result)[0].steps] == [2, 2]


def test_records_of_run_without_rows_count_zero():
    empty = Dataset.from_dict({"instruction": []}, features=Features({"instruction": Value("string")}))
    result = (TextGeneration(EchoLLM()) >> second_answer()).run(empty, quiet=True)
    assert [(step.rows_in, step.rows_out, step.failures) for step in records(result)[0].steps] == [(0, 0, {})] * 2


@pytest.mark.parametrize("text", ["{", "{}", '{"source": {"columns": []}, "steps": [], "chunk_size": 1}'])
def test_run_record_of_other_version_is_an_error(text):
    with pytest.raises(ValueError, match="record of a run"):
        RunRecord.from_json(text)


def test_machine_without_accelerator_names_cores():
    assert machine().endswith(("core", "cores")) or "torch" in sys.modules


def test_machine_with_accelerator_names_it(monkeypatch):
    class Torch:
        class cuda:
            is_available = staticmethod(lambda: True)
            get_device_name = staticmethod(lambda: "NVIDIA H100")

    monkeypatch.setitem(sys.modules, "torch", Torch)
    assert machine() == "NVIDIA H100"


def test_versions_are_those_installed():
    import datasets

    assert versions()["datasets"] == datasets.__version__
    assert {"python", "hfsynth", "torch", "transformers"} <= set(versions())
