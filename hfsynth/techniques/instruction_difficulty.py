"""IFD, instruction-following difficulty (arXiv 2308.12032): how little an instruction helps to foresee its response.

The perplexity of the response after the instruction, over that of the response after nothing, both by the same model.
Near 1 the instruction hardly helps, so it is hard to follow; above 1 it misleads: the pair doesn't fit together. The
paper's own code divides the mean losses instead, the logarithms of these perplexities: its thresholds are other ones.
"""

import math
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from datasets import Features, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.generation import Completion, Request
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
}"""
_LARGEST = 700.0  # whose exponential is still a number


@dataclass(frozen=True, kw_only=True)
class InstructionFollowingDifficulty(Technique):
    """Measure how hard an instruction is to follow: `instruction` and `response` → `ifd`.

    `ifd` is the response's perplexity for each scored token (its tokens and its end) after the instruction over that
    after nothing but what the chat template puts before an answer.

    >>> from datasets import Dataset
    >>> from hfsynth import EchoLLM
    >>> dataset = Dataset.from_dict({"instruction": ["Say a colour."], "response": ["Blue."]})
    >>> made = dataset.map(InstructionFollowingDifficulty(EchoLLM()), batched=True, with_indices=True)
    >>> made[0]["ifd"] > 0
    True
    """

    citation: ClassVar[str] = _CITATION

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - always the same
        """`instruction` and `response`."""
        return {"instruction": Input.TEXT, "response": Input.TEXT}

    @property
    def output_features(self) -> Features:
        """`ifd`: a ratio, above 0."""
        return Features({"ifd": Value("float64")})

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - nothing is drawn here
        """Score the response with its instruction and without."""
        response = (row["response"],)
        after = yield Request(messages=({"role": "user", "content": row["instruction"]},), choices=response)
        alone = yield Request(messages=(), choices=response)
        ratio = _surprise(after) - _surprise(alone)
        if not abs(ratio) <= _LARGEST:
            raise RowError(f"the response's scores {after.scores[0]} and {alone.scores[0]} can't be compared")
        return {"ifd": math.exp(ratio)}


def _surprise(completion: Completion) -> float:
    """Return the logarithm of a response's perplexity."""
    return -completion.scores[0] / completion.scored_tokens[0]
