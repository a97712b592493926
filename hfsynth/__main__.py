"""Run a recipe again, or look at a dataset.

    hfsynth hfsynth.yaml --dataset user/name --output-dir again
    hfsynth view user/name --output page.html

`python -m hfsynth` is the same.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from datasets.exceptions import DatasetsError

from hfsynth.cli import RunArguments, build, make, parser, say
from hfsynth.errors import ColumnError
from hfsynth.inputs import load_failures, load_rows, load_runs
from hfsynth.pipeline import Pipeline
from hfsynth.provenance import attach_record
from hfsynth.recipe import read_recipe, read_source
from hfsynth.reporting.measuring import report
from hfsynth.viewing.page import view


def main() -> None:
    """Do what the command line says."""
    try:
        if sys.argv[1:2] == ["view"]:
            look(sys.argv[2:])
        else:
            remake()
    except KeyboardInterrupt:  # the run has said what is kept
        sys.exit(130)


def look(flags: Sequence[str]) -> None:
    """Write the page of a dataset."""
    command = ArgumentParser(prog="hfsynth view", description="Write one page of HTML that shows a dataset.")
    command.add_argument(
        "dataset", help="A dataset on the Hub, a folder, or a json, jsonl, csv, tsv, parquet or txt file."
    )
    command.add_argument("--config", help="Configuration.")
    command.add_argument("--split", default="train", help="Split. Default: train.")
    command.add_argument("--revision", help="Commit, branch or tag, on the Hub.")
    command.add_argument("--embeddings", help="Model of sentence-transformers, for distances and a map by meaning.")
    command.add_argument("--output", default="view.html", help="The page. Default: view.html.")
    arguments = command.parse_args(flags)
    try:
        dataset = load_rows(arguments.dataset, arguments.config, arguments.split, arguments.revision)
    except (DatasetsError, OSError, ValueError) as error:
        command.error(str(error))
    config = arguments.config or dataset.info.config_name
    failures = load_failures(arguments.dataset, config, arguments.split, arguments.revision)
    title = f"{arguments.dataset}, {config or 'default'}, {arguments.split}"
    try:
        for run in load_runs(arguments.dataset, config, arguments.split, arguments.revision):
            attach_record(dataset, dataset, run)
    except ValueError as error:
        say(f"without what its runs recorded: {error}")
    try:
        measured = report(dataset, embeddings=arguments.embeddings).html()
    except ColumnError as error:
        measured = ""
        say(f"without a report: {error}")
    page = view(dataset, arguments.output, title=title, failures=failures, report=measured)
    say(f"{len(dataset):,} rows in {page}")


def remake() -> None:
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
