"""Write the cards of dataset_cards/: what the other scripts write on a small model, with their pictures.

    python scripts/dataset_cards.py --model FOLDER --gguf-file FILE

One for each technique that has a script, and one for the quickstart, which chains three. Bootstrapping is run to 200
instructions from the 175 seeds too, which takes longer than all others together: `--only bootstrap_200`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).parent
CARDS = SCRIPTS.parent / "dataset_cards"
INSTRUCTIONS = str(CARDS / "instructions.jsonl")
TEXTS = str(SCRIPTS / "seeds.jsonl")
RUNS = {
    "text_generation": ["--dataset", INSTRUCTIONS, "--max-new-tokens", "256"],
    "self_instruct": ["--dataset", TEXTS, "--max-rows", "4", "--num-instructions", "2", "--max-new-tokens", "64"],
    "evol_instruct": ["--dataset", INSTRUCTIONS, "--num-evolutions", "2", "--max-new-tokens", "96"],
    "magpie": ["--num-rows", "2", "--instruction-max-new-tokens", "96", "--response-max-new-tokens", "256"],
    "quickstart": ["--num-rows", "3"],
    "bootstrap": ["--dataset", INSTRUCTIONS, "--num-rows", "4", "--max-rows", "4", "--max-new-tokens", "192"],
}
"""Script → its flags, beside those of the model."""
SEEDS = str(CARDS / "self_instruct_seed_tasks.jsonl")
LONG = {"bootstrap_200": ["--dataset", SEEDS, "--num-rows", "200", "--chunk-size", "64"]}
"""Card → the flags of the script of its first name, run where it is asked for alone."""


def main() -> None:
    """Run every script, and keep the card and the pictures of what it wrote."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", required=True, help="Name of an instruct model on the Hub, or a folder.")
    flags.add_argument("--gguf-file", help="GGUF file in that folder.")
    flags.add_argument("--output-dir", type=Path, default=CARDS, help="Default: dataset_cards.")
    flags.add_argument(
        "--only", nargs="+", default=list(RUNS), choices=[*RUNS, *LONG], help="Default: all but bootstrap_200."
    )
    arguments = flags.parse_args()
    model = ["--model", arguments.model, "--dtype", "float32"]
    model += ["--gguf-file", arguments.gguf_file] if arguments.gguf_file else []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / name
            script = str(SCRIPTS / f"{name.partition('_200')[0]}.py")
            command = [sys.executable, script, *(RUNS | LONG)[name], *model, "--output-dir", str(made)]
            home = {"HF_HOME": folder, "OMP_NUM_THREADS": "1"}  # a cache of its own: everything is generated
            subprocess.run(command, check=True, env={**os.environ, **home})
            keep(made, arguments.output_dir / name)


def keep(made: Path, card: Path) -> None:
    """Copy a card and its pictures, without the rows."""
    shutil.rmtree(card, ignore_errors=True)
    for file in (made / "README.md", *made.glob("*/*.png")):
        (card / file.relative_to(made)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, card / file.relative_to(made))


if __name__ == "__main__":
    main()
