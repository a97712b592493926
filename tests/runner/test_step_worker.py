"""Steps in one process: chunks and their failures, chunks in flight, filters and functions."""

import gc
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from datasets import Dataset, Features, List, Value

from hfsynth import EchoLLM, GenerationError, Magpie, Pipeline, RowError, RunError, ServerError, TextGeneration
from hfsynth.distributed import ProcessGroup
from hfsynth.runner.chunks import StepFolder
from hfsynth.runner.run import run as run_pipeline
from hfsynth.runner.step_worker import ChunksInFlight, frozen_heap, run_dataset_step
from hfsynth.step import as_step
from tests.helpers import OnlyOnce, RepeatingLLM


def dataset(number=10):
    return Dataset.from_dict({"instruction": [f"say {n}" for n in range(number)]})


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


class Breaking(RepeatingLLM):
    """Raises where "say 6" is among what it is asked for."""

    def complete(self, requests):
        if any("say 6" in request.messages[-1]["content"] for request in requests):
            raise GenerationError("the device is gone")
        return super().complete(requests)


class Dead(RepeatingLLM):
    """Always raises."""

    def complete(self, requests):
        raise ConnectionError("nobody listens")


class Unreachable(RepeatingLLM):
    """A server that is gone after its first chunk."""

    def complete(self, requests):
        if any("say 2" in request.messages[-1]["content"] for request in requests):
            raise ServerError("no answer in 5 minutes")
        return super().complete(requests)


def run(llm, rows, tmp_path, **options):
    options = {"chunk_size": 2, "quiet": True, **options}
    return Pipeline((TextGeneration(llm),)).run(rows, run_dir=tmp_path / "run", **options)


@pytest.mark.parametrize("chunk_size", [1, 2, 10])
def test_run_one_request_raises_fails_its_row_alone(tmp_path, chunk_size):
    log = tmp_path / "log"
    result = run(Breaking(log=str(log)), dataset(), tmp_path, chunk_size=chunk_size)
    assert result["generation"][:] == [*["ok"] * 6, None, *["ok"] * 3]
    assert result[6]["generation_metadata"][0]["error"] == "GenerationError: the device is gone"
    assert lines(log) == 9


def test_run_llm_always_raises_stops_and_names_the_reason(tmp_path):
    with pytest.raises(RunError, match="100 rows: ConnectionError: nobody listens") as caught:
        run(Dead(), dataset(300), tmp_path, chunk_size=100)
    assert str(tmp_path / "run") in str(caught.value)


