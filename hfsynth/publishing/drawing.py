"""The picture of a chain of steps and of the columns between them, drawn without a network."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from hfsynth.diagram import Arrow, Diagram
from hfsynth.reporting.pictures import INK, Form, drawn, wrapped

_FILL, _LINE = "#eef2f7", "#52606d"
_WIDTH = 2.6  # inches for each place of a diagram
_TEXT: dict[str, Any] = {"color": INK, "ha": "center", "parse_math": False}


def draw_diagram(diagram: Diagram, form: Form = "png") -> bytes:
    """Draw a chain of steps from left to right; columns that pass a step by go above or below it."""
    places = len(diagram.names)
    levels = max((_level(arrow) for arrow in diagram.arrows), default=0)

    def put(figure: Figure) -> None:
        figure.set_layout_engine("none")  # the places are given
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(-0.5, places - 0.5)
        axes.set_ylim(-0.5 - 0.3 * levels, 0.5 + 0.3 * levels)
        _draw_steps(axes, diagram)
        for number, arrow in enumerate(diagram.arrows):
            _draw_arrow(axes, arrow, upwards=number % 2 == 0)

    return drawn(put, (_WIDTH * places, 1.8 + 0.55 * levels), form)


def _draw_steps(axes: Axes, diagram: Diagram) -> None:
    models = ["", *(node.model for node in diagram.nodes), ""]
    for place, (name, model) in enumerate(zip(diagram.names, models, strict=True)):
        label = "\n".join([wrapped(name, 20), *([wrapped(model, 24)] if model else [])])
        box = {"boxstyle": "round,pad=0.5", "facecolor": _FILL, "edgecolor": _LINE}
        axes.text(place, 0, label, va="center", fontsize=9, bbox=box, zorder=3, **_TEXT)


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
