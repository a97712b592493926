"""Runs in one process: results, failures, models, functions, the run directory."""

import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from datasets import Dataset, disable_progress_bars, enable_progress_bars, load_dataset

from hfsynth import (
    EchoLLM,
    GenerationError,
    Pipeline,
    RunError,
    RunResult,
    TextGeneration,
    TransformersLLM,
    run,
)
from hfsynth.distributed import ProcessGroup
from hfsynth.record import records
from tests.acting import ActingLLM, NotedLLM, without_first
from tests.helpers import OnlyOnce, RepeatingLLM


def pipeline(seconds=0.0):
    last = TextGeneration(EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "b"})
    return TextGeneration(ActingLLM(seconds_per_request=seconds)) >> without_first >> last


def rows(number=6):
    return Dataset.from_dict({"instruction": [f"say {n}" for n in range(number)]})


def test_run_last_step_changed_runs_only_that_step(acting):
    pipeline().run(rows(), run_dir=acting / "run", chunk_size=2, quiet=True)
    other = TextGeneration(EchoLLM(), template="{{ generation }}!", output_mappings={"generation": "b"}, name="other")
    changed = TextGeneration(ActingLLM()) >> without_first >> other
    result = changed.run(rows(), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert result["b"][0] == "say 1!"
    assert (acting / "log").read_text().count("\n") == 6
    assert (acting / "functions").read_text() == "0"


def test_run_unloads_an_llm_before_loading_the_next(acting):
    first, second = NotedLLM(number=1), NotedLLM(number=2)
    chain = TextGeneration(first) >> TextGeneration(first, output_mappings={"generation": "b"})
    chain = chain >> without_first >> TextGeneration(second, output_mappings={"generation": "c"})
    chain.run(rows(3), run_dir=acting / "run", quiet=True)
    assert (acting / "memory").read_text() == "1 1 -1 2 "


@dataclass(frozen=True)
class ModelFilter(OnlyOnce):
    """A filter that has a model of its own."""

    @property
    def loads_model(self):
        return True


def test_run_unloads_an_llm_before_a_filter_with_a_model(acting):
    llm = NotedLLM(number=1)
    chain = TextGeneration(llm) >> ModelFilter(column="generation")
    chain >>= TextGeneration(llm, output_mappings={"generation": "b"})
    for _ in range(2):  # the second run finds all rows
        chain.run(rows(3), run_dir=acting / "run", quiet=True)
        assert (acting / "memory").read_text() == "1 -1 1 "


class PairLLM(EchoLLM):
    """An echo that completes two requests at once."""

    parallel_requests = 2


def test_run_record_has_the_batch_size_of_each_step(tmp_path, caplog):
    chain = TextGeneration(PairLLM()) >> TextGeneration(EchoLLM(), output_mappings={"generation": "b"})
    with caplog.at_level("INFO", "hfsynth"):
        result = run(chain, rows(3), run_dir=tmp_path, quiet=True)
    assert [step.batch_size for step in result.record.steps] == [2, 0]
    assert "TextGeneration completes up to 2 requests at once" in caplog.text


def test_run_shorter_input_returns_only_its_rows(acting):
    pipeline().run(rows(6), run_dir=acting / "run", chunk_size=2, quiet=True)
    result = pipeline().run(rows(4), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert result["b"][:] == ["say 1", "say 2", "say 3"]


def failures_in(run_dir):
    files = [str(file) for file in run_dir.glob("failures-*.parquet")]
    return load_dataset("parquet", data_files=files, split="train").to_list() if files else []


def test_run_failures_file_has_row_column_and_reason(acting):
    dataset = Dataset.from_dict({"instruction": ["say 0", None, "say 2", ""]})
    pipeline().run(dataset, run_dir=acting / "run", chunk_size=2, quiet=True)
    found = [
        (row["step"], row["row"], row["column"], row["reason"], row["raw"]) for row in failures_in(acting / "run")
    ]
    assert found == [
        ("TextGeneration", 1, "generation", "instruction is None", ""),
        ("TextGeneration", 3, "generation", "instruction is empty", ""),
    ]


def test_run_llm_raises_for_a_row_is_a_failure(acting, monkeypatch):
    monkeypatch.setenv("ACTION", "always any 2")
    pipeline().run(rows(10), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert [(f["row"], f["reason"]) for f in failures_in(acting / "run")] == [(2, "LookupError: no answer")]


def test_run_many_rows_may_raise_before_one_completes(acting, monkeypatch):
    monkeypatch.setattr("tests.acting.ActingLLM.complete", failing_below(14))
    result = pipeline().run(rows(20), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert result["generation"][:] == [*[None] * 13, *(f"say {n}" for n in range(14, 20))]
    assert len(failures_in(acting / "run")) == 14


def failing_below(number):
    def complete(llm, requests):
        if int(requests[0].messages[-1]["content"].split()[-1]) < number:
            raise PermissionError(13, "not the run directory's")
        return EchoLLM.complete(llm, requests)

    return complete


def test_run_unloadable_llm_raises_before_any_chunk(tmp_path):
    chain = Pipeline((TextGeneration(TransformersLLM("/nowhere")),))
    with pytest.raises(GenerationError, match="/nowhere"):
        chain.run(rows(), run_dir=tmp_path / "run", quiet=True)


def test_run_failures_of_the_input_are_not_listed(acting):
    dataset = Dataset.from_dict({"instruction": ["a", None]})
    result = dataset.map(TextGeneration(EchoLLM()), batched=True, with_indices=True)
    second = TextGeneration(EchoLLM(), template="x{{ instruction }}", output_mappings={"generation": "b"})
    Pipeline((second,)).run(result, run_dir=acting / "run", quiet=True)
    assert failures_in(acting / "run") == []


def test_run_failed_row_is_listed_by_its_first_step_only(acting):
    chain = TextGeneration(EchoLLM()) >> TextGeneration(
        EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "b"}
    )
    chain.run(Dataset.from_dict({"instruction": ["a", None]}), run_dir=acting / "run", quiet=True)
    assert [failure["step"] for failure in failures_in(acting / "run")] == ["TextGeneration"]


def test_run_function_prints_no_bars_and_leaves_no_cache(acting, capsys, monkeypatch):
    enable_progress_bars()
    try:
        (TextGeneration(EchoLLM()) >> only_even).run(rows(), run_dir=acting / "run", quiet=True)
    finally:
        disable_progress_bars()
    assert capsys.readouterr().err == ""
    assert not list((acting / "run").rglob("cache-*"))


def only_even(dataset):
    return dataset.filter(lambda row: int(row["instruction"].split()[-1]) % 2 == 0)


def test_run_removes_small_files_of_killed_runs(acting):
    (acting / "run").mkdir()
    for name in (".run-dead", ".failures-dead", ".run-starting"):
        (acting / "run" / name).touch()
        os.utime(acting / "run" / name, (0, 0) if "dead" in name else None)
    pipeline().run(rows(), run_dir=acting / "run", chunk_size=2, quiet=True)
    assert [path.name for path in (acting / "run").glob(".*")] == [".run-starting"]


def test_run_function_returning_none_raises(acting):
    def nothing(dataset):
        return None

    with pytest.raises(TypeError, match=r"nothing .*NoneType"):
        (TextGeneration(EchoLLM()) >> nothing).run(rows(), run_dir=acting / "run", quiet=True)


def test_run_column_removed_by_function_raises_at_its_step(acting):
    def bare(dataset):
        return dataset.remove_columns("instruction")

    chain = TextGeneration(EchoLLM()) >> bare >> TextGeneration(EchoLLM(), output_mappings={"generation": "b"})
    with pytest.raises(ValueError, match=r"step 3.*TextGeneration_2.*'instruction'"):
        chain.run(rows(), run_dir=acting / "run", quiet=True)


def test_run_full_disk_raises_and_keeps_chunks(acting):
    """A limit on the size of files stands in for a full disk; the same command goes on once there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    long = Dataset.from_dict({"instruction": ["say 0", "say 1", *(["word " * 9000] * 4)]})
    answer = Pipeline((TextGeneration(EchoLLM()),))
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(RunError, match=str(acting / "run")):
            answer.run(long, run_dir=acting / "run", chunk_size=2, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    (chunk,) = acting.glob("run/*/chunk-*.arrow")
    saved_at = chunk.stat().st_mtime_ns
    merged = Path(answer.run(long, run_dir=acting / "run", chunk_size=2, quiet=True).cache_files[0]["filename"])
    assert saved_at < merged.stat().st_mtime_ns
    assert len((merged.parent / "timings.jsonl").read_text().splitlines()) == 3


def test_run_dir_below_a_file_raises(acting):
    (acting / "file").touch()
    with pytest.raises(RunError, match="run_dir"):
        pipeline().run(rows(), run_dir=acting / "file" / "run", quiet=True)


def test_run_dir_not_shared_raises(tmp_path, monkeypatch):
    monkeypatch.setattr("hfsynth.runner.run._SHARED_FOLDER_TIMEOUT", 0.1)
    monkeypatch.setattr(ProcessGroup, "current", classmethod(lambda cls: cls(rank=1, world_size=2)))
    with pytest.raises(RunError, match=str(tmp_path / "run")):
        pipeline().run(rows(), run_dir=tmp_path / "run", quiet=True)


def test_run_result_has_dataset_failures_and_record(tmp_path):
    dataset = Dataset.from_dict({"instruction": ["a", None, "a", "b"]})
    result = run(OnlyOnce() >> TextGeneration(EchoLLM()), dataset, run_dir=tmp_path, chunk_size=2, quiet=True)
    assert isinstance(result, RunResult)
    assert result.dataset["generation"][:] == ["a", None, "b"]
    columns = [(row["step"], row["row"], row["reason"], row["rule"]) for row in result.failures]
    assert columns == [("OnlyOnce", 2, "repeated", "repeated"), ("TextGeneration", 1, "instruction is None", "")]
    assert result.failures.to_list() == failures_in(tmp_path)
    assert result.record == records(result.dataset)[-1]
    assert [(step.name, step.rows_in, step.rows_out) for step in result.record.steps] == [
        ("OnlyOnce", 4, 3),
        ("TextGeneration", 3, 2),
    ]


def test_run_result_without_failures_has_an_empty_dataset(tmp_path):
    result = run(Pipeline((TextGeneration(EchoLLM()),)), rows(2), run_dir=tmp_path, quiet=True)
    assert len(result.failures) == 0
    assert result.failures.column_names[:4] == ["step", "row", "column", "reason"]
    assert result.record.failures_file == ""


def test_run_result_of_finished_run_is_the_same(tmp_path):
    dataset = Dataset.from_dict({"instruction": ["a", None]})
    first, second = (
        run(Pipeline((TextGeneration(EchoLLM()),)), dataset, run_dir=tmp_path, quiet=True) for _ in range(2)
    )
    assert first.dataset.to_list() == second.dataset.to_list()
    assert first.failures.to_list() == second.failures.to_list()
    assert first.record == second.record


def test_run_result_num_rows_has_failures_of_tried_rows(tmp_path):
    dataset = Dataset.from_dict({"instruction": ["a", None, "b", "c", "d", None]})
    chain = Pipeline((TextGeneration(EchoLLM()),))
    result = run(chain, dataset, num_rows=2, run_dir=tmp_path, chunk_size=1, quiet=True)
    assert result.dataset["generation"][:] == ["a", "b"]
    assert result.failures["row"][:] == [1]
    assert (result.record.wanted, result.record.accepted, result.record.source.rows) == (2, 3, 4)


def test_pipeline_run_returns_the_dataset_of_run(tmp_path):
    dataset = rows(3)
    chain = Pipeline((TextGeneration(EchoLLM()),))
    result = run(chain, dataset, run_dir=tmp_path / "a", quiet=True)
    assert chain.run(dataset, run_dir=tmp_path / "b", quiet=True).to_list() == result.dataset.to_list()


def test_run_longer_input_asks_only_for_the_new_rows(tmp_path):
    log = tmp_path / "log"
    chain = Pipeline((TextGeneration(RepeatingLLM(log=str(log))),))
    chain.run(rows(6), run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    result = chain.run(rows(10), run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    texts = [line.split(" ", 1)[1].strip("'\n") for line in log.read_text().splitlines()]
    assert texts == [f"say {n}" for n in range(10)]
    alone = chain.run(rows(10), run_dir=tmp_path / "other", chunk_size=4, quiet=True)
    assert result.to_list() == alone.to_list()


def test_run_other_column_changed_takes_over_outcomes(tmp_path):
    """A column that the step doesn't read may change; the result has its new values."""
    log = tmp_path / "log"
    chain = Pipeline((TextGeneration(RepeatingLLM(log=str(log))),))
    for tags in (["a", "b"], ["c", "d"]):
        tagged = rows(2).add_column("tag", tags)
        result = chain.run(tagged, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
        assert result["tag"][:] == tags
    assert log.read_text().count("\n") == 2


def test_run_changed_row_asks_for_it_alone(tmp_path):
    log = tmp_path / "log"
    replacing = TextGeneration(RepeatingLLM(log=str(log)), output_mappings={"generation": "instruction"})
    for texts in (["a", "b", "c"], ["a", "x", "c"]):
        dataset = Dataset.from_dict({"instruction": texts})
        replacing_run = Pipeline((replacing,)).run(dataset, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    assert replacing_run["instruction"][:] == ["ok"] * 3
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["'a'", "'b'", "'c'", "'x'"]


@pytest.mark.parametrize("wanted", [(8, 12, 30), (3, 4, 5, 40)])
def test_run_raised_num_rows_asks_for_no_row_twice(tmp_path, wanted):
    log = tmp_path / "log"
    chain = OnlyOnce() >> TextGeneration(RepeatingLLM(log=str(log)))
    repeated = Dataset.from_dict({"instruction": [f"say {n * n % 90}" for n in range(200)]})
    for number in wanted:
        chain.run(repeated, num_rows=number, run_dir=tmp_path / "run", chunk_size=4, quiet=True)
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked))


def test_run_of_a_step_names_the_pipeline_to_write():
    with pytest.raises(TypeError, match=r"TextGeneration.*Pipeline\(\(step,\)\)"):
        run(TextGeneration(EchoLLM()), rows(2))


@pytest.mark.parametrize("size", [0, 2.5, "8"])
def test_run_chunk_size_of_no_rows_raises(tmp_path, size):
    with pytest.raises(ValueError, match=f"chunk_size.*{size!r}"):
        pipeline().run(rows(2), run_dir=tmp_path / "run", chunk_size=size, quiet=True)
