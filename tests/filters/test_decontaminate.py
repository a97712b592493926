import gzip
import json
import os
import pickle

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.fingerprint import Hasher

from hfsynth import Decontaminate, Pipeline, TextGeneration
from hfsynth.filters.decontaminate import NgramIndex, Passage, index_passages, passages
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


RHYME = "one two three four five six seven eight nine ten"


def index(*texts, n=4):
    return index_passages([Passage(text.split(), f"place {number}") for number, text in enumerate(texts)], n)


def places(benchmark, shortest=3):
    return [(" ".join(passage.words), passage.place) for passage in passages(str(benchmark), shortest)]


def test_find_shared_ngram_is_found_anywhere_in_a_text():
    found = index("a b c d", RHYME).find("Well: four, FIVE six; seven and on")
    assert (found.ngram, found.place) == ("four five six seven", "place 1")


@pytest.mark.parametrize("text", ["three four five or six", "one two three", "", "xone two three four"])
def test_find_without_a_shared_ngram_is_none(text):
    assert index(RHYME).find(text) is None


def test_find_text_shorter_than_n_is_one_ngram():
    found = index(RHYME, "red green blue").find("name red green blue")
    assert (found.ngram, found.place) == ("red green blue", "place 1")
    assert index("red green blue").find("red green") is None


def test_passages_unspaced_scripts_need_several_signs_a_word(tmp_path):
    (tmp_path / "a.txt").write_text("联合国安全理事会\nกรุงเทพมหานคร\n光合作用是怎样在植物体内进行的呢\n")
    assert [passage.place for passage in passages(str(tmp_path / "a.txt"), 8)] == ["a.txt row 2 text"]


def test_find_chinese_takes_two_signs_as_a_word():
    found = index_passages([Passage(list("光合作用是怎样在植物体内"), "place")], 4)
    assert found.find("请问合作用是怎样在植吗").ngram == "合 作 用 是 怎 样 在 植"
    assert found.find("合作用是怎样在") is None


def test_find_ngram_of_several_texts_names_the_first():
    assert index(RHYME, RHYME).find(RHYME).place == "place 0"


def test_find_equal_hash_of_other_words_is_no_match(monkeypatch):
    monkeypatch.setattr("hfsynth.filters.decontaminate._hash", len)
    assert index("a b c d").find("w x y z") is None
    assert index("a b c d").find("a b c d").ngram == "a b c d"


def test_index_passages_holds_each_ngram_once():
    runs = index(*[RHYME] * 50).runs
    assert {length: len(hashes) for length, (hashes, _) in runs.items()} == {4: 7}
    assert all(hashes.dtype == np.uint64 and owners.dtype == np.uint32 for hashes, owners in runs.values())


def test_passages_yield_each_text_with_its_place(tmp_path):
    file = tmp_path / "quiz.jsonl"
    rows = [
        {"question": "What is one and one?", "answer": "2", "choices": ["It is two.", "No"], "n": 1},
        {"question": "And now?", "answer": "It is three.", "choices": [], "n": 2},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert places(file) == [
        ("what is one and one", "quiz.jsonl row 0 question"),
        ("it is two", "quiz.jsonl row 0 choices"),
        ("it is three", "quiz.jsonl row 1 answer"),
    ]


def test_passages_read_files_of_all_types(tmp_path):
    dataset = Dataset.from_dict({"text": ["one two three"]})
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.to_csv(tmp_path / "a.csv")
    dataset.to_json(tmp_path / "a.json")
    (tmp_path / "a.txt").write_text("one two three\n")
    for suffix in ("parquet", "csv", "json", "txt"):
        assert places(tmp_path / f"a.{suffix}") == [("one two three", f"a.{suffix} row 0 text")]


def test_passages_conversation_is_read_by_message(tmp_path):
    turns = [[{"role": "user", "content": "one two three"}, {"role": "assistant", "content": "four five six"}]]
    features = Features({"turns": List({"role": Value("string"), "content": Value("string")})})
    Dataset.from_dict({"turns": turns}, features=features).to_parquet(tmp_path / "a.parquet")
    assert [words for words, _ in places(tmp_path / "a.parquet")] == ["one two three", "four five six"]


def test_passages_hub_dataset_by_config_and_split(hub):
    for split in ("train", "test"):
        Dataset.from_dict({"q": [f"the {split} has words"]}).push_to_hub("user/quiz", "main", split=split)
    assert places("user/quiz:main:test") == [("the test has words", "user/quiz:main:test row 0 q")]
    assert [place for _, place in places("user/quiz:main")] == [
        "user/quiz:main:train row 0 q",
        "user/quiz:main:test row 0 q",
    ]


def test_passages_unreadable_benchmark_is_an_error(tmp_path, hub):
    with pytest.raises(ValueError, match=r"'user/no-benchmark:main'.*DatasetNotFoundError"):
        places("user/no-benchmark:main")
    (tmp_path / "a.pdf").write_text("one two three")
    with pytest.raises(ValueError, match=r"a\.pdf'.*'\.pdf'.*'\.csv'"):
        places(tmp_path / "a.pdf")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"'.*a\.json'"):
        places(tmp_path / "a.json")


def test_passages_without_a_long_enough_text_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("two words\n")
    with pytest.raises(ValueError, match=r"a\.txt'.* 3 words"):
        places(tmp_path / "a.txt")


def test_find_in_an_empty_index_is_none():
    assert NgramIndex((), (), {}).find(RHYME) is None


@pytest.mark.parametrize("name", ["QUIZ.JSONL", "quiz.ndjson", "quiz.jsonl.gz"])
def test_passages_file_of_any_type_in_home_is_read(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    content = b'{"q": "one two three"}\n'
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    assert places(f"~/{name}") == [("one two three", f"{name} row 0 q")]


def test_passages_saved_folder_reads_its_splits(tmp_path):
    parts = {"train": Dataset.from_dict({"q": ["one two three"]}), "test": Dataset.from_dict({"q": ["four five six"]})}
    DatasetDict(parts).save_to_disk(tmp_path / "disk")
    assert [words for words, _ in places(tmp_path / "disk")] == ["one two three", "four five six"]
    assert [words for words, _ in places(f"{tmp_path}/disk::test")] == ["four five six"]


def test_passages_mistyped_file_names_the_nearest(tmp_path):
    (tmp_path / "quiz.jsonl").write_text('{"q": "one two three"}')
    with pytest.raises(ValueError, match=r"'.*/quiz\.jsonl'"):
        places(tmp_path / "quizz.jsonl")
