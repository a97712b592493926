"""The first rows of a run, made as the run would make them, with everything that was read and written on the way.

Nothing is kept: a run afterwards makes these rows again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from datasets import Dataset

from hfsynth.errors import RowError
from hfsynth.filter import Filter
from hfsynth.flow import Flow, Outcome, Row, run_flows
from hfsynth.generation import Completion, Request
from hfsynth.running.progress import without_bars
from hfsynth.running.runner import LaidOut
from hfsynth.steps import Step, features_after, step_name
from hfsynth.technique import Technique


@dataclass(frozen=True)
class Call:
    """One request of a row, and what came of it."""

    prompt: str
    """What the model read, special tokens included."""
    written: str
    """What it wrote, special tokens included."""
    completion: Completion
    choices: tuple[str, ...] = ()
    """Texts that were scored, where none was written."""


@dataclass(frozen=True)
class TriedRow:
    """What a step made of one row of its input."""

    row: int
    """Its index in that input."""
    calls: tuple[Call, ...] = ()
    made: tuple[Row, ...] = ()
    """The columns made, of each row that it became; none where it failed."""
    error: str = ""
    """Why it failed, or which rule of a filter dropped it and what it met."""
    kept: int = 1
    """How many rows of the step's output come from it."""

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return sum(call.completion.prompt_tokens + call.completion.completion_tokens for call in self.calls)


@dataclass(frozen=True)
class TriedStep:
    """What a step made of its rows."""

    name: str
    model: str
    """Its llm; "" of a step that has none."""
    rows: tuple[TriedRow, ...]
    seconds: float
    """What it took, without loading the model."""
    rows_out: int

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return sum(row.tokens for row in self.rows)


@dataclass
class _Watched:
    """Keeps the calls of one row's flow as they pass."""

    technique: Technique
    calls: list[Call] = field(default_factory=list)

    def flow(self, flow: Flow) -> Flow:
        """Run a flow, and note each request with its completion."""
        go_on: Callable[[], Request] = partial(next, flow)
        while True:
            try:
                request = go_on()
            except StopIteration as end:
                made: Row | list[Row] = end.value
                return made
            try:
                completion = yield request
            except RowError as error:  # the request could not be completed
                self._note(request, Completion(text=error.raw, finish_reason="error", error=error.reason))
                go_on = partial(flow.throw, error)
            else:
                self._note(request, completion)
                go_on = partial(flow.send, completion)

    def row(self, index: int, outcome: Outcome) -> TriedRow:
        """Return the row, with the columns by the dataset's names."""
        names = self.technique.output_mappings
        made = tuple({names.get(name, name): value for name, value in row.items()} for row in outcome.rows)
        return TriedRow(index, tuple(self.calls), made, outcome.error, max(len(made), 1))

    def _note(self, request: Request, completion: Completion) -> None:
        read = self.technique.llm.prompt(request)
        self.calls.append(Call(read, completion.written or completion.text, completion, request.choices))


def try_steps(steps: Sequence[Step], dataset: Dataset) -> list[TriedStep]:
    """Run steps over a few rows, the first of a dataset.

    Raises:
        ColumnError: If a step's columns don't fit.
        GenerationError: If an llm can't be loaded.
    """
    tried: list[TriedStep] = []
    for number, step in enumerate(steps, 1):
        if isinstance(step, Technique):
            found, dataset = _try_technique(step, number, dataset)
        else:
            found, dataset = _try_whole(step, dataset)
        tried.append(found)
    return tried


def _try_technique(technique: Technique, number: int, dataset: Dataset) -> tuple[TriedStep, Dataset]:
    indices = range(len(dataset))
    features = features_after(technique, number, dataset.features)
    technique.llm.load()
    read = sorted(set(technique.wire(dataset.column_names).values()))
    batch = dataset.select_columns(read)[:] if read else {}
    watched = [_Watched(technique) for _ in indices]
    flows = [one.flow(flow) for one, flow in zip(watched, technique.flows(batch, indices), strict=True)]
    began = time.monotonic()
    outcomes = run_flows(flows, technique.llm, technique.row_seeds(indices))
    seconds = time.monotonic() - began
    with without_bars():
        made = dataset.map(
            LaidOut(technique, 0, 0, outcomes),
            batched=True,
            with_indices=True,
            features=features,
            keep_in_memory=True,
            new_fingerprint="preview",
        )
    rows = [one.row(index, outcome) for index, one, outcome in zip(indices, watched, outcomes, strict=True)]
    return TriedStep(technique.name, technique.llm.model_name, tuple(rows), seconds, len(made)), made


def _try_whole(step: Step, dataset: Dataset) -> tuple[TriedStep, Dataset]:
    """Run a filter or a function."""
    began = time.monotonic()
    dropped: dict[int, str] = {}
    with without_bars():
        if isinstance(step, Filter):
            made, told = step.split(dataset)
            dropped = {one["row"]: " ".join(filter(None, (one["rule"], one["value"], one["met"]))) for one in told}
        else:
            made = step(dataset)
    rows = tuple(
        TriedRow(index, error=dropped.get(index, ""), kept=int(index not in dropped)) for index in range(len(dataset))
    )
    return TriedStep(step_name(step), "", rows, time.monotonic() - began, len(made)), made
