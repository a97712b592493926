"""Rows are recognised by their content, and chunks of them are taken over from another folder of a run directory."""

from datasets import Dataset, concatenate_datasets, load_dataset, load_from_disk

from hfsynth import Pipeline, TextGeneration
from hfsynth.runner.chunks import chunk_keys, content_key, fingerprint_of
from tests.helpers import ScriptedLLM

ROWS = Dataset.from_dict(
    {"text": ["a", None, "ccc", "d", "", "f"], "flag": [True, None, False, True, True, None], "n": [1, 2, 3, 4, 5, 6]}
)


def test_equal_rows_have_one_key_wherever_they_lie(tmp_path):
    ROWS.to_json(str(tmp_path / "a.jsonl"))
    ROWS.save_to_disk(str(tmp_path / "disk"))
    loaded = load_dataset("json", data_files=str(tmp_path / "a.jsonl"), split="train")
    others = [
        loaded,
        load_from_disk(str(tmp_path / "disk")),
        concatenate_datasets([ROWS.select([0, 1]), ROWS.select(range(2, 6))]),
        concatenate_datasets([ROWS, ROWS]).select([6, 7, 8, 9, 10, 11]),
    ]
    assert {content_key(other) for other in others} == {content_key(ROWS)}


def test_other_rows_columns_or_orders_have_other_keys():
    others = [
        ROWS,
        ROWS.select(range(5)),
        ROWS.select([1, 0, 2, 3, 4, 5]),
        ROWS.rename_column("n", "m"),
        ROWS.map(lambda row: {"n": row["n"] + (row["n"] == 6)}),
        ROWS.select([]),
    ]
    assert len({content_key(other) for other in others}) == 6


def test_a_chunk_key_has_rows_index_and_step():
    whole = chunk_keys(ROWS, 2, 0, "s")
    assert chunk_keys(ROWS.select(range(2, 6)), 2, 2, "s") == whole[1:]
    assert chunk_keys(ROWS, 2, 2, "s")[0] not in whole
    assert not set(chunk_keys(ROWS, 2, 0, "t")) & set(whole)


def count(log) -> int:
    return len(log.read_text().splitlines())


def test_appended_rows_are_generated_alone(tmp_path):
    log = tmp_path / "log"
    step = Pipeline((TextGeneration(ScriptedLLM(log=str(log))),))
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(12)]})
    step.run(rows.select(range(8)), run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    made = step.run(rows, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert count(log) == 12
    other = step.run(rows, run_dir=tmp_path / "other", chunk_size=4, quiet=True)
    assert made.to_list() == other.to_list()


def test_a_chunk_that_differs_is_generated_again(tmp_path):
    log = tmp_path / "log"
    step = Pipeline((TextGeneration(ScriptedLLM(log=str(log))),))
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(8)]})
    changed = Dataset.from_dict({"instruction": [*(f"say {n}" for n in range(4)), *["other"] * 4]})
    step.run(rows, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    step.run(changed, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert count(log) == 12


def test_more_rows_wanted_generate_the_rest_alone(tmp_path):
    log = tmp_path / "log"
    step = Pipeline((TextGeneration(ScriptedLLM(log=str(log))),))
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(40)]})
    few = step.run(rows, num_rows=8, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    many = step.run(rows, num_rows=12, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert many.select(range(8)).to_list() == few.to_list()
    assert count(log) == 12


def test_a_step_name_writes_nothing_outside_the_run_directory(tmp_path):
    step = TextGeneration(ScriptedLLM(), name="../../x")
    Pipeline((step,)).run(Dataset.from_dict({"instruction": ["a"]}), run_dir=tmp_path / "a" / "run", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run"]


def test_fingerprint_is_that_of_the_dataset_constructor():
    rows = Dataset.from_dict({"a": [1, 2]})
    assert fingerprint_of(Dataset(rows.data, fingerprint="print")) == "print"
    assert fingerprint_of(rows.map(lambda row: row, new_fingerprint="other")) == "other"
