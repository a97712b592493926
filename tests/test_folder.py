import pytest
from datasets import Dataset, DatasetDict, load_dataset

from hfsynth import EchoLLM, Magpie, Pipeline, TextGeneration, save

ANSWER = Pipeline((TextGeneration(EchoLLM()),))


def answered(*instructions):
    return ANSWER.run(Dataset.from_dict({"instruction": list(instructions)}), quiet=True)


def loaded(folder, *config):
    cache = folder.parent / f"cache-{len(list(folder.parent.iterdir()))}"
    return load_dataset(str(folder), *config, cache_dir=str(cache))


def test_each_configuration_is_read_back_with_its_rows_and_features(tmp_path):
    pipeline = Pipeline((Magpie(EchoLLM(), n_turns=2),))
    conversations = pipeline.run(Dataset.from_dict({"id": [0, 1]}), quiet=True)
    save(answered("a", None, "b"), tmp_path / "made", config_name="answers")
    save(conversations, tmp_path / "made", config_name="magpie")
    magpie = loaded(tmp_path / "made", "magpie")["train"]
    assert loaded(tmp_path / "made", "answers")["train"]["generation"][:] == ["a", "b"]
    assert magpie.to_list() == conversations.to_list()
    assert magpie.features == conversations.features


def test_splits_are_read_back_as_splits(tmp_path):
    save(DatasetDict(train=answered("a"), test=answered("b", "c")), tmp_path / "made")
    both = loaded(tmp_path / "made")
    assert {name: split["generation"][:] for name, split in both.items()} == {"train": ["a"], "test": ["b", "c"]}


def test_saving_again_replaces_a_configuration_and_leaves_the_others(tmp_path):
    for name, rows in (("one", answered("a")), ("two", answered("b")), ("one", answered("c", "d"))):
        save(rows, tmp_path / "made", config_name=name)
    assert loaded(tmp_path / "made", "one")["train"]["generation"][:] == ["c", "d"]
    assert loaded(tmp_path / "made", "two")["train"]["generation"][:] == ["b"]


def test_a_configuration_without_rows_is_told_in_the_card_and_spoils_no_other(tmp_path, caplog):
    save(answered("a"), tmp_path / "made", config_name="one")
    save(answered(None), tmp_path / "made", config_name="none")
    assert "no row of none is left" in caplog.text
    with pytest.raises(ValueError, match="corresponds to no data"):  # and not the failures, taken for rows
        load_dataset(str(tmp_path / "made"), "none", split="train", cache_dir=str(tmp_path / "none"))
    assert loaded(tmp_path / "made", "one")["train"]["generation"][:] == ["a"]
    assert "## none" in (tmp_path / "made" / "README.md").read_text()


def test_a_save_that_was_killed_can_be_repeated_and_spoils_nothing(tmp_path, monkeypatch):
    save(answered("a"), tmp_path / "made")
    with monkeypatch.context() as patch:
        patch.setattr("hfsynth.publish.files.write_facts", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(answered("b"), tmp_path / "made")
    assert loaded(tmp_path / "made")["train"]["generation"][:] == ["a"]
    save(answered("c"), tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["README.md", "default"]


def test_what_the_user_wrote_in_the_card_stays(tmp_path):
    (tmp_path / "made").mkdir()
    card = tmp_path / "made" / "README.md"
    card.write_text("---\nlicense: mit\n---\n# Mine\n")
    save(answered("a"), tmp_path / "made", config_name="one")
    save(answered("b"), tmp_path / "made", config_name="two")
    assert card.read_text().startswith("---\nlicense: mit\n")
    assert card.read_text().count("# Mine") == card.read_text().count("## one") == 1


def test_what_the_user_put_beside_the_files_stays(tmp_path):
    save(answered("a"), tmp_path / "made")
    (tmp_path / "made" / "default" / "notes").mkdir()
    (tmp_path / "made" / "default" / "notes" / "mine.md").write_text("mine")
    save(answered("b"), tmp_path / "made")
    assert (tmp_path / "made" / "default" / "notes" / "mine.md").read_text() == "mine"
    assert loaded(tmp_path / "made")["train"]["generation"][:] == ["b"]


@pytest.mark.parametrize("name", ["train-extra", "my split", "all", "a/b", ""])
def test_a_name_that_no_split_can_have_is_an_error_before_anything_is_written(name, tmp_path):
    with pytest.raises(ValueError, match="can't be the name of a split"):
        save(DatasetDict({name: answered("a")}), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_folder_that_hfsynth_did_not_write_is_not_replaced(tmp_path):
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "train-00000-of-00001.parquet").touch()
    with pytest.raises(FileExistsError, match=r"that are not hfsynth's.*give another config_name"):
        save(answered("a"), tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "ü"])
def test_a_configuration_that_can_not_be_a_folder_is_an_error(name, tmp_path):
    with pytest.raises(ValueError, match="config_name is"):
        save(answered("a"), tmp_path, config_name=name)


def test_only_datasets_can_be_saved(tmp_path):
    with pytest.raises(TypeError, match="not list"):
        save([{"a": 1}], tmp_path)
    with pytest.raises(ValueError, match="all splits of a configuration need the same columns"):
        save(DatasetDict(train=answered("a"), test=Dataset.from_dict({"x": [1]})), tmp_path)


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    save(answered("a"), tmp_path / "made")
    assert not (tmp_path / "made").exists()
