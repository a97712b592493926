"""Preview of a pipeline: a traced run of the first rows, and an estimate of the cost of all rows."""

import io
import json
import math
import statistics
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from jinja2 import Environment
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from hfsynth.distributed import is_main_process
from hfsynth.errors import RowError
from hfsynth.flow import Flow, Outcome, Row, run_flows
from hfsynth.llm import Completion, Request
from hfsynth.pipeline import Pipeline
from hfsynth.progress import without_bars
from hfsynth.record import dropped_rows, failed_rows
from hfsynth.runner.lookahead import input_columns
from hfsynth.runner.rounds import RowSource, Target, Usage, choose_chunk_size, source_of
from hfsynth.step import DatasetStep, Step
from hfsynth.technique import Technique
from hfsynth.text import counted, duration, printable

_Z = statistics.NormalDist().inv_cdf(0.95)  # quantile for a 90% interval: 5% of the outcomes are above it, 5% below
_FEW_ROWS = 5  # fewer rows of a step are not representative, and cause a warning
_MAX_TEXT = 20_000  # characters of a displayed text
_JSON_WIDTH = 80  # characters of a list or dict on one line
_TEXT_WIDTH = 100  # columns of a preview outside of a terminal
_VISIBLE_CONTROLS = "\n\t\u200c\u200d"  # lines, tabs, and the joiners of Persian letters and of emoji
_STYLES = {"prompt": "cyan", "completion": "green", "column": "bold", "error": "red", "fact": "dim"}


# --- the traced run ---


@dataclass(frozen=True)
class Call:
    """One request of a row, and its completion."""

    prompt: str
    """The text that the model read, special tokens included."""
    raw: str
    """The text that the model generated, special tokens included."""
    completion: Completion
    choices: tuple[str, ...] = ()
    """Texts that the model scored instead of generating one."""


@dataclass(frozen=True)
class TracedRow:
    """The outcome of a step for one row of its input."""

    row: int
    """The row's index in the input."""
    calls: tuple[Call, ...] = ()
    outputs: tuple[Row, ...] = ()
    """New columns of each output row; () for a failed row. For a dropped row, the column that the filter read."""
    error: str = ""
    """The reason of a failure, or the rule, value and match of the filter that dropped the row."""
    rows_out: int = 1
    """Rows of the step's output that come from this row."""
    upstream_ok: bool = True
    """Whether no earlier step failed on the row."""

    @property
    def accepted(self) -> int:
        """Rows of the output on which no step has failed."""
        return self.rows_out if self.upstream_ok and not self.error else 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return sum(call.completion.prompt_tokens + call.completion.completion_tokens for call in self.calls)


@dataclass(frozen=True)
class TracedStep:
    """The outcome of a step for all rows of its input."""

    name: str
    model: str
    """The llm's name; "" for a step without an llm."""
    rows: tuple[TracedRow, ...]
    """The outcome for each row; () for a function, which does not report single rows."""
    seconds: float
    """The step's duration, without loading the model."""
    rows_in: int
    rows_out: int
    failed_in: int = 0
    """Rows of the input on which an earlier step failed."""
    failed_out: int = 0
    """Rows of the output on which this or an earlier step failed."""
    stateful: bool = False
    """Whether the step is a filter that compares a row with earlier ones."""

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return sum(row.tokens for row in self.rows)

    @property
    def outcomes_per_row(self) -> list[tuple[int, int]]:
        """Accepted and failed rows of the output, for each row on which no earlier step failed.

        For a function, only the sums are recorded, and are divided evenly among the rows.

        >>> TracedStep("function", "", (), 0.1, rows_in=3, rows_out=4).outcomes_per_row
        [(2, 0), (1, 0), (1, 0)]
        """
        if self.rows:
            return [(row.accepted, row.rows_out - row.accepted) for row in self.rows if row.upstream_ok]
        rows_in = self.rows_in - self.failed_in
        each, rest = divmod(self.rows_out - self.failed_out, rows_in) if rows_in else (0, 0)
        return [(each + (place < rest), 0) for place in range(rows_in)]

    @property
    def rows_per_failed_row(self) -> float:
        """Rows of the output per row on which an earlier step failed."""
        if not self.failed_in:
            return 1.0
        return (self.failed_out - sum(failed for _, failed in self.outcomes_per_row)) / self.failed_in


