import pytest
from datasets import Dataset, Features, List, Value

from hfsynth import GenerationError, Magpie, Pipeline, RunError, TextGeneration
from tests.helpers import ScriptedLLM


def dataset(number=10):
    return Dataset.from_dict({"instruction": [f"say {n}" for n in range(number)]})


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


class Breaking(ScriptedLLM):
    """Can't go on once it has been asked for "say 6"."""

    def complete(self, requests):
        if any("say 6" in request.messages[-1]["content"] for request in requests):
            raise GenerationError("the device is gone")
        return super().complete(requests)


def run(llm, rows, tmp_path, **options):
    options = {"chunk_size": 2, "quiet": True, **options}
    return Pipeline((TextGeneration(llm),)).run(rows, run_dir=tmp_path / "run", **options)


def test_chunks_that_are_done_are_not_done_again_after_a_failure(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(RunError, match=r"(?s)failed on 1 of 5 chunks.*rows 6-7: GenerationError: the device is gone"):
        run(Breaking(log=str(log)), dataset(), tmp_path)
    assert lines(log) == 8
    finished = sorted(path.name for path in tmp_path.glob("run/*/chunk-*.arrow"))
    assert finished == [f"chunk-{n:05d}-of-00005.arrow" for n in (0, 1, 2, 4)]


def test_fewer_rows_take_over_chunks_and_another_size_does_not(tmp_path):
    """Of nine rows in chunks of two, only the last chunk differs from those of ten."""
    log = tmp_path / "log"
    llm = ScriptedLLM(log=str(log))
    for rows, options in ((dataset(), {}), (dataset(9), {}), (dataset(), {"chunk_size": 5})):
        run(llm, rows, tmp_path, **options)
    assert lines(log) == 10 + 1 + 10
    run(llm, dataset(), tmp_path)
    assert lines(log) == 10 + 1 + 10


def test_rows_don_t_depend_on_the_chunks(tmp_path):
    made = [
        Pipeline((Magpie(ScriptedLLM(("a", "b"))),)).run(
            dataset().rename_column("instruction", "id"),
            run_dir=tmp_path / str(chunk_size),
            chunk_size=chunk_size,
            quiet=True,
        )
        for chunk_size in (2, 4, 10)
    ]
    assert made[0].to_list() == made[1].to_list() == made[2].to_list()


def test_a_chunk_in_which_every_row_fails_has_the_types_of_the_others(tmp_path):
    rows = Dataset.from_dict({"instruction": [None, None, "a", "b"]})
    made = run(ScriptedLLM(), rows, tmp_path)
    assert made["generation"][:] == [None, None, "ok", "ok"]
    assert made.features["generation"] == Value("string")


def test_every_type_of_column_is_kept(tmp_path):
    features = Features({"instruction": Value("string"), "n": Value("int8"), "tags": List(Value("string"))})
    rows = Dataset.from_dict(
        {"instruction": ["a", "b", "c"], "n": [1, 2, 3], "tags": [[], ["x"], []]}, features=features
    )
    made = run(ScriptedLLM(), rows, tmp_path)
    assert {name: made.features[name] for name in features} == features


def test_a_chunk_size_of_nothing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="chunk_size is 0; it must be at least 1"):
        run(ScriptedLLM(), dataset(), tmp_path, chunk_size=0)
