"""The report of a dataset, `report(dataset)`, and the comparison of two reports.

`Report` has the numbers, and its sections show them as tables; `Comparison` sets two reports side by side.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import repeat
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hfsynth.analysis.diversity import (
    EMBEDDED_ROWS,
    NEAR,
    NEAR_DUPLICATE_SIMILARITY,
    NEAR_EMBEDDING_DISTANCE,
    EmbeddingNeighbours,
    NearestNeighbours,
    measure_neighbours,
    sample_size,
)
from hfsynth.analysis.render import (
    QUARTILES,
    Cell,
    Line,
    Picture,
    Renderable,
    Section,
    Table,
    distribution_cells,
    draw_funnel,
    draw_lengths,
    draw_similarity,
    share_line,
)
from hfsynth.analysis.text_stats import (
    REFUSALS,
    AnswerCounter,
    Answers,
    Distinct,
    DuplicateCounter,
    GramCounter,
    Labels,
    Lengths,
    Scores,
    Spread,
    TextCounter,
    TextStats,
    count_labels,
    distinct_shares,
    measure_scores,
)
from hfsynth.config import from_plain
from hfsynth.data import TextColumns, iter_text_batches, sample_indices, texts_at
from hfsynth.record import METADATA_COLUMN, StepTally, records, step_names
from hfsynth.similarity.near_duplicates import embed
from hfsynth.similarity.words import UNSPACED_SCRIPTS, words_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Saved = TypeVar("_Saved", bound="_JsonRenderable")
_MAX_CHECKED_RESPONSES = 20_000  # responses that are checked for repetition
_TEXTS_AT_ONCE = 2_000  # texts that are read at once in a random order
_BATCH_SIZE = 10_000  # rows
_NORMAL_95 = 1.96  # a 95% interval of a normal distribution, in standard deviations


# --- the report ---


@dataclass(frozen=True)
class StepStats:
    """Counts of one step, from the metadata of the rows; a row that became several rows counts once."""

    name: str
    rows: int
    prompt_tokens: int
    completion_tokens: int
    truncated: int
    """Rows with a text that was cut off and is kept."""
    completion_lengths: Lengths | None
    """Completion tokens of each row; None if no row is left."""
    finish_reasons: Mapping[str, int]
    """Finish reason of a row's last completion → rows."""
    failures: Mapping[str, int]
    """Reason → rows on which this step failed, and no step before it."""


@dataclass(frozen=True)
class FunnelStage:
    """Rows of one step, from the record of the run."""

    run: int
    """Number of the run, from 1, among those that generated the dataset."""
    name: str
    rows_in: int
    rows_out: int
    """Rows that the step returned, without failed ones."""
    failed: int
    """Rows on which this step failed, and no step before it."""
    dropped: int
    """Rows that a filter or function dropped."""
    rules: Mapping[str, int]
    """Rule of a filter → rows that it dropped."""


