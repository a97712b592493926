"""Pictures, drawn without a network: the steps and their columns, and how long the texts are."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from hfsynth.diagram import Arrow, Diagram
from hfsynth.publishing.figures import Lengths

INK, _FILL, _LINE = "#1f2933", "#eef2f7", "#52606d"
BLUE, _GREY = "#3e7cb1", "#9aa5b1"
_WIDTH = 2.6  # inches for each place of a diagram
_TEXT: dict[str, Any] = {"color": INK, "ha": "center", "parse_math": False}


Form = Literal["png", "svg"]


def draw_diagram(diagram: Diagram, form: Form = "png") -> bytes:
    """Draw a chain of steps from left to right; columns that pass a step by go above or below it."""
    places = len(diagram.names)
    levels = max((_level(arrow) for arrow in diagram.arrows), default=0)
    figure = Figure(figsize=(_WIDTH * places, 1.8 + 0.55 * levels), dpi=110)
    axes = _bare(figure)
    axes.set_xlim(-0.5, places - 0.5)
    axes.set_ylim(-0.5 - 0.3 * levels, 0.5 + 0.3 * levels)
    models = ["", *(node.model for node in diagram.nodes), ""]
    for place, (name, model) in enumerate(zip(diagram.names, models, strict=True)):
        label = "\n".join([wrapped(name, 20), *([wrapped(model, 24)] if model else [])])
        box = {"boxstyle": "round,pad=0.5", "facecolor": _FILL, "edgecolor": _LINE}
        axes.text(place, 0, label, va="center", fontsize=9, bbox=box, zorder=3, **_TEXT)
    for number, arrow in enumerate(diagram.arrows):
        _draw_arrow(axes, arrow, upwards=number % 2 == 0)
    return drawn(figure, form)


def draw_lengths(lengths: Mapping[str, Lengths], unit: str = "characters") -> bytes:
    """Draw a histogram for each column of texts, one beside the other; lengths are in a unit."""
    figure = Figure(figsize=(3.6 * len(lengths), 2.6), dpi=110, layout="constrained")
    for number, (column, found) in enumerate(lengths.items(), 1):
        axes = figure.add_subplot(1, len(lengths), number)
        axes.stairs(found.counts, found.edges, fill=True, color=BLUE)
        axes.axvline(found.median, color=INK, linewidth=1, linestyle="--")
        axes.set_title(wrapped(f"{column} (median {found.median:,})", 36), fontsize=9, parse_math=False)
        axes.set_xlabel(unit, fontsize=8)
        axes.set_ylabel("texts", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn(figure)


def draw_funnel(stages: Sequence[tuple[str, int, int, int]]) -> bytes:
    """Draw the rows that each step was given, and in front of them those that it handed on whole.

    Args:
        stages: Each step's name, rows in, rows out, and how many of these it failed on.
    """
    figure = Figure(figsize=(7.2, 1.2 + 0.45 * len(stages)), dpi=110, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    places = range(len(stages))
    whole = [rows_out - failed for _, _, rows_out, failed in stages]
    axes.barh(places, [stage[1] for stage in stages], 0.7, color=_GREY, label="rows in")
    axes.barh(places, whole, 0.45, color=BLUE, label="rows out, but for those that failed")
    for place, (_, rows_in, rows_out, failed) in enumerate(stages):
        told = f" {rows_in:,} → {rows_out:,}" + (f" ({failed:,} failed)" if failed else "")
        axes.text(max(rows_in, rows_out), place, told, va="center", fontsize=8)
    axes.set_yticks(places, [wrapped(name, 30) for name, *_ in stages], fontsize=8, parse_math=False)
    axes.set_xlim(0, 1.35 * max(max(stage[1:3]) for stage in stages) or 1)
    axes.set_xlabel("rows", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    figure.legend(fontsize=7, loc="outside lower center", ncols=2, frameon=False)
    return drawn(figure)


def _draw_arrow(axes: Axes, arrow: Arrow, upwards: bool) -> None:
    level = _level(arrow)
    side = 1 if upwards else -1
    middle = (arrow.start + arrow.end) / 2
    if not level:
        start, end, bend = (arrow.start + 0.26, 0.0), (arrow.end - 0.26, 0.0), 0.0
        text, height = wrapped(", ".join(arrow.columns), 20), 0.06
    else:
        start, end = (arrow.start, side * 0.2), (arrow.end, side * 0.2)
        bend = -side * 0.25
        text, height = wrapped(", ".join(arrow.columns), 40), side * (0.25 + 0.22 * level)
    line = FancyArrowPatch(
        start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=10, color=_LINE, zorder=1
    )
    axes.add_patch(line)
    axes.text(middle, height, text, va="bottom" if height > 0 else "top", fontsize=8, zorder=4, **_TEXT)


def _level(arrow: Arrow) -> int:
    """Return how many steps an arrow passes by."""
    return arrow.end - arrow.start - 1


def wrapped(text: str, width: int) -> str:
    """Part a text into three lines at most."""
    return "\n".join(textwrap.wrap(text, width, max_lines=3, placeholder=" …"))


def _bare(figure: Figure) -> Axes:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return axes


def drawn(figure: Figure, form: Form = "png") -> bytes:
    """Return a figure's file, the same bytes for the same figure; in SVG, its texts are texts."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": "hfsynth"}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a column's name may be in any script
        figure.savefig(buffer, format=form, metadata={"Software": None} if form == "png" else {"Date": None})
    return buffer.getvalue()