def test_run_server_error_stops_at_once_and_keeps_chunks(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(RunError, match="no answer in 5 minutes") as caught:
        run(Unreachable(log=str(log)), dataset(), tmp_path)
    assert isinstance(caught.value.__cause__, ServerError)
    assert lines(log) == 2, "no row is tried in halves, and no chunk twice"
    assert len(list((tmp_path / "run").glob("*/chunk-*.arrow"))) == 1


def test_run_llm_raises_on_each_of_few_rows_records_them(tmp_path):
    result = run(Dead(), dataset(3), tmp_path)
    errors = [entries[0]["error"] for entries in result["generation_metadata"]]
    assert errors == ["ConnectionError: nobody listens"] * 3


def test_run_lone_surrogate_fails_its_row_alone(tmp_path):
    class Odd(RepeatingLLM):
        def complete(self, requests):
            return [self._reply(text) for text in ("a", "half \ud83d", "c", "!odd \ud83d")]

    result = run(Odd(), dataset(4), tmp_path, chunk_size=4)
    assert result["generation"][:] == ["a", None, "c", None]
    errors = [entries[0]["error"] for entries in result["generation_metadata"]]
    assert "U+D83D" in errors[1]
    assert errors[3] == "odd \\ud83d"


def test_run_first_rows_all_fail_stops_once_then_continues(tmp_path):
    """A dataset whose first rows all fail must not stop the run a second time."""
    rows = Dataset.from_dict({"instruction": ["word"] * 130})

    @dataclass(frozen=True)
    class Hopeless(TextGeneration):
        def flow(self, row, rng):
            completion = yield from super().flow(row, rng)
            raise RowError("the completion has no number", completion[0]["generation"])

    chain = Pipeline((Hopeless(RepeatingLLM()),))
    with pytest.raises(RunError, match=r"(?s)65 rows of Hopeless.*65 rows: the completion has no number"):
        chain.run(rows, run_dir=tmp_path / "run", chunk_size=65, quiet=True)
    result = chain.run(rows, run_dir=tmp_path / "run", chunk_size=65, quiet=True)
    assert result["generation"][:] == [None] * 130


def test_run_other_length_or_chunk_size_asks_for_nothing(tmp_path):
    log = tmp_path / "log"
    llm = RepeatingLLM(log=str(log))
    for rows, options in ((dataset(), {}), (dataset(9), {}), (dataset(), {"chunk_size": 5})):
        result = run(llm, rows, tmp_path, **options)
        assert result["generation"][:] == ["ok"] * len(rows)
    assert lines(log) == 10


def test_run_rows_do_not_depend_on_the_chunk_size(tmp_path):
    result = [
        Pipeline((Magpie(RepeatingLLM(("a", "b"))),)).run(
            dataset().rename_column("instruction", "id"),
            run_dir=tmp_path / str(chunk_size),
            chunk_size=chunk_size,
            quiet=True,
        )
        for chunk_size in (2, 4, 10)
    ]
    assert result[0].to_list() == result[1].to_list() == result[2].to_list()


def test_run_chunk_of_failures_has_the_output_types(tmp_path):
    rows = Dataset.from_dict({"instruction": [None, None, "a", "b"]})
    result = run(RepeatingLLM(), rows, tmp_path)
    assert result["generation"][:] == [None, None, "ok", "ok"]
    assert result.features["generation"] == Value("string")


def test_run_keeps_the_types_of_other_columns(tmp_path):
    features = Features({"instruction": Value("string"), "n": Value("int8"), "tags": List(Value("string"))})
    rows = Dataset.from_dict(
        {"instruction": ["a", "b", "c"], "n": [1, 2, 3], "tags": [[], ["x"], []]}, features=features
    )
    result = run(RepeatingLLM(), rows, tmp_path)
    assert {name: result.features[name] for name in features} == features


def test_run_chunk_size_0_raises(tmp_path):
    with pytest.raises(ValueError, match=r"chunk_size.* 0"):
        run(RepeatingLLM(), dataset(), tmp_path, chunk_size=0)


LOG: list[str] = []


def text(request):
    return request.messages[-1]["content"] if request.messages else ""


@dataclass(frozen=True)
class SlottedLLM(EchoLLM):
    """Takes as many requests as it has slots, and completes the one with the shortest text first."""

    same_rows: ClassVar[str] = "row"
    slots: int = 4
    bad: str = ""

    def stream(self, requests):
        seated = []
        while True:
            while len(seated) < self.slots and (item := requests.take()):
                LOG.append(text(item[1]))
                if self.bad and self.bad == LOG[-1]:
                    raise LookupError("bad request")
                seated.append(item)
            if not seated:
                return
            key, request = seated.pop(min(range(len(seated)), key=lambda n: len(text(seated[n][1]))))
            yield key, self.complete([request])[0]


@pytest.fixture(autouse=True)
def fresh_log():
    LOG.clear()


def in_flight(llm, number, size=3):
    rows_in = Dataset.from_dict({"instruction": [f"{n} {'x' * (n * 7 % 5)}" for n in range(number)]})
    left = list(range(-(-number // size)))
    rows = lambda chunk: range(chunk * size, min((chunk + 1) * size, number))  # noqa: E731
    return ChunksInFlight(rows_in, TextGeneration(llm), rows, lambda _: left.pop(0) if left else None)


def drain(chunks):
    texts = {}
    while (number := chunks.next()) is not None:
        texts[number] = [outcome.rows[0]["generation"].split()[0] for outcome in chunks.outcomes(number)]
    return texts


def test_outcomes_free_slots_take_rows_of_the_next_chunk():
    chunks = in_flight(SlottedLLM(), 12)
    chunks.outcomes(chunks.next())
    assert len(LOG) > 3
    assert drain(chunks) == {1: ["3", "4", "5"], 2: ["6", "7", "8"], 3: ["9", "10", "11"]}


def test_outcomes_llm_without_a_stream_gets_single_chunks(tmp_path):
    log = tmp_path / "log"
    chunks = in_flight(RepeatingLLM(log=str(log)), 12)
    chunks.outcomes(chunks.next())
    assert log.read_text().count("\n") == 3


def test_run_rows_do_not_depend_on_overlap(tmp_path):
    ids = Dataset.from_dict({"id": range(23)})
    result = [
        Pipeline((Magpie(llm),)).run(ids, run_dir=tmp_path / str(n), chunk_size=size, quiet=True)
        for n, (llm, size) in enumerate([(EchoLLM(), 23), (SlottedLLM(), 3), (SlottedLLM(slots=9), 2)])
    ]
    assert result[0]["response"][:] == result[1]["response"][:] == result[2]["response"][:]
    assert result[0]["instruction"][:] == result[1]["instruction"][:] == result[2]["instruction"][:]


def test_run_overlap_raising_request_fails_alone(tmp_path):
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(12)]})
    result = Pipeline((TextGeneration(SlottedLLM(bad="say 7")),)).run(rows, run_dir=tmp_path, chunk_size=2, quiet=True)
    assert result["generation"][:] == [f"say {n}" if n != 7 else None for n in range(12)]
    assert result[7]["generation_metadata"][0]["error"] == "LookupError: bad request"


class BesideLLM(SlottedLLM):
    """Answers with the texts that are completed beside a request's own, as rounding may depend on them."""

    same_rows: ClassVar[str] = "chunk"

    def stream(self, requests):
        beside = []
        while item := requests.take():
            beside.append(item)
            if len(beside) == self.slots or not len(requests):
                texts = [text(request) for _, request in beside]
                LOG.extend(texts)
                for key, request in beside:
                    yield key, replace(self.complete([request])[0], text=" ".join(texts))
                beside = []


def test_run_overlap_is_the_default_and_deterministic_isolates(tmp_path):
    rows = Dataset.from_dict({"instruction": [f"{n}" for n in range(10)]})
    chain = Pipeline((TextGeneration(BesideLLM(slots=3)),))
    isolated = run_pipeline(chain, rows, run_dir=tmp_path, chunk_size=4, deterministic=True, quiet=True)
    assert isolated.dataset["generation"][:] == [*["0 1 2"] * 3, "3", *["4 5 6"] * 3, "7", "8 9", "8 9"]
    assert isolated.record.deterministic
    LOG.clear()
    overlapping = run_pipeline(chain, rows, run_dir=tmp_path, chunk_size=4, quiet=True)
    assert len(LOG) == 10  # rows of the one are no rows of the other
    assert not overlapping.record.deterministic


def test_run_deterministic_interrupted_starts_its_chunk_anew(tmp_path):
    """Rows of a chunk that is completed in two parts would have other rows beside them."""

    class Interrupted(BesideLLM):
        def complete(self, requests):
            if text(requests[0]) == "7" and not (tmp_path / "complete").exists():
                raise KeyboardInterrupt
            return super().complete(requests)

    rows = Dataset.from_dict({"instruction": [f"{n}" for n in range(10)]})
    chain = Pipeline((TextGeneration(Interrupted(slots=2)),))
    options = {"chunk_size": 5, "deterministic": True, "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        chain.run(rows, run_dir=tmp_path / "run", **options)
    (tmp_path / "complete").touch()
    LOG.clear()
    result = chain.run(rows, run_dir=tmp_path / "run", **options)
    assert LOG == ["5", "6", "7", "8", "9"]
    assert result.to_list() == chain.run(rows, run_dir=tmp_path / "other", **options).to_list()


def test_run_deterministic_llm_of_equal_rows_still_overlaps(tmp_path):
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(6)]})
    chain = Pipeline((TextGeneration(SlottedLLM(slots=6)),))
    log = [
        chain.run(rows, run_dir=tmp_path, chunk_size=2, deterministic=flag, quiet=True) and len(LOG) for flag in (0, 1)
    ]
    assert log == [8, 8]  # two were completed a second time; the rows of the first run are those of the second


