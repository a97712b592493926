"""Filters and functions as steps of a run."""

import pytest
from datasets import Dataset

from hfsynth import EchoLLM, Pipeline, TextGeneration
from hfsynth.distributed import Crew
from hfsynth.runner.chunks import StepFolder
from hfsynth.runner.step import run_whole
from hfsynth.step import as_step
from tests.helpers import OnlyOnce

GIVEN = Dataset.from_dict({"instruction": ["a", "b", "a"]})


def nothing(dataset):
    return None


def none_left(dataset):
    return dataset.select([])


def folder(tmp_path):
    return StepFolder(tmp_path / "step", 1, Crew().member)


def test_what_a_filter_kept_and_dropped_is_there_when_it_is_finished(tmp_path):
    run_whole(OnlyOnce(), GIVEN, folder(tmp_path), Crew(), ([], 0))
    done = folder(tmp_path)
    assert done.finished
    assert done.load(GIVEN.features, "x")["instruction"][:] == ["a", "b"]
    assert done.dropped()["row"][:] == [2]
    assert done.facts()["stopped"] == {"": 2, "repeated": 1}


def test_rows_of_earlier_rounds_count_for_a_filter(tmp_path):
    run_whole(OnlyOnce(), GIVEN, folder(tmp_path), Crew(), ([Dataset.from_dict({"instruction": ["b"]})], 10))
    assert folder(tmp_path).dropped()["row"][:] == [11, 12]


def test_where_nothing_was_dropped_there_is_no_file_of_it(tmp_path):
    run_whole(OnlyOnce(), GIVEN.select([0]), folder(tmp_path), Crew(), ([], 0))
    assert len(folder(tmp_path).dropped()) == 0
    assert not list((tmp_path / "step").glob("*.parquet"))


def test_a_function_must_return_a_dataset(tmp_path):
    with pytest.raises(TypeError, match="nothing returned NoneType; a step returns a Dataset"):
        run_whole(as_step(nothing), GIVEN, folder(tmp_path), Crew(), ([], 0))


def test_a_function_may_leave_no_row(tmp_path):
    made = Pipeline((none_left, TextGeneration(EchoLLM()))).run(GIVEN, run_dir=tmp_path, quiet=True)
    assert len(made) == 0
    assert "generation" in made.column_names
