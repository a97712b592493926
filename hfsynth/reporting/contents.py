"""What a report shows, and in which order: the one place that knows. The forms only lay it out."""

from functools import partial
from typing import TYPE_CHECKING

from hfsynth.likeness.words import UNSPACED_SCRIPTS
from hfsynth.reporting.answers import REFUSALS
from hfsynth.reporting.diversity import diversity
from hfsynth.reporting.figures import Lengths
from hfsynth.reporting.pictures import draw_funnel, draw_lengths
from hfsynth.reporting.sections import QUARTILES, Cell, Line, Picture, Section, Table, counted, spread_cells
from hfsynth.reporting.steps import Stage

if TYPE_CHECKING:
    from hfsynth.reporting.report import Report


def contents(report: "Report") -> tuple[Section, ...]:
    """Return the sections of a report; those with nothing in their tables are left out."""
    every = (
        _rows(report),
        diversity(report),
        _lengths(report),
        _scripts(report),
        _responses(report),
        _funnel(report),
        _steps(report),
        _labels(report),
        _scores(report),
    )
    filled = (Section(one.title, one.notes, tuple(t for t in one.tables if t.lines), one.pictures) for one in every)
    return tuple(section for section in filled if section.tables)


def _rows(report: "Report") -> Section:
    columns = report.columns
    answers = f"responses are in {columns.response!r}" if columns.response else "there is no column with responses"
    lines = [
        Line("rows", (Cell(report.rows),)),
        Line("without an instruction", (Cell(report.instructions.empty),)),
    ]
    if report.responses:
        lines.append(Line("without a response", (Cell(report.responses.empty),)))
    note = f"Instructions are in the column {columns.instruction!r}, {answers}."
    return Section("Rows", (note,), (Table(("", "rows"), tuple(lines)),))


def _lengths(report: "Report") -> Section:
    texts = {"instruction": report.instructions, "response": report.responses}
    found: dict[str, Lengths | None] = {}
    for name, wording in texts.items():
        if wording:
            kinds = {"characters": wording.characters, "words": wording.words, "tokens": wording.tokens}
            found |= {f"{name}, {kind}": lengths for kind, lengths in kinds.items()}
    found |= {f"{step.name}, tokens written": step.written for step in report.steps}
    there = {label: lengths for label, lengths in found.items() if lengths}
    lines = tuple(Line(label, spread_cells(lengths)) for label, lengths in there.items())
    notes = ["A quartile is the least length that this share of the texts doesn't exceed."]
    letters = {script for wording in texts.values() if wording for script in wording.scripts}
    if unspaced := sorted(letters & UNSPACED_SCRIPTS):
        named = ", ".join(map(str.capitalize, unspaced))
        notes.append(f"Each sign counts as a word where a script has no spaces: {named}.")
    if report.steps:
        notes.append("Tokens written are those of all completions of a row in a step, as its metadata says.")
    words = {label.partition(",")[0]: lengths for label, lengths in there.items() if label.endswith("words")}
    tokens = {label.partition(",")[0]: lengths for label, lengths in there.items() if label.endswith("tokens")}
    written = {step.name: step.written for step in report.steps if step.written}
    drawings = (("words", "words", words), ("tokens", "tokens", tokens), ("written", "tokens written", written))
    pictures = [
        Picture(name, f"Histograms of how many {unit} the texts have", partial(draw_lengths, some, unit))
        for name, unit, some in drawings
        if some
    ]
    return Section("Lengths", tuple(notes), (Table(("", *QUARTILES), lines),), tuple(pictures))


def _scripts(report: "Report") -> Section:
    every = [wording.scripts for wording in (report.instructions, report.responses) if wording]
    letters = [max(sum(scripts.values()), 1) for scripts in every]
    names = dict.fromkeys(script for scripts in every for script in scripts)
    lines = tuple(
        Line(
            name.capitalize(),
            tuple(Cell(some.get(name, 0) / all_, "share") for some, all_ in zip(every, letters, strict=True)),
        )
        for name in names
    )
    head = ("share of the letters", "instructions", "responses")[: len(every) + 1]
    return Section("Scripts", (), (Table(head, lines),))