class _JsonRenderable(Renderable):
    """A dataclass with sections, which is saved as JSON."""

    def to_json(self) -> str:
        """Return all fields as JSON, for `from_json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls: type[_Saved], text: str) -> _Saved:
        """Read the result of `to_json`.

        Raises:
            ValueError: If the text is something else, or another version of hfsynth wrote it.
        """
        try:
            value: _Saved = from_plain(cls, json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{cls.__name__}.from_json can't read {text[:60]!r}: {error}; pass the result of to_json, of the "
                "same version of hfsynth."
            ) from error
        return value


@dataclass(frozen=True)
class Report(_JsonRenderable):
    """Statistics of a dataset's instructions and responses.

    `print(report)` shows tables, and a notebook shows pictures, too. `markdown`, `html` and `to_json` return it for
    files.
    """

    rows: int
    columns: TextColumns
    instructions: TextStats
    duplicates: int
    """Instructions that equal an earlier one, except for width, case and white space."""
    distinct: tuple[Distinct, ...]
    """Distinct n-grams of the instructions, of one, two and three words."""
    neighbours: NearestNeighbours
    embedded: EmbeddingNeighbours | None
    """None where no model was named, or there are no instructions."""
    responses: TextStats | None
    """None where there is no column with responses."""
    answers: Answers | None
    """None where there is no column with responses."""
    steps: tuple[StepStats, ...]
    funnel: tuple[FunnelStage, ...]
    labels: tuple[Labels, ...]
    scores: tuple[Scores, ...]

    def sections(self) -> tuple[Section, ...]:
        """Return the sections that have a table, in order."""
        sections = (
            _rows_section(self),
            _diversity_section(self),
            _lengths_section(self),
            _scripts_section(self),
            _responses_section(self),
            _funnel_section(self.funnel),
            _steps_section(self.steps),
            _labels_section(self.labels),
            _scores_section(self.scores),
        )
        filled = (replace(one, tables=tuple(table for table in one.tables if table.lines)) for one in sections)
        return tuple(section for section in filled if section.tables)

    def compare(self, other: "Report", names: tuple[str, str] = ("first", "second")) -> "Comparison":
        """Compare this report with another: every number of both, and which dataset is more diverse.

        Args:
            other: The other report.
            names: The headings of this report and of the other.

        Raises:
            TypeError: If the other is no report.
            ValueError: If the names are equal.
        """
        return Comparison(self, other, names)


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
    """Measure the diversity of a dataset's instructions, and faults of its responses.

    >>> from datasets import Dataset
    >>> stats = report(Dataset.from_dict({"instruction": ["Name a fruit.", "name a FRUIT.", "Add 2 and 3."]}))
    >>> stats.rows, stats.duplicates, stats.neighbours.near
    (3, 1, 2)

    Args:
        dataset: The rows of one split.
        column: The column with the instructions: texts, or conversations, whose first user turn is taken. Default:
            the first of `evolved_instruction`, `instruction`, `prompt`, `conversation`, `messages` in the dataset.
        response: The column with the responses: texts, or conversations, whose last turn is taken if it is the
            assistant's. Default: the first of `response`, `generation`, `answer`, `completion` in the dataset.
        sample: The number of rows to compare with all others. Default: as many as can be compared in minutes, up to
            31,000 short instructions, and 1,000 of a million.
        tokenizer: Adds lengths in tokens, without special tokens; such as `AutoTokenizer.from_pretrained(name)`.
        embeddings: A sentence-transformers model, by its name on the Hub or its folder, to compare up to 20,000 rows
            by their embeddings. Needs `hfsynth[embeddings]`. Default: no embeddings.
        revision: Branch, tag or commit of that model on the Hub.

    Raises:
        TypeError: If `dataset` is no `Dataset`.
        ColumnError: If there is no column with instructions, or a named column has no texts.
        ValueError: If `sample` is not positive.
        ImportError: If sentence-transformers is needed and not installed.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample must be positive, got {sample}.")
    columns = TextColumns.find(dataset, column, response)
    texts = _Texts(dataset, columns, tokenizer)
    texts.count()
    return Report(
        rows=len(dataset),
        columns=columns,
        instructions=texts.instructions.result(),
        duplicates=texts.duplicates.result(),
        distinct=texts.grams.result(distinct_shares(texts.shuffled_instructions())),
        neighbours=texts.neighbours(sample),
        embedded=texts.embedding_neighbours(embeddings, revision),
        responses=texts.responses.result() if columns.response else None,
        answers=texts.answers.result(texts.sampled_responses()) if columns.response else None,
        steps=step_stats(dataset),
        funnel=funnel_stages(dataset),
        labels=count_labels(dataset),
        scores=measure_scores(dataset),
    )


