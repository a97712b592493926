"""Generate instructions about a text, in the form of Self-Instruct that distilabel offers.

The paper (arXiv 2212.10560) bootstraps instructions from seed tasks; for that, see `BootstrapInstructions`. Here each
row's prompt asks for a number of user queries for an application, about the row's `input` text.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

from datasets import Features, List, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.jinja_sandbox import check_prompt, render_prompt
from hfsynth.llm import Request, SamplingParams
from hfsynth.parsing.lists import parse_list
from hfsynth.technique import Input, Inputs, Technique

PROMPT = """\
Context:
{{ input }}

Write {{ num_instructions }} queries about the context that a user could send to this application: \
{{ application_description }}

What the queries must be like:
{{ criteria_for_query_generation }}
- Each makes sense to someone who hasn't read the context.

Answer with a numbered list from 1 to {{ num_instructions }}: one query on each line, without titles or comments, and \
nothing before or after the list.
"""
CRITERIA = """\
- Vary the verb each query begins with, and its length.
- Mix questions and commands; ask for explanations, lists, rewritings, comparisons and plans.
- Each can be answered in text, without pictures, files or other tools.
- None gives its own answer."""

CITATION = """\
@inproceedings{wang2023selfinstruct,
  title = {Self-Instruct: Aligning Language Models with Self-Generated Instructions},
  author = {Wang, Yizhong and Kordi, Yeganeh and Mishra, Swaroop and Liu, Alisa and Smith, Noah A. and
            Khashabi, Daniel and Hajishirzi, Hannaneh},
  booktitle = {Proceedings of the 61st Annual Meeting of the Association for Computational Linguistics},
  year = {2023},
  eprint = {2212.10560}
}"""


@dataclass(frozen=True, kw_only=True)
class SelfInstruct(Technique):
    """Generate instructions about a text: `input` → `instruction`, one row for each.

    A row without an instruction fails, with the completion as its raw text. Duplicates within a row are dropped, and
    so is the last instruction of a completion that reaches max_new_tokens.

    >>> from hfsynth import EchoLLM
    >>> technique = SelfInstruct(EchoLLM(), num_instructions=3, one_row_each=False)
    >>> list(technique.output_features)
    ['instructions']
    """

    citation: ClassVar[str] = CITATION
    version: ClassVar[int] = 2

    num_instructions: int = field(
        default=5, metadata={"help": "Instructions to request, and at most to keep, for each row."}
    )
    application_description: str = field(
        default="An AI assistant that answers questions and carries out tasks in text.",
        metadata={"help": "Description of the application that the instructions are for."},
    )
    criteria_for_query_generation: str = field(
        default=CRITERIA, metadata={"help": "Requirements for the instructions."}
    )
    one_row_each: bool = field(
        default=True,
        metadata={"help": "One row for each instruction, not one with the list `instructions`."},
    )
    prompt: str = field(
        default=PROMPT,
        metadata={
            "help": "Jinja2 text over input, num_instructions, application_description, criteria_for_query_generation."
        },
    )
    sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=1024),
        metadata={"help": "How instructions are sampled."},
    )

    def __post_init__(self) -> None:
        """Check the prompt and the number of instructions."""
        super().__post_init__()
        if self.num_instructions < 1:
            raise ValueError(f"SelfInstruct.num_instructions must be at least 1, got {self.num_instructions}.")
        variables = ("input", "num_instructions", "application_description", "criteria_for_query_generation")
        check_prompt("SelfInstruct.prompt", self.prompt, variables)

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - always the same
        """Return `input`: the text that the instructions are about."""
        return {"input": Input.TEXT}

    @property
    def output_features(self) -> Features:
        """`instruction`, or the list `instructions`."""
        if self.one_row_each:
            return Features({"instruction": Value("string")})
        return Features({"instructions": List(Value("string"))})

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - samples nothing
        """Request the list of instructions, and parse it."""
        prompt = render_prompt(
            self.prompt,
            {
                "input": row["input"],
                "num_instructions": self.num_instructions,
                "application_description": self.application_description,
                "criteria_for_query_generation": self.criteria_for_query_generation,
            },
        )
        completion = yield Request(
            messages=({"role": "user", "content": prompt},), sampling=self.sampling, keep_truncated=None
        )
        found = parse_list(completion.text, completion.finish_reason == "length")
        if not found:
            raise RowError("the completion has no usable instruction", completion.text)
        found = found[: self.num_instructions]
        if self.one_row_each:
            return [{"instruction": instruction} for instruction in found]
        return {"instructions": found}
