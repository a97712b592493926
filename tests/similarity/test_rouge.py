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
SEED_FILE = Path(__file__).parents[2] / "scripts" / "seeds.jsonl"
SEED_TASKS = Path(__file__).parents[2] / "dataset_cards" / "self_instruct_seed_tasks.jsonl"
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
    draw, created = random.Random(seed), []
    for _ in range(count):
        words = draw.choice(created).split() if created and draw.random() < 0.6 else []
        words = [word for word in words if draw.random() < 0.8]
        created.append(" ".join(words + [f"w{int(draw.expovariate(0.03))}" for _ in range(draw.randint(0, 6))]))
    return created


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 2 / 3])
@pytest.mark.parametrize(
    "pool", [SEEDS, ODD, texts(1, 60), texts(2, 60, 2), varied(3, 80)], ids=["seeds", "odd", "near", "nearer", "far"]
)
def test_novelty_pool_decides_as_rouge_score_on_all_pairs(pool, threshold):
    kept: list[str] = []
    ours = NoveltyPool(threshold=threshold, tokenizer="rouge_score")
    for text in pool:
        scores = [rouge(text, other) for other in kept]
        found = ours.match(text)
        assert (found is not None) == any(score > threshold for score in scores), text
        if found is None:
            kept.append(text)
            ours.add(text)
        else:
            assert found.score == pytest.approx(max(scores))
            assert found.text == kept[scores.index(max(scores))]  # the first of several
    assert len(ours) == len(kept)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_novelty_pool_any_script_decides_as_on_all_pairs(threshold):
    scorer = RougeScorer(["rougeL"], tokenizer=WordsOfAnyScript())
    pairs = [pair for texts in (NEAR, UNLIKE) for language in texts.values() for pair in language]
    pool, kept = NoveltyPool(threshold=threshold), []
    for text in [*ODD, *(text for pair in pairs for text in pair)]:
        best = max((scorer.score(other, text)["rougeL"].fmeasure for other in kept), default=0.0)
        found = pool.match(text)
        assert (found.score if found else None) == (pytest.approx(best) if best > threshold else None), text
        if found is None:
            pool.add(text)
            kept.append(text)
    assert 60 < len(kept) < 250


@pytest.mark.parametrize("text", [*SEEDS[:5], *ODD, *texts(3, 20)])
def test_rouge_score_words_equal_the_packages_own(text):
    assert rouge_score_words(text) == tokenize(text, None)


def test_nearest_ignores_the_threshold():
    pool = NoveltyPool(["one two three", "four five six", "seven"])
    assert pool.nearest("two three nine ten").text == "one two three"
    assert pool.nearest("eleven") is None


def test_f_measures_round_as_rouge_score_at_the_threshold():
    for words in range(1, 40):
        for others in range(1, 40):
            for common in range(min(words, others) + 1):
                text, other = ["a"] * common + ["b"] * (words - common), ["a"] * common + ["c"] * (others - common)
                if 6 * (words + others) < 20 * common < 8 * (words + others):
                    ours = f_measures(np.array([common]), words, np.array([others]))[0]
                    assert ours == rouge(" ".join(text), " ".join(other))


@pytest.mark.parametrize("threshold", [0, 1, -1, 1.5])
def test_novelty_pool_threshold_out_of_range_is_an_error(threshold):
    with pytest.raises(ValueError, match=rf"threshold .*{threshold}\b"):
        NoveltyPool(threshold=threshold)


def test_novelty_pool_seed_tasks_match_the_reference():
    tasks = [json.loads(line)["instruction"] for line in SEED_TASKS.read_text().splitlines()]
    assert len(tasks) == 175
    pool = NoveltyPool(threshold=0.4, tokenizer="rouge_score")  # low enough for many matches
    kept = []
    for task in tasks:
        best = max((SCORER.score(other, task)["rougeL"].fmeasure for other in kept), default=0.0)
        found = pool.match(task)
        assert (found is not None) == (best > 0.4)
        assert found is None or found.score == best
        if found is None:
            pool.add(task)
            kept.append(task)
    assert 100 < len(kept) < 175


def test_novelty_pool_more_words_than_code_points_works():
    """Unicode has 1,056,768 code points from the one of the first word on."""
    pool = NoveltyPool([" ".join(map(str, range(1_056_766)))])
    pool.add("alpha beta gamma delta")  # gamma's number is no code point
    pool.add("alpha beta epsilon zeta eta")
    assert pool.nearest("7 8 9").text.startswith("0 1 2 ")
    assert pool.match("alpha beta gamma").text == "alpha beta gamma delta"
    assert pool.match("beta epsilon zeta eta").text == "alpha beta epsilon zeta eta"
    assert pool.match("alpha beta theta iota") is None


def test_novelty_pool_unknown_tokenizer_is_an_error():
    with pytest.raises(ValueError, match=r"tokenizer .*'spaces'"):
        NoveltyPool(tokenizer="spaces")