def _responses(report: "Report") -> Section:
    answers = report.answers
    if not answers:
        return Section("Responses")
    lines = [
        counted("instructions without a response", answers.unanswered, answers.asked),
        counted("refusals, by English phrases", answers.refusals, answers.responses),
    ]
    names = {"repeated_line": "a line or sentence over and over", "repeated_words": "the same words over and over"}
    lines += [counted(names[rule], count, answers.looked_at) for rule, count in answers.repetitions.items()]
    notes = [
        f"A refusal has one of {len(REFUSALS)} English phrases, such as {REFUSALS[0]!r}, among its first 200 "
        "characters; those in other languages aren't found. Repetition is what WellFormed finds.",
    ]
    if answers.looked_at < answers.responses:
        notes.append(
            f"Repetition was looked for in {answers.looked_at:,} of the {answers.responses:,} responses, drawn by "
            "chance."
        )
    return Section("Responses", tuple(notes), (Table(("", "rows", "of", "share"), tuple(lines)),))


def _funnel(report: "Report") -> Section:
    several = len({stage.run for stage in report.funnel}) > 1
    lines = tuple(Line(stage_name(stage, several), _stage_cells(stage)) for stage in report.funnel)
    rules = tuple(
        Line(f"{stage_name(stage, several)}: {rule}", (Cell(count),))
        for stage in report.funnel
        for rule, count in stage.rules.items()
    )
    bars = [(stage_name(stage, several), stage.rows_in, stage.rows_out, stage.failed) for stage in report.funnel]
    picture = Picture("funnel", "Bars of the rows that each step was given and handed on", partial(draw_funnel, bars))
    return Section(
        "What each step made of the rows",
        ("As the runs recorded it. A row on which a step failed counts as a row of no later step.",),
        (Table(("step", "rows in", "rows out", "failed", "dropped"), lines), Table(("dropped by", "rows"), rules)),
        (picture,) if lines else (),
    )


def stage_name(stage: Stage, several: bool) -> str:
    """Return a step's name, with its run's number where there are several runs."""
    return f"{stage.name} (run {stage.run})" if several else stage.name


def _stage_cells(stage: Stage) -> tuple[Cell, ...]:
    return tuple(map(Cell, (stage.rows_in, stage.rows_out, stage.failed, stage.dropped)))


def _steps(report: "Report") -> Section:
    totals, ends, failures = [], [], []
    for step in report.steps:
        cells = (step.rows, step.truncated, step.tokens_read, step.tokens_written)
        totals.append(Line(step.name, tuple(map(Cell, cells))))
        ends += [Line(f"{step.name}: {end}", (Cell(rows),)) for end, rows in step.finish_reasons.items()]
        failures += [Line(f"{step.name}: {reason}", (Cell(rows),)) for reason, rows in step.failures.items()]
    tables = (
        Table(("step", "rows", "cut off", "prompt tokens", "completion tokens"), tuple(totals)),
        Table(("how a row's last completion ended", "rows"), tuple(ends)),
        Table(("why rows failed", "rows"), tuple(failures)),
    )
    return Section("Generation", ("As the metadata of the rows that are here says.",), tables)


def _labels(report: "Report") -> Section:
    tables = []
    for labels in report.labels:
        rows = sum(labels.counts.values())
        lines = [Line(label, (Cell(count), Cell(count / rows, "share"))) for label, count in labels.counts.items()]
        missing = [Line("(no label)", (Cell(labels.missing), Cell(None)))] if labels.missing else []
        tables.append(Table((labels.column, "rows", "share"), (*lines, *missing)))
    return Section("Labels", (), tuple(tables))


def _scores(report: "Report") -> Section:
    lines = tuple(
        Line(scores.column, (*spread_cells(scores.spread), Cell(scores.missing))) for scores in report.scores
    )
    return Section("Scores", (), (Table(("", *QUARTILES, "rows without"), lines),))
