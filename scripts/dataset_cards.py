"""Write the example datasets in dataset_cards/: the outputs of the other scripts with a small model.

    python scripts/dataset_cards.py --model FOLDER --gguf-file FILE

Each technique that has a script gets a dataset, and so does the quickstart, which chains three techniques. After a
change that affects only the card's template, `--cards-only` rewrites the cards from their records, without a model.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hfsynth.publish.card import write_card
from hfsynth.publish.files import read_facts

SCRIPTS = Path(__file__).parent
CARDS = SCRIPTS.parent / "dataset_cards"
INSTRUCTIONS = str(CARDS / "instructions.jsonl")
SEEDS = str(CARDS / "self_instruct_seed_tasks.jsonl")
TEXTS = str(SCRIPTS / "seeds.jsonl")
RUNS = {
    "text_generation": ["--dataset", INSTRUCTIONS, "--max-new-tokens", "256"],
    "self_instruct": ["--dataset", TEXTS, "--max-rows", "4", "--num-instructions", "2", "--max-new-tokens", "64"],
    "evol_instruct": ["--dataset", INSTRUCTIONS, "--num-evolutions", "2", "--max-new-tokens", "96"],
    "magpie": ["--num-rows", "2", "--instruction-max-new-tokens", "96", "--response-max-new-tokens", "256"],
    "quickstart": ["--num-rows", "3"],
    "bootstrap": ["--dataset", SEEDS, "--num-rows", "8", "--max-rows", "24", "--max-new-tokens", "192"],
}
"""Script → its flags, besides those for the model."""


def main() -> None:
    """Run every script, and copy its output to dataset_cards/."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = flags.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="Name of an instruct model on the Hub, or a folder.")
    source.add_argument("--cards-only", action="store_true", help="Rewrite only the cards, from the existing rows.")
    flags.add_argument("--gguf-file", help="GGUF file in that folder.")
    flags.add_argument("--output-dir", type=Path, default=CARDS, help="Default: dataset_cards.")
    flags.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS), help="Default: all.")
    arguments = flags.parse_args()
    if arguments.cards_only:
        for name in arguments.only:
            rewrite_card(arguments.output_dir / name)
        return
    model = ["--model", arguments.model, "--dtype", "float32"]
    model += ["--gguf-file", arguments.gguf_file] if arguments.gguf_file else []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / name
            command = [sys.executable, str(SCRIPTS / f"{name}.py"), *RUNS[name], *model, "--output-dir", str(output)]
            home = {"HF_HOME": folder, "OMP_NUM_THREADS": "1"}  # an empty cache, so that everything is generated
            subprocess.run(command, check=True, env={**os.environ, **home})
            shutil.rmtree(arguments.output_dir / name, ignore_errors=True)
            shutil.copytree(output, arguments.output_dir / name)


def rewrite_card(folder: Path) -> None:
    """Rewrite a card from the records in its folder."""
    facts, card = read_facts(folder), folder / "README.md"
    card.write_text(write_card(folder.name, card.read_text(encoding="utf-8"), facts, facts), encoding="utf-8")


if __name__ == "__main__":
    main()
