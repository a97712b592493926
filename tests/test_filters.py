"""What holds for all filters."""

import pickle

import pytest
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher

from hfsynth import Decontaminate, Deduplicate, InstructionRules, Novelty, WellFormed, Where
from tests.test_near_duplicates import variants

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
        Where("id", at_most=40),
    ]


def test_those_that_remember_are_those_whose_verdicts_depend_on_earlier_rows(filters):
    for filter in filters:
        again = filter(concatenate_datasets([filter(ROWS)] * 2))
        assert (len(again) < 2 * len(filter(ROWS))) == filter.stateful, filter.name


def test_rows_are_decided_on_in_parts_as_they_are_in_one(filters):
    for keep in filters:
        stay, dropped = keep.split(ROWS)
        assert 0 < len(dropped) < len(ROWS)
        parts, told = [], []
        for first in range(0, len(ROWS), 9):
            part = ROWS.select(range(first, min(first + 9, len(ROWS))))
            kept, failures = keep.split(part, kept=parts, first=first)
            parts.append(kept)
            told += failures.to_list()
        assert concatenate_datasets(parts).to_dict() == stay.to_dict()
        assert told == dropped.to_list()


def test_every_dropped_row_is_told_with_a_rule_and_what_was_found(filters):
    for keep in filters:
        for row in keep.split(ROWS)[1]:
            assert row["step"] == keep.name
            assert row["rule"]
            assert row["value"]
            assert str(ROWS[row["row"]][keep.column]) == row["raw"]


def test_filters_are_their_configuration_before_and_after_they_have_run(filters):
    for keep in filters:
        before = Hasher.hash(keep)
        keep(ROWS)
        assert Hasher.hash(keep) == before == Hasher.hash(pickle.loads(pickle.dumps(keep)))
