"""Tables, notes and pictures of a report, and their rendering: text by rich, Markdown and HTML by Jinja templates."""

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from hfsynth.analysis.text_stats import Lengths, Spread
from hfsynth.text import plain

QUARTILES = ("smallest", "first quartile", "median", "third quartile", "largest", "mean")
"""The headings of the cells that `distribution_cells` returns."""
Better = Literal["", "higher", "lower"]
Kind = Literal["count", "share", "number", "text"]
_NOTE_WIDTH = 100  # columns of a note in a terminal
_LABEL_WIDTH = 60  # columns of a label in a terminal
_MAX_TABLE_WIDTH = 10_000  # columns of plain text, which may go to a file


@dataclass(frozen=True)
class Cell:
    """A value of a table.

    >>> [str(Cell(*cell)) for cell in ((1234, "count"), (0.5, "share"), (1.5, "number"), (None,), ("x", "text"))]
    ['1,234', '50.0%', '1.500', '–', 'x']
    """

    value: float | str | None
    """None where nothing could be measured."""
    kind: Kind = "count"
    more_diverse: Better = ""
    """Which values mean a more diverse dataset; "" for a value that says nothing about diversity."""
    size: int = 0
    """The number of rows or n-grams that the value was measured on, where it depends on that number."""

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        if isinstance(self.value, str):
            return self.value
        if self.kind == "share":
            return f"{self.value:.1%}"
        return f"{self.value:,.3f}" if self.kind == "number" else f"{self.value:,}"

    def difference(self, other: "Cell") -> str:
        """Format the other value minus this one; of shares, in percentage points.

        >>> Cell(1000).difference(Cell(3000)), Cell(0.5, "share").difference(Cell(0.25, "share"))
        ('+2,000', '-25.0 points')
        >>> Cell(None).difference(Cell(1))
        '–'
        """
        if not isinstance(self.value, (int, float)) or not isinstance(other.value, (int, float)):
            return "–"
        difference = other.value - self.value
        if self.kind == "share":
            return f"{100 * difference:+.1f} points"
        return f"{difference:+,.3f}" if self.kind == "number" else f"{difference:+,}"


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table whose first column has the labels of its lines."""

    head: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn on demand."""

    name: str
    """The name of its file, without an ending."""
    description: str
    """The alternative text."""
    draw: Callable[[], bytes]
    """Returns a PNG."""


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


class Renderable(ABC):
    """Sections that a terminal, a notebook, Markdown and HTML can show."""

    @abstractmethod
    def sections(self) -> tuple[Section, ...]:
        """Return the sections, in order."""

    def __str__(self) -> str:
        return self.text()

    def __rich__(self) -> RenderableType:
        return _rich_sections(self.sections())

    def _repr_html_(self) -> str:
        return self.html()

    def text(self) -> str:
        """Return plain text with tables, without pictures; a table is as wide as its cells need."""
        console = Console(file=io.StringIO(), color_system=None, width=_MAX_TABLE_WIDTH)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"

    def markdown(self, pictures: str = "") -> str:
        """Return Markdown.

        Args:
            pictures: The folder that `pictures` are linked from, such as "images". Default: without pictures.
        """
        return self._render_template("report.md.jinja", folder=pictures)

    def html(self) -> str:
        """Return a self-contained fragment of HTML, pictures included."""
        return self._render_template("report.html.jinja")

    def pictures(self) -> dict[str, bytes]:
        """Return the pictures: file name → PNG."""
        return {f"{picture.name}.png": picture.draw() for section in self.sections() for picture in section.pictures}

    def _render_template(self, template: str, **values: str) -> str:
        environment = Environment(
            loader=PackageLoader("hfsynth.analysis", "."),
            autoescape=template.endswith(".html.jinja"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"printable": printable, "plain": plain, "base64": _base64}
        return environment.get_template(template).render(sections=self.sections(), **values).strip() + "\n"


def share_line(label: str, rows: int, of: int, more_diverse: Better = "") -> Line:
    """Return a line with a number of rows, the number that they are part of, and the share."""
    return Line(label, (Cell(rows), Cell(of), Cell(rows / of if of else None, "share", more_diverse, of)))


def distribution_cells(
    distribution: Lengths | Spread | None, more_diverse: Better = "", size: int = 0
) -> tuple[Cell, ...]:
    """Return the cells under `QUARTILES`; diversity is judged by the mean."""
    if distribution is None:
        return (Cell(None),) * len(QUARTILES)
    kind: Kind = "number" if isinstance(distribution, Spread) else "count"
    values = (
        distribution.smallest,
        distribution.lower,
        distribution.median,
        distribution.upper,
        distribution.largest,
    )
    return (*(Cell(value, kind) for value in values), Cell(distribution.mean, "number", more_diverse, size))


def printable(value: object) -> str:
    r"""Return a value on one line, without control characters and those that change the direction of writing.

    >>> printable("a\x1b[31m\nb\u202e")
    'a [31m b'
    """
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(value)).split())


@dataclass(frozen=True)
class _Note:
    """A paragraph of at most `_NOTE_WIDTH` columns, however wide the tables beside it are."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(Text(self.text), options.update(width=min(options.max_width, _NOTE_WIDTH)))


def _rich_sections(sections: tuple[Section, ...]) -> Group:
    """Return all sections, with an empty line before each table and each section but the first."""
    parts: list[RenderableType] = []
    for section in sections:
        title = Text(printable(section.title), style="bold")
        parts += [*([Text()] if parts else []), title, Text("═" * title.cell_len)]
        parts += [_Note(printable(note)) for note in section.notes]
        for table in section.tables:
            parts += [Text(), _rich_table(table)]
    return Group(*parts)


def _rich_table(table: Table) -> RichTable:
    rich_table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    label, *columns = table.head
    rich_table.add_column(Text(printable(label)), max_width=_LABEL_WIDTH, no_wrap=True, overflow="ellipsis")
    for column in columns:
        rich_table.add_column(Text(printable(column)), justify="right")
    for line in table.lines:
        rich_table.add_row(*(Text(printable(value)) for value in (line.label, *line.cells)))
    return rich_table


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
