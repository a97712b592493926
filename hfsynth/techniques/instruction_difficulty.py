"""IFD, instruction-following difficulty (arXiv 2308.12032): how little an instruction helps to foresee its response.

How hard the response is to predict after the instruction, over how hard it is after nothing, both by the same model.
Near 1 the instruction hardly helps, so it is hard to follow; above 1 it misleads: the pair doesn't fit together.
Two definitions are in use, and their thresholds differ: the paper's own code divides mean losses, Superfiltering
(arXiv 2402.00530) divides perplexities, which are the exponentials of mean losses.
"""

import math
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

from datasets import Features, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.llm import Completion, Request
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
_LARGEST = 700.0  # whose exponential is still a number


@dataclass(frozen=True, kw_only=True)
class InstructionFollowingDifficulty(Technique):
    """Measure how hard an instruction is to follow: `instruction` and `response` → `ifd`.

    `ifd` is the response's perplexity, or with `ratio="loss"` its mean loss, after the instruction over that after
    nothing but what the chat template puts before an answer. The mean is over the response's tokens and its end.

    Raises:
        ValueError: If `ratio` is neither of the two.

    >>> from datasets import Dataset
    >>> from hfsynth import EchoLLM
    >>> dataset = Dataset.from_dict({"instruction": ["Say a colour."], "response": ["Blue."]})
    >>> made = dataset.map(InstructionFollowingDifficulty(EchoLLM()), batched=True, with_indices=True)
    >>> made[0]["ifd"] > 0
    True
    """

    citation: ClassVar[str] = _CITATION

    ratio: str = field(
        default="perplexity",
        metadata={
            "help": "perplexity: of perplexities, as Superfiltering's code; loss: of mean losses, as the paper's."
        },
    )

    def __post_init__(self) -> None:
        """Check the ratio."""
        super().__post_init__()
        if self.ratio not in RATIOS:
            raise ValueError(f"{self.name}.ratio must be one of {list(RATIOS)}, got {self.ratio!r}.")

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
        loss, loss_alone = _mean_loss(after), _mean_loss(alone)
        comparable = abs(loss - loss_alone) <= _LARGEST and (self.ratio == "perplexity" or loss_alone > 0)
        if not comparable:
            raise RowError(f"the response's scores {after.scores[0]} and {alone.scores[0]} can't be compared")
        return {"ifd": math.exp(loss - loss_alone) if self.ratio == "perplexity" else loss / loss_alone}


def _mean_loss(completion: Completion) -> float:
    """Return the mean negative log-likelihood of a response's tokens, the logarithm of its perplexity."""
    return -completion.scores[0] / completion.scored_tokens[0]