@dataclass
class _Texts:
    """The instructions and responses of a dataset, with counters of the first pass over them."""

    dataset: Dataset
    columns: TextColumns
    tokenizer: "PreTrainedTokenizerBase | None"
    instructions: TextCounter = field(default_factory=TextCounter)
    responses: TextCounter = field(default_factory=TextCounter)
    duplicates: DuplicateCounter = field(default_factory=DuplicateCounter)
    grams: GramCounter = field(default_factory=GramCounter)
    answers: AnswerCounter = field(default_factory=AnswerCounter)
    instruction_rows: NDArray[np.int64] = field(init=False)
    """Rows with an instruction."""
    response_rows: NDArray[np.int64] = field(init=False)
    """Rows with a response."""

    def count(self) -> None:
        """Read all rows once, in batches."""
        has_instruction: list[bool] = []
        has_response: list[bool] = []
        has_responses = bool(self.columns.response)
        responses = (
            iter_text_batches(self.dataset, self.columns.response, "response") if has_responses else repeat([""])
        )
        instructions = iter_text_batches(self.dataset, self.columns.instruction, "instruction")
        for asked, answered in zip(instructions, responses, strict=False):
            words = _split_words(asked)
            self.instructions.update(asked, words, self.tokenizer)
            self.grams.update(words)
            self.duplicates.update(asked)
            has_instruction += map(bool, asked)
            if has_responses:
                self.responses.update(answered, _split_words(answered), self.tokenizer)
                self.answers.update(asked, answered)
                has_response += map(bool, answered)
        self.instruction_rows = np.flatnonzero(has_instruction)
        self.response_rows = np.flatnonzero(has_response)

    def neighbours(self, sample: int | None) -> NearestNeighbours:
        """Compare instructions by their words."""
        words = sum(length * texts for length, texts in self.instructions.words.items())
        texts = len(self.instruction_rows)
        size = sample_size(texts, words) if sample is None else min(sample, texts)
        return measure_neighbours(self._instruction_batches, self._instructions_at, texts, size)

    def embedding_neighbours(self, model: str | None, revision: str | None) -> EmbeddingNeighbours | None:
        """Compare instructions by their embeddings, if a model is named."""
        among = len(self.instruction_rows)
        if model is None or not among:
            return None
        texts = self._instructions_at(sample_indices(among, EMBEDDED_ROWS))
        vectors = embed(texts, model, revision).astype(np.float64)
        name = Path(model).resolve().name if Path(model).is_dir() else model  # without this machine's folders
        return EmbeddingNeighbours.of(vectors, among, name)

    def shuffled_instructions(self) -> Iterator[str]:
        """Yield the instructions in a random order."""
        order = sample_indices(len(self.instruction_rows), len(self.instruction_rows))
        for start in range(0, len(order), _TEXTS_AT_ONCE):
            yield from self._instructions_at(order[start : start + _TEXTS_AT_ONCE])

    def sampled_responses(self) -> list[str]:
        """Return all responses, or a random sample of many, in the order of their rows."""
        rows = self.response_rows[np.sort(sample_indices(len(self.response_rows), _MAX_CHECKED_RESPONSES))]
        return texts_at(self.dataset, self.columns.response, "response", rows)

    def _instruction_batches(self) -> Iterator[list[str]]:
        for texts in iter_text_batches(self.dataset, self.columns.instruction, "instruction"):
            yield [text for text in texts if text]

    def _instructions_at(self, places: NDArray[np.int64]) -> list[str]:
        """Return instructions by their places among all instructions."""
        return texts_at(self.dataset, self.columns.instruction, "instruction", self.instruction_rows[places])


def _split_words(texts: Iterable[str]) -> list[list[str]]:
    """Return the words of each text that is not empty."""
    return [words_in(text) for text in texts if text]


def step_stats(dataset: Dataset) -> tuple[StepStats, ...]:
    """Count the numbers of each step from `generation_metadata`; () where there is no such column."""
    names, _ = step_names(dataset)
    tallies = [StepTally(step=name) for name in names]
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_BATCH_SIZE) if names else ():
        for tally in tallies:
            tally.update(table)
    return tuple(
        StepStats(
            name=name,
            rows=tally.rows,
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            truncated=tally.truncated,
            completion_lengths=Lengths.of(tally.written),
            finish_reasons=dict(tally.finish_reasons.most_common()),
            failures=dict(tally.failures.most_common()),
        )
        for name, tally in zip(names, tallies, strict=True)
    )


def funnel_stages(dataset: Dataset) -> tuple[FunnelStage, ...]:
    """Return the rows of each step from the records that the dataset carries; () where it has none."""
    return tuple(
        FunnelStage(
            run=number,
            name=step.name,
            rows_in=step.rows_in,
            rows_out=step.rows_out,
            failed=sum(step.failures.values()),
            dropped=step.dropped,
            # the rules of a technique stop rounds of a row, and drop no row
            rules={rule: rows for rule, rows in step.stopped.items() if rule} if step.node.makes is None else {},
        )
        for number, run in enumerate(records(dataset), 1)
        for step in run.steps
    )


