"""The rows that an earlier run made of a step, of which those are made again that failed for the time being."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hfsynth.flow import Outcome, is_passing
from hfsynth.record import METADATA_COLUMN
from hfsynth.running.chunks import StepFolder
from hfsynth.technique import Technique

Places = dict[int, tuple[int, int]]


@dataclass
class EarlierRows:
    """What became of a step's rows in an earlier run.

    Args:
        folder: Where it kept them.
        technique: The step.
        same_input: Whether the step had the same input; else a row counts only if what the technique reads is equal.
    """

    folder: StepFolder
    technique: Technique
    same_input: bool
    _names: dict[str, str] = field(init=False)
    """The dataset's name of an output → the technique's."""

    def __post_init__(self) -> None:
        """Look up the outputs' names."""
        mappings = self.technique.output_mappings
        self._names = {mappings.get(name, name): name for name in self.technique.output_features}

    def outcomes(self, indices: range, inputs: Sequence[Mapping[str, Any]]) -> dict[int, Outcome]:
        """Return what became of rows that need not be made again.

        Args:
            indices: The rows' indices in the step's input.
            inputs: What the technique reads of each.
        """
        if not self.same_input and any(set(row) & set(self._names) for row in inputs[:1]):
            return {}  # a column that was read has been replaced: nothing says whether it was the same
        places = {index: self._places[index] for index in indices if index in self._places}
        if not places:
            return {}
        begin, end = min(start for start, _ in places.values()), max(stop for _, stop in places.values())
        rows = self._table.slice(begin, end - begin).to_pylist()
        kept: dict[int, Outcome] = {}
        for index, (start, stop) in places.items():
            row = inputs[index - indices.start] if inputs else {}
            outcome = self._outcome(rows[start - begin : stop - begin], row)
            if outcome is not None:
                kept[index] = outcome
        return kept

    def _outcome(self, rows: Sequence[Mapping[str, Any]], read: Mapping[str, Any]) -> Outcome | None:
        entry = rows[0][METADATA_COLUMN][-1]
        if is_passing(entry["error"], entry["finish_reason"]):
            return None
        if not self.same_input and any(rows[0][column] != value for column, value in read.items()):
            return None
        outputs = [{name: row[column] for column, name in self._names.items()} for row in rows]
        kept = ("error", "raw", "finish_reason", "truncated", "prompt_tokens", "completion_tokens")
        return Outcome([] if entry["error"] else outputs, **{name: entry[name] for name in kept})

    @cached_property
    def _table(self) -> pa.Table:
        return pa.concat_tables(self.folder.written_tables())

    @cached_property
    def _places(self) -> Places:
        """Index of a row of the input → where what was made of it begins and ends."""
        if not self.folder.written_tables():
            return {}
        parts = [
            _last_rows(batch.column(METADATA_COLUMN)) for batch in self._table.select([METADATA_COLUMN]).to_batches()
        ]
        rows = np.concatenate(parts) if parts else np.empty(0, np.int64)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        ends = [*starts[1:].tolist(), len(rows)]
        return {int(rows[start]): (start, end) for start, end in zip(starts.tolist(), ends, strict=True)}


def read_inputs(technique: Technique, dataset: Dataset, rows: range) -> list[dict[str, Any]]:
    """Return what a technique reads of some rows, as Arrow has it, under the dataset's names."""
    read = technique.columns_read(dataset.features)
    if not read:
        return []
    inputs: list[dict[str, Any]] = dataset.select_columns(read).select(rows).with_format("arrow")[:].to_pylist()
    return inputs


def _last_rows(column: pa.ListArray) -> Any:
    """Return the row that the last entry of each list names: (rows,)."""
    offsets = column.offsets.to_numpy()
    return column.values.field("row").take(pa.array(offsets[1:] - 1)).to_numpy(False)
