import json
import pickle
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from rouge_score.rouge_scorer import RougeScorer

from hfsynth import Novelty
from tests.test_novelty import ODD, texts

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
SEED_FILE = Path(__file__).parent.parent / "scripts" / "seeds.jsonl"
SEEDS = [json.loads(line)["input"] for line in SEED_FILE.read_text().splitlines()]


def reference(rows, known, threshold):
    """Self-Instruct's own loop: the places of the rows that stay."""
    pool, stay = list(known), []
    for place, row in enumerate(rows):
        if all(SCORER.score(other, row)["rougeL"].fmeasure <= threshold for other in pool):
            pool.append(row)
            stay.append(place)
    return stay


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("rows", [[*SEEDS, *SEEDS[:3]], ODD, texts(5, 80), texts(6, 80, 2)], ids=str)
def test_the_rows_that_stay_are_those_of_rouge_score_on_every_pair(rows, threshold):
    known = rows[-4:]
    verdicts = list(Novelty(texts=known, threshold=threshold).verdicts(rows, []))
    stay = [place for place, drop in enumerate(verdicts) if drop is None]
    assert stay == reference(rows, known, threshold)
    for row, drop in zip(rows, verdicts, strict=True):
        if drop is not None:
            assert f"{SCORER.score(drop.met, row)['rougeL'].fmeasure:.4f}" == drop.value


def test_a_dropped_row_tells_how_near_it_is_and_to_what():
    dataset = Dataset.from_dict({"instruction": ["Name a red fruit.", "Name a red or green fruit."]})
    stay, dropped = Novelty(texts=("Add 2 and 3.",)).split(dataset)
    assert stay["instruction"][:] == ["Name a red fruit."]
    assert [dropped[0][key] for key in ("rule", "value", "met")] == ["near_another", "0.8000", "Name a red fruit."]


def test_rows_before_count_as_those_at_hand_do():
    novelty = Novelty()
    assert [bool(drop) for drop in novelty.verdicts(["Name a red fruit!", "Add 2."], ["Name a red fruit."])] == [
        True,
        False,
    ]


def test_a_text_in_another_script_has_no_words_and_is_always_new():
    assert list(Novelty().verdicts(["你好吗", "你好吗"], [])) == [None, None]


def test_a_novelty_filter_is_its_configuration():
    novelty = Novelty(texts=["a b"], threshold=0.6)
    assert pickle.loads(pickle.dumps(novelty)) == novelty
    assert Hasher.hash(novelty) == Hasher.hash(Novelty(texts=("a b",), threshold=0.6)) != Hasher.hash(Novelty())


@pytest.mark.parametrize("threshold", [0, 1, -0.7])
def test_a_threshold_out_of_its_range_is_an_error(threshold):
    with pytest.raises(ValueError, match=rf"Novelty\.threshold is {threshold}; it must be above 0 and below 1"):
        Novelty(threshold=threshold)
