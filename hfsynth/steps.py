"""What a pipeline's step may be: a technique, a filter, or a named function of the whole dataset."""

import re
from collections.abc import Callable, Collection

from datasets import Dataset, Features
from datasets.fingerprint import Hasher

from hfsynth.code import code_state
from hfsynth.diagram import Node
from hfsynth.errors import ColumnError
from hfsynth.filter import Filter
from hfsynth.secrets import redact
from hfsynth.technique import Technique

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
