"""A step of a pipeline: names, keys, columns, and its node of a diagram."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from datasets import Dataset, Features
from datasets.fingerprint import Hasher

from hfsynth.errors import ColumnError
from hfsynth.filter import Filter
from hfsynth.fingerprint import code_state
from hfsynth.secrets import redact
from hfsynth.technique import Technique


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


DatasetFunction = Callable[[Dataset], Dataset]
Step = Technique | Filter | DatasetFunction


def step_name(step: Step) -> str:
    """Return a step's name.

    Raises:
        TypeError: If it is neither a technique nor a filter nor a named function.

    >>> def only_long(dataset): ...
    >>> step_name(only_long)
    'only_long'
    """
    if isinstance(step, Technique | Filter):
        return step.name
    name = getattr(step, "__name__", "")
    if not callable(step) or isinstance(step, type) or not name.isidentifier():
        raise TypeError(f"a pipeline's step is a technique, a filter or a named function of a dataset, not {step!r}.")
    return str(name)


def node_of(step: Step, columns: Collection[str]) -> Node:
    """Return how a drawing shows a step that is given these columns.

    Raises:
        ColumnError: As `Technique.wire` does.
    """
    if isinstance(step, Technique):
        reads, makes = step.wire(columns).values(), tuple(step.written_features)
        return Node(step.name, redact(step.llm.model_name), tuple(reads), makes)
    return Node(step_name(step), "", tuple(columns), None)


def step_hash(step: Step) -> str:
    """Return a hash of all that a step's rows depend on, but its input.

    It has the code of a function, or of a technique's, filter's or llm's class that isn't hfsynth's own, and of what
    it uses of its own modules (see `code.code_state`); and the state of the files that models and filters read.
    """
    if isinstance(step, Technique | Filter):
        return str(Hasher.hash(step))
    return str(Hasher.hash((step_name(step), code_state(step))))


def folder_name(step: Step) -> str:
    """Return a step's name as the beginning of a folder's: whatever it is, no path.

    >>> from hfsynth import EchoLLM, TextGeneration
    >>> folder_name(TextGeneration(EchoLLM(), name="../../x"))
    'x'
    """
    return re.sub(r"[^\w.-]+", "_", step_name(step)).strip("._-").encode()[:100].decode(errors="ignore") or "step"


def features_after(step: Step, number: int, features: Features | None) -> Features | None:
    """Return the features of what a step makes of a dataset with these, or None where that isn't known.

    Args:
        step: The step.
        number: Its place in the pipeline, for error messages.
        features: The input's, or None where a function has made it.

    Raises:
        ColumnError: If a column is missing, of the wrong type, or would be replaced.
    """
    if features is None or not isinstance(step, Technique | Filter):
        return None
    try:
        if isinstance(step, Technique):
            return step.check_features(features)
        step.check_columns(features)
        return features
    except ColumnError as error:
        raise ColumnError(f"step {number}, {error}") from None
