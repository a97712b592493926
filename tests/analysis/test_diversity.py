import json
import random
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

from hfsynth import Deduplicate
from hfsynth.analysis import diversity
from hfsynth.analysis.diversity import (
    EmbeddingNeighbours,
    measure_neighbours,
    measure_quick_diversity,
    nearest_scores,
    sample_size,
)
from hfsynth.data import sample_indices
from hfsynth.similarity.near_duplicates import find_repeating
from tests.languages import WordsOfAnyScript

SCORER = RougeScorer(["rougeL"], tokenizer=WordsOfAnyScript())
SEED_FILE = Path(__file__).parents[2] / "scripts" / "seeds.jsonl"
SEEDS = [json.loads(line)["input"] for line in SEED_FILE.read_text().splitlines()]
OTHER_SCRIPTS = ("今日は", "?!", "одна", "今日は晴れ", "одна!")


def variants(seed, count=60):
    """Texts, many of which are another one with a word changed; some in other scripts."""
    rng = random.Random(seed)
    texts = [text.split(". ")[0] for text in SEEDS[:12]]
    while len(texts) < count:
        words = rng.choice(texts).split()
        words[rng.randrange(len(words))] = rng.choice(("tea", "Tea!", "42", words[0]))
        texts.append(" ".join(words))
    return [*texts, *OTHER_SCRIPTS, texts[3]]