def trace_steps(steps: Sequence[Step], dataset: Dataset) -> list[TracedStep]:
    """Run steps on a few rows and record every prompt and completion; a step that no row reaches is not run.

    Args:
        steps: The steps of a pipeline.
        dataset: The rows.

    Raises:
        ColumnError: If a column is missing, of the wrong type, or would be replaced.
        GenerationError: If an llm can't be loaded.
    """
    traced: list[TracedStep] = []
    last_technique: Technique | None = None
    for number, step in enumerate(steps, 1):
        rows, seconds, output = list[TracedRow](), 0.0, dataset
        if len(dataset) and isinstance(step, Technique):
            if last_technique and last_technique.llm != step.llm:
                last_technique.llm.unload()  # as in a run, memory never holds two models
            last_technique = step
            rows, seconds, output = _trace_technique(step, number, dataset)
        elif len(dataset) and isinstance(step, DatasetStep):
            rows, seconds, output = _trace_dataset_step(step, dataset)
        traced.append(
            TracedStep(
                name=step.name,
                model=step.model_name,
                rows=tuple(rows),
                seconds=seconds,
                rows_in=len(dataset),
                rows_out=len(output),
                failed_in=len(failed_rows(dataset)),
                failed_out=len(failed_rows(output)),
                stateful=step.stateful,
            )
        )
        dataset = output
    return traced


@dataclass
class _TracedFlow:
    """Records the requests and completions of one row's flow."""

    technique: Technique
    calls: list[Call] = field(default_factory=list)

    def run(self, flow: Flow) -> Flow:
        """Pass on the requests of a flow and their completions."""
        resume: Callable[[], Request] = partial(next, flow)
        while True:
            try:
                request = resume()
            except StopIteration as end:
                result: Row | list[Row] = end.value
                return result
            try:
                completion = yield request
            except RowError as error:  # the request could not be completed
                self._record_call(request, Completion(text=error.raw, finish_reason="error", error=error.reason))
                resume = partial(flow.throw, error)
            else:
                self._record_call(request, completion)
                resume = partial(flow.send, completion)

    def row(self, index: int, outcome: Outcome, upstream_ok: bool) -> TracedRow:
        """Return the row, with its output columns under the dataset's names."""
        names = self.technique.output_mappings
        outputs = tuple({names.get(name, name): value for name, value in row.items()} for row in outcome.rows)
        return TracedRow(index, tuple(self.calls), outputs, outcome.error, max(len(outputs), 1), upstream_ok)

    def _record_call(self, request: Request, completion: Completion) -> None:
        prompt = self.technique.llm.prompt(request)
        self.calls.append(Call(prompt, completion.written or completion.text, completion, request.choices))


def _trace_technique(technique: Technique, number: int, dataset: Dataset) -> tuple[list[TracedRow], float, Dataset]:
    """Return the rows, the seconds and the output of a technique, which is step `number` of the pipeline."""
    indices = range(len(dataset))
    features = technique.features_after(dataset.features, number)
    assert features is not None  # the dataset's are known
    technique.llm.load()
    technique.check_ready()
    batch = input_columns(technique, dataset)[:]
    traces = [_TracedFlow(technique) for _ in indices]
    flows = [
        trace.run(flow) for trace, flow in zip(traces, technique.flows(batch, indices, dataset.features), strict=True)
    ]
    start = time.monotonic()
    seeds = technique.row_seeds(indices, batch)
    outcomes = run_flows(flows, technique.llm, seeds)
    seconds = time.monotonic() - start
    output = Dataset(technique.extend(dataset.with_format("arrow")[:], features, seeds, outcomes))
    failed = failed_rows(dataset)
    rows = [
        trace.row(index, outcome, index not in failed)
        for index, (trace, outcome) in enumerate(zip(traces, outcomes, strict=True))
    ]
    return rows, seconds, output


def _trace_dataset_step(step: DatasetStep, dataset: Dataset) -> tuple[list[TracedRow], float, Dataset]:
    """Return the rows, the seconds and the output of a filter or a function."""
    start = time.monotonic()
    with without_bars():
        output, drops = step.split(dataset)
    seconds = time.monotonic() - start
    if drops is None:
        return [], seconds, output
    drop_by_row = {drop["row"]: drop for drop in dropped_rows(drops)}
    failed = failed_rows(dataset)
    rows = [_filtered_row(index, drop_by_row.get(index), index not in failed) for index in range(len(dataset))]
    return rows, seconds, output


