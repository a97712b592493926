import pytest

from hfsynth.publish.file_names import conflict, is_ours, our_configs

OURS = ["README.md", "one/hfsynth.json", "one/train-00000-of-00001.parquet"]
CARD = {"configs": [{"config_name": "one"}]}


@pytest.mark.parametrize(
    "name",
    [
        *("train-00000-of-00002.parquet", "failures/test.parquet", "hfsynth.json", "hfsynth.yaml", "hfsynth-2.yaml"),
        *("steps.png", "steps-2.png", "lengths.png", "similarity.png", "map-2.png"),
    ],
)
def test_the_files_that_hfsynth_writes_are_its_own_in_their_folder_alone(name):
    assert is_ours(f"one/{name}", "one")
    assert not is_ours(f"two/{name}", "one")
    assert not is_ours(name, "one")


@pytest.mark.parametrize("name", ["notes.md", "extra.csv", "train.parquet", "sub/steps.png", "hfsynth.json.bak"])
def test_what_the_user_put_beside_them_is_the_users(name):
    assert not is_ours(f"one/{name}", "one")


def test_a_configuration_of_ours_may_be_written_again_and_another_one_added():
    assert our_configs(OURS) == {"one"}
    assert conflict("one", OURS, CARD) == ""
    assert conflict("two", OURS, CARD) == ""
    assert conflict("two", ["README.md", ".gitattributes"], {}) == ""


def test_rows_that_datasets_pushed_under_the_same_name_are_in_the_way():
    assert "files in one/" in conflict("one", ["one/train-00000-of-00001.parquet"], CARD)


@pytest.mark.parametrize(
    "card", [{"configs": [{"config_name": "default", "data_files": "data/*"}]}, {"dataset_info": {"features": []}}]
)
def test_a_configuration_of_that_name_whose_files_lie_elsewhere_is_in_the_way(card):
    assert "configuration 'default' that is not" in conflict("default", ["data/train-0.parquet"], card)


def test_data_files_that_are_found_without_a_configuration_would_be_lost():
    assert "data files that the card names no configuration for: ['train.csv']" in conflict("one", ["train.csv"], {})
    assert conflict("one", ["train.csv"], {"configs": [{"config_name": "mine"}]}) == ""
