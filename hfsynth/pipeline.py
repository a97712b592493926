"""Steps in a chain: `SelfInstruct(llm) >> EvolInstruct(llm) >> TextGeneration(llm)`."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from datasets import Dataset, DatasetDict, Features

from hfsynth.distributed import is_main_process
from hfsynth.recipe import known_names, make_step, read_recipe, replace_model, write_recipe
from hfsynth.step import DatasetFunction, Node, Step, as_step

if TYPE_CHECKING:
    from hfsynth.dry_run import Preview
    from hfsynth.runner.rounds import RowSource

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, init=False)
class Pipeline:
    """Steps, each run on what the one before made of the dataset.

    A step is a technique, a filter, or a named function from a dataset to a dataset. Techniques and filters of equal
    names get a number, since a step's name is part of its seeds.

    Raises:
        TypeError: If a step is none of these.
    """

    steps: tuple[Step, ...]

    def __init__(self, steps: Iterable[Step | DatasetFunction]) -> None:
        if isinstance(steps, Step) or not isinstance(steps, Iterable):
            raise TypeError(f"Pipeline takes a tuple of steps, not {steps!r:.200}; give Pipeline((step,)).")
        named: list[Step] = []
        for step in map(as_step, steps):
            named.append(step.renamed(_free_name(step.name, {other.name for other in named})))
        object.__setattr__(self, "steps", tuple(named))

    def __rshift__(self, other: "Step | DatasetFunction | Pipeline") -> "Pipeline":
        """Add a step, or all steps of another pipeline, at the end."""
        return Pipeline((*self.steps, *(other.steps if isinstance(other, Pipeline) else (other,))))

    def __call__(self, *arguments: object, **keywords: object) -> NoReturn:  # noqa: ARG002 - as map calls it
        """Say that a pipeline is run, not mapped: its filters and functions need the whole dataset.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a Pipeline isn't a function for Dataset.map, since filters and functions need the whole dataset; "
            "call pipeline.run(dataset)."
        )

    def features(self, features: Features) -> list[Features | None]:
        """Return the features that the dataset has before the first step and after each.

        What a function makes of a dataset is known only once it has run: None, from there on.

        Raises:
            ColumnError: If a step needs a column that it won't find, or would replace one; with the step's number.
        """
        stages: list[Features | None] = [features]
        for number, step in enumerate(self.steps, 1):
            stages.append(step.features_after(stages[-1], number))
        return stages

    def run(
        self,
        dataset: "Dataset | RowSource | None" = None,
        *,
        num_rows: int | None = None,
        max_rows: int | None = None,
        max_tokens: int | None = None,
        run_dir: str | Path | None = None,
        chunk_size: int = 128,
        quiet: bool = False,
        push_target: str | None = None,
    ) -> Dataset:
        """Run all steps over a dataset, computing only what is not there from an earlier run.

        With `num_rows` it goes on, round by round, until so many rows are accepted: no step failed on them and no
        filter dropped them. They are the first that a run over all of the input would have made (where functions, if
        there are any, look at each row by itself), and nothing else is returned.

        Args:
            dataset: The input; of a `DatasetDict`, one split. None for techniques that need no columns, with
                `num_rows`.
            num_rows: Accepted rows wanted; default: whatever becomes of all rows of the input.
            max_rows: Rows of the input to try for them at most; default: all, or where there is no dataset ten times
                `num_rows`.
            max_tokens: Tokens to read and write for them, in all steps: no round is begun that is likely to pass it.
                Where the input or a limit is spent first, there are fewer rows, and a warning.
            run_dir: Where finished chunks are kept. Default: a folder in the cache of datasets.
            chunk_size: Rows that are computed, saved and lost together; best several times the batch size.
            quiet: No progress bars.
            push_target: A dataset on the Hub, `user/name`, that the result is to be pushed to afterwards: whether you
                may is found out now.

        Raises:
            ColumnError: If a step's columns don't fit, before any model is loaded.
            PushError: If `push_target` can't be pushed to, before any model is loaded.
            GenerationError: If an llm can't be loaded.
            RunError: If chunks failed twice, or the run directory can't be written. What was finished is kept.
            ValueError: If a limit is given without `num_rows`, or `num_rows` is needed.
            ImportError, ValueError: If a filter lacks a package or a file.
        """
        from hfsynth.publish.hub import check_push_target  # layers above, as in preview and push_to_hub
        from hfsynth.runner.run import run

        if push_target is not None and is_main_process():
            check_push_target(push_target)
        return run(
            self,
            dataset,
            num_rows=num_rows,
            max_rows=max_rows,
            max_tokens=max_tokens,
            run_dir=run_dir,
            chunk_size=chunk_size,
            quiet=quiet,
        ).dataset

    def preview(
        self,
        dataset: "Dataset | RowSource | None" = None,
        n: int = 3,
        *,
        measured: int = 16,
        num_rows: int | None = None,
        max_rows: int | None = None,
        max_tokens: int | None = None,
        chunk_size: int = 128,
    ) -> "Preview":
        """Run the first rows, to look at them: what the models read and write, what comes of it, what all would take.

        The rows are those that a run begins with; process 0 runs them, any other gets none. Nothing of them is kept.

        Args:
            dataset: The input, as `run` takes it, as it does all but the next two.
            n: Rows to show.
            measured: Rows to run, `n` at least: the more, the nearer the estimate.
            num_rows: Accepted rows that the run is to make. Default: whatever becomes of all rows of the input.
            max_rows: Rows of the input to try for them at most.
            max_tokens: Tokens to spend on them.
            chunk_size: The run's.

        Returns:
            The preview: print it, or let a notebook show it.

        Raises:
            ColumnError: If a step's columns don't fit, before any model is loaded.
            GenerationError: If an llm can't be loaded.
            ValueError: If `n` or another number is below 1, or a limit is given without `num_rows`.
            ImportError, ValueError: If a filter lacks a package or a file.
        """
        from hfsynth.dry_run import preview_pipeline

        return preview_pipeline(
            self,
            dataset,
            n,
            measured=measured,
            num_rows=num_rows,
            max_rows=max_rows,
            max_tokens=max_tokens,
            chunk_size=chunk_size,
        )

    def push_to_hub(
        self,
        dataset: Dataset | DatasetDict,
        repo_id: str,
        *,
        config_name: str = "default",
        private: bool | None = None,
        token: str | None = None,
    ) -> str | None:
        """Push what this pipeline made, as `hfsynth.push_to_hub` does.

        Args:
            dataset: What `run` returned, or `Dataset.map` with the technique.
            repo_id: The dataset on the Hub, `user/name`.
            config_name: Name of the configuration.
            private: Whether a dataset that is made there is private; default: as the namespace has it.
            token: A token with write access; default: the one that you are logged in with.

        Returns:
            The address of the commit; None in other processes than 0.

        Raises:
            PushError: If it can't be pushed.
        """
        from hfsynth.publish.hub import push_to_hub

        return push_to_hub(dataset, repo_id, config_name=config_name, private=private, token=token, steps=self.steps)

    def to_yaml(self) -> str:
        """Return the pipeline as a recipe: every field of every step, from which `from_yaml` makes it again."""
        return write_recipe([step.describe() for step in self.steps])

    @classmethod
    def from_yaml(
        cls,
        text: str,
        *known: type | DatasetFunction,
        model: str | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> "Pipeline":
        """Make the pipeline of a recipe.

        Args:
            text: The recipe.
            known: Classes and functions that it names and that are not hfsynth's own.
            model: Name or folder to use for the recipe's models, of which one in a folder is known by its name alone.
            secrets: Keys and tokens that the recipe leaves out, by the names of their fields. Default: environment
                variables such as `HFSYNTH_API_KEY` for `api_key`.

        Raises:
            ValueError: If it isn't a recipe, names what isn't known or is of another version, or lacks a secret.
        """
        described, _ = read_recipe(text)
        names = known_names(known)
        steps = [replace_model(step, model) if model else step for step in described]
        return cls(tuple(make_step(step, names, secrets) for step in steps))

    def draw(self, features: Features | None = None, *, file: str | Path | None = None) -> str:
        """Return the steps and the columns between them as Mermaid text; a notebook shows a pipeline as a picture.

        Args:
            features: The dataset's; by default the columns that are read before a step makes them.
            file: A file to draw a picture into as well, by its name a PNG or an SVG.

        Raises:
            ValueError: If the file's name ends in neither.

        >>> from hfsynth import EchoLLM, TextGeneration
        >>> again = TextGeneration(EchoLLM(), output_mappings={"generation": "again"})
        >>> print((TextGeneration(EchoLLM()) >> again).draw())
        flowchart LR
            dataset[("dataset")]
            step1["<b>TextGeneration</b><br/>echo"]
            step2["<b>TextGeneration_2</b><br/>echo"]
            result[("result")]
            dataset -- "instruction" --> step1
            dataset -- "instruction" --> step2
            step1 -- "generation" --> result
            step2 -- "again" --> result
        """
        diagram = self._diagram(features)
        if file is not None:
            from hfsynth.publish.diagram_image import draw_diagram  # matplotlib: as long as all other imports

            form = Path(file).suffix.lower()
            if form not in (".png", ".svg"):
                raise ValueError(f"the picture {str(file)!r} must end in .png or .svg.")
            Path(file).write_bytes(draw_diagram(diagram, "png" if form == ".png" else "svg"))
        return diagram.mermaid()

    def _repr_svg_(self) -> str:
        from hfsynth.publish.diagram_image import draw_diagram

        return draw_diagram(self._diagram(None), "svg").decode()

    def _diagram(self, features: Features | None) -> Diagram:
        columns = list(features or self._first_inputs())
        seen, nodes = set(columns), list[Node]()
        for step in self.steps:
            nodes.append(step.node(seen))
            seen |= set(nodes[-1].makes or ())
        return Diagram.of(columns, nodes)

    def check(self, features: Features) -> None:
        """Check columns, packages and files before a model is loaded, and log where an older column is read.

        Args:
            features: The dataset's.

        Raises:
            ColumnError: If a step's columns don't fit.
            ImportError, ValueError: If a filter lacks a package or a file.
        """
        self.features(features)
        for step in self.steps:
            step.check_ready()
        for hint in self._hints():
            logger.warning(hint)

    def _hints(self) -> list[str]:
        """Say where a step reads a column of which an earlier step has made a newer version, without being told to."""
        newer: dict[str, tuple[int, str]] = {}
        hints: list[str] = []
        for number, step in enumerate(self.steps, 1):
            for name in step.default_inputs():
                if name in newer:
                    maker, column = newer[name]
                    hints.append(
                        f"step {number}, {step.name}, reads {name!r}, of which step {maker} makes {column!r}: to read "
                        f"that, say input_mappings={{{name!r}: {column!r}}}, or {{{name!r}: {name!r}}} if it is meant."
                    )
            newer |= {old: (number, column) for old, column in step.newer_columns().items()}
        return hints

    def _first_inputs(self) -> list[str]:
        """Columns that no step makes before one reads them."""
        made: set[str] = set()
        needed: dict[str, None] = {}
        for step in self.steps:
            needed |= dict.fromkeys(column for column in step.needed_columns(made) if column not in made)
            made |= set(step.written_features)
        return list(needed)


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name, or with the first number that makes it one that isn't taken."""
    if name not in taken:
        return name
    root = re.sub(r"_\d+$", "", name)
    return next(free for number in count(2) if (free := f"{root}_{number}") not in taken)
