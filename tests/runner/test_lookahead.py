"""The next technique's first rows begin while the last rows of a step are completed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value

from hfsynth import EchoLLM, Pipeline, RowError, SamplingParams, TextGeneration, WellFormed, run
from hfsynth.errors import FlowError
from hfsynth.filter import Drop, Filter
from hfsynth.llm import Completion, Request
from hfsynth.technique import Input, Technique
from tests.helpers import OnlyOnce, fork, kill_at_random

ROOT = Path(__file__).parents[2]
SIZE = 4
B = {"generation": "b"}


@dataclass(frozen=True)
class SteppedLLM(EchoLLM):
    """Decodes all requests in its slots at once, each for as many steps as the number that its text ends with.

    Logs each text that is taken, with the texts in the other slots, and each text that is completed.
    """

    log: str = ""
    slots: int = 4
    step_seconds: float = 0.0

    def stream(self, requests):
        decoding = []
        while True:
            while len(decoding) < self.slots and (item := requests.take()):
                self.take(item[1], [text(request) for _, _, request in decoding])
                decoding.append([int(text(item[1]).split()[-1]), *item])
            if not decoding:
                return
            time.sleep(self.step_seconds)
            for slot in decoding:
                slot[0] -= 1
            ended = [slot for slot in decoding if slot[0] <= 0]
            decoding = [slot for slot in decoding if slot[0] > 0]
            for _, key, request in ended:
                self.write(f"< {text(request)}")
                yield key, self.complete([request])[0]

    def take(self, request: Request, beside: list[str]) -> None:
        kill = Path(self.log).with_name("kill")
        if kill.exists() and kill.read_text() == text(request):
            os.kill(os.getpid(), signal.SIGKILL)
        self.write(f"{text(request)}|{','.join(beside)}")

    def write(self, line: str) -> None:
        with Path(self.log).open("a") as file:
            file.write(f"{line}\n")


def text(request):
    return request.messages[-1]["content"]


@dataclass(frozen=True)
class Halves(Technique):
    """Makes two rows of each row, and fails on those with "odd"."""

    def input_features(self, available):
        return {"instruction": Input.TEXT}

    @property
    def output_features(self):
        return Features({"generation": Value("string")})

    def flow(self, row, rng):
        completion = yield Request(messages=({"role": "user", "content": row["instruction"]},))
        if "odd" in completion.text:
            raise RowError("odd", completion.text)
        return [{"generation": f"{half} {completion.text}"} for half in ("left", "right")]


@dataclass(frozen=True, kw_only=True)
class Undeclared(OnlyOnce):
    """Depends on earlier rows without saying so."""

    stateful = False


@dataclass(frozen=True, kw_only=True)
class Without(Filter):
    """Drops texts with a word."""

    word: str
    has_model: bool = False

    @property
    def loads_model(self):
        return self.has_model

    def decide(self, values, kept):
        return (Drop("word", self.word) if self.word in value else None for value in values)


def dataset(number=20, length=2, last=12):
    """Rows of the same length, but for the last one."""
    return Dataset.from_dict(
        {"instruction": [f"row {n} of {last if n == number - 1 else length}" for n in range(number)]}
    )


def pipeline(folder, *between, first=TextGeneration, **options):
    llm = SteppedLLM(log=str(folder / "log"), **options)
    second = TextGeneration(llm, name="B", template="b {{ generation }}", output_mappings=B)
    steps = first(llm)
    for step in (*between, second):
        steps = steps >> step
    return steps


def complete(steps, folder, rows=None, **options):
    return run(steps, rows or dataset(), run_dir=folder / "run", chunk_size=SIZE, quiet=True, **options)


def lines(folder):
    """Return a pair for each text that was taken: the text, and those beside it."""
    taken = (line.split("|") for line in (folder / "log").read_text().splitlines() if line[0] != "<")
    return [(text, beside.split(",") if beside else []) for text, beside in taken]


def log(folder):
    """Return the texts that were taken and, of each, the texts beside it."""
    return dict(lines(folder))


def num_early(folder):
    """Return the number of rows of the second step that were taken beside a row of the first."""
    return sum(taken.startswith("b ") and any(one[:2] != "b " for one in beside) for taken, beside in lines(folder))


def counts(folder):
    return Counter(taken for taken, _ in lines(folder))


def test_run_next_step_begins_beside_the_last_rows(tmp_path):
    result = complete(pipeline(tmp_path), tmp_path)
    assert "row 19 of 12" in log(tmp_path)["b row 0 of 2"]
    assert num_early(tmp_path) >= 12
    assert set(counts(tmp_path).values()) == {1}
    assert result.dataset["b"][:] == [f"b {text}" for text in dataset()["instruction"]]
    assert [step.completion_tokens for step in result.record.steps] == [80, 100]
    assert not [*(tmp_path / "run").rglob("journal-*"), *(tmp_path / "run").rglob("claim-*")]


def test_run_rows_in_flight_continue_in_the_next_step(tmp_path):
    """The first step ends while rows of the second are decoded; none of these is asked for twice."""
    result = complete(pipeline(tmp_path), tmp_path, dataset(last=6, length=4))
    assert num_early(tmp_path) == 3
    assert "b row 2 of 4" in log(tmp_path)["b row 3 of 4"]
    assert set(counts(tmp_path).values()) == {1}
    assert result.dataset["b"][19] == "b row 19 of 6"


def test_run_deterministic_begins_no_row_early(tmp_path):
    complete(pipeline(tmp_path), tmp_path, deterministic=True)
    assert num_early(tmp_path) == 0


@pytest.mark.parametrize("step", [OnlyOnce(), WellFormed(), Without(word="7")])
def test_run_filter_with_memory_is_a_barrier(tmp_path, step):
    result = complete(pipeline(tmp_path, step), tmp_path)
    assert (num_early(tmp_path) == 0) == step.stateful
    kept = [text for text in dataset()["instruction"] if not isinstance(step, Without) or step.word not in text]
    assert result.dataset["b"][:] == [f"b {text}" for text in kept]


def test_run_filter_that_hides_its_memory_changes_no_row(tmp_path, caplog):
    rows = Dataset.from_dict({"instruction": [f"row {n // 8 + n % 4} of {12 if n == 31 else 2}" for n in range(32)]})
    result = complete(pipeline(tmp_path, Undeclared()), tmp_path, rows)
    assert num_early(tmp_path) > 0
    unique = list(dict.fromkeys(rows["instruction"]))
    assert result.dataset["b"][:] == [f"b {text}" for text in unique]
    assert "stateful" in caplog.text


def test_run_filter_with_a_model_is_a_barrier(tmp_path):
    """Its model and the llm, whose stream goes on, would be in memory at once."""
    complete(pipeline(tmp_path, Without(word="7", has_model=True)), tmp_path)
    assert num_early(tmp_path) == 0


def test_run_function_and_other_llm_are_barriers(tmp_path):
    def same_rows(dataset):
        return dataset

    complete(pipeline(tmp_path, same_rows), tmp_path)
    assert num_early(tmp_path) == 0
    (tmp_path / "log").unlink()
    steps = TextGeneration(SteppedLLM(log=str(tmp_path / "log"))) >> TextGeneration(
        SteppedLLM(log=str(tmp_path / "log"), slots=3), name="B", template="b {{ generation }}", output_mappings=B
    )
    complete(steps, tmp_path)
    assert num_early(tmp_path) == 0


def test_run_several_rows_of_a_row_and_failures_are_equal(tmp_path):
    rows = [f"{'odd' if n in (2, 9) else 'row'} {n} of {12 if n == 19 else 2}" for n in range(20)]
    rows = Dataset.from_dict({"instruction": [*rows[:5], None, *rows[6:]]})
    early = complete(pipeline(tmp_path, first=Halves), tmp_path, rows)
    assert num_early(tmp_path) > 0
    assert set(counts(tmp_path).values()) == {1}
    apart = complete(pipeline(tmp_path, first=Halves), tmp_path / "apart", rows, deterministic=True)
    assert early.dataset.to_list() == apart.dataset.to_list()
    assert early.failures.to_list() == apart.failures.to_list()
    figures = [[replace(step, seconds=0, wall_seconds=0) for step in one.record.steps] for one in (early, apart)]
    assert figures[0] == figures[1]


def test_run_mistake_of_the_next_step_leaves_this_one_finished(tmp_path):
    @dataclass(frozen=True)
    class Mistaken(TextGeneration):
        def flow(self, row, rng):
            yield Request(messages=({"role": "user", "content": f"b {row['instruction']}"},))
            return undefined  # noqa: F821

    llm = SteppedLLM(log=str(tmp_path / "log"))
    with pytest.raises(FlowError, match="undefined"):
        complete(TextGeneration(llm) >> Mistaken(llm, name="B", output_mappings=B), tmp_path)
    assert counts(tmp_path)["b row 0 of 2"] == 2
    assert len(list((tmp_path / "run").glob("TextGeneration-*/step.json"))) == 1


def test_run_lost_server_begins_few_rows_early(tmp_path):
    class Lost(SteppedLLM):
        def complete(self, requests):
            if text(requests[0]).startswith("b ") and not (tmp_path / "found").exists():
                return [Completion(text="", finish_reason="error", error="Connection refused")]
            return super().complete(requests)

    llm = Lost(log=str(tmp_path / "log"))
    steps = TextGeneration(llm) >> TextGeneration(llm, name="B", template="b {{ generation }}", output_mappings=B)
    rows = dataset(40, last=60)
    assert complete(steps, tmp_path, rows).dataset["b"][:] == [None] * 40
    assert 8 <= num_early(tmp_path) <= 12
    (tmp_path / "found").touch()
    result = complete(steps, tmp_path, rows)
    assert result.dataset["b"][:] == [f"b {text}" for text in rows["instruction"]]


def test_run_in_rounds_has_the_same_rows(tmp_path):
    rows = Dataset.from_dict({"instruction": [f"row {n} of {9 if n % 4 == 3 else 2}" for n in range(40)]})
    steps = pipeline(tmp_path, Without(word="7"))
    early = complete(steps, tmp_path, rows, num_rows=25)
    assert num_early(tmp_path) > 0
    assert set(counts(tmp_path).values()) == {1}
    apart = complete(steps, tmp_path / "apart", rows, num_rows=25, deterministic=True)
    assert early.dataset.to_list() == apart.dataset.to_list()


RUN = """
import sys
from pathlib import Path
from tests.runner.test_lookahead import complete, pipeline
folder = Path(sys.argv[1])
complete(pipeline(folder), folder)
"""


@pytest.mark.parametrize("at", ["b row 6 of 2", "b row 18 of 2"])
def test_run_killed_in_the_overlap_loses_only_rows_in_flight(tmp_path, at):
    (tmp_path / "kill").write_text(at)
    killed = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    (tmp_path / "kill").unlink()
    result = complete(pipeline(tmp_path), tmp_path)
    repeated = [taken for taken, count in counts(tmp_path).items() if count > 1]
    assert len(repeated) <= 4
    apart = complete(pipeline(tmp_path), tmp_path / "apart")
    assert result.dataset.to_list() == apart.dataset.to_list()
    assert not [*(tmp_path / "run").rglob("journal-*"), *(tmp_path / "run").rglob("claim-*")]


@pytest.mark.model
def test_run_real_model_has_the_rows_of_single_steps(tmp_path, smollm):
    sampling = SamplingParams(max_new_tokens=8, temperature=0.8)
    first = TextGeneration(smollm, sampling=sampling, keep_truncated=True)
    second = TextGeneration(
        smollm, sampling=sampling, keep_truncated=True, name="B", template="Is it? {{ generation }}", output_mappings=B
    )
    rows = Dataset.from_dict({"instruction": [f"Name {n} fruits." for n in range(10)]})
    chained = complete(first >> second, tmp_path, rows)
    alone = complete(Pipeline((first,)), tmp_path / "alone", rows)
    alone = complete(Pipeline((second,)), tmp_path / "alone", alone.dataset)
    assert chained.dataset.to_list() == alone.dataset.to_list()
    assert [step.unequal_rows for step in chained.record.steps] == [0, 0]


UNEVEN = Dataset.from_dict({"instruction": [f"row {n} of {20 if n > 34 else 1 + n % 4}" for n in range(40)]})


def start(folder, seconds):
    """Run in a child, which writes its rows to a file."""
    if child := fork():
        return child
    result = complete(pipeline(folder, Without(word="7"), step_seconds=seconds), folder, UNEVEN)
    (folder / "rows.json").write_text(json.dumps(result.dataset.to_list()))
    os._exit(0)


def test_run_killed_at_random_has_the_same_rows(tmp_path):
    """Ten kills of one or two processes at once; the requests in flight may be asked for twice."""
    chance = random.Random(3)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir()
    killed.mkdir()
    os.waitpid(start(alone, 0.0), 0)
    kills = kill_at_random(lambda _: start(killed, 0.005), chance, 10, 2, (0.05, 0.5))
    assert kills >= 10
    assert (killed / "rows.json").read_text() == (alone / "rows.json").read_text()
    assert sum((counts(killed) - counts(alone)).values()) <= 4 * kills + 2 * SIZE
    assert not [*(killed / "run").rglob("journal-*"), *(killed / "run").rglob("claim-*")]


RANK = """
import json, sys
from pathlib import Path
from tests.runner.test_lookahead import complete, dataset, pipeline
folder = Path(sys.argv[1])
result = complete(pipeline(folder, step_seconds=0.02), folder, dataset(length=8, last=30))
(folder / f"rows-{sys.argv[2]}.json").write_text(json.dumps(result.dataset.to_list()))
(folder / f"record-{sys.argv[2]}.json").write_text(result.record.to_json())
"""


def test_run_two_ranks_begin_rows_while_one_is_busy(tmp_path):
    """The rank that waits for the last row of the other one begins the next step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rank = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), n],
            env={**os.environ, **rank, "PYTHONPATH": str(ROOT), "RANK": n, "LOCAL_RANK": n},
        )
        for n in "01"
    ]
    assert [task.wait(120) for task in tasks] == [0, 0]
    assert (tmp_path / "rows-0.json").read_text() == (tmp_path / "rows-1.json").read_text()
    repeated = {taken for taken, count in counts(tmp_path).items() if count > 1}
    last_chunk = {"b row 16 of 8", "b row 17 of 8", "b row 18 of 8", "b row 19 of 30"}
    assert repeated <= last_chunk  # a rank without work may repeat that of a slow one
    assert json.loads((tmp_path / "record-0.json").read_text())["steps"][1]["rows_out"] == 20
    events = (tmp_path / "log").read_text().splitlines()
    assert sum(event.startswith("< b ") for event in events[: events.index("< row 19 of 30")]) >= 4
