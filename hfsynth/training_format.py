"""TrainingFormat: a step that converts rows to one of TRL's dataset types."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

from datasets import ClassLabel, Dataset, Features, Json, List, Value, concatenate_datasets

from hfsynth.config import Configuration, settle_fields
from hfsynth.conversation import (
    CONVERSATION_COLUMNS,
    THINKING_FIELDS,
    conversation_fault,
    is_conversation,
    read_conversation,
    read_tool_calls,
)
from hfsynth.data import INSTRUCTION_COLUMNS, RESPONSE_COLUMNS, VERSIONS
from hfsynth.errors import ColumnError, RowError
from hfsynth.filter import Split
from hfsynth.record import METADATA_COLUMN, failed_rows, failures_dataset
from hfsynth.step import DatasetStep

DatasetType = Literal["language-modeling", "prompt-only", "prompt-completion", "preference", "unpaired-preference"]
"""TRL's names of the types of datasets (https://huggingface.co/docs/trl/dataset_formats)."""
_TYPES = get_args(DatasetType)
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "language-modeling": ("messages",),
    "prompt-only": ("prompt",),
    "prompt-completion": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired-preference": ("prompt", "completion", "label"),
}
"""Dataset type → the columns that TRL's trainers read."""
_REJECTED_COLUMNS = ("rejected", "base_response")
_REPLACED = ("messages", "prompt", "completion", "chosen", "rejected", "conversations", "conversation")
_TEXTS = List({"role": Value("string"), "content": Value("string")})
_RULES = ("no_prompt", "no_completion", "no_score", "no_difference")
_ROWS_AT_ONCE = 1_000
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Example:
    """One prompt with one of its completions."""

    row: int
    """Index of the source row."""
    prompt: tuple[Any, ...]
    completion: tuple[Any, ...] = ()
    score: Any = None


@dataclass(frozen=True)
class _Dropped:
    """Why a row was dropped."""

    rule: str
    value: str
    raw: str