# --- sections of a report ---


def _rows_section(report: Report) -> Section:
    columns = report.columns
    responses = f"column {columns.response!r}" if columns.response else "no column"
    lines = [
        Line("rows", (Cell(report.rows),)),
        Line("without an instruction", (Cell(report.instructions.empty),)),
    ]
    if report.responses:
        lines.append(Line("without a response", (Cell(report.responses.empty),)))
    note = f"Instructions: column {columns.instruction!r}. Responses: {responses}."
    return Section("Rows", (note,), (Table(("", "rows"), tuple(lines)),))


def _diversity_section(report: Report) -> Section:
    title = "Diversity of the instructions"
    near, embedded = report.neighbours, report.embedded
    if not report.instructions.texts:
        return Section(title)
    similar = [
        share_line("equal to an earlier one", report.duplicates, report.instructions.texts, "lower"),
        share_line(
            f"near-duplicate of an earlier one ({NEAR_DUPLICATE_SIMILARITY:.0%} of shingles)",
            near.repeats,
            near.rows,
            "lower",
        ),
    ]
    nearest = []
    pictures: tuple[Picture, ...] = ()
    if near.similarity:
        similar.append(share_line(f"ROUGE-L above {NEAR} with another one", near.near, near.rows, "lower"))
        nearest.append(Line("ROUGE-L F-measure", distribution_cells(near.similarity, "lower", near.among)))
        pictures = (_similarity_picture({"instructions": near.similarity}),)
    if embedded and embedded.distance:
        label = f"embedding distance below {NEAR_EMBEDDING_DISTANCE} to another one"
        similar.append(share_line(label, embedded.near, embedded.rows, "lower"))
        nearest.append(Line("embedding distance", distribution_cells(embedded.distance, "higher", embedded.rows)))
    tables = (
        Table(("similar instructions", "rows", "of", "share"), tuple(similar)),
        Table(("nearest other instruction", *QUARTILES), tuple(nearest)),
        _fixed_size_table(near),
        _distinct_table(report.distinct),
    )
    return Section(title, tuple(_diversity_notes(near, embedded)), tables, pictures)


def _diversity_notes(near: NearestNeighbours, embedded: EmbeddingNeighbours | None) -> Iterator[str]:
    """Yield notes on the comparison of instructions, and on the limits of a sample."""
    is_sample = near.rows < near.among
    compared = (
        f"A random sample of {near.rows:,} of the {near.among:,} instructions" if is_sample else "Each instruction"
    )
    yield (
        f"{compared} was compared with all others: by ROUGE-L on words, and by shingles of five characters (MinHash). "
        "In Chinese, Japanese, Thai, Lao, Khmer and Burmese each character counts as a word, in Korean each syllable; "
        "the most frequent polite endings and particles of Japanese and Korean count as one word each."
    )
    if is_sample:
        margin = 100 * _NORMAL_95 * 0.5 / sqrt(near.rows)
        yield f"Shares of a sample are within {margin:.1f} points of those of all instructions (95% interval)."
    if embedded:
        is_sample = embedded.rows < embedded.among
        compared = f"a random sample of {embedded.rows:,} of the {embedded.among:,}" if is_sample else "all"
        yield (
            f"The embeddings of {compared} instructions, by {embedded.model}, were compared with each other. The "
            f"distance is one minus the cosine similarity; {NEAR_EMBEDDING_DISTANCE} is Magpie's squared distance of "
            f"{2 * NEAR_EMBEDDING_DISTANCE}."
        )
        if is_sample:
            yield "Among all instructions, the nearest embedding is closer than within the sample."


def _fixed_size_table(near: NearestNeighbours) -> Table:
    lines = tuple(
        Line(
            f"{sample.rows:,} rows",
            (
                Cell(sample.draws),
                Cell(sample.mean, "number", "lower", sample.rows),
                Cell(sample.near, "share", "lower", sample.rows),
            ),
        )
        for sample in near.fixed_size_samples
    )
    return Table(("ROUGE-L within random samples", "samples", "mean", f"share above {NEAR}"), lines)


