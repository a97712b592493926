"""A record, a card or a file that was changed after it was saved."""

import json
import re
import shutil

import pytest
from datasets import Dataset, DatasetDict

from hfsynth import EchoLLM, TextGeneration, WellFormed, save
from hfsynth.publish.files import open_config
from hfsynth.verification.figures import check_card, check_figures, check_files, check_recipe, check_steps

CHECKS = (check_files, check_figures, check_steps, check_recipe, check_card)
ANSWERS = WellFormed() >> TextGeneration(EchoLLM(), output_mappings={"generation": "answer"})


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two splits of one configuration beside another one, with failed and dropped rows."""
    folder = tmp_path_factory.mktemp("original") / "data"
    run_dir = tmp_path_factory.mktemp("run")
    train = Dataset.from_dict({"instruction": ["Say hello.", "", "Name a colour.", "Name a fruit.", None]})
    test = Dataset.from_dict({"instruction": ["Say goodbye."]})
    splits = {
        name: ANSWERS.run(rows, run_dir=run_dir, quiet=True) for name, rows in {"train": train, "test": test}.items()
    }
    save(DatasetDict(splits), folder, config_name="both")
    save(test, folder, config_name="plain")
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "data")


def differences(folder, config="both"):
    published = open_config(str(folder), config)
    return {found.subject: found.differences for found in (check(published) for check in CHECKS) if found.differences}


def edit(file, pattern, text):
    before = file.read_text()
    after = re.sub(pattern, text, before, count=1)
    assert after != before
    file.write_text(after)


@pytest.mark.parametrize("config", ["both", "plain"])
def test_checks_of_unchanged_dataset_find_nothing(folder, config):
    assert differences(folder, config) == {}


def test_checks_of_renamed_folder_find_nothing(folder):
    assert differences(folder.rename(folder.with_name("renamed"))) == {}


def test_checks_count_their_comparisons(folder):
    published = open_config(str(folder), "both")
    counts = {check.subject: check.compared for check in (check(published) for check in CHECKS)}
    assert counts["files"] == len(list((folder / "both").rglob("*.*"))) - 1
    assert counts["figures"] > 60
    assert counts["card"] > 100
    assert counts["recipes"] == 2


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("steps.png", b"x"),
        ("failures/train.parquet", None),
        ("train-00000-of-00001.parquet", b""),
        ("test-1.txt", b""),
    ],
)
def test_files_changed_or_missing_are_named(folder, file, damage):
    path = folder / "both" / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    published = open_config(str(folder), "both")
    found = check_files(published).differences
    assert [file in text for text in found] == ([] if file == "test-1.txt" else [True])


def test_files_of_record_without_checksums_are_noted(folder):
    edit(folder / "both/hfsynth.json", r'"checksums": \{[^}]*\}', '"checksums": {}')
    found = check_files(open_config(str(folder), "both"))
    assert (found.compared, found.differences) == (0, ())
    assert found.note


def test_figures_damaged_file_is_an_error(folder):
    (folder / "both/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="train-00000-of-00001"):
        check_figures(open_config(str(folder), "both"))


@pytest.mark.parametrize(
    ("pattern", "text", "name"),
    [
        (r'"median": 13', '"median": 14', "train.figures.instruction.lengths.median"),
        (r'"rows": 3', '"rows": 4', "train.rows"),
        (r'"failures": 2,', '"failures": 0,', "train.failures"),
        (r'"Name a colour\."', '"Name a color."', "train.samples"),
        (r'"num_examples": 3', '"num_examples": 2', "info.splits"),
    ],
)
def test_figures_changed_in_the_record_are_named(folder, pattern, text, name):
    edit(folder / "both/hfsynth.json", pattern, text)
    found = differences(folder)
    assert [name in line for line in found["figures"]] == [True]
    assert "card" in found


@pytest.mark.parametrize("name", ["completion_tokens", "prompt_tokens", "rows_out"])
def test_steps_with_too_few_in_the_record_are_named(folder, name):
    record = json.loads((folder / "both/hfsynth.json").read_text())
    record["splits"][0]["runs"][0]["steps"][1][name] -= 1
    (folder / "both/hfsynth.json").write_text(json.dumps(record))
    (line,) = differences(folder)["steps"]
    assert name.replace("_", " ") in line


def test_steps_with_other_drops_are_named(folder):
    record = json.loads((folder / "both/hfsynth.json").read_text())
    record["splits"][0]["runs"][0]["steps"][0]["stopped"] = {"empty": 2, "": 3}
    (folder / "both/hfsynth.json").write_text(json.dumps(record))
    (line,) = differences(folder)["steps"]
    assert "WellFormed: 2 rows" in line


def test_recipe_of_other_seed_is_named(folder):
    edit(folder / "both/hfsynth.yaml", "seed: 0", "seed: 1")
    assert set(differences(folder)) == {"files", "recipes"}


def test_recipe_of_other_version_has_the_same_steps(folder):
    edit(folder / "both/hfsynth.yaml", "^hfsynth: .*", "hfsynth: 0.0.9")
    assert set(differences(folder)) == {"files"}


def test_card_edited_in_its_part_is_named(folder):
    edit(folder / "README.md", r"4 rows\. Generated", "40 rows. Generated")
    found = differences(folder)
    assert set(found) == {"card"}
    assert "40 rows" in found["card"][0]


def test_card_edited_header_is_named(folder):
    edit(folder / "README.md", "num_examples: 3", "num_examples: 33")
    assert set(differences(folder)) == {"card"}


def test_card_with_text_of_the_user_is_as_recorded(folder):
    edit(folder / "README.md", "# data", "# My data\n\nText of my own.")
    edit(folder / "README.md", "^---", "---\npretty_name: Mine")
    assert differences(folder) == {}


def test_card_without_its_part_is_one_difference(folder):
    (folder / "README.md").write_text("# data\n")
    assert len(differences(folder)["card"]) == 1


@pytest.mark.parametrize("line", ["dataset = load_dataset('x')", "dataset = load_dataset()"])
def test_check_card_edited_loading_line_is_a_difference(folder, line):
    edit(folder / "README.md", r"(?m)^dataset = load_dataset\(.*$", line)
    (difference,) = check_card(open_config(str(folder), "both")).differences
    assert repr(line) in difference
