"""`Step`, the base of techniques, filters and functions of a dataset, with the methods that a pipeline calls."""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

from datasets import Dataset, Features
from datasets.fingerprint import Hasher

from hfsynth.config import Description
from hfsynth.errors import ColumnError
from hfsynth.fingerprint import code_state
from hfsynth.llm import Origin, SameRows
from hfsynth.record import Node, Source, StepRecord, StepTally, machine, versions
from hfsynth.secrets import redact

if TYPE_CHECKING:
    from hfsynth.pipeline import Pipeline


DatasetFunction: TypeAlias = Callable[[Dataset], Dataset]
_MAX_FOLDER_NAME = 100  # bytes


class Step(ABC):
    """One step of a pipeline: a `Technique`, a `Filter`, a `Sampler` or a `FunctionStep`."""

    citation: ClassVar[str] = ""
    """The paper, as BibTeX: for the card."""
    stateful: ClassVar[bool] = False
    """Whether the step compares a row with earlier rows. If so, it drops a larger share of a larger dataset, and the
    next technique begins only when all rows have passed it."""

    reads_earlier_rows: ClassVar[bool] = False
    """Whether the rows that earlier rounds of a run have kept are read too."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The step's name in records, seeds and error messages."""

    def renamed(self, name: str) -> "Step":
        """Return the step with another name; a function, which has no field for a name, returns itself."""
        step: Step = replace(cast("Any", self), name=name)
        return step

    def for_split(self, split: str) -> "Step":  # noqa: ARG002 - of techniques and samplers
        """Return the step for one split of a `DatasetDict`: with `split_seed` of its seed, if it has one."""
        return self

    @abstractmethod
    def describe(self) -> Description:
        """Return the step as plain values: for recipes and records."""

    @abstractmethod
    def check_features(self, features: Features) -> Features | None:
        """Return the features of the result for a dataset with these; None if only a run shows them.

        Raises:
            ColumnError: If a column is missing, of the wrong type, or would be replaced.
        """

    @abstractmethod
    def node(self, columns: Collection[str]) -> Node:
        """Return the step's node of a diagram, for a dataset with these columns.

        Raises:
            ColumnError: If an input is missing, or an output would replace a column.
        """

    def fingerprint(self) -> str:
        """Return a hash of everything that the step's rows depend on, except its input.

        The hash covers the code of the user's own classes and functions (see `fingerprint.code_state`), and the state
        of the files that models and filters read.
        """
        return str(Hasher.hash(self))

    @property
    def folder_name(self) -> str:
        """The step's name as the beginning of a folder's name, never a path.

        >>> from hfsynth import EchoLLM, TextGeneration
        >>> TextGeneration(EchoLLM(), name="../../x").folder_name
        'x'
        """
        plain = re.sub(r"[^\w.-]+", "_", self.name).strip("._-")
        return plain.encode()[:_MAX_FOLDER_NAME].decode(errors="ignore") or "step"

    @property
    def is_row_wise(self) -> bool:
        """Whether its result for a row depends on no other row of its input."""
        return False

    @property
    def model_name(self) -> str:
        """The name of the llm's model; "" for a step without an llm."""
        return ""

    @property
    def loads_model(self) -> bool:
        """Whether the step loads a model other than an llm, such as one of embeddings; a run first unloads its llm."""
        return False

    @property
    def same_rows(self) -> SameRows | None:
        """Which rows of a repeated run are equal, by the step's llm; None for a step without an llm."""
        return None

    @property
    def parallel_requests(self) -> int | None:
        """Maximum number of requests that the step's llm completes at once; None if unknown or without an llm."""
        return None

    @property
    def written_features(self) -> Features:
        """The columns that the step adds, as far as its class declares them, without `generation_metadata`."""
        return Features()

    def origin(self) -> Origin:
        """Return where the llm's model comes from, without loading it."""
        return Origin()

    def text_sources(self) -> Sequence[Dataset]:
        """Return the datasets whose texts the step adds to the rows, such as personas."""
        return ()

    def record(
        self,
        columns: Collection[str],
        tally: StepTally,
        seconds: tuple[float, float],
        processes: int,
        server: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the fields of the `StepRecord` of this step, which has just finished.

        Args:
            columns: The columns of the step's input.
            tally: The counts of the step's rows.
            seconds: The time summed over all processes, and the wall time.
            processes: The world size.
            server: Facts that a server reported about itself and the model.
        """
        record = StepRecord(
            name=self.name,
            recipe=self.describe(),
            node=self.node(columns),
            **tally.counts(),
            seconds=round(seconds[0], 3),
            wall_seconds=round(seconds[1], 3),
            processes=processes,
            machine=machine(),
            versions=versions(),
            origin=self.origin(),
            same_rows=self.same_rows,
            batch_size=self.parallel_requests or 0,
            server=server or {},
            finished=datetime.now(timezone.utc).date().isoformat(),
            citation=self.citation,
            sources=tuple(map(Source.of, self.text_sources())),
        )
        return asdict(record)

    def features_after(self, features: Features | None, number: int) -> Features | None:
        """Return the features of the step's result within a pipeline; None if only a run shows them.

        Args:
            features: The input's; None after a function.
            number: The step's place in the pipeline, for error messages.

        Raises:
            ColumnError: As `check_features` does, with the step's number.
        """
        if features is None:
            return None
        try:
            return self.check_features(features)
        except ColumnError as error:
            raise ColumnError(f"step {number}, {error}") from None

    def check_ready(self) -> None:  # noqa: B027 - most steps need neither
        """Check for the packages and files that the step needs, before a run generates anything.

        Raises:
            GenerationError: If an llm lacks a file, or what a technique needs.
            ImportError, ValueError: If a package or a file is missing.
        """

    def needed_columns(self, available: Collection[str]) -> list[str]:  # noqa: ARG002 - of techniques
        """Return those of the available columns that the step reads, after its input mappings."""
        return []

    def default_inputs(self) -> list[str]:
        """Return the inputs that are read under their own names, since no mapping names a column."""
        return []

    def newer_columns(self) -> Mapping[str, str]:
        """Return the columns that the step writes newer versions of: the older column → the newer one."""
        return {}

    def __rshift__(self, other: "Step | DatasetFunction | Pipeline") -> "Pipeline":
        """Chain steps: `step >> step` is a pipeline."""
        from hfsynth.pipeline import Pipeline  # the layer above, for this operator alone

        return Pipeline((self,)) >> other


class DatasetStep(Step):
    """A step that reads a dataset as a whole, in one process: a filter, a function or a sampler."""

    @abstractmethod
    def split(self, dataset: Dataset, kept: Iterable[Dataset] = (), first: int = 0) -> tuple[Dataset, Dataset | None]:
        """Return the rows that stay, and the dropped ones as failures; None if the step doesn't report them.

        Args:
            dataset: The rows.
            kept: Earlier rows that were kept.
            first: Index of the first row, if earlier rows were processed separately.
        """

    def node(self, columns: Collection[str]) -> Node:
        """Return the step's node of a diagram, which passes every column."""
        return Node(self.name, "", tuple(columns), None)


@dataclass(frozen=True)
class FunctionStep(DatasetStep):
    """A named function from a dataset to a dataset, as a step.

    Raises:
        TypeError: If the function has no name.

    >>> def only_long(dataset): ...
    >>> FunctionStep(only_long).name
    'only_long'
    """

    function: DatasetFunction

    def __post_init__(self) -> None:
        """Check that the function can be named in records and recipes."""
        name = getattr(self.function, "__name__", "")
        if not callable(self.function) or isinstance(self.function, type) or not name.isidentifier():
            raise TypeError(
                f"a pipeline's step is a technique, a filter or a named function of a dataset, not {self.function!r}."
            )

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.function.__name__)

    def renamed(self, name: str) -> Step:  # noqa: ARG002 - see Step
        """Return the step itself: a recipe names the function."""
        return self

    def describe(self) -> Description:
        """Return the function's name and source; the source is "" if no file has it."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):  # typed at a prompt, or compiled
            source = ""
        return {"function": self.name, "source": redact(inspect.cleandoc(source)) if source else ""}

    def check_features(self, features: Features) -> None:
        """Return None: a function may make any columns."""

    def fingerprint(self) -> str:
        """Return a hash of the function's name and code, and of what the code uses of the user's own modules."""
        return str(Hasher.hash((self.name, code_state(self.function))))

    def split(
        self,
        dataset: Dataset,
        kept: Iterable[Dataset] = (),  # noqa: ARG002 - a function reads no earlier rows
        first: int = 0,  # noqa: ARG002
    ) -> tuple[Dataset, None]:
        """Return the function's result.

        Raises:
            TypeError: If the function returns anything but a `Dataset`.
        """
        result = self.function(dataset)
        if not isinstance(result, Dataset):
            raise TypeError(f"{self.name} returned {type(result).__name__}; a step returns a Dataset.")
        return result, None


def as_step(step: Step | DatasetFunction) -> Step:
    """Return a step as it is, and a function as a `FunctionStep`.

    Raises:
        TypeError: If the value is neither a step nor a named function.
    """
    return step if isinstance(step, Step) else FunctionStep(step)
