"""Render a report's sections as text, Markdown and HTML."""

import base64
import textwrap
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from hfsynth.analysis.text_stats import Lengths, Spread
from hfsynth.text import plain

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


_WIDTH = 100  # of notes in a terminal
_LABEL = 60  # characters of a label in a terminal
_STYLE = (
    "font-family:system-ui,sans-serif;font-size:14px;line-height:1.45;color:#1f2933;background:#ffffff;"
    "padding:16px;max-width:1000px"
)
_CELL = "padding:2px 10px;border-bottom:1px solid #d5dbe3;text-align:{}"


class Told(ABC):
    """What can be shown, in several forms."""

    @abstractmethod
    def sections(self) -> tuple[Section, ...]:
        """Return what is shown, in its order."""

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()

    def text(self) -> str:
        """Return plain text with tables, for a terminal; it has no pictures."""
        return "\n\n".join("\n".join(_section_text(section)) for section in self.sections()) + "\n"

    def markdown(self, pictures: str = "") -> str:
        """Return Markdown.

        Args:
            pictures: The folder that `pictures` are linked from, such as "images". Default: none are.
        """
        return "\n\n".join(part for section in self.sections() for part in _section_markdown(section, pictures)) + "\n"

    def html(self) -> str:
        """Return a fragment of HTML that needs nothing else: its pictures are inside."""
        parts = "\n".join(part for section in self.sections() for part in _section_html(section))
        return f'<div style="{_STYLE}">\n{parts}\n</div>\n'

    def pictures(self) -> dict[str, bytes]:
        """Return the pictures: the name of a file → PNG."""
        return {f"{picture.name}.png": picture.draw() for section in self.sections() for picture in section.pictures}


def printable(text: str) -> str:
    r"""Return a text on one line, without what steers a terminal or turns the direction of writing.

    >>> printable("a\x1b[31m\nb\u202e")
    'a [31m b'
    """
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _section_text(section: Section) -> Iterator[str]:
    title = printable(section.title)
    yield from (title, "=" * _width(title))
    for note in section.notes:
        yield from textwrap.wrap(printable(note), _WIDTH, break_on_hyphens=False)
    for table in section.tables:
        yield ""
        yield from _table_text(table)


def _table_text(table: Table) -> Iterator[str]:
    rows = [[_short(cell) for cell in row] for row in _cells(table)]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for number, (label, *values) in enumerate(rows):
        padded = [" " * (width - _width(value)) + value for value, width in zip(values, widths[1:], strict=True)]
        yield "  ".join([label + " " * (widths[0] - _width(label)), *padded]).rstrip()
        if not number:
            yield "  ".join("-" * width for width in widths)


def _section_markdown(section: Section, pictures: str) -> Iterator[str]:
    yield f"### {plain(printable(section.title))}"
    yield from (plain(printable(note)) for note in section.notes)
    for table in section.tables:
        head, *rows = [[plain(cell) for cell in row] for row in _cells(table)]
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if pictures:
        yield from (f"![{plain(one.words)}]({pictures}/{one.name}.png)" for one in section.pictures)


def _section_html(section: Section) -> Iterator[str]:
    yield f'<h3 style="margin:18px 0 6px">{_safe(section.title)}</h3>'
    yield from (f'<p style="margin:4px 0">{_safe(note)}</p>' for note in section.notes)
    for table in section.tables:
        head, *rows = _cells(table)
        lines = [_row_html("th", head), *(_row_html("td", row) for row in rows)]
        yield '<table style="border-collapse:collapse;margin:8px 0">\n' + "\n".join(lines) + "\n</table>"
    yield from map(_picture_html, section.pictures)


def _row_html(tag: str, cells: Sequence[str]) -> str:
    styles = [_CELL.format("left"), *[_CELL.format("right")] * (len(cells) - 1)]
    inside = "".join(
        f'<{tag} style="{style}">{_safe(cell)}</{tag}>' for cell, style in zip(cells, styles, strict=True)
    )
    return f"<tr>{inside}</tr>"


def _picture_html(picture: Picture) -> str:
    data = base64.b64encode(picture.draw()).decode()
    return f'<img alt="{_safe(picture.words)}" src="data:image/png;base64,{data}" style="max-width:100%">'


def _cells(table: Table) -> list[list[str]]:
    """Return a table's head and lines as texts."""
    lines = [[line.label, *map(shown, line.cells)] for line in table.lines]
    return [[printable(cell) for cell in row] for row in [list(table.head), *lines]]


def _safe(text: str) -> str:
    return escape(printable(text))


def _short(text: str) -> str:
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"


def _width(text: str) -> int:
    r"""Return how many columns a text fills in a terminal: a Chinese sign fills two, an accent none.

    >>> _width("a漢"), _width("e\u0301")
    (3, 1)
    """
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(bool(unicodedata.combining(sign)) for sign in text)