class BoastingLLM(BesideLLM):
    """Promises what it doesn't keep."""

    same_rows: ClassVar[str] = "row"


@pytest.mark.parametrize(("llm", "unequal"), [(SlottedLLM(), 0), (BoastingLLM(), 2)])
def test_run_repeats_rows_where_equal_ones_are_promised(tmp_path, caplog, llm, unequal):
    rows = Dataset.from_dict({"instruction": [f"{n}" for n in range(8)]})
    result = run_pipeline(Pipeline((TextGeneration(llm),)), rows, run_dir=tmp_path, quiet=True)
    (step,) = result.record.steps
    assert (step.repeated_rows, step.unequal_rows) == (2, unequal)
    assert ("2 of 2 rows" in caplog.text) == bool(unequal)


REPEATED = Dataset.from_dict({"instruction": ["a", "b", "a"]})


def test_frozen_heap_of_a_large_step_ends_with_the_block():
    with frozen_heap(9_999):
        assert gc.get_freeze_count() == 0
    with suppress(KeyError), frozen_heap(10_000):
        assert gc.get_freeze_count() > 1000
        with frozen_heap(10_000):  # a run inside a run
            pass
        assert gc.get_freeze_count() > 1000
        raise KeyError
    assert gc.get_freeze_count() == 0


