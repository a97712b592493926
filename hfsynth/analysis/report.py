"""The report of a dataset: its sections, and two reports side by side."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hfsynth.analysis.diversity import (
    EMBEDDED_ROWS,
    NEAR,
    NEAR_IN_MEANING,
    REPEATED,
    Embedded,
    Neighbours,
    neighbours,
    sample_size,
)
from hfsynth.analysis.plots import draw_funnel, draw_lengths, draw_similarity
from hfsynth.analysis.render import (
    QUARTILES,
    Cell,
    Line,
    Picture,
    Section,
    Table,
    Told,
    counted,
    difference,
    spread_cells,
)
from hfsynth.analysis.text_stats import (
    REFUSALS,
    AnswerCounts,
    Answers,
    Distinct,
    Equals,
    GramCounts,
    Labels,
    Lengths,
    Scores,
    Wording,
    WordingCounts,
    even_shares,
    labels_of,
    scores_of,
    words_of_batch,
)
from hfsynth.config import from_plain
from hfsynth.data import Columns, batches_of, drawn, texts_at
from hfsynth.metadata import METADATA_COLUMN, StepTally, step_names
from hfsynth.run_record import StepRecord, records
from hfsynth.similarity.embeddings import embed
from hfsynth.similarity.words import UNSPACED_SCRIPTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class StepFigures:
    """One step, as the rows that are here tell of it; a row that became several of them counts once."""

    name: str
    rows: int
    tokens_read: int
    tokens_written: int
    truncated: int
    """Rows with a text that was cut off and is kept."""
    written: Lengths | None
    """Tokens that all completions of a row had together; None where no row is left."""
    finish_reasons: Mapping[str, int]
    """How a row's last completion ended → rows."""
    failures: Mapping[str, int]
    """Reason → rows on which this step failed, and no step before it."""


@dataclass(frozen=True)
class Stage:
    """One step of a run, as the run recorded it."""

    run: int
    """Which of the runs that made the dataset, from 1."""
    name: str
    rows_in: int
    rows_out: int
    """Rows that it made or handed on, without those on which it failed."""
    failed: int
    """Rows on which it failed, and no step before it."""
    dropped: int
    """Rows that a filter or function dropped."""
    rules: Mapping[str, int]
    """Rule of a filter → rows that it dropped."""


def steps_of(dataset: Dataset) -> tuple[StepFigures, ...]:
    """Read the figures of each step from `generation_metadata`; none where there is no such column."""
    names, _ = step_names(dataset)
    tallies = [StepTally(step=name) for name in names]
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_ROWS_AT_ONCE) if names else ():
        for tally in tallies:
            tally.see(table)
    return tuple(
        StepFigures(
            name=name,
            rows=tally.rows,
            tokens_read=tally.prompt_tokens,
            tokens_written=tally.completion_tokens,
            truncated=tally.truncated,
            written=Lengths.of(tally.written) if tally.written else None,
            finish_reasons=dict(tally.finish_reasons.most_common()),
            failures=dict(tally.failures.most_common()),
        )
        for name, tally in zip(names, tallies, strict=True)
    )


def funnel_of(dataset: Dataset) -> tuple[Stage, ...]:
    """Read what each step made and dropped from the record that the dataset carries; nothing where it has none."""
    return tuple(_stage(number, step) for number, run in enumerate(records(dataset), 1) for step in run.steps)


def _stage(run: int, step: StepRecord) -> Stage:
    whole = step.node.makes is None  # a filter or a function
    return Stage(
        run=run,
        name=step.name,
        rows_in=step.rows_in,
        rows_out=step.rows_out,
        failed=sum(step.failures.values()),
        dropped=step.dropped,
        rules={rule: count for rule, count in step.stopped.items() if rule} if whole else {},
    )


_NINETEEN_OF_TWENTY = 1.96  # standard deviations of a normal distribution, on either side


