"""Steps and the columns that go from one to another: as Mermaid, and as lines that a terminal shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Node:
    """A step, and what it reads and makes; `makes` is None for a function, which may make anything of everything."""

    name: str
    model: str
    """The llm's name; "" for a function."""
    reads: tuple[str, ...]
    makes: tuple[str, ...] | None


@dataclass(frozen=True)
class Arrow:
    """Columns that one node hands to another: 0 is the dataset, then the steps, last the result."""

    start: int
    end: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Diagram:
    """A chain of steps, drawn."""

    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]

    @classmethod
    def of(cls, columns: Iterable[str], nodes: Sequence[Node]) -> "Diagram":
        """Connect steps, from the columns that there are before the first."""
        makers = dict.fromkeys(columns, 0)
        found: dict[tuple[int, int], list[str]] = {}
        for number, node in enumerate(nodes, 1):
            for column in node.reads if node.makes is not None else list(makers):
                found.setdefault((makers[column], number), []).append(column)
            makers |= dict.fromkeys(makers if node.makes is None else node.makes, number)
        for column, maker in makers.items():
            if maker:
                found.setdefault((maker, len(nodes) + 1), []).append(column)
        return cls(tuple(nodes), tuple(Arrow(*ends, tuple(names)) for ends, names in found.items()))

    @property
    def reads_dataset(self) -> bool:
        """Whether a step reads anything of the dataset; a drawing has no box for one that nothing reads."""
        return any(arrow.start == 0 for arrow in self.arrows)

    @property
    def names(self) -> list[str]:
        """What stands at each place: the dataset, the steps, the result."""
        return ["dataset", *(node.name for node in self.nodes), "result"]

    def mermaid(self) -> str:
        """Return Mermaid text."""
        ids = ["dataset", *(f"step{number}" for number in range(1, len(self.nodes) + 1)), "result"]
        boxes = ['dataset[("dataset")]'] if self.reads_dataset else []
        for number, node in enumerate(self.nodes, 1):
            model = f"<br/>{escape(node.model)}" if node.model else ""
            boxes.append(f'step{number}["<b>{escape(node.name)}</b>{model}"]')
        arrows = [
            f'{ids[arrow.start]} -- "{escape(", ".join(arrow.columns))}" --> {ids[arrow.end]}' for arrow in self.arrows
        ]
        return "\n    ".join(["flowchart LR", *boxes, 'result[("result")]', *arrows])

    def text(self) -> str:
        """Return a line for each arrow, as any terminal shows it.

        >>> print(Diagram.of(["instruction"], [Node("Answer", "echo", ("instruction",), ("generation",))]).text())
        dataset ── instruction ─▶ Answer (echo)
        Answer (echo) ── generation ─▶ result
        """
        models = ["", *(node.model for node in self.nodes), ""]
        told = [f"{name} ({model})" if model else name for name, model in zip(self.names, models, strict=True)]
        return "\n".join(f"{told[a.start]} ── {', '.join(a.columns)} ─▶ {told[a.end]}" for a in self.arrows)