@dataclass(frozen=True)
class TrainingFormat(Configuration, DatasetStep):
    """Convert rows to one of TRL's dataset types, in the conversational format: the trainer applies the chat template.

    | `type` | columns | trainer |
    |---|---|---|
    | `language-modeling` | `messages` | SFTTrainer |
    | `prompt-completion` | `prompt`, `completion` | SFTTrainer, with the loss on the completion alone |
    | `prompt-only` | `prompt` | GRPOTrainer |
    | `preference` | `prompt`, `chosen`, `rejected` | DPOTrainer, RewardTrainer |
    | `unpaired-preference` | `prompt`, `completion`, `label` | KTOTrainer |

    The prompt is an instruction or a conversation. The completion is a response, each text of a list of generations,
    or the last turn of the conversation; it gets the texts of `thinking` and the calls of `tool_calls`. A preference
    comes from a pair of columns, or pairs the responses with the highest and the lowest `score`, among the generations
    of all rows with the same prompt. The columns that are read are replaced; others stay. If the two responses of a
    pair come from different rows, the other columns, the score too, are those of the row with the chosen response; the
    row with the rejected one has no row of its own in the result, and its other columns are lost. A row that lacks a
    part is dropped, with one of these reasons: `no_prompt`, `no_completion`, `no_score`, `no_difference` (all scores
    of a prompt, or both responses, are equal), `between` (neither the highest nor the lowest score), `unreadable`. If
    one response of a row is in the pair, its other responses are in a failure with `between_responses`.

    >>> rows = Dataset.from_dict({"instruction": ["Name a fruit."], "generation": ["A fig."]})
    >>> TrainingFormat("prompt-completion")(rows)[0]["completion"]
    [{'role': 'assistant', 'content': 'A fig.'}]

    Raises:
        ValueError: If the type is not one of these, both `minimum` and `accepted` are set, or one is set for a type
            without labels.
    """

    reads_earlier_rows: ClassVar[bool] = False

    type: str = field(metadata={"help": f"One of {', '.join(_TYPES)}."})
    instruction: str | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "Column of the instruction or conversation. Default: a column with a usual name."},
    )
    response: str | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "Column of the (chosen) response. Default: a column with a usual name."},
    )
    rejected: str | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "Column of the rejected response. Default: `rejected` or `base_response`."},
    )
    score: str | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "Column of a response's score or label. Default: `reward`, if there is no rejected column."},
    )
    minimum: float | None = field(
        default=None, kw_only=True, metadata={"help": "Lowest score of a response that gets the label True."}
    )
    accepted: tuple[Any, ...] = field(
        default=(), kw_only=True, metadata={"help": "Scores of responses that get the label True."}
    )
    use_input: bool | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "Append `input` to the instruction. Default: if that column comes after `instruction`."},
    )
    system_prompt: bool = field(
        default=True, kw_only=True, metadata={"help": "Keep system prompts, as each prompt's first message."}
    )
    thinking_field: str | None = field(
        default="reasoning_content",
        kw_only=True,
        metadata={
            "help": "Message field that gets the text of the column `thinking`; None leaves all thinking out, that of "
            "messages too."
        },
    )
    tools: bool = field(default=True, kw_only=True, metadata={"help": "Keep the column `tools`, which trainers read."})
    name: str = field(default="", kw_only=True, metadata={"help": "The step's name in records. Default: the class."})

    def __post_init__(self) -> None:
        """Check the type, and the fields that only some types use."""
        settle_fields(self)
        object.__setattr__(self, "name", self.name or type(self).__name__)
        if self.type not in _TYPES:
            raise ValueError(f"TrainingFormat.type must be one of {list(_TYPES)}, got {self.type!r}.")
        if self.minimum is not None and self.accepted:
            raise ValueError(
                f"TrainingFormat takes minimum or accepted, got minimum={self.minimum} and accepted={self.accepted}."
            )
        if self.type != "unpaired-preference" and (self.minimum is not None or self.accepted):
            raise ValueError(
                f"minimum and accepted label an unpaired-preference; TrainingFormat.type is {self.type!r}."
            )

    def check_features(self, features: Features) -> Features:
        """Return the features of the rows in this format.

        Raises:
            ColumnError: If a column is missing, or can't be read.
        """
        sources = _Sources.find(self, features)
        written = {name: sources.message_feature(self, features) for name in COLUMNS[self.type]}
        if "label" in written:
            written["label"] = Value("bool")
        removed = sources.removed(self, features)
        kept = {name: kind for name, kind in features.items() if name not in removed and name not in written}
        return Features({**written, **kept})

    def __call__(self, dataset: Dataset) -> Dataset:
        """Return the rows in this format.

        Raises:
            ColumnError: As `check_features` does.
        """
        return self.split(dataset).kept

    def split(
        self,
        dataset: Dataset,
        kept: Iterable[Dataset] = (),  # noqa: ARG002 - reads no earlier rows
        first: int = 0,
    ) -> Split:
        """Return the rows in this format, and the dropped rows as failures (`FAILURE_FEATURES`).

        Args:
            dataset: The rows. A row on which a technique failed stays, with None in the new columns.
            kept: Ignored.
            first: Index of the first row.

        Raises:
            ColumnError: As `check_features` does.
        """
        features = self.check_features(dataset.features)
        sources = _Sources.find(self, dataset.features)
        failed = failed_rows(dataset)
        examples: list[_Example] = []
        dropped: dict[int, _Dropped] = {}
        names = sources.columns(dataset.features)
        start = 0
        for batch in dataset.select_columns(names).with_format(None).iter(_ROWS_AT_ONCE):
            for place in range(len(batch[names[0]])):
                if start + place in failed:
                    continue
                row = {name: batch[name][place] for name in names}
                try:
                    examples += sources.examples(self, row, start + place)
                except RowError as error:
                    rule, value = (error.reason, "") if error.reason in _RULES else ("unreadable", error.reason)
                    dropped[start + place] = _Dropped(rule, value, json.dumps(row, ensure_ascii=False, default=str))
            start += len(batch[names[0]])
        written = dict(self._rows(examples, dropped, is_paired=bool(sources.rejected)))
        column = {"step": self.name, "column": sources.instruction}
        entries = [
            {**column, "row": first + row, "error": one.rule, "raw": one.raw, "rule": one.rule, "value": one.value}
            for row, one in sorted(dropped.items())
        ]
        return Split(self._written(dataset, features, written, failed), failures_dataset(entries))

    def _rows(
        self, examples: Sequence[_Example], dropped: dict[int, _Dropped], is_paired: bool
    ) -> Iterator[tuple[int, list[_Row]]]:
        """Yield (index of a source row, its new rows), and add the dropped rows to `dropped`.

        Args:
            examples: The examples of all rows.
            dropped: Index of a source row → why it, or some of its responses, were dropped.
            is_paired: Whether each row has a chosen and a rejected response of its own.
        """
        if self.type == "preference":
            groups: dict[Any, list[_Example]] = {}
            for one in examples:
                key = one.row if is_paired else json.dumps(one.prompt, sort_keys=True, default=str)
                groups.setdefault(key, []).append(one)
            for group in groups.values():
                yield from _pair(group, dropped)
            return
        rows: dict[int, list[_Row]] = {}
        for one in examples:
            values = {"messages": [*one.prompt, *one.completion], "prompt": one.prompt, "completion": one.completion}
            label = {"label": one.score} if self.type == "unpaired-preference" else {}
            new = {name: value for name, value in {**values, **label}.items() if name in COLUMNS[self.type]}
            rows.setdefault(one.row, []).append(new)
        yield from rows.items()

    def _written(
        self, dataset: Dataset, features: Features, written: Mapping[int, Sequence[_Row]], failed: set[int]
    ) -> Dataset:
        """Return the dataset with the new columns, in the order of the source rows."""
        empty = [dict.fromkeys(COLUMNS[self.type])]
        news = {row: empty if row in failed else written[row] for row in sorted({*failed, *written})}
        places = [row for row, several in news.items() for _ in several]
        others = [name for name in dataset.column_names if name in features and name not in COLUMNS[self.type]]
        values = {
            name: [_plain(new[name]) for several in news.values() for new in several] for name in COLUMNS[self.type]
        }
        kinds = {name: features[name] for name in COLUMNS[self.type]}
        if not places:  # concatenate_datasets would leave the columns of an empty dataset out
            values |= {name: [] for name in others}
            kinds |= {name: dataset.features[name] for name in others}
        new = Dataset.from_dict(values, features=Features(kinds), split=dataset.split)
        if places and others:
            rest = dataset.select(places).select_columns(others)
            new = concatenate_datasets([new, rest], axis=1, split=dataset.split)
        new.info.description = dataset.info.description  # the records of runs
        return new


