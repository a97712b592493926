"""A preview: some rows as every step read and made them, and an estimate; for a terminal and for a notebook."""

import io
from dataclasses import dataclass
from html import escape

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from hfsynth.previewing.estimate import Estimate
from hfsynth.previewing.trying import TriedRow, TriedStep
from hfsynth.previewing.wording import facts, pieces, title, told

_WIDTH = 100  # columns of a preview that is no terminal's
_STYLES = {"read": "cyan", "written": "green", "column": "bold", "error": "red", "fact": "dim"}
_CSS = """
.hfsynth-preview { font-family: sans-serif; color: #1a1a1a; background: #ffffff; padding: 0.5em; }
.hfsynth-preview pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.4em; color: #1a1a1a; }
.hfsynth-preview .read { background: #e3f0fa; } .hfsynth-preview .written { background: #e6f4e1; }
.hfsynth-preview .column { background: #f2f2f2; } .hfsynth-preview .error { background: #fbe3e0; }
.hfsynth-preview .fact { color: #555555; }
"""


@dataclass(frozen=True)
class Preview:
    """What `Pipeline.preview` returns: printed in a terminal, and shown by a notebook."""

    steps: tuple[TriedStep, ...]
    estimate: Estimate
    shown: int
    """Rows of each step that are shown; more may have been tried, for the estimate."""

    def text(self, width: int = _WIDTH) -> str:
        """Return the preview as plain text, at most `width` signs wide."""
        console = Console(width=width, file=io.StringIO(), color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def html(self) -> str:
        """Return the preview as a piece of HTML that needs nothing else; what is in the rows is shown as text."""
        parts = [f'<div class="hfsynth-preview"><style>{_CSS}</style>']
        for step in self.steps:
            parts.append(f"<h4>{escape(title(step))}: {escape(facts(step, self.shown))}</h4>")
            for row in step.rows[: self.shown]:
                parts.append(f"<details open><summary>row {row.row}</summary>")
                parts += [
                    f'<div class="fact">{escape(what)}</div><pre class="{kind}">{escape(text)}</pre>'
                    for kind, what, text in pieces(row)
                ]
                parts.append("</details>")
        lines = "".join(f"<li>{escape(line)}</li>" for line in told(self.estimate, self.steps))
        return "\n".join([*parts, f"<h4>All of it</h4><ul>{lines}</ul></div>"])

    def __str__(self) -> str:
        return self.text()

    def __rich__(self) -> RenderableType:
        panels = [
            Panel(
                Group(
                    Text(facts(step, self.shown), style=_STYLES["fact"]),
                    *(_lines(row) for row in step.rows[: self.shown]),
                ),
                title=Text(title(step)),
                title_align="left",
            )
            for step in self.steps
        ]
        lines = Text("\n".join(told(self.estimate, self.steps)))
        return Group(*panels, Panel(lines, title="All of it", title_align="left"))

    def _repr_html_(self) -> str:
        return self.html()


def _lines(row: TriedRow) -> Text:
    text = Text()
    text.append(f"row {row.row}\n", style="bold underline")
    for kind, what, shown in pieces(row):
        text.append(f"{what}\n", style=_STYLES["fact"])
        text.append(f"{shown}\n" if shown else "", style=_STYLES[kind])
    return text
