"""What the steps did: tokens, ends and failures by the rows' own metadata, the funnel by the record of the runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from datasets import Dataset

from hfsynth.provenance import StepRecord, records
from hfsynth.record import METADATA_COLUMN, StepTally, step_names
from hfsynth.reporting.figures import Lengths

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class StepFigures:
    """One step, as the rows that are here tell of it; a row that became several of them counts once."""

    name: str
    rows: int
    tokens_read: int
    tokens_written: int
    truncated: int
    """Rows with a text that was cut off and is kept."""
    written: Lengths | None
    """Tokens that all completions of a row had together; None where no row is left."""
    finish_reasons: Mapping[str, int]
    """How a row's last completion ended → rows."""
    failures: Mapping[str, int]
    """Reason → rows on which this step failed, and no step before it."""


@dataclass(frozen=True)
class Stage:
    """One step of a run, as the run recorded it."""

    run: int
    """Which of the runs that made the dataset, from 1."""
    name: str
    rows_in: int
    rows_out: int
    """Rows that it made or handed on, without those on which it failed."""
    failed: int
    """Rows on which it failed, and no step before it."""
    dropped: int
    """Rows that a filter or function dropped."""
    rules: Mapping[str, int]
    """Rule of a filter → rows that it dropped."""


def steps_of(dataset: Dataset) -> tuple[StepFigures, ...]:
    """Read the figures of each step from `generation_metadata`; none where there is no such column."""
    names, _ = step_names(dataset)
    tallies = [StepTally(step=name) for name in names]
    for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_ROWS_AT_ONCE) if names else ():
        for tally in tallies:
            tally.see(table)
    return tuple(
        StepFigures(
            name=name,
            rows=tally.rows,
            tokens_read=tally.prompt_tokens,
            tokens_written=tally.completion_tokens,
            truncated=tally.truncated,
            written=Lengths.of(tally.written) if tally.written else None,
            finish_reasons=dict(tally.finish_reasons.most_common()),
            failures=dict(tally.failures.most_common()),
        )
        for name, tally in zip(names, tallies, strict=True)
    )


def funnel_of(dataset: Dataset) -> tuple[Stage, ...]:
    """Read what each step made and dropped from the record that the dataset carries; nothing where it has none."""
    return tuple(_stage(number, step) for number, run in enumerate(records(dataset), 1) for step in run.steps)


def _stage(run: int, step: StepRecord) -> Stage:
    whole = step.node.makes is None  # a filter or a function
    return Stage(
        run=run,
        name=step.name,
        rows_in=step.rows_in,
        rows_out=step.rows_out,
        failed=sum(step.failures.values()),
        dropped=step.dropped,
        rules={rule: count for rule, count in step.stopped.items() if rule} if whole else {},
    )
