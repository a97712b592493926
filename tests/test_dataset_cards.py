"""The cards of dataset_cards/ are what the scripts write: here they write them again."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import GGUF

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "dataset_cards"
NAMES = ["text_generation", "self_instruct", "evol_instruct", "magpie", "quickstart", "bootstrap"]
KEPT = [*NAMES, "bootstrap_200"]  # takes minutes: written once, and not again by a test
OTHER_RUN = [  # what is of the day, the machine and its speed, and the packages
    (r"begin \w+,|end \w+ -->", "mark"),
    (r"finished on [\d-]+", "finished"),
    (r"(?m)^- (\w+): .*of all processes\)$", r"\1 took"),
    (r"(?m)^- with python .*$", "versions"),
    (r"(?m)^pip install ./hfsynth .*$", "pip install"),
    (r"(?m)^  (download_size|dataset_size): \d+$", r"\1"),
]


def machine(card):
    return set(re.findall(r"process(?:es)? on (.*) \(", card))


def comparable(card):
    for pattern, other in OTHER_RUN:
        card = re.sub(pattern, other, card)
    return card


def without_texts(card):
    """A card without what the model's own words decide: on another processor it may choose others."""
    card = re.sub(r"(?s)```json\n.*?\n```", "rows", card)
    return re.sub(r"\d[\d,.]*%?", "number", comparable(card))


@pytest.mark.model
@pytest.mark.parametrize("name", NAMES)
def test_a_script_writes_its_card_again(name, smollm_folder, tmp_path):
    flags = ["--model", smollm_folder, "--gguf-file", GGUF, "--output-dir", str(tmp_path), "--only", name]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/dataset_cards.py"), *flags], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept, again = ((folder / name / "README.md").read_text() for folder in (CARDS, tmp_path))
    if machine(kept) == machine(again):
        assert comparable(again) == comparable(kept)
    assert without_texts(again) == without_texts(kept)


@pytest.mark.parametrize("name", KEPT)
def test_every_picture_of_a_card_is_there(name):
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (CARDS / name / "README.md").read_text())
    assert len(pictures) >= 2
    for picture in pictures:
        assert (CARDS / name / picture).read_bytes().startswith(b"\x89PNG")


def test_the_page_says_where_the_cards_come_from_and_lists_them():
    page = (CARDS / "README.md").read_text()
    assert "python scripts/dataset_cards.py" in page
    assert [f"({name}/README.md)" in page for name in KEPT] == [True] * len(KEPT)
