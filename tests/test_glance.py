import numpy as np
import pytest
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

from hfsynth.analysis import diversity as glance
from hfsynth.analysis.diversity import measure_quick_diversity

TEXTS = [
    "Name a fruit.",
    "Name a red fruit.",
    None,
    "Add 2 and 3.",
    "  ",
    "Name one fruit.",
    "Why is the sky so blue?",
]


def test_nearness_is_that_of_rouge_score_over_all_pairs():
    full = [text for text in TEXTS if text and text.strip()]
    score = RougeScorer(["rougeL"]).score
    nearest = [max(score(a, b)["rougeL"].fmeasure for b in full if b != a) for a in full]
    found = measure_quick_diversity(Dataset.from_dict({"instruction": TEXTS, "response": TEXTS}))
    assert (found.column, found.among, found.rows) == ("instruction", 5, 5)
    assert found.similarity.mean == pytest.approx(np.mean(nearest))
    assert (found.similarity.smallest, found.similarity.largest) == pytest.approx((min(nearest), max(nearest)))
    assert found.near == sum(one > 0.7 for one in nearest) > 0


def test_of_many_rows_some_are_drawn(monkeypatch):
    monkeypatch.setattr(glance, "_GLANCE_WORDS", 0)
    found = measure_quick_diversity(Dataset.from_dict({"instruction": [f"Say {n} and {n % 7}." for n in range(200)]}))
    assert (found.among, found.rows) == (200, 100)


@pytest.mark.parametrize("texts", [[], ["one"], [None, ""]])
def test_fewer_than_two_instructions_are_not_compared(texts):
    assert measure_quick_diversity(Dataset.from_dict({"instruction": texts})) is None


def test_texts_that_are_no_instructions_are_not_looked_at():
    assert measure_quick_diversity(Dataset.from_dict({"text": ["a", "b"]})) is None


def test_glance_at_chinese_instructions_compares_their_signs():
    found = measure_quick_diversity(Dataset.from_dict({"prompt": ["你好", "再见", "你好！"]}))
    assert (found.similarity.count, found.near) == (3, 2)
