"""Render the parts of a report: tables and notes as text, Markdown and HTML, charts and diagrams as images.

Text is rendered by rich, Markdown and HTML by Jinja templates. Images have dark lines on white, legible on light and
dark pages. matplotlib is imported with the first image, since its import takes as long as all other imports together.
"""

import base64
import io
import re
import textwrap
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from hfsynth.analysis.text_stats import Lengths, Spread
from hfsynth.pipeline import Arrow, Diagram
from hfsynth.text import plain, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUARTILES = ("smallest", "first quartile", "median", "third quartile", "largest", "mean")
"""The headings of the cells that `distribution_cells` returns."""
Better = Literal["", "higher", "lower"]
Kind = Literal["count", "share", "number", "text"]
Form = Literal["png", "svg"]
_NOTE_WIDTH = 100  # columns of a note in a terminal
_LABEL_WIDTH = 60  # columns of a label in a terminal
_MAX_TABLE_WIDTH = 10_000  # columns of plain text, which may go to a file
_BLACK, _BLUE, _GREY, _ORANGE = "#1f2933", "#3e7cb1", "#9aa5b1", "#a8480f"
_HISTOGRAMS_PER_ROW = 3
_FILL, _LINE = "#eef2f7", "#52606d"
_STEP_WIDTH = 3.0  # distance between the centers of two boxes; all lengths are in inches
_HALF_WIDTH, _HALF_HEIGHT = 0.82, 0.42  # of a step's box
_ARC_HEIGHT = 0.45  # distance between two levels of arcs
_TEXT: dict[str, Any] = {"color": _BLACK, "ha": "center", "parse_math": False}


@dataclass(frozen=True)
class Cell:
    """A value of a table.

    >>> [str(Cell(*cell)) for cell in ((1234, "count"), (0.5, "share"), (1.5, "number"), (None,), ("x", "text"))]
    ['1,234', '50.0%', '1.500', '–', 'x']
    """

    value: float | str | None
    """None if nothing could be measured."""
    kind: Kind = "count"
    more_diverse: Better = ""
    """The values that mean a more diverse dataset; "" for a value that does not measure diversity."""
    size: int = 0
    """The number of rows or n-grams that were measured, if the value depends on it; else 0."""

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
    """A result with sections, for terminals and notebooks, and as Markdown and HTML."""

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


