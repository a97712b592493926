"""How a card says its facts: the words and blocks that the template puts in their places."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from hfsynth.diagram import Diagram
from hfsynth.provenance import RunRecord, Source, StepRecord
from hfsynth.publishing.facts import ConfigFacts, SplitFacts, models
from hfsynth.publishing.figures import ColumnFigures
from hfsynth.publishing.metadata import stated

_REASONS = 10  # reasons of failures that are listed for a step
_SCRIPTS = 4
# what means something in Markdown, HTML and mathematics; a colon where it is part of a link or an emoji
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!~&$@]|:(?=//|[\w+-]+:))")


def plain(text: str) -> str:
    r"""Make text that Markdown and HTML show as it is, on one line.

    >>> print(plain("<b> | a_b"))
    \<b\> \| a\_b
    """
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def fenced(text: str, language: str = "") -> str:
    """Put any text in a code block that it can't end.

    >>> print(fenced("```"))
    ````
    ```
    ````
    """
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def number(value: float) -> str:
    """Write a number with its thousands parted.

    >>> number(12345), number(1.5)
    ('12,345', '1.5')
    """
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Write a time in the two largest units that it has.

    >>> [duration(seconds) for seconds in (0.42, 75, 7322)]
    ['0.4 s', '1 min 15 s', '2 h 2 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def opening(config: ConfigFacts) -> str:
    """Say in a sentence what a configuration is."""
    made = f"{number(config.rows)} {_rows(config.rows)}"
    if not config.steps:
        return f"{made}."
    steps = " → ".join(plain(step.name) for step in config.steps)
    sources = {run.source: None for split in config.splits for run in split.runs}
    given = " and ".join(_source(source) for source in sources)
    dates = sorted({step.finished for step in config.steps} - {""})
    when = f", finished on {dates[-1]}" if dates else ""
    version = config.steps[-1].versions.get("hfsynth")
    return f"{made}, made by {steps} from {given}{when}, with hfsynth{f' {version}' if version else ''}."


def loading(config: ConfigFacts, repo_id: str) -> str:
    """Return the code that loads a configuration."""
    return f"from datasets import load_dataset\n\ndataset = load_dataset({repo_id!r}, {config.config_name!r})"


def diagram(config: ConfigFacts) -> Diagram:
    """Draw the steps of a configuration, from the columns that they read before one makes them."""
    nodes = [step.node for step in config.steps]
    made: set[str] = set()
    needed: dict[str, None] = {}
    for node in nodes:
        if node.makes is not None:
            needed |= dict.fromkeys(column for column in node.reads if column not in made)
            made |= set(node.makes)
    return Diagram.of(needed, nodes)


def steps(config: ConfigFacts) -> Iterator[tuple[str, StepRecord]]:
    """Give every step of every split, with what tells splits apart where there are several."""
    for split in config.splits:
        for step in split.steps:
            yield (f" ({split.name})" if len(config.splits) > 1 else "", step)


def rows_that_ended(config: ConfigFacts) -> Iterator[str]:
    """Say what became of rows on their way: failures by reason, rows that a function dropped, rules, ends of texts."""
    for split, step in steps(config):
        name = f"{step.name}{split}"
        if step.failures:
            yield f"{name}, rows that failed: {_counted(step.failures)}"
        if step.node.makes is None:
            yield f"{name} kept {number(step.rows_out)} of {number(step.rows_in)} rows"
        if step.stopped:
            stood = step.stopped.get("", 0)
            stopped = {rule: count for rule, count in step.stopped.items() if rule}
            yield f"{name}, rounds that stood: {number(stood)}" + (
                f"; stopped: {_counted(stopped)}" if stopped else ""
            )
        if step.finish_reasons:
            yield f"{name}, how last completions ended: {_counted(step.finish_reasons)}"


def models_told(config: ConfigFacts) -> list[tuple[str, str, str]]:
    """List the models: name, commit, licence."""
    known = stated(config)
    return [(step.node.model, step.origin.commit, known[step.node.model][0]) for step in models(config)]


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


def again(config: ConfigFacts, repo_id: str) -> tuple[str, str, str]:
    """Say how to make a configuration again: a sentence, a piece of code and its language."""
    recipe = f"{config.config_name}/hfsynth.yaml"
    functions = [step.recipe["function"] for step in config.steps if "function" in step.recipe]
    runs = [run for split in config.splits for run in split.runs]
    if len(runs) != 1:
        return f"The recipe of each step is in `{recipe}`, and above.", f"less {recipe}", "bash"
    version = config.steps[-1].versions.get("hfsynth", "")
    install = f"pip install hfsynth=={version}\n" if version else ""
    fetch = f"hf download {repo_id} {recipe} --repo-type dataset --local-dir .\n" if "/" in repo_id else ""
    if functions:
        code = (
            "from pathlib import Path\n\nfrom hfsynth import Pipeline\n\n"
            f"pipeline = Pipeline.from_yaml(Path({recipe!r}).read_text(), {', '.join(functions)})\n"
            f"dataset = pipeline.run(rows, chunk_size={runs[0].chunk_size})"
        )
        return f"{_input(runs[0])} The functions are in the recipe as text.", code, "python"
    run = f"python -m hfsynth {recipe} {_flags(runs[0])}--output-dir again"
    return _input(runs[0]), f"{install}{fetch}{run}", "bash"


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


def _source(source: Source) -> str:
    rows = f"{number(source.rows)} {_rows(source.rows)}"
    if "/" in source.name:
        at = f" at {source.commit[:12]}" if source.commit else ""
        return f"{rows} of {plain(source.name)} ({plain(source.config_name)}, {plain(source.split)}{at})"
    return f"{rows} of a {plain(source.name)} file" if source.name else f"{rows} given in memory"


def _input(run: RunRecord) -> str:
    if "/" in run.source.name or not run.reads_source:
        return "The same rows come out where arithmetic is the same: device, number type, versions."
    columns = ", ".join(f"`{column}`" for column in run.source.columns if re.fullmatch(r"\w+", column))
    return f"The input was {_source(run.source)}, with columns {columns}: it isn't part of this dataset."


def _flags(run: RunRecord) -> str:
    source = run.source
    if "/" in source.name:
        name, config, split = map(shlex.quote, (source.name, source.config_name, source.split))
        return f"--dataset {name} --config {config} --split {split} "
    return f"--num-rows {source.rows} " if not run.reads_source else "--dataset rows.jsonl "
