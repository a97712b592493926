import json
import os
import pickle

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import Decontaminate, Pipeline, TextGeneration
from tests.helpers import RepeatingLLM

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


def test_decontaminate_shared_ngram_drops_with_evidence(quiz):
    stay, dropped = Decontaminate(benchmarks=[quiz]).split(Dataset.from_dict({"instruction": ROWS}))
    assert stay["instruction"][:] == [ROWS[1]]  # ten words in common, three fewer than it takes
    assert dropped["rule"][:] == ["in_benchmark"] * 2
    assert list(zip(dropped["value"], dropped["matched"], strict=True)) == [
        ("a farmer has twelve sheep and sells all but five of them how", "quiz.jsonl row 0 question"),
        ("who was the first king of this small country", "quiz.jsonl row 1 question"),
    ]


def test_decontaminate_ngram_and_shortest_are_fields(quiz):
    def stay(**fields):
        return [drop is None for drop in Decontaminate(benchmarks=[quiz], **fields).decide(ROWS, [])]

    assert stay(ngram=8) == [False, False, False]
    assert stay(ngram=13, shortest=10) == [False, True, True]
    assert stay(ngram=13, shortest=1) == [False, False, False]  # "five" is an answer


def test_decontaminate_reads_benchmarks_at_the_first_row(tmp_path, monkeypatch):
    filter = Decontaminate(benchmarks=(str(tmp_path / "later.txt"),))
    drops = filter.decide(["one two three four five six seven eight"], [])
    (tmp_path / "later.txt").write_text("One two three, four five six; seven eight.\n")
    assert next(drops).matched == "later.txt row 0 text"
    monkeypatch.setattr("hfsynth.filters.decontaminate.passages", None)
    assert next(filter.decide(["nothing of it"], [])) is None  # they are read once


def test_decontaminate_unreadable_benchmark_is_an_error(quiz, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    filter = Decontaminate(benchmarks=(quiz, str(tmp_path / "nothing.jsonl")))
    with pytest.raises(ValueError, match=r"'.*nothing\.jsonl'"):
        filter(Dataset.from_dict({"instruction": ROWS}))


def test_decontaminate_hash_is_the_same_after_a_run(quiz):
    filter = Decontaminate(benchmarks=[quiz], ngram=10)
    before = Hasher.hash(filter)
    assert list(filter.decide(ROWS, [])) != [None] * 3
    assert Hasher.hash(filter) == before
    assert pickle.loads(pickle.dumps(filter)) == filter


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"benchmarks": ()}, r"Decontaminate\.benchmarks"),
        ({"benchmarks": 5}, r"Decontaminate\.benchmarks .*\b5\b"),
        ({"benchmarks": ("a",), "ngram": 5}, r"shortest .*ngram=5.*\b8\b"),
    ],
)
def test_decontaminate_field_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        Decontaminate(**fields)


def test_run_missing_benchmark_fails_before_generating(tmp_path):
    log = tmp_path / "log"
    pipeline = TextGeneration(RepeatingLLM(log=str(log))) >> Decontaminate(benchmarks=("gone.jsonl",))
    with pytest.raises(ValueError, match=r"'gone\.jsonl'"):
        pipeline.run(Dataset.from_dict({"instruction": ["a"]}), run_dir=tmp_path / "run")
    assert not log.exists()


def test_copied_benchmark_keeps_the_fingerprint(quiz, tmp_path):
    filters = Decontaminate(benchmarks=(quiz,)), Decontaminate(benchmarks=(str(tmp_path),))
    before = [filter.fingerprint() for filter in filters]
    os.utime(quiz, (1, 1))
    assert [filter.fingerprint() for filter in filters] == before
    (tmp_path / "quiz.jsonl").write_text('{"question": "Who was the second queen of this large country?"}')
    assert [filter.fingerprint() == old for filter, old in zip(filters, before, strict=True)] == [False, False]


def test_run_changed_benchmark_runs_the_filter_anew(tmp_path):
    quiz = tmp_path / "quiz.jsonl"
    rows = Dataset.from_dict({"instruction": [QUESTION]})
    pipeline = Pipeline((Decontaminate(benchmarks=(str(quiz),)),))
    found = []
    for text in ("Something else that is not at all like the question that we have here, by far.", QUESTION):
        quiz.write_text(json.dumps({"question": text}) + "\n")
        found.append(len(pipeline.run(rows, run_dir=tmp_path / "run", quiet=True)))
    assert found == [1, 0]
