"""The dataset card."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from hfsynth.analysis.diversity import NEAR, QuickDiversity
from hfsynth.analysis.text_stats import ColumnFigures
from hfsynth.metadata import METADATA_COLUMN
from hfsynth.pipeline import Diagram, public_names
from hfsynth.publish.card_data import ConfigFacts, Metadata, SplitFacts, merge_metadata, metadata_of, models, stated
from hfsynth.publish.file_names import numbered
from hfsynth.recipe import dump
from hfsynth.run_record import RunRecord, Source, StepRecord
from hfsynth.runner.rounds import accepted_of
from hfsynth.text import duration, fenced, number, plain

_REASONS = 10  # reasons of failures that are listed for a step
_SCRIPTS = 4


def opening(config: ConfigFacts) -> str:
    """Say in a sentence or more what a configuration is."""
    made = f"{number(config.rows)} {_rows(config.rows)}"
    if not config.steps:
        return f"{made}."
    ways = [f"{' → '.join(plain(step.name) for step in run.steps)} from {source(run.source)}" for run in config.runs]
    dates = sorted({step.finished for step in config.steps} - {""})
    when = f", finished on {dates[-1]}" if dates else ""
    version = config.steps[-1].versions.get("hfsynth")
    told = [f"{made}, made by {'; by '.join(ways)}{when}, with hfsynth{f' {version}' if version else ''}."]
    bare = sum(split.bare for split in config.splits)
    if bare and METADATA_COLUMN in config.columns:
        told.append(f"Of them {number(bare)} were not made by these steps.")
    told += [
        f"{number(run.wanted)} accepted rows were asked for: {accepted_of(run.accepted, run.source.rows)}."
        for run in config.runs
        if run.wanted
    ]
    run = config.runs[-1]
    expected = min(run.wanted, run.accepted) if run.wanted else run.steps[-1].rows_out
    if len(config.runs) == 1 and config.rows != expected:
        told.append(f"The run made {number(expected)} rows: some were dropped or added since.")
    if truncated := sum(step.truncated for step in config.steps):
        told.append(f"{number(truncated)} {_rows(truncated)} with a text that was cut off.")
    return " ".join(told)


def source(given: Source) -> str:
    """Say what a run read."""
    rows = f"{number(given.rows)} {_rows(given.rows)}"
    if "/" in given.name:
        at = f" at {given.commit[:12]}" if given.commit else ""
        return f"{rows} of {plain(given.name)} ({plain(given.config_name)}, {plain(given.split)}{at})"
    if given.recipe:
        return f"{rows} of a {plain(given.recipe['__class__'])}"
    return f"{rows} of a {plain(given.name)} file" if given.name else f"{rows} given in memory"


def loading(config: ConfigFacts, repo_id: str) -> str:
    """Return the code that loads a configuration."""
    names = ", ".join(map(json.dumps, (repo_id, config.config_name)))
    return f"from datasets import load_dataset\n\ndataset = load_dataset({names})"


def diagram(run: RunRecord) -> Diagram:
    """Draw the steps of a run, from the columns that they read before one makes them."""
    nodes = [step.node for step in run.steps]
    made: set[str] = set()
    needed: dict[str, None] = {}
    for node in nodes:
        if node.makes is not None:
            needed |= dict.fromkeys(column for column in node.reads if column not in made)
            made |= set(node.makes)
    return Diagram.of(needed, nodes)


def drawings(config: ConfigFacts) -> Iterator[tuple[str, str]]:
    """Give the picture of each run, as its file's name, and its lines for a terminal."""
    for place, run in enumerate(config.runs, 1):
        yield numbered("steps.png", place), diagram(run).text()


def funnel(run: RunRecord) -> list[tuple[str, int, int, int]]:
    """List the steps of a run with rows in, rows out and rows failed, if any step dropped rows or failed on some."""
    told = [(step.name, step.rows_in, step.rows_out, sum(step.failures.values())) for step in run.steps]
    return told if any(step.dropped or step.failures for step in run.steps) else []


def funnels(config: ConfigFacts) -> list[str]:
    """List the files with the funnels of runs."""
    return [numbered("funnel.png", place) for place, run in enumerate(config.runs, 1) if funnel(run)]


def steps(config: ConfigFacts) -> Iterator[tuple[str, StepRecord]]:
    """Give every step of every run, with what tells runs apart where there are several."""
    for place, run in enumerate(config.runs, 1):
        for step in run.steps:
            yield (f" (run {place})" if len(config.runs) > 1 else "", step)


