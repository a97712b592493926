"""Hashes of rows and chunks, and the chunks that a run reuses from another."""

from datasets import Dataset, concatenate_datasets, load_dataset, load_from_disk

from hfsynth import Pipeline, TextGeneration
from hfsynth.runner.reuse import chunk_keys, content_key, fingerprint_of
from tests.helpers import RepeatingLLM

ROWS = Dataset.from_dict(
    {"text": ["a", None, "ccc", "d", "", "f"], "flag": [True, None, False, True, True, None], "n": [1, 2, 3, 4, 5, 6]}
)


def test_content_key_equal_rows_same_wherever_stored(tmp_path):
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


def test_content_key_other_rows_columns_or_order_differs():
    others = [
        ROWS,
        ROWS.select(range(5)),
        ROWS.select([1, 0, 2, 3, 4, 5]),
        ROWS.rename_column("n", "m"),
        ROWS.map(lambda row: {"n": row["n"] + (row["n"] == 6)}),
        ROWS.select([]),
    ]
    assert len({content_key(other) for other in others}) == 6


def test_chunk_keys_depend_on_rows_index_and_step():
    keys = chunk_keys(ROWS, 2, 0, "s")
    assert chunk_keys(ROWS.select(range(2, 6)), 2, 2, "s") == keys[1:]
    assert chunk_keys(ROWS, 2, 2, "s")[0] not in keys
    assert not set(chunk_keys(ROWS, 2, 0, "t")) & set(keys)


def num_requests(log):
    return len(log.read_text().splitlines())


def test_run_appended_rows_generates_only_them(tmp_path):
    log = tmp_path / "log"
    step = Pipeline((TextGeneration(RepeatingLLM(log=str(log))),))
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(12)]})
    step.run(rows.select(range(8)), run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    extended = step.run(rows, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert num_requests(log) == 12
    other = step.run(rows, run_dir=tmp_path / "other", chunk_size=4, quiet=True)
    assert extended.to_list() == other.to_list()


def test_run_changed_chunk_generates_only_it(tmp_path):
    log = tmp_path / "log"
    step = Pipeline((TextGeneration(RepeatingLLM(log=str(log))),))
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(8)]})
    changed = Dataset.from_dict({"instruction": [*(f"say {n}" for n in range(4)), *["other"] * 4]})
    step.run(rows, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    step.run(changed, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert num_requests(log) == 12


def test_run_larger_num_rows_generates_only_the_rest(tmp_path):
    log = tmp_path / "log"
    step = Pipeline((TextGeneration(RepeatingLLM(log=str(log))),))
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(40)]})
    few = step.run(rows, num_rows=8, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    many = step.run(rows, num_rows=12, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert many.select(range(8)).to_list() == few.to_list()
    assert num_requests(log) == 12


def test_fingerprint_of_dataset_is_its_fingerprint():
    rows = Dataset.from_dict({"a": [1, 2]})
    assert fingerprint_of(Dataset(rows.data, fingerprint="print")) == "print"
    assert fingerprint_of(rows.map(lambda row: row, new_fingerprint="other")) == "other"
