"""The first rows of a run, made as the run would make them, with everything that was read and written on the way.

Nothing is kept: a run afterwards makes these rows again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from datasets import Dataset

from hfsynth.errors import RowError
from hfsynth.filter import Filter
from hfsynth.flow import Flow, Outcome, Row, run_flows
from hfsynth.generation import Completion, Request
from hfsynth.record import failed_rows
from hfsynth.running.progress import without_bars
from hfsynth.running.runner import LaidOut
from hfsynth.steps import DatasetFunction, Step, features_after, step_name
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
    """The columns made, of each row that it became; none where it failed. Of a dropped row, what was looked at."""
    error: str = ""
    """Why it failed, or which rule of a filter dropped it, by what, and what it met."""
    kept: int = 1
    """How many rows of the step's output come from it."""
    sound: bool = True
    """Whether no earlier step failed on it."""

    @property
    def accepted(self) -> int:
        """How many of them no step has failed on."""
        return self.kept if self.sound and not self.error else 0

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
    """None of a function, which doesn't say what became of each row."""
    seconds: float
    """What it took, without loading the model."""
    rows_in: int
    rows_out: int
    failed_in: int = 0
    """Rows of its input on which an earlier step failed."""
    failed_out: int = 0
    """Rows of its output on which a step failed, an earlier one or this."""
    remembers: bool = False
    """Whether it is a filter that compares a row with those before it."""

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return sum(row.tokens for row in self.rows)

    @property
    def fates(self) -> list[tuple[int, int]]:
        """What became of each sound row: accepted rows, and failed ones. Of a function, all that is known is the sum.

        >>> TriedStep("function", "", (), 0.1, rows_in=3, rows_out=4).fates
        [(2, 0), (1, 0), (1, 0)]
        """
        if self.rows:
            return [(row.accepted, row.kept - row.accepted) for row in self.rows if row.sound]
        given = self.rows_in - self.failed_in
        whole, more = divmod(self.rows_out - self.failed_out, given) if given else (0, 0)
        return [(whole + (place < more), 0) for place in range(given)]

    @property
    def failed_made(self) -> float:
        """How many rows it makes of one on which an earlier step failed."""
        if not self.failed_in:
            return 1.0
        return (self.failed_out - sum(failed for _, failed in self.fates)) / self.failed_in


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

    def row(self, index: int, outcome: Outcome, sound: bool) -> TriedRow:
        """Return the row, with the columns by the dataset's names."""
        names = self.technique.output_mappings
        made = tuple({names.get(name, name): value for name, value in row.items()} for row in outcome.rows)
        kept = max(len(made), 1)
        return TriedRow(index, tuple(self.calls), made, outcome.error, kept=kept, sound=sound)

    def _note(self, request: Request, completion: Completion) -> None:
        read = self.technique.llm.prompt(request)
        self.calls.append(Call(read, completion.written or completion.text, completion, request.choices))


def try_steps(steps: Sequence[Step], dataset: Dataset) -> list[TriedStep]:
    """Run steps over a few rows, the first of a dataset; a step that no row is left for is not run.

    Raises:
        ColumnError: If a step's columns don't fit.
        GenerationError: If an llm can't be loaded.
    """
    tried: list[TriedStep] = []
    for number, step in enumerate(steps, 1):
        rows, seconds, made = list[TriedRow](), 0.0, dataset
        with step.llm.together() if isinstance(step, Technique) else nullcontext():
            if len(dataset):
                _unload_others(step, steps[: number - 1])
                rows, seconds, made = (
                    _try_technique(step, number, dataset) if isinstance(step, Technique) else _try_whole(step, dataset)
                )
        tried.append(
            TriedStep(
                name=step_name(step),
                model=step.llm.model_name if isinstance(step, Technique) else "",
                rows=tuple(rows),
                seconds=seconds,
                rows_in=len(dataset),
                rows_out=len(made),
                failed_in=len(failed_rows(dataset)),
                failed_out=len(failed_rows(made)),
                remembers=isinstance(step, Filter) and step.remembers,
            )
        )
        dataset = made
    return tried


def _unload_others(step: Step, before: Sequence[Step]) -> None:
    """Unload the llm that was used last, if this step has another: as in a run, two are never in memory at once."""
    used = [earlier.llm for earlier in before if isinstance(earlier, Technique)]
    if isinstance(step, Technique) and used and used[-1] != step.llm:
        used[-1].unload()


def _try_technique(technique: Technique, number: int, dataset: Dataset) -> tuple[list[TriedRow], float, Dataset]:
    indices = range(len(dataset))
    features = features_after(technique, number, dataset.features)
    technique.llm.load()
    read = technique.columns_read(dataset.features)
    batch = dataset.select_columns(read)[:] if read else {}
    watched = [_Watched(technique) for _ in indices]
    flows = [one.flow(flow) for one, flow in zip(watched, technique.flows(batch, indices), strict=True)]
    began = time.monotonic()
    outcomes = run_flows(flows, technique.llm, technique.row_seeds(indices, batch))
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
    failed = failed_rows(dataset)
    told = zip(indices, watched, outcomes, strict=True)
    return [one.row(index, outcome, index not in failed) for index, one, outcome in told], seconds, made


def _try_whole(step: Filter | DatasetFunction, dataset: Dataset) -> tuple[list[TriedRow], float, Dataset]:
    """Run a filter or a function."""
    began = time.monotonic()
    with without_bars():
        if not isinstance(step, Filter):
            made = step(dataset)
            return [], time.monotonic() - began, made
        made, told = step.split(dataset)
    seconds = time.monotonic() - began
    dropped = {entry["row"]: entry for entry in told}
    failed = failed_rows(dataset)
    rows = [_filtered(index, dropped.get(index), index not in failed) for index in range(len(dataset))]
    return rows, seconds, made


def _filtered(index: int, dropped: Mapping[str, str] | None, sound: bool) -> TriedRow:
    if dropped is None:
        return TriedRow(index, sound=sound)
    why = f"{dropped['rule']}: {dropped['value']}" + (f" ({dropped['met']})" if dropped["met"] else "")
    return TriedRow(index, made=({dropped["column"]: dropped["raw"]},), error=why, kept=0)
