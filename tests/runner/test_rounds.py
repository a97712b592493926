"""Runs until enough rows are accepted: the sizes of rounds, and their rows together."""

import pytest
from datasets import Dataset, load_dataset

from hfsynth import ColumnError, EchoLLM, Magpie, Pipeline, TextGeneration, TransformersLLM, split_failures
from hfsynth.record import records
from hfsynth.runner.rounds import DatasetRows, EmptyRows, Target, Usage, choose_chunk_size
from tests.helpers import OnlyOnce, RepeatingLLM


def test_next_round_first_is_an_eighth_in_full_chunks():
    assert Usage().next_round(Target(1000), EmptyRows(), chunk_size=32) == 128


def test_next_round_two_models_take_few_rounds():
    """Each round loads both models: at an acceptance rate of a third, three rounds do."""
    usage, rounds = Usage(), 0
    while count := usage.next_round(Target(1000), EmptyRows(), 32, swaps_models=True):
        tried = usage.tried + count
        usage, rounds = Usage(tried, tried // 3), rounds + 1
    assert rounds == 2
    assert 3000 <= usage.tried <= 4000


@pytest.mark.parametrize(("rows", "size"), [(None, 32), (100, 32), (5000, 128), (10**7, 1024)])
def test_choose_chunk_size_grows_with_the_rows(rows, size):
    assert choose_chunk_size(rows) == size


def test_choose_chunk_size_isolated_chunks_have_several_batches():
    llms = [TransformersLLM("a", batch_size=8), TransformersLLM("b", batch_size=32)]
    assert choose_chunk_size(10**7, llms) == choose_chunk_size(10, llms) == 128
    assert choose_chunk_size(10, [EchoLLM()]) == 512


def test_next_round_few_rows_wanted_takes_no_full_chunk():
    assert Usage().next_round(Target(6), EmptyRows(), chunk_size=128) == 6
    assert Usage(tried=6, accepted=4).next_round(Target(6), EmptyRows(), chunk_size=128) == 3


def test_next_round_is_limited_to_four_times_the_tried_rows():
    assert Usage(tried=1000, accepted=1).next_round(Target(5000), EmptyRows(), chunk_size=1) == 4000


def test_next_round_takes_missing_rows_at_rate_so_far():
    assert Usage(tried=100, accepted=20).next_round(Target(50), EmptyRows(), chunk_size=10) == 150


def test_next_round_nothing_accepted_takes_as_many_rows():
    assert Usage(tried=300).next_round(Target(100), EmptyRows(), chunk_size=1) == 300


def test_next_round_target_reached_is_0():
    assert Usage(tried=300, accepted=100).next_round(Target(100), EmptyRows(), chunk_size=1) == 0


def test_next_round_is_limited_by_the_dataset():
    source = DatasetRows(Dataset.from_dict({"a": list(range(30))}))
    assert Usage(tried=25, accepted=5).next_round(Target(10), source, chunk_size=8) == 5
    assert Usage(tried=30, accepted=5).next_round(Target(10), source, chunk_size=8) == 0


def test_next_round_is_limited_by_max_rows():
    assert Usage(tried=25, accepted=5).next_round(Target(10, max_rows=27), EmptyRows(), chunk_size=8) == 2


@pytest.mark.parametrize("chunk_size", [1, 7, 128])
def test_next_round_fixed_size_depends_on_nothing_else(chunk_size):
    source = EmptyRows(round_size=7)
    assert Usage().next_round(Target(100), source, chunk_size) == 7
    assert Usage().next_round(Target(5, max_tokens=9), source, chunk_size) == 7
    assert Usage(tried=7, accepted=4).next_round(Target(5), source, chunk_size) == 7


def test_next_round_is_limited_by_max_tokens():
    target = Target(1000, max_tokens=10_000)
    assert Usage().next_round(target, EmptyRows(), chunk_size=16) == 16
    assert Usage(tried=30, accepted=1, tokens=3000).next_round(target, EmptyRows(), chunk_size=16) == 70
    assert Usage(tried=100, accepted=25, tokens=10_050).next_round(target, EmptyRows(), chunk_size=16) == 0


@pytest.mark.parametrize("wrong", [{"num_rows": 0}, {"num_rows": 1, "max_rows": 0}, {"num_rows": 1, "max_tokens": -1}])
def test_target_number_below_1_raises(wrong):
    with pytest.raises(ValueError, match=f"{list(wrong)[-1]} .*{list(wrong.values())[-1]}"):
        Target(**wrong)


TEXTS = [f"text {n % 7}" if n % 3 else f"text {n}" for n in range(60)]
ROWS = Dataset.from_dict({"instruction": [None if n % 10 == 5 else text for n, text in enumerate(TEXTS)]})


def pipeline() -> Pipeline:
    """Drops what was there before, and answers the others."""
    return OnlyOnce() >> TextGeneration(EchoLLM())


def accepted(dataset: Dataset) -> list[dict]:
    return split_failures(dataset)[0].to_list()


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
@pytest.mark.parametrize("wanted", [1, 4, 20])
def test_run_num_rows_are_the_first_of_a_full_run(tmp_path, chunk_size, wanted):
    full = pipeline().run(ROWS, run_dir=tmp_path / "full", quiet=True)
    some = pipeline().run(ROWS, num_rows=wanted, run_dir=tmp_path / "some", chunk_size=chunk_size, quiet=True)
    assert len(some) == wanted
    assert some.to_list() == accepted(full)[:wanted]


def test_run_failures_of_all_rounds_have_input_indices(tmp_path):
    result = pipeline().run(ROWS, num_rows=12, run_dir=tmp_path, chunk_size=4, quiet=True)
    found = load_dataset("parquet", data_files=[str(f) for f in tmp_path.glob("failures-*")], split="train")
    texts = ROWS["instruction"][:]
    repeated = [n for n, text in enumerate(texts) if text and text in texts[:n]]
    dropped = found.filter(lambda row: row["rule"])
    tried = records(result)[0].source.rows
    assert dropped["row"][:] == [n for n in repeated if n < tried]
    assert len(dropped) > 3
    assert set(dropped["step"]) == {"OnlyOnce"}
    assert set(found.filter(lambda row: not row["rule"])["reason"]) == {"instruction is None"}


def test_run_num_rows_repeated_computes_nothing(tmp_path):
    log = tmp_path / "log"
    run = OnlyOnce() >> TextGeneration(RepeatingLLM(log=str(log)))
    first = run.run(ROWS, num_rows=12, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    asked = log.read_text()
    second = run.run(ROWS, num_rows=12, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert (second.to_list(), log.read_text()) == (first.to_list(), asked)


def test_run_input_spent_warns_and_returns_fewer_rows(tmp_path, caplog):
    result = pipeline().run(ROWS, num_rows=50, run_dir=tmp_path, chunk_size=16, quiet=True)
    assert len(result) == len(accepted(pipeline().run(ROWS, run_dir=tmp_path, quiet=True))) < 50
    (warning,) = [record.getMessage() for record in caplog.records if "tried" in record.getMessage()]
    assert warning.startswith(f"{len(result)} rows accepted of 60 tried")
    assert "50 were wanted" in warning


def counted(dataset):
    return dataset.map(lambda row: {"n": len(row["instruction"])})


def test_run_round_without_rows_skips_functions(tmp_path):
    rows = Dataset.from_dict({"instruction": ["a"] * 21 + ["bb", "c"]})
    chain = OnlyOnce() >> counted >> OnlyOnce(column="n")
    result = chain.run(rows, num_rows=2, chunk_size=2, run_dir=tmp_path, quiet=True)
    assert result["n"][:] == [1, 2]


def changing(dataset):
    first = dataset["id"][0] == 0
    return dataset.map(lambda row: {"n": 1 if first else 0.5})


def test_run_function_with_changing_types_raises(tmp_path):
    rows = Dataset.from_dict({"id": list(range(9)), "instruction": ["a"] * 9})
    with pytest.raises(ColumnError, match=r"changing .*int64"):
        Pipeline((changing,)).run(rows, num_rows=9, chunk_size=2, run_dir=tmp_path, quiet=True)


def test_run_interrupted_repeat_keeps_the_failures_file(tmp_path, monkeypatch):
    pipeline().run(ROWS, run_dir=tmp_path, quiet=True)
    (file,) = tmp_path.glob("failures-*")
    before = file.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hfsynth.record.failures_dataset", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline().run(ROWS, run_dir=tmp_path, quiet=True)
    assert file.read_bytes() == before


def test_run_num_rows_empty_input_has_all_columns(tmp_path):
    result = pipeline().run(ROWS.select([]), num_rows=5, run_dir=tmp_path, quiet=True)
    assert len(result) == 0
    assert {"instruction", "generation"} <= set(result.column_names)


def test_run_max_tokens_ends_the_run(tmp_path):
    run = Pipeline((TextGeneration(RepeatingLLM()),))  # 3 tokens read and 2 written for each row
    many = Dataset.from_dict({"instruction": [f"{n}" for n in range(100)]})
    result = run.run(many, num_rows=90, max_tokens=100, run_dir=tmp_path, chunk_size=10, quiet=True)
    assert len(result) == 20


def test_run_without_dataset_numbers_the_rows(tmp_path):
    result = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).run(num_rows=5, run_dir=tmp_path, quiet=True)
    assert result["id"][:] == [0, 1, 2, 3, 4]


def test_record_adds_up_the_rounds(tmp_path):
    result = pipeline().run(ROWS, num_rows=12, run_dir=tmp_path, chunk_size=4, quiet=True)
    (record,) = records(result)
    once, answer = record.steps
    assert record.source.rows == once.rows_in > 12
    assert (record.wanted, record.accepted >= 12) == (12, True)
    assert once.rows_out == answer.rows_in == once.stopped[""] == once.rows_in - once.stopped["repeated"]
    assert answer.rows_in == record.accepted + answer.failures["instruction is None"]


def test_run_limit_without_num_rows_raises(tmp_path):
    with pytest.raises(ValueError, match=r"^max_rows=5 .*num_rows") as raised:
        pipeline().run(ROWS, max_rows=5, run_dir=tmp_path)
    assert "max_tokens" not in str(raised.value)


def test_run_without_dataset_and_num_rows_raises(tmp_path):
    with pytest.raises(ValueError, match="num_rows"):
        pipeline().run(run_dir=tmp_path)


def test_failures_row_of_a_later_round_has_its_index(tmp_path):
    class Refusing(EchoLLM):
        def complete(self, requests):
            if any("text 9" in str(request) for request in requests):
                raise LookupError("no answer")
            return super().complete(requests)

    run = Pipeline((TextGeneration(Refusing()),))
    result = run.run(ROWS, num_rows=20, max_rows=40, run_dir=tmp_path, chunk_size=4, quiet=True)
    assert len(result) == 20
    found = load_dataset("parquet", data_files=[str(f) for f in tmp_path.glob("failures-*")], split="train")
    assert {"reason": "LookupError: no answer", "row": 9} in found.select_columns(["reason", "row"]).to_list()
