import pytest
from datasets import Dataset, load_dataset

from hfsynth import EchoLLM, Magpie, Pipeline, TextGeneration
from hfsynth.hub import save

ANSWER = Pipeline((TextGeneration(EchoLLM()),))
MAGPIE = Pipeline((Magpie(EchoLLM(), n_turns=2),))


def answered(*instructions):
    return ANSWER.run(Dataset.from_dict({"instruction": list(instructions)}), quiet=True)


def test_each_configuration_is_read_back_with_its_rows_and_features(tmp_path):
    conversations = MAGPIE.run(Dataset.from_dict({"id": [0, 1]}), quiet=True)
    save(answered("a", None, "b"), tmp_path / "made", pipeline=ANSWER, config_name="answers")
    save(conversations, tmp_path / "made", pipeline=MAGPIE, config_name="magpie")
    answers = load_dataset(str(tmp_path / "made"), "answers", split="train", cache_dir=str(tmp_path / "c"))
    magpie = load_dataset(str(tmp_path / "made"), "magpie", split="train", cache_dir=str(tmp_path / "c"))
    assert answers["generation"][:] == ["a", "b"]
    assert magpie.to_list() == conversations.to_list()
    assert magpie.features == conversations.features


def test_saving_again_replaces_a_configuration_and_leaves_the_others(tmp_path):
    for name, rows in (("one", answered("a")), ("two", answered("b")), ("one", answered("c", "d"))):
        save(rows, tmp_path, pipeline=ANSWER, config_name=name)
    one = load_dataset(str(tmp_path), "one", split="train", cache_dir=str(tmp_path / "c"))
    two = load_dataset(str(tmp_path), "two", split="train", cache_dir=str(tmp_path / "c"))
    assert (one["generation"][:], two["generation"][:]) == (["c", "d"], ["b"])


def test_the_failures_are_returned_beside_the_rows(tmp_path):
    rows, failures = save(answered("a", None), tmp_path, pipeline=ANSWER)
    assert (len(rows), failures["reason"][:]) == (1, ["instruction is None"])


def test_a_configuration_without_rows_is_told_in_the_card_and_spoils_no_other(tmp_path, caplog):
    save(answered("a"), tmp_path, pipeline=ANSWER, config_name="one")
    save(answered(None), tmp_path, pipeline=ANSWER, config_name="none")
    assert "no row of none is left" in caplog.text
    assert load_dataset(str(tmp_path), "one", split="train", cache_dir=str(tmp_path / "c"))["generation"][:] == ["a"]
    assert "## none" in (tmp_path / "README.md").read_text()


def test_a_save_that_was_killed_can_be_repeated_and_spoils_nothing(tmp_path, monkeypatch):
    save(answered("a"), tmp_path, pipeline=ANSWER)
    with monkeypatch.context() as patch:
        patch.setattr("hfsynth.hub.ConfigCard.of", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(answered("b"), tmp_path, pipeline=ANSWER)
    assert load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "c"))["generation"][:] == ["a"]
    save(answered("c"), tmp_path, pipeline=ANSWER)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "c") == [
        "README.md",
        "default",
        "hf-datasets",
    ]


def test_nothing_is_overwritten_that_was_not_written_here(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has a README\.md that was not written by hfsynth"):
        save(answered("a"), tmp_path, pipeline=ANSWER)
    (tmp_path / "other" / "default").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="was not written by hfsynth; give another folder or config_name"):
        save(answered("a"), tmp_path / "other", pipeline=ANSWER)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b"])
def test_a_configuration_that_can_not_be_a_folder_is_an_error(name, tmp_path):
    with pytest.raises(ValueError, match="config_name is"):
        save(answered("a"), tmp_path, pipeline=ANSWER, config_name=name)
