"""Runs over a DatasetDict: seeds, results, failures and models of its splits, and a run that was killed."""

import signal
import subprocess
import sys

import pytest
from datasets import Dataset, DatasetDict

from hfsynth import CategorySampler, ColumnError, EchoLLM, Pipeline, RunError, ScriptedLLM, TextGeneration, run
from tests.acting import ActingLLM, NotedLLM
from tests.helpers import OnlyOnce

LLM = EchoLLM()
ANSWER = Pipeline((TextGeneration(LLM),))


def of_texts(**texts):
    return DatasetDict({name: Dataset.from_dict({"instruction": column}) for name, column in texts.items()})


def seeds(dataset):
    return [entries[0]["seed"] for entries in dataset["generation_metadata"]]


def answer_by_seed(request):
    return f"{request.messages[-1]['content']} {request.seed}"


def run_two_splits(run_dir):
    """Run a split after the other, each with three chunks of one row."""
    texts = [f"say {number}" for number in range(6)]
    chain = Pipeline((TextGeneration(ActingLLM()),))
    return chain.run(of_texts(train=texts[:3], test=texts[3:]), run_dir=run_dir, chunk_size=1, quiet=True)


def test_run_splits_generates_other_texts_for_equal_rows(tmp_path):
    llm = ScriptedLLM(answer_by_seed)
    chain = Pipeline((TextGeneration(llm),))
    rows = of_texts(train=["Name a colour.", "Name a fruit."], test=["Name a colour.", "Name a fruit."])
    result = chain.run(rows, run_dir=tmp_path, quiet=True)
    assert isinstance(result, DatasetDict)
    assert result["test"]["generation"][:] == [
        f"{text} {seed}" for text, seed in zip(rows["test"]["instruction"], seeds(result["test"]), strict=True)
    ]
    assert len({request.seed for request in llm.requests}) == 4
    assert not set(result["train"]["generation"]) & set(result["test"]["generation"])


def test_run_splits_seeds_are_fixed_and_a_dataset_has_others(tmp_path):
    """Rows of a Dataset and of a split keep their seeds in later versions."""
    rows = of_texts(test=["a", "b"])
    assert seeds(ANSWER.run(rows, run_dir=tmp_path, quiet=True)["test"])[0] == 5376962301946508738
    assert seeds(ANSWER.run(rows["test"], run_dir=tmp_path, quiet=True)) == [252221791709821586, 1904425521540301886]


def test_run_splits_rows_are_those_of_for_split(tmp_path):
    sampler = CategorySampler({"topic": ("maths", "law", "tea")})
    chain = sampler >> TextGeneration(LLM, template="{{ instruction }} {{ topic }}")
    rows = of_texts(train=list("abcdefgh"), test=list("abcdefgh"))
    result = chain.run(rows, run_dir=tmp_path / "a", quiet=True)
    for name in rows:
        one = chain.for_split(name).run(rows[name], run_dir=tmp_path / "b", quiet=True)
        assert result[name].to_list() == one.to_list()
    assert result["train"]["topic"][:] != result["test"]["topic"][:]


def test_run_splits_results_name_failures_and_record(tmp_path, caplog):
    rows = of_texts(train=["a", None, "a"], test=["b", "c"])
    results = run(OnlyOnce() >> TextGeneration(LLM), rows, run_dir=tmp_path, quiet=True)
    assert list(results) == ["train", "test"]
    train, test = results.values()
    assert [(row["step"], row["row"]) for row in train.failures] == [("OnlyOnce", 2), ("TextGeneration", 1)]
    assert len(test.failures) == 0
    assert [result.record.split for result in results.values()] == ["train", "test"]
    assert [result.record.source.rows for result in results.values()] == [3, 2]
    assert "2 rows of split train" in caplog.text


def test_run_splits_num_rows_counts_for_each_split(tmp_path):
    rows = of_texts(train=["a", None, "b", "c"], test=["d", "e", "f"])
    result = ANSWER.run(rows, num_rows=2, run_dir=tmp_path, quiet=True)
    assert {name: split["generation"][:] for name, split in result.items()} == {
        "train": ["a", "b"],
        "test": ["d", "e"],
    }


def test_run_splits_one_without_column_raises_before_all(acting):
    rows = DatasetDict(of_texts(train=["say 0"]), test=Dataset.from_dict({"text": ["say 1"]}))
    with pytest.raises(ColumnError, match=r"'test'.*'instruction'"):
        Pipeline((TextGeneration(ActingLLM()),)).run(rows, run_dir=acting / "run", quiet=True)
    assert not (acting / "log").exists()


def test_run_splits_failed_run_names_its_split(tmp_path):
    replies = ScriptedLLM(["a"])  # and none for the second split
    with pytest.raises(RunError, match="split 'test'"):
        Pipeline((TextGeneration(replies),)).run(of_texts(train=["a"], test=["b"]), run_dir=tmp_path, quiet=True)


def test_run_splits_of_an_empty_dict_raises(tmp_path):
    with pytest.raises(ValueError, match="DatasetDict"):
        ANSWER.run(DatasetDict(), run_dir=tmp_path, quiet=True)


def test_run_splits_keeps_one_model_in_memory(acting):
    chain = TextGeneration(NotedLLM(number=1)) >> TextGeneration(
        NotedLLM(number=2), output_mappings={"generation": "b"}
    )
    chain.run(of_texts(train=["a"], test=["b"]), run_dir=acting / "run", quiet=True)
    assert (acting / "memory").read_text() == "1 -1 2 -2 1 -1 2 "


def test_run_splits_killed_in_second_repeats_no_row(acting, monkeypatch):
    code = f"from tests.runner.test_splits import run_two_splits; run_two_splits({str(acting / 'run')!r})"
    monkeypatch.setenv("ACTION", "kill any 4")
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert (acting / "acted").exists()
    before = (acting / "log").read_text().split("\n")
    assert before[:3] == ["0 say 0", "0 say 1", "0 say 2"]
    result = run_two_splits(acting / "run")
    texts = [line[2:] for line in (acting / "log").read_text().splitlines()]
    assert sorted(texts) == [f"say {number}" for number in range(6)]
    assert [split["generation"][:] for split in result.values()] == [
        ["say 0", "say 1", "say 2"],
        ["say 3", "say 4", "say 5"],
    ]
    assert result["test"].to_list() == run_two_splits(acting / "other")["test"].to_list()


def test_preview_of_splits_raises_with_one_split():
    with pytest.raises(TypeError, match=r"for_split\('train'\).*dataset\['train'\]"):
        ANSWER.preview(of_texts(train=["a"]))