def training_format(form: TrainingFormat | str | Mapping[str, Any]) -> TrainingFormat:
    """Return a format from its type, or from a mapping of its fields.

    >>> training_format({"type": "preference", "score": "quality"}).score
    'quality'

    Raises:
        ValueError: If the type or a field does not exist.
    """
    if isinstance(form, TrainingFormat):
        return form
    fields = {"type": form} if isinstance(form, str) else dict(form)
    if unknown := sorted(set(fields) - set(TrainingFormat.__dataclass_fields__)):
        raise ValueError(
            f"TrainingFormat has no field {unknown[0]!r}; it has {list(TrainingFormat.__dataclass_fields__)}."
        )
    return TrainingFormat(**{"type": "", **fields})


def _plain(value: Any) -> Any:
    """Return messages as a list of dicts; return any other value unchanged."""
    return [dict(message) for message in value] if isinstance(value, tuple | list) else value


def _pair(group: Sequence[_Example], dropped: dict[int, _Dropped]) -> Iterator[tuple[int, list[_Row]]]:
    """Yield the pair of a prompt: the responses with the highest and the lowest score, unless these are equal."""
    scores = [one.score for one in group]
    best, worst = group[scores.index(max(scores))], group[scores.index(min(scores))]
    is_equal = best.score == worst.score
    if not is_equal:
        yield best.row, [{"prompt": best.prompt, "chosen": best.completion, "rejected": worst.completion}]
    left: dict[int, list[_Example]] = {}
    for one in group:
        if is_equal or (one is not best and one is not worst):
            left.setdefault(one.row, []).append(one)
    for row, several in left.items():
        rule = "between_responses" if row in (best.row, worst.row) else "between"
        answers = [_answer(one) for one in several]
        raw = answers[0] if len(answers) == 1 else json.dumps(answers, ensure_ascii=False)
        values = ", ".join(str(one.score) for one in several)
        dropped[row] = _Dropped("no_difference" if is_equal else rule, values, raw)


