"""Generate answers to instructions, prompts of a template, or conversations."""

import json
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

from datasets import Features, List, Value

from hfsynth.conversation import find_conversation_column, read_conversation, read_tools
from hfsynth.errors import RowError, TruncatedError
from hfsynth.flow import Flow, Row
from hfsynth.jinja_sandbox import check_filled, conditional_variables, prompt_variables, render_prompt
from hfsynth.llm import Completion, Message, Request, SamplingParams
from hfsynth.record import METADATA_COLUMN
from hfsynth.technique import Input, Inputs, Technique


@dataclass(frozen=True, kw_only=True)
class TextGeneration(Technique):
    """Answer each row: `instruction` → `generation`.

    Reads the columns of `template`; or else `instruction`, with `input` below it where no earlier step has written the
    rows (Alpaca); or, if there is no instruction, the conversation in `messages` or `conversations` (see
    `conversation.read_conversation` for its shapes). Without a template, the model may call the tools in `tools`, a
    list of JSON schemas or its JSON text. A column `system_prompt` takes precedence over the field. A row fails if a
    column of the template is None or blank, unless the template tests it (`if`, `is defined`); if an answer reaches
    `max_new_tokens`, unless `keep_truncated` is set; or if all of its answers are empty.

    `keep_tool_calls` parses an answer by the tokenizer's `response_template`, or else as the chat template renders a
    call. `tool_calls` is then the JSON text of a list, "[]" if no tool is called, and `generation` the text besides
    the calls, "" if there is none. `TrainingFormat` makes one message of both. Where calls can't be parsed,
    `tool_calls` is None, they stay in `generation`, and the row's `generation_metadata` has the reason in `raw`.

    >>> from datasets import Dataset
    >>> from hfsynth import EchoLLM
    >>> dataset = Dataset.from_dict({"instruction": ["Hello?"]})
    >>> dataset.map(TextGeneration(EchoLLM()), batched=True, with_indices=True)[0]["generation"]
    'Hello?'
    """

    version: ClassVar[int] = 4
    input_advice: ClassVar[str] = "set use_input=True"

    template: str | None = field(
        default=None, metadata={"help": "Jinja2 prompt over columns, instead of `instruction`."}
    )
    use_input: bool | None = field(
        default=None,
        metadata={"help": "Append `input` to `instruction`. Default: where no earlier step wrote the rows."},
    )
    regenerate: bool = field(
        default=False, metadata={"help": "Answer anew a conversation that ends with an answer; else its row fails."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System prompt of rows without their own."})
    num_generations: int = field(default=1, metadata={"help": "Answers to each row; each becomes one row."})
    group_generations: bool = field(
        default=False, metadata={"help": "Keep a row's answers in one row, as the list `generation`."}
    )
    keep_thinking: bool = field(
        default=False, metadata={"help": "Keep the model's reasoning in the column `thinking`."}
    )
    keep_tool_calls: bool = field(
        default=False,
        metadata={
            "help": "Parse calls of tools into the column `tool_calls`, as JSON; what can't be parsed stays text."
        },
    )
    keep_truncated: bool = field(
        default=False,
        metadata={"help": "Keep responses that reach max_new_tokens, marked as truncated; otherwise their rows fail."},
    )
    sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.7, max_new_tokens=1024), metadata={"help": "How answers are sampled."}
    )

    def __post_init__(self) -> None:
        """Check the template and the number of generations."""
        super().__post_init__()
        if self.num_generations < 1:
            raise ValueError(f"TextGeneration.num_generations must be at least 1, got {self.num_generations}.")
        if self.template is not None and self.keep_tool_calls:
            raise ValueError(
                f"TextGeneration.keep_tool_calls needs `tools`, which a template does not read, got {self.template!r}."
            )
        if self.template is not None and not prompt_variables(self.template, "TextGeneration.template"):
            raise ValueError(f"TextGeneration.template must read a column, got {self.template!r}.")

    def input_features(self, available: Collection[str]) -> Inputs:
        """Return the template's columns, `instruction` or `messages`; `tools` and `system_prompt` if available."""
        inputs: Inputs
        if self.template is not None:
            inputs = dict.fromkeys(prompt_variables(self.template), Input.ANYTHING)
        elif "instruction" not in available and (column := find_conversation_column(available)):
            inputs = {column: Input.CONVERSATION}
        else:
            inputs = {"instruction": Input.TEXT}
            is_asked = METADATA_COLUMN not in available if self.use_input is None else self.use_input
            if self.use_input or (is_asked and "input" in available):
                inputs["input"] = Input.OPTIONAL_TEXT
        if "tools" in available and self.template is None:
            inputs["tools"] = Input.TOOLS
        if "system_prompt" in available:
            inputs.setdefault("system_prompt", Input.OPTIONAL_TEXT)
        return inputs

    @property
    def output_features(self) -> Features:
        """`generation`, and `thinking` and `tool_calls` if requested: texts, or lists of texts."""
        kind = List(Value("string")) if self.group_generations else Value("string")
        return Features(dict.fromkeys(self._output_names(), kind))

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - samples nothing
        """Request `num_generations` answers."""
        messages = self._conversation(row)
        tools = read_tools("tools", row["tools"]) if "tools" in row and self.template is None else ()
        request = Request(
            messages=messages,
            tools=tools,
            parse_tool_calls=self.keep_tool_calls and bool(tools or any("tool_calls" in one for one in messages)),
            sampling=self.sampling,
            keep_truncated=self.keep_truncated,
        )
        completions: list[Completion] = []
        texts: list[str] = []
        truncated: list[TruncatedError] = []
        for _ in range(self.num_generations):
            try:
                completions.append((yield request))
                texts.append(completions[-1].text)
            except TruncatedError as error:
                truncated.append(error)
                texts.append(error.raw)
        if truncated and self.num_generations > 1:
            count = f"{len(truncated)} of {self.num_generations} generations"
            raise RowError(f"{count} were cut off: {truncated[0].reason}", json.dumps(texts, ensure_ascii=False))
        if truncated:
            raise truncated[0]
        if not any(completion.text or completion.tool_calls for completion in completions):
            thought = " after thinking" if completions[-1].thinking is not None else ""
            reason = f"the answer is empty{thought} (finish_reason: {completions[-1].finish_reason})"
            raise RowError(reason, completions[-1].thinking or "")
        names = self._output_names()
        rows: list[Row] = [{name: _answer(completion, name) for name in names} for completion in completions]
        return {name: [row[name] for row in rows] for name in names} if self.group_generations else rows

    def _output_names(self) -> list[str]:
        """Return the names of the outputs, without creating their features, which takes longer than a row."""
        kept = {"generation": True, "thinking": self.keep_thinking, "tool_calls": self.keep_tool_calls}
        return [name for name, is_kept in kept.items() if is_kept]

    def _conversation(self, row: Row) -> tuple[Message, ...]:
        if self.template is None and (column := find_conversation_column(row)):
            messages = _unanswered_messages(column, row[column], self.regenerate)
        else:
            prompt = _instruction(row) if self.template is None else _render_template(self.template, row)
            messages = ({"role": "user", "content": prompt},)
        system_prompt = row.get("system_prompt") or self.system_prompt
        if system_prompt and not any(message["role"] in ("system", "developer") for message in messages):
            return ({"role": "system", "content": system_prompt}, *messages)
        return messages


