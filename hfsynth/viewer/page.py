"""Write one HTML page with the rows, failures and report of a dataset (`view`).

`Layout` decides which columns are displayed as a conversation, as alternative answers, as an evolution, or as tags.
"""

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, List, Value
from jinja2 import Environment, PackageLoader

from hfsynth.conversation import (
    THINKING_FIELDS,
    call_texts,
    is_conversation_json,
    read_conversation,
    read_tool_calls,
    read_tools,
)
from hfsynth.data import INSTRUCTION_COLUMNS, RESPONSE_COLUMNS, VERSIONS, is_chat, text_columns
from hfsynth.errors import RowError
from hfsynth.llm import Message
from hfsynth.record import METADATA_COLUMN, StepRecord, records, split_failures, step_names
from hfsynth.techniques.evol_instruct import EVOLUTION

PREFERENCE_COLUMNS = ("chosen", "rejected")
"""The columns of preference data: two answers to one prompt."""
_BLOCK_SIZE = 1_000  # rows that the page unpacks at once
_ROLES = {"system_prompt": "system", **dict.fromkeys(INSTRUCTION_COLUMNS, "user"), "input": "user"}
_CALL_ROLE = "tool call"
_MAX_TAG_VALUES = 40
_MAX_TAG_LENGTH = 60  # characters
_BATCH_SIZE = 1_000  # rows
ChatColumns = tuple[tuple[str, str], ...]
"""(role, column), in order; a column of conversations has the roles of its messages."""
Turns = list[tuple[str, str]]
"""(role, text)."""


def view(
    dataset: Dataset,
    file: str | Path,
    *,
    title: str = "dataset",
    failures: Dataset | None = None,
    report: str = "",
) -> Path:
    """Write a self-contained page that displays a dataset's rows, its failures and its report in a browser.

    Args:
        dataset: The rows; those on which a step failed are displayed among the failures.
        file: The path of the page.
        title: The title of the page.
        failures: Failures that are not in the dataset (`FAILURE_FEATURES`).
        report: A fragment of HTML such as `report(dataset).html()`, which is inserted as it is.

    Returns:
        The path of the page.
    """
    rows = dataset
    failed: list[Mapping[str, Any]] = failures.to_list() if failures is not None else []
    if METADATA_COLUMN in dataset.column_names:
        rows, own_failures = split_failures(dataset)
        listed = {frozenset(failure.items()) for failure in failed}
        failed += [failure for failure in own_failures.to_list() if frozenset(failure.items()) not in listed]
    layout = Layout.of(rows)
    facts = {
        "rows": len(rows),
        "block": _BLOCK_SIZE,
        "tags": layout.tags,
        "failures": len(failed),
        "steps": list(dict.fromkeys([*step_names(rows)[0], *(failure["step"] for failure in failed)])),
    }
    environment = Environment(loader=PackageLoader("hfsynth.viewer", "."), autoescape=True)
    parts = environment.get_template("page.html.jinja").generate(
        title=title,
        facts=_pack(facts),
        rows=_packed_blocks(layout.rows(rows)),
        failures=_packed_blocks(failed),
        report=report,
    )
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as page:
        page.writelines(parts)  # block by block: the page is never in memory as a whole
    return path


