"""Runs until enough rows are accepted: how many rows a round takes, and what comes of the rounds together."""

import pytest
from datasets import Dataset, load_dataset

from hfsynth import ColumnError, EchoLLM, Magpie, Pipeline, TextGeneration, split_failures
from hfsynth.run_record import records
from hfsynth.runner.rounds import DatasetRows, EmptyRows, Goal, Spent
from tests.helpers import OnlyOnce, ScriptedLLM


def test_the_first_round_shows_the_rate_in_whole_chunks():
    assert Spent().next_round(Goal(1000), EmptyRows(), chunk_size=32) == 128


def test_no_more_rows_are_tried_for_a_few_than_it_takes():
    assert Spent().next_round(Goal(6), EmptyRows(), chunk_size=128) == 6
    assert Spent(tried=6, accepted=4).next_round(Goal(6), EmptyRows(), chunk_size=128) == 3


def test_a_later_round_is_at_most_four_times_what_was_tried():
    assert Spent(tried=1000, accepted=1).next_round(Goal(5000), EmptyRows(), chunk_size=1) == 4000


def test_a_later_round_takes_what_is_missing_at_the_rate_so_far():
    assert Spent(tried=100, accepted=20).next_round(Goal(50), EmptyRows(), chunk_size=10) == 150


def test_where_nothing_was_accepted_a_round_takes_as_much_again():
    assert Spent(tried=300).next_round(Goal(100), EmptyRows(), chunk_size=1) == 300


def test_no_round_is_begun_once_the_goal_is_met():
    assert Spent(tried=300, accepted=100).next_round(Goal(100), EmptyRows(), chunk_size=1) == 0


def test_a_dataset_gives_no_more_rows_than_it_has():
    source = DatasetRows(Dataset.from_dict({"a": list(range(30))}))
    assert Spent(tried=25, accepted=5).next_round(Goal(10), source, chunk_size=8) == 5
    assert Spent(tried=30, accepted=5).next_round(Goal(10), source, chunk_size=8) == 0


def test_no_more_rows_are_tried_than_the_limit_says():
    assert Spent(tried=25, accepted=5).next_round(Goal(10, max_rows=27), EmptyRows(), chunk_size=8) == 2


@pytest.mark.parametrize("chunk_size", [1, 7, 128])
def test_where_rows_depend_on_the_round_its_size_depends_on_nothing_else(chunk_size):
    source = EmptyRows(round_size=7)
    assert Spent().next_round(Goal(100), source, chunk_size) == 7
    assert Spent().next_round(Goal(5, max_tokens=9), source, chunk_size) == 7
    assert Spent(tried=7, accepted=4).next_round(Goal(5), source, chunk_size) == 7


def test_no_more_rows_are_begun_than_the_tokens_left_are_likely_to_do_for():
    goal = Goal(1000, max_tokens=10_000)
    assert Spent().next_round(goal, EmptyRows(), chunk_size=16) == 16
    assert Spent(tried=30, accepted=1, tokens=3000).next_round(goal, EmptyRows(), chunk_size=16) == 70
    assert Spent(tried=100, accepted=25, tokens=10_050).next_round(goal, EmptyRows(), chunk_size=16) == 0


@pytest.mark.parametrize("wrong", [{"num_rows": 0}, {"num_rows": 1, "max_rows": 0}, {"num_rows": 1, "max_tokens": -1}])
def test_a_goal_below_one_is_an_error_that_says_which(wrong):
    with pytest.raises(ValueError, match=f"{list(wrong)[-1]} is {list(wrong.values())[-1]}; it must be at least 1"):
        Goal(**wrong)


TEXTS = [f"text {n % 7}" if n % 3 else f"text {n}" for n in range(60)]
GIVEN = Dataset.from_dict({"instruction": [None if n % 10 == 5 else text for n, text in enumerate(TEXTS)]})


def pipeline() -> Pipeline:
    """Drops what was there before, and answers the others."""
    return OnlyOnce() >> TextGeneration(EchoLLM())


def accepted(dataset: Dataset) -> list[dict]:
    return split_failures(dataset)[0].to_list()


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
@pytest.mark.parametrize("wanted", [1, 4, 20])
def test_the_accepted_rows_are_the_first_that_the_whole_run_would_have_made(tmp_path, chunk_size, wanted):
    whole = pipeline().run(GIVEN, run_dir=tmp_path / "whole", quiet=True)
    some = pipeline().run(GIVEN, num_rows=wanted, run_dir=tmp_path / "some", chunk_size=chunk_size, quiet=True)
    assert len(some) == wanted
    assert some.to_list() == accepted(whole)[:wanted]


def test_what_was_dropped_or_failed_in_any_round_is_among_the_failures_with_its_index_in_all_of_the_input(tmp_path):
    made = pipeline().run(GIVEN, num_rows=12, run_dir=tmp_path, chunk_size=4, quiet=True)
    found = load_dataset("parquet", data_files=[str(f) for f in tmp_path.glob("failures-*")], split="train")
    seen: set[str | None] = set()
    repeated = [n for n, text in enumerate(GIVEN["instruction"]) if text in seen or (text and seen.add(text))]
    dropped = found.filter(lambda row: row["rule"])
    tried = records(made)[0].source.rows
    assert dropped["row"][:] == [n for n in repeated if n < tried]
    assert len(dropped) > 3
    assert set(dropped["step"]) == {"OnlyOnce"}
    assert set(found.filter(lambda row: not row["rule"])["reason"]) == {"instruction is None"}


