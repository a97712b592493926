"""What a pipeline's step may be: a technique, a filter, or a named function of the whole dataset."""

import inspect
from collections.abc import Callable, Collection

from datasets import Dataset, Features
from datasets.fingerprint import Hasher

from hfsynth.diagram import Node
from hfsynth.errors import ColumnError
from hfsynth.filter import Filter
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
        return Node(step.name, step.llm.model_name, tuple(reads), makes)
    return Node(step_name(step), "", tuple(columns), None)


def step_hash(step: Step) -> str:
    """Return a hash of all that a step's rows depend on, but its input.

    A function that can be imported is pickled by its name alone, so the source of its module is hashed too: editing
    it, or what it uses there, makes it run again. What it imports from elsewhere is not looked at.
    """
    if isinstance(step, Technique):
        return str(Hasher.hash(step))
    if isinstance(step, Filter):
        return str(Hasher.hash((step, step.files_state())))
    module = inspect.getmodule(step)
    try:
        source = inspect.getsource(step if module is None or module.__name__ == "__main__" else module)
    except (OSError, TypeError):  # typed at a prompt, or compiled
        source = ""
    return str(Hasher.hash((step, source)))


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
