import json

import pytest
from datasets import Dataset

from hfsynth import EchoLLM, TextGeneration, push_to_hub, save
from hfsynth.inputs import load_failures, load_rows, load_runs

MADE = Dataset.from_dict({"instruction": ["a", None]}).map(
    TextGeneration(EchoLLM()), batched=True, with_indices=True, load_from_cache_file=False
)


@pytest.fixture(params=["folder", "hub"])
def name(request, tmp_path, hub):
    """A dataset with a row and a failure, in a folder or on the Hub."""
    if request.param == "folder":
        save(MADE, tmp_path / "made", config_name="text")
        return str(tmp_path / "made")
    push_to_hub(MADE, "user/made", config_name="text")
    return "user/made"


def test_rows_and_failures_are_found_by_the_name_of_a_folder_or_of_a_dataset_on_the_hub(name):
    assert load_rows(name, "text", "train")["instruction"][:] == ["a"]
    assert load_failures(name, "text", "train")["reason"][:] == ["instruction is None"]


def test_what_the_runs_recorded_is_found_by_that_name_too(name):
    (run,) = load_runs(name, "text", "train")
    assert run.steps[0].failures == {"instruction is None": 1}


def test_where_there_are_no_failures_or_records_none_are_loaded(name):
    assert load_failures(name, "other", "train") is None
    assert load_runs(name, "other", "train") == load_runs(name, "text", "test") == ()


def test_a_record_of_another_version_is_an_error_that_says_so(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "hfsynth.json").write_text('{"splits": 3}')
    with pytest.raises(ValueError, match="can't be read by this version"):
        load_runs(str(tmp_path), "text", "train")


def test_a_file_has_no_failures_and_no_record(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"instruction": "a"}))
    assert load_rows(str(tmp_path / "rows.jsonl"), None, "train")["instruction"][:] == ["a"]
    assert load_failures(str(tmp_path / "rows.jsonl"), None, "train") is None
    assert load_runs(str(tmp_path / "rows.jsonl"), None, "train") == ()


def test_a_file_of_another_type_is_an_error_that_lists_the_types(tmp_path):
    (tmp_path / "rows.xml").touch()
    with pytest.raises(ValueError, match=r"has type '\.xml'; use one of \['\.csv', "):
        load_rows(str(tmp_path / "rows.xml"), None, "train")


@pytest.mark.parametrize("name", ["data/nothere.jsonl", "nothere.csv", "./nothere", "/nothere", "a/b/c"])
def test_a_path_that_is_not_there_is_not_sought_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        load_rows(name, None, "train")


def test_a_file_of_another_type_inside_is_an_error(tmp_path):
    (tmp_path / "rows.jsonl").write_text("this is no JSON")
    with pytest.raises(ValueError, match=r"rows.jsonl' can't be read as json"):
        load_rows(str(tmp_path / "rows.jsonl"), None, "train")