def test_a_run_that_is_repeated_makes_nothing_again_and_gives_the_same(tmp_path):
    log = tmp_path / "log"
    run = OnlyOnce() >> TextGeneration(ScriptedLLM(log=str(log)))
    first = run.run(GIVEN, num_rows=12, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    asked = log.read_text()
    again = run.run(GIVEN, num_rows=12, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert (again.to_list(), log.read_text()) == (first.to_list(), asked)


def test_where_the_input_is_spent_there_are_fewer_rows_and_a_warning(tmp_path, caplog):
    made = pipeline().run(GIVEN, num_rows=50, run_dir=tmp_path, chunk_size=16, quiet=True)
    assert len(made) == len(accepted(pipeline().run(GIVEN, run_dir=tmp_path, quiet=True))) < 50
    assert f"{len(made)} rows accepted of 60 tried" in caplog.text
    assert "50 were wanted, and the input or the budget is spent" in caplog.text


def counted(dataset):
    return dataset.map(lambda row: {"n": len(row["instruction"])})


def test_a_round_in_which_all_rows_are_dropped_goes_to_no_function(tmp_path):
    rows = Dataset.from_dict({"instruction": ["a"] * 21 + ["bb", "c"]})
    chain = OnlyOnce() >> counted >> OnlyOnce(column="n")
    made = chain.run(rows, num_rows=2, chunk_size=2, run_dir=tmp_path, quiet=True)
    assert made["n"][:] == [1, 2]


def changing(dataset):
    first = dataset["id"][0] == 0
    return dataset.map(lambda row: {"n": 1 if first else 0.5})


def test_a_function_that_makes_other_types_in_another_round_is_told_at_once(tmp_path):
    rows = Dataset.from_dict({"id": list(range(9)), "instruction": ["a"] * 9})
    with pytest.raises(ColumnError, match="changing made columns of other types in an earlier round"):
        Pipeline((changing,)).run(rows, num_rows=9, chunk_size=2, run_dir=tmp_path, quiet=True)


def test_an_interrupted_repeat_leaves_the_failures_of_the_finished_run(tmp_path, monkeypatch):
    pipeline().run(GIVEN, run_dir=tmp_path, quiet=True)
    (file,) = tmp_path.glob("failures-*")
    before = file.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hfsynth.runner.run.step_failures", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline().run(GIVEN, run_dir=tmp_path, quiet=True)
    assert file.read_bytes() == before


def test_an_input_without_rows_gives_none_with_all_columns(tmp_path):
    made = pipeline().run(GIVEN.select([]), num_rows=5, run_dir=tmp_path, quiet=True)
    assert len(made) == 0
    assert {"instruction", "generation"} <= set(made.column_names)


def test_a_budget_of_tokens_ends_a_run(tmp_path):
    run = Pipeline((TextGeneration(ScriptedLLM()),))  # 3 tokens read and 2 written for each row
    many = Dataset.from_dict({"instruction": [f"{n}" for n in range(100)]})
    made = run.run(many, num_rows=90, max_tokens=100, run_dir=tmp_path, chunk_size=10, quiet=True)
    assert len(made) == 20


def test_a_technique_that_needs_no_columns_needs_no_dataset(tmp_path):
    made = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).run(num_rows=5, run_dir=tmp_path, quiet=True)
    assert made["id"][:] == [0, 1, 2, 3, 4]


def test_the_record_adds_up_the_rounds(tmp_path):
    made = pipeline().run(GIVEN, num_rows=12, run_dir=tmp_path, chunk_size=4, quiet=True)
    (record,) = records(made)
    once, answer = record.steps
    assert record.source.rows == once.rows_in > 12
    assert (record.wanted, record.accepted >= 12) == (12, True)
    assert once.rows_out == answer.rows_in == once.stopped[""] == once.rows_in - once.stopped["repeated"]
    assert answer.rows_in == record.accepted + answer.failures["instruction is None"]


def test_a_limit_without_a_number_of_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="max_rows=5 and max_tokens=None are limits of num_rows; say it too"):
        pipeline().run(GIVEN, max_rows=5, run_dir=tmp_path)


def test_without_a_dataset_the_number_of_rows_must_be_said(tmp_path):
    with pytest.raises(ValueError, match=r"the input None has no end: say how many rows are wanted, with num_rows=…"):
        pipeline().run(run_dir=tmp_path)


def test_failures_row_of_a_later_round_has_its_index(tmp_path):
    class Refusing(EchoLLM):
        def complete(self, requests):
            if any("text 9" in str(request) for request in requests):
                raise LookupError("no answer")
            return super().complete(requests)

    run = Pipeline((TextGeneration(Refusing()),))
    made = run.run(GIVEN, num_rows=20, max_rows=40, run_dir=tmp_path, chunk_size=4, quiet=True)
    assert len(made) == 20
    found = load_dataset("parquet", data_files=[str(f) for f in tmp_path.glob("failures-*")], split="train")
    assert {"reason": "LookupError: no answer", "row": 9} in found.select_columns(["reason", "row"]).to_list()
