"""Steps in a chain: `SelfInstruct(llm) >> EvolInstruct(llm) >> TextGeneration(llm)`."""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from hfsynth.distributed import is_main_process
from hfsynth.dry_run import Preview
from hfsynth.dry_run import estimate
from hfsynth.dry_run import try_steps
from hfsynth.filter import Filter
from hfsynth.publish.hub import push_to_hub
from hfsynth.recipe import describe_step
from hfsynth.recipe import known_names
from hfsynth.recipe import make_step
from hfsynth.recipe import read_recipe
from hfsynth.recipe import replace_model
from hfsynth.recipe import write_recipe
from hfsynth.runner.rounds import Target
from hfsynth.runner.rounds import RowSource
from hfsynth.runner.rounds import source_of
from hfsynth.step import DatasetFunction
from hfsynth.step import Diagram
from hfsynth.step import Node
from hfsynth.step import Step
from hfsynth.step import features_after
from hfsynth.step import node_of
from hfsynth.step import step_name
from hfsynth.technique import Technique
from itertools import count
from pathlib import Path
from typing import NoReturn
import logging
import re


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pipeline:
    """Steps, each run on what the one before made of the dataset.

    A step is a technique, a filter, or a named function from a dataset to a dataset. Techniques and filters of equal
    names get a number, since a step's name is part of its seeds.

    Raises:
        TypeError: If a step is none of these.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        """Check the steps and make their names differ."""
        named: list[Step] = []
        for step in self.steps:
            free = _free_name(step_name(step), {step_name(other) for other in named})
            named.append(replace(step, name=free) if isinstance(step, Technique | Filter) else step)
        object.__setattr__(self, "steps", tuple(named))

    def __rshift__(self, other: "Step | Pipeline") -> "Pipeline":
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
            stages.append(features_after(step, number, stages[-1]))
        return stages

    def check(self, features: Features) -> None:
        """Check everything that can be checked before a model is loaded, and log hints at likely mistakes.

        Args:
            features: The input's.

        Raises:
            ColumnError: If a step's columns don't fit.
            ImportError, ValueError: If a filter lacks a package or a file.
        """
        self.features(features)
        for step in self.steps:
            if isinstance(step, Filter):
                step.check_ready()
        for hint in self._hints():
            logger.warning(hint)

    def run(
        self,
        dataset: Dataset | RowSource | None = None,
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
        if push_target is not None and is_main_process():
            from hfsynth.publish.hub import check_push_target

            check_push_target(push_target)
        from hfsynth.runner.run import run

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
        dataset: Dataset | RowSource | None = None,
        n: int = 3,
        *,
        measured: int = 16,
        num_rows: int | None = None,
        max_rows: int | None = None,
        max_tokens: int | None = None,
        chunk_size: int = 128,
    ) -> Preview:
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
        if n < 1:
            raise ValueError(f"n is {n}; a preview shows at least 1 row.")
        goal = Target.from_options(num_rows, max_rows, max_tokens)
        source = source_of(dataset, num_rows or n)
        self.check(source.rows(0, 0, ()).features)
        most = max(n, measured) if is_main_process() else 0
        count = min(limit for limit in (most, source.num_rows, max_rows) if limit is not None)
        steps = try_steps(self.steps, source.rows(0, count, ()))
        return Preview(tuple(steps), estimate(steps, source, count, goal, chunk_size), n)

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
        return push_to_hub(dataset, repo_id, config_name=config_name, private=private, token=token, steps=self.steps)

    def to_yaml(self) -> str:
        """Return the pipeline as a recipe: every field of every step, from which `from_yaml` makes it again."""
        return write_recipe([describe_step(step) for step in self.steps])

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
            nodes.append(node_of(step, seen))
            seen |= set(nodes[-1].makes or ())
        return Diagram.of(columns, nodes)

    def _hints(self) -> list[str]:
        """Say where a step reads a column of which an earlier step has made a newer version, without being told to."""
        newer: dict[str, tuple[int, str]] = {}
        hints: list[str] = []
        for number, step in enumerate(self.steps, 1):
            if not isinstance(step, Technique):
                continue
            for name in step.input_features(()):
                if name in newer and name not in step.input_mappings:
                    maker, column = newer[name]
                    hints.append(
                        f"step {number}, {step.name}, reads {name!r}, of which step {maker} makes {column!r}: to read "
                        f"that, say input_mappings={{{name!r}: {column!r}}}, or {{{name!r}: {name!r}}} if it is meant."
                    )
            for old, new in step.rewrites.items():
                if new in step.output_features:
                    newer[step.input_mappings.get(old, old)] = (number, step.output_mappings.get(new, new))
        return hints

    def _first_inputs(self) -> list[str]:
        """Columns that no step makes before one reads them."""
        made: set[str] = set()
        needed: dict[str, None] = {}
        for step in self.steps:
            if isinstance(step, Technique):
                wanted = step.input_features(made | set(step.input_mappings))
                read = [step.input_mappings.get(name, name) for name in wanted]
                needed |= dict.fromkeys(column for column in read if column not in made)
                made |= set(step.written_features)
        return list(needed)


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name, or with the first number that makes it one that isn't taken."""
    if name not in taken:
        return name
    root = re.sub(r"_\d+$", "", name)
    return next(free for number in count(2) if (free := f"{root}_{number}") not in taken)
