from dataclasses import dataclass

import pytest
from datasets import Dataset, Features, List, Value

from hfsynth import GenerationError, Magpie, Pipeline, RowError, RunError, TextGeneration
from tests.helpers import ScriptedLLM


def dataset(number=10):
    return Dataset.from_dict({"instruction": [f"say {n}" for n in range(number)]})


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


class Breaking(ScriptedLLM):
    """Raises where "say 6" is among what it is asked for."""

    def complete(self, requests):
        if any("say 6" in request.messages[-1]["content"] for request in requests):
            raise GenerationError("the device is gone")
        return super().complete(requests)


class Dead(ScriptedLLM):
    """Always raises."""

    def complete(self, requests):
        raise ConnectionError("nobody listens")


def run(llm, rows, tmp_path, **options):
    options = {"chunk_size": 2, "quiet": True, **options}
    return Pipeline((TextGeneration(llm),)).run(rows, run_dir=tmp_path / "run", **options)


@pytest.mark.parametrize("chunk_size", [1, 2, 10])
def test_run_one_request_raises_fails_its_row_alone(tmp_path, chunk_size):
    log = tmp_path / "log"
    made = run(Breaking(log=str(log)), dataset(), tmp_path, chunk_size=chunk_size)
    assert made["generation"][:] == [*["ok"] * 6, None, *["ok"] * 3]
    assert made[6]["generation_metadata"][0]["error"] == "GenerationError: the device is gone"
    assert lines(log) == 9


def test_run_llm_always_raises_stops_and_names_the_reason(tmp_path):
    with pytest.raises(RunError, match=r"(?s)100 rows: ConnectionError: nobody listens.*same command") as caught:
        run(Dead(), dataset(300), tmp_path, chunk_size=100)
    assert str(tmp_path / "run") in str(caught.value)


def test_run_llm_raises_on_each_of_few_rows_records_them(tmp_path):
    made = run(Dead(), dataset(3), tmp_path)
    errors = [entries[0]["error"] for entries in made["generation_metadata"]]
    assert errors == ["ConnectionError: nobody listens"] * 3


def test_run_lone_surrogate_fails_its_row_alone(tmp_path):
    class Odd(ScriptedLLM):
        def complete(self, requests):
            return [self._reply(text) for text in ("a", "half \ud83d", "c", "!odd \ud83d")]

    made = run(Odd(), dataset(4), tmp_path, chunk_size=4)
    assert made["generation"][:] == ["a", None, "c", None]
    errors = [entries[0]["error"] for entries in made["generation_metadata"]]
    assert "U+D83D" in errors[1]
    assert errors[3] == "odd \\ud83d"


def test_run_first_rows_all_fail_stops_once_and_goes_on_when_asked(tmp_path):
    """A dataset that is sorted so that its first rows are hopeless must not stop the run for ever."""
    rows = Dataset.from_dict({"instruction": ["word"] * 130})

    @dataclass(frozen=True)
    class Hopeless(TextGeneration):
        def flow(self, row, rng):
            completion = yield from super().flow(row, rng)
            raise RowError("the completion has no number", completion[0]["generation"])

    chain = Pipeline((Hopeless(ScriptedLLM()),))
    with pytest.raises(
        RunError, match=r"(?s)all of the first 65 rows of Hopeless failed.*65 rows: the completion has"
    ):
        chain.run(rows, run_dir=tmp_path / "run", chunk_size=65, quiet=True)
    made = chain.run(rows, run_dir=tmp_path / "run", chunk_size=65, quiet=True)
    assert made["generation"][:] == [None] * 130


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
