import json
import random
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from hfsynth.similarity.rouge import NoveltyPool, f_measures
from hfsynth.similarity.words import rouge_score_words
from tests.languages import NEAR, UNLIKE, WordsOfAnyScript

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
SEED_FILE = Path(__file__).parent.parent / "scripts" / "seeds.jsonl"
SEED_TASKS = Path(__file__).parent.parent / "dataset_cards" / "self_instruct_seed_tasks.jsonl"
SEEDS = [json.loads(line)["input"] for line in SEED_FILE.read_text().splitlines()]
ODD = [
    "",
    " ",
    "?!",
    "a",
    "A",
    "a a a a",
    "a b a b a",
    "b a b a b",
    "ÀÉ naïve",
    "漢字",
    "x" * 300,
    "1 2 3",
    "a-b",
    "\n",
]


def rouge(text, other):
    return SCORER.score(other, text)["rougeL"].fmeasure


def texts(seed, count, words=6):
    """Texts of few words, so that many are near each other, and many exactly at a threshold."""
    draw = random.Random(seed)
    return [" ".join(draw.choices("abcdef"[:words], k=draw.randint(1, 24))) for _ in range(count)]


def varied(seed, count):
    """Texts of many words, some of them rare, each made of one before it: most pairs have little in common."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        words = draw.choice(made).split() if made and draw.random() < 0.6 else []
        words = [word for word in words if draw.random() < 0.8]
        made.append(" ".join(words + [f"w{int(draw.expovariate(0.03))}" for _ in range(draw.randint(0, 6))]))
    return made


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 2 / 3])
@pytest.mark.parametrize(
    "pool", [SEEDS, ODD, texts(1, 60), texts(2, 60, 2), varied(3, 80)], ids=["seeds", "odd", "near", "nearer", "far"]
)
def test_every_decision_is_that_of_rouge_score_on_every_pair(pool, threshold):
    kept: list[str] = []
    ours = NoveltyPool(threshold=threshold, tokenizer="rouge_score")
    for text in pool:
        scores = [rouge(text, other) for other in kept]
        found = ours.too_near(text)
        assert (found is not None) == any(score > threshold for score in scores), text
        if found is None:
            kept.append(text)
            ours.add(text)
        else:
            assert found.score == pytest.approx(max(scores))
            assert found.text == kept[scores.index(max(scores))]  # the first of several
    assert len(ours) == len(kept)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_decisions_on_any_script_are_those_on_every_pair(threshold):
    scorer = RougeScorer(["rougeL"], tokenizer=WordsOfAnyScript())
    pairs = [pair for texts in (NEAR, UNLIKE) for language in texts.values() for pair in language]
    pool, kept = NoveltyPool(threshold=threshold), []
    for text in [*ODD, *(text for pair in pairs for text in pair)]:
        best = max((scorer.score(other, text)["rougeL"].fmeasure for other in kept), default=0.0)
        found = pool.too_near(text)
        assert (found.score if found else None) == (pytest.approx(best) if best > threshold else None), text
        if found is None:
            pool.add(text)
            kept.append(text)
    assert 60 < len(kept) < 200


@pytest.mark.parametrize("text", [*SEEDS[:5], *ODD, *texts(3, 20)])
def test_words_are_those_of_rouge_score(text):
    assert rouge_score_words(text) == tokenize(text, None)


def test_the_nearest_text_is_found_however_far_it_is():
    pool = NoveltyPool(["one two three", "four five six", "seven"])
    assert pool.nearest("two three nine ten").text == "one two three"
    assert pool.nearest("eleven") is None


def test_rounding_is_that_of_rouge_score_at_the_threshold_itself():
    for words in range(1, 40):
        for others in range(1, 40):
            for common in range(min(words, others) + 1):
                text, other = ["a"] * common + ["b"] * (words - common), ["a"] * common + ["c"] * (others - common)
                if 6 * (words + others) < 20 * common < 8 * (words + others):
                    ours = f_measures(np.array([common]), words, np.array([others]))[0]
                    assert ours == rouge(" ".join(text), " ".join(other))


@pytest.mark.parametrize("threshold", [0, 1, -1, 1.5])
def test_a_threshold_out_of_its_range_is_an_error(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}; it must be above 0 and below 1"):
        NoveltyPool(threshold=threshold)


def test_of_the_175_seed_tasks_the_decisions_are_those_of_the_reference():
    tasks = [json.loads(line)["instruction"] for line in SEED_TASKS.read_text().splitlines()]
    assert len(tasks) == 175
    pool = NoveltyPool(threshold=0.4, tokenizer="rouge_score")  # low enough that many are too near
    kept = []
    for task in tasks:
        best = max((SCORER.score(other, task)["rougeL"].fmeasure for other in kept), default=0.0)
        found = pool.too_near(task)
        assert (found is not None) == (best > 0.4)
        assert found is None or found.score == best
        if found is None:
            pool.add(task)
            kept.append(task)
    assert 100 < len(kept) < 175


def test_pool_with_more_words_than_code_points_goes_on():
    """Unicode has 1,056,768 code points from the one of the first word on."""
    pool = NoveltyPool([" ".join(map(str, range(1_056_766)))])
    pool.add("alpha beta gamma delta")  # gamma's number is no code point
    pool.add("alpha beta epsilon zeta eta")
    assert pool.nearest("7 8 9").text.startswith("0 1 2 ")
    assert pool.too_near("alpha beta gamma").text == "alpha beta gamma delta"
    assert pool.too_near("beta epsilon zeta eta").text == "alpha beta epsilon zeta eta"
    assert pool.too_near("alpha beta theta iota") is None


def test_pool_with_an_unknown_tokenizer_is_an_error():
    with pytest.raises(ValueError, match="tokenizer is 'spaces'; it must be one of"):
        NoveltyPool(tokenizer="spaces")