def _answer(completion: Completion, output: str) -> str | None:
    """Return one output of a completion."""
    if output == "thinking":
        return completion.thinking
    if output == "tool_calls":
        return None if completion.tool_call_error else json.dumps(completion.tool_calls, ensure_ascii=False)
    return completion.text or ("" if completion.tool_calls else None)


def _instruction(row: Row) -> str:
    """Return a row's instruction, with its input below it."""
    instruction, text = row["instruction"], row.get("input")
    return f"{instruction}\n\n{text}" if text and text.strip() else str(instruction)


def _render_template(template: str, row: Row) -> str:
    """Render a row's prompt.

    Raises:
        RowError: If a column that the template doesn't test is None or blank, or all of its columns are.
    """
    columns = prompt_variables(template)
    tested = conditional_variables(template)
    for name in columns:
        if name not in tested:
            check_filled(row, (name,))
    check_filled(row, columns)
    prompt = render_prompt(template, {name: row[name] for name in columns})
    if not prompt.strip():
        raise RowError(f"the prompt is empty: {template!r} with {row!r:.200}")
    return prompt


def _unanswered_messages(column: str, conversation: object, regenerate: bool) -> tuple[Message, ...]:
    """Return the messages of a conversation that the model is to answer; without the last answer, to `regenerate` it.

    Raises:
        RowError: If it is no list of messages, ends with the assistant, or has nothing but a system prompt.
    """
    messages = read_conversation(column, conversation)
    while regenerate and messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if messages and messages[-1]["role"] == "assistant":
        raise RowError(
            f"{column} ends with an assistant's turn; it must end with a turn to answer, or set regenerate=True"
        )
    if all(message["role"] in ("system", "developer") for message in messages):
        found = "only a system prompt" if messages else "only answers"
        raise RowError(f"{column} has no turn to answer, {found}")
    return messages
