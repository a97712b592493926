import re

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, DatasetInfo, Image, concatenate_datasets, load_dataset
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from hfsynth import EchoLLM, Magpie, Pipeline, SelfInstruct, TextGeneration, save
from hfsynth.analysis.render import draw_lengths
from hfsynth.analysis.text_stats import Lengths
from hfsynth.llm import Origin
from hfsynth.publish import files
from hfsynth.publish.card_data import ConfigFacts
from hfsynth.publish.files import (
    generated_configs,
    is_generated_file,
    overwrite_conflict,
    write_config,
    write_facts,
)
from tests.helpers import OnlyOnce, RepeatingLLM

pytestmark = pytest.mark.usefixtures("cached_pictures")
STEPS = (TextGeneration(EchoLLM(), system_prompt="Be nice.", input_mappings={"instruction": "a"}),)


def answered_column(*texts):
    return Pipeline(STEPS).run(Dataset.from_dict({"a": list(texts)}), quiet=True)


def mapped_column(*texts):
    return Dataset.from_dict({"a": list(texts)}).map(STEPS[0], batched=True, with_indices=True)


def test_write_config_of_map_result_reads_rows_and_steps(tmp_path):
    facts = write_config(tmp_path, mapped_column("x", None), "default", STEPS)
    (step,) = facts.steps
    assert (step.rows_in, step.rows_out, dict(step.failures)) == (2, 1, {"a is None": 1})
    assert step.recipe["system_prompt"] == "Be nice."
    assert (tmp_path / "hfsynth.yaml").exists()


def test_write_config_without_steps_reads_the_rows(tmp_path):
    facts = write_config(tmp_path, mapped_column("x", "y"), "default", ())
    assert [(step.name, step.node.model, step.completion_tokens) for step in facts.steps] == [
        ("TextGeneration", "echo", 2)
    ]
    assert not (tmp_path / "hfsynth.yaml").exists()