def diversity(report: "Report") -> Section:
    """Return the section on how different the instructions are from each other."""
    near, meant, texts = report.neighbours, report.embedded, report.instructions.texts
    if not texts:
        return Section("Diversity of the instructions")
    repeated = [
        counted("equal to an earlier one", report.duplicates, texts, "lower"),
        counted(f"nearly equal to an earlier one: {REPEATED:.0%} of shingles", near.repeats, near.rows, "lower"),
    ]
    if near.similarity:
        repeated.append(counted(f"ROUGE-L above {NEAR} with another one", near.near, near.similarity.count, "lower"))
    if meant and meant.distance:
        label = f"less than {NEAR_IN_MEANING} from another one in meaning"
        repeated.append(counted(label, meant.near, meant.rows, "lower"))
    tables = (
        Table(("instructions", "rows", "of", "share"), tuple(repeated)),
        _nearest(near, meant),
        _even(near),
        _distinct(report.distinct),
    )
    return Section("Diversity of the instructions", tuple(_notes(near, meant)), tables, _pictures(near))


def _notes(near: Neighbours, meant: Embedded | None) -> list[str]:
    """Say what was sampled, and what the measures can't see."""
    whole = near.rows == near.among
    who = (
        "Each instruction" if whole else f"Each of {near.rows:,} of the {near.among:,} instructions, drawn by chance,"
    )
    notes = [
        f"{who} was compared with all others: by ROUGE-L, exactly, of words in any script (of Chinese, Japanese and "
        "Thai each sign, of Korean each syllable), and by shingles of five characters (MinHash)."
    ]
    if not whole:
        off = 100 * _NINETEEN_OF_TWENTY * 0.5 / sqrt(near.rows)
        notes.append(f"Their shares are off by {off:.1f} points at most in nineteen of twenty draws.")
    if meant:
        some = "" if meant.rows == meant.among else f" of the {meant.among:,}, drawn by chance"
        notes.append(
            f"Meaning: {meant.rows:,} instructions{some}, compared with each other by vectors of {meant.model}. The "
            f"distance is one less the cosine similarity, and {NEAR_IN_MEANING} is Magpie's squared distance of "
            f"{2 * NEAR_IN_MEANING}."
        )
        if some:
            notes.append("Among all instructions, the nearest one in meaning is nearer than is told here.")
    return notes


def _nearest(near: Neighbours, meant: Embedded | None) -> Table:
    lines = []
    if near.similarity:
        lines.append(Line("ROUGE-L F-measure with it", spread_cells(near.similarity, "lower", near.among)))
    if meant and meant.distance:
        lines.append(Line("distance to it in meaning", spread_cells(meant.distance, "higher", meant.rows)))
    return Table(("nearest other instruction", *QUARTILES), tuple(lines))


def _even(near: Neighbours) -> Table:
    lines = tuple(
        Line(
            f"{even.rows:,} rows",
            (
                Cell(even.draws),
                Cell(even.mean, "number", "lower", even.rows),
                Cell(even.near, "share", "lower", even.rows),
            ),
        )
        for even in near.even
    )
    return Table(("ROUGE-L among as many rows, drawn by chance", "draws", "mean", f"share above {NEAR}"), lines)


def _distinct(every: tuple[Distinct, ...]) -> Table:
    sizes = sorted({one.grams for found in every for one in found.even})
    lines = []
    for found in every:
        share = Cell(found.distinct / found.grams if found.grams else None, "share", "higher", found.grams)
        even = {one.grams: one.share for one in found.even}
        shares = (Cell(even.get(size), "share", "higher", size) for size in sizes)
        lines.append(Line(f"distinct-{found.length}", (Cell(found.grams), Cell(found.distinct), share, *shares)))
    head = ("different n-grams", "n-grams", "different", "share", *(f"share of {size:,}" for size in sizes))
    return Table(head, tuple(lines))


def _pictures(near: Neighbours) -> tuple[Picture, ...]:
    if not near.similarity:
        return ()
    words = "Histogram of each instruction's ROUGE-L with its nearest other one"
    return (Picture("similarity", words, partial(draw_similarity, {"instructions": near.similarity}, NEAR)),)


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


