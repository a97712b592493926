"""Run a recipe, write a page that shows a dataset, or verify a published dataset.

    hfsynth run hfsynth.yaml --dataset user/name --output-dir reproduced
    hfsynth view user/name --output page.html
    hfsynth verify user/name --rows 20

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
from hfsynth.publish.hub import load_failures, load_runs
from hfsynth.recipe import check_trusted, read_recipe
from hfsynth.record import attach_record
from hfsynth.verification.verify import STATUS_RECORD_DIFFERS, STATUS_ROWS_DIFFER, verify
from hfsynth.viewer.page import view


@plain_errors()
def main() -> None:
    """Run the command that the command line names."""
    commands = {"run": run_command, "view": view_command, "verify": verify_command}
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
    command.add_argument("--embeddings", help="Model of sentence-transformers, to compare instructions.")
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
        print_main(f"the page lacks the records of runs: {error}")
    try:
        measured = report(dataset, embeddings=arguments.embeddings).html()
    except ColumnError as error:
        measured = ""
        print_main(f"the page lacks a report: {error}")
    page = view(dataset, arguments.output, title=title, failures=failures, report=measured)
    print_main(f"{len(dataset):,} rows in {page}")


def run_command(flags: Sequence[str]) -> None:
    """Run a recipe, save the result, and push it if asked."""
    command = build_parser(__doc__, RunArguments)
    command.prog = "hfsynth run"
    command.add_argument("recipe", type=Path, help="The hfsynth.yaml of a dataset.")
    _add_recipe_flags(command)
    arguments = command.parse_args(flags)
    try:
        text = arguments.recipe.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"a recipe must be UTF-8 text, and {arguments.recipe} is not.") from error
    steps, chunk_size = read_recipe(text)
    check_trusted(steps, arguments.model)
    if arguments.chunk_size is None:
        arguments.chunk_size = chunk_size
    pipeline = Pipeline.from_yaml(text, *_own_definitions(arguments.modules), model=arguments.model)
    run_and_save(pipeline, from_args(RunArguments, arguments), "default", read_source(text))


def verify_command(flags: Sequence[str]) -> None:
    """Verify a published dataset, print the report, and exit with its status."""
    command = ArgumentParser(
        prog="hfsynth verify",
        description="Compare a dataset that hfsynth saved or pushed with its record: files, figures, and remade rows.",
        epilog=f"Exit status: 0 if nothing differs, {STATUS_ROWS_DIFFER} if rows differ, {STATUS_RECORD_DIFFERS} if "
        "files, figures or the card differ from the record, 1 if something can't be read or remade.",
    )
    command.add_argument("dataset", help="A dataset on the Hub, or the folder of one.")
    command.add_argument("--config", help="Configuration; default: the only one.")
    command.add_argument("--revision", help="Commit, branch or tag, on the Hub.")
    command.add_argument("--rows", type=int, default=20, help="Number of rows to remake. Default: 20.")
    command.add_argument("--seed", type=int, default=0, help="Selects the rows. Default: 0.")
    command.add_argument("--figures-only", action="store_true", help="Remake no rows, and load no model.")
    command.add_argument(
        "--source",
        help="Dataset on the Hub, folder or file to read the source rows from. Default: the dataset that the record "
        "names, or else the columns of the source that the published rows still have.",
    )
    _add_recipe_flags(command)
    arguments = command.parse_args(flags)
    if arguments.rows < 1:
        command.error(f"--rows must be positive, got {arguments.rows}; --figures-only remakes none.")
    verification = verify(
        arguments.dataset,
        arguments.config,
        rows=0 if arguments.figures_only else arguments.rows,
        seed=arguments.seed,
        revision=arguments.revision,
        source=arguments.source,
        model=arguments.model,
        own=_own_definitions(arguments.modules),
    )
    print_main(str(verification))
    sys.exit(verification.exit_status)


def _add_recipe_flags(command: ArgumentParser) -> None:
    """Add the flags for what a recipe doesn't contain: the folder of its model, and the user's own code."""
    command.add_argument(
        "--model", help="Name or folder that replaces the recipe's models; required if the recipe's model is a folder."
    )
    command.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="Module with your own classes and functions that the recipe names; repeatable.",
    )


def _own_definitions(modules: Sequence[str]) -> list[Any]:
    """Return the classes and functions of the modules that `--import` names."""
    return [definition for name in modules for definition in _module_definitions(name)]


def _module_definitions(name: str) -> list[Any]:
    """Import a module and return the classes and functions in it that are not hfsynth's own.

    Raises:
        ValueError: If there is no such module.
    """
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # for the console script, sys.path has its folder, not the current one
    parents = [name.rsplit(".", dots)[0] for dots in range(name.count(".") + 1)]
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in parents:
            raise
        raise ValueError(f"--import {name}: no module {error.name!r} is in {folder} or installed.") from error
    except (TypeError, ValueError) as error:
        if name.strip(".") and not name.startswith("."):
            raise
        raise ValueError(f"--import must name a module, such as my_module, got {name!r}.") from error
    named = [value for value in vars(module).values() if isinstance(value, type | FunctionType)]
    return [value for value in named if value.__module__.partition(".")[0] != "hfsynth"]


if __name__ == "__main__":
    main()
