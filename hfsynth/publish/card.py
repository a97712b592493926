"""Rendering of the dataset card: its YAML header, and a Markdown section per configuration (card.md.jinja)."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from hfsynth.analysis.diversity import NEAR, QuickDiversity
from hfsynth.analysis.text_stats import ColumnFigures
from hfsynth.llm import Origin
from hfsynth.pipeline import Diagram, public_names
from hfsynth.publish.card_data import (
    CardMetadata,
    ConfigFacts,
    SplitFacts,
    card_metadata,
    merge_metadata,
    model_steps,
    numbered_name,
    source_origin,
    step_origin,
    text_sources,
)
from hfsynth.recipe import dump
from hfsynth.record import METADATA_COLUMN, RunRecord, Source, StepRecord
from hfsynth.runner.rounds import format_acceptance
from hfsynth.text import counted, duration, fenced, number, plain

_MAX_REASONS = 10  # reasons listed per step; the others are summed
_MAX_SCRIPTS = 4
_TRAINERS = {
    "DPOTrainer": {"prompt", "chosen", "rejected"},
    "KTOTrainer": {"prompt", "completion", "label"},
    "SFTTrainer": {"prompt", "completion"},
}
"""The columns that each trainer of TRL reads. SFTTrainer reads `messages` instead, if there is such a column."""
_BLOCK = re.compile(r"<!-- hfsynth: begin (\w+)[^>]*-->\n?(.*?)<!-- hfsynth: end \1 -->\n?", re.DOTALL)
_HEADER = re.compile(r"\A(?:\ufeff)?---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """YAML loader that reads `no` and `on` as text: in a card's header, `no` is the language Norwegian."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def write_card(repo_id: str, head: str, before: Sequence[ConfigFacts], now: Sequence[ConfigFacts]) -> str:
    """Return the README.md of a dataset.

    Args:
        repo_id: The name to load the dataset with: `user/name`, or the name of a folder.
        head: The current README.md; "" if there is none.
        before: The configurations that `head` describes.
        now: The configurations to describe.

    Raises:
        ValueError: If the YAML header of `head` can't be read.
    """
    metadata, text = read_metadata(head)
    merged = merge_metadata(metadata, card_metadata(before) if before else {}, card_metadata(now))
    body = render_body(repo_id, now)
    mark = body_mark(body)
    note = "hfsynth replaces this block with every push; text outside of it stays"
    block = f"<!-- hfsynth: begin {mark}, {note} -->\n{body}<!-- hfsynth: end {mark} -->\n"
    if found := _BLOCK.search(text):
        text = text[: found.start()] + block + text[found.end() :]
    elif text.strip():
        text = f"{text.rstrip()}\n\n{block}"
    else:
        text = f"\n# {plain(repo_id.rpartition('/')[2])}\n\n{block}"
    header = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=1_000)
    return f"---\n{header}---\n{text}"