def _answer(example: _Example) -> str:
    return str(example.completion[-1]["content"]) if example.completion else ""


@dataclass(frozen=True)
class _Sources:
    """Names of the columns that a format reads; "" for those that it doesn't read."""

    instruction: str
    response: str
    rejected: str
    score: str
    input: str
    system_prompt: str
    thinking: str
    tool_calls: str

    @classmethod
    def find(cls, form: TrainingFormat, features: Features) -> "_Sources":
        """Find the columns among a dataset's.

        Raises:
            ColumnError: If one is missing.
        """
        found = sorted(name for name in features if name != METADATA_COLUMN)
        for argument in ("instruction", "response", "rejected", "score"):
            name = getattr(form, argument)
            if name is not None and name not in features:
                raise ColumnError(f"{form.name}.{argument} is {name!r}; the dataset has {found}.")
        instruction = form.instruction or next((name for name in INSTRUCTION_COLUMNS if name in features), "")
        if not instruction:
            raise ColumnError(f"{form.name} finds no instruction among {found}; name its column with instruction='…'.")
        kind = features[instruction]
        if instruction not in VERSIONS and not isinstance(kind, ClassLabel) and (fault := conversation_fault(kind)):
            raise ColumnError(f"{form.name} can't read conversations in column {instruction!r}: {fault}.")
        answers = (name for name in RESPONSE_COLUMNS if _is_answer(features, name) and name != instruction)
        response = form.response or next(answers, "")
        is_pair = form.type == "preference"
        rejected = form.rejected or next((name for name in _REJECTED_COLUMNS if is_pair and name in features), "")
        score = form.score or ("reward" if not rejected and "reward" in features else "")
        if form.type == "prompt-only":
            response = rejected = score = ""
        sources = cls(
            instruction,
            response,
            rejected,
            score,
            "input" if _reads_input(form, instruction, features) else "",
            "system_prompt" if "system_prompt" in features else "",
            "thinking" if "thinking" in features and response else "",
            "tool_calls" if "tool_calls" in features and response and not rejected else "",
        )
        sources._check(form, features, found)
        return sources

    def _check(self, form: TrainingFormat, features: Features, found: Sequence[str]) -> None:
        """Check that the dataset has all columns that the format needs.

        Raises:
            ColumnError: If one is missing.
        """
        has_answers = self.response or _may_have_answers(features, self.instruction)
        if form.type not in ("prompt-only", "language-modeling") and not has_answers:
            raise ColumnError(f"{form.name} finds no response among {found}; name its column with response='…'.")
        if form.type == "language-modeling" and not has_answers:
            raise ColumnError(
                f"{form.name} finds no response among {found}; name its column with response='…', or use "
                "'prompt-only' for instructions alone."
            )
        if form.type == "preference" and not (self.rejected or self.score):
            raise ColumnError(
                f"{form.name} needs a rejected response or a score for a preference; the dataset has {found}. Name "
                "its column with rejected='…' or score='…', such as the one that Reward writes."
            )
        if form.type != "unpaired-preference":
            return
        if not self.score:
            raise ColumnError(f"{form.name} needs a score to label responses by; name one of {found} with score='…'.")
        kind = features[self.score]
        kind = kind.feature if isinstance(kind, List) else kind
        if form.minimum is None and not form.accepted and kind != Value("bool"):
            raise ColumnError(f"{form.name} needs minimum=… or accepted=(…) to label responses by {self.score!r}.")

    def columns(self, features: Features) -> list[str]:
        """Return the names of the dataset's columns that are read."""
        names = (
            self.instruction, self.response, self.rejected, self.score, self.input, self.system_prompt, self.thinking,
            self.tool_calls,
        )  # fmt: skip
        return [name for name in dict.fromkeys(names) if name in features]

    def removed(self, form: TrainingFormat, features: Features) -> set[str]:
        """Return the columns to remove: those that are read, and others that a trainer would read in their place."""
        inside = {self.instruction, self.response, self.rejected, self.input, self.system_prompt, self.thinking}
        inside.add(self.tool_calls)
        if form.type == "prompt-only":
            inside |= {name for name in RESPONSE_COLUMNS if name in features}
        return inside | set(_REPLACED) | (set() if form.tools else {"tools"})

    def message_feature(self, form: TrainingFormat, features: Features) -> Any:
        """Return the feature of a list of messages: JSON if they may have more fields than role and content."""
        kinds = [features[name] for name in (self.instruction, self.response, self.rejected) if name]
        is_json = self.instruction in CONVERSATION_COLUMNS and isinstance(features[self.instruction], Value)
        extra = is_json or any(is_conversation(kind) and kind != _TEXTS for kind in kinds)
        has_fields = extra or self.tool_calls or (self.thinking and form.thinking_field)
        return List(Json()) if has_fields else _TEXTS

    def examples(self, form: TrainingFormat, row: _Row, place: int) -> list[_Example]:
        """Return the examples of a row.

        Raises:
            RowError: If the row has no prompt, completion or score; the reason is the rule's name.
        """
        examples = self._read_examples(form, row, place)
        if form.thinking_field is None:
            cut = _without_thinking
            return [replace(one, prompt=cut(one.prompt), completion=cut(one.completion)) for one in examples]
        return examples

    def _read_examples(self, form: TrainingFormat, row: _Row, place: int) -> list[_Example]:
        prompt = self._prompt(form, row)
        if form.type == "prompt-only":
            while prompt and prompt[-1]["role"] == "assistant":
                prompt = prompt[:-1]
            if not prompt:
                raise RowError("no_prompt")
            return [_Example(place, prompt)]
        if self.rejected:
            best = _answers(row[self.response] if self.response else None, row[self.instruction], prompt)
            worst = _answers(row[self.rejected], None, prompt)
            if best[0] == worst[0]:
                raise RowError("no_difference")
            return [_Example(place, prompt, best[0], 1.0), _Example(place, prompt, worst[0], 0.0)]
        if self.response:
            calls = _tool_calls(row[self.tool_calls]) if self.tool_calls else ()
            answers = _answers(row[self.response], None, prompt, is_version=self.response in VERSIONS, calls=calls)
            answers = self._with_thinking(form, row, answers)
        elif prompt[-1]["role"] == "assistant":
            prompt, answers = prompt[:-1], [(prompt[-1],)]
        else:
            answers = []
        if not answers or not prompt:
            raise RowError("no_completion")
        scores = self._scores(form, row, len(answers))
        return [_Example(place, prompt, answer, score) for answer, score in zip(answers, scores, strict=True)]

    def _prompt(self, form: TrainingFormat, row: _Row) -> tuple[Any, ...]:
        value = row[self.instruction]
        if self.instruction in VERSIONS and isinstance(value, list):
            value = value[-1] if value else None
        if isinstance(value, str) and not value.lstrip().startswith(("[{", '["{')):
            if self.input and isinstance(row[self.input], str) and row[self.input].strip():
                value = f"{value}\n\n{row[self.input]}"
            messages: tuple[Any, ...] = ({"role": "user", "content": value},) if value.strip() else ()
        else:
            messages = read_conversation(self.instruction, value) if value else ()
            if isinstance(value, str) and self.instruction not in CONVERSATION_COLUMNS:
                _check_plain(self.instruction, messages)
        if not messages:
            raise RowError("no_prompt")
        has_system = messages[0]["role"] in ("system", "developer")
        if not form.system_prompt:
            return messages[1:] if has_system else messages
        text = row[self.system_prompt] if self.system_prompt else None
        return messages if has_system or not text else ({"role": "system", "content": text}, *messages)

    def _with_thinking(
        self, form: TrainingFormat, row: _Row, answers: Sequence[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        if not self.thinking or not form.thinking_field:
            return list(answers)
        value = row[self.thinking]
        thoughts = value if isinstance(value, list) and len(value) == len(answers) else [value] * len(answers)
        field_of = form.thinking_field
        return [
            (*answer[:-1], {**answer[-1], field_of: thought}) if isinstance(thought, str) and thought else answer
            for answer, thought in zip(answers, thoughts, strict=True)
        ]

    def _scores(self, form: TrainingFormat, row: _Row, count: int) -> list[Any]:
        """Return the score of each answer, or its label for an unpaired preference."""
        if form.type not in ("preference", "unpaired-preference"):
            return [None] * count
        value = row[self.score]
        scores = value if isinstance(value, list) else [value]
        if len(scores) != count or any(score is None or score != score for score in scores):  # NaN != NaN
            raise RowError("no_score")
        if form.type == "preference":
            return list(scores)
        if form.accepted:
            return [score in form.accepted for score in scores]
        return [score >= form.minimum if form.minimum is not None else bool(score) for score in scores]


def _may_have_answers(features: Features, name: str) -> bool:
    """Return whether a column has conversations, by its feature or, if they are JSON texts, by its name."""
    is_json = isinstance(features[name], Value | Json) and name in CONVERSATION_COLUMNS
    return is_json or is_conversation(features[name])


def _is_answer(features: Features, name: str) -> bool:
    kind = features.get(name)
    kind = kind.feature if isinstance(kind, List) and isinstance(kind.feature, Value) else kind
    is_text = isinstance(kind, Value) and kind.dtype in ("string", "large_string")
    return is_text or is_conversation(kind)


def _reads_input(form: TrainingFormat, instruction: str, features: Features) -> bool:
    """Return whether `input` is a part of the prompt, as in Alpaca, and not the text that SelfInstruct read."""
    if "input" not in features or instruction == "input" or is_conversation(features[instruction]):
        return False
    names = list(features)
    is_after = "instruction" in features and names.index("input") > names.index("instruction")
    return is_after and instruction == "instruction" if form.use_input is None else form.use_input


def _check_plain(column: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that messages from a JSON text have no fields besides role and content.

    Raises:
        RowError: If they do: the feature of the new column, which does not depend on the rows, has no place for them.
    """
    if extra := sorted({name for message in messages for name in message} - {"role", "content"}):
        raise RowError(f"{column} has JSON with {extra}; rename the column to 'messages' to keep them")


def _without_thinking(messages: Sequence[Any]) -> tuple[Any, ...]:
    return tuple({name: one for name, one in message.items() if name not in THINKING_FIELDS} for message in messages)


def _tool_calls(value: Any) -> list[list[Any]]:
    """Return the tool calls of each answer, from the JSON text of one, or a list of such texts."""
    texts = value if isinstance(value, list) else [value]
    return [read_tool_calls("tool_calls", text) if text else [] for text in texts]


def _answers(
    value: Any, conversation: Any, prompt: Sequence[Any], is_version: bool = False, calls: Sequence[list[Any]] = ()
) -> list[tuple[Any, ...]]:
    """Return completions as messages: from a text, each text of a list, or a conversation's turns after the prompt.

    Args:
        value: The response column's value.
        conversation: The conversation that the prompt comes from, if there is no response column.
        prompt: The prompt's messages.
        is_version: Whether only the last text of a list is read.
        calls: The tool calls of each text.

    Raises:
        RowError: If one is missing or, without tool calls, blank.
    """
    if value is None and conversation is None:
        raise RowError("no_completion")
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts and all(text is None or isinstance(text, str) for text in texts):
        chosen = texts[-1:] if is_version else texts
        called = calls if len(calls) == len(chosen) else [[]] * len(chosen)
        if any(not (text or "").strip() and not one for text, one in zip(chosen, called, strict=True)):
            raise RowError("no_completion")
        return [
            ({"role": "assistant", "content": text or "", **({"tool_calls": one} if one else {})},)
            for text, one in zip(chosen, called, strict=True)
        ]
    if not value:
        raise RowError("no_completion")
    messages = read_conversation("the response", value)
    shared = len(prompt) if tuple(messages[: len(prompt)]) == tuple(prompt) else 0
    if len(messages) == shared:
        raise RowError("no_completion")
    return [messages[shared:]]