def _distinct_table(distinct: tuple[Distinct, ...]) -> Table:
    sizes = sorted({one.grams for found in distinct for one in found.at_fixed_sizes})
    lines = []
    for found in distinct:
        share = Cell(found.distinct / found.grams if found.grams else None, "share", "higher", found.grams)
        share_by_size = {one.grams: one.share for one in found.at_fixed_sizes}
        shares = (Cell(share_by_size.get(size), "share", "higher", size) for size in sizes)
        lines.append(Line(f"distinct-{found.length}", (Cell(found.grams), Cell(found.distinct), share, *shares)))
    head = ("distinct n-grams", "n-grams", "distinct", "share", *(f"share of {size:,}" for size in sizes))
    return Table(head, tuple(lines))


def _similarity_picture(similarity: Mapping[str, Spread]) -> Picture:
    description = "Histogram of the ROUGE-L F-measure of each instruction with the nearest other one"
    return Picture("similarity", description, partial(draw_similarity, similarity, NEAR))


def _lengths_section(report: Report) -> Section:
    texts = {"instruction": report.instructions, "response": report.responses}
    stats = {name: found for name, found in texts.items() if found}
    lengths: dict[str, dict[str, Lengths | None]] = {
        "words": {name: found.words for name, found in stats.items()},
        "tokens": {name: found.tokens for name, found in stats.items()},
        "completion tokens": {step.name: step.completion_lengths for step in report.steps},
    }
    filled = {unit: {name: one for name, one in every.items() if one} for unit, every in lengths.items()}
    table = [
        Line(f"{name}, {unit}", distribution_cells(one))
        for name, found in stats.items()
        for unit, one in (("characters", found.characters), ("words", found.words), ("tokens", found.tokens))
        if one
    ]
    table += [
        Line(f"{name}, completion tokens", distribution_cells(one))
        for name, one in filled["completion tokens"].items()
    ]
    pictures = tuple(
        Picture(unit.replace(" ", "_"), f"Histograms of text lengths in {unit}", partial(draw_lengths, every, unit))
        for unit, every in filled.items()
        if every
    )
    return Section("Lengths", tuple(_length_notes(report)), (Table(("", *QUARTILES), tuple(table)),), pictures)


def _length_notes(report: Report) -> Iterator[str]:
    yield "A quartile is the smallest length that this share of the texts does not exceed."
    scripts = {*report.instructions.scripts, *(report.responses.scripts if report.responses else ())}
    if unspaced := sorted(scripts & UNSPACED_SCRIPTS):
        yield f"Each character counts as a word in scripts without spaces: {', '.join(map(_script_name, unspaced))}."
    if report.steps:
        yield "Completion tokens of a row are those of all its completions in a step, from its metadata."


def _scripts_section(report: Report) -> Section:
    columns = [found.scripts for found in (report.instructions, report.responses) if found]
    letters = [max(sum(scripts.values()), 1) for scripts in columns]
    lines = tuple(
        Line(
            _script_name(name),
            tuple(
                Cell(scripts.get(name, 0) / total, "share") for scripts, total in zip(columns, letters, strict=True)
            ),
        )
        for name in dict.fromkeys(name for scripts in columns for name in scripts)
    )
    head = ("share of the letters", "instructions", "responses")[: len(columns) + 1]
    return Section("Scripts", (), (Table(head, lines),))


def _script_name(script: str) -> str:
    return script if script == "CJK" else script.capitalize()


def _responses_section(report: Report) -> Section:
    answers = report.answers
    if not answers:
        return Section("Responses")
    lines = [
        share_line("instructions without a response", answers.unanswered, answers.asked),
        share_line("refusals (English phrases)", answers.refusals, answers.responses),
    ]
    names = {"repeated_line": "a repeated line or sentence", "repeated_words": "repeated words"}
    lines += [share_line(names[rule], rows, answers.checked) for rule, rows in answers.repetitions.items()]
    notes = [
        f"A refusal has one of {len(REFUSALS)} English phrases, such as {REFUSALS[0]!r}, in its first 200 characters; "
        "refusals in other languages are not found. Repetition is found by the rules of WellFormed."
    ]
    if answers.checked < answers.responses:
        notes.append(
            f"Repetition was searched in a random sample of {answers.checked:,} of the {answers.responses:,} "
            "responses."
        )
    return Section("Responses", tuple(notes), (Table(("", "rows", "of", "share"), tuple(lines)),))


