"""Generate instructions from a model's chat template alone, as Magpie (arXiv 2406.08464) does.

The prompt is the part of the chat template before a user's text. The model continues it with a user's turn, sampled at
temperature 1 as in the paper, and then answers this turn greedily. Further turns follow in the same way.

hfsynth differs in one point: a user's turn that reaches max_new_tokens fails its row, while the paper filters later.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets import Features, List, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.llm import Completion, Message, Need, Request, SamplingParams
from hfsynth.technique import Input, Inputs, Technique

SystemPrompt = str | Sequence[str] | Mapping[str, str | Sequence[Any]] | None
MESSAGES = List({"role": Value("string"), "content": Value("string")})


@dataclass(frozen=True)
class Choice:
    """A system prompt that a row may use."""

    key: str
    prompt: str
    weight: float


_CITATION = """\
@article{xu2024magpie,
  title = {Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing},
  author = {Xu, Zhangchen and Jiang, Fengqing and Niu, Luyao and Deng, Yuntian and Poovendran, Radha and
            Choi, Yejin and Lin, Bill Yuchen},
  year = {2024},
  eprint = {2406.08464}
}"""


@dataclass(frozen=True, kw_only=True)
class Magpie(Technique):
    """Generate conversations: any row → `instruction` and `response`; with several turns, `messages`.

    No input column is needed: `Dataset.from_dict({"id": range(1000)})` yields 1,000 conversations. A column
    `system_prompt` takes precedence over the field. A row with an empty turn fails.

    >>> from datasets import Dataset
    >>> from hfsynth import EchoLLM
    >>> dataset = Dataset.from_dict({"id": [0]})
    >>> dataset.map(Magpie(EchoLLM()), batched=True, with_indices=True)[0]["instruction"]
    'Question 0: what is the square of 225?'
    """

    citation: ClassVar[str] = _CITATION

    version: ClassVar[int] = 3
    needs_no_input: ClassVar[bool] = True

    system_prompt: SystemPrompt = field(
        default=None,
        metadata={
            "help": "One text; a list to sample from; or name → text or (text, weight) to sample from, with the name "
            "in the column `system_prompt_key`."
        },
    )
    answer_with_system_prompt: bool = field(
        default=False,
        metadata={"help": "Use the system prompt for answers too; the paper uses it for instructions only."},
    )
    include_system_prompt: bool = field(
        default=False,
        metadata={
            "help": "Keep the system prompt, in the column `system_prompt` or as the conversation's first turn."
        },
    )
    n_turns: int = field(default=1, metadata={"help": "User turns of each conversation."})
    end_with_user: bool = field(
        default=False, metadata={"help": "Leave the last user's turn unanswered; needs n_turns of 2 or more."}
    )
    only_instruction: bool = field(default=False, metadata={"help": "Generate no answer."})
    keep_thinking: bool = field(
        default=False, metadata={"help": "Keep the model's reasoning in the column `thinking`."}
    )
    keep_truncated: bool = field(
        default=False,
        metadata={"help": "Keep responses that reach max_new_tokens, marked as truncated; otherwise their rows fail."},
    )
    instruction_sampling: SamplingParams = field(
        default=SamplingParams(temperature=1.0, max_new_tokens=512), metadata={"help": "How user turns are sampled."}
    )
    response_sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.0, max_new_tokens=1024), metadata={"help": "How answers are sampled."}
    )

    def __post_init__(self) -> None:
        """Check the turns and the system prompts."""
        super().__post_init__()
        if self.n_turns < 1:
            raise ValueError(f"Magpie.n_turns must be at least 1, got {self.n_turns}.")
        if self.end_with_user and self.n_turns == 1:
            raise ValueError("Magpie.end_with_user needs n_turns of 2 or more, got 1; set only_instruction for one.")
        if self.only_instruction and (self.n_turns > 1 or self.keep_thinking):
            raise ValueError(
                "Magpie.only_instruction needs n_turns=1 and keep_thinking=False, got "
                f"n_turns={self.n_turns} and keep_thinking={self.keep_thinking}."
            )
        if not isinstance(self.system_prompt, str | Sequence | Mapping | None):
            raise ValueError(
                f"Magpie.system_prompt must be text, a list of texts or a dict of texts, got {self.system_prompt!r}."
            )
        for choice in self._choices:
            if not isinstance(choice.prompt, str) or not choice.prompt.strip() or not 0 < choice.weight < math.inf:
                raise ValueError(
                    f"Magpie.system_prompt[{choice.key!r}] must be text, or (text, weight above 0), got "
                    f"{choice.prompt!r}, {choice.weight!r}."
                )

    @property
    def _choices(self) -> tuple[Choice, ...]:
        """The system prompts to sample from; those of a mapping are sorted by their names."""
        prompts = self.system_prompt
        if prompts is None:
            return ()
        if isinstance(prompts, Mapping):
            return tuple(_choice(key, prompts[key]) for key in sorted(prompts))
        texts = (prompts,) if isinstance(prompts, str) else prompts
        return tuple(Choice(str(index), text, 1.0) for index, text in enumerate(texts))

    def input_features(self, available: Collection[str]) -> Inputs:
        """Return `system_prompt` if it is available."""
        return {"system_prompt": Input.OPTIONAL_TEXT} if "system_prompt" in available else {}

    @property
    def output_features(self) -> Features:
        """`instruction` and `response`, or `messages`; and the columns that the fields request."""
        text = Value("string")
        features: dict[str, Any] = {"messages": MESSAGES}
        if self.n_turns == 1:
            features = {"instruction": text} if self.only_instruction else {"instruction": text, "response": text}
            if self.include_system_prompt:
                features["system_prompt"] = text
        if self.keep_thinking:
            features["thinking"] = text if self.n_turns == 1 else List(text)
        if isinstance(self.system_prompt, Mapping):
            features["system_prompt_key"] = text
        return Features(features)

    @property
    def needs(self) -> tuple[Need, ...]:
        """User turns."""
        return ("user turn",)

    def flow(self, row: Row, rng: random.Random) -> Flow:
        """Request a user's turn and the answer to it, `n_turns` times."""
        choice = self._choose_system_prompt(row, rng)
        system: list[Message] = [{"role": "system", "content": choice.prompt}] if choice.prompt else []
        turns: list[Message] = []
        thinking: list[str | None] = []
        for turn in range(1, self.n_turns + 1):
            question = yield Request(
                messages=(*system, *turns), role="user", sampling=self.instruction_sampling, keep_truncated=None
            )
            turns.append({"role": "user", "content": _turn_text("user", turn, question)})
            if self.only_instruction or (self.end_with_user and turn == self.n_turns):
                break
            context = (*(system if self.answer_with_system_prompt else ()), *turns)
            answer = yield Request(
                messages=context, sampling=self.response_sampling, keep_truncated=self.keep_truncated
            )
            turns.append({"role": "assistant", "content": _turn_text("assistant", turn, answer)})
            thinking.append(answer.thinking)
        everything = {
            "instruction": turns[0]["content"],
            "response": turns[-1]["content"],
            "messages": [*(system if self.include_system_prompt else ()), *turns],
            "system_prompt": choice.prompt or None,
            "system_prompt_key": choice.key or None,
            "thinking": thinking[0] if thinking and self.n_turns == 1 else thinking,
        }
        return {name: everything[name] for name in self.output_features}

    def _choose_system_prompt(self, row: Row, rng: random.Random) -> Choice:
        """Return the row's own system prompt, or else sample one of the field's."""
        if own := row.get("system_prompt"):
            return Choice("", own, 1.0)
        if not self._choices:
            return Choice("", "", 1.0)
        return rng.choices(self._choices, [choice.weight for choice in self._choices])[0]


def _choice(key: str, value: str | Sequence[Any]) -> Choice:
    if isinstance(value, str):
        return Choice(key, value, 1.0)
    is_pair = isinstance(value, Sequence) and len(value) == 2 and isinstance(value[1], int | float)
    if not is_pair:
        raise ValueError(f"Magpie.system_prompt[{key!r}] must be text, or (text, weight above 0), got {value!r}.")
    return Choice(key, value[0], float(value[1]))


def _turn_text(role: str, turn: int, completion: Completion) -> str:
    """Return the text of a turn.

    Raises:
        RowError: If the turn is empty, or is a user's and was cut off.
    """
    text = completion.text.strip()
    if not text:
        reason = f"the {role}'s turn {turn} is empty (finish_reason: {completion.finish_reason})"
        raise RowError(reason, completion.thinking or "")
    if role == "user" and completion.finish_reason == "length":
        raise RowError(f"the user's turn {turn} was cut off after {completion.completion_tokens} tokens", text)
    return text
