from collections import Counter

import pytest
from datasets import Dataset, Features, Value, concatenate_datasets, load_dataset, load_from_disk

from hfsynth import EchoLLM, EvolInstruct, Magpie, SelfInstruct, TextGeneration
from hfsynth.run_record import RunRecord, Source, records
from tests.helpers import ScriptedLLM


def only_some(dataset):
    return dataset.filter(lambda row: row["instruction"] != "b")


def again(**fields):
    return TextGeneration(
        EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "again"}, **fields
    )


def ran(pipeline, rows, **options):
    return pipeline.run(Dataset.from_dict({"instruction": rows}), quiet=True, **options)


def test_a_record_tells_what_every_step_read_made_and_cost():
    made = ran(TextGeneration(ScriptedLLM(("ok", "!odd"))) >> only_some >> again(), ["a", "x", "b", None])
    (record,) = records(made)
    first, function, last = record.steps
    assert record.source == Source(4, ("instruction",))
    assert (first.name, first.rows_in, first.rows_out) == ("TextGeneration", 4, 2)
    assert (function.name, function.rows_in, function.rows_out) == ("only_some", 2, len(made) - 2)
    assert first.failures == {"odd": 1, "instruction is None": 1}
    assert last.failures == {}, "both failed before"
    assert (first.prompt_tokens, first.completion_tokens) == (6, 4)
    assert first.finish_reasons == {"stop": 2, "refused": 1}
    assert (first.node.model, function.node.model, last.node.model) == ("scripted", "", "echo")
    assert first.seconds >= first.wall_seconds > 0
    assert first.versions["datasets"]
    assert first.recipe["template"] is None


def test_a_row_that_became_several_is_counted_once():
    llm = ScriptedLLM(("one thing?\nanother thing?",))
    pipeline = SelfInstruct(llm, num_instructions=2) >> TextGeneration(llm)
    made = pipeline.run(Dataset.from_dict({"input": ["a", "b", "c"]}), quiet=True, chunk_size=2)
    first, last = records(made)[0].steps
    assert (first.rows_in, first.rows_out, first.completion_tokens) == (3, 6, 6)
    assert (last.rows_in, last.completion_tokens, last.finish_reasons) == (6, 12, {"stop": 6})


def test_the_rounds_that_a_rule_stopped_are_counted_by_rule():
    llm = ScriptedLLM(("Explain tea in 20 words.", "Tell me.", ""))
    made = ran(EvolInstruct(llm, output_mappings={"evolutions": "rounds"}) >> again_of_evolved(), ["Tell me"] * 6)
    stopped = Counter(one["eliminated_by"] for row in made["rounds"] for one in row)
    assert records(made)[0].steps[0].stopped == stopped == {"": 2, "unchanged": 2, "empty": 2}


def again_of_evolved():
    return TextGeneration(EchoLLM(), input_mappings={"instruction": "evolved_instruction"})


def test_the_record_is_kept_whatever_is_done_to_the_dataset(tmp_path):
    made = ran(TextGeneration(EchoLLM()) >> again(), ["a", "b"])
    (record,) = records(made)
    changed = (
        made.filter(lambda row: True).map(lambda row: row, remove_columns=["again"]).rename_column("generation", "x")
    )
    changed.select([0]).save_to_disk(str(tmp_path / "disk"))
    assert records(load_from_disk(str(tmp_path / "disk"))) == [record]
    assert records(concatenate_datasets([made, made])) == [record]


def test_a_run_on_what_a_run_made_keeps_both_records():
    made = ran(TextGeneration(EchoLLM()) >> only_some, ["a", "b"])
    twice = (again() >> only_some).run(made, quiet=True)
    assert [[step.name for step in record.steps] for record in records(twice)] == [
        ["TextGeneration", "only_some"],
        ["TextGeneration", "only_some"],
    ]


def test_a_run_that_finds_everything_finished_has_the_same_record(tmp_path):
    first = ran(TextGeneration(EchoLLM()) >> again(), ["a", "b"], run_dir=tmp_path / "run")
    second = ran(TextGeneration(EchoLLM()) >> again(), ["a", "b"], run_dir=tmp_path / "run")
    assert records(first) == records(second)


def test_a_line_separator_in_a_prompt_does_not_cut_the_record():
    (record,) = records(ran(TextGeneration(EchoLLM(), template="a\u2028b\x85{{ instruction }}") >> only_some, ["a"]))
    assert record.steps[0].recipe["template"] == "a\u2028b\x85{{ instruction }}"
    assert RunRecord.from_json(record.to_json()) == record


def test_a_dataset_that_no_run_made_has_no_record():
    assert records(Dataset.from_dict({"a": [1]})) == []


def test_a_source_in_a_file_is_told_by_its_kind(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a"}\n')
    rows = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    assert Source.of(rows) == Source(1, ("instruction",), "json")


def test_magpie_rows_have_a_record_too():
    made = (Magpie(EchoLLM()) >> TextGeneration(EchoLLM())).run(Dataset.from_dict({"id": [1, 2]}), quiet=True)
    assert [step.rows_out for step in records(made)[0].steps] == [2, 2]


def test_a_run_of_no_rows_has_a_record():
    empty = Dataset.from_dict({"instruction": []}, features=Features({"instruction": Value("string")}))
    made = (TextGeneration(EchoLLM()) >> again()).run(empty, quiet=True)
    assert [(step.rows_in, step.rows_out, step.failures) for step in records(made)[0].steps] == [(0, 0, {})] * 2


@pytest.mark.parametrize("text", ["{", "{}", '{"source": {"columns": []}, "steps": [], "chunk_size": 1}'])
def test_a_record_of_another_version_is_an_error_that_says_so(text):
    with pytest.raises(ValueError, match="can't be read by this version"):
        RunRecord.from_json(text)