def nothing(dataset):
    return None


def none_left(dataset):
    return dataset.select([])


def folder(tmp_path):
    return StepFolder(tmp_path / "step", 1, ProcessGroup().worker_id)


def test_dataset_step_filter_saves_kept_and_dropped_rows(tmp_path):
    run_dataset_step(OnlyOnce(), REPEATED, folder(tmp_path), ProcessGroup())
    done = folder(tmp_path)
    assert done.finished
    assert done.load(REPEATED.features, "x")["instruction"][:] == ["a", "b"]
    assert done.dropped()["row"][:] == [2]
    assert done.load_record()["stopped"] == {"": 2, "repeated": 1}


def test_dataset_step_filter_compares_with_earlier_rounds(tmp_path):
    earlier = [Dataset.from_dict({"instruction": ["b"]})]
    run_dataset_step(OnlyOnce(), REPEATED, folder(tmp_path), ProcessGroup(), earlier, 10)
    assert folder(tmp_path).dropped()["row"][:] == [11, 12]


def test_dataset_step_nothing_dropped_writes_no_file(tmp_path):
    run_dataset_step(OnlyOnce(), REPEATED.select([0]), folder(tmp_path), ProcessGroup())
    assert len(folder(tmp_path).dropped()) == 0
    assert not list((tmp_path / "step").glob("*.parquet"))


def test_dataset_step_function_returning_none_raises(tmp_path):
    with pytest.raises(TypeError, match=r"nothing .*NoneType"):
        run_dataset_step(as_step(nothing), REPEATED, folder(tmp_path), ProcessGroup())


def test_run_function_that_leaves_no_row_keeps_columns(tmp_path):
    result = Pipeline((none_left, TextGeneration(EchoLLM()))).run(REPEATED, run_dir=tmp_path, quiet=True)
    assert len(result) == 0
    assert "generation" in result.column_names


def test_run_dataset_step_leaves_other_caches(tmp_path, monkeypatch):
    """A cache file that another process writes beside the dataset while a function runs is not the step's."""
    source = Dataset.from_dict({"n": [1, 2]}).map(
        lambda row: {"n": row["n"]}, cache_file_name=str(tmp_path / "a.arrow")
    )
    other = tmp_path / "cache-of-another-process.arrow"

    def doubled(dataset):
        other.write_bytes(b"rows")
        return dataset.map(lambda row: {"n": 2 * row["n"]})

    result = Pipeline((doubled,)).run(source, run_dir=tmp_path / "run", quiet=True)
    assert result["n"][:] == [2, 4]
    assert other.exists()
