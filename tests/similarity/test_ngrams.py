import gzip
import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value

from hfsynth.similarity import ngrams
from hfsynth.similarity.ngrams import (
    NgramIndex,
    Passage,
    find_repeated_line,
    find_repeated_words,
    index_passages,
    passages,
)

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
    monkeypatch.setattr(ngrams, "_hash", len)
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Go on like this.\n" * 3, ("go on like this", 3)),
        ("Go on like this. And on. Go on like this! Or not. Go on LIKE this? Well.", ("go on like this", 3)),
        ("再说一遍吧。再说一遍吧。再说一遍吧。", ("再 说 一 遍 吧", 3)),
        ("Go on like this.\n" * 2, None),
        ("Yes. Yes. Yes.", None),
        ("", None),
    ],
)
def test_find_repeated_line_takes_lines_then_sentences(text, found):
    assert find_repeated_line(text) == found


def test_find_repeated_line_limits_are_arguments():
    assert find_repeated_line("Yes.\nYes.", min_times=2, min_words=1) == ("yes", 2)


def test_find_repeated_words_returns_run_times_and_share():
    assert find_repeated_words("a b c d " * 3 + "e f g h") == ("a b c d", 3, 0.75)
    assert find_repeated_words("a b c d " * 3 + "e f g h", max_share=0.75) is None


@pytest.mark.parametrize("text", ["", "a b c d a b c d", "Compare the cost of living in Rome with that in Paris."])
def test_find_repeated_words_without_repetition_is_none(text):
    assert find_repeated_words(text) is None