def test_write_config_of_plain_rows_writes_one_file(tmp_path):
    facts = write_config(tmp_path, Dataset.from_dict({"n": [1, 2]}), "default", ())
    assert (facts.rows, facts.steps) == (2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-00000-of-00001.parquet"]


def test_write_facts_is_read_back(tmp_path):
    facts = write_config(tmp_path, answered_column("x", None), "default", ())
    facts = write_facts(tmp_path, facts, {"m": Origin(license="mit")})
    assert ConfigFacts.from_json((tmp_path / "hfsynth.json").read_text()) == ConfigFacts.from_json(facts.to_json())
    assert facts.origins == {"m": Origin(license="mit")}


@pytest.mark.parametrize("text", ["{", "{}", '{"config_name": 1, "new": 2}', "[]"])
def test_from_json_of_other_version_is_an_error(text):
    with pytest.raises(ValueError, match=r"hfsynth\.json"):
        ConfigFacts.from_json(text)


def test_write_config_info_equals_that_of_datasets(tmp_path):
    facts = write_config(tmp_path, answered_column("x", "y"), "default", ())
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


def test_write_config_any_number_of_shards_keeps_order(tmp_path, monkeypatch):
    rows = answered_column(*map(str, range(50)))
    for size in (1, 300, 1000, 10**9):
        monkeypatch.setattr(files, "_BYTES_PER_SHARD", size)
        folder = tmp_path / str(size)
        folder.mkdir()
        write_config(folder, rows, "default", ())
        shards = sorted(str(path) for path in folder.glob("train-*.parquet"))
        assert shards[-1].endswith(f"-{len(shards) - 1:05d}-of-{len(shards):05d}.parquet")
        read = Dataset.from_parquet(shards, cache_dir=str(folder / "cache"))
        assert read["a"][:] == [str(n) for n in range(50)]


def test_write_config_samples_first_middle_and_last_row(tmp_path):
    facts = write_config(tmp_path, answered_column(*"abcdefg"), "default", ())
    assert [row["a"] for row in facts.splits[0].samples] == ["a", "d", "g"]
    assert facts.splits[0].samples[0].keys() == {"a", "generation"}


def test_write_config_cuts_long_texts_of_samples(tmp_path):
    facts = write_config(tmp_path, answered_column("x" * 5000), "default", ())
    assert facts.splits[0].samples[0]["a"] == "x" * 1000 + " … (5,000 characters)"


def answer(column, output, **fields):
    return TextGeneration(
        EchoLLM(), input_mappings={"instruction": column}, output_mappings={"generation": output}, **fields
    )


def good(dataset):
    return dataset.filter(lambda row: row["b"] is not None)


def shorter(dataset):
    return dataset.select(range(len(dataset) - 1))


def test_write_config_writes_failures_dropped_later(tmp_path):
    rows = (answer("a", "b") >> good).run(Dataset.from_dict({"a": ["x", None, "y"]}), quiet=True)
    facts = write_config(tmp_path, rows, "default", ())
    assert pq.read_table(tmp_path / "failures" / "train.parquet").to_pydict()["reason"] == ["a is None"]
    assert (facts.splits[0].rows, facts.splits[0].failures) == (2, 1)


def test_write_config_adds_a_step_applied_after_the_run(tmp_path):
    rows = (answer("a", "b") >> shorter).run(Dataset.from_dict({"a": ["x", "y"]}), quiet=True)
    last = answer("b", "c", name="last")
    rows = rows.map(last, batched=True, with_indices=True)
    facts = write_config(tmp_path, rows, "default", (last,))
    assert [[step.name for step in run.steps] for run in facts.runs] == [["TextGeneration", "shorter"], ["last"]]
    assert (tmp_path / "steps-2.png").exists()
    assert Pipeline.from_yaml((tmp_path / "hfsynth-2.yaml").read_text()).steps[0].name == "last"


def test_write_config_recipe_keeps_a_repeated_step(tmp_path):
    rows = Pipeline((shorter, answer("a", "b"), shorter)).run(Dataset.from_dict({"a": list("abcd")}), quiet=True)
    facts = write_config(tmp_path, rows, "default", ())
    recipe = Pipeline.from_yaml((tmp_path / "hfsynth.yaml").read_text(), shorter)
    assert [step.name for step in recipe.steps] == ["shorter", "TextGeneration", "shorter"]
    assert facts.rows == 2


def test_write_config_writes_one_recipe_per_run(tmp_path):
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


def test_write_config_counts_shuffled_rows_once(tmp_path):
    asks = SelfInstruct(RepeatingLLM(("What is a?\nWhat is b?\nWhat is c?",)), num_instructions=3)
    rows = Dataset.from_dict({"input": list("abcdefghij")}).map(asks, batched=True, with_indices=True)
    (step,) = write_config(tmp_path, rows.shuffle(seed=1), "default", (asks,)).steps
    assert (step.rows_in, step.rows_out, step.completion_tokens) == (10, 30, 20)


def test_write_config_counts_rows_without_entries(tmp_path):
    first = mapped_column("x", "y")
    second = first.map(answer("generation", "c", name="second"), batched=True, with_indices=True)
    human = Dataset.from_dict({"a": ["by hand"]})
    mixed = concatenate_datasets([human, first, second])
    facts = write_config(tmp_path, mixed, "default", ())
    assert [(step.name, step.rows_in) for step in facts.steps] == [("TextGeneration", 4), ("second", 2)]
    assert facts.splits[0].untracked_rows == 1


def test_write_config_embeds_images_without_their_paths(tmp_path):
    picture = tmp_path / "secret.png"
    picture.write_bytes(draw_lengths({"a": Lengths.of({1: 1})}, "words"))
    rows = Dataset.from_dict({"a": ["x"], "image": [str(picture)]}).cast_column("image", Image())
    (tmp_path / "data").mkdir()
    facts = write_config(tmp_path / "data", rows, "default", ())
    assert facts.splits[0].samples == ({"a": "x", "image": "Image"},)
    table = pq.read_table(next((tmp_path / "data").glob("*.parquet"))).to_pydict()
    assert table["image"][0]["bytes"] == picture.read_bytes()
    assert str(tmp_path) not in str(table)


def test_write_config_splits_of_one_run_share_failures(tmp_path):
    rows = Dataset.from_dict({"instruction": ["a", None, "a", "b", None, "c"]})
    rows = (OnlyOnce() >> TextGeneration(EchoLLM())).run(rows, run_dir=tmp_path / "run", quiet=True)
    splits = DatasetDict({"train": rows.select([0, 1, 2]), "test": rows.select([3, 4])})
    write_config(tmp_path / "data", splits, "text", ())
    failures = {
        name: Dataset.from_parquet(str(tmp_path / "data/failures" / f"{name}.parquet"), cache_dir=str(tmp_path / "c"))
        for name in ("train", "test")
    }
    assert [(row["step"], row["row"]) for row in failures["train"]] == [("OnlyOnce", 2), ("TextGeneration", 1)]
    assert [(row["step"], row["row"]) for row in failures["test"]] == [("TextGeneration", 3)]


def test_write_config_splits_of_two_runs_keep_own_failures(tmp_path):
    pipeline = OnlyOnce() >> TextGeneration(EchoLLM())
    splits = DatasetDict(
        {
            name: pipeline.run(Dataset.from_dict({"instruction": texts}), run_dir=tmp_path / "run", quiet=True)
            for name, texts in (("train", ["a", None, "a"]), ("test", ["b", None, "c", "b"]))
        }
    )
    write_config(tmp_path / "data", splits, "text", ())
    for name, dropped in (("train", 2), ("test", 3)):
        file = str(tmp_path / "data/failures" / f"{name}.parquet")
        failures = Dataset.from_parquet(file, cache_dir=str(tmp_path / "c"))
        assert [(row["step"], row["row"]) for row in failures] == [("OnlyOnce", dropped), ("TextGeneration", 1)]


ANSWER = Pipeline((TextGeneration(EchoLLM()),))


def answered(*instructions):
    return ANSWER.run(Dataset.from_dict({"instruction": list(instructions)}), quiet=True)


def loaded(folder, *config):
    cache = folder.parent / f"cache-{len(list(folder.parent.iterdir()))}"
    return load_dataset(str(folder), *config, cache_dir=str(cache))


def test_save_two_configurations_reads_back_rows_and_types(tmp_path):
    pipeline = Pipeline((Magpie(EchoLLM(), n_turns=2),))
    conversations = pipeline.run(Dataset.from_dict({"id": [0, 1]}), quiet=True)
    save(answered("a", None, "b"), tmp_path / "data", config_name="answers")
    save(conversations, tmp_path / "data", config_name="magpie")
    magpie = loaded(tmp_path / "data", "magpie")["train"]
    assert loaded(tmp_path / "data", "answers")["train"]["generation"][:] == ["a", "b"]
    assert magpie.to_list() == conversations.to_list()
    assert magpie.features == conversations.features


def test_save_splits_reads_back_splits(tmp_path):
    save(DatasetDict(train=answered("a"), test=answered("b", "c")), tmp_path / "data")
    both = loaded(tmp_path / "data")
    assert {name: split["generation"][:] for name, split in both.items()} == {"train": ["a"], "test": ["b", "c"]}


def test_save_replaces_only_the_same_configuration(tmp_path):
    for name, rows in (("one", answered("a")), ("two", answered("b")), ("one", answered("c", "d"))):
        save(rows, tmp_path / "data", config_name=name)
    assert loaded(tmp_path / "data", "one")["train"]["generation"][:] == ["c", "d"]
    assert loaded(tmp_path / "data", "two")["train"]["generation"][:] == ["b"]


def test_save_configuration_without_rows_is_in_the_card(tmp_path, caplog):
    save(answered("a"), tmp_path / "data", config_name="one")
    save(answered(None), tmp_path / "data", config_name="none")
    assert "configuration none has no rows" in caplog.text
    with pytest.raises(ValueError, match="corresponds to no data"):  # and not the failures, taken for rows
        load_dataset(str(tmp_path / "data"), "none", split="train", cache_dir=str(tmp_path / "none"))
    assert loaded(tmp_path / "data", "one")["train"]["generation"][:] == ["a"]
    assert "## none" in (tmp_path / "data" / "README.md").read_text()


def test_save_after_an_interrupted_save_succeeds(tmp_path, monkeypatch):
    save(answered("a"), tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr("hfsynth.publish.files.write_facts", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(answered("b"), tmp_path / "data")
    assert loaded(tmp_path / "data")["train"]["generation"][:] == ["a"]
    save(answered("c"), tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["README.md", "default"]


def test_save_after_a_kill_between_renames_keeps_files(tmp_path):
    """The old configuration has its temporary name, and the new one not yet its own."""
    save(answered("a"), tmp_path / "data")
    (tmp_path / "data" / "default" / "mine.md").write_text("mine")
    (tmp_path / "data" / "default").rename(tmp_path / "data" / ".default-replaced")
    save(answered("b"), tmp_path / "data")
    assert (tmp_path / "data" / "default" / "mine.md").read_text() == "mine"
    assert loaded(tmp_path / "data")["train"]["generation"][:] == ["b"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["README.md", "default"]


def test_save_keeps_users_text_in_the_card(tmp_path):
    (tmp_path / "data").mkdir()
    card = tmp_path / "data" / "README.md"
    card.write_text("---\nlicense: mit\n---\n# Mine\n")
    save(answered("a"), tmp_path / "data", config_name="one")
    save(answered("b"), tmp_path / "data", config_name="two")
    assert card.read_text().startswith("---\nlicense: mit\n")
    assert card.read_text().count("# Mine") == card.read_text().count("## one") == 1


def test_save_keeps_users_files_in_the_folder(tmp_path):
    save(answered("a"), tmp_path / "data")
    (tmp_path / "data" / "default" / "notes").mkdir()
    (tmp_path / "data" / "default" / "notes" / "mine.md").write_text("mine")
    save(answered("b"), tmp_path / "data")
    assert (tmp_path / "data" / "default" / "notes" / "mine.md").read_text() == "mine"
    assert loaded(tmp_path / "data")["train"]["generation"][:] == ["b"]


@pytest.mark.parametrize("name", ["train-extra", "my split", "all", "a/b", ""])
def test_save_invalid_split_name_writes_nothing(name, tmp_path):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        save(DatasetDict({name: answered("a")}), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_save_over_foreign_files_is_an_error(tmp_path):
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "train-00000-of-00001.parquet").touch()
    with pytest.raises(FileExistsError, match=r"default/.*config_name"):
        save(answered("a"), tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "ü"])
def test_save_invalid_config_name_is_an_error(name, tmp_path):
    with pytest.raises(ValueError, match="config_name"):
        save(answered("a"), tmp_path, config_name=name)


def test_save_other_values_or_mixed_columns_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="list"):
        save([{"a": 1}], tmp_path)
    with pytest.raises(ValueError, match="same columns"):
        save(DatasetDict(train=answered("a"), test=Dataset.from_dict({"x": [1]})), tmp_path)


def test_save_in_process_1_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    save(answered("a"), tmp_path / "data")
    assert not (tmp_path / "data").exists()


OURS = ["README.md", "one/hfsynth.json", "one/train-00000-of-00001.parquet"]
CARD = {"configs": [{"config_name": "one"}]}


@pytest.mark.parametrize(
    "name",
    [
        *("train-00000-of-00002.parquet", "failures/test.parquet", "hfsynth.json", "hfsynth.yaml", "hfsynth-2.yaml"),
        *("steps.png", "steps-2.png", "lengths.png", "similarity.png", "funnel-2.png"),
    ],
)
def test_is_generated_file_own_name_in_own_folder_is_true(name):
    assert is_generated_file(f"one/{name}", "one")
    assert not is_generated_file(f"two/{name}", "one")
    assert not is_generated_file(name, "one")


@pytest.mark.parametrize("name", ["notes.md", "extra.csv", "train.parquet", "sub/steps.png", "hfsynth.json.bak"])
def test_is_generated_file_other_name_is_false(name):
    assert not is_generated_file(f"one/{name}", "one")


def test_overwrite_conflict_of_own_or_new_config_is_empty():
    assert generated_configs(OURS) == {"one"}
    assert overwrite_conflict("one", OURS, CARD) == ""
    assert overwrite_conflict("two", OURS, CARD) == ""
    assert overwrite_conflict("two", ["README.md", ".gitattributes"], {}) == ""


def test_overwrite_conflict_with_foreign_files_names_folder():
    assert "one/" in overwrite_conflict("one", ["one/train-00000-of-00001.parquet"], CARD)


@pytest.mark.parametrize(
    "card", [{"configs": [{"config_name": "default", "data_files": "data/*"}]}, {"dataset_info": {"features": []}}]
)
def test_overwrite_conflict_with_foreign_config_names_it(card):
    assert "'default'" in overwrite_conflict("default", ["data/train-0.parquet"], card)


def test_overwrite_conflict_with_unnamed_data_names_file():
    assert "train.csv" in overwrite_conflict("one", ["train.csv"], {})
    assert overwrite_conflict("one", ["train.csv"], {"configs": [{"config_name": "mine"}]}) == ""