def _filtered_row(index: int, drop: Mapping[str, str] | None, upstream_ok: bool) -> TracedRow:
    if drop is None:
        return TracedRow(index, upstream_ok=upstream_ok)
    reason = f"{drop['rule']}: {drop['value']}" + (f" ({drop['matched']})" if drop["matched"] else "")
    return TracedRow(index, outputs=({drop["column"]: drop["raw"]},), error=reason, rows_out=0)


# --- the estimate ---


@dataclass(frozen=True)
class Interval:
    """An expected number and its 90% interval."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The expected totals of a run."""

    measured: int
    """Rows of the input that were traced."""
    rows_in: int | None
    """Rows of the input; None for an endless input."""
    num_rows: int | None
    """The requested number of accepted rows; None to process the entire input."""
    tried: Interval
    """Rows of the input that the run processes."""
    rows: Interval
    """Accepted rows: no step failed on them, and no filter dropped them."""
    failed: Interval
    """Rows on which a step failed."""
    tokens: Interval
    """Prompt and completion tokens."""
    hours: Interval
    """Time on this device, at the measured speed."""

    @property
    def exact(self) -> bool:
        """Whether the run processes exactly the traced rows."""
        return self.tried == Interval(self.measured, self.measured, self.measured)


def estimate(
    steps: Sequence[TracedStep], source: RowSource, measured: int, goal: Target | None = None, chunk_size: int = 128
) -> Estimate:
    """Estimate the totals of a run from its first rows. The estimate is deterministic.

    Each step has three rates per row: accepted rows, failed rows and tokens. The totals are computed at the expected
    rates, and then with one rate at a time at either end of its interval. The deviations are added in quadrature, as
    for independent errors.

    Args:
        steps: The traced steps.
        source: The input. Without a goal, an endless input counts as its traced rows.
        measured: The number of traced rows.
        goal: The requested rows, and the limits on them.
        chunk_size: The chunk size of the run.
    """
    steps = [step for step in steps if step.rows_in]
    rates = [rate for step in steps for rate in _rates(step)]
    num_rows = None if goal is None else goal.num_rows

    def totals(values: Sequence[float]) -> NDArray[np.float64]:
        accepted, failed, tokens, seconds = _per_input_row(steps, values)
        if goal is None:
            tried = measured if source.num_rows is None else source.num_rows
        else:
            tried = _rows_to_try(goal, source, chunk_size, accepted, tokens)
        rows = min(tried * accepted, num_rows or math.inf)
        return np.array([tried, rows, tried * failed, tried * tokens, tried * seconds / 3600])

    values = [rate.expected for rate in rates]
    expected = totals(values)
    below, above = np.zeros((2, len(expected)))  # squared deviations
    if expected[0] != measured:  # else the totals are those of the traced rows
        for place, rate in enumerate(rates):
            ends = [totals([*values[:place], end, *values[place + 1 :]]) for end in (rate.low, rate.high)]
            below += (expected - np.min([*ends, expected], axis=0)) ** 2
            above += (np.max([*ends, expected], axis=0) - expected) ** 2
    low = np.maximum(expected - np.sqrt(below), 0)
    high = np.minimum(expected + np.sqrt(above), [source.num_rows or np.inf, num_rows or np.inf, *[np.inf] * 3])
    intervals = [Interval(*map(float, ends)) for ends in zip(low, expected, high, strict=True)]
    return Estimate(measured, source.num_rows, num_rows, *intervals)


def _rows_to_try(goal: Target, source: RowSource, chunk_size: int, accepted: float, tokens: float) -> int:
    """Return the number of input rows that a run in rounds processes at these rates per row."""
    spent = Usage()
    while count := spent.next_round(goal, source, chunk_size):
        tried = spent.tried + count
        spent = Usage(tried, round(tried * accepted), round(tried * tokens))
    return spent.tried


def _per_input_row(steps: Sequence[TracedStep], rates: Sequence[float]) -> tuple[float, float, float, float]:
    """Return accepted rows, failed rows, tokens and seconds per row of the input, from three rates of each step."""
    accepted, failed, tokens, seconds = 1.0, 0.0, 0.0, 0.0
    for place, step in enumerate(steps):
        accepted_rate, failed_rate, token_rate = rates[3 * place : 3 * place + 3]
        tokens_per_failed_row = sum(row.tokens for row in step.rows if not row.upstream_ok) / max(step.failed_in, 1)
        step_tokens = accepted * token_rate + failed * tokens_per_failed_row
        share = step_tokens / step.tokens if step.tokens else (accepted + failed) / step.rows_in
        seconds += share * step.seconds
        tokens += step_tokens
        failed = accepted * failed_rate + failed * step.rows_per_failed_row
        accepted *= accepted_rate
    return accepted, failed, tokens, seconds


