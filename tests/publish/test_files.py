import json

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, DatasetInfo, Image, concatenate_datasets
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from hfsynth import EchoLLM, Pipeline, SelfInstruct, TextGeneration, push_to_hub, save
from hfsynth.analysis.plots import draw_lengths
from hfsynth.analysis.text_stats import Lengths
from hfsynth.inputs import load_rows
from hfsynth.publish import files
from hfsynth.publish.card_data import ConfigFacts
from hfsynth.publish.files import load_failures, load_runs, write_config, write_facts
from tests.helpers import OnlyOnce, ScriptedLLM

STEPS = (TextGeneration(EchoLLM(), system_prompt="Be nice.", input_mappings={"instruction": "a"}),)


def made(*texts):
    return Pipeline(STEPS).run(Dataset.from_dict({"a": list(texts)}), quiet=True)


def mapped(*texts):
    return Dataset.from_dict({"a": list(texts)}).map(STEPS[0], batched=True, with_indices=True)


def test_a_dataset_that_map_made_tells_as_much_as_its_rows_and_steps_do(tmp_path):
    facts = write_config(tmp_path, mapped("x", None), "default", STEPS)
    (step,) = facts.steps
    assert (step.rows_in, step.rows_out, dict(step.failures)) == (2, 1, {"a is None": 1})
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


def answer(column, made, **fields):
    return TextGeneration(
        EchoLLM(), input_mappings={"instruction": column}, output_mappings={"generation": made}, **fields
    )


def good(dataset):
    return dataset.filter(lambda row: row["b"] is not None)


def shorter(dataset):
    return dataset.select(range(len(dataset) - 1))


def test_failures_that_a_later_step_dropped_are_written_too(tmp_path):
    rows = (answer("a", "b") >> good).run(Dataset.from_dict({"a": ["x", None, "y"]}), quiet=True)
    facts = write_config(tmp_path, rows, "default", ())
    assert pq.read_table(tmp_path / "failures" / "train.parquet").to_pydict()["reason"] == ["a is None"]
    assert (facts.splits[0].rows, facts.splits[0].failures) == (2, 1)


def test_a_step_that_came_after_the_run_is_told_beside_it(tmp_path):
    rows = (answer("a", "b") >> shorter).run(Dataset.from_dict({"a": ["x", "y"]}), quiet=True)
    last = answer("b", "c", name="last")
    rows = rows.map(last, batched=True, with_indices=True)
    facts = write_config(tmp_path, rows, "default", (last,))
    assert [[step.name for step in run.steps] for run in facts.runs] == [["TextGeneration", "shorter"], ["last"]]
    assert (tmp_path / "steps-2.png").exists()
    assert Pipeline.from_yaml((tmp_path / "hfsynth-2.yaml").read_text()).steps[0].name == "last"


def test_a_step_that_is_there_twice_is_in_the_recipe_twice(tmp_path):
    rows = Pipeline((shorter, answer("a", "b"), shorter)).run(Dataset.from_dict({"a": list("abcd")}), quiet=True)
    facts = write_config(tmp_path, rows, "default", ())
    again = Pipeline.from_yaml((tmp_path / "hfsynth.yaml").read_text(), shorter)
    assert [step.name for step in again.steps] == ["shorter", "TextGeneration", "shorter"]
    assert facts.rows == 2


def test_splits_of_two_runs_have_a_recipe_each_and_splits_of_one_run_share_it(tmp_path):
    runs = {seed: Pipeline((answer("a", "b", seed=seed), shorter)) for seed in (0, 1)}
    rows = {seed: run.run(Dataset.from_dict({"a": list("abcd")}), quiet=True) for seed, run in runs.items()}
    for name in ("two", "one"):
        (tmp_path / name).mkdir()
    two = write_config(tmp_path / "two", DatasetDict(train=rows[0], test=rows[1]), "default", ())
    seeds = [Pipeline.from_yaml((tmp_path / "two" / name).read_text(), shorter).steps[0].seed for name in RECIPES]
    assert seeds == [0, 1]
    assert len(two.steps) == 4
    one = write_config(tmp_path / "one", rows[0].train_test_split(0.5, seed=0), "default", ())
    assert len(one.steps) == 2


RECIPES = ["hfsynth.yaml", "hfsynth-2.yaml"]


def test_rows_that_map_made_are_counted_once_however_they_were_mixed(tmp_path):
    asks = SelfInstruct(ScriptedLLM(("What is a?\nWhat is b?\nWhat is c?",)), num_instructions=3)
    rows = Dataset.from_dict({"input": list("abcdefghij")}).map(asks, batched=True, with_indices=True)
    (step,) = write_config(tmp_path, rows.shuffle(seed=1), "default", (asks,)).steps
    assert (step.rows_in, step.rows_out, step.completion_tokens) == (10, 30, 20)