def rows_that_ended(config: ConfigFacts) -> Iterator[str]:
    """Say what became of rows on their way: failures by reason, rows that a function dropped, rules, ends of texts."""
    for split, step in steps(config):
        name = f"{step.name}{split}"
        if step.failures:
            yield f"{name}, rows that failed: {_counted(step.failures)}"
        stopped = {rule: count for rule, count in step.stopped.items() if rule}
        if step.node.makes is None:
            yield f"{name} kept {number(step.rows_out)} of {number(step.rows_in)} rows" + (
                f"; dropped: {_counted(stopped)}" if stopped else ""
            )
        elif step.stopped:
            yield f"{name}, rounds that stood: {number(step.stopped.get('', 0))}" + (
                f"; stopped: {_counted(stopped)}" if stopped else ""
            )
        if step.finish_reasons:
            yield f"{name}, how last completions ended: {_counted(step.finish_reasons)}"


def savings(config: ConfigFacts) -> Iterator[str]:
    """Say what was not generated for the rows that filters and functions dropped, by the mean of the steps after."""
    for run in config.runs:
        for place, step in enumerate(run.steps):
            if tokens := run.saved_tokens(place):
                yield (
                    f"{step.name} saved about {number(tokens)} tokens: what the steps after it wrote for a row, on "
                    f"average, times the {number(step.dropped)} {_rows(step.dropped)} that it dropped"
                )


def models_told(config: ConfigFacts) -> list[tuple[str, str, str]]:
    """List the models: name, commit, licence."""
    return [(step.node.model, step.origin.commit, stated(config, step).licence) for step in models(config)]


def machines(config: ConfigFacts) -> Iterator[str]:
    """Say where and how long the steps ran, and with which versions."""
    for split, step in steps(config):
        if step.machine:
            processes = f"{step.processes} process" + ("es" if step.processes > 1 else "")
            at_work = f"{duration(step.wall_seconds)}, {processes} on {step.machine}"
            yield f"{step.name}{split}: {at_work} ({duration(step.seconds)} of all processes)"
    for told in dict.fromkeys(json.dumps(dict(step.versions)) for step in config.steps if step.versions):
        yield "with " + ", ".join(f"{package} {version}" for package, version in json.loads(told).items())


def figures(config: ConfigFacts) -> list[tuple[str, int, ColumnFigures]]:
    """List the columns that have texts: name, how many texts, figures."""
    return [
        (_of_split(name, split, config), split.rows - found.empty, found)
        for split in config.splits
        for name, found in split.figures.items()
        if found.lengths
    ]


def glances(config: ConfigFacts) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Give, for each split that has instructions, its name, what a glance at them tells, and its pictures.

    A picture is the file's name and what it shows.
    """
    for place, split in enumerate(config.splits, 1):
        if (glance := split.glance) and glance.similarity:
            name = _of_split(glance.column, split, config)
            words = f"Histogram of the ROUGE-L of each {name} with its nearest other one"
            yield name, _nearness(glance, glance.similarity.count), [(numbered("similarity.png", place), words)]


def _nearness(glance: QuickDiversity, compared: int) -> str:
    some = "" if glance.rows == glance.among else f" of the {number(glance.among)}, drawn by chance and"
    return (
        f"Of {number(compared)} texts{some} compared with all others by ROUGE-L, {number(glance.near)} "
        f"({glance.near / compared:.1%}) are above {NEAR} with one: Self-Instruct takes these for the same."
    )


def scripts(found: ColumnFigures) -> str:
    """Say which scripts the letters of a column are of.

    >>> scripts(ColumnFigures(0, 0, None, {"LATIN": 3, "CJK": 1}))
    'Latin 75.0%, Cjk 25.0%'
    """
    letters = sum(found.scripts.values())
    shares = list(found.scripts.items())[:_SCRIPTS]
    return ", ".join(f"{script.capitalize()} {count / letters:.1%}" for script, count in shares) or "none"


def samples(config: ConfigFacts) -> tuple[str, str] | None:
    """Return the rule by which sample rows were chosen, and the rows; None where there are none."""
    split = next((split for split in config.splits if split.samples), None)
    if split is None:
        return None
    rule = "The first row, the one in the middle and the last" if len(split.samples) > 2 else "All of the rows"
    of_split = f" of split {plain(split.name)}" if len(config.splits) > 1 else ""
    text = f"{rule}{of_split}, without generation\\_metadata; texts are cut after 1,000 characters."
    return text, json.dumps(list(split.samples), indent=1, ensure_ascii=False)


def all_models(configs: Iterable[ConfigFacts]) -> list[str]:
    """List the models of all configurations."""
    return list(dict.fromkeys(step.node.model for config in configs for step in models(config)))


def citations(configs: Iterable[ConfigFacts]) -> list[str]:
    """List the papers of all techniques."""
    return list(dict.fromkeys(step.citation for config in configs for step in config.steps if step.citation))


def _of_split(name: str, split: SplitFacts, config: ConfigFacts) -> str:
    return f"{name} ({split.name})" if len(config.splits) > 1 else name


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"


def _counted(counts: Mapping[str, int]) -> str:
    """List what was counted, the most frequent first.

    >>> _counted({"odd": 2, "even": 30})
    'even 30, odd 2'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{what} {number(count)}" for what, count in ordered[:_REASONS]]
    if rest := sum(count for _, count in ordered[_REASONS:]):
        listed.append(f"{len(ordered) - _REASONS} other reasons {number(rest)}")
    return ", ".join(listed)


