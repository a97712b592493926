from math import log, sqrt

import numpy as np
import pytest
from datasets import Dataset, Features, Value

from hfsynth import report
from hfsynth.reporting.mapping import InstructionMap, principal, word_vectors
from tests.test_embedded import unit


def test_the_map_lies_along_the_directions_of_the_largest_variance():
    vectors = unit(1, 200).astype(float)
    points, told = principal(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T, bias=True))
    for axis in (0, 1):
        expected = (vectors - vectors.mean(axis=0)) @ directions[:, -1 - axis]
        assert np.abs(points[:, axis]) == pytest.approx(np.abs(expected))
    assert told == pytest.approx(values[-2:].sum() / values.sum())
    assert np.array_equal(principal(vectors)[0], points)


@pytest.mark.parametrize("count", [1, 2])
def test_few_texts_have_a_map_too(count):
    assert len(InstructionMap.of(["a", "b"][:count], np.eye(2)[:count], count).points) == count


def test_the_texts_on_the_map_are_cut_and_far_apart():
    vectors = np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0]])
    found = InstructionMap.of(["x" * 99, "y", "a\nb", "c"], vectors, 4)
    told = {example.place: example.text for example in found.examples}
    assert set(told) in ({0, 2, 3}, {1, 2, 3}), "of two in one place, one"
    assert told[2] == "a b"
    assert all(len(text) <= 40 for text in told.values())


TEXTS = ["Name a fruit.", "Name a red FRUIT, a fruit!", "Add 2 and 3.", "Add 4 and 3.", "漢字", "Zymurgy"]


def test_words_weigh_more_the_fewer_texts_have_them():
    words = [{"name", "a", "fruit"}, {"name", "a", "red", "fruit"}, {"add", "2", "and", "3"}, {"add", "4", "and", "3"}]
    shared = ["3", "a", "add", "and", "fruit", "name"]
    assert word_vectors(TEXTS).shape == (6, 6)
    for vector, there in zip(word_vectors(TEXTS), words, strict=False):
        weights = [log(6 / 2) if word in there else 0 for word in shared]
        assert vector == pytest.approx([weight / sqrt(sum(one**2 for one in weights)) for weight in weights])


def test_a_text_that_shares_no_word_is_at_the_origin():
    assert not word_vectors(TEXTS)[4:].any()
    assert not word_vectors(["a", "b"]).any()


def test_without_a_model_the_map_is_by_words_and_says_so():
    told = report(Dataset.from_dict({"instruction": TEXTS}))
    assert told.map.model == ""
    assert told.map.rows == len(told.map.points) == 6
    fruit, another, sum_, difference = np.array(told.map.points)[:4]
    apart = np.linalg.norm(fruit - sum_)
    assert max(np.linalg.norm(fruit - another), np.linalg.norm(sum_ - difference)) < apart / 3
    assert "The map lays out 6 instructions, by the words that they share" in str(told)
    assert "map.png" in told.pictures()


def test_one_instruction_makes_no_map():
    assert "map.png" not in report(Dataset.from_dict({"instruction": ["a"]})).pictures()
    empty = Dataset.from_dict({"instruction": [None]}, features=Features({"instruction": Value("string")}))
    assert report(empty).map is None