def test_rows_with_and_without_entries_may_be_put_together(tmp_path):
    first = mapped("x", "y")
    second = first.map(answer("generation", "c", name="second"), batched=True, with_indices=True)
    human = Dataset.from_dict({"a": ["by hand"]})
    mixed = concatenate_datasets([human, first, second])
    facts = write_config(tmp_path, mixed, "default", ())
    assert [(step.name, step.rows_in) for step in facts.steps] == [("TextGeneration", 4), ("second", 2)]
    assert facts.splits[0].bare == 1


def test_an_image_of_ones_own_becomes_part_of_the_rows_and_its_path_is_not_told(tmp_path):
    picture = tmp_path / "secret.png"
    picture.write_bytes(draw_lengths({"a": Lengths.of({1: 1})}, "words"))
    rows = Dataset.from_dict({"a": ["x"], "image": [str(picture)]}).cast_column("image", Image())
    (tmp_path / "made").mkdir()
    facts = write_config(tmp_path / "made", rows, "default", ())
    assert facts.splits[0].samples == ({"a": "x", "image": "Image"},)
    table = pq.read_table(next((tmp_path / "made").glob("*.parquet"))).to_pydict()
    assert table["image"][0]["bytes"] == picture.read_bytes()
    assert str(tmp_path) not in str(table)


def test_splits_of_one_run_tell_each_failed_or_dropped_row_once(tmp_path):
    rows = Dataset.from_dict({"instruction": ["a", None, "a", "b", None, "c"]})
    made = (OnlyOnce() >> TextGeneration(EchoLLM())).run(rows, run_dir=tmp_path / "run", quiet=True)
    splits = DatasetDict({"train": made.select([0, 1, 2]), "test": made.select([3, 4])})
    write_config(tmp_path / "made", splits, "text", ())
    told = {
        name: Dataset.from_parquet(str(tmp_path / "made/failures" / f"{name}.parquet"), cache_dir=str(tmp_path / "c"))
        for name in ("train", "test")
    }
    assert [(row["step"], row["row"]) for row in told["train"]] == [("OnlyOnce", 2), ("TextGeneration", 1)]
    assert [(row["step"], row["row"]) for row in told["test"]] == [("TextGeneration", 3)]


def test_splits_of_two_runs_each_have_the_failures_of_their_own(tmp_path):
    pipeline = OnlyOnce() >> TextGeneration(EchoLLM())
    splits = DatasetDict(
        {
            name: pipeline.run(Dataset.from_dict({"instruction": texts}), run_dir=tmp_path / "run", quiet=True)
            for name, texts in (("train", ["a", None, "a"]), ("test", ["b", None, "c", "b"]))
        }
    )
    write_config(tmp_path / "made", splits, "text", ())
    for name, dropped in (("train", 2), ("test", 3)):
        file = str(tmp_path / "made/failures" / f"{name}.parquet")
        told = Dataset.from_parquet(file, cache_dir=str(tmp_path / "c"))
        assert [(row["step"], row["row"]) for row in told] == [("OnlyOnce", dropped), ("TextGeneration", 1)]


ONE_FAILURE = Dataset.from_dict({"instruction": ["a", None]}).map(
    TextGeneration(EchoLLM()), batched=True, with_indices=True, load_from_cache_file=False
)


@pytest.fixture(params=["folder", "hub"])
def name(request, tmp_path, hub):
    """A dataset with a row and a failure, in a folder or on the Hub."""
    if request.param == "folder":
        save(ONE_FAILURE, tmp_path / "saved", config_name="text")
        return str(tmp_path / "saved")
    push_to_hub(ONE_FAILURE, "user/saved", config_name="text")
    return "user/saved"


def test_load_failures_in_folder_or_on_hub_finds_them(name):
    assert load_rows(name, "text", "train")["instruction"][:] == ["a"]
    assert load_failures(name, "text", "train")["reason"][:] == ["instruction is None"]


def test_load_runs_in_folder_or_on_hub_finds_them(name):
    (run,) = load_runs(name, "text", "train")
    assert run.steps[0].failures == {"instruction is None": 1}


def test_load_runs_of_absent_config_or_split_is_empty(name):
    assert load_failures(name, "other", "train") is None
    assert load_runs(name, "other", "train") == load_runs(name, "text", "test") == ()


def test_load_runs_of_other_version_is_an_error(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "hfsynth.json").write_text('{"splits": 3}')
    with pytest.raises(ValueError, match="can't be read by this version"):
        load_runs(str(tmp_path), "text", "train")


def test_load_runs_of_a_file_is_empty(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a"}')
    assert load_failures(str(tmp_path / "rows.jsonl"), None, "train") is None
    assert load_runs(str(tmp_path / "rows.jsonl"), None, "train") == ()
