import random

import pytest

from hfsynth.similarity.minhash import jaccard, match_similar, shingles

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
