import json
import pickle

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import Decontaminate, Pipeline, TextGeneration
from tests.helpers import ScriptedLLM

QUESTION = "A farmer has twelve sheep and sells all but five of them: how many sheep does the farmer have left?"
ROWS = [
    "Solve it. A farmer has twelve sheep, and sells all but FIVE of them - how many?",
    "A farmer has twelve sheep and sells all but five.",
    "Who was the first king of this small country?",
]


@pytest.fixture
def quiz(tmp_path):
    """A benchmark with a long question, one of nine words, and short answers."""
    file = tmp_path / "quiz.jsonl"
    rows = [(QUESTION, "five"), ("Who was the first king of this small country", "small country")]
    file.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows))
    return str(file)


def test_a_row_that_shares_a_run_of_words_is_dropped_with_the_evidence(quiz):
    stay, dropped = Decontaminate(benchmarks=[quiz]).split(Dataset.from_dict({"instruction": ROWS}))
    assert stay["instruction"][:] == [ROWS[1]]  # ten words in common, three fewer than it takes
    assert dropped["rule"][:] == ["in_benchmark"] * 2
    assert list(zip(dropped["value"], dropped["matched"], strict=True)) == [
        ("a farmer has twelve sheep and sells all but five of them how", "quiz.jsonl row 0 question"),
        ("who was the first king of this small country", "quiz.jsonl row 1 question"),
    ]


def test_how_long_a_run_is_and_how_short_a_text_are_fields(quiz):
    def stay(**fields):
        return [drop is None for drop in Decontaminate(benchmarks=[quiz], **fields).decide(ROWS, [])]

    assert stay(ngram=8) == [False, False, False]
    assert stay(ngram=13, shortest=10) == [False, True, True]
    assert stay(ngram=13, shortest=1) == [False, False, False]  # "five" is an answer


def test_the_benchmarks_are_read_when_the_first_row_is_decided_on_and_not_before(tmp_path, monkeypatch):
    filter = Decontaminate(benchmarks=(str(tmp_path / "later.txt"),))
    verdicts = filter.decide(["one two three four five six seven eight"], [])
    (tmp_path / "later.txt").write_text("One two three, four five six; seven eight.\n")
    assert next(verdicts).matched == "later.txt row 0 text"
    monkeypatch.setattr("hfsynth.filters.decontaminate.passages", None)
    assert next(filter.decide(["nothing of it"], [])) is None  # they are read once


def test_an_unreadable_benchmark_is_an_error_before_anything_is_decided(quiz, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    filter = Decontaminate(benchmarks=(quiz, str(tmp_path / "nothing.jsonl")))
    with pytest.raises(ValueError, match=r"the benchmark '.*nothing\.jsonl' can't be read"):
        filter(Dataset.from_dict({"instruction": ROWS}))


def test_decontaminate_is_its_configuration(quiz):
    filter = Decontaminate(benchmarks=[quiz], ngram=10)
    before = Hasher.hash(filter)
    assert list(filter.decide(ROWS, [])) != [None] * 3
    assert Hasher.hash(filter) == before
    assert pickle.loads(pickle.dumps(filter)) == filter


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"benchmarks": ()}, r"Decontaminate\.benchmarks is empty"),
        ({"benchmarks": 5}, r"Decontaminate\.benchmarks is 5; it must be texts"),
        ({"benchmarks": ("a",), "ngram": 5}, r"shortest is 8; it must be at least 1 and at most ngram, 5"),
    ],
)
def test_a_field_out_of_its_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        Decontaminate(**fields)


def test_a_benchmark_that_is_not_there_is_told_before_a_run_generates_anything(tmp_path):
    log = tmp_path / "log"
    pipeline = TextGeneration(ScriptedLLM(log=str(log))) >> Decontaminate(benchmarks=("gone.jsonl",))
    with pytest.raises(ValueError, match=r"the benchmark 'gone\.jsonl' can't be read: there is no file"):
        pipeline.run(Dataset.from_dict({"instruction": ["a"]}), run_dir=tmp_path / "run")
    assert not log.exists()


def test_a_benchmark_that_has_changed_is_compared_with_again(tmp_path):
    quiz = tmp_path / "quiz.jsonl"
    rows = Dataset.from_dict({"instruction": [QUESTION]})
    pipeline = Pipeline((Decontaminate(benchmarks=(str(quiz),)),))
    found = []
    for text in ("Something else that is not at all like the question that we have here, by far.", QUESTION):
        quiz.write_text(json.dumps({"question": text}) + "\n")
        found.append(len(pipeline.run(rows, run_dir=tmp_path / "run", quiet=True)))
    assert found == [1, 0]