@dataclass(frozen=True)
class Report(Told):
    """What a dataset's rows are like.

    `str(report)`, `report.markdown()`, `report.html()` and `report.to_json()` are its forms; a notebook shows it by
    itself, with its pictures.
    """

    rows: int
    columns: Columns
    instructions: Wording
    duplicates: int
    """Instructions that are equal to an earlier one, but for width, case and white space."""
    distinct: tuple[Distinct, ...]
    """Of one word, of two in a row and of three, in the instructions."""
    neighbours: Neighbours
    embedded: Embedded | None
    """None where it wasn't asked for, or there are no instructions."""
    responses: Wording | None
    """None where there is no column with responses."""
    answers: Answers | None
    """None where there is no column with responses."""
    steps: tuple[StepFigures, ...]
    funnel: tuple[Stage, ...]
    labels: tuple[Labels, ...]
    scores: tuple[Scores, ...]

    def sections(self) -> tuple[Section, ...]:
        """Return what is shown, in its order."""
        return contents(self)

    def compare(self, other: "Report", names: tuple[str, str] = ("first", "second")) -> "Comparison":
        """Set this report and another side by side: every number of both, and which of them is more diverse.

        Args:
            other: The other report.
            names: What this one and the other are called.

        Raises:
            TypeError: If the other isn't a report.
            ValueError: If the names are equal.
        """
        return Comparison(self, other, names)

    def to_json(self) -> str:
        """Return the report as JSON, for `from_json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read what `to_json` wrote.

        Raises:
            ValueError: If it isn't a report, or another version wrote it.
        """
        try:
            report: Report = from_plain(cls, json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"this is no report that this version can read: {error}; {text[:60]!r}.") from error
        return report


_ANSWERS = 20_000  # responses in which repetition is looked for
_ORDERED = 2_000  # texts that are read at once, in an order drawn by chance


