"""Run a recipe again: `python -m hfsynth hfsynth.yaml --dataset user/name --output-dir again`."""

from pathlib import Path

from hfsynth.cli import RunArguments, build, make, parser
from hfsynth.pipeline import Pipeline
from hfsynth.recipe import read_recipe, read_source


def main() -> None:
    """Read the command line and the recipe, run it, save what comes out, and push it where asked."""
    flags = parser(__doc__, RunArguments)
    flags.add_argument("recipe", type=Path, help="The hfsynth.yaml of a dataset.")
    flags.add_argument("--model", help="Name or folder to use for the recipe's models; one in a folder needs it.")
    arguments = flags.parse_args()
    text = arguments.recipe.read_text(encoding="utf-8")
    _, chunk_size = read_recipe(text)
    if arguments.chunk_size is None:
        arguments.chunk_size = chunk_size
    pipeline = Pipeline.from_yaml(text, model=arguments.model)
    make(pipeline, build(RunArguments, arguments), "default", read_source(text))


if __name__ == "__main__":
    main()
