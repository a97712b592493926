"""Score answers with a reward model: Reward scores one answer, RewardDifference two and their difference."""

import random
from collections.abc import Collection
from dataclasses import dataclass, field

from datasets import Features, Value

from hfsynth.conversation import find_conversation_column, read_answered, read_tool_calls, read_tools
from hfsynth.errors import GenerationError, RowError
from hfsynth.flow import Flow, Row
from hfsynth.llm import Completion, Message, Need, Request
from hfsynth.technique import Input, Inputs, Technique


@dataclass(frozen=True, kw_only=True)
class Reward(Technique):
    """Score an answer: `instruction` and `response`, or `messages` → `reward`; higher is better.

    The llm must be a `RewardModel`. Without `messages`, `conversations` are read. `tools` are read as by
    `TextGeneration`; its output `tool_calls` is read as a part of `response`. A row fails if its conversation does not
    end with the assistant, or is longer than the model's context.

    >>> from hfsynth import RewardModel
    >>> list(Reward(RewardModel("some/reward-model")).output_features)
    ['reward']
    """

    output: int | None = field(
        default=None, metadata={"help": "Index of the reward among the model's outputs, from 0, if it has several."}
    )

    def __post_init__(self) -> None:
        """Check the output's number."""
        super().__post_init__()
        if self.output is not None and self.output < 0:
            raise ValueError(f"Reward.output must be 0 or more, got {self.output}.")

    def input_features(self, available: Collection[str]) -> Inputs:
        """Return `messages` if that is available and `response` is not; else `instruction` and `response`."""
        inputs: Inputs
        column = find_conversation_column(available)
        if column and "response" not in available:
            inputs = {column: Input.CONVERSATION}
        else:
            has_calls = "tool_calls" in available
            inputs = {"instruction": Input.TEXT, "response": Input.OPTIONAL_TEXT if has_calls else Input.TEXT}
            inputs |= {"tool_calls": Input.OPTIONAL_TEXT} if has_calls else {}
        return inputs | ({"tools": Input.TOOLS} if "tools" in available else {})

    @property
    def output_features(self) -> Features:
        """`reward`: the model's logit."""
        return Features({"reward": Value("float64")})

    @property
    def needs(self) -> tuple[Need, ...]:
        """A reward model."""
        return ("reward",)

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - samples nothing
        """Score the conversation."""
        tools = read_tools("tools", row["tools"]) if "tools" in row else ()
        return {"reward": self._score((yield Request(messages=_conversation(row), tools=tools)))}

    def _score(self, completion: Completion) -> float:
        """Return the reward among a completion's scores.

        Raises:
            GenerationError: If the llm is no reward model, or does not have the output.
        """
        scores, owner = completion.scores, type(self).__name__
        if not scores:
            raise GenerationError(
                f"{self.llm.model_name} returned no scores; {owner} needs a reward model: {owner}(RewardModel(...))."
            )
        if len(scores) > 1 and self.output is None:
            raise GenerationError(
                f"{self.llm.model_name} has {len(scores)} outputs; choose one with {owner}(output=...), from 0."
            )
        if self.output is not None and self.output >= len(scores):
            raise GenerationError(
                f"{owner}.output must be from 0 to {len(scores) - 1}, the outputs of {self.llm.model_name}, "
                f"got {self.output}."
            )
        return scores[self.output or 0]


@dataclass(frozen=True, kw_only=True)
class RewardDifference(Reward):
    """Score two answers: `instruction`, `response` and `base_response` → both rewards and their difference.

    In Magpie (arXiv 2406.08464) `base_response` is the answer of the base model: if that is as good as `response`,
    the row teaches little. `Where("reward_difference", minimum=0)` keeps the rows with the better `response`.

    >>> from hfsynth import RewardModel
    >>> list(RewardDifference(RewardModel("some/reward-model")).output_features)
    ['reward', 'base_reward', 'reward_difference']
    """

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - always the same
        """Return `instruction`, `response` and `base_response`."""
        return {"instruction": Input.TEXT, "response": Input.TEXT, "base_response": Input.TEXT}

    @property
    def output_features(self) -> Features:
        """`reward` of `response`, `base_reward` of `base_response`, and their difference."""
        return Features(dict.fromkeys(("reward", "base_reward", "reward_difference"), Value("float64")))

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - samples nothing
        """Score both answers."""
        reward = self._score((yield Request(messages=_turns(row["instruction"], row["response"]))))
        base_reward = self._score((yield Request(messages=_turns(row["instruction"], row["base_response"]))))
        return {"reward": reward, "base_reward": base_reward, "reward_difference": reward - base_reward}


def _turns(instruction: str, response: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": instruction}, {"role": "assistant", "content": response})


def _conversation(row: Row) -> tuple[Message, ...]:
    column = find_conversation_column(row)
    if column:
        return read_answered(column, row[column])
    question, answer = _turns(row["instruction"], row["response"] or "")
    if row.get("tool_calls") and (calls := read_tool_calls("tool_calls", row["tool_calls"])):
        return (question, {**answer, "tool_calls": calls})
    if not answer["content"].strip():
        raise RowError(f"response is {'None' if row['response'] is None else 'empty'}")
    return (question, answer)
