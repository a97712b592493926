"""Conversion of a dataset to a training format before it is saved or pushed, recorded as a step of its run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from datasets import Dataset, DatasetDict

from hfsynth.metadata import dropped_rows, failed_rows
from hfsynth.run_record import RunRecord, StepRecord, records, replace_last_record
from hfsynth.training_format import TrainingFormat


def apply_format(splits: Mapping[str, Dataset], form: TrainingFormat) -> tuple[DatasetDict, dict[str, Dataset]]:
    """Return the splits in a format, and for each split the rows that the format dropped (`FAILURE_FEATURES`).

    The format is added to the splits' records as the last step, so that the recipe includes it.

    Args:
        splits: The rows of each split, by name.
        form: The format.

    Raises:
        ColumnError: If a column is missing, or can't be read.
    """
    parts = {name: form.split(split) for name, split in splits.items()}
    counts: dict[str, list[StepRecord]] = {}
    for name, split in splits.items():
        if runs := records(split):
            counts.setdefault(runs[-1].to_json(), []).append(_step_record(split, parts[name], form))
    for name, split in splits.items():
        if runs := records(split):
            first, *others = counts[runs[-1].to_json()]
            for other in others:  # splits of one run share its record
                first = first.plus(other)
            replace_last_record(parts[name].kept, _with_step(runs[-1], first))
    return DatasetDict({name: part.kept for name, part in parts.items()}), {n: p.dropped for n, p in parts.items()}


def _step_record(before: Dataset, part: tuple[Dataset, Dataset], form: TrainingFormat) -> StepRecord:
    kept, dropped = part
    return StepRecord(
        form.name,
        form.describe(),
        form.node(before.column_names),
        rows_in=len(before) - len(failed_rows(before)),
        rows_out=len(kept) - len(failed_rows(kept)),
        stopped=dict(Counter(dropped_rows(dropped)["rule"])),
    )


def _with_step(run: RunRecord, step: StepRecord) -> RunRecord:
    return replace(run, steps=(*run.steps, step))
