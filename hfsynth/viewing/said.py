"""What was said in a row: as the step that answered recorded it, and else by what the columns are called."""

from collections.abc import Iterable, Sequence

from datasets import Dataset, List, Value

from hfsynth.provenance import StepRecord, records
from hfsynth.record import step_names
from hfsynth.reporting.figures import is_chat, text_columns
from hfsynth.reporting.reading import INSTRUCTION_COLUMNS, RESPONSE_COLUMNS, VERSIONS

PAIR = ("chosen", "rejected")
"""The columns of preference data: two answers to one prompt."""
_ROLES = {"system_prompt": "system", **dict.fromkeys(INSTRUCTION_COLUMNS, "user"), "input": "user"}
Said = tuple[tuple[str, str], ...]
"""(role, column), in order; a conversation has roles of its own."""


def said_in(dataset: Dataset) -> Said:
    """Find what was said, up to the answer; that too, unless there are several (`several_in`)."""
    readable = text_columns(dataset.features)
    runs = records(dataset)
    steps = [step for run in runs for step in run.steps]
    answer, several = _answer(dataset), several_in(dataset)
    if several == PAIR:
        return _said("user", first_of(INSTRUCTION_COLUMNS, readable))
    end = () if several else _said("assistant", answer)
    if answering := maker_of(answer, steps):
        return (*_told(answering, readable), *end)
    given = {name for run in runs[:1] for name in run.source.columns if not maker_of(name, steps)}
    if answer in given:  # it was there before the first step, and answers what was there too
        readable = [name for name in readable if name in given]
    chat = next((name for name in readable if is_chat(dataset.features[name])), "")
    if chat not in ("", "prompt"):
        return _said("user", chat)
    asked = chat or first_of(INSTRUCTION_COLUMNS, readable)
    is_source = answer not in given and _is_source(dataset, steps)
    data = first_of(() if is_source else ("input",), readable)
    return (*_said("user", asked), *_said("user", data), *end)


def several_in(dataset: Dataset) -> tuple[str, ...]:
    """Find columns with several answers: two of one each, or one with a list; none where one answer was given."""
    readable = text_columns(dataset.features)
    if set(PAIR) <= set(readable):
        return PAIR
    answer = _answer(dataset)
    return (answer,) if answer and answer not in readable else ()


def _answer(dataset: Dataset) -> str:
    lists = (name for name, kind in dataset.features.items() if kind == List(Value("string")))
    listed = (name for name in lists if name not in VERSIONS)  # of which each answers a version of its own
    return first_of(RESPONSE_COLUMNS, [*text_columns(dataset.features), *listed])


def first_of(names: Iterable[str], columns: Iterable[str]) -> str:
    """Return the first of some names that is a column's; "" where none is."""
    there = set(columns)
    return next((name for name in names if name in there), "")


def maker_of(column: str, steps: Sequence[StepRecord]) -> StepRecord | None:
    """Return the last technique that made a column; None where that isn't known."""
    return next((step for step in reversed(steps) if column in (step.node.makes or ())), None)


def _said(role: str, column: str) -> Said:
    return ((role, column),) if column else ()


def _told(step: StepRecord, readable: Sequence[str]) -> Said:
    """Return what the model was told that answered: the instruction that the step made itself, or else what it read.

    Of a template each column is a part, and is called by its name.
    """
    renamed = [step.recipe.get(mapping) or {} for mapping in ("input_mappings", "output_mappings")]
    own = {name: name for name in readable}
    own |= {column: name for mapping in renamed for name, column in mapping.items() if column in own}
    told = [(_ROLES[own[name]], name) for name in step.node.makes or () if own.get(name) in _ROLES]
    if not any(own[name] in INSTRUCTION_COLUMNS for _, name in told):
        read = [name for name in step.node.reads if name in own]
        parts = step.recipe.get("template") is not None
        told = [*((name if parts else _ROLES.get(own[name], "user"), name) for name in read), *told]
    return tuple(sorted(told, key=lambda one: one[0] != "system"))


def _is_source(dataset: Dataset, steps: Sequence[StepRecord]) -> bool:
    """Whether instructions were made from `input`: then it is what they are about, and nobody said it."""
    makers = [step.node for step in steps if step.node.makes]
    if makers:
        return any("input" in node.reads and {*INSTRUCTION_COLUMNS} & {*(node.makes or ())} for node in makers)
    return "SelfInstruct" in step_names(dataset)[0]  # all that rows tell which `map` made
