import datetime

import pytest
from datasets import Dataset, DatasetDict

from hfsynth import EchoLLM, Pipeline, TextGeneration
from hfsynth.publish.card_data import ConfigFacts, SplitFacts, models
from hfsynth.publish.files import write_config


def answered(*instructions, **fields):
    pipeline = Pipeline((TextGeneration(EchoLLM(), **fields),))
    return pipeline.run(Dataset.from_dict({"instruction": list(instructions)}), quiet=True)


def test_a_run_is_told_once_however_many_splits_it_made(tmp_path):
    first, other = answered(*"abcd"), answered("c", seed=9)
    both = DatasetDict(train=first.select([0, 1]), test=first.select([2, 3]), other=other)
    facts = write_config(tmp_path, both, "default", ())
    assert [step.recipe["seed"] for step in facts.steps] == [0, 9]
    assert [step.node.model for step in models(facts)] == ["echo"]
    assert facts.rows == 5


@pytest.mark.parametrize(("rows", "shown"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (10, [0, 5, 9])])
def test_the_rows_that_are_shown_are_the_first_the_middle_and_the_last(rows, shown):
    split = SplitFacts.of("train", Dataset.from_dict({"n": list(range(rows))}), (0, 0), ())
    assert [row["n"] for row in split.samples] == shown


def test_values_that_json_does_not_know_are_shown_as_text():
    day = datetime.datetime(2026, 1, 2)
    split = SplitFacts.of("train", Dataset.from_dict({"a": [{"day": [day], "raw": b"x"}]}), (0, 0), ())
    assert split.samples == ({"a": {"day": ["2026-01-02 00:00:00"], "raw": "1 bytes"}},)
    facts = ConfigFacts("default", {}, (split,), {})
    assert ConfigFacts.from_json(facts.to_json()).splits[0].samples == split.samples
