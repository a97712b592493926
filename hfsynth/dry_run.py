"""Preview a pipeline: a traced run of a few rows, its text and an estimate of the cost of all rows."""

import io
import json
import math
import statistics
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from hfsynth.analysis.render import printable
from hfsynth.distributed import is_main_process
from hfsynth.errors import RowError
from hfsynth.flow import Flow, Outcome, Row, run_flows
from hfsynth.llm import Completion, Request
from hfsynth.metadata import failed_rows
from hfsynth.pipeline import Pipeline
from hfsynth.progress import without_bars
from hfsynth.runner.rounds import Goal, RowSource, Spent, source_of
from hfsynth.runner.step import LaidOut
from hfsynth.step import DatasetStep, Step
from hfsynth.technique import Technique
from hfsynth.text import duration


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
    """Why it failed, or which rule of a filter dropped it, with the value and the match."""
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
    stateful: bool = False
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
        if len(dataset):
            _unload_others(step, steps[: number - 1])
            if isinstance(step, Technique):
                rows, seconds, made = _try_technique(step, number, dataset)
            elif isinstance(step, DatasetStep):
                rows, seconds, made = _try_whole(step, dataset)
        tried.append(
            TriedStep(
                name=step.name,
                model=step.model_name,
                rows=tuple(rows),
                seconds=seconds,
                rows_in=len(dataset),
                rows_out=len(made),
                failed_in=len(failed_rows(dataset)),
                failed_out=len(failed_rows(made)),
                stateful=step.stateful,
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
    features = technique.features_after(dataset.features, number)
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


def _try_whole(step: DatasetStep, dataset: Dataset) -> tuple[list[TriedRow], float, Dataset]:
    """Run a filter or a function."""
    began = time.monotonic()
    with without_bars():
        made, told = step.split(dataset)
    seconds = time.monotonic() - began
    if told is None:
        return [], seconds, made
    dropped = {entry["row"]: entry for entry in told}
    failed = failed_rows(dataset)
    rows = [_filtered(index, dropped.get(index), index not in failed) for index in range(len(dataset))]
    return rows, seconds, made


def _filtered(index: int, dropped: Mapping[str, str] | None, sound: bool) -> TriedRow:
    if dropped is None:
        return TriedRow(index, sound=sound)
    why = f"{dropped['rule']}: {dropped['value']}" + (f" ({dropped['matched']})" if dropped["matched"] else "")
    return TriedRow(index, made=({dropped["column"]: dropped["raw"]},), error=why, kept=0)


_Z = statistics.NormalDist().inv_cdf(0.95)  # 5% of the outcomes lie beyond either end of an interval


@dataclass(frozen=True)
class Range:
    """A number with its 90% interval."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The totals that a run is expected to have."""

    measured: int
    """Rows of the input that were tried here."""
    rows_in: int | None
    """Rows that the input has; None where it has no end."""
    wanted: int | None
    """Accepted rows that are wanted; None for whatever becomes of all of the input."""
    tried: Range
    """Rows of the input that the run would take."""
    rows: Range
    """Accepted rows: no step failed on them, and no filter dropped them."""
    failed: Range
    """Rows on which a step failed."""
    tokens: Range
    """Tokens read and written."""
    hours: Range
    """On this device, at the speed measured."""

    @property
    def exact(self) -> bool:
        """Whether the run would take just the rows that were tried."""
        return self.tried == Range(self.measured, self.measured, self.measured)


def estimate(
    steps: Sequence[TriedStep], source: RowSource, measured: int, goal: Goal | None = None, chunk_size: int = 128
) -> Estimate:
    """Estimate a run from the first rows of its input. The same rows give the same estimate.

    Args:
        steps: The traced steps of these rows.
        source: The input; one without an end is taken for these rows alone where there is no goal.
        measured: How many rows were tried.
        goal: The rows wanted, and the limits on them.
        chunk_size: The run's.
    """
    steps = [step for step in steps if step.rows_in]
    rates = [rate for step in steps for rate in _rates(step)]
    wanted = None if goal is None else goal.num_rows

    def totals(values: Sequence[float]) -> NDArray[np.float64]:
        accepted, failed, tokens, seconds = _carry(steps, values)
        if goal is None:
            tried = measured if source.num_rows is None else source.num_rows
        else:
            tried = _tried(goal, source, chunk_size, accepted, tokens)
        rows = min(tried * accepted, wanted or math.inf)
        return np.array([tried, rows, tried * failed, tried * tokens, tried * seconds / 3600])

    values = [rate.expected for rate in rates]
    expected = totals(values)
    below, above = np.zeros((2, len(expected)))
    if expected[0] != measured:  # else the totals are those of the traced rows
        for place, rate in enumerate(rates):
            ends = [totals([*values[:place], end, *values[place + 1 :]]) for end in (rate.low, rate.high)]
            below += (expected - np.min([*ends, expected], axis=0)) ** 2
            above += (np.max([*ends, expected], axis=0) - expected) ** 2
    low = np.maximum(expected - np.sqrt(below), 0)
    high = np.minimum(expected + np.sqrt(above), [source.num_rows or np.inf, wanted or np.inf, *[np.inf] * 3])
    ranges = [Range(*map(float, ends)) for ends in zip(low, expected, high, strict=True)]
    return Estimate(measured, source.num_rows, wanted, *ranges)


def _tried(goal: Goal, source: RowSource, chunk_size: int, accepted: float, tokens: float) -> int:
    """Return how many rows of the input a run takes, round by round, at a rate of accepted rows and of tokens."""
    spent = Spent()
    while count := spent.next_round(goal, source, chunk_size):
        tried = spent.tried + count
        spent = Spent(tried, round(tried * accepted), round(tried * tokens))
    return spent.tried


def _carry(steps: Sequence[TriedStep], rates: Sequence[float]) -> tuple[float, float, float, float]:
    """Return accepted rows, failed rows, tokens and seconds per row of the input, from three rates of each step."""
    accepted, failed, tokens, seconds = 1.0, 0.0, 0.0, 0.0
    for place, step in enumerate(steps):
        accepts, fails, takes = rates[3 * place : 3 * place + 3]
        of_failed = sum(row.tokens for row in step.rows if not row.sound) / max(step.failed_in, 1)
        spent = accepted * takes + failed * of_failed
        seconds += (spent / step.tokens if step.tokens else (accepted + failed) / step.rows_in) * step.seconds
        tokens += spent
        failed = accepted * fails + failed * step.failed_made
        accepted *= accepts
    return accepted, failed, tokens, seconds


def _rates(step: TriedStep) -> tuple[Range, Range, Range]:
    """Return a step's accepted rows, failed rows and tokens per sound row.

    Two rows are added to the traced ones, as in Agresti and Coull's "plus four" interval: one dropped or failed, and
    one accepted. A step that failed on none of 16 rows may fail on others.
    """
    if not step.fates:
        return Range(1, 1, 1), Range(0, 0, 0), Range(0, 0, 0)
    accepted, failed = zip(*step.fates, strict=True)
    typical = statistics.mean([count for count in accepted if count] or [1])
    tokens = [row.tokens for row in step.rows if row.sound]
    return _count_range(accepted, (0, typical)), _count_range(failed, (int(bool(step.model)), 0)), _token_range(tokens)


def _count_range(counts: Sequence[float], added: tuple[float, float]) -> Range:
    """Return the mean of counts with a t interval that `added` widens, between 0 and the largest count."""
    sample = [*counts, *added]
    expected, mean, half = statistics.mean(counts), statistics.mean(sample), _half_width(sample)
    return Range(max(min(mean - half, expected), 0), expected, min(max(mean + half, expected), max(sample)))


def _token_range(tokens: Sequence[float]) -> Range:
    """Return the mean of tokens with a t interval of its logarithm.

    Tokens have a long tail to the right: the largest number counts twice, since a few rows miss the longest ones.
    """
    if not any(tokens):
        return Range(0, 0, 0)
    mean = statistics.mean(tokens)
    factor = math.exp(_half_width([*tokens, max(tokens)]) / mean)
    return Range(mean / factor, mean, mean * factor)


def _half_width(sample: Sequence[float]) -> float:
    """Return half of a t interval's width; Student's quantile is the normal one with two terms of its expansion."""
    freedom = len(sample) - 1
    quantile = _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
    return quantile * statistics.stdev(sample) / math.sqrt(len(sample))


_LONGEST = 20_000  # characters of a text that are shown
_WIDEST = 80  # characters of a list or dict on one line
_PLAIN = "\n\t\u200c\u200d"  # lines and tabs, and what joins signs or parts them, as in Persian and in emoji
_FEW = 5  # rows by which nothing can be told of others

Piece = tuple[str, str, str]
"""A kind (`read`, `written`, `column`, `error`, `fact`), what it is, and the text."""


def pieces(row: TriedRow) -> Iterator[Piece]:
    """Give what is shown of a row, in order: what was read and written, and what became of it."""
    for kind, what, text in _pieces(row):
        yield kind, printable(what), visible(_cut(text))


def _pieces(row: TriedRow) -> Iterator[Piece]:
    for call in row.calls:
        yield "read", "the model reads", call.prompt
        yield "written", _how(call), call.written if not call.choices else _scored(call)
    if row.error:
        yield "error", "failed" if row.kept else "dropped", row.error
    for made in row.made:
        for name, value in made.items():
            yield "column", name, _value(value)
    if not (row.calls or row.error or row.made):
        yield "fact", "kept", ""


def visible(text: str) -> str:
    r"""Show as signs what a terminal would obey, or what hides or turns what is written; lines and tabs stay.

    >>> print(visible("\x1b[2J, \x9b2J, \u202e"))
    ␛[2J, <U+009B>2J, <U+202E>
    """
    return "".join(map(_visible, text))


def title(step: TriedStep) -> str:
    """Name a step, and its model."""
    return printable(f"{step.name} ({step.model})" if step.model else step.name)


def facts(step: TriedStep, shown: int) -> str:
    """Say how many rows a step was given and made, and what is not shown of them.

    >>> rows = tuple(TriedRow(row, error="late" if row == 3 else "") for row in range(4))
    >>> facts(TriedStep("a", "m", rows, 2, rows_in=4, rows_out=4), 2)
    '4 rows in, 4 out, 2.0 s; 2 are not shown, of which 1 failed'
    """
    if not step.rows_in:
        return "not run: no row came as far as this"
    told = f"{step.rows_in:,} rows in, {step.rows_out:,} out, {duration(step.seconds)}"
    told += f", {step.tokens:,} tokens" if step.tokens else ""
    if not step.rows:
        return f"{told}; which row became what, a function doesn't say"
    hidden = step.rows[shown:]
    if not hidden:
        return told
    ends = {
        "failed": sum(bool(row.error and row.kept) for row in hidden),
        "dropped": sum(not row.kept for row in hidden),
    }
    of_which = " and ".join(f"{count:,} {end}" for end, count in ends.items() if count)
    return f"{told}; {len(hidden):,} are not shown" + (f", of which {of_which}" if of_which else "")


def told(estimate: Estimate, steps: Sequence[TriedStep]) -> list[str]:
    """Say an estimate in lines."""
    lines = [_of_what(estimate)]
    if estimate.wanted and not estimate.rows.expected:
        return [*lines, f"none of them was accepted, so that nobody can tell what {estimate.wanted:,} take"]
    if estimate.wanted:
        lines += [
            f"rows tried: {_ranged(estimate.tried)}",
            f"rows accepted: {_ranged(estimate.rows)}{_short_of(estimate)}",
            f"rows on which a step fails: {_ranged(estimate.failed)}",
        ]
    else:
        failed = f", and {_ranged(estimate.failed)} on which a step fails" if estimate.failed.high else ""
        lines += [f"rows made: {_ranged(estimate.rows)}{failed}"]
    lines += [f"tokens read and written: {_ranged(estimate.tokens)}", _time(estimate, steps)]
    return lines if estimate.exact else [*lines, *_doubts(steps)]


def _of_what(estimate: Estimate) -> str:
    tried = f"the {estimate.measured:,} that were tried"
    if estimate.wanted:
        what = f"until {estimate.wanted:,} rows are accepted"
    elif estimate.rows_in is None:
        return f"of {tried} (say num_rows=… for what so many accepted rows take):"
    else:
        what = f"from {estimate.rows_in:,} rows"
    sure = "" if estimate.exact else "; ranges are 90% intervals"
    return f"{what}, by {tried}{sure}:"


def _short_of(estimate: Estimate) -> str:
    if estimate.wanted is None or round(estimate.rows.expected) >= estimate.wanted:
        return ""
    return f" of {estimate.wanted:,} wanted: the input or the budget is spent first"


def _time(estimate: Estimate, steps: Sequence[TriedStep]) -> str:
    hours = estimate.hours
    low, expected, high = (duration(value * 3600) for value in (hours.low, hours.expected, hours.high))
    if estimate.exact:
        return f"time on this device: {expected}"
    at_once = sorted({step.rows_in for step in steps if step.model and step.rows_in})
    many = " to ".join(f"{count:,}" for count in dict.fromkeys(at_once[:1] + at_once[-1:]))
    speed = f", at the speed of {many} rows at once; with more it is likely to be faster" if many else ""
    return f"time on this device: at most {_about(low, expected, high)}{speed}"


def _doubts(steps: Sequence[TriedStep]) -> Iterator[str]:
    """Say what the ranges don't hold."""
    for step in steps:
        name = printable(step.name)
        if not step.rows_in:
            yield f"{name} was not tried: what it takes is not in these numbers"
        elif step.rows_in < _FEW:
            yield f"{name} was tried on {step.rows_in} rows, which are too few to tell; try more, with measured=…"
        if step.stateful:
            yield f"{name} compares rows with those before: the more rows, the more of them it drops; expect fewer"


def _visible(sign: str) -> str:
    if sign.isprintable() or sign in _PLAIN or unicodedata.category(sign) == "Zs":
        return sign
    code = ord(sign)
    return chr(0x2400 + min(code, 0x21)) if code < 0x80 else f"<U+{code:04X}>"


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters are not shown …]\n{text[-half:]}"


def _value(value: Any) -> str:
    if not isinstance(value, list | tuple | dict):
        return str(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _WIDEST else json.dumps(value, ensure_ascii=False, default=str, indent=2)


def _how(call: Call) -> str:
    done = call.completion
    read = f"{done.prompt_tokens:,} tokens read"
    if call.choices:
        return f"it finds, of {len(call.choices)} choices ({read})"
    return f"it writes ({read}, {done.completion_tokens:,} written, {done.finish_reason})"


def _scored(call: Call) -> str:
    pairs = zip(call.choices, call.completion.scores, strict=False)
    return "\n".join(f"{score:9.3f}  {choice}" for choice, score in sorted(pairs, key=lambda pair: -pair[1]))


def _ranged(found: Range) -> str:
    return _about(*(f"{number:,.0f}" for number in (found.low, found.expected, found.high)))


def _about(low: str, expected: str, high: str) -> str:
    return expected if low == high else f"about {expected} ({low} to {high})"


_WIDTH = 100  # columns of a preview that is no terminal's
_STYLES = {"read": "cyan", "written": "green", "column": "bold", "error": "red", "fact": "dim"}
_CSS = """
.hfsynth-preview { font-family: sans-serif; color: #1a1a1a; background: #ffffff; padding: 0.5em; }
.hfsynth-preview pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.4em; color: #1a1a1a; }
.hfsynth-preview .read { background: #e3f0fa; } .hfsynth-preview .written { background: #e6f4e1; }
.hfsynth-preview .column { background: #f2f2f2; } .hfsynth-preview .error { background: #fbe3e0; }
.hfsynth-preview .fact { color: #555555; }
"""


@dataclass(frozen=True)
class Preview:
    """What `Pipeline.preview` returns: printed in a terminal, and shown by a notebook."""

    steps: tuple[TriedStep, ...]
    estimate: Estimate
    shown: int
    """Rows of each step that are shown; more may have been tried, for the estimate."""

    def text(self, width: int = _WIDTH) -> str:
        """Return the preview as plain text, at most `width` signs wide."""
        console = Console(width=width, file=io.StringIO(), color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def html(self) -> str:
        """Return the preview as a piece of HTML that needs nothing else; what is in the rows is shown as text."""
        parts = [f'<div class="hfsynth-preview"><style>{_CSS}</style>']
        for step in self.steps:
            parts.append(f"<h4>{escape(title(step))}: {escape(facts(step, self.shown))}</h4>")
            for row in step.rows[: self.shown]:
                parts.append(f"<details open><summary>row {row.row}</summary>")
                parts += [
                    f'<div class="fact">{escape(what)}</div><pre class="{kind}">{escape(text)}</pre>'
                    for kind, what, text in pieces(row)
                ]
                parts.append("</details>")
        lines = "".join(f"<li>{escape(line)}</li>" for line in told(self.estimate, self.steps))
        return "\n".join([*parts, f"<h4>All of it</h4><ul>{lines}</ul></div>"])

    def __str__(self) -> str:
        return self.text()

    def __rich__(self) -> RenderableType:
        panels = [
            Panel(
                Group(
                    Text(facts(step, self.shown), style=_STYLES["fact"]),
                    *(_lines(row) for row in step.rows[: self.shown]),
                ),
                title=Text(title(step)),
                title_align="left",
            )
            for step in self.steps
        ]
        lines = Text("\n".join(told(self.estimate, self.steps)))
        return Group(*panels, Panel(lines, title="All of it", title_align="left"))

    def _repr_html_(self) -> str:
        return self.html()


def _lines(row: TriedRow) -> Text:
    text = Text()
    text.append(f"row {row.row}\n", style="bold underline")
    for kind, what, shown in pieces(row):
        text.append(f"{what}\n", style=_STYLES["fact"])
        text.append(f"{shown}\n" if shown else "", style=_STYLES[kind])
    return text


def preview_pipeline(
    pipeline: Pipeline,
    dataset: Dataset | RowSource | None,
    n: int,
    *,
    measured: int,
    num_rows: int | None,
    max_rows: int | None,
    max_tokens: int | None,
    chunk_size: int,
) -> Preview:
    """Run the first rows of a dataset through a pipeline, as `Pipeline.preview` documents."""
    if n < 1:
        raise ValueError(f"n is {n}; a preview shows at least 1 row.")
    goal = Goal.of(num_rows, max_rows, max_tokens)
    source = source_of(dataset, num_rows or n)
    pipeline.check(source.rows(0, 0, ()).features)
    limit = max(n, measured) if is_main_process() else 0
    count = min(rows for rows in (limit, source.num_rows, max_rows) if rows is not None)
    steps = try_steps(pipeline.steps, source.rows(0, count, ()))
    return Preview(tuple(steps), estimate(steps, source, count, goal, chunk_size), n)