def report(
    dataset: Dataset,
    column: str | None = None,
    *,
    response: str | None = None,
    sample: int | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    embeddings: str | None = None,
    revision: str | None = None,
) -> Report:
    """Measure a dataset's instructions and responses: how diverse they are, and what is wrong with them.

    >>> from datasets import Dataset
    >>> told = report(Dataset.from_dict({"instruction": ["Name a fruit.", "name a FRUIT.", "Add 2 and 3."]}))
    >>> told.rows, told.duplicates, told.neighbours.near
    (3, 1, 2)

    Args:
        dataset: The rows, of one split.
        column: The column with the instructions: texts, or conversations, whose user's first turn is taken. Default:
            the first there of `evolved_instruction`, `instruction`, `prompt`, `conversation`, `messages`.
        response: The column with the responses: texts, or conversations, whose last turn is taken if it is the
            assistant's. Default: the first there of `response`, `generation`, `answer`, `completion`.
        sample: How many rows are compared with all others. Default: as many as that takes minutes for: of short
            instructions all up to 31,000, and a thousand of a million.
        tokenizer: Whose tokens lengths are told in, too, such as `AutoTokenizer.from_pretrained(name)`; special ones
            aren't counted.
        embeddings: A model of sentence-transformers, by its name on the Hub or its folder, to measure 20,000 rows
            at most by what they mean. Needs `hfsynth[embeddings]`. Default: they aren't.
        revision: Branch, tag or commit of that model on the Hub.

    Raises:
        TypeError: If it isn't a `Dataset`.
        ColumnError: If there is no column with instructions, or one that is named has no texts.
        ValueError: If the sample is of no rows.
        ImportError: If sentence-transformers is needed, and isn't installed.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample is {sample}; at least 1 row must be compared with the others.")
    columns = Columns.of(dataset, column, response)
    rows = _Rows(dataset, columns, tokenizer)
    rows.see()
    return Report(
        rows=len(dataset),
        columns=columns,
        instructions=rows.instructions.result(),
        duplicates=rows.equals.result(),
        distinct=rows.grams.result(even_shares(rows.in_order())),
        neighbours=rows.neighbours(sample),
        embedded=rows.meaning(embeddings, revision),
        responses=rows.responses.result() if columns.response else None,
        answers=rows.answers.result(rows.some_responses()) if columns.response else None,
        steps=steps_of(dataset),
        funnel=funnel_of(dataset),
        labels=labels_of(dataset),
        scores=scores_of(dataset),
    )


@dataclass
class _Rows:
    """The rows, and what was counted of them in the first pass."""

    dataset: Dataset
    columns: Columns
    tokenizer: "PreTrainedTokenizerBase | None"
    instructions: WordingCounts = field(default_factory=WordingCounts)
    responses: WordingCounts = field(default_factory=WordingCounts)
    equals: Equals = field(default_factory=Equals)
    grams: GramCounts = field(default_factory=GramCounts)
    answers: AnswerCounts = field(default_factory=AnswerCounts)
    places: NDArray[np.int64] = field(init=False)
    """Of the rows that have an instruction."""
    answered: NDArray[np.int64] = field(init=False)
    """Of the rows that have a response."""

    def see(self) -> None:
        """Count, batch by batch."""
        there: list[bool] = []
        for texts in batches_of(self.dataset, self.columns.instruction, "instruction"):
            words = words_of_batch(texts)
            self.instructions.see(texts, words, self.tokenizer)
            self.grams.see(words)
            self.equals.see([text for text in texts if text])
            there += map(bool, texts)
        self.places = np.flatnonzero(there)
        self.answered = np.flatnonzero(self._answers()) if self.columns.response else np.array([], np.int64)

    def neighbours(self, sample: int | None) -> Neighbours:
        """Measure how alike the instructions are."""
        words = sum(length * count for length, count in self.instructions.words.items())
        texts = len(self.places)
        size = sample_size(texts, words) if sample is None else min(sample, texts)
        return neighbours(self._full, self._instructions_at, texts, size)

    def meaning(self, model: str | None, revision: str | None) -> Embedded | None:
        """Measure some instructions by what they mean, if there is a model for that."""
        among = len(self.places)
        if model is None or not among:
            return None
        texts = self._instructions_at(drawn(among, EMBEDDED_ROWS))
        vectors = embed(texts, model, revision).astype(np.float64)
        # a folder says nothing to those who read a report
        name = Path(model).resolve().name if Path(model).is_dir() else model
        return Embedded.of(vectors, among, name)

    def in_order(self) -> Iterator[str]:
        """Give the instructions in an order drawn by chance, as long as they are asked for."""
        order = drawn(len(self.places), len(self.places))
        for start in range(0, len(order), _ORDERED):
            yield from self._instructions_at(order[start : start + _ORDERED])

    def some_responses(self) -> list[str]:
        """Return responses, all of them or some drawn by chance."""
        places = self.answered[np.sort(drawn(len(self.answered), _ANSWERS))]
        return texts_at(self.dataset, self.columns.response, "response", places)

    def _answers(self) -> list[bool]:
        """Count the responses, beside their instructions; return which rows have one."""
        there: list[bool] = []
        instructions = batches_of(self.dataset, self.columns.instruction, "instruction")
        responses = batches_of(self.dataset, self.columns.response, "response")
        for asked, texts in zip(instructions, responses, strict=True):
            self.responses.see(texts, words_of_batch(texts), self.tokenizer)
            self.answers.see(asked, texts)
            there += map(bool, texts)
        return there

    def _full(self) -> Iterator[list[str]]:
        for texts in batches_of(self.dataset, self.columns.instruction, "instruction"):
            yield [text for text in texts if text]

    def _instructions_at(self, places: NDArray[np.int64]) -> list[str]:
        """Return instructions by their places among those that there are."""
        return texts_at(self.dataset, self.columns.instruction, "instruction", self.places[places])


_VERDICT = "more diverse"
_EQUAL = "neither"
_UNEVEN = "*"
_ONLY = ""  # for the name of a column that is alone
_CAUTION = (
    "* was measured on more rows or n-grams in one than in the other. The more there are, the more alike they are: of "
    "such measures the smaller dataset's looks more diverse than it is. The measures on as many are fair."
)
_Key = tuple[str, str, str]


@dataclass(frozen=True)
class Comparison(Told):
    """Two reports, side by side.

    Raises:
        TypeError: If one of the two isn't a report.
        ValueError: If both have one name.
    """

    first: Report
    second: Report
    names: tuple[str, str] = ("first", "second")
    """What the two are called."""

    def __post_init__(self) -> None:
        """Check the reports and their names."""
        if len(set(self.names)) != 2:
            raise ValueError(f"names are {self.names!r}; the two reports need two different ones.")
        for given in (self.first, self.second):
            if not isinstance(given, Report):
                raise TypeError(f"a report is compared with another one, not with {type(given).__name__}: {given!r}.")

    def sections(self) -> tuple[Section, ...]:
        """Return what is shown: which is more diverse, then the reports' tables, with the numbers of both."""
        ours = {section.title: section for section in self.first.sections()}
        theirs = {section.title: section for section in self.second.sections()}
        empty = Section("")
        each = tuple(
            self._side_by_side(title, ours.get(title, empty), theirs.get(title, empty))
            for title in dict.fromkeys([*ours, *theirs])
        )
        return (self._summary(each), *each)

    def _pictures(self) -> tuple[Picture, ...]:
        """Draw the nearest neighbours of both in one picture, where both have some."""
        both = zip(self.names, (self.first.neighbours.similarity, self.second.neighbours.similarity), strict=True)
        there = {name: spread for name, spread in both if spread}
        words = "Histograms of both datasets: each instruction's ROUGE-L with its nearest other one"
        return (Picture("similarity", words, partial(draw_similarity, there, NEAR)),) if len(there) > 1 else ()

    def to_json(self) -> str:
        """Return the comparison as JSON, for `from_json`: both reports, whole."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Comparison":
        """Read what `to_json` wrote.

        Raises:
            ValueError: If it isn't a comparison, or another version wrote it.
        """
        try:
            comparison: Comparison = from_plain(cls, json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"this is no comparison that this version can read: {error}; {text[:60]!r}.") from error
        return comparison

    def _side_by_side(self, title: str, ours: Section, theirs: Section) -> Section:
        """Lay each table's cells out as lines with those of both, in the order of the first, then of the second."""
        here, there = _by_key(ours), _by_key(theirs)
        lines: dict[str, list[Line]] = {}
        for key in dict.fromkeys([*here, *there]):
            head, label, column = key
            name = label if column == _ONLY else f"{label}, {column}"
            lines.setdefault(head, []).append(Line(name, self._cells(here.get(key), there.get(key))))
        tables = tuple(self._table(head, found) for head, found in lines.items())
        section = Section(title, (), tables)
        verdicts = (str(line.cells[-1].value) for table in _with_verdicts([section]) for line in table.lines)
        return replace(section, notes=(_CAUTION,)) if any(one.endswith(_UNEVEN) for one in verdicts) else section

    def _table(self, head: str, lines: list[Line]) -> Table:
        """Return a table, without the column on diversity where nothing is said there."""
        columns = (head, *self.names, "difference", _VERDICT)
        if not any(line.cells[-1].value for line in lines):
            return Table(columns[:-1], tuple(Line(line.label, line.cells[:-1]) for line in lines))
        return Table(columns, tuple(lines))

    def _cells(self, ours: Cell | None, theirs: Cell | None) -> tuple[Cell, ...]:
        first, second = ours or Cell(None), theirs or Cell(None)
        return (
            first,
            second,
            Cell(difference(first, second), "text"),
            Cell(self._more_diverse(first, second), "text"),
        )

    def _more_diverse(self, first: Cell, second: Cell) -> str:
        """Name the one that is more diverse by a measure, "" where that can't be said."""
        if not first.more_diverse or not _is_number(first.value) or not _is_number(second.value):
            return ""
        apart = float(second.value or 0) - float(first.value or 0)
        sign = -1 if first.more_diverse == "lower" else 1
        name = _EQUAL if not apart else self.names[sign * apart > 0]
        return name if first.size == second.size else f"{name} {_UNEVEN}"

    def _summary(self, sections: tuple[Section, ...]) -> Section:
        """Count the measures by which each is more diverse."""
        heads = ("more diverse by", "measures on as many", "measures on different amounts")
        found = Counter(str(line.cells[3].value) for table in _with_verdicts(sections) for line in table.lines)
        lines = tuple(
            Line(name, (Cell(found[name]), Cell(found[f"{name} {_UNEVEN}"]))) for name in (*self.names, _EQUAL)
        )
        fair = sum(found[name] for name in (*self.names, _EQUAL))
        notes = (
            "Measures that are alike go together, and a small difference may be chance: read the numbers, too.",
            *(() if fair else ("No measure could be taken on as many rows or n-grams of both.",)),
        )
        return Section("Which is more diverse", notes, (Table(heads, lines),), self._pictures())


def _with_verdicts(sections: Iterable[Section]) -> Iterator[Table]:
    return (table for section in sections for table in section.tables if table.head[-1] == _VERDICT)


def _by_key(section: Section) -> dict[_Key, Cell]:
    """Return a section's cells by what its tables call them: the table's first head, the line's label, the column."""
    return {
        (table.head[0], line.label, column if len(line.cells) > 1 else _ONLY): cell
        for table in section.tables
        for line in table.lines
        for column, cell in zip(table.head[1:], line.cells, strict=True)
    }


def _is_number(value: float | str | None) -> bool:
    return isinstance(value, (int, float))
