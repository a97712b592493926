"""The picture of a chain of steps and of the columns between them."""

import re
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from hfsynth.analysis.plots import INK, Form, render_figure
from hfsynth.pipeline import Arrow, Diagram

_FILL, _LINE = "#eef2f7", "#52606d"
_PLACE = 3.0  # inches from one step to the next; the numbers below are inches, too
_WIDE, _HIGH = 0.82, 0.42  # from the middle of a step's box to its edges
_LEVEL = 0.45  # from one level of arcs to the next
_TEXT: dict[str, Any] = {"color": INK, "ha": "center", "parse_math": False}


def draw_diagram(diagram: Diagram, form: Form = "png") -> bytes:
    """Draw a chain of steps from left to right; columns that pass steps by go above or below them on arcs."""
    names, first = diagram.names, 0 if diagram.reads_dataset else 1
    models = ["", *(node.model for node in diagram.nodes), ""]
    heights = [_height(arrow) for arrow in diagram.arrows]
    below, above = min([-_HIGH, *heights]) - 0.3, max([_HIGH, *heights]) + 0.3

    def put(figure: Figure) -> None:
        figure.set_layout_engine("none")  # the places are given
        edges = (first - 0.5) * _PLACE, (len(names) - 0.5) * _PLACE
        axes = figure.add_axes((0, 0, 1, 1), xlim=edges, ylim=(below, above))
        axes.set_axis_off()
        for place in range(first, len(names)):
            corner = place * _PLACE - _WIDE, -_HIGH
            box = FancyBboxPatch(corner, 2 * _WIDE, 2 * _HIGH, "round,pad=0,rounding_size=0.08", fc=_FILL, ec=_LINE)
            axes.add_patch(box)
            label = "\n".join(_wrapped(text, 21) for text in (names[place], models[place]) if text)
            axes.text(place * _PLACE, 0, label, va="center", fontsize=9, **_TEXT)
        for arrow in diagram.arrows:
            _draw_arrow(axes, arrow)

    picture = render_figure(put, (_PLACE * (len(names) - first), above - below), form)
    return picture if form == "png" else _titled(picture, f"Steps: {' → '.join(names[first:])}")


def _height(arrow: Arrow) -> float:
    """Return the height of an arrow's middle: arrows over an even number of places are above, the others below."""
    levels, is_odd = divmod(arrow.end - arrow.start, 2)
    return (_HIGH + levels * _LEVEL) * (-1 if is_odd else 1) if levels else 0.0


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    height, start, end = _height(arrow), arrow.start * _PLACE, arrow.end * _PLACE
    middle = (start + end) / 2, height or 0.05
    if height:
        edge = _HIGH if height > 0 else -_HIGH
        control = (4 * height - edge) / 3  # the curve's middle is at a quarter of the ends and three of the controls
        start, end = start + _WIDE / 2, end - _WIDE / 2
        path = Path([(start, edge), (start, control), (end, control), (end, edge)], [1, 4, 4, 4])
    else:
        path = Path([(start + _WIDE, 0), (end - _WIDE, 0)])
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=10, color=_LINE))
    box: dict[str, Any] | None = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if height else None
    label = _wrapped(", ".join(arrow.columns), 40 if height else 21)
    axes.text(*middle, label, va="center" if height else "bottom", fontsize=8, bbox=box, **_TEXT)


def _wrapped(text: str, width: int) -> str:
    """Break a text into four lines at most, after spaces and after signs within words.

    >>> _wrapped("HuggingFaceTB/SmolLM2-135M-Instruct", 21).split()
    ['HuggingFaceTB/', 'SmolLM2-135M-Instruct']
    """
    lines = [""]
    for part in re.findall(rf"[^\s_/-]{{0,{width}}}[\s_/-]?", text):
        if len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines[:4]) + (" …" if len(lines) > 4 else "")


def _titled(svg: bytes, title: str) -> bytes:
    """Give an SVG the title that a screen reader speaks."""
    words = f"\n <title>{escape(title)}</title>"
    return re.sub(r"<svg ([^>]*>)", lambda tag: f'<svg role="img" {tag[1]}{words}', svg.decode(), count=1).encode()
