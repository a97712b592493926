"""The picture of a chain of steps and of the columns between them, drawn without a network."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from hfsynth.diagram import Arrow, Diagram
from hfsynth.reporting.pictures import INK, Form, drawn

_FILL, _LINE = "#eef2f7", "#52606d"
_WIDTH = 2.6  # inches for each place of a diagram; heights are in inches, too
_BOX, _LANE = 0.8, 0.45  # from the steps to the first lane, and from lane to lane
_ASIDE = 0.07  # of a place: how far from a step's middle lanes leave and reach it
_CUT = "\u200b"  # between parts of a word, while lines are made
_SEAMS = re.compile(r"(?<=[_/-])"), re.compile(r"(?<=[a-z])(?=[A-Z])")
_TEXT: dict[str, Any] = {"color": INK, "ha": "center", "parse_math": False}


def draw_diagram(diagram: Diagram, form: Form = "png") -> bytes:
    """Draw a chain of steps from left to right; columns that pass a step by go above or below it, each on a lane."""
    places, labels = len(diagram.names), _labels(diagram)
    first = 0 if diagram.reads_dataset else 1
    lanes = lanes_of(diagram.arrows)
    heights = [_BOX + _LANE * max((side * lane for lane in lanes.values()), default=0) for side in (-1, 1)]

    def put(figure: Figure) -> None:
        figure.set_layout_engine("none")  # the places are given
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(first - 0.5, places - 0.5)
        axes.set_ylim(-heights[0], heights[1])
        box = {"boxstyle": "round,pad=0.5", "facecolor": _FILL, "edgecolor": _LINE}
        for place, label in list(enumerate(labels))[first:]:
            axes.text(place, 0, label, va="center", fontsize=9, bbox=box, zorder=3, **_TEXT)
        for arrow in diagram.arrows:
            _draw_arrow(axes, arrow, lanes.get(arrow, 0), labels)

    picture = drawn(put, (_WIDTH * (places - first), sum(heights)), form)
    return picture if form == "png" else _titled(picture, f"Steps: {' → '.join(diagram.names[first:])}")


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


def _labels(diagram: Diagram) -> list[str]:
    """Return what stands in the box of each place: a step's name, and its model's."""
    models = ["", *(node.model for node in diagram.nodes), ""]
    return ["\n".join(_parted(part, 18) for part in both if part) for both in zip(diagram.names, models, strict=True)]


def _draw_arrow(axes: Axes, arrow: Arrow, lane: int, labels: Sequence[str]) -> None:
    if lane:
        start, end = arrow.start + _ASIDE, arrow.end - _ASIDE
        side = 1 if lane > 0 else -1
        height = _LANE * lane + (_BOX - _LANE) * side
        edge = 0.2 + 0.08 * labels[arrow.end].count("\n")  # of the box that it reaches
        path = Path([(start, 0), (start, height), (end, height), (end, side * edge)])
        # between two steps, where no line goes up or down
        middle, across = (arrow.start + arrow.end - 1) // 2 + 0.5, "center"
        box: dict[str, Any] | None = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    else:
        start, end = arrow.start + _half(labels[arrow.start]), arrow.end - _half(labels[arrow.end])
        path = Path([(start, 0), (end, 0)])
        middle, height, across, box = (start + end) / 2, 0.04, "bottom", None
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=10, color=_LINE, fill=False, zorder=1))
    label = _parted(", ".join(arrow.columns), 40 if lane else 20)
    axes.text(middle, height, label, va=across, fontsize=8, bbox=box, zorder=4, **_TEXT)


def _half(label: str) -> float:
    """Return half of how wide a step's box is, about, in places, and a little more."""
    return (0.15 + 0.04 * max(map(len, label.split("\n")), default=0)) / _WIDTH


def _parted(text: str, width: int) -> str:
    """Part a text into lines, and a word too long for one where it is made of several: after signs, or at capitals.

    >>> [_parted(text, 18).split() for text in ("SelfInstructInstances", "HuggingFaceTB/SmolLM2-135M-Instruct")]
    [['SelfInstruct', 'Instances'], ['HuggingFaceTB/', 'SmolLM2-135M-', 'Instruct']]
    """

    def cut(word: re.Match[str]) -> str:
        return _SEAMS[not set("_/-") & set(word[0])].sub(f"{_CUT} ", word[0])

    lines = textwrap.wrap(re.sub(rf"\S{{{width},}}", cut, text), width, max_lines=4, placeholder=" …")
    return "\n".join(lines).replace(f"{_CUT} ", "").replace(_CUT, "")


def _titled(svg: bytes, title: str) -> bytes:
    """Give a picture the words that are read out where it can't be seen."""
    before, tag, after = svg.partition(b"<svg ")
    attributes, end, inside = after.partition(b">")
    words = f"\n <title>{escape(title)}</title>".encode()
    return b"".join([before, tag, b'role="img" ', attributes, end, words, inside])