def _rates(step: TracedStep) -> tuple[Interval, Interval, Interval]:
    """Return a step's accepted rows, failed rows and tokens per row on which no earlier step failed.

    Two rows are added to the traced ones, one dropped or failed and one accepted, as in the "plus four" interval of
    Agresti and Coull: a step that failed on none of 16 rows may fail on others.
    """
    outcomes = step.outcomes_per_row
    if not outcomes:
        return Interval(1, 1, 1), Interval(0, 0, 0), Interval(0, 0, 0)
    accepted, failed = zip(*outcomes, strict=True)
    typical = statistics.mean([count for count in accepted if count] or [1])
    tokens = [row.tokens for row in step.rows if row.upstream_ok]
    return (
        _count_interval(accepted, (0, typical)),
        _count_interval(failed, (int(bool(step.model)), 0)),
        _token_interval(tokens),
    )


def _count_interval(counts: Sequence[float], added: tuple[float, float]) -> Interval:
    """Return the mean of counts with a t interval that `added` widens, between 0 and the largest count."""
    sample = [*counts, *added]
    expected, mean, half = statistics.mean(counts), statistics.mean(sample), _half_width(sample)
    return Interval(max(min(mean - half, expected), 0), expected, min(max(mean + half, expected), max(sample)))


def _token_interval(tokens: Sequence[float]) -> Interval:
    """Return the mean of tokens with a t interval of its logarithm.

    The distribution of tokens has a long right tail, which a few rows rarely cover. For the width of the interval, the
    largest number therefore counts twice.
    """
    if not any(tokens):
        return Interval(0, 0, 0)
    mean = statistics.mean(tokens)
    factor = math.exp(_half_width([*tokens, max(tokens)]) / mean)
    return Interval(mean / factor, mean, mean * factor)


def _half_width(sample: Sequence[float]) -> float:
    """Return half the width of a t interval, with a two-term expansion of Student's quantile around the normal one."""
    freedom = len(sample) - 1
    quantile = _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
    return quantile * statistics.stdev(sample) / math.sqrt(len(sample))


# --- the preview, in terminals and notebooks ---

