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
from tests.test_novelty import ODD, texts

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
SEED_FILE = Path(__file__).parent.parent / "scripts" / "seeds.jsonl"
SEEDS = [json.loads(line)["input"] for line in SEED_FILE.read_text().splitlines()]


def reference(rows, known, threshold):
    """Self-Instruct's own loop: the places of the rows that stay."""
    pool, stay = list(known), []
    for place, row in enumerate(rows):
        if all(SCORER.score(other, row)["rougeL"].fmeasure <= threshold for other in pool):
            pool.append(row)
            stay.append(place)
    return stay


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("rows", [[*SEEDS, *SEEDS[:3]], ODD, texts(5, 80), texts(6, 80, 2)], ids=str)
def test_the_rows_that_stay_are_those_of_rouge_score_on_every_pair(rows, threshold):
    known = rows[-4:]
    verdicts = list(Novelty(texts=known, threshold=threshold, tokenizer="rouge_score").decide(rows, []))
    stay = [place for place, drop in enumerate(verdicts) if drop is None]
    assert stay == reference(rows, known, threshold)
    for row, drop in zip(rows, verdicts, strict=True):
        if drop is not None:
            assert f"{SCORER.score(drop.matched, row)['rougeL'].fmeasure:.4f}" == drop.value


def test_a_dropped_row_tells_how_near_it_is_and_to_what():
    dataset = Dataset.from_dict({"instruction": ["Name a red fruit.", "Name a red or green fruit."]})
    stay, dropped = Novelty(texts=("Add 2 and 3.",)).split(dataset)
    assert stay["instruction"][:] == ["Name a red fruit."]
    assert [dropped[0][key] for key in ("rule", "value", "matched")] == ["near_another", "0.8000", "Name a red fruit."]


def test_rows_before_count_as_those_at_hand_do():
    novelty = Novelty()
    assert [bool(drop) for drop in novelty.decide(["Name a red fruit!", "Add 2."], ["Name a red fruit."])] == [
        True,
        False,
    ]


@pytest.mark.parametrize("language", NEAR)
def test_novelty_of_any_script_drops_what_is_nearly_the_same(language):
    pairs = [[drop is None for drop in Novelty().decide(pair, [])] for pair in NEAR[language]]
    assert pairs == [[True, False]] * len(pairs)


@pytest.mark.parametrize("language", UNLIKE)
def test_novelty_of_any_script_keeps_what_is_unlike(language):
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


def test_novelty_ignores_how_a_text_is_encoded():
    korean, vietnamese = "서울에 대해 알려 줘.", "Kể tên ba màu cơ bản."
    for text in (korean, vietnamese):
        other = unicodedata.normalize("NFD", text)
        assert other != text
        assert [drop is None for drop in Novelty().decide([text, other, f"\ufeff{text}"], [])] == [
            True,
            False,
            False,
        ]


def test_novelty_of_texts_that_differ_in_a_symbol_keeps_both():
    assert list(Novelty().decide(["Explain 🙂.", "Explain 🎉."], [])) == [None, None]


def test_novelty_by_rouge_score_reads_latin_alone():
    novelty = Novelty(tokenizer="rouge_score")
    assert list(novelty.decide(["你好吗", "你好吗"], [])) == [None, None]
    assert [drop is None for drop in novelty.decide(UNLIKE["zh"][2], [])] == [True, False]


def test_novelty_with_an_unknown_tokenizer_is_an_error():
    with pytest.raises(
        ValueError, match=r"Novelty\.tokenizer is 'spaces'; it must be one of \['unicode', 'rouge_score'\]"
    ):
        Novelty(tokenizer="spaces")


def test_a_novelty_filter_is_its_configuration():
    novelty = Novelty(texts=["a b"], threshold=0.6)
    assert pickle.loads(pickle.dumps(novelty)) == novelty
    assert Hasher.hash(novelty) == Hasher.hash(Novelty(texts=("a b",), threshold=0.6)) != Hasher.hash(Novelty())


@pytest.mark.parametrize("threshold", [0, 1, -0.7])
def test_a_threshold_out_of_its_range_is_an_error(threshold):
    with pytest.raises(ValueError, match=rf"Novelty\.threshold is {threshold}; it must be above 0 and below 1"):
        Novelty(threshold=threshold)
