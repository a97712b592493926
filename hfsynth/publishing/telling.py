"""How a card says its facts: the words and blocks that the template puts in their places."""

import json
from collections.abc import Iterable, Iterator, Mapping

from hfsynth.diagram import Diagram
from hfsynth.provenance import RunRecord, Source, StepRecord
from hfsynth.publishing.facts import ConfigFacts, SplitFacts, models
from hfsynth.publishing.metadata import stated
from hfsynth.publishing.ownership import numbered
from hfsynth.record import METADATA_COLUMN
from hfsynth.reporting.figures import ColumnFigures
from hfsynth.reporting.glance import Glance
from hfsynth.reporting.markdown import number, plain
from hfsynth.reporting.neighbours import NEAR
from hfsynth.running.rounds import accepted_of

_REASONS = 10  # reasons of failures that are listed for a step
_SCRIPTS = 4


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


def _nearness(glance: Glance, compared: int) -> str:
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
