"""The datasets of dataset_cards/ are what the scripts write today."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hfsynth import Pipeline, verify
from tests.conftest import GGUF

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "dataset_cards"
NAMES = ["text_generation", "self_instruct", "evol_instruct", "magpie", "quickstart", "bootstrap"]
RECORDED = ["text_generation", "self_instruct", "evol_instruct", "magpie", "quickstart", "bootstrap"]
REWRITTEN = "self_instruct"  # each of the others takes minutes
OTHER_RUN = [  # of the day, the machine and its speed, and the packages
    (r"begin \w+,|end \w+ -->", "mark"),
    (r"Finished on [\d-]+", "Finished"),
    (r"(?m)^- (\w+): .* process(?:es)? on .*$", r"\1 took"),
    (r"(?m)^- Versions: .*$", "versions"),
    (r"(?m)^pip install ./hfsynth .*$", "pip install"),
    (r"(?m)^  (download_size|dataset_size): \d+$", r"\1"),
]


def machine(card):
    return set(re.findall(r"(?m) process(?:es)? on (.*)$", card))


def comparable(card):
    for pattern, other in OTHER_RUN:
        card = re.sub(pattern, other, card)
    return card


def without_texts(card):
    """Return a card without rows and figures: on another processor the model may choose other words."""
    card = re.sub(r"(?s)```json\n.*?\n```", "rows", card)
    return re.sub(r"\d[\d,.]*%?", "number", comparable(card))


@pytest.mark.model
def test_script_writes_its_card(smollm_folder, tmp_path):
    flags = ["--model", smollm_folder, "--gguf-file", GGUF, "--output-dir", str(tmp_path), "--only", REWRITTEN]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/dataset_cards.py"), *flags], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    committed, fresh = ((folder / REWRITTEN / "README.md").read_text() for folder in (CARDS, tmp_path))
    if machine(committed) == machine(fresh):
        assert comparable(fresh) == comparable(committed)
    assert without_texts(fresh) == without_texts(committed)
    assert verify(str(tmp_path / REWRITTEN), rows=0).exit_status == 0  # the notebook remakes rows of the real model


@pytest.mark.parametrize("name", NAMES)
def test_cards_have_their_pictures(name):
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (CARDS / name / "README.md").read_text())
    assert len(pictures) >= 2
    for picture in pictures:
        assert (CARDS / name / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", RECORDED)
def test_card_and_files_are_as_recorded(name):
    records = list((CARDS / name).glob("*/hfsynth.json"))
    assert records
    for config in records:
        found = verify(str(CARDS / name), config.parent.name, rows=0)
        assert found.exit_status == 0, str(found)
        recipe = (config.parent / "hfsynth.yaml").read_text()
        assert len(Pipeline.from_yaml(recipe, model="folder").steps)  # an error if a class has another version by now


def test_cards_only_writes_equal_cards(tmp_path):
    shutil.copytree(CARDS / "self_instruct", tmp_path / "self_instruct")
    card = tmp_path / "self_instruct/README.md"
    card.write_text(card.read_text().replace("### Verify", "### Check"))
    flags = ["--cards-only", "--only", "self_instruct", "--output-dir", str(tmp_path)]
    subprocess.run([sys.executable, str(ROOT / "scripts/dataset_cards.py"), *flags], check=True)
    assert card.read_text() == (CARDS / "self_instruct/README.md").read_text()


def test_page_lists_every_card():
    page = (CARDS / "README.md").read_text()
    assert "python scripts/dataset_cards.py" in page
    assert [f"({name}/README.md)" in page for name in NAMES] == [True] * len(NAMES)
