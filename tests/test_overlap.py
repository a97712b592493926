from dataclasses import dataclass

import pytest
from datasets import Dataset

from hfsynth import EchoLLM, Magpie, Pipeline, TextGeneration
from hfsynth.runner.step import ChunksInFlight
from tests.helpers import ScriptedLLM

LOG: list[str] = []


def text(request):
    return request.messages[-1]["content"] if request.messages else ""


@dataclass(frozen=True)
class SlottedLLM(EchoLLM):
    """Takes as many requests as it has slots, and completes the one with the shortest text first."""

    slots: int = 4
    bad: str = ""

    def overlaps(self):
        return True

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
    dataset = Dataset.from_dict({"instruction": [f"{n} {'x' * (n * 7 % 5)}" for n in range(number)]})
    left = list(range(-(-number // size)))
    rows = lambda chunk: range(chunk * size, min((chunk + 1) * size, number))  # noqa: E731
    return ChunksInFlight(dataset, TextGeneration(llm), rows, lambda: left.pop(0) if left else None)


def drained(chunks):
    made = {}
    while (number := chunks.next()) is not None:
        made[number] = [outcome.rows[0]["generation"].split()[0] for outcome in chunks.outcomes(number)]
    return made


def test_the_next_chunks_rows_enter_before_the_last_of_this_one_are_done():
    chunks = in_flight(SlottedLLM(), 12)
    chunks.outcomes(chunks.next())
    assert len(LOG) > 3
    assert drained(chunks) == {1: ["3", "4", "5"], 2: ["6", "7", "8"], 3: ["9", "10", "11"]}


def test_an_llm_that_does_not_overlap_is_given_one_chunk_at_a_time(tmp_path):
    log = tmp_path / "log"
    chunks = in_flight(ScriptedLLM(log=str(log)), 12)
    chunks.outcomes(chunks.next())
    assert log.read_text().count("\n") == 3


def test_rows_are_the_same_with_and_without_overlap(tmp_path):
    dataset = Dataset.from_dict({"id": range(23)})
    made = [
        Pipeline((Magpie(llm),)).run(dataset, run_dir=tmp_path / str(n), chunk_size=size, quiet=True)
        for n, (llm, size) in enumerate([(EchoLLM(), 23), (SlottedLLM(), 3), (SlottedLLM(slots=9), 2)])
    ]
    assert made[0]["response"][:] == made[1]["response"][:] == made[2]["response"][:]
    assert made[0]["instruction"][:] == made[1]["instruction"][:] == made[2]["instruction"][:]


def test_a_request_that_raises_takes_no_other_with_it(tmp_path):
    rows = Dataset.from_dict({"instruction": [f"say {n}" for n in range(12)]})
    made = Pipeline((TextGeneration(SlottedLLM(bad="say 7")),)).run(rows, run_dir=tmp_path, chunk_size=2, quiet=True)
    assert made["generation"][:] == [f"say {n}" if n != 7 else None for n in range(12)]
    assert made[7]["generation_metadata"][0]["error"] == "LookupError: bad request"
