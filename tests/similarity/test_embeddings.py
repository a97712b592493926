import numpy as np
import pytest

from hfsynth.similarity import embeddings
from hfsynth.similarity.embeddings import match_near
from tests.similarity.test_minhash import greedy


@pytest.mark.parametrize("block", [1, 7, 256])
def test_match_near_any_block_equals_comparing_all_pairs(block, monkeypatch):
    monkeypatch.setattr(embeddings, "_BLOCK", block)
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(60, 4)).astype(np.float32)
    vectors[30:] = vectors[draw.integers(0, 30, 30)] + draw.normal(scale=0.15, size=(30, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [str(place) for place in range(60)]

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
