"""A dataset's rows as the page shows them: conversations, chains of versions, tags, and all other columns as text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from datasets import Dataset, Value

from hfsynth.record import METADATA_COLUMN
from hfsynth.viewing.chains import Chain
from hfsynth.viewing.said import Said, said_in, several_in

_TAGS = 40  # most values of a column that rows can be chosen by
_TAG_LENGTH = 60
_ROWS_AT_ONCE = 1_000
ShownRow = dict[str, Any]
"""`row`, its index; `turns`, (role, text); `answers`, (what one of several is called, its turns); `chain`, see
`chains.Version`; `tags`, column → value; `columns`, name → text; `steps`, (name, model, seed, row, tokens read, tokens
written, how it ended)."""
Turns = list[tuple[str, str]]
"""(role, text)."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a dataset are shown in which way."""

    said: Said
    """What was said, in order."""
    several: tuple[str, ...]
    """Columns with several answers to it (`several_in`)."""
    chains: tuple[Chain, ...]
    tags: Mapping[str, tuple[str, ...]]
    """Columns with few values, to choose rows by → the values, in their order."""
    columns: tuple[str, ...]
    """All other columns."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Layout":
        """Find them by what the runs recorded, and by their names and types."""
        said, several, chains = said_in(dataset), several_in(dataset), Chain.all_of(dataset)
        taken = {METADATA_COLUMN, *several, *(name for _, name in said), *(chain.rounds for chain in chains)}
        left = [name for name in dataset.features if name not in taken]
        starts = {chain.start for chain in chains}
        tags = {name: values for name in left if name not in starts and (values := _tag_values(dataset, name))}
        return cls(said, several, chains, tags, tuple(name for name in left if name not in tags))

    def rows(self, dataset: Dataset) -> Iterator[ShownRow]:
        """Give every row as it is shown."""
        index = 0
        for batch in dataset.with_format(None).iter(_ROWS_AT_ONCE):
            for values in zip(*batch.values(), strict=True):
                yield {"row": index, **self._shown(dict(zip(batch, values, strict=True)))}
                index += 1

    def _shown(self, row: Mapping[str, Any]) -> ShownRow:
        chain = [version for chain in self.chains for version in chain.shown(row)]
        answers = self._answers(row)
        shared = _shared([turns for _, turns in answers])
        turns = shared or [turn for role, name in self.said for turn in _turns(role, row[name])]
        alone = [("user", version) for _, version, *_ in chain[:1]]  # no more than the chain begins with
        return {
            "turns": [] if turns == alone else turns,
            "answers": [(name, turns[len(shared) :]) for name, turns in answers],
            "chain": chain,
            "tags": {name: str(row[name]) for name in self.tags if row[name] is not None},
            "columns": {name: _text(row[name]) for name in self.columns},
            "steps": [_step(entry) for entry in row.get(METADATA_COLUMN) or ()],
        }

    def _answers(self, row: Mapping[str, Any]) -> list[tuple[str, Turns]]:
        """Return several answers, with what each is called."""
        if len(self.several) == 1:
            listed = enumerate(row[self.several[0]] or (), 1)
            return [(f"answer {number}", _turns("assistant", text)) for number, text in listed]
        return [(name, _turns("assistant", row[name])) for name in self.several]


def _turns(role: str, said: Any) -> Turns:
    """Return a text as a turn, or the turns of a conversation."""
    if isinstance(said, list):
        return [(str(turn["role"]), _text(turn["content"])) for turn in said]
    return [(role, _text(said))] if said else []


def _shared(answers: Sequence[Turns]) -> Turns:
    """Return what conversations have in common before their last turns: the prompt.

    >>> _shared([[("user", "Hi"), ("assistant", "Hello")], [("user", "Hi"), ("assistant", "No")]])
    [('user', 'Hi')]
    """
    together = zip(*(turns[:-1] for turns in answers), strict=False)
    return [first for first, *others in takewhile(lambda turns: len(set(turns)) == 1, together)]


def _step(entry: Mapping[str, Any]) -> tuple[str, str, str, int, int, int, str]:
    """Return how a step made a row; a seed may be greater than any whole number that a browser knows."""
    tokens = (entry["prompt_tokens"], entry["completion_tokens"])
    end = "cut off" if entry["truncated"] else entry["finish_reason"]
    return (entry["step"], entry["model"], str(entry["seed"]), entry["row"], *tokens, end)


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _tag_values(dataset: Dataset, name: str) -> tuple[str, ...]:
    """Return the values of a column that rows can be chosen by, in their order; none of another column."""
    kind = dataset.features[name]
    if not isinstance(kind, Value) or not kind.dtype.startswith(("string", "large_string", "bool", "int", "uint")):
        return ()
    values = [value for value in dataset.unique(name) if value not in (None, "")]
    few = 1 < len(values) <= min(_TAGS, max(2, len(dataset) // 2))
    told = tuple(map(str, sorted(values))) if few else ()
    return told if all(len(value) <= _TAG_LENGTH for value in told) else ()
