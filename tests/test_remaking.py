"""How a card says that its rows are made again."""

import shlex
from dataclasses import replace

import pytest
from datasets import Dataset

from hfsynth import EchoLLM, Magpie, Pipeline, SeedPool, TextGeneration
from hfsynth.publish.card import again
from hfsynth.publish.card_data import ConfigFacts, SplitFacts
from hfsynth.run_record import RunRecord, Source, records
from tests.helpers import OnlyOnce


def told(record, repo_id="user/made"):
    facts = ConfigFacts("text", {}, (SplitFacts("train", 1, {}, (), (record,), 0),), {})
    return list(again(facts, repo_id))


def ran(pipeline, dataset=None, **options):
    return records(pipeline.run(dataset, quiet=True, chunk_size=2, **options))[0]


NOTHING = Dataset.from_dict({"id": [0, 1, 2]})


def test_a_recipe_of_our_own_steps_is_a_command_with_the_rows_it_read():
    ((sentence, code, language),) = told(ran(Pipeline((Magpie(EchoLLM()),)), NOTHING))
    assert language == "bash"
    assert code.splitlines()[-1] == "hfsynth run text/hfsynth.yaml --max-rows 3 --output-dir again"
    assert "pip install ./hfsynth  # a checkout of its source, version " in code
    assert "hf download user/made text/hfsynth.yaml" in code
    assert sentence.startswith("The same rows come out")


def test_a_run_until_rows_were_accepted_is_told_by_how_many():
    ((_, code, _),) = told(ran(Pipeline((Magpie(EchoLLM()),)), num_rows=3))
    assert "--num-rows 3 --output-dir" in code


def test_limits_are_told_too():
    record = ran(Pipeline((Magpie(EchoLLM()),)), num_rows=3, max_rows=9)
    assert record.limits == {"max_rows": 9}
    short = replace(record, accepted=2, limits={"max_rows": 9, "max_tokens": 50})
    assert "--num-rows 3 --max-rows=9 --max-tokens=50 --output-dir" in told(short)[0][1]


def test_rows_of_a_dataset_on_the_hub_are_named_with_their_commit():
    record = ran(Pipeline((TextGeneration(EchoLLM()),)), Dataset.from_dict({"instruction": ["a"]}))
    source = Source(7, ("instruction",), "user/texts", "c" * 40, "plain", "test")
    command = told(RunRecord(source, record.steps, 2))[0][1].splitlines()[-1]
    flags = shlex.split(command)
    assert flags[flags.index("--dataset") + 1] == "user/texts"
    assert flags[flags.index("--dataset-revision") + 1] == "c" * 40
    assert flags[flags.index("--split") + 1] == "test"


def test_rows_given_in_memory_are_named_by_their_columns():
    ((sentence, code, _),) = told(
        ran(Pipeline((TextGeneration(EchoLLM()),)), Dataset.from_dict({"instruction": ["a"]}))
    )
    assert "with columns `instruction`: it isn't part of this dataset" in sentence
    assert "--dataset rows.jsonl" in code


def test_an_input_that_is_configuration_is_in_the_recipe_and_needs_no_flag():
    record = ran(Pipeline((TextGeneration(EchoLLM()),)), Dataset.from_dict({"instruction": ["a"]}))
    pool = SeedPool(seeds=("a",) * 8).describe()
    source = Source(4, ("examples",), recipe=pool)
    command = told(RunRecord(source, record.steps, 2, "", 5, 5))[0][1].splitlines()[-1]
    assert command == "hfsynth run text/hfsynth.yaml --num-rows 5 --output-dir again"


def test_ones_own_steps_are_python_that_is_given_them():
    ((sentence, code, language),) = told(ran(OnlyOnce(column="id") >> Magpie(EchoLLM()), NOTHING))
    assert language == "python"
    assert "Pipeline.from_yaml(" in code
    assert ", OnlyOnce)" in code
    assert "classes of one's own it only names" in sentence


@pytest.mark.parametrize(("model", "flag"), [("user/model", False), ("model", True)])
def test_a_model_in_a_folder_has_to_be_given_again(model, flag):
    record = ran(Pipeline((Magpie(EchoLLM()),)), NOTHING)
    recipe = {**record.steps[0].recipe, "llm": {"__class__": "TransformersLLM", "model": model}}
    own = replace(record.steps[0], recipe=recipe)
    command = told(RunRecord(record.source, (own,), 2))[0][1].splitlines()[-1]
    assert ("--model FOLDER" in command) == flag