def batched(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


def all_pairs(items):
    """The highest F-measure of each text with every other one, by `rouge_score`."""
    score = lambda one, other: SCORER.score(other, one)["rougeL"].fmeasure  # noqa: E731
    return np.array(
        [max(score(text, o) for n, o in enumerate(items) if n != place) for place, text in enumerate(items)]
    )


def earlier_ones(items, threshold=0.8):
    """The places of texts that are similar to an earlier one, by comparing the shingles of all pairs."""
    plain = [" ".join(text.lower().split()) for text in items]
    sets = [{text[at : at + 5] for at in range(max(len(text) - 4, 1))} for text in plain]
    return {
        n
        for n in range(len(items))
        if any(len(sets[n] & sets[m]) >= threshold * len(sets[n] | sets[m]) for m in range(n))
    }


def measure(items, size, batch=7):
    return measure_neighbours(
        lambda: iter(batched(items, batch)), lambda places: [items[place] for place in places], len(items), size
    )


# by words


@pytest.mark.parametrize("batch", [1, 9, 1000])
def test_nearest_scores_match_rouge_score_of_all_pairs(batch):
    items = variants(1, 40)
    expected = all_pairs(items)
    found = nearest_scores(items, np.arange(len(items)), batched(items, batch))
    assert found.tolist() == pytest.approx(expected.tolist())
    assert expected[3] == 1.0  # the text is there twice


def test_nearest_scores_of_a_batch_in_blocks_are_equal():
    """A batch of 2,100 texts has more pairs than one block."""
    items = [f"{text} {number}" for number in range(7) for text in variants(1, 294)]
    places = np.arange(len(items))
    in_blocks = nearest_scores(items, places, [items])
    assert in_blocks.tolist() == nearest_scores(items, places, batched(items, 700)).tolist()


def test_nearest_scores_of_more_words_than_code_points_are_equal(monkeypatch):
    items = variants(4, 20)
    expected = nearest_scores(items, np.arange(len(items)), [items]).tolist()
    monkeypatch.setattr(diversity, "_FIRST_NUMBER", 0x110000 - 3)
    assert nearest_scores(items, np.arange(len(items)), [items]).tolist() == expected


def test_neighbours_of_a_sample_are_searched_among_all():
    items = variants(2, 80)
    places = np.sort(sample_indices(len(items), 20))
    scores = all_pairs(items)[places]
    found = measure(items, 20)
    assert (found.rows, found.among, found.similarity.count) == (20, len(items), 20)
    assert found.similarity.mean == pytest.approx(scores.mean())
    assert found.near == (scores > 0.7).sum() > 0


@pytest.mark.parametrize("seed", range(3))
def test_repeats_match_shingles_of_all_pairs(seed):
    items = variants(seed, 120)
    assert measure(items, len(items)).repeats == len(earlier_ones(items)) > 10
    sample = {place: items[place] for place in sample_indices(len(items), 40).tolist()}
    assert find_repeating(items, sample, 0.8, 5, 256) == earlier_ones(items) & set(sample)


def test_repeats_compare_with_earlier_texts_only():
    assert find_repeating(["Name a red fruit.", "Name a red fruit!"], {0: "Name a red fruit."}, 0.8, 5, 64) == set()


def test_fixed_size_samples_match_all_pairs(monkeypatch):
    monkeypatch.setattr(diversity, "FIXED_NUMBERS_OF_ROWS", (10, 30, 1000))
    items = variants(3, 60)
    (ten, thirty) = measure(items, 5).fixed_size_samples
    order = [items[place] for place in sample_indices(len(items), 10_000)]
    assert (ten.rows, ten.draws, thirty.rows, thirty.draws) == (10, 10, 30, 10)
    for sample in (ten, thirty):
        draws = [[order[place] for place in sample_indices(len(order), sample.rows, seed)] for seed in range(10)]
        scores = np.concatenate([all_pairs(texts) for texts in draws])
        assert sample.mean == pytest.approx(scores.mean())
        assert sample.near == pytest.approx((scores > 0.7).mean())


@pytest.mark.parametrize("items", [[], ["a"], ["今"]])
def test_neighbours_of_fewer_than_two_texts_have_no_similarity(items):
    found = measure(items, len(items))
    assert (found.rows, found.near, found.repeats, found.fixed_size_samples) == (len(items), 0, 0, ())
    assert found.similarity is None


def test_neighbours_with_nothing_in_common_have_similarity_0():
    found = measure(["今", "日"], 2)
    assert (found.near, found.similarity.count, found.similarity.largest) == (0, 2, 0.0)


def test_neighbours_in_other_scripts_are_near():
    assert measure(["서울에 대해 알려 줘.", "서울에 대해서 알려 줘.", "🙂", "🙂", "?!", "3"], 6).near == 4


def test_sample_size_of_long_texts_is_100_at_least():
    assert sample_size(1_000_000, 130_000_000) == 100
    assert sample_size(10, 1_000_000_000_000) == 10


# quick, for a card

TEXTS = [
    "Name a fruit.",
    "Name a red fruit.",
    None,
    "Add 2 and 3.",
    "  ",
    "Name one fruit.",
    "Why is the sky so blue?",
]


def test_quick_diversity_matches_rouge_score_of_all_pairs():
    full = [text for text in TEXTS if text and text.strip()]
    nearest = all_pairs(full)
    found = measure_quick_diversity(Dataset.from_dict({"instruction": TEXTS, "response": TEXTS}))
    assert (found.column, found.among, found.rows) == ("instruction", 5, 5)
    assert found.similarity.mean == pytest.approx(nearest.mean())
    assert (found.similarity.smallest, found.similarity.largest) == pytest.approx((nearest.min(), nearest.max()))
    assert found.near == (nearest > 0.7).sum() > 0


def test_quick_diversity_of_many_rows_takes_a_sample(monkeypatch):
    monkeypatch.setattr(diversity, "_QUICK_WORDS", 0)
    found = measure_quick_diversity(Dataset.from_dict({"instruction": [f"Say {n} and {n % 7}." for n in range(200)]}))
    assert (found.among, found.rows) == (200, 100)


@pytest.mark.parametrize("texts", [[], ["one"], [None, ""]])
def test_quick_diversity_of_fewer_than_two_texts_is_none(texts):
    assert measure_quick_diversity(Dataset.from_dict({"instruction": texts})) is None


def test_quick_diversity_without_instruction_column_is_none():
    assert measure_quick_diversity(Dataset.from_dict({"text": ["a", "b"]})) is None


def test_quick_diversity_of_chinese_compares_characters():
    found = measure_quick_diversity(Dataset.from_dict({"prompt": ["你好", "再见", "你好！"]}))
    assert (found.similarity.count, found.near) == (3, 2)


# by embeddings


def unit(seed, count, size=6):
    vectors = np.random.default_rng(seed).normal(size=(count, size)) * np.arange(size, 0, -1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32).astype(float)


def test_embedding_distances_match_all_pairs():
    vectors = unit(0, 50)
    vectors[7] = vectors[3]
    found = EmbeddingNeighbours.of(vectors, 80, "m")
    cosine = [[float(np.dot(a, b)) for b in vectors] for a in vectors]
    nearest = [1 - max(c for m, c in enumerate(row) if m != n) for n, row in enumerate(cosine)]
    assert found.distance.mean == pytest.approx(np.mean(nearest), abs=1e-5)
    assert found.distance.smallest == 0
    assert found.near == sum(distance < 0.025 for distance in nearest) >= 2
    assert (found.rows, found.among) == (50, 80)


@pytest.mark.parametrize(("cosine", "near"), [(0.96, 0), (0.9749, 0), (0.9751, 2)])
def test_embedding_near_is_magpies_squared_distance(cosine, near):
    """Magpie searches by faiss.IndexFlatL2, which measures squared distances."""
    vectors = np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]])
    assert (((vectors[0] - vectors[1]) ** 2).sum() < 0.05) == bool(near)
    assert EmbeddingNeighbours.of(vectors, 2, "m").near == near
    assert (cosine >= Deduplicate("embeddings").threshold) == bool(near)


def test_embedding_distances_in_blocks_match_all_pairs():
    """2,500 vectors are more than two blocks."""
    vectors = unit(3, 2500)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    found = EmbeddingNeighbours.of(vectors, 2500, "m")
    assert found.distance.mean == pytest.approx((1 - cosines.max(axis=1)).mean(), abs=1e-5)


def test_embedding_distance_of_equal_vectors_is_0():
    found = EmbeddingNeighbours.of(np.repeat(unit(4, 1) * 1.0000004, 2, axis=0), 2, "m")
    assert (found.distance.smallest, str(found.distance.largest)) == (0.0, "0.0")


def test_embedding_of_one_text_has_no_distance():
    assert EmbeddingNeighbours.of(np.eye(2)[:1], 1, "m").distance is None
