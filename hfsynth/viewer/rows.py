"""Rows as the page shows them: conversations, values, and the history of evolved instructions."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from datasets import Dataset, List, Value

from hfsynth.data import INSTRUCTION_COLUMNS, RESPONSE_COLUMNS, VERSIONS, is_chat, text_columns
from hfsynth.metadata import METADATA_COLUMN, step_names
from hfsynth.run_record import StepRecord, records
from hfsynth.techniques.evol_instruct import EVOLUTION

PAIR = ("chosen", "rejected")
"""The columns of preference data: two answers to one prompt."""
_ROLES = {"system_prompt": "system", **dict.fromkeys(INSTRUCTION_COLUMNS, "user"), "input": "user"}
Said = tuple[tuple[str, str], ...]
"""(role, column), in order; a conversation has roles of its own."""


def said_in(dataset: Dataset) -> Said:
    """Find what was said, up to the answer; that too, unless there are several (`several_in`)."""
    readable = text_columns(dataset.features)
    runs = records(dataset)
    steps = [step for run in runs for step in run.steps]
    answer, several = _answer(dataset), several_in(dataset)
    if several == PAIR:
        return _said("user", first_of(INSTRUCTION_COLUMNS, readable))
    end = () if several else _said("assistant", answer)
    if answering := maker_of(answer, steps):
        return (*_told(answering, readable), *end)
    given = {name for run in runs[:1] for name in run.source.columns if not maker_of(name, steps)}
    if answer in given:  # it was there before the first step, and answers what was there too
        readable = [name for name in readable if name in given]
    chat = next((name for name in readable if is_chat(dataset.features[name])), "")
    if chat not in ("", "prompt"):
        return _said("user", chat)
    asked = chat or first_of(INSTRUCTION_COLUMNS, readable)
    is_source = answer not in given and _is_source(dataset, steps)
    data = first_of(() if is_source else ("input",), readable)
    return (*_said("user", asked), *_said("user", data), *end)


def several_in(dataset: Dataset) -> tuple[str, ...]:
    """Find columns with several answers: two of one each, or one with a list; none where one answer was given."""
    readable = text_columns(dataset.features)
    if set(PAIR) <= set(readable):
        return PAIR
    answer = _answer(dataset)
    return (answer,) if answer and answer not in readable else ()


def _answer(dataset: Dataset) -> str:
    lists = (name for name, kind in dataset.features.items() if kind == List(Value("string")))
    listed = (name for name in lists if name not in VERSIONS)  # of which each answers a version of its own
    return first_of(RESPONSE_COLUMNS, [*text_columns(dataset.features), *listed])


def first_of(names: Iterable[str], columns: Iterable[str]) -> str:
    """Return the first of some names that is a column's; "" where none is."""
    there = set(columns)
    return next((name for name in names if name in there), "")


def maker_of(column: str, steps: Sequence[StepRecord]) -> StepRecord | None:
    """Return the last technique that made a column; None where that isn't known."""
    return next((step for step in reversed(steps) if column in (step.node.makes or ())), None)


def _said(role: str, column: str) -> Said:
    return ((role, column),) if column else ()


def _told(step: StepRecord, readable: Sequence[str]) -> Said:
    """Return what the model was told that answered: the instruction that the step made itself, or else what it read.

    Of a template each column is a part, and is called by its name.
    """
    renamed = [step.recipe.get(mapping) or {} for mapping in ("input_mappings", "output_mappings")]
    own = {name: name for name in readable}
    own |= {column: name for mapping in renamed for name, column in mapping.items() if column in own}
    told = [(_ROLES[own[name]], name) for name in step.node.makes or () if own.get(name) in _ROLES]
    if not any(own[name] in INSTRUCTION_COLUMNS for _, name in told):
        read = [name for name in step.node.reads if name in own]
        parts = step.recipe.get("template") is not None
        told = [*((name if parts else _ROLES.get(own[name], "user"), name) for name in read), *told]
    return tuple(sorted(told, key=lambda one: one[0] != "system"))


def _is_source(dataset: Dataset, steps: Sequence[StepRecord]) -> bool:
    """Whether instructions were made from `input`: then it is what they are about, and nobody said it."""
    makers = [step.node for step in steps if step.node.makes]
    if makers:
        return any("input" in node.reads and {*INSTRUCTION_COLUMNS} & {*(node.makes or ())} for node in makers)
    return "SelfInstruct" in step_names(dataset)[0]  # all that rows tell which `map` made


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