def _funnel_section(funnel: tuple[FunnelStage, ...]) -> Section:
    has_several_runs = len({stage.run for stage in funnel}) > 1
    stages = [(f"{stage.name} (run {stage.run})" if has_several_runs else stage.name, stage) for stage in funnel]
    rows = tuple(
        Line(name, tuple(map(Cell, (stage.rows_in, stage.rows_out, stage.failed, stage.dropped))))
        for name, stage in stages
    )
    rules = tuple(
        Line(f"{name}: {rule}", (Cell(count),)) for name, stage in stages for rule, count in stage.rules.items()
    )
    bars = [(name, stage.rows_in, stage.rows_out, stage.failed) for name, stage in stages]
    picture = Picture("funnel", "Bars of the rows in and out of each step", partial(draw_funnel, bars))
    return Section(
        "Rows of each step",
        ("From the records of the runs. A row on which a step failed counts in no later step.",),
        (Table(("step", "rows in", "rows out", "failed", "dropped"), rows), Table(("dropped by", "rows"), rules)),
        (picture,) if funnel else (),
    )


def _steps_section(steps: tuple[StepStats, ...]) -> Section:
    totals, finish_reasons, failures = [], [], []
    for step in steps:
        numbers = (step.rows, step.truncated, step.prompt_tokens, step.completion_tokens)
        totals.append(Line(step.name, tuple(map(Cell, numbers))))
        finish_reasons += [
            Line(f"{step.name}: {reason}", (Cell(rows),)) for reason, rows in step.finish_reasons.items()
        ]
        failures += [Line(f"{step.name}: {reason}", (Cell(rows),)) for reason, rows in step.failures.items()]
    tables = (
        Table(("step", "rows", "truncated", "prompt tokens", "completion tokens"), tuple(totals)),
        Table(("finish reason of a row's last completion", "rows"), tuple(finish_reasons)),
        Table(("reason of failure", "rows"), tuple(failures)),
    )
    return Section(
        "Generation",
        ("From the metadata of the rows of this dataset. Rows that were removed are not counted.",),
        tables,
    )


def _labels_section(labels: tuple[Labels, ...]) -> Section:
    tables = []
    for column in labels:
        rows = sum(column.counts.values())
        lines = [Line(label, (Cell(count), Cell(count / rows, "share"))) for label, count in column.counts.items()]
        missing = [Line("(no label)", (Cell(column.missing), Cell(None)))] if column.missing else []
        tables.append(Table((column.column, "rows", "share"), (*lines, *missing)))
    return Section("Labels", (), tuple(tables))


def _scores_section(scores: tuple[Scores, ...]) -> Section:
    lines = tuple(Line(one.column, (*distribution_cells(one.spread), Cell(one.missing))) for one in scores)
    return Section("Scores", (), (Table(("", *QUARTILES, "rows without"), lines),))


# --- the comparison ---

_VERDICT = "more diverse"
_EQUAL = "neither"
_UNEVEN = "*"
_CAUTION = (
    "* measured on different numbers of rows or n-grams. More rows have more in common, so the smaller dataset looks "
    "more diverse than it is. Measures without * are comparable."
)
_CellKey = tuple[str, str, str]  # a table's first heading, a line's label, a column's heading or "" for the only one


