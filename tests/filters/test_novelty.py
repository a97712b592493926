import json
import pickle
import unicodedata
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from rouge_score.rouge_scorer import RougeScorer

from hfsynth import Novelty
from tests.languages import NEAR, UNLIKE
from tests.similarity.test_rouge import ODD, texts

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
SEED_FILE = Path(__file__).parents[2] / "scripts" / "seeds.jsonl"
SEEDS = [json.loads(line)["input"] for line in SEED_FILE.read_text().splitlines()]


def reference(rows, seeds, threshold):
    """Self-Instruct's own loop: the places of the rows that stay."""
    pool, stay = list(seeds), []
    for place, row in enumerate(rows):
        if all(SCORER.score(other, row)["rougeL"].fmeasure <= threshold for other in pool):
            pool.append(row)
            stay.append(place)
    return stay


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("rows", [[*SEEDS, *SEEDS[:3]], ODD, texts(5, 80), texts(6, 80, 2)], ids=str)
def test_novelty_keeps_the_rows_of_the_papers_loop(rows, threshold):
    seeds = rows[-4:]
    drops = list(Novelty(texts=seeds, threshold=threshold, tokenizer="rouge_score").decide(rows, []))
    stay = [place for place, drop in enumerate(drops) if drop is None]
    assert stay == reference(rows, seeds, threshold)
    for row, drop in zip(rows, drops, strict=True):
        if drop is not None:
            assert f"{SCORER.score(drop.matched, row)['rougeL'].fmeasure:.4f}" == drop.value


def test_novelty_drop_holds_score_and_nearest_text():
    dataset = Dataset.from_dict({"instruction": ["Name a red fruit.", "Name a red or green fruit."]})
    stay, dropped = Novelty(texts=("Add 2 and 3.",)).split(dataset)
    assert stay["instruction"][:] == ["Name a red fruit."]
    assert [dropped[0][key] for key in ("rule", "value", "matched")] == ["near_another", "0.8000", "Name a red fruit."]


def test_novelty_compares_with_kept_rows():
    novelty = Novelty()
    assert [bool(drop) for drop in novelty.decide(["Name a red fruit!", "Add 2."], ["Name a red fruit."])] == [
        True,
        False,
    ]


@pytest.mark.parametrize("language", NEAR)
def test_novelty_any_script_drops_similar_texts(language):
    pairs = [[drop is None for drop in Novelty().decide(pair, [])] for pair in NEAR[language]]
    assert pairs == [[True, False]] * len(pairs)


@pytest.mark.parametrize("language", UNLIKE)
def test_novelty_any_script_keeps_different_texts(language):
    """Some of these share no more than a number, or a name in Latin letters."""
    unlike = [text for pair in UNLIKE[language] for text in pair]
    assert [drop for drop in Novelty().decide(unlike, []) if drop is not None] == []


@pytest.mark.parametrize(
    "text",
    [
        "서울에 대해 알려 줘.",
        "你好吗",
        "おはよう",
        "สวัสดี",
        "مرحبا",
        "नमस्ते",
        "שלום",
        "Γειά",
        "🙂🎉",
        "?!",
        "∑",
        "ꦱꦼ",
        "",
        "\u0301",
        "\u200b",
    ],
)
def test_novelty_drops_the_second_of_equal_texts(text):
    assert [drop and drop.value for drop in Novelty().decide([text, text], [])] == [None, "1.0000"]


def test_novelty_ignores_unicode_composition():
    korean, vietnamese = "서울에 대해 알려 줘.", "Kể tên ba màu cơ bản."
    for text in (korean, vietnamese):
        other = unicodedata.normalize("NFD", text)
        assert other != text
        assert [drop is None for drop in Novelty().decide([text, other, f"\ufeff{text}"], [])] == [
            True,
            False,
            False,
        ]


def test_novelty_texts_with_different_symbols_are_kept():
    assert list(Novelty().decide(["Explain 🙂.", "Explain 🎉."], [])) == [None, None]


def test_novelty_rouge_score_tokenizer_reads_only_latin():
    novelty = Novelty(tokenizer="rouge_score")
    assert list(novelty.decide(["你好吗", "你好吗"], [])) == [None, None]
    assert [drop is None for drop in novelty.decide(UNLIKE["zh"][2], [])] == [True, False]


def test_novelty_unknown_tokenizer_is_an_error():
    with pytest.raises(ValueError, match=r"Novelty\.tokenizer .*'spaces'"):
        Novelty(tokenizer="spaces")


def test_novelty_equal_fields_have_one_hash():
    novelty = Novelty(texts=["a b"], threshold=0.6)
    assert pickle.loads(pickle.dumps(novelty)) == novelty
    assert Hasher.hash(novelty) == Hasher.hash(Novelty(texts=("a b",), threshold=0.6)) != Hasher.hash(Novelty())


@pytest.mark.parametrize("threshold", [0, 1, -0.7])
def test_novelty_threshold_out_of_range_is_an_error(threshold):
    with pytest.raises(ValueError, match=rf"Novelty\.threshold .*{threshold}\."):
        Novelty(threshold=threshold)
