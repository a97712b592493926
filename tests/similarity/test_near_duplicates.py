import random

import numpy as np
import pytest

from hfsynth.similarity.near_duplicates import jaccard, match_equal, match_near, match_similar, shingles

SENTENCE = "a red fruit green name three more of these kinds that grow on trees in spring or autumn"
WORDS = SENTENCE.split()


def variants(seed, count):
    """Sentences, many of which are another one with a word changed, dropped or added."""
    draw, created = random.Random(seed), [SENTENCE]
    for _ in range(count):
        words = draw.choice(created).split() if draw.random() < 0.7 else draw.sample(WORDS, 12)
        words[draw.randrange(len(words))] = draw.choice([*WORDS, ""])
        created.append(" ".join(" ".join(words).split()))
    return created


def greedy(items, similarity, threshold, before=0):
    """Compare all pairs: of each item after those before, the place of the nearest kept one if it is near enough."""
    kept, found = [], []
    for place, item in enumerate(items):
        scores = [similarity(items[other], item) for other in kept]
        best = max(range(len(kept)), key=scores.__getitem__, default=None)
        is_match = best is not None and scores[best] >= threshold
        found.append(kept[best] if is_match else None)
        if not is_match:
            kept.append(place)
    return found[before:]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_match_similar_equals_comparing_all_pairs(threshold):
    texts = variants(1, 150)
    sets = [shingles(text, 5) for text in texts]
    found = [match and match.text for match in match_similar(iter(texts), [], threshold, 5, 128)]
    expected = greedy(sets, jaccard, threshold)
    assert found == [None if place is None else texts[place] for place in expected]
    assert 3 < sum(match is not None for match in found) < 150


def test_match_similar_few_hashes_scores_stay_exact():
    texts = variants(2, 150)
    for text, match in zip(texts, match_similar(iter(texts), [], 0.7, 5, 16), strict=True):
        assert match is None or 0.7 <= match.score == jaccard(shingles(text, 5), shingles(match.text, 5))


def test_match_similar_compares_with_all_kept_texts():
    before = ["Name a red fruit for me.", "Name a red fruit for me!?"]
    found = list(match_similar(iter(["Name a red fruit for me!??", "Add 2 and 3."]), before, 0.9, 5, 128))
    assert [match and match.text for match in found] == ["Name a red fruit for me!?", None]


@pytest.mark.parametrize("count", [60, 700])
def test_match_near_equals_comparing_all_pairs(count):
    """The texts fill a part of one block, or several blocks."""
    draw = np.random.default_rng(0)
    half = count // 2
    vectors = draw.normal(size=(count, 4)).astype(np.float32)
    vectors[half:] = vectors[draw.integers(0, half, half)] + draw.normal(scale=0.15, size=(half, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [str(place) for place in range(count)]

    def similarity(one, other):
        return float(np.dot(one.astype(np.float64), other.astype(np.float64)))

    expected = greedy(list(vectors), similarity, 0.95)
    before = [text for text, match in zip(texts[:20], expected, strict=False) if match is None]
    embed = lambda some: vectors[[int(text) for text in some]]  # noqa: E731
    found = list(match_near(iter(texts[20:]), before, 0.95, embed))
    assert [match and int(match.text) for match in found] == expected[20:]
    for text, match in zip(texts[20:], found, strict=True):
        own = match and similarity(vectors[int(text)], vectors[int(match.text)])
        assert match is None or match.score == pytest.approx(own, abs=1e-6)


def test_match_near_equal_scores_take_the_first():
    ones = lambda some: np.ones((len(some), 1), np.float32)  # noqa: E731
    assert [match and match.text for match in match_near(iter("cd"), iter("ab"), 1.0, ones)] == ["a", "a"]


def test_match_equal_ignores_width_case_and_spaces():
    texts = ["Name it.", "name\n IT.", "Ｎame it.", "Name it", "ﬁne", "FINE"]
    found = [match and match.text for match in match_equal(iter(texts), ["fine"])]
    assert found == [None, "Name it.", "Name it.", None, "fine", "fine"]
