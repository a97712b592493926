"""Magpie (arXiv 2406.08464): instructions from nothing but a model's own chat template.

The model is given what stands before a user's text in its template and writes the user's turn; then it answers it.
The paper samples instructions at temperature 1 and answers greedily.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets import Features, List, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.llm import Completion, Message, Request, SamplingParams
from hfsynth.technique import Input, Inputs, Technique

SystemPrompt = str | Sequence[str] | Mapping[str, str | Sequence[Any]] | None
MESSAGES = List({"role": Value("string"), "content": Value("string")})


@dataclass(frozen=True)
class Choice:
    """One of the system prompts that a row may draw."""

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
    """Make conversations: any row → `instruction` and `response`; with several turns, `conversation`.

    Needs no input column: `Dataset.from_dict({"id": range(1000)})` is enough to make 1,000 rows. A `system_prompt`
    column is a row's own system prompt and goes before the field. A row whose user says nothing failed.

    >>> from datasets import Dataset
    >>> from hfsynth import EchoLLM
    >>> dataset = Dataset.from_dict({"id": [0]})
    >>> dataset.map(Magpie(EchoLLM()), batched=True, with_indices=True)[0]["instruction"]
    'Question 0: what is the square of 225?'
    """

    citation: ClassVar[str] = _CITATION

    version: ClassVar[int] = 2
    needs_no_input: ClassVar[bool] = True

    system_prompt: SystemPrompt = field(
        default=None,
        metadata={
            "help": "System prompt: one text; a list, to draw from; or name → text or (text, weight), to draw from "
            "with the name in the column `system_prompt_key`."
        },
    )
    answer_with_system_prompt: bool = field(
        default=False,
        metadata={"help": "Show the system prompt for answers too; the paper does for instructions only."},
    )
    include_system_prompt: bool = field(
        default=False,
        metadata={
            "help": "Keep the system prompt: in the column `system_prompt`, or as the conversation's first turn."
        },
    )
    n_turns: int = field(default=1, metadata={"help": "User turns of each conversation."})
    end_with_user: bool = field(
        default=False, metadata={"help": "Leave the last user's turn unanswered; with two turns or more."}
    )
    only_instruction: bool = field(default=False, metadata={"help": "Make the instruction without an answer."})
    keep_thinking: bool = field(
        default=False, metadata={"help": "Keep what a model thinks before it answers, in the column `thinking`."}
    )
    keep_truncated: bool = field(
        default=False,
        metadata={"help": "Keep responses that max_new_tokens cut off, marked as truncated; else their rows fail."},
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
            raise ValueError(f"Magpie.n_turns is {self.n_turns}; it must be at least 1.")
        if self.end_with_user and self.n_turns == 1:
            raise ValueError("Magpie.end_with_user needs n_turns of 2 or more, not 1; for one, use only_instruction.")
        if self.only_instruction and (self.n_turns > 1 or self.keep_thinking):
            raise ValueError(
                f"Magpie.only_instruction makes one unanswered turn; it can't go with n_turns={self.n_turns} "
                f"and keep_thinking={self.keep_thinking}."
            )
        if not isinstance(self.system_prompt, str | Sequence | Mapping | None):
            raise ValueError(
                f"Magpie.system_prompt is {self.system_prompt!r}; it must be text, a list of texts, or a dict of them."
            )
        for choice in self._choices:
            if not isinstance(choice.prompt, str) or not choice.prompt.strip() or not 0 < choice.weight < math.inf:
                raise ValueError(
                    f"Magpie.system_prompt[{choice.key!r}] must be text, or (text, weight above 0): "
                    f"{choice.prompt!r}, {choice.weight!r}."
                )

    @property
    def _choices(self) -> tuple[Choice, ...]:
        """The system prompts to draw from, in an order that doesn't depend on how they were written down."""
        given = self.system_prompt
        if given is None:
            return ()
        if isinstance(given, Mapping):
            return tuple(_choice(key, given[key]) for key in sorted(given))
        texts = (given,) if isinstance(given, str) else given
        return tuple(Choice(str(index), text, 1.0) for index, text in enumerate(texts))

    def input_features(self, available: Collection[str]) -> Inputs:
        """Return nothing, or `system_prompt` if there."""
        return {"system_prompt": Input.OPTIONAL_TEXT} if "system_prompt" in available else {}

    @property
    def output_features(self) -> Features:
        """`instruction` and `response`, or `conversation`; and what else the fields ask for."""
        text = Value("string")
        features: dict[str, Any] = {"conversation": MESSAGES}
        if self.n_turns == 1:
            features = {"instruction": text} if self.only_instruction else {"instruction": text, "response": text}
            if self.include_system_prompt:
                features["system_prompt"] = text
        if self.keep_thinking:
            features["thinking"] = text if self.n_turns == 1 else List(text)
        if isinstance(self.system_prompt, Mapping):
            features["system_prompt_key"] = text
        return Features(features)

    def flow(self, row: Row, rng: random.Random) -> Flow:
        """Speak as the user, answer, and so on for every turn."""
        choice = self._draw(row, rng)
        system: list[Message] = [{"role": "system", "content": choice.prompt}] if choice.prompt else []
        turns: list[Message] = []
        thinking: list[str | None] = []
        for turn in range(1, self.n_turns + 1):
            spoken = yield Request(
                messages=(*system, *turns), role="user", sampling=self.instruction_sampling, keep_truncated=None
            )
            turns.append({"role": "user", "content": _checked("user", turn, spoken)})
            if self.only_instruction or (self.end_with_user and turn == self.n_turns):
                break
            context = (*(system if self.answer_with_system_prompt else ()), *turns)
            answer = yield Request(
                messages=context, sampling=self.response_sampling, keep_truncated=self.keep_truncated
            )
            turns.append({"role": "assistant", "content": _checked("assistant", turn, answer)})
            thinking.append(answer.thinking)
        everything = {
            "instruction": turns[0]["content"],
            "response": turns[-1]["content"],
            "conversation": [*(system if self.include_system_prompt else ()), *turns],
            "system_prompt": choice.prompt or None,
            "system_prompt_key": choice.key or None,
            "thinking": thinking[0] if thinking and self.n_turns == 1 else thinking,
        }
        return {name: everything[name] for name in self.output_features}

    def _draw(self, row: Row, rng: random.Random) -> Choice:
        """Take the row's own system prompt, or draw one of the field's."""
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
        raise ValueError(f"Magpie.system_prompt[{key!r}] must be text, or (text, weight above 0): {value!r}.")
    return Choice(key, value[0], float(value[1]))


def _checked(role: str, turn: int, completion: Completion) -> str:
    """Return a turn's text, if one can go on from it: half a question is no question.

    Raises:
        RowError: If the turn is empty, or a user's that was cut off.
    """
    text = completion.text.strip()
    if not text:
        reason = f"the {role}'s turn {turn} is empty (finish_reason: {completion.finish_reason})"
        raise RowError(reason, completion.thinking or "")
    if role == "user" and completion.finish_reason == "length":
        raise RowError(f"the user's turn {turn} was cut off after {completion.completion_tokens} tokens", text)
    return text
