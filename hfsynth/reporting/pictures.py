"""Pictures of a report, as PNG on white, to be read on any page; matplotlib is imported when one is drawn.

Lengths are drawn as on a card (`publishing.pictures.draw_lengths`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfsynth.publishing.figures import Lengths
from hfsynth.reporting.embedded import Embedded
from hfsynth.reporting.spread import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY, _ORANGE = "#9aa5b1", "#a8480f"
_WORDS = 24  # characters of a line of a text on the map


def draw_lengths(lengths: Mapping[str, Lengths], unit: str) -> bytes:
    """Draw a histogram of lengths in a unit for each kind of texts."""
    from hfsynth.publishing import pictures

    return pictures.draw_lengths(lengths, unit)


def draw_funnel(stages: Sequence[tuple[str, int, int, int]]) -> bytes:
    """Draw each step's name, rows in, rows out, and how many of these it failed on, as on a card."""
    from hfsynth.publishing import pictures

    return pictures.draw_funnel(stages)


def draw_similarity(similarity: Mapping[str, Spread], limit: float) -> bytes:
    """Draw how near the nearest other instruction is, from nothing in common to equal.

    Args:
        similarity: What a dataset is called → its figures; of two, the second is drawn as a line.
        limit: What is marked.
    """
    from hfsynth.publishing.pictures import BLUE, INK, drawn

    figure, axes = _axes(6.4, 2.8)
    for number, (name, spread) in enumerate(similarity.items()):
        shares = [100 * count / spread.count for count in spread.counts]
        label = f"{name} (median {spread.median:.2f})".strip()
        style: dict[str, Any] = {"color": INK, "linewidth": 1.8} if number else {"color": BLUE, "fill": True}
        axes.stairs(shares, spread.edges, label=label, **style)
    axes.axvline(limit, color=_ORANGE, linewidth=1.5, linestyle="--", label=f"{limit}: Self-Instruct's limit")
    axes.set_title("nearest other instruction", fontsize=9)
    axes.set_xlabel("ROUGE-L F-measure with it", fontsize=8)
    axes.set_ylabel("instructions, in %", fontsize=8)
    for text in axes.legend(fontsize=8, framealpha=1).get_texts():
        text.set_parse_math(False)
    return drawn(figure)


def draw_map(embedded: Embedded) -> bytes:
    """Draw where the instructions lie along the two directions in which they differ most, with the words of some."""
    from hfsynth.publishing.pictures import BLUE, INK, drawn, wrapped

    figure, axes = _axes(7.2, 5.2)
    axes.scatter([x for x, _ in embedded.points], [y for _, y in embedded.points], s=9, color=BLUE, linewidths=0)
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": _GREY, "linewidth": 0.5}
    for example in embedded.examples:
        point = embedded.points[example.place]
        words = wrapped(example.text, _WORDS)
        place: dict[str, Any] = {
            "xytext": (0, 7),
            "textcoords": "offset points",
            "ha": "center",
            "fontsize": 7,
            "color": INK,
        }
        axes.annotate(words, point, bbox=box, **place).set_parse_math(False)
    axes.margins(0.12)
    axes.set_title(f"{embedded.rows:,} instructions, near each other where they mean the same", fontsize=9)
    axes.set_xlabel("first principal component", fontsize=8)
    axes.set_ylabel("second principal component", fontsize=8)
    return drawn(figure)


def _axes(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