_HTML = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<div class="hfsynth-preview">
<style>
.hfsynth-preview { font-family: sans-serif; color: #1a1a1a; background: #ffffff; padding: 0.5em; }
.hfsynth-preview pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.4em; color: #1a1a1a; }
.hfsynth-preview .prompt { background: #e3f0fa; } .hfsynth-preview .completion { background: #e6f4e1; }
.hfsynth-preview .column { background: #f2f2f2; } .hfsynth-preview .error { background: #fbe3e0; }
.hfsynth-preview .fact { color: #555555; }
</style>
{% for title, summary, rows in steps %}
<h4>{{ title }}: {{ summary }}</h4>
{% for row, parts in rows %}
<details open><summary>row {{ row }}</summary>
{% for part in parts %}
<div class="fact">{{ part.heading }}</div>
{% if part.text %}
<pre class="{{ part.kind }}">{{ part.text }}</pre>
{% endif %}
{% endfor %}
</details>
{% endfor %}
{% endfor %}
<h4>Estimate</h4>
<ul>{% for line in estimate %}<li>{{ line }}</li>{% endfor %}</ul>
</div>
""")


@dataclass(frozen=True)
class Preview:
    """The traced rows and the estimate, for a terminal (`print`) or a notebook; see `Pipeline.preview`."""

    steps: tuple[TracedStep, ...]
    estimate: Estimate
    n: int
    """Rows of each step to display; more may have been traced for the estimate."""

    def text(self, width: int = _TEXT_WIDTH) -> str:
        """Return plain text, at most `width` columns wide."""
        console = Console(width=width, file=io.StringIO(), color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def html(self) -> str:
        """Return a self-contained fragment of HTML, with all texts escaped."""
        steps = [
            (
                step_title(step),
                step_summary(step, self.n),
                [(row.row, list(row_parts(row))) for row in self._rows(step)],
            )
            for step in self.steps
        ]
        return _HTML.render(steps=steps, estimate=estimate_lines(self.estimate, self.steps))

    def __str__(self) -> str:
        return self.text()

    def __rich__(self) -> RenderableType:
        panels = [
            Panel(
                Group(
                    Text(step_summary(step, self.n), style=_STYLES["fact"]),
                    *(_row_text(row) for row in self._rows(step)),
                ),
                title=Text(step_title(step)),
                title_align="left",
            )
            for step in self.steps
        ]
        lines = Text("\n".join(estimate_lines(self.estimate, self.steps)))
        return Group(*panels, Panel(lines, title="Estimate", title_align="left"))

    def _repr_html_(self) -> str:
        return self.html()

    def _rows(self, step: TracedStep) -> tuple[TracedRow, ...]:
        return step.rows[: self.n]


def preview_pipeline(
    pipeline: Pipeline,
    dataset: Dataset | RowSource | None,
    n: int,
    *,
    measured: int,
    num_rows: int | None,
    max_rows: int | None,
    max_tokens: int | None,
    chunk_size: int | None,
) -> Preview:
    """Run a pipeline on the first rows of a dataset; see `Pipeline.preview`."""
    if n < 1:
        raise ValueError(f"n must be positive, got {n}.")
    goal = Target.from_options(num_rows, max_rows, max_tokens)
    source = source_of(dataset, num_rows or n)
    pipeline.check(source.rows(0, 0, ()).features)
    limit = max(n, measured) if is_main_process() else 0
    count = min(rows for rows in (limit, source.num_rows, max_rows) if rows is not None)
    steps = trace_steps(pipeline.steps, source.rows(0, count, ()))
    chunk_size = chunk_size or choose_chunk_size(num_rows or source.num_rows)
    return Preview(tuple(steps), estimate(steps, source, count, goal, chunk_size), n)


class RowPart(NamedTuple):
    """A displayed part of a row."""

    kind: str
    """One of `prompt`, `completion`, `column`, `error`, `fact`."""
    heading: str
    text: str


def row_parts(row: TracedRow) -> Iterator[RowPart]:
    """Yield the prompts and completions of a row, its error, and its columns."""
    for part in _raw_parts(row):
        yield RowPart(part.kind, printable(part.heading), visible(_cut_middle(part.text)))


def _raw_parts(row: TracedRow) -> Iterator[RowPart]:
    for call in row.calls:
        tokens = call.completion
        yield RowPart("prompt", f"prompt ({tokens.prompt_tokens:,} tokens)", call.prompt)
        if call.choices:
            yield RowPart("completion", f"scores of {len(call.choices)} choices", _score_table(call))
        else:
            heading = f"completion ({tokens.completion_tokens:,} tokens, {tokens.finish_reason})"
            yield RowPart("completion", heading, call.raw)
    if row.error:
        yield RowPart("error", "failed" if row.rows_out else "dropped", row.error)
    for output in row.outputs:
        for name, value in output.items():
            yield RowPart("column", name, _formatted_value(value))
    if not (row.calls or row.error or row.outputs):
        yield RowPart("fact", "kept", "")


def visible(text: str) -> str:
    r"""Replace control characters, except tabs and newlines, and characters that hide or reverse text by symbols.

    >>> print(visible("\x1b[2J, \x9b2J, \u202e"))
    ␛[2J, <U+009B>2J, <U+202E>
    """
    return "".join(map(_visible_character, text))


def step_title(step: TracedStep) -> str:
    """Return a step's name and model."""
    return printable(f"{step.name} ({step.model})" if step.model else step.name)


def step_summary(step: TracedStep, n: int) -> str:
    """Return a step's rows, time and tokens, and the outcomes of the rows after the first `n`, which are not shown.

    >>> rows = tuple(TracedRow(row, error="late" if row == 3 else "") for row in range(4))
    >>> step_summary(TracedStep("a", "m", rows, 2, rows_in=4, rows_out=4), 2)
    '4 rows in, 4 rows out, 2.0 s; 2 rows not displayed (1 failed)'
    """
    if not step.rows_in:
        return "not run: no row reached this step"
    summary = f"{counted(step.rows_in, 'row')} in, {counted(step.rows_out, 'row')} out, {duration(step.seconds)}"
    summary += f", {step.tokens:,} tokens" if step.tokens else ""
    if not step.rows:
        return f"{summary}; functions do not report single rows"
    rest = step.rows[n:]
    if not rest:
        return summary
    counts = {
        "failed": sum(bool(row.error and row.rows_out) for row in rest),
        "dropped": sum(not row.rows_out for row in rest),
    }
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count)
    return f"{summary}; {counted(len(rest), 'row')} not displayed" + (f" ({outcomes})" if outcomes else "")


def estimate_lines(estimate: Estimate, steps: Sequence[TracedStep]) -> list[str]:
    """Return an estimate as lines of text, with warnings on its accuracy."""
    lines = [_estimate_heading(estimate)]
    if estimate.num_rows and not estimate.rows.expected:
        return [*lines, f"No row was accepted; the cost of {estimate.num_rows:,} rows can't be estimated."]
    if estimate.num_rows:
        lines.append(f"input rows: {_formatted_interval(estimate.tried)}")
    lines.append(f"accepted rows: {_formatted_interval(estimate.rows)}{_shortfall(estimate)}")
    if estimate.num_rows or estimate.failed.high:
        lines.append(f"failed rows: {_formatted_interval(estimate.failed)}")
    lines += [f"prompt and completion tokens: {_formatted_interval(estimate.tokens)}", _time_line(estimate, steps)]
    return lines if estimate.exact else [*lines, *_warnings(steps)]


def _estimate_heading(estimate: Estimate) -> str:
    rows = counted(estimate.measured, "traced row")
    if estimate.num_rows:
        heading = f"{estimate.num_rows:,} accepted rows, estimated from {rows}"
    elif estimate.rows_in is None:
        return f"{rows}, of an endless input; set num_rows=… to estimate a run:"
    else:
        heading = f"{estimate.rows_in:,} input rows, estimated from {rows}"
    return f"{heading}:" if estimate.exact else f"{heading}, with 90% intervals:"


def _shortfall(estimate: Estimate) -> str:
    if estimate.num_rows is None or round(estimate.rows.expected) >= estimate.num_rows:
        return ""
    return f", fewer than {estimate.num_rows:,}: the input or a limit ends first"


def _time_line(estimate: Estimate, steps: Sequence[TracedStep]) -> str:
    hours = estimate.hours
    low, expected, high = (duration(value * 3600) for value in (hours.low, hours.expected, hours.high))
    if estimate.exact:
        return f"time on this device: {expected}"
    batches = sorted({step.rows_in for step in steps if step.model and step.rows_in})
    sizes = " to ".join(f"{size:,}" for size in dict.fromkeys(batches[:1] + batches[-1:]))
    speed = f", at the speed of batches of {sizes}; larger ones are likely to be faster" if sizes else ""
    return f"time on this device: at most {_format_range(low, expected, high)}{speed}"


def _warnings(steps: Sequence[TracedStep]) -> Iterator[str]:
    """Yield warnings on steps that the estimate lacks or that have few rows."""
    for step in steps:
        name = printable(step.name)
        if not step.rows_in:
            yield f"{name} was not run: its cost is not included."
        elif step.rows_in < _FEW_ROWS:
            yield f"{name} ran on {counted(step.rows_in, 'row')} only: set a larger measured=…."
        if step.stateful:
            yield f"{name} compares rows with earlier ones, and drops more of a larger input: expect fewer rows."


def _row_text(row: TracedRow) -> Text:
    text = Text()
    text.append(f"row {row.row}\n", style="bold underline")
    for part in row_parts(row):
        text.append(f"{part.heading}\n", style=_STYLES["fact"])
        text.append(f"{part.text}\n" if part.text else "", style=_STYLES[part.kind])
    return text


def _visible_character(character: str) -> str:
    if character.isprintable() or character in _VISIBLE_CONTROLS or unicodedata.category(character) == "Zs":
        return character
    code_point = ord(character)
    return chr(0x2400 + min(code_point, 0x21)) if code_point < 0x80 else f"<U+{code_point:04X}>"


def _cut_middle(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters omitted …]\n{text[-half:]}"


def _formatted_value(value: Any) -> str:
    if not isinstance(value, list | tuple | dict):
        return str(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _JSON_WIDTH else json.dumps(value, ensure_ascii=False, default=str, indent=2)


def _score_table(call: Call) -> str:
    pairs = zip(call.choices, call.completion.scores, strict=False)
    return "\n".join(f"{score:9.3f}  {choice}" for choice, score in sorted(pairs, key=lambda pair: -pair[1]))


def _formatted_interval(interval: Interval) -> str:
    return _format_range(*(f"{number:,.0f}" for number in (interval.low, interval.expected, interval.high)))


def _format_range(low: str, expected: str, high: str) -> str:
    return expected if low == high else f"about {expected} ({low} to {high})"