def draw_lengths(lengths: Mapping[str, Lengths], unit: str) -> bytes:
    """Draw a histogram of lengths for each kind of text, three side by side.

    Args:
        lengths: Kind of text → its lengths.
        unit: The unit of the lengths, such as "words".
    """
    columns, rows = min(len(lengths), _HISTOGRAMS_PER_ROW), -(-len(lengths) // _HISTOGRAMS_PER_ROW)

    def plot(figure: "Figure") -> None:
        for number, (kind, distribution) in enumerate(lengths.items(), 1):
            axes = _plain_axes(figure, (rows, columns, number))
            axes.stairs(distribution.counts, distribution.edges, fill=True, color=_BLUE)
            axes.axvline(distribution.median, color=_BLACK, linewidth=1, linestyle="--")
            axes.set_title(_wrap_text(f"{kind} (median {distribution.median:,})", 36), fontsize=9, parse_math=False)
            axes.set_xlabel(unit, fontsize=8)
            axes.set_ylabel("texts", fontsize=8)
            axes.locator_params(integer=True)

    return render_figure(plot, (3.6 * columns, 2.6 * rows))


def draw_funnel(stages: Sequence[tuple[str, int, int, int]]) -> bytes:
    """Draw two bars for each step: the rows in and, in front of them, the rows out.

    Args:
        stages: Each step's name, rows in, rows out, and failed rows.
    """

    def plot(figure: "Figure") -> None:
        axes = _plain_axes(figure)
        places = range(len(stages))
        axes.barh(places, [stage[1] for stage in stages], 0.7, color=_GREY, label="rows in")
        axes.barh(places, [stage[2] for stage in stages], 0.45, color=_BLUE, label="rows out")
        for place, (_, rows_in, rows_out, failed) in enumerate(stages):
            numbers = f" {rows_in:,} → {rows_out:,}" + (f" ({failed:,} failed)" if failed else "")
            axes.text(max(rows_in, rows_out), place, numbers, va="center", fontsize=8)
        axes.set_yticks(places, [_wrap_text(name, 30) for name, *_ in stages], fontsize=8, parse_math=False)
        axes.set_xlim(0, 1.35 * max(max(stage[1:3]) for stage in stages) or 1)
        axes.set_xlabel("rows", fontsize=8)
        axes.locator_params(axis="x", integer=True)
        axes.invert_yaxis()
        figure.legend(fontsize=7, loc="outside lower center", ncols=2, frameon=False)

    return render_figure(plot, (7.2, 1.2 + 0.45 * len(stages)))


def draw_similarity(similarity: Mapping[str, Spread], limit: float) -> bytes:
    """Draw a histogram of the similarity with the nearest other instruction, from 0 to 1.

    Args:
        similarity: Name of a dataset → its distribution; that of a second dataset is drawn as a line.
        limit: A similarity to mark with a vertical line.
    """

    def plot(figure: "Figure") -> None:
        axes = _plain_axes(figure)
        for number, (name, spread) in enumerate(similarity.items()):
            percentages = [100 * count / spread.count for count in spread.counts]
            label = f"{name} (median {spread.median:.2f})"
            style: dict[str, Any] = {"color": _BLACK, "linewidth": 1.8} if number else {"color": _BLUE, "fill": True}
            axes.stairs(percentages, spread.edges, label=label, **style)
        axes.axvline(limit, color=_ORANGE, linewidth=1.5, linestyle="--", label=f"{limit}: Self-Instruct's limit")
        axes.set_title("nearest other instruction", fontsize=9)
        axes.set_xlabel("ROUGE-L F-measure", fontsize=8)
        axes.set_ylabel("instructions (%)", fontsize=8)
        for text in axes.legend(fontsize=8, framealpha=1).get_texts():
            text.set_parse_math(False)

    return render_figure(plot, (6.4, 2.8))


def _wrap_text(text: str, width: int) -> str:
    """Wrap a text into three lines at most."""
    return "\n".join(textwrap.wrap(text, width, max_lines=3, placeholder=" …"))


def render_figure(plot: Callable[["Figure"], None], size: tuple[float, float], form: Form = "png") -> bytes:
    """Return a figure as a file with the same bytes each time, whatever matplotlib style the user has set.

    Args:
        plot: Draws into an empty figure.
        size: Width and height in inches.
        form: PNG, or SVG that keeps texts as texts.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with warnings.catch_warnings(), style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "hfsynth"}]):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a column's name may be in any script
        figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        plot(figure)
        figure.savefig(buffer, format=form, metadata={"Software": None} if form == "png" else {"Date": None})
    return buffer.getvalue()


def _plain_axes(figure: "Figure", place: tuple[int, int, int] = (1, 1, 1)) -> "Axes":
    """Add axes without a frame at the top and right; `place` is (rows, columns, number)."""
    axes = figure.add_subplot(*place)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def draw_diagram(diagram: Diagram, form: Form = "png") -> bytes:
    """Draw the steps from left to right; an arrow that skips steps is an arc above or below them.

    Args:
        diagram: The steps and the columns between them.
        form: The image format, "png" or "svg".

    Returns:
        The content of the image file. An SVG has a title for screen readers.
    """
    from matplotlib.patches import FancyBboxPatch

    names, first = diagram.names, 0 if diagram.reads_dataset else 1
    models = ["", *(node.model for node in diagram.nodes), ""]
    heights = [_arc_top(arrow) for arrow in diagram.arrows]
    below, above = min([-_HALF_HEIGHT, *heights]) - 0.3, max([_HALF_HEIGHT, *heights]) + 0.3

    def draw(figure: "Figure") -> None:
        figure.set_layout_engine("none")  # positions are fixed
        edges = (first - 0.5) * _STEP_WIDTH, (len(names) - 0.5) * _STEP_WIDTH
        axes = figure.add_axes((0, 0, 1, 1), xlim=edges, ylim=(below, above))
        axes.set_axis_off()
        for place in range(first, len(names)):
            corner = place * _STEP_WIDTH - _HALF_WIDTH, -_HALF_HEIGHT
            box = FancyBboxPatch(
                corner, 2 * _HALF_WIDTH, 2 * _HALF_HEIGHT, "round,pad=0,rounding_size=0.08", fc=_FILL, ec=_LINE
            )
            axes.add_patch(box)
            label = "\n".join(_wrap_name(text, 21) for text in (names[place], models[place]) if text)
            axes.text(place * _STEP_WIDTH, 0, label, va="center", fontsize=9, **_TEXT)
        for arrow in diagram.arrows:
            _draw_arrow(axes, arrow)

    image = render_figure(draw, (_STEP_WIDTH * (len(names) - first), above - below), form)
    return image if form == "png" else _add_title(image, f"Steps: {' → '.join(names[first:])}")


def _arc_top(arrow: Arrow) -> float:
    """Return the height of an arrow's middle: positive if it skips an odd number of boxes, negative if even."""
    levels, is_odd = divmod(arrow.end - arrow.start, 2)
    return (_HALF_HEIGHT + levels * _ARC_HEIGHT) * (-1 if is_odd else 1) if levels else 0.0


def _draw_arrow(axes: "Axes", arrow: Arrow) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    height, start, end = _arc_top(arrow), arrow.start * _STEP_WIDTH, arrow.end * _STEP_WIDTH
    middle = (start + end) / 2, height or 0.05
    if height:
        edge = _HALF_HEIGHT if height > 0 else -_HALF_HEIGHT
        control = (4 * height - edge) / 3  # a cubic Bézier curve's middle is edge/4 + 3*control/4
        start, end = start + _HALF_WIDTH / 2, end - _HALF_WIDTH / 2
        path = Path([(start, edge), (start, control), (end, control), (end, edge)], [1, 4, 4, 4])
    else:
        path = Path([(start + _HALF_WIDTH, 0), (end - _HALF_WIDTH, 0)])
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=10, color=_LINE))
    box: dict[str, Any] | None = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if height else None
    label = _wrap_name(", ".join(arrow.columns), 40 if height else 21)
    axes.text(*middle, label, va="center" if height else "bottom", fontsize=8, bbox=box, **_TEXT)


def _wrap_name(text: str, width: int) -> str:
    """Break a text into at most four lines, after spaces and after the separators `_`, `/` and `-`.

    >>> _wrap_name("HuggingFaceTB/SmolLM2-135M-Instruct", 21).split()
    ['HuggingFaceTB/', 'SmolLM2-135M-Instruct']
    """
    lines = [""]
    for part in re.findall(rf"[^\s_/-]{{0,{width}}}[\s_/-]?", text):
        if len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines[:4]) + (" …" if len(lines) > 4 else "")


def _add_title(svg: bytes, title: str) -> bytes:
    """Add a title for screen readers to an SVG."""
    element = f"\n <title>{escape(title)}</title>"
    return re.sub(r"<svg ([^>]*>)", lambda tag: f'<svg role="img" {tag[1]}{element}', svg.decode(), count=1).encode()
