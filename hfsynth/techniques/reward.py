"""Reward: a conversation → what a reward model thinks of its last answer, as one number."""

import random
from collections.abc import Collection
from dataclasses import dataclass, field

from datasets import Features, Value

from hfsynth.conversations import checked_messages
from hfsynth.errors import GenerationError, RowError
from hfsynth.flow import Flow, Row
from hfsynth.generation import Message, Request
from hfsynth.technique import Input, Inputs, Technique


@dataclass(frozen=True, kw_only=True)
class Reward(Technique):
    """Score each row's answer: `instruction` and `response`, or else `conversation` → `reward`, higher for better.

    Its llm is a `RewardModel`. A conversation whose last turn isn't the assistant's fails its row, and so does one
    that is longer than the model's context.

    >>> from hfsynth import RewardModel
    >>> list(Reward(RewardModel("some/reward-model")).output_features)
    ['reward']
    """

    output: int | None = field(
        default=None, metadata={"help": "Which of the model's outputs is the reward, from 0, where it has several."}
    )

    def __post_init__(self) -> None:
        """Check the output's number."""
        super().__post_init__()
        if self.output is not None and self.output < 0:
            raise ValueError(f"Reward.output is {self.output}; it must be 0 or more.")

    def input_features(self, available: Collection[str]) -> Inputs:
        """Return `instruction` and `response`, or `conversation` where there is one and no `response`."""
        if "conversation" in available and "response" not in available:
            return {"conversation": Input.ANYTHING}
        return {"instruction": Input.TEXT, "response": Input.TEXT}

    @property
    def output_features(self) -> Features:
        """`reward`: the model's logit."""
        return Features({"reward": Value("float64")})

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - nothing is drawn here
        """Have the conversation scored."""
        completion = yield Request(messages=_conversation(row))
        scores = completion.scores
        if not scores:
            raise GenerationError(
                f"{self.llm.model_name} gave no scores; Reward needs a reward model: Reward(RewardModel(...))."
            )
        if len(scores) > 1 and self.output is None:
            raise GenerationError(f"{self.llm.model_name} has {len(scores)} outputs; say which by Reward(output=...).")
        if self.output is not None and self.output >= len(scores):
            raise GenerationError(
                f"Reward.output is {self.output}; {self.llm.model_name} has outputs 0 to {len(scores) - 1}."
            )
        return {"reward": scores[self.output or 0]}


def _conversation(row: Row) -> tuple[Message, ...]:
    if "conversation" not in row:
        return (
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["response"]},
        )
    messages = checked_messages("conversation", row["conversation"])
    if messages[-1]["role"] != "assistant":
        raise RowError(f"conversation ends with a turn of {messages[-1]['role']!r}: there is no answer to score")
    return messages