def read_metadata(readme: str) -> tuple[CardMetadata, str]:
    """Split a README.md into its YAML header and its text.

    Raises:
        ValueError: If the header can't be read.
    """
    found = _HEADER.match(readme)
    if not found:
        return {}, readme
    try:
        metadata = yaml.load(found.group(1), Loader=_Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"the header of README.md is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(metadata, dict):
        raise ValueError(f"the header of README.md must be a mapping, got {metadata!r}.")
    return metadata, readme[found.end() :]


def read_body(readme: str) -> tuple[str, str] | None:
    """Return the mark and the text of the part of a README.md that hfsynth wrote; None if there is no such part."""
    found = _BLOCK.search(readme)
    return (found.group(1), found.group(2)) if found else None


def body_mark(body: str) -> str:
    """Return the mark of a text that `render_body` returned: 12 digits of its SHA-256."""
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def run_diagram(run: RunRecord) -> Diagram:
    """Return the diagram of a run's steps; its inputs are the columns that steps read and no earlier step wrote."""
    nodes = [step.node for step in run.steps]
    written: set[str] = set()
    inputs: dict[str, None] = {}
    for node in nodes:
        if node.makes is not None:
            inputs |= dict.fromkeys(column for column in node.reads if column not in written)
            written |= set(node.makes)
    return Diagram.of(inputs, nodes)


def funnel_stages(run: RunRecord) -> list[tuple[str, int, int, int]]:
    """List the steps of a run with rows in, rows out and rows failed; none if no row failed or was dropped."""
    stages = [(step.name, step.rows_in, step.rows_out, sum(step.failures.values())) for step in run.steps]
    return stages if any(step.dropped or step.failures for step in run.steps) else []


def text_statistics(config: ConfigFacts) -> list[tuple[str, int, ColumnFigures]]:
    """List the columns that have texts: name, number of texts, statistics."""
    return [
        (_name_in_split(name, split, config), split.rows - found.empty, found)
        for split in config.splits
        for name, found in split.figures.items()
        if found.lengths
    ]


def reproduction_snippets(config: ConfigFacts, repo_id: str) -> list[tuple[str, str, str]]:
    """Return a sentence, a piece of code and its language for each run whose steps have recipes."""
    return [
        _reproduction_snippet(run, f"{config.config_name}/{numbered_name('hfsynth.yaml', place)}", repo_id)
        for place, run in enumerate(config.runs, 1)
        if all(step.recipe for step in run.steps) and not run.is_from_rows
    ]


def verification_command(config: ConfigFacts, repo_id: str) -> str:
    """Return the command that verifies a configuration; "" if its rows lack metadata or a step has no recipe."""
    if not config.steps or METADATA_COLUMN not in config.columns or not all(step.recipe for step in config.steps):
        return ""
    flags = [repo_id, "--config", config.config_name, *_model_flags(config.steps)]
    own = {name for step in config.steps for name in _class_names(step.recipe)} - set(public_names())
    return f"hfsynth verify {shlex.join([*flags, *(['--import', 'MODULE'] if own else [])])}"


def render_body(repo_id: str, configs: Sequence[ConfigFacts]) -> str:
    """Return the part of a README.md that hfsynth writes, without the lines that mark it.

    Args:
        repo_id: The name to load the dataset with.
        configs: The configurations.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"plain": plain, "fenced": fenced, "number": number, "yaml": dump}
    template = environment.from_string(files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        configs=configs,
        summary=_summary,
        training_code=_training_code,
        loading_code=partial(_loading_code, repo_id=repo_id),
        diagrams=_diagrams,
        numbered_steps=_numbered_steps,
        funnel_images=_funnel_images,
        count_lines=_count_lines,
        outcome_lines=_outcome_lines,
        saved_token_lines=_saved_token_lines,
        models=_models,
        datasets=_datasets,
        machine_lines=_machine_lines,
        text_statistics=text_statistics,
        format_scripts=_format_scripts,
        diversity_sections=_diversity_sections,
        samples=_samples,
        reproduction_snippets=partial(reproduction_snippets, repo_id=repo_id),
        verification_command=partial(verification_command, repo_id=repo_id),
        model_names=list(dict.fromkeys(step.node.model for config in configs for step in model_steps(config))),
        citations=list(dict.fromkeys(step.citation for config in configs for step in config.steps if step.citation)),
    )


def _summary(config: ConfigFacts) -> str:
    """Return the sentences that begin a configuration's section."""
    sentences = [f"{counted(config.rows, 'row')}."]
    if not config.steps:
        return sentences[0]
    sentences += [_run_sentence(run) for run in config.runs]
    dates = sorted({step.finished for step in config.steps} - {""})
    version = config.steps[-1].versions.get("hfsynth", "")
    sentences.append(f"{f'Finished on {dates[-1]}' if dates else 'Made'} with hfsynth{version and f' {version}'}.")
    untracked = sum(split.untracked_rows for split in config.splits)
    if untracked and METADATA_COLUMN in config.columns:
        sentences.append(f"{counted(untracked, 'row')} did not come from these steps.")
    run = config.runs[-1]
    expected = min(run.wanted, run.accepted) if run.wanted else run.steps[-1].rows_out
    if len(config.runs) == 1 and not run.is_from_rows and config.rows != expected:
        sentences.append(f"The run returned {counted(expected, 'row')}; rows were added or removed afterwards.")
    if truncated := sum(step.truncated for step in config.steps):
        sentences.append(f"Truncated texts: {counted(truncated, 'row')}.")
    return " ".join(sentences)


def _run_sentence(run: RunRecord) -> str:
    """Return a sentence with a run's steps and source, and the rows that failed or were dropped."""
    verb = "Generated" if any(step.node.makes is not None for step in run.steps) else "Selected"
    verb = f"Split {plain(run.split)}: {verb.lower()}" if run.split else verb
    minimum = "at least " if run.is_from_rows else ""
    names = " → ".join(plain(step.name) for step in run.steps)
    text = f"{verb} with {names} from {minimum}{_format_source(run.source)}"
    failed, dropped = (
        sum(sum(step.failures.values()) for step in run.steps),
        sum(step.dropped for step in run.steps),
    )
    losses = [f"{counted(failed, 'row')} failed"] if failed else []
    losses += [f"{counted(dropped, 'row')} dropped"] if dropped else []
    if run.wanted:
        losses.append(
            f"{number(run.wanted)} accepted rows requested, {format_acceptance(run.accepted, run.source.rows)}"
        )
    return "; ".join([text, *losses]) + "."


def _run_label(run: RunRecord, place: int) -> str:
    """Return the name of one of several runs: its number, and its split in a run of a `DatasetDict`."""
    return f"run {place}, {run.split}" if run.split else f"run {place}"


def _format_source(source: Source) -> str:
    """Return a run's input, as a phrase."""
    rows = counted(source.rows, "row")
    if "/" in source.name:
        commit = f" at {source.commit[:12]}" if source.commit else ""
        return f"{rows} of {plain(source.name)} ({plain(source.config_name)}, {plain(source.split)}{commit})"
    if source.recipe:
        return f"{rows} of a {plain(source.recipe['__class__'])}"
    return f"{rows} of a {plain(source.name)} file" if source.name else f"{rows} in memory"


def _loading_code(config: ConfigFacts, repo_id: str) -> str:
    names = ", ".join(map(json.dumps, (repo_id, config.config_name)))
    return f"from datasets import load_dataset\n\ndataset = load_dataset({names})"


def _training_code(config: ConfigFacts) -> list[str]:
    """Return code that trains on a configuration in a conversational format of TRL; [] for other formats."""
    messages = {name for name, kind in config.columns.items() if kind.startswith(("list of {role", "list of Json"))}
    trainer = next(
        (
            name
            for name, columns in _TRAINERS.items()
            if messages >= columns - {"label"} and set(config.columns) >= columns
        ),
        "SFTTrainer" if "messages" in messages else "",
    )
    if not trainer or not config.splits:
        return []
    split = json.dumps(config.splits[0].name)
    return [
        f"from trl import {trainer}\n\n"
        f'trainer = {trainer}(model="HuggingFaceTB/SmolLM2-135M-Instruct", train_dataset=dataset[{split}])\n'
        "trainer.train()"
    ]


def _diagrams(config: ConfigFacts) -> Iterator[tuple[str, str]]:
    """Yield the image file and the text lines of each run's diagram."""
    for place, run in enumerate(config.runs, 1):
        yield numbered_name("steps.png", place), run_diagram(run).text()


def _funnel_images(config: ConfigFacts) -> list[str]:
    return [numbered_name("funnel.png", place) for place, run in enumerate(config.runs, 1) if funnel_stages(run)]


def _numbered_steps(config: ConfigFacts) -> Iterator[tuple[str, StepRecord]]:
    """Yield the steps of all runs with their names, which have the run's label if there are several runs."""
    for place, run in enumerate(config.runs, 1):
        for step in run.steps:
            yield (f"{step.name} ({_run_label(run, place)})" if len(config.runs) > 1 else step.name), step


def _outcome_lines(config: ConfigFacts) -> Iterator[str]:
    """Yield the outcomes of each step's rows: failures and drops by reason, eliminated rounds, finish reasons."""
    for name, step in _numbered_steps(config):
        if step.failures:
            yield f"{name}: {counted(sum(step.failures.values()), 'row')} failed{_format_reasons(step.failures)}"
        rules = {rule: count for rule, count in step.stopped.items() if rule}
        if step.node.makes is None:
            dropped = f"; {counted(step.dropped, 'row')} dropped{_format_reasons(rules)}" if step.dropped else ""
            yield f"{name}: {number(step.rows_out)} of {counted(step.rows_in, 'row')} kept{dropped}"
        elif step.stopped:
            eliminated = f"; {number(sum(rules.values()))} eliminated{_format_reasons(rules)}" if rules else ""
            yield f"{name}: {counted(step.stopped.get('', 0), 'round')} kept{eliminated}"
        if step.finish_reasons:
            yield f"{name}: finish reasons of last completions{_format_reasons(step.finish_reasons)}"


def _format_reasons(counts: Mapping[str, int]) -> str:
    """Return reasons in parentheses, the most frequent first; several reasons have their counts.

    >>> _format_reasons({"odd": 2, "even": 30}), _format_reasons({"odd": 2}), _format_reasons({})
    (' (even: 30; odd: 2)', ' (odd)', '')
    """
    if len(counts) < 2:
        return "".join(f" ({reason})" for reason in counts)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{reason}: {number(count)}" for reason, count in ordered[:_MAX_REASONS]]
    if rest := sum(count for _, count in ordered[_MAX_REASONS:]):
        listed.append(f"{counted(len(ordered) - _MAX_REASONS, 'other reason')}: {number(rest)}")
    return f" ({'; '.join(listed)})"


def _count_lines(config: ConfigFacts) -> Iterator[str]:
    """Yield a sentence for each run whose numbers are minimums."""
    for run in config.runs:
        if run.is_from_rows:
            names = ", ".join(step.name for step in run.steps)
            yield f"{names}: counted in the rows of this dataset; rows that were removed earlier are not counted"


def _saved_token_lines(config: ConfigFacts) -> Iterator[str]:
    """Yield the completion tokens that later steps did not generate for dropped rows."""
    for run in config.runs:
        for place, step in enumerate(run.steps):
            if tokens := run.saved_tokens(place):
                rows = counted(step.dropped, "row")
                yield f"{step.name}: dropping {rows} saved about {number(tokens)} completion tokens in later steps"


def _models(config: ConfigFacts) -> list[tuple[str, Origin]]:
    """List the models and their origins."""
    return [(step.node.model, step_origin(config, step)) for step in model_steps(config)]


def _datasets(config: ConfigFacts) -> list[tuple[str, Origin]]:
    """List the datasets on the Hub that runs read, and all datasets whose texts steps added, with their origins."""
    added = [source for step in config.steps for source in step.sources]
    listed = [source for source in text_sources(config) if "/" in source.name or source in added]
    return [
        (
            source.name if "/" in source.name else f"a {source.name} file",
            replace(source_origin(config, source), commit=source.commit),
        )
        for source in listed
    ]


def _machine_lines(config: ConfigFacts) -> Iterator[str]:
    """Yield the duration, hardware and server of each step, then the versions of packages."""
    for name, step in _numbered_steps(config):
        if step.machine:
            total = f", {duration(step.seconds)} in total" if step.processes > 1 else ""
            hardware = f"{counted(step.processes, 'process')} on {step.machine}"
            yield f"{name}: {duration(step.wall_seconds)}{total}, {hardware}"
        if step.server:
            facts = ", ".join(f"{fact.replace('_', ' ')} {value}" for fact, value in step.server.items())
            yield f"{name}: completed by a server, which reports {facts}"
    for versions in dict.fromkeys(json.dumps(dict(step.versions)) for step in config.steps if step.versions):
        yield "Versions: " + ", ".join(f"{package} {version}" for package, version in json.loads(versions).items())


def _format_scripts(found: ColumnFigures) -> str:
    """Return the scripts that a column's letters belong to, with their shares.

    >>> _format_scripts(ColumnFigures(0, 0, None, {"LATIN": 3, "CJK": 1}))
    'Latin 75.0%, Cjk 25.0%'
    """
    letters = sum(found.scripts.values())
    shares = list(found.scripts.items())[:_MAX_SCRIPTS]
    return ", ".join(f"{script.capitalize()} {count / letters:.1%}" for script, count in shares) or "none"


def _diversity_sections(config: ConfigFacts) -> Iterator[tuple[str, str, str]]:
    """Yield, for each split with two or more instructions, its column's name, a sentence and an image file."""
    for place, split in enumerate(config.splits, 1):
        if (diversity := split.diversity) and diversity.similarity:
            sentence = _diversity_sentence(diversity, diversity.similarity.count)
            yield _name_in_split(diversity.column, split, config), sentence, numbered_name("similarity.png", place)


def _diversity_sentence(diversity: QuickDiversity, compared: int) -> str:
    sample = "" if diversity.rows == diversity.among else f" sampled from {number(diversity.among)}"
    near = f"{number(diversity.near)} of {number(compared)} texts{sample} ({diversity.near / compared:.1%})"
    return f"ROUGE-L with the most similar other text is above {NEAR} for {near}; Self-Instruct drops such duplicates."


def _samples(config: ConfigFacts) -> tuple[str, str] | None:
    """Return a sentence on the selection of the sample rows, and the rows as JSON; None if there are none."""
    split = next((split for split in config.splits if split.samples), None)
    if split is None:
        return None
    rule = "The first, the middle and the last row" if len(split.samples) > 2 else "All rows"
    of_split = f" of split {plain(split.name)}" if len(config.splits) > 1 else ""
    text = f"{rule}{of_split}, without {plain(METADATA_COLUMN)}. Texts are cut after 1,000 characters."
    return text, json.dumps(list(split.samples), indent=1, ensure_ascii=False)


def _name_in_split(name: str, split: SplitFacts, config: ConfigFacts) -> str:
    return f"{name} ({split.name})" if len(config.splits) > 1 else name


def _reproduction_snippet(run: RunRecord, recipe: str, repo_id: str) -> tuple[str, str, str]:
    """Return a sentence, code and its language to repeat a run: a command, or Python for steps with user code."""
    fetch = f"hf download {repo_id} {recipe} --repo-type dataset --local-dir ." if "/" in repo_id else ""
    own = sorted({name for step in run.steps for name in _class_names(step.recipe)} - set(public_names()))
    if not own:
        version = run.steps[-1].versions.get("hfsynth", "")
        install = f"pip install ./hfsynth  # a checkout of version {version}" if version else ""
        command = f"hfsynth run {recipe} {shlex.join(_command_flags(run))} --output-dir reproduced"
        return _input_sentence(run), "\n".join(line for line in (install, fetch, command) if line), "bash"
    limits = {**({"num_rows": run.wanted} if run.wanted else {}), **run.limits, "chunk_size": run.chunk_size}
    limits |= {"deterministic": True} if run.deterministic else {}
    code = [
        *([f"# {fetch}"] if fetch else []),
        "from pathlib import Path\n\nfrom hfsynth import Pipeline",
        "from hfsynth.pipeline import read_source\n" if run.source.recipe else "",
        f'recipe = Path("{recipe}").read_text()',
        f"pipeline = Pipeline.from_yaml(recipe, {', '.join(own)})",
        *(["rows = read_source(recipe)"] if run.source.recipe else []),
        f"dataset = pipeline.run(rows, {', '.join(f'{name}={limit}' for name, limit in limits.items())})",
    ]
    names = ", ".join(f"`{name}`" for name in own)
    sentence = f"{_input_sentence(run)} Define or import {names} first; the recipe contains the source of functions."
    return sentence, "\n".join(code), "python"


def _class_names(recipe: Any) -> Iterator[str]:
    """Yield the names of the classes and functions in a step's recipe."""
    if isinstance(recipe, Mapping):
        for key in ("__class__", "function"):
            if isinstance(recipe.get(key), str):
                yield recipe[key].partition("/")[0]
        for value in recipe.values():
            yield from _class_names(value)


def _input_sentence(run: RunRecord) -> str:
    promise = _promise_sentence(run)
    if "/" in run.source.name or run.source.recipe or not run.reads_source:
        return promise
    columns = ", ".join(f"`{column}`" for column in run.source.columns if re.fullmatch(r"\w+", column))
    source = f"The input was {_format_source(run.source)} with the columns {columns}"
    return f"{source}; this dataset does not contain it. {promise}"


def _promise_sentence(run: RunRecord) -> str:
    """Return a sentence on the rows of a repeated run, by the promises of its llms."""
    if sampled := [step.name for step in run.steps if step.same_rows == "none"]:
        names = ", ".join(map(plain, sampled))
        return (
            f"A repeated run may generate other rows, since the llm of {names} may answer equal requests differently."
        )
    if _depends_on_chunks(run) and not run.deterministic:
        return (
            "The same device, dtype and package versions generate nearly the same rows: rounding depends on which "
            "rows are completed together. `deterministic=True` fixes that."
        )
    equal = "device, dtype, chunk size" if _depends_on_chunks(run) else "device, dtype"
    return f"The same {equal} and package versions generate the same rows."


def _depends_on_chunks(run: RunRecord) -> bool:
    """Whether rows depend on the chunk that they were completed in."""
    return any(step.same_rows == "chunk" or step.unequal_rows for step in run.steps)


def _command_flags(run: RunRecord) -> list[str]:
    """Return the command's flags: input, number of rows, model, chunk size."""
    source, flags = run.source, list[str]()
    if "/" in source.name:
        flags += ["--dataset", source.name, "--config", source.config_name, "--split", source.split]
        flags += ["--dataset-revision", source.commit, *_size_flags(run)]
    elif run.reads_source and not source.recipe:
        flags += ["--dataset", "rows.jsonl", *(_size_flags(run) if run.wanted else [])]
    else:
        flags += _size_flags(run)
    flags += _model_flags(run.steps)
    if _depends_on_chunks(run) and run.deterministic:
        flags += ["--chunk-size", str(run.chunk_size), "--deterministic"]
    return flags


def _model_flags(steps: Sequence[StepRecord]) -> list[str]:
    """Return the flag for the model's folder, if recipes have only its name."""
    llms = [step.recipe.get("llm") or {} for step in steps]
    is_local = any("model" in llm and "/" not in str(llm["model"]) for llm in llms)
    return ["--model", "FOLDER"] if is_local else []


def _size_flags(run: RunRecord) -> list[str]:
    """Return the flags for the number of input rows or, if requested, of accepted rows."""
    if not run.wanted:
        return ["--max-rows", str(run.source.rows)]
    limits = [f"--{name.replace('_', '-')}={limit}" for name, limit in run.limits.items()]
    return ["--num-rows", str(run.wanted), *limits]
