"""What is shown of a report or comparison, before it has a form: sections of notes, tables and pictures.

All texts are plain here, and may come from rows; each form makes them safe for itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hfsynth.reporting.figures import Lengths
from hfsynth.reporting.spread import Spread

QUARTILES = ("least", "first quartile", "median", "third quartile", "most", "mean")
"""The heads of a distribution's cells."""
Better = Literal["", "higher", "lower"]
Kind = Literal["count", "share", "number", "text"]


@dataclass(frozen=True)
class Cell:
    """A value of a table."""

    value: float | str | None
    """None where nothing could be measured."""
    kind: Kind = "count"
    more_diverse: Better = ""
    """Which values tell of a more diverse dataset; "" where that can't be said."""
    size: int = 0
    """On how many rows or n-grams it was measured, where it depends on that."""


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table, of which the first column has the lines' labels."""

    head: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Picture:
    """A picture, drawn when it is needed."""

    name: str
    """Of its file, without an ending."""
    words: str
    """What it shows, for those who don't see it."""
    draw: Callable[[], bytes]
    """Makes it, as PNG."""


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def counted(label: str, rows: int, of: int, more_diverse: Better = "") -> Line:
    """Return a line with some rows, those that they are of, and their share."""
    return Line(label, (Cell(rows), Cell(of), Cell(rows / of if of else None, "share", more_diverse, of)))


def spread_cells(spread: Lengths | Spread | None, more_diverse: Better = "", size: int = 0) -> tuple[Cell, ...]:
    """Return the cells of a distribution, under `QUARTILES`; what is said of diversity goes by its mean."""
    if spread is None:
        return (Cell(None),) * len(QUARTILES)
    kind: Kind = "number" if isinstance(spread, Spread) else "count"
    values = (spread.smallest, spread.lower, spread.median, spread.upper, spread.largest)
    return (*(Cell(value, kind) for value in values), Cell(spread.mean, "number", more_diverse, size))


def shown(cell: Cell) -> str:
    """Write a value as it is read.

    >>> [shown(Cell(*cell)) for cell in ((1234, "count"), (0.5, "share"), (1.5, "number"), (None,), ("x", "text"))]
    ['1,234', '50.0%', '1.500', '–', 'x']
    """
    if cell.value is None:
        return "–"
    if isinstance(cell.value, str):
        return cell.value
    if cell.kind == "share":
        return f"{cell.value:.1%}"
    return f"{cell.value:,.3f}" if cell.kind == "number" else f"{cell.value:,}"


def difference(first: Cell, second: Cell) -> str:
    """Write by how much a second value is higher than the first; shares by points of a hundred.

    >>> difference(Cell(1000), Cell(3000)), difference(Cell(0.5, "share"), Cell(0.25, "share"))
    ('+2,000', '-25.0 points')
    >>> difference(Cell(None), Cell(1))
    '–'
    """
    if not isinstance(first.value, (int, float)) or not isinstance(second.value, (int, float)):
        return "–"
    apart = second.value - first.value
    if first.kind == "share":
        return f"{100 * apart:+.1f} points"
    return f"{apart:+,.3f}" if first.kind == "number" else f"{apart:+,}"