def _packed_blocks(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield rows as packed lists of `_BLOCK_SIZE`."""
    iterator = iter(rows)
    while block := list(islice(iterator, _BLOCK_SIZE)):
        yield _pack(block)


def _pack(value: Any) -> str:
    """Return compressed JSON in base64, which has no characters of HTML."""
    text = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(text, mtime=0)).decode("ascii")


class Version(NamedTuple):
    """An instruction in the course of its evolution."""

    operation: str
    """The evolution's name; "" of the original instruction."""
    text: str
    rule: str
    """The rule that eliminated the version; "" if it stands."""
    answer: str


class StepEntry(NamedTuple):
    """An entry of `generation_metadata`, as the page displays it."""

    step: str
    model: str
    seed: str  # a text, since JavaScript's numbers are exact up to 2^53 only
    row: int
    prompt_tokens: int
    completion_tokens: int
    end: str


@dataclass(frozen=True)
class Layout:
    """How the columns of a dataset are displayed."""

    chat: ChatColumns
    """The columns of the conversation."""
    answers: tuple[str, ...]
    """Columns with alternative answers (`answer_columns`)."""
    evolutions: "tuple[EvolutionColumns, ...]"
    tags: Mapping[str, tuple[str, ...]]
    """Columns with few values, to select rows by → the values, in their order."""
    columns: tuple[str, ...]
    """All other columns."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Layout":
        """Derive the layout from the records of runs, and from the names and types of columns."""
        chat, answers, evolutions = chat_columns(dataset), answer_columns(dataset), EvolutionColumns.all_of(dataset)
        used = {METADATA_COLUMN, *answers, *(name for _, name in chat), *(one.rounds for one in evolutions)}
        rest = [name for name in dataset.features if name not in used]
        starts = {one.start for one in evolutions}
        tags = {name: values for name in rest if name not in starts and (values := _tag_values(dataset, name))}
        return cls(chat, answers, evolutions, tags, tuple(name for name in rest if name not in tags))

    def rows(self, dataset: Dataset) -> Iterator[dict[str, Any]]:
        """Yield each row as the page displays it, as values for JSON.

        Yields:
            `row`, the index; `turns`, the conversation; `answers`, pairs of a heading and `Turns`; `evolution`, a list
            of `Version`; `tags`, column → value; `columns`, column → text; `steps`, a list of `StepEntry`.
        """
        index = 0
        for batch in dataset.with_format(None).iter(_BATCH_SIZE):
            for values in zip(*batch.values(), strict=True):
                yield {"row": index, **self._display_row(dict(zip(batch, values, strict=True)))}
                index += 1

    def _display_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        evolution = [version for columns in self.evolutions for version in columns.versions(row)]
        answers = self._answers(row)
        prompt = _shared_turns([turns for _, turns in answers])
        turns = prompt or [turn for role, name in self.chat for turn in _turns(role, row[name])]
        if turns == [("user", version.text) for version in evolution[:1]]:
            turns = []  # the evolution begins with the same text
        return {
            "turns": turns,
            "answers": [(heading, turns[len(prompt) :]) for heading, turns in answers],
            "evolution": evolution,
            "tags": {name: str(row[name]) for name in self.tags if row[name] is not None},
            "columns": {
                name: _tools_text(row[name]) if name == "tools" else _text(row[name]) for name in self.columns
            },
            "steps": [_step_entry(entry) for entry in row.get(METADATA_COLUMN) or ()],
        }

    def _answers(self, row: Mapping[str, Any]) -> list[tuple[str, Turns]]:
        """Return the alternative answers, each with a heading."""
        if len(self.answers) == 1:
            answers = enumerate(row[self.answers[0]] or (), 1)
            return [(f"answer {number}", _turns("assistant", text)) for number, text in answers]
        return [(name, _turns("assistant", row[name])) for name in self.answers]


# --- columns of a conversation ---


def chat_columns(dataset: Dataset) -> ChatColumns:
    """Find the columns of a conversation; without the answer if there are alternatives (`answer_columns`)."""
    readable = text_columns(dataset.features)
    runs = records(dataset)
    steps = [step for run in runs for step in run.steps]
    answer, alternatives = _answer_column(dataset), answer_columns(dataset)
    if alternatives == PREFERENCE_COLUMNS:
        return _with_role("user", first_column(INSTRUCTION_COLUMNS, readable))
    calls = "tool_calls" if answer and dataset.features.get("tool_calls") == Value("string") else ""
    end = () if alternatives else (*_with_role("assistant", answer), *_with_role(_CALL_ROLE, calls))
    if step := producing_step(answer, steps):
        return (*_prompt_columns(step, readable), *end)
    source_columns = {name for run in runs[:1] for name in run.source.columns if not producing_step(name, steps)}
    if answer in source_columns:  # an answer of the source belongs to an instruction of the source
        readable = [name for name in readable if name in source_columns]
    chat = next((name for name in readable if is_chat(dataset.features, name)), "")
    if chat not in ("", "prompt"):
        return _with_role("user", chat)
    instruction = chat or first_column(INSTRUCTION_COLUMNS, readable)
    is_source = answer not in source_columns and _is_instruction_source(dataset, steps)
    context = first_column(() if is_source else ("input",), readable)
    return (*_with_role("user", instruction), *_with_role("user", context), *end)


def answer_columns(dataset: Dataset) -> tuple[str, ...]:
    """Find columns with alternative answers: two of preference data, or one of lists; () where there is one answer."""
    readable = text_columns(dataset.features)
    if set(PREFERENCE_COLUMNS) <= set(readable):
        return PREFERENCE_COLUMNS
    answer = _answer_column(dataset)
    return (answer,) if answer and answer not in readable else ()


def producing_step(column: str, steps: Sequence[StepRecord]) -> StepRecord | None:
    """Return the last technique that wrote a column; None where no record has one."""
    return next((step for step in reversed(steps) if column in (step.node.makes or ())), None)


def first_column(names: Iterable[str], columns: Iterable[str]) -> str:
    """Return the first of some names that is a column; "" where none is."""
    existing = set(columns)
    return next((name for name in names if name in existing), "")


def _with_role(role: str, column: str) -> ChatColumns:
    return ((role, column),) if column else ()


def _answer_column(dataset: Dataset) -> str:
    lists = (name for name, kind in dataset.features.items() if kind == List(Value("string")))
    alternatives = (name for name in lists if name not in VERSIONS)  # VERSIONS: one answer for each version
    return first_column(RESPONSE_COLUMNS, [*text_columns(dataset.features), *alternatives])


def _prompt_columns(step: StepRecord, readable: Sequence[str]) -> ChatColumns:
    """Return the prompt of the step that answered: the instruction that it wrote itself, or else its inputs.

    The columns of a template have their names for roles.
    """
    mappings = [step.recipe.get(mapping) or {} for mapping in ("input_mappings", "output_mappings")]
    own_name = {name: name for name in readable}
    own_name |= {column: name for mapping in mappings for name, column in mapping.items() if column in own_name}
    prompt = [(_ROLES[own_name[name]], name) for name in step.node.makes or () if own_name.get(name) in _ROLES]
    if not any(own_name[name] in INSTRUCTION_COLUMNS for _, name in prompt):
        inputs = [name for name in step.node.reads if own_name.get(name, "tools") != "tools"]
        has_template = step.recipe.get("template") is not None
        roles = [name if has_template else _ROLES.get(own_name[name], "user") for name in inputs]
        prompt = [*zip(roles, inputs, strict=True), *prompt]
    return tuple(sorted(prompt, key=lambda pair: pair[0] != "system"))


def _is_instruction_source(dataset: Dataset, steps: Sequence[StepRecord]) -> bool:
    """Return whether instructions were generated from the column `input`, which a conversation then leaves out."""
    techniques = [step.node for step in steps if step.node.makes]
    if techniques:
        return any("input" in node.reads and {*INSTRUCTION_COLUMNS} & {*(node.makes or ())} for node in techniques)
    return "SelfInstruct" in step_names(dataset)[0]  # rows of `map` have metadata, but no record


# --- columns of an evolution ---


@dataclass(frozen=True)
class EvolutionColumns:
    """The columns of one EvolInstruct; "" for a column that does not exist."""

    start: str
    """The instructions that were evolved."""
    rounds: str
    """Every round, those of eliminated versions included."""
    kept: str
    """Lists of the versions that were kept."""
    answers: str
    """Lists of their answers."""

    @classmethod
    def all_of(cls, dataset: Dataset) -> "tuple[EvolutionColumns, ...]":
        """Find the columns of each EvolInstruct, whatever their names."""
        return tuple(cls._of(name, dataset) for name, kind in dataset.features.items() if _is_rounds(kind))

    @classmethod
    def _of(cls, rounds: str, dataset: Dataset) -> "EvolutionColumns":
        step = producing_step(rounds, [step for run in records(dataset) for step in run.steps])
        recipe = step.recipe if step else {}
        inputs, outputs = recipe.get("input_mappings") or {}, recipe.get("output_mappings") or {}
        usual_names = [name for name in INSTRUCTION_COLUMNS if not name.startswith("evolved_")]
        starts = [inputs.get("instruction", "instruction")] if recipe else usual_names
        kept, answers = (first_column([outputs.get(name, name)], dataset.features) for name in VERSIONS)
        return cls(first_column(starts, dataset.features), rounds, kept, answers)

    def versions(self, row: Mapping[str, Any]) -> list[Version]:
        """Return a row's versions, after the original instruction if the dataset still has it; [] without rounds."""
        pairs = zip(row.get(self.kept) or (), row.get(self.answers) or (), strict=False)
        answers = {text: answer or "" for text, answer in pairs}
        versions = [
            Version(one["operation"], text, rule, "" if rule else answers.get(text, ""))
            for one in row[self.rounds] or ()
            for text, rule in [(one["instruction"] or "", one["eliminated_by"])]
        ]
        start = row.get(self.start)
        last_kept = [version.text for version in versions if not version.rule][-1:]
        # a step may have written the last version over the original
        if versions and isinstance(start, str) and start not in last_kept:
            return [Version("", start, "", answers.get(start, "")), *versions]
        return versions


def _is_rounds(kind: Any) -> bool:
    return isinstance(kind, List) and isinstance(kind.feature, dict) and set(kind.feature) == set(EVOLUTION)


# --- values ---


def _turns(role: str, value: Any) -> Turns:
    """Return a text as one turn, or the turns of a conversation with the calls of tools in them."""
    if not value or (isinstance(value, str) and role != _CALL_ROLE and not is_conversation_json(value)):
        return [(role, value)] if value else []
    try:
        if role == _CALL_ROLE:
            calls = read_tool_calls("tool_calls", value)
            return _message_turns({"role": role, "content": "", "tool_calls": calls}) if calls else []
        return [turn for message in read_conversation("", value) for turn in _message_turns(message)]
    except RowError:
        return [(role, _text(value))]


def _message_turns(message: Message) -> Turns:
    """Return the thinking, text and tool calls of a message, each as a turn."""
    turns = [("thinking", str(message[name])) for name in THINKING_FIELDS if name in message]  # type: ignore[literal-required]
    if message["content"] or not (turns or message.get("tool_calls")):
        name = message.get("name") if message["role"] == "tool" else ""
        turns.append((f"{message['role']} {name}" if name else message["role"], message["content"]))
    return turns + [(_CALL_ROLE, call) for call in call_texts(message)]


def _tools_text(value: Any) -> str:
    """Return tools as lines, each with a tool's name, parameters and description."""
    try:
        tools = [tool.get("function") or tool for tool in read_tools("tools", value)]
    except RowError:
        return _text(value)
    lines = []
    for tool in tools:
        schema = tool.get("parameters")
        parameters = schema.get("properties", schema) if isinstance(schema, Mapping) else {}
        names = ", ".join(parameters) if isinstance(parameters, Mapping) else ""
        lines.append(f"{tool.get('name')}({names}): {tool.get('description', '')}")
    return "\n".join(lines)


def _shared_turns(answers: Sequence[Turns]) -> Turns:
    """Return the turns with which all conversations begin, without their last ones: the prompt.

    >>> _shared_turns([[("user", "Hi"), ("assistant", "Hello")], [("user", "Hi"), ("assistant", "No")]])
    [('user', 'Hi')]
    """
    places = zip(*(turns[:-1] for turns in answers), strict=False)
    return [first for first, *_ in takewhile(lambda turns: len(set(turns)) == 1, places)]


def _step_entry(entry: Mapping[str, Any]) -> StepEntry:
    return StepEntry(
        step=entry["step"],
        model=entry["model"],
        seed=str(entry["seed"]),
        row=entry["row"],
        prompt_tokens=entry["prompt_tokens"],
        completion_tokens=entry["completion_tokens"],
        end="truncated" if entry["truncated"] else entry["finish_reason"],
    )


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _tag_values(dataset: Dataset, name: str) -> tuple[str, ...]:
    """Return the values of a column with few short ones, in their order; () of any other column."""
    kind = dataset.features[name]
    if not isinstance(kind, Value) or not kind.dtype.startswith(("string", "large_string", "bool", "int", "uint")):
        return ()
    values = [value for value in dataset.unique(name) if value not in (None, "")]
    if not 1 < len(values) <= min(_MAX_TAG_VALUES, max(2, len(dataset) // 2)):
        return ()
    tags = tuple(map(str, sorted(values)))
    return tags if all(len(tag) <= _MAX_TAG_LENGTH for tag in tags) else ()
