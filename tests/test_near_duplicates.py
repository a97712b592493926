import random

import numpy as np
import pytest

from hfsynth.similarity import minhash as near_duplicates
from hfsynth.similarity.minhash import equal_texts, jaccard, near_texts, shingles, similar_texts

SENTENCE = "a red fruit green name three more of these kinds that grow on trees in spring or autumn"
WORDS = SENTENCE.split()


def variants(seed, count):
    """Sentences, many of which are another one with a word changed, dropped or added."""
    draw, made = random.Random(seed), [SENTENCE]
    for _ in range(count):
        words = draw.choice(made).split() if draw.random() < 0.7 else draw.sample(WORDS, 12)
        words[draw.randrange(len(words))] = draw.choice([*WORDS, ""])
        made.append(" ".join(" ".join(words).split()))
    return made


def greedy(items, similarity, threshold, before=0):
    """Compare all pairs: of each item after those before, the place of the nearest kept one if it is near enough."""
    kept, found = [], []
    for place, item in enumerate(items):
        scores = [similarity(items[other], item) for other in kept]
        best = max(range(len(kept)), key=scores.__getitem__, default=None)
        met = best is not None and scores[best] >= threshold
        found.append(kept[best] if met else None)
        if not met:
            kept.append(place)
    return found[before:]


def test_equal_texts_differ_in_width_case_and_space_alone():
    texts = ["Name it.", "name\n IT.", "Ｎame it.", "Name it", "ﬁne", "FINE"]
    found = [met and met.text for met in equal_texts(iter(texts), ["fine"])]
    assert found == [None, "Name it.", "Name it.", None, "fine", "fine"]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_what_minhash_finds_is_what_comparing_all_pairs_finds(threshold):
    texts = variants(1, 150)
    sets = [shingles(text, 5) for text in texts]
    found = [met and met.text for met in similar_texts(iter(texts), [], threshold, 5, 128)]
    expected = greedy(sets, jaccard, threshold)
    assert found == [None if place is None else texts[place] for place in expected]
    assert 3 < sum(met is not None for met in found) < 150


def test_what_minhash_finds_is_never_below_the_threshold_however_few_hashes_there_are():
    texts = variants(2, 150)
    for text, met in zip(texts, similar_texts(iter(texts), [], 0.7, 5, 16), strict=True):
        assert met is None or 0.7 <= met.score == jaccard(shingles(text, 5), shingles(met.text, 5))


def test_minhash_compares_with_all_that_stayed_before_even_where_two_of_those_are_alike():
    before = ["Name a red fruit for me.", "Name a red fruit for me!?"]
    found = list(similar_texts(iter(["Name a red fruit for me!??", "Add 2 and 3."]), before, 0.9, 5, 128))
    assert [met and met.text for met in found] == ["Name a red fruit for me!?", None]


@pytest.mark.parametrize("block", [1, 7, 256])
def test_the_nearest_vectors_are_those_of_comparing_all_pairs_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(60, 4)).astype(np.float32)
    vectors[30:] = vectors[draw.integers(0, 30, 30)] + draw.normal(scale=0.15, size=(30, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [str(place) for place in range(60)]

    def similarity(one, other):
        return float(np.dot(one.astype(np.float64), other.astype(np.float64)))

    expected = greedy(list(vectors), similarity, 0.95)
    before = [text for text, met in zip(texts[:20], expected, strict=False) if met is None]
    embed = lambda some: vectors[[int(text) for text in some]]  # noqa: E731
    found = list(near_texts(iter(texts[20:]), before, 0.95, embed))
    assert [met and int(met.text) for met in found] == expected[20:]
    for text, met in zip(texts[20:], found, strict=True):
        own = met and similarity(vectors[int(text)], vectors[int(met.text)])
        assert met is None or met.score == pytest.approx(own, abs=1e-6)


def test_of_equally_near_vectors_the_first_is_met():
    ones = lambda some: np.ones((len(some), 1), np.float32)  # noqa: E731
    assert [met and met.text for met in near_texts(iter("cd"), iter("ab"), 1.0, ones)] == ["a", "a"]
