"""How a stranger makes a configuration again: a command where its recipe says all, else a piece of Python."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from hfsynth.provenance import RunRecord
from hfsynth.publishing import telling
from hfsynth.publishing.facts import ConfigFacts
from hfsynth.publishing.ownership import numbered
from hfsynth.recipe import known_names


def again(config: ConfigFacts, repo_id: str) -> Iterator[tuple[str, str, str]]:
    """Give, for each run that has a recipe, a sentence, a piece of code and its language."""
    for place, run in enumerate(config.runs, 1):
        if all(step.recipe for step in run.steps) and run.chunk_size:
            yield _again(run, f"{config.config_name}/{numbered('hfsynth.yaml', place)}", repo_id)


def _again(run: RunRecord, recipe: str, repo_id: str) -> tuple[str, str, str]:
    fetch = f"hf download {repo_id} {recipe} --repo-type dataset --local-dir ." if "/" in repo_id else ""
    if own := sorted(set(_names(run)) - set(known_names(()))):
        wanted = f"num_rows={run.wanted}, " if run.wanted else ""
        wanted += "".join(f"{name}={limit}, " for name, limit in run.limits.items())
        pool = bool(run.source.recipe)
        code = [
            *([f"# {fetch}"] if fetch else []),
            "from pathlib import Path\n\nfrom hfsynth import Pipeline",
            "from hfsynth.recipe import read_source\n" if pool else "",
            f'recipe = Path("{recipe}").read_text()',
            f"pipeline = Pipeline.from_yaml(recipe, {', '.join(own)})",
            *(["rows = read_source(recipe)"] if pool else []),
            f"dataset = pipeline.run(rows, {wanted}chunk_size={run.chunk_size})",
        ]
        return (
            f"{_input(run)} The recipe has the source of functions; classes of one's own it only names.",
            ("\n".join(code)),
            "python",
        )
    version = run.steps[-1].versions.get("hfsynth", "")
    lines = [f"pip install ./hfsynth  # a checkout of its source, version {version}" if version else "", fetch]
    lines.append(f"hfsynth run {recipe} {_flags(run)}--output-dir again")
    return _input(run), "\n".join(line for line in lines if line), "bash"


def _names(run: RunRecord) -> Iterator[str]:
    """Give the classes and functions that the recipe of a run names."""
    for step in run.steps:
        yield from _named(step.recipe)


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key in ("__class__", "function"):
            if isinstance(value.get(key), str):
                yield value[key].partition("/")[0]
        for inner in value.values():
            yield from _named(inner)


def _input(run: RunRecord) -> str:
    if "/" in run.source.name or run.source.recipe or not run.reads_source:
        return "The same rows come out where arithmetic is the same: device, number type, versions."
    columns = ", ".join(f"`{column}`" for column in run.source.columns if re.fullmatch(r"\w+", column))
    return f"The input was {telling.source(run.source)}, with columns {columns}: it isn't part of this dataset."


def _flags(run: RunRecord) -> str:
    """Return the flags of the command: the input, and the model where the recipe has only its folder's name."""
    source, flags = run.source, list[str]()
    if "/" in source.name:
        flags += ["--dataset", source.name, "--config", source.config_name, "--split", source.split]
        flags += ["--dataset-revision", source.commit, *_size(run)]
    elif run.reads_source and not run.source.recipe:
        flags += ["--dataset", "rows.jsonl", *(_size(run) if run.wanted else [])]
    else:
        flags += _size(run)
    llms = [step.recipe.get("llm") or {} for step in run.steps]
    if any("model" in llm and "/" not in str(llm["model"]) for llm in llms):
        flags += ["--model", "FOLDER"]
    return " ".join(map(shlex.quote, flags)) + " "


def _size(run: RunRecord) -> list[str]:
    """Return the flags that say how many rows: those of the input, or those that were accepted of it."""
    if not run.wanted:
        return ["--max-rows", str(run.source.rows)]
    limits = [f"--{name.replace('_', '-')}={limit}" for name, limit in run.limits.items()]
    return ["--num-rows", str(run.wanted), *limits]
