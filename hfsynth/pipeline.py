"""`Pipeline`, a chain of steps as a value: its columns, its diagram, its recipe.

A pipeline is written `SelfInstruct(llm) >> EvolInstruct(llm) >> TextGeneration(llm)`.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from datasets import Dataset, DatasetDict, Features

from hfsynth.distributed import is_main_process
from hfsynth.recipe import build_source, build_step, read_recipe, replace_model, write_recipe
from hfsynth.record import Node
from hfsynth.step import DatasetFunction, Step, as_step
from hfsynth.training_format import TrainingFormat

if TYPE_CHECKING:
    from hfsynth.dry_run import Preview
    from hfsynth.runner.rounds import RowSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrow:
    """Columns that lead from one place to another: 0 is the dataset, followed by the steps and the result."""

    start: int
    end: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Diagram:
    """A chain of steps as a graph of columns."""

    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]

    @classmethod
    def of(cls, columns: Iterable[str], nodes: Sequence[Node]) -> "Diagram":
        """Connect steps by the columns that they read.

        Args:
            columns: The dataset's.
            nodes: The steps' nodes, in order.
        """
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
        """Whether a step reads a column of the dataset; without one the diagram has no box for the dataset."""
        return any(arrow.start == 0 for arrow in self.arrows)

    @property
    def names(self) -> list[str]:
        """The name of each place: the dataset, the steps, the result."""
        return ["dataset", *(node.name for node in self.nodes), "result"]

    def mermaid(self) -> str:
        """Return the diagram as Mermaid text."""
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
        """Return the diagram as plain text, one line for each arrow.

        >>> print(Diagram.of(["instruction"], [Node("Answer", "echo", ("instruction",), ("generation",))]).text())
        dataset ── instruction ─▶ Answer (echo)
        Answer (echo) ── generation ─▶ result
        """
        models = ["", *(node.model for node in self.nodes), ""]
        labels = [f"{name} ({model})" if model else name for name, model in zip(self.names, models, strict=True)]
        return "\n".join(f"{labels[a.start]} ── {', '.join(a.columns)} ─▶ {labels[a.end]}" for a in self.arrows)


@dataclass(frozen=True, init=False)
class Pipeline:
    """A chain of steps, each of which reads the result of the step before it.

    Args:
        steps: Techniques, filters, and named functions from a dataset to a dataset. Techniques and filters of equal
            names get a number, since a step's name is part of its seeds.

    Raises:
        TypeError: If a step is none of these.

    >>> from hfsynth import EchoLLM, SelfInstruct, TextGeneration
    >>> llm = EchoLLM()
    >>> [step.name for step in (SelfInstruct(llm) >> TextGeneration(llm) >> TextGeneration(llm)).steps]
    ['SelfInstruct', 'TextGeneration', 'TextGeneration_2']
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
        """Append a step, or the steps of another pipeline."""
        return Pipeline((*self.steps, *(other.steps if isinstance(other, Pipeline) else (other,))))

    def __call__(self, *arguments: object, **keywords: object) -> NoReturn:  # noqa: ARG002 - as map calls it
        """Refuse `Dataset.map`: filters and functions need the whole dataset.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a Pipeline isn't a function for Dataset.map, since filters and functions need the whole dataset; "
            "call pipeline.run(dataset)."
        )

    def features(self, features: Features) -> list[Features | None]:
        """Return the features of the dataset before the first step and after each step.

        Args:
            features: The dataset's.

        Returns:
            One entry more than there are steps; None after a function, whose columns are known only after a run.

        Raises:
            ColumnError: If a column is missing, of the wrong type, or would be replaced; with the step's number.
        """
        stages: list[Features | None] = [features]
        for number, step in enumerate(self.steps, 1):
            stages.append(step.features_after(stages[-1], number))
        return stages

    def for_split(self, split: str) -> "Pipeline":
        """Return the pipeline with the seeds that a run of a `DatasetDict` uses in one of its splits.

        >>> from hfsynth import EchoLLM, TextGeneration
        >>> pipeline = Pipeline((TextGeneration(EchoLLM()),))
        >>> splits = DatasetDict(test=Dataset.from_dict({"instruction": ["Name a colour."]}))
        >>> of_split = pipeline.for_split("test").run(splits["test"], quiet=True)
        >>> of_split.to_list() == pipeline.run(splits, quiet=True)["test"].to_list()
        True
        """
        return Pipeline(step.for_split(split) for step in self.steps)

    def run(
        self,
        dataset: "Dataset | DatasetDict | RowSource | None" = None,
        *,
        num_rows: int | None = None,
        max_rows: int | None = None,
        max_tokens: int | None = None,
        run_dir: str | Path | None = None,
        chunk_size: int | None = None,
        deterministic: bool = False,
        quiet: bool = False,
        push_target: str | None = None,
    ) -> Dataset | DatasetDict:
        """Run all steps over a dataset, and compute only what an earlier run has not finished.

        With `num_rows` the run takes input round by round until that many rows are accepted: no step failed on them
        and no filter dropped them. They are the first rows that a run over the whole input accepts, provided that
        functions treat each row by itself.

        Args:
            dataset: The input. None for techniques that need no columns, with `num_rows`. The splits of a
                `DatasetDict` run one after the other, with seeds that depend on the split's name.
            num_rows: Number of accepted rows to return; for a `DatasetDict`, this and the limits apply to each split.
                Default: every row that the input yields.
            max_rows: Limit of input rows to try for `num_rows`. Default: the whole input; without a dataset, ten
                times `num_rows`.
            max_tokens: Limit of prompt and completion tokens of all steps for `num_rows`: no round begins that is
                likely to exceed it. If a limit or the input ends first, fewer rows are returned, with a warning.
            run_dir: Folder of finished rows. Default: a folder in the cache of datasets.
            chunk_size: Rows of a chunk, the unit of files. Default: by the number of rows.
            deterministic: Complete each chunk by itself, with the same rows beside each row in every run, for llms
                whose rows depend on the rows beside them. Slower: devices wait for the end of each chunk.
            quiet: Show no progress bars.
            push_target: A dataset on the Hub, `user/name`, that you will push the result to (`push_to_hub`): your
                right to push is checked before the run.

        Returns:
            The rows of the last step, the same on every process; for a `DatasetDict`, those of each split.

        Raises:
            PushError: If `push_target` can't be pushed to, before any model is loaded.
            ColumnError: If a step's columns don't fit, before any model is loaded.
            GenerationError: If an llm can't be loaded.
            RunError: If chunks failed twice, or the run directory can't be written. Finished chunks are kept.
            ValueError: If a limit is given without `num_rows`, `num_rows` is needed, or a `DatasetDict` has no split.
            ImportError, ValueError: If a filter lacks a package or a file.
        """
        from hfsynth.runner.run import run  # layers above, as in preview and push_to_hub

        if push_target is not None and is_main_process():
            from hfsynth.publish.hub import check_push_target

            check_push_target(push_target)
        result = run(
            self,
            dataset,
            num_rows=num_rows,
            max_rows=max_rows,
            max_tokens=max_tokens,
            run_dir=run_dir,
            chunk_size=chunk_size,
            deterministic=deterministic,
            quiet=quiet,
        )
        if isinstance(result, dict):
            return DatasetDict({split: of_split.dataset for split, of_split in result.items()})
        return result.dataset

    def preview(
        self,
        dataset: "Dataset | RowSource | None" = None,
        n: int = 3,
        *,
        measured: int = 16,
        num_rows: int | None = None,
        max_rows: int | None = None,
        max_tokens: int | None = None,
        chunk_size: int | None = None,
    ) -> "Preview":
        """Run the first rows, and return every prompt, completion and result, with an estimate of a run's cost.

        The rows are those that a run begins with. Process 0 runs them; other processes run none. Nothing is saved.

        Args:
            dataset: The input, as for `run`; of a `DatasetDict`, one split: `pipeline.for_split("test")` previews
                the rows of that split.
            n: Rows to show.
            measured: Rows to run, at least `n`; more rows give a narrower estimate.
            num_rows: As for `run`; this and the following enter the estimate.
            max_rows: As for `run`.
            max_tokens: As for `run`.
            chunk_size: As for `run`.

        Returns:
            The preview, to be printed or shown in a notebook.

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
        format: TrainingFormat | str | None = None,
    ) -> str | None:
        """Push a result of this pipeline to the Hub, as `hfsynth.push_to_hub` does.

        Args:
            dataset: The result of `run`, or of `Dataset.map` with the technique.
            repo_id: The dataset on the Hub, `user/name`.
            config_name: Name of the configuration.
            private: Whether a new dataset is private. Default: the namespace's setting.
            token: A token with write access. Default: the one that you are logged in with.
            format: The training format of the rows, as for `hfsynth.save`.

        Returns:
            The URL of the commit on process 0; None on other processes.

        Raises:
            PushError: If it can't be pushed.
        """
        from hfsynth.publish.hub import push_to_hub

        return push_to_hub(
            dataset, repo_id, config_name=config_name, private=private, token=token, steps=self.steps, format=format
        )

    def to_yaml(self) -> str:
        """Return the pipeline as a recipe: every field of every step, as `from_yaml` reads it."""
        return write_recipe([step.describe() for step in self.steps])

    @classmethod
    def from_yaml(
        cls,
        text: str,
        *own: type | DatasetFunction,
        model: str | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> "Pipeline":
        """Build the pipeline of a recipe.

        Args:
            text: The recipe.
            own: Your own classes and functions that the recipe names.
            model: Name or folder to use for the recipe's models; of a model in a folder, the recipe has only the
                folder's name.
            secrets: Keys and tokens that the recipe leaves out, by the names of their fields. Default: environment
                variables such as `HFSYNTH_API_KEY` for `api_key`.

        Raises:
            ValueError: If the text isn't a recipe, a name is missing or of another version, or a secret is missing.
        """
        described, _ = read_recipe(text)
        names = public_names() | {value.__name__: value for value in own}
        steps = [replace_model(step, model) if model else step for step in described]
        return cls(build_step(step, names, secrets) for step in steps)

    def draw(self, features: Features | None = None, *, file: str | Path | None = None) -> str:
        """Return the steps and the columns between them as Mermaid text; a notebook shows a pipeline as a picture.

        Args:
            features: The dataset's. Default: the columns that steps read and no earlier step writes.
            file: A file for a picture as well, `.png` or `.svg`.

        Raises:
            ValueError: If the file's name ends in neither.

        >>> from hfsynth import EchoLLM, TextGeneration
        >>> second = TextGeneration(EchoLLM(), output_mappings={"generation": "second"})
        >>> print((TextGeneration(EchoLLM()) >> second).draw())
        flowchart LR
            dataset[("dataset")]
            step1["<b>TextGeneration</b><br/>echo"]
            step2["<b>TextGeneration_2</b><br/>echo"]
            result[("result")]
            dataset -- "instruction" --> step1
            dataset -- "instruction" --> step2
            step1 -- "generation" --> result
            step2 -- "second" --> result
        """
        diagram = self._diagram(features)
        if file is not None:
            from hfsynth.analysis.render import draw_diagram

            form = Path(file).suffix.lower()
            if form not in (".png", ".svg"):
                raise ValueError(f"the picture {str(file)!r} must end in .png or .svg.")
            Path(file).write_bytes(draw_diagram(diagram, "png" if form == ".png" else "svg"))
        return diagram.mermaid()

    def _repr_svg_(self) -> str:
        from hfsynth.analysis.render import draw_diagram

        return draw_diagram(self._diagram(None), "svg").decode()

    def _diagram(self, features: Features | None) -> Diagram:
        columns = list(features or self._first_inputs())
        available, nodes = set(columns), list[Node]()
        for step in self.steps:
            nodes.append(step.node(available))
            available |= set(nodes[-1].makes or ())
        return Diagram.of(columns, nodes)

    def check(self, features: Features) -> None:
        """Check columns, packages and files before a model is loaded, and log where an older column is read.

        Args:
            features: The dataset's.

        Raises:
            ColumnError: If a step's columns don't fit.
            GenerationError: If an llm lacks a file.
            ImportError, ValueError: If a filter lacks a package or a file.
        """
        self.features(features)
        for step in self.steps:
            step.check_ready()
        for hint in self._hints():
            logger.warning(hint)

    def _hints(self) -> list[str]:
        """Return a hint for each column that a step reads by default though an earlier step wrote a newer version."""
        newer: dict[str, tuple[int, str]] = {}
        hints: list[str] = []
        for number, step in enumerate(self.steps, 1):
            for name in step.default_inputs():
                if name in newer:
                    maker, column = newer[name]
                    hints.append(
                        f"step {number}, {step.name}, reads {name!r}, but step {maker} writes a newer version, "
                        f"{column!r}: set input_mappings={{{name!r}: {column!r}}} to read it, or "
                        f"{{{name!r}: {name!r}}} to keep {name!r}."
                    )
            newer |= {old: (number, column) for old, column in step.newer_columns().items()}
        return hints

    def _first_inputs(self) -> list[str]:
        """Return the columns that a step reads and no earlier step writes."""
        written: set[str] = set()
        needed: dict[str, None] = {}
        for step in self.steps:
            needed |= dict.fromkeys(column for column in step.needed_columns(written) if column not in written)
            written |= set(step.written_features)
        return list(needed)


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name that isn't taken: the name itself, or with the first free number from 2 on."""
    if name not in taken:
        return name
    root = re.sub(r"_\d+$", "", name)
    return next(free for number in count(2) if (free := f"{root}_{number}") not in taken)


def read_source(text: str) -> Any:
    """Return the input that a recipe describes; None if it describes none.

    Raises:
        ValueError: If it isn't a recipe, or its class is missing or of another version.
    """
    return build_source(text, public_names())


def public_names() -> dict[str, Any]:
    """Return hfsynth's public classes and functions by their names, as recipes name them."""
    import hfsynth  # the layer above, which imports each of them on first use

    return {name: getattr(hfsynth, name) for name in hfsynth.__all__}
