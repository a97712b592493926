import json

import pytest
from datasets import Dataset, DatasetInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from hfsynth import EchoLLM, Pipeline, TextGeneration
from hfsynth.publishing import files
from hfsynth.publishing.facts import ConfigFacts
from hfsynth.publishing.files import write_config, write_facts

STEPS = (TextGeneration(EchoLLM(), system_prompt="Be nice.", input_mappings={"instruction": "a"}),)


def made(*texts):
    return Pipeline(STEPS).run(Dataset.from_dict({"a": list(texts)}), quiet=True)


def mapped(*texts):
    return Dataset.from_dict({"a": list(texts)}).map(STEPS[0], batched=True, with_indices=True)


def test_a_dataset_that_map_made_tells_as_much_as_its_rows_and_steps_do(tmp_path):
    facts = write_config(tmp_path, mapped("x", None), "default", STEPS)
    (step,) = facts.steps
    assert (step.rows_in, step.rows_out, dict(step.failures)) == (2, 2, {"a is None": 1})
    assert step.recipe["system_prompt"] == "Be nice."
    assert (tmp_path / "hfsynth.yaml").exists()


def test_without_its_steps_it_tells_what_the_rows_do(tmp_path):
    facts = write_config(tmp_path, mapped("x", "y"), "default", ())
    assert [(step.name, step.node.model, step.completion_tokens) for step in facts.steps] == [
        ("TextGeneration", "echo", 2)
    ]
    assert not (tmp_path / "hfsynth.yaml").exists()


def test_a_dataset_that_no_technique_made_is_written_whole(tmp_path):
    facts = write_config(tmp_path, Dataset.from_dict({"n": [1, 2]}), "default", ())
    assert (facts.rows, facts.steps) == (2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-00000-of-00001.parquet"]


def test_the_facts_come_back_from_json(tmp_path):
    facts = write_facts(tmp_path, write_config(tmp_path, made("x", None), "default", ()), {"m": {"licence": "mit"}})
    assert ConfigFacts.from_json((tmp_path / "hfsynth.json").read_text()) == ConfigFacts.from_json(facts.to_json())
    assert json.loads(facts.to_json())["stated"] == {"m": {"licence": "mit"}}


@pytest.mark.parametrize("text", ["{", "{}", '{"config_name": 1, "new": 2}', "[]"])
def test_facts_of_another_version_are_an_error_that_says_so(text):
    with pytest.raises(ValueError, match=r"hfsynth\.json"):
        ConfigFacts.from_json(text)


def test_the_entry_in_dataset_info_is_what_datasets_would_write(tmp_path):
    facts = write_config(tmp_path, made("x", "y"), "default", ())
    info = DatasetInfo._from_yaml_dict(dict(facts.info))
    data = DatasetCardData()
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    expected = data.to_dict()["dataset_info"]
    assert {name: value for name, value in facts.info.items() if name != "config_name"} == {
        name: value for name, value in expected.items() if name != "config_name"
    }
    (split,) = facts.info["splits"]
    assert split["num_examples"] == 2
    assert facts.info["download_size"] == (tmp_path / "train-00000-of-00001.parquet").stat().st_size


def test_shards_hold_all_rows_in_their_order_whatever_their_number(tmp_path, monkeypatch):
    rows = made(*map(str, range(50)))
    for size in (1, 300, 1000, 10**9):
        monkeypatch.setattr(files, "_BYTES_PER_SHARD", size)
        folder = tmp_path / str(size)
        folder.mkdir()
        write_config(folder, rows, "default", ())
        shards = sorted(str(path) for path in folder.glob("train-*.parquet"))
        assert shards[-1].endswith(f"-{len(shards) - 1:05d}-of-{len(shards):05d}.parquet")
        read = Dataset.from_parquet(shards, cache_dir=str(folder / "cache"))
        assert read["a"][:] == [str(n) for n in range(50)]


def test_three_rows_are_shown_the_first_the_middle_and_the_last(tmp_path):
    facts = write_config(tmp_path, made(*"abcdefg"), "default", ())
    assert [row["a"] for row in facts.splits[0].samples] == ["a", "d", "g"]
    assert facts.splits[0].samples[0].keys() == {"a", "generation"}


def test_a_long_text_is_cut_and_says_so(tmp_path):
    facts = write_config(tmp_path, made("x" * 5000), "default", ())
    assert facts.splits[0].samples[0]["a"] == "x" * 1000 + " … (5,000 characters)"
