"""What a report shows of diversity: repetition, nearest neighbours, different n-grams."""

from functools import partial
from math import sqrt
from typing import TYPE_CHECKING

from hfsynth.reporting.embedded import NEAR as NEAR_IN_MEANING
from hfsynth.reporting.embedded import Embedded
from hfsynth.reporting.neighbours import NEAR, REPEATED, Neighbours
from hfsynth.reporting.pictures import draw_similarity
from hfsynth.reporting.sections import QUARTILES, Cell, Line, Picture, Section, Table, counted, spread_cells
from hfsynth.reporting.wording import Distinct

if TYPE_CHECKING:
    from hfsynth.reporting.report import Report

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
