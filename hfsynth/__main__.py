"""Run a recipe, or write a page that shows a dataset.

    hfsynth run hfsynth.yaml --dataset user/name --output-dir reproduced
    hfsynth view user/name --output page.html

`python -m hfsynth` is the same.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from datasets.exceptions import DatasetsError

from hfsynth.analysis.report import report
from hfsynth.cli import RunArguments, build_parser, from_args, plain_errors, print_main, run_and_save
from hfsynth.data import load_rows
from hfsynth.errors import ColumnError
from hfsynth.pipeline import Pipeline, read_source
from hfsynth.publish.files import load_failures, load_runs
from hfsynth.recipe import read_recipe
from hfsynth.run_record import attach_record
from hfsynth.viewer.page import view


@plain_errors()
def main() -> None:
    """Run the command that is named on the command line."""
    commands = {"run": run_command, "view": view_command}
    commands_parser = ArgumentParser(prog="hfsynth", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    commands_parser.add_argument("command", choices=commands, help="The command; each has its own --help.")
    commands[commands_parser.parse_args(sys.argv[1:2]).command](sys.argv[2:])


def view_command(flags: Sequence[str]) -> None:
    """Write the page of a dataset."""
    command = ArgumentParser(prog="hfsynth view", description="Write one page of HTML that shows a dataset.")
    command.add_argument(
        "dataset", help="A dataset on the Hub, a folder, or a json, jsonl, csv, tsv, parquet or txt file."
    )
    command.add_argument("--config", help="Configuration.")
    command.add_argument("--split", default="train", help="Split. Default: train.")
    command.add_argument("--revision", help="Commit, branch or tag, on the Hub.")
    command.add_argument("--embeddings", help="Model of sentence-transformers, for distances in meaning.")
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
        print_main(f"without what its runs recorded: {error}")
    try:
        measured = report(dataset, embeddings=arguments.embeddings).html()
    except ColumnError as error:
        measured = ""
        print_main(f"without a report: {error}")
    page = view(dataset, arguments.output, title=title, failures=failures, report=measured)
    print_main(f"{len(dataset):,} rows in {page}")


def run_command(flags: Sequence[str]) -> None:
    """Run a recipe, save the result, and push it if asked."""
    command = build_parser(__doc__, RunArguments)
    command.prog = "hfsynth run"
    command.add_argument("recipe", type=Path, help="The hfsynth.yaml of a dataset.")
    command.add_argument("--model", help="Name or folder to use for the recipe's models; one in a folder needs it.")
    command.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="Module, here or installed, with your own classes and functions that the recipe names; repeatable.",
    )
    arguments = command.parse_args(flags)
    try:
        text = arguments.recipe.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{arguments.recipe} is not UTF-8 text, as a recipe must be.") from error
    _, chunk_size = read_recipe(text)
    if arguments.chunk_size is None:
        arguments.chunk_size = chunk_size
    own = [definition for name in arguments.modules for definition in _definitions(name)]
    pipeline = Pipeline.from_yaml(text, *own, model=arguments.model)
    run_and_save(pipeline, from_args(RunArguments, arguments), "default", read_source(text))


def _definitions(name: str) -> list[Any]:
    """Import a module and return the classes and functions in it that are not hfsynth's own.

    Raises:
        ValueError: If there is no such module.
    """
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # the console script has its own folder there
    parents = [name.rsplit(".", dots)[0] for dots in range(name.count(".") + 1)]
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in parents:
            raise
        raise ValueError(f"--import {name}: there is no module {error.name!r} in {folder} or installed.") from error
    except (TypeError, ValueError) as error:
        if name.strip(".") and not name.startswith("."):
            raise
        raise ValueError(f"--import {name!r} is no name of a module, such as my_module.") from error
    named = [value for value in vars(module).values() if isinstance(value, type | FunctionType)]
    return [value for value in named if value.__module__.partition(".")[0] != "hfsynth"]


if __name__ == "__main__":
    main()
