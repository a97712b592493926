"""A dataset's rows as the page shows them: conversations, chains of versions, tags, and all other columns as text."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, List, Value

from hfsynth.record import METADATA_COLUMN

_TAGS = 40  # most values of a column that rows can be chosen by
_TAG_LENGTH = 60
_ROWS_AT_ONCE = 1_000
_INSTRUCTIONS = ("instruction", "prompt")
_ANSWERS = ("response", "generation", "answer", "completion")
_HIDDEN = {METADATA_COLUMN, "evolutions"}  # shown in ways of their own
ShownRow = dict[str, Any]
"""`row`, its index; `turns`, (role, text); `chain`, (operation, text, rule); `tags`, column → value; `columns`, name →
text; `steps`, (name, how it ended, error)."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a dataset are shown in which way."""

    conversation: str
    """A column of messages; "" where there is none."""
    turns: tuple[tuple[str, str], ...]
    """(role, column) where there is none: what was said, in order."""
    chain: bool
    """Whether EvolInstruct left its rounds."""
    tags: tuple[str, ...]
    """Columns with few values, to choose rows by."""
    columns: tuple[str, ...]
    """All other columns."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Layout":
        """Find them by their names and types."""
        features = dataset.features
        conversation = next((name for name, kind in features.items() if _is_conversation(kind)), "")
        asked = next((name for name in ("evolved_instruction", *_INSTRUCTIONS) if name in features), "")
        answer = next((name for name in _ANSWERS if name in features), "")
        said = (("user", asked), ("user", "input"), ("assistant", answer))
        turns = () if conversation else tuple((role, name) for role, name in said if name and name in features)
        tags = tuple(name for name in features if name not in dict(turns).values() and _is_tag(dataset, name))
        taken = {conversation, *tags, *(name for _, name in turns), *_HIDDEN}
        chain = "evolutions" in features and "instruction" in features
        return cls(conversation, turns, chain, tags, tuple(name for name in features if name not in taken))

    def rows(self, dataset: Dataset) -> Iterator[ShownRow]:
        """Give every row as it is shown."""
        index = 0
        for batch in dataset.with_format(None).iter(_ROWS_AT_ONCE):
            for values in zip(*batch.values(), strict=True):
                yield {"row": index, **self._shown(dict(zip(batch, values, strict=True)))}
                index += 1

    def values(self, dataset: Dataset) -> dict[str, list[str]]:
        """Return the values of each tag, sorted."""
        return {
            name: sorted({str(value) for value in dataset.unique(name) if value is not None}) for name in self.tags
        }

    def _shown(self, row: Mapping[str, Any]) -> ShownRow:
        if self.conversation:
            turns = [(str(turn["role"]), _text(turn["content"])) for turn in row[self.conversation] or ()]
        else:
            turns = [(role, _text(row[name])) for role, name in self.turns if row[name]]
        return {
            "turns": turns,
            "chain": _chain(row) if self.chain else [],
            "tags": {name: str(row[name]) for name in self.tags if row[name] is not None},
            "columns": {name: _text(row[name]) for name in self.columns},
            "steps": [(one["step"], one["finish_reason"], one["error"]) for one in row.get(METADATA_COLUMN) or ()],
        }


def _chain(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the versions of an evolved instruction, the original first: (operation, text, the rule it failed)."""
    rounds = [(one["operation"], _text(one["instruction"]), one["eliminated_by"]) for one in row["evolutions"] or ()]
    return [("", _text(row["instruction"]), ""), *rounds] if rounds else []


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_conversation(kind: Any) -> bool:
    return isinstance(kind, List) and isinstance(kind.feature, dict) and {"role", "content"} <= set(kind.feature)


def _is_tag(dataset: Dataset, name: str) -> bool:
    features: Features = dataset.features
    kind = features[name]
    if not isinstance(kind, Value) or kind.dtype not in ("string", "large_string", "bool"):
        return False
    values = [value for value in dataset.unique(name) if value is not None]
    few = 1 < len(values) <= min(_TAGS, max(2, len(dataset) // 2))
    return few and all(len(str(value)) <= _TAG_LENGTH for value in values)
