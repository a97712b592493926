"""Measure the instruction-following difficulty (IFD, arXiv 2308.12032) of a pair of instruction and response.

IFD is the difficulty of the response given the instruction, divided by the difficulty of the response without it, both
for one model. A value near 1 means that the instruction hardly helps, so it is hard to follow; above 1, instruction
and response do not fit together. Two definitions with different thresholds are in use: the paper's code divides mean
losses; the code of Superfiltering (arXiv 2402.00530) divides perplexities, e to the power of the mean losses.
"""

import math
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

from datasets import Features, Value

from hfsynth.conversation import find_conversation_column, read_answered, read_tools
from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.llm import Completion, Message, Need, Request
from hfsynth.technique import Input, Inputs, Technique

_CITATION = """\
@inproceedings{li2024quantity,
  title = {From Quantity to Quality: Boosting LLM Performance with Self-Guided Data Selection for Instruction Tuning},
  author = {Li, Ming and Zhang, Yong and Li, Zhitao and Chen, Jiuhai and Chen, Lichang and Cheng, Ning and
            Wang, Jianzong and Zhou, Tianyi and Xiao, Jing},
  booktitle = {Proceedings of the 2024 Conference of the North American Chapter of the Association for Computational
               Linguistics},
  year = {2024},
  eprint = {2308.12032}
}
@inproceedings{li2024superfiltering,
  title = {Superfiltering: Weak-to-Strong Data Filtering for Fast Instruction-Tuning},
  author = {Li, Ming and Zhang, Yong and He, Shwai and Li, Zhitao and Zhao, Hongyu and Wang, Jianzong and
            Cheng, Ning and Zhou, Tianyi},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics},
  year = {2024},
  eprint = {2402.00530}
}"""
RATIOS = ("perplexity", "loss")
_MAX_EXPONENT = 700.0  # exp of a larger number overflows


@dataclass(frozen=True, kw_only=True)
class InstructionFollowingDifficulty(Technique):
    """Measure how hard an instruction is to follow: `instruction` and `response`, or `messages` → `ifd`.

    Of `messages`, or `conversations`, the last turn is the response, and the turns before it are the instruction; the
    `tools` that it may call are read too. A row fails if that turn calls tools, since only texts are scored.

    `ifd` is the perplexity of the response (with `ratio="loss"`, its mean loss) after the instruction, divided by that
    after an empty chat template. The mean is over the response's tokens and its end token.

    Raises:
        ValueError: If `ratio` is unknown.

    >>> from datasets import Dataset
    >>> from hfsynth import EchoLLM
    >>> dataset = Dataset.from_dict({"instruction": ["Say a colour."], "response": ["Blue."]})
    >>> scored = dataset.map(InstructionFollowingDifficulty(EchoLLM()), batched=True, with_indices=True)
    >>> scored[0]["ifd"] > 0
    True
    """

    citation: ClassVar[str] = _CITATION

    ratio: str = field(
        default="perplexity",
        metadata={"help": "Ratio of perplexity, as in Superfiltering, or of mean loss, as in the paper."},
    )

    def __post_init__(self) -> None:
        """Check the ratio."""
        super().__post_init__()
        if self.ratio not in RATIOS:
            raise ValueError(f"{self.name}.ratio must be one of {list(RATIOS)}, got {self.ratio!r}.")

    def input_features(self, available: Collection[str]) -> Inputs:
        """Return `messages` if that is available and `response` is not; else `instruction` and `response`."""
        column = find_conversation_column(available)
        inputs: Inputs = {"instruction": Input.TEXT, "response": Input.TEXT}
        if column and "response" not in available:
            inputs = {column: Input.CONVERSATION}
        return inputs | ({"tools": Input.TOOLS} if "tools" in available else {})

    @property
    def output_features(self) -> Features:
        """`ifd`: a ratio, above 0."""
        return Features({"ifd": Value("float64")})

    @property
    def needs(self) -> tuple[Need, ...]:
        """Scores of the response."""
        return ("choices",)

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - samples nothing
        """Score the response with and without its instruction."""
        prompt, response = _prompt_and_response(row)
        tools = read_tools("tools", row["tools"]) if "tools" in row else ()
        after = yield Request(messages=prompt, tools=tools, choices=(response,))
        alone = yield Request(messages=(), choices=(response,))
        loss, loss_alone = _mean_loss(after), _mean_loss(alone)
        is_comparable = abs(loss - loss_alone) <= _MAX_EXPONENT and (self.ratio == "perplexity" or loss_alone > 0)
        if not is_comparable:
            raise RowError(f"the response's scores {after.scores[0]} and {alone.scores[0]} can't be compared")
        return {"ifd": math.exp(loss - loss_alone) if self.ratio == "perplexity" else loss / loss_alone}


def _prompt_and_response(row: Row) -> tuple[tuple[Message, ...], str]:
    """Return the messages before the response, and the response.

    Raises:
        RowError: If there is no response, or it calls tools.
    """
    column = find_conversation_column(row)
    if not column:
        return ({"role": "user", "content": row["instruction"]},), row["response"]
    *prompt, answer = read_answered(column, row[column])
    if answer.get("tool_calls"):
        raise RowError(f"{column} ends with a turn that calls tools; only a text can be scored")
    if not answer["content"].strip():
        raise RowError(f"{column} ends with an empty turn")
    return tuple(prompt), answer["content"]


def _mean_loss(completion: Completion) -> float:
    """Return the mean negative log-likelihood of a response's tokens: the logarithm of its perplexity."""
    return -completion.scores[0] / completion.scored_tokens[0]
