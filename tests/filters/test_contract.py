"""Properties that all filters share."""

import pickle

import pytest
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher

from hfsynth import Decontaminate, Deduplicate, InstructionRules, Novelty, WellFormed, Where
from tests.similarity.test_near_duplicates import variants

TEXTS = [*variants(4, 60), "Translate this:", "Draw a red fruit for me.", "  Translate  THIS:", "one two"]
ROWS = Dataset.from_dict({"instruction": TEXTS, "id": range(len(TEXTS))})


@pytest.fixture
def filters(tmp_path):
    (tmp_path / "quiz.txt").write_text(TEXTS[7] + "\n")
    return [
        Novelty(texts=TEXTS[:2]),
        Deduplicate(),
        Deduplicate("minhash", threshold=0.6),
        Decontaminate(benchmarks=(str(tmp_path / "quiz.txt"),)),
        WellFormed(),
        InstructionRules(),
        Where("id", maximum=40),
    ]


def test_filter_stateful_means_it_compares_rows(filters):
    for filter in filters:
        twice = filter(concatenate_datasets([filter(ROWS)] * 2))
        assert (len(twice) < 2 * len(filter(ROWS))) == filter.stateful, filter.name


def test_filter_split_in_parts_equals_split_at_once(filters):
    for keep in filters:
        stay, dropped = keep.split(ROWS)
        assert 0 < len(dropped) < len(ROWS)
        parts, failures = [], []
        for first in range(0, len(ROWS), 9):
            part = ROWS.select(range(first, min(first + 9, len(ROWS))))
            found = keep.split(part, kept=parts, first=first)
            parts.append(found.kept)
            failures += found.dropped.to_list()
        assert concatenate_datasets(parts).to_dict() == stay.to_dict()
        assert failures == dropped.to_list()


def test_filter_drop_holds_step_rule_value_and_text(filters):
    for keep in filters:
        for row in keep.split(ROWS).dropped:
            assert row["step"] == keep.name
            assert row["rule"]
            assert row["value"]
            assert str(ROWS[row["row"]][keep.column]) == row["raw"]


def test_filter_hash_is_the_same_after_a_run(filters):
    for keep in filters:
        before = Hasher.hash(keep)
        keep(ROWS)
        assert Hasher.hash(keep) == before == Hasher.hash(pickle.loads(pickle.dumps(keep)))
