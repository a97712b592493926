"""The versions of an instruction that EvolInstruct evolved, and the operations between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, List

from hfsynth.provenance import records
from hfsynth.reporting.reading import INSTRUCTION_COLUMNS, VERSIONS
from hfsynth.techniques.evol_instruct import EVOLUTION
from hfsynth.viewing.said import first_of, maker_of

Version = tuple[str, str, str, str]
"""The operation that made it, "" of the first; its text; the rule that it failed; its answer."""


@dataclass(frozen=True)
class Chain:
    """The columns in which EvolInstruct left a row's rounds; one that isn't there, or not known, is ""."""

    start: str
    """What was evolved."""
    rounds: str
    versions: str
    """The list of those that stood."""
    answers: str
    """The list of their answers."""

    @classmethod
    def all_of(cls, dataset: Dataset) -> "tuple[Chain, ...]":
        """Find one for each EvolInstruct that left its rounds, under whatever names."""
        return tuple(cls._of(name, dataset) for name, kind in dataset.features.items() if _is_rounds(kind))

    @classmethod
    def _of(cls, rounds: str, dataset: Dataset) -> "Chain":
        step = maker_of(rounds, [step for run in records(dataset) for step in run.steps])
        recipe = step.recipe if step else {}
        read, written = recipe.get("input_mappings") or {}, recipe.get("output_mappings") or {}
        named = [name for name in INSTRUCTION_COLUMNS if not name.startswith("evolved_")]
        starts = [read.get("instruction", "instruction")] if recipe else named
        lists = [first_of([written.get(name, name)], dataset.features) for name in VERSIONS]
        return cls(first_of(starts, dataset.features), rounds, *lists)

    def shown(self, row: Mapping[str, Any]) -> list[Version]:
        """Return a row's versions, the original first, where it is still there; none where there were no rounds."""
        rounds = row[self.rounds] or ()
        kept = zip(row.get(self.versions) or (), row.get(self.answers) or (), strict=False)
        answers = {version: answer or "" for version, answer in kept}
        shown = [
            (one["operation"], text, rule, "" if rule else answers.get(text, ""))
            for one in rounds
            for text, rule in [(one["instruction"] or "", one["eliminated_by"])]
        ]
        stood = [text for _, text, rule, _ in shown if not rule]
        start = row.get(self.start)
        # a step may have been told to write the last version where it read the first
        if shown and isinstance(start, str) and start not in stood[-1:]:
            return [("", start, "", answers.get(start, "")), *shown]
        return shown


def _is_rounds(kind: Any) -> bool:
    return isinstance(kind, List) and isinstance(kind.feature, dict) and set(kind.feature) == set(EVOLUTION)