def again(config: ConfigFacts, repo_id: str) -> Iterator[tuple[str, str, str]]:
    """Give, for each run that has a recipe, a sentence, a piece of code and its language."""
    for place, run in enumerate(config.runs, 1):
        if all(step.recipe for step in run.steps) and run.chunk_size:
            yield _again(run, f"{config.config_name}/{numbered('hfsynth.yaml', place)}", repo_id)


def _again(run: RunRecord, recipe: str, repo_id: str) -> tuple[str, str, str]:
    fetch = f"hf download {repo_id} {recipe} --repo-type dataset --local-dir ." if "/" in repo_id else ""
    if own := sorted(set(_names(run)) - set(public_names())):
        wanted = f"num_rows={run.wanted}, " if run.wanted else ""
        wanted += "".join(f"{name}={limit}, " for name, limit in run.limits.items())
        pool = bool(run.source.recipe)
        code = [
            *([f"# {fetch}"] if fetch else []),
            "from pathlib import Path\n\nfrom hfsynth import Pipeline",
            "from hfsynth.pipeline import read_source\n" if pool else "",
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
    return f"The input was {source(run.source)}, with columns {columns}: it isn't part of this dataset."


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


_BLOCK = re.compile(r"<!-- hfsynth: begin (\w+)[^>]*-->.*?<!-- hfsynth: end \1 -->\n?", re.DOTALL)
_HEAD = re.compile(r"\A(?:\ufeff)?---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """Reads `no` and `on` as the words that they are in a card, where Norwegian is a language."""


_Loader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool" or sign in "tTfF"]
    for sign, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def write_card(repo_id: str, head: str, before: Sequence[ConfigFacts], now: Sequence[ConfigFacts]) -> str:
    """Return the README.md of a dataset.

    Args:
        repo_id: What the dataset is loaded by: `user/name`, or the name of a folder.
        head: The README.md that it has; "" for none.
        before: The configurations that `head` tells of.
        now: Those that it is to tell of.

    Raises:
        ValueError: If the metadata of `head` can't be read.
    """
    metadata, text = read_metadata(head)
    merged = merge_metadata(metadata, metadata_of(before) if before else {}, metadata_of(now))
    body = _body(repo_id, now)
    mark = hashlib.sha256(body.encode()).hexdigest()[:12]
    note = "what stands between this line and the end is written anew with every push"
    block = f"<!-- hfsynth: begin {mark}, {note} -->\n{body}<!-- hfsynth: end {mark} -->\n"
    if found := _BLOCK.search(text):
        text = text[: found.start()] + block + text[found.end() :]
    elif text.strip():
        text = f"{text.rstrip()}\n\n{block}"
    else:
        text = f"\n# {plain(repo_id.rpartition('/')[2])}\n\n{block}"
    return f"---\n{_yaml(merged)}---\n{text}"


def _body(repo_id: str, configs: Sequence[ConfigFacts]) -> str:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "plain": plain,
        "fenced": fenced,
        "number": number,
        "yaml": dump,
    }
    template = environment.from_string(files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        configs=configs,
        opening=opening,
        loading=lambda config: loading(config, repo_id),
        drawings=drawings,
        funnels=funnels,
        steps=steps,
        rows_that_ended=rows_that_ended,
        savings=savings,
        models=models_told,
        machines=machines,
        figures=figures,
        glances=glances,
        scripts=scripts,
        samples=samples,
        again=lambda config: list(again(config, repo_id)),
        all_models=all_models(configs),
        citations=citations(configs),
    )


def read_metadata(readme: str) -> tuple[Metadata, str]:
    """Part a README.md into its metadata and its text.

    Raises:
        ValueError: If the metadata can't be read.
    """
    found = _HEAD.match(readme)
    if not found:
        return {}, readme
    try:
        metadata = yaml.load(found.group(1), Loader=_Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"the metadata of the dataset's README.md is not YAML: {' '.join(str(error).split())}."
        ) from None
    if not isinstance(metadata, dict):
        raise ValueError(f"the metadata of the dataset's README.md is {metadata!r}; it must be names and values.")
    return metadata, readme[found.end() :]


def _yaml(metadata: Metadata) -> str:
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1_000)
