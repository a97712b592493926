"""Transient failures, and the same run started a second time."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hfsynth import EvolInstruct, GenerationError, Pipeline, RunError, TextGeneration
from hfsynth.config import Configuration
from hfsynth.llm import LLM, Completion


@dataclass(frozen=True)
class Endpoint(Configuration, LLM):
    """Answers with the prompt, but for texts that a file names: prompt → finish reason, or "raise". Logs prompts."""

    folder: str
    model_name = "endpoint"

    def complete(self, requests):
        faults = json.loads(Path(self.folder, "faults.json").read_text())
        asked = [request.messages[-1]["content"] for request in requests]
        if any(faults.get(text) == "raise" for text in asked):
            raise ConnectionError("Connection refused")
        if any(faults.get(text) == "interrupt" for text in asked):
            raise KeyboardInterrupt
        with Path(self.folder, "log").open("a") as log:
            log.writelines(f"{text}\n" for text in asked)
        return [self._completion(text, faults.get(text, faults.get("*"))) for text in asked]

    def _completion(self, text, fault):
        if fault:
            return Completion(text="", finish_reason=fault, error="Connection refused")
        return Completion(text=f"<{text}>", finish_reason="stop", prompt_tokens=3, completion_tokens=2)

    def load(self):
        pass

    def unload(self):
        pass


class Run:
    """A run in a folder, started again and again, with what the endpoint refuses each time."""

    def __init__(self, folder: Path, chain=None, rows=6, chunk_size=2):
        self.folder = folder
        self.llm = Endpoint(str(folder))
        self.chain = chain or Pipeline((TextGeneration(self.llm),))
        self.rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(rows)]})
        self.chunk_size = chunk_size

    def __call__(self, **faults):
        (self.folder / "faults.json").write_text(json.dumps({key.replace("_", " "): v for key, v in faults.items()}))
        (self.folder / "log").write_text("")
        return self.chain.run(self.rows, run_dir=self.folder / "run", chunk_size=self.chunk_size, quiet=True)

    def asked(self):
        return (self.folder / "log").read_text().splitlines()


def two_steps(folder):
    llm = Endpoint(str(folder))
    second = TextGeneration(
        llm, name="B", input_mappings={"instruction": "generation"}, output_mappings={"generation": "b"}
    )
    return TextGeneration(llm) >> second


@pytest.mark.parametrize("fault", ["error", "raise"])
@pytest.mark.parametrize("chunk_size", [1, 2, 6])
def test_rerun_asks_only_for_transient_failures(tmp_path, fault, chunk_size):
    run, fine = Run(tmp_path, chunk_size=chunk_size), Run(tmp_path / "fine", chunk_size=chunk_size)
    fine.folder.mkdir()
    first = run(say_3=fault)
    assert first["generation"][:] == ["<say 0>", "<say 1>", "<say 2>", None, "<say 4>", "<say 5>"]
    second = run()
    assert run.asked() == ["say 3"]
    assert second.to_list() == fine().to_list()
    assert second._fingerprint != first._fingerprint
    run()
    assert run.asked() == []


def test_rerun_failing_row_is_tried_in_every_run(tmp_path):
    run = Run(tmp_path)
    for _ in range(3):
        assert run(say_3="error")["generation"][3] is None
    assert run.asked() == ["say 3"]
    assert run()["generation"][3] == "<say 3>"
    assert len(list((tmp_path / "run").glob("TextGeneration-*"))) == 1


def test_rerun_refused_row_is_not_asked_for(tmp_path):
    run = Run(tmp_path)
    assert run(say_3="refused")["generation"][3] is None
    assert run()["generation"][3] is None
    assert run.asked() == []


def test_rerun_mended_rows_leave_the_failures_file(tmp_path):
    run = Run(tmp_path)
    run(say_3="error")
    assert len(list((tmp_path / "run").glob("failures-*"))) == 1
    run()
    assert list((tmp_path / "run").glob("failures-*")) == []


def test_rerun_later_step_runs_only_changed_rows(tmp_path):
    run = Run(tmp_path, two_steps(tmp_path))
    assert run(say_3="error")["b"][3] is None
    second = run()
    assert run.asked() == ["say 3", "<say 3>"]
    assert second["b"][:] == [f"<<say {n}>>" for n in range(6)]
    run()
    assert run.asked() == []


def test_rerun_failures_of_two_steps_mends_both(tmp_path):
    run = Run(tmp_path, two_steps(tmp_path))
    run(**{"say_3": "error", "<say_1>": "error"})
    second = run()
    assert sorted(run.asked()) == ["<say 1>", "<say 3>", "say 3"]
    assert second["b"][:] == [f"<<say {n}>>" for n in range(6)]


def test_rerun_stopped_run_keeps_finished_rows(tmp_path):
    run = Run(tmp_path, rows=100, chunk_size=10)
    down = {f"say_{n}": "error" for n in range(15, 100)}
    with pytest.raises(RunError, match="64 rows: Connection refused"):
        run(**down)
    assert 79 <= len(run.asked()) < 100
    (file,) = (tmp_path / "run").glob("failures-*.parquet")
    assert pq.read_table(file)["row"].to_pylist() == list(range(15, 79))
    result = run()
    assert result["generation"][:] == [f"<say {n}>" for n in range(100)]
    assert run.asked() == [f"say {n}" for n in range(15, 100)]


def test_rerun_appended_rows_asks_only_for_failed_and_new_rows(tmp_path):
    run = Run(tmp_path, rows=6)
    run(say_3="error")
    run.rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(8)]})
    assert run()["generation"][:] == [f"<say {n}>" for n in range(8)]
    assert run.asked() == ["say 3", "say 6", "say 7"]


def test_rerun_appended_rows_takes_over_mended_chunks(tmp_path):
    run = Run(tmp_path, rows=6)
    run(say_3="error")
    run()
    run.rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(8)]})
    assert run()["generation"][:] == [f"<say {n}>" for n in range(8)]
    assert run.asked() == ["say 6", "say 7"]


def but_the_first(dataset):
    return dataset.select(range(1, len(dataset)))


def test_rerun_step_after_function_runs_only_changed_rows(tmp_path):
    first, second = two_steps(tmp_path).steps
    run = Run(tmp_path, first >> but_the_first >> second)
    assert run(say_3="error")["b"][2] is None
    result = run()
    assert run.asked() == ["say 3", "<say 3>"]
    assert result["b"][:] == [f"<<say {n}>>" for n in range(1, 6)]


def test_rerun_interrupted_rerun_continues(tmp_path):
    run = Run(tmp_path)
    run(say_1="error", say_5="error")
    with pytest.raises(KeyboardInterrupt):
        run(say_5="interrupt")
    assert run.asked() == ["say 1"]
    result = run()
    assert run.asked() == ["say 5"]
    assert result["generation"][:] == [f"<say {n}>" for n in range(6)]


def test_rerun_with_num_rows_mends_failures(tmp_path):
    run = Run(tmp_path, rows=40)

    def until(faults):
        (tmp_path / "faults.json").write_text(json.dumps(faults))
        return run.chain.run(run.rows, num_rows=8, run_dir=tmp_path / "run", chunk_size=2, quiet=True)

    assert until({"say 1": "error"})["generation"][1] == "<say 2>"
    assert until({})["generation"][:] == [f"<say {n}>" for n in range(8)]


def test_rerun_row_that_becomes_several_keeps_the_order(tmp_path):
    llm = Endpoint(str(tmp_path))
    several = TextGeneration(llm, num_generations=2, name="Several")
    run = Run(tmp_path, several, rows=3, chunk_size=2)
    run.chain = Pipeline((several,))
    assert len(run(say_0="error")) == 5
    assert run()["generation"][:] == ["<say 0>"] * 2 + ["<say 1>"] * 2 + ["<say 2>"] * 2
    assert run.asked() == ["say 0", "say 0"]


def test_rerun_failed_evolution_is_retried(tmp_path):
    """A later evolution that an endpoint refuses must not stand as one that was eliminated."""
    llm = Endpoint(str(tmp_path))
    evolve = EvolInstruct(
        llm, num_evolutions=2, eliminate=False, mutation_templates={"deeper": "{{ instruction }} and more"}
    )
    run = Run(tmp_path, Pipeline((evolve,)), rows=2)
    first = run(**{"<say_1_and_more>_and_more": "error"})
    assert first["evolved_instruction"][1] is None
    assert run()["evolved_instruction"][1] is not None


def test_run_all_rows_refused_finishes(tmp_path):
    run = Run(tmp_path, rows=100, chunk_size=50)
    assert run(**{"*": "refused"})["generation"][:] == [None] * 100


def test_technique_unloadable_llm_raises(tmp_path):
    class Unloadable(Endpoint):
        def load(self):
            raise GenerationError("no such model")

    with pytest.raises(GenerationError, match="no such model"):
        TextGeneration(Unloadable(str(tmp_path / "nowhere")))({"instruction": ["a"]}, [0])
