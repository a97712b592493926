"""Charts of a dataset, as PNG on white with dark ink, legible on light and dark pages.

matplotlib is imported with the first chart, since its import takes as long as that of everything else.
"""

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hfsynth.analysis.text_stats import Lengths, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK = "#1f2933"
Form = Literal["png", "svg"]
_BLUE, _GREY, _ORANGE = "#3e7cb1", "#9aa5b1", "#a8480f"
_HISTOGRAMS_PER_ROW = 3


def draw_lengths(lengths: Mapping[str, Lengths], unit: str) -> bytes:
    """Draw a histogram of lengths for each kind of text, three side by side.

    Args:
        lengths: Kind of text → its lengths.
        unit: What the lengths count, such as "words".
    """
    columns, rows = min(len(lengths), _HISTOGRAMS_PER_ROW), -(-len(lengths) // _HISTOGRAMS_PER_ROW)

    def plot(figure: "Figure") -> None:
        for number, (kind, distribution) in enumerate(lengths.items(), 1):
            axes = _plain_axes(figure, (rows, columns, number))
            axes.stairs(distribution.counts, distribution.edges, fill=True, color=_BLUE)
            axes.axvline(distribution.median, color=INK, linewidth=1, linestyle="--")
            axes.set_title(wrapped(f"{kind} (median {distribution.median:,})", 36), fontsize=9, parse_math=False)
            axes.set_xlabel(unit, fontsize=8)
            axes.set_ylabel("texts", fontsize=8)
            axes.locator_params(integer=True)

    return render_figure(plot, (3.6 * columns, 2.6 * rows))


def draw_funnel(stages: Sequence[tuple[str, int, int, int]]) -> bytes:
    """Draw two bars for each step: the rows that it read, and in front of them those that it handed on.

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
        axes.set_yticks(places, [wrapped(name, 30) for name, *_ in stages], fontsize=8, parse_math=False)
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
            style: dict[str, Any] = {"color": INK, "linewidth": 1.8} if number else {"color": _BLUE, "fill": True}
            axes.stairs(percentages, spread.edges, label=label, **style)
        axes.axvline(limit, color=_ORANGE, linewidth=1.5, linestyle="--", label=f"{limit}: Self-Instruct's limit")
        axes.set_title("nearest other instruction", fontsize=9)
        axes.set_xlabel("ROUGE-L F-measure", fontsize=8)
        axes.set_ylabel("instructions (%)", fontsize=8)
        for text in axes.legend(fontsize=8, framealpha=1).get_texts():
            text.set_parse_math(False)

    return render_figure(plot, (6.4, 2.8))


def wrapped(text: str, width: int) -> str:
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