@dataclass(frozen=True)
class Comparison(_JsonRenderable):
    """Two reports side by side.

    Raises:
        TypeError: If one of the two is no report.
        ValueError: If both have the same name.
    """

    first: Report
    second: Report
    names: tuple[str, str] = ("first", "second")
    """The headings of the two reports."""

    def __post_init__(self) -> None:
        """Check the reports and their names."""
        if len(set(self.names)) != 2:
            raise ValueError(f"names must be two different texts, got {self.names!r}.")
        for value in (self.first, self.second):
            if not isinstance(value, Report):
                raise TypeError(f"a report is compared with another report, got {type(value).__name__}: {value!r}.")

    def sections(self) -> tuple[Section, ...]:
        """Return which dataset is more diverse, then the reports' sections with the numbers of both."""
        first = {section.title: section for section in self.first.sections()}
        second = {section.title: section for section in self.second.sections()}
        empty = Section("")
        sections = tuple(
            self._side_by_side(title, first.get(title, empty), second.get(title, empty))
            for title in dict.fromkeys([*first, *second])
        )
        return (self._summary(sections), *sections)

    def _summary(self, sections: tuple[Section, ...]) -> Section:
        """Count the measures by which each dataset is more diverse."""
        verdicts = Counter(_verdicts(sections))
        winners = (*self.names, _EQUAL)
        lines = tuple(Line(name, (Cell(verdicts[name]), Cell(verdicts[f"{name} {_UNEVEN}"]))) for name in winners)
        notes = ["Many measures are correlated, and a small difference may be due to chance: see the numbers below."]
        if not any(verdicts[name] for name in winners):
            notes.append("No measure has the same number of rows or n-grams in both datasets.")
        both = (self.first.neighbours.similarity, self.second.neighbours.similarity)
        similarity = {name: spread for name, spread in zip(self.names, both, strict=True) if spread}
        return Section(
            "More diverse dataset",
            tuple(notes),
            (Table(("more diverse by", "comparable measures", "measures with *"), lines),),
            (_similarity_picture(similarity),) if len(similarity) == 2 else (),
        )

    def _side_by_side(self, title: str, first: Section, second: Section) -> Section:
        """Make each cell a line with the values of both, in the order of the first, then of the second."""
        first_cells, second_cells = _cells_by_key(first), _cells_by_key(second)
        lines: dict[str, list[Line]] = {}
        for key in dict.fromkeys([*first_cells, *second_cells]):
            head, label, column = key
            cells = self._compared_cells(first_cells.get(key, Cell(None)), second_cells.get(key, Cell(None)))
            lines.setdefault(head, []).append(Line(f"{label}, {column}" if column else label, cells))
        section = Section(title, (), tuple(self._table(head, every) for head, every in lines.items()))
        is_uneven = any(verdict.endswith(_UNEVEN) for verdict in _verdicts([section]))
        return replace(section, notes=(_CAUTION,)) if is_uneven else section

    def _table(self, head: str, lines: list[Line]) -> Table:
        """Return a table, without the column of verdicts if it would be empty."""
        columns = (head, *self.names, "difference", _VERDICT)
        if not any(line.cells[-1].value for line in lines):
            return Table(columns[:-1], tuple(Line(line.label, line.cells[:-1]) for line in lines))
        return Table(columns, tuple(lines))

    def _compared_cells(self, first: Cell, second: Cell) -> tuple[Cell, ...]:
        difference, verdict = first.difference(second), self._more_diverse(first, second)
        return first, second, Cell(difference, "text"), Cell(verdict, "text")

    def _more_diverse(self, first: Cell, second: Cell) -> str:
        """Name the dataset that is more diverse by a measure; "" if the measure decides for neither."""
        if not first.more_diverse or not isinstance(first.value, (int, float)):
            return ""
        if not isinstance(second.value, (int, float)):
            return ""
        is_second = second.value < first.value if first.more_diverse == "lower" else second.value > first.value
        name = _EQUAL if first.value == second.value else self.names[is_second]
        return name if first.size == second.size else f"{name} {_UNEVEN}"


def _verdicts(sections: Iterable[Section]) -> Iterator[str]:
    """Yield the cells of the column of verdicts."""
    tables = (table for section in sections for table in section.tables if table.head[-1] == _VERDICT)
    return (str(line.cells[-1].value) for table in tables for line in table.lines)


def _cells_by_key(section: Section) -> dict[_CellKey, Cell]:
    return {
        (table.head[0], line.label, column if len(line.cells) > 1 else ""): cell
        for table in section.tables
        for line in table.lines
        for column, cell in zip(table.head[1:], line.cells, strict=True)
    }
