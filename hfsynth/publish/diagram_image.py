"""Image of a pipeline: a box for each step, and arrows labeled with the columns that later steps read."""

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
_STEP_WIDTH = 3.0  # distance between the centers of two boxes; all lengths are in inches
_HALF_WIDTH, _HALF_HEIGHT = 0.82, 0.42  # of a step's box
_ARC_HEIGHT = 0.45  # distance between two levels of arcs
_TEXT: dict[str, Any] = {"color": INK, "ha": "center", "parse_math": False}


def draw_diagram(diagram: Diagram, form: Form = "png") -> bytes:
    """Draw the steps from left to right; an arrow that skips steps is an arc above or below them.

    Args:
        diagram: The steps and the columns between them.
        form: The image format, "png" or "svg".

    Returns:
        The content of the image file. An SVG has a title for screen readers.
    """
    names, first = diagram.names, 0 if diagram.reads_dataset else 1
    models = ["", *(node.model for node in diagram.nodes), ""]
    heights = [_arc_top(arrow) for arrow in diagram.arrows]
    below, above = min([-_HALF_HEIGHT, *heights]) - 0.3, max([_HALF_HEIGHT, *heights]) + 0.3

    def draw(figure: Figure) -> None:
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
            label = "\n".join(_wrap(text, 21) for text in (names[place], models[place]) if text)
            axes.text(place * _STEP_WIDTH, 0, label, va="center", fontsize=9, **_TEXT)
        for arrow in diagram.arrows:
            _draw_arrow(axes, arrow)

    image = render_figure(draw, (_STEP_WIDTH * (len(names) - first), above - below), form)
    return image if form == "png" else _add_title(image, f"Steps: {' → '.join(names[first:])}")


def _arc_top(arrow: Arrow) -> float:
    """Return the height of an arrow's middle: positive if it skips an odd number of boxes, negative if even."""
    levels, is_odd = divmod(arrow.end - arrow.start, 2)
    return (_HALF_HEIGHT + levels * _ARC_HEIGHT) * (-1 if is_odd else 1) if levels else 0.0


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
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
    label = _wrap(", ".join(arrow.columns), 40 if height else 21)
    axes.text(*middle, label, va="center" if height else "bottom", fontsize=8, bbox=box, **_TEXT)


def _wrap(text: str, width: int) -> str:
    """Break a text into at most four lines, after spaces and after the separators `_`, `/` and `-`.

    >>> _wrap("HuggingFaceTB/SmolLM2-135M-Instruct", 21).split()
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
