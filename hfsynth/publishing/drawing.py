"""The picture of a chain of steps and of the columns between them, drawn without a network."""

import textwrap
from collections.abc import Iterable
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from hfsynth.diagram import Arrow, Diagram
from hfsynth.reporting.pictures import INK, Form, drawn, wrapped

_FILL, _LINE = "#eef2f7", "#52606d"
_WIDTH = 2.6  # inches for each place of a diagram; heights are in inches, too
_BOX, _LANE = 0.8, 0.45  # from the steps to the first lane, and from lane to lane
_ASIDE = 0.07  # of a place: how far from a step's middle lanes leave and reach it
_TEXT: dict[str, Any] = {"color": INK, "ha": "center", "parse_math": False}


def draw_diagram(diagram: Diagram, form: Form = "png") -> bytes:
    """Draw a chain of steps from left to right; columns that pass a step by go above or below it, each on a lane."""
    places = len(diagram.names)
    lanes = lanes_of(diagram.arrows)
    heights = [_BOX + _LANE * max((side * lane for lane in lanes.values()), default=0) for side in (-1, 1)]

    def put(figure: Figure) -> None:
        figure.set_layout_engine("none")  # the places are given
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(-0.5, places - 0.5)
        axes.set_ylim(-heights[0], heights[1])
        _draw_steps(axes, diagram)
        for arrow in diagram.arrows:
            _draw_arrow(axes, arrow, lanes.get(arrow, 0))

    picture = drawn(put, (_WIDTH * places, sum(heights)), form)
    return picture if form == "png" else _titled(picture, f"Steps: {' → '.join(diagram.names)}")


def lanes_of(arrows: Iterable[Arrow]) -> dict[Arrow, int]:
    """Give each arrow that passes steps by a lane on which it meets no other: 1, 2, … above, -1, -2, … below.

    >>> lanes_of([Arrow(0, 4, ("a",)), Arrow(0, 2, ("b",)), Arrow(2, 4, ("c",)), Arrow(1, 3, ("d",))]).values()
    dict_values([1, 1, -1, 2])
    """
    lanes: dict[Arrow, int] = {}
    for arrow in sorted(arrows, key=lambda arrow: arrow.end - arrow.start):  # the longer ones around the shorter
        lane = 1
        while any(lanes[other] == lane and _overlap(arrow, other) for other in lanes):
            lane = -lane if lane > 0 else 1 - lane
        if arrow.end - arrow.start > 1:
            lanes[arrow] = lane
    return lanes


def _overlap(one: Arrow, other: Arrow) -> bool:
    return one.start < other.end and other.start < one.end


def _draw_steps(axes: Axes, diagram: Diagram) -> None:
    models = ["", *(node.model for node in diagram.nodes), ""]
    for place, (name, model) in enumerate(zip(diagram.names, models, strict=True)):
        label = "\n".join([wrapped(name, 20), *([wrapped(model, 24)] if model else [])])
        box = {"boxstyle": "round,pad=0.5", "facecolor": _FILL, "edgecolor": _LINE}
        axes.text(place, 0, label, va="center", fontsize=9, bbox=box, zorder=3, **_TEXT)


def _draw_arrow(axes: Axes, arrow: Arrow, lane: int) -> None:
    if lane:
        start, end = arrow.start + _ASIDE, arrow.end - _ASIDE
        side = 1 if lane > 0 else -1
        height = _LANE * lane + (_BOX - _LANE) * side
        path = Path([(start, 0), (start, height), (end, height), (end, 0.25 * side)])
        # between two steps, where no line goes up or down
        middle, across = (arrow.start + arrow.end - 1) // 2 + 0.5, "center"
        box: dict[str, Any] | None = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    else:
        path = Path([(arrow.start + 0.26, 0), (arrow.end - 0.26, 0)])
        middle, height, across, box = (arrow.start + arrow.end) / 2, 0.04, "bottom", None
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=10, color=_LINE, fill=False, zorder=1))
    label = _names(arrow.columns, 40 if lane else 24)
    axes.text(middle, height, label, va=across, fontsize=8, bbox=box, zorder=4, **_TEXT)


def _names(columns: Iterable[str], width: int) -> str:
    """Part names into lines: between two of them, or after an underscore of one that is too long for a line."""
    names = (name if len(name) < width else name.replace("_", "_ ") for name in columns)
    return "\n".join(textwrap.wrap(", ".join(names), width, max_lines=4, placeholder=" …")).replace("_ ", "_")


def _titled(svg: bytes, title: str) -> bytes:
    """Give a picture the words that are read out where it can't be seen."""
    before, tag, after = svg.partition(b"<svg ")
    attributes, end, inside = after.partition(b">")
    words = f"\n <title>{escape(title)}</title>".encode()
    return b"".join([before, tag, b'role="img" ', attributes, end, words, inside])
