"""SelfInstruct from context (after arXiv 2212.10560): a text → instructions that its readers might give.

Each row's prompt asks for a number of user queries for an application, grounded in the row's `input` text. What the
model writes around them (preambles, numbers, bullets, quotes) is parsed away.
"""

import random
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

from datasets import Features, List, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.generation import Request, SamplingParams
from hfsynth.prompts import check_prompt, render_prompt
from hfsynth.technique import Input, Inputs, Technique

PROMPT = """\
Write {{ num_instructions }} queries that a user could send to this application: {{ application_description }}

What the queries must be like:
{{ criteria_for_query_generation }}

Every query is about the context below and makes sense to someone who hasn't read it. Write one query on each line, \
numbered from 1 to {{ num_instructions }}, and nothing else.

Context:
{{ input }}
"""
CRITERIA = """\
- Vary the verb each query begins with, and its length.
- Mix questions and commands; ask for explanations, lists, rewritings, comparisons and plans.
- Each can be answered in text, without pictures, files or other tools.
- None gives its own answer."""

_NUMBER = re.compile(
    r"""^\s*(?:\#+\s*)?\**\s*
    (?:(?:user\s+)?(?:query|instruction|question|task|q)\s*\#?\d+\s*(?:[.:)\]、．：）-]|\**\s*$)  # Query 1:  Q1.
      |[(\[（]?\d{1,3}\s*[.:)\]、．：）](?=\D|$)                       # 1.  1)  (1)  1、
      |\d{1,3}\s+[-–—](?=\s)                                         # 1 -
      |[(\[]?[a-z][)\]](?=\s)                                        # a)  (a)
      |[①-⑳]
    )[.:)\]]*\s*(?:\*\*)?\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_BULLET = re.compile(r"^\s*[-+*•–—·](?=\s)\s*")
_PREAMBLE = re.compile(
    r"^\W*(?:sure|certainly|of course|okay|here(?:'s| is| are)|below are|these are)\b", re.IGNORECASE
)
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "`": "`", "*": "*"}

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
    """Make instructions from a text: `input` → `instruction`, one row for each.

    A row without a usable instruction failed, with the completion as its raw text. Duplicates within a row are
    dropped, and so is the last instruction of a completion that was cut off.

    >>> from hfsynth import EchoLLM
    >>> technique = SelfInstruct(EchoLLM(), num_instructions=3, one_row_each=False)
    >>> list(technique.output_features)
    ['instructions']
    """

    citation: ClassVar[str] = CITATION

    num_instructions: int = field(default=5, metadata={"help": "Instructions asked for; the most kept, for each row."})
    application_description: str = field(
        default="An AI assistant that answers questions and carries out tasks in text.",
        metadata={"help": "The application that the instructions are for."},
    )
    criteria_for_query_generation: str = field(
        default=CRITERIA, metadata={"help": "What the instructions must be like."}
    )
    one_row_each: bool = field(
        default=True, metadata={"help": "A row for each instruction; else one row with the list `instructions`."}
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
            raise ValueError(f"SelfInstruct.num_instructions is {self.num_instructions}; it must be at least 1.")
        given = ("input", "num_instructions", "application_description", "criteria_for_query_generation")
        check_prompt("SelfInstruct.prompt", self.prompt, given)

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - always the same
        """`input`: the text that the instructions are about."""
        return {"input": Input.TEXT}

    @property
    def output_features(self) -> Features:
        """`instruction`, or the list `instructions`."""
        if self.one_row_each:
            return Features({"instruction": Value("string")})
        return Features({"instructions": List(Value("string"))})

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - nothing is drawn here
        """Ask once, and parse."""
        prompt = render_prompt(
            self.prompt,
            {
                "input": row["input"],
                "num_instructions": self.num_instructions,
                "application_description": self.application_description,
                "criteria_for_query_generation": self.criteria_for_query_generation,
            },
        )
        completion = yield Request(messages=({"role": "user", "content": prompt},), sampling=self.sampling)
        found = parse_instructions(completion.text, completion.finish_reason == "length")
        if not found:
            raise RowError("the completion has no usable instruction", completion.text)
        found = found[: self.num_instructions]
        if self.one_row_each:
            return [{"instruction": instruction} for instruction in found]
        return {"instructions": found}


def parse_instructions(text: str, cut_off: bool = False) -> list[str]:
    r"""Read the instructions out of a completion: without preamble, numbers, bullets, quotes, blanks, duplicates.

    Where any line is numbered, or else has a bullet, those are the instructions, each with the lines that follow it up
    to a blank one. Else every line is an instruction, except one that only announces them.

    Args:
        text: The completion.
        cut_off: Whether it ended before its end: then an instruction that reaches to there is dropped.

    >>> parse_instructions("Here are 2 queries:\n\n1. What is tea?\n2) **Brew some.**\n\nI hope this helps!")
    ['What is tea?', 'Brew some.']
    """
    lines = text.splitlines()
    mark = next((mark for mark in (_NUMBER, _BULLET) if any(map(mark.match, lines))), None)
    items, last_is_open = _plain_items(lines) if mark is None else _marked_items(lines, mark)
    if cut_off and last_is_open:
        items.pop()
    unique: dict[str, str] = {}
    for item in map(_cleaned, items):
        if any(character.isalnum() for character in item):
            unique.setdefault(" ".join(item.casefold().split()), item)
    return list(unique.values())


def _plain_items(lines: list[str]) -> tuple[list[str], bool]:
    """Return each line as an item, without the announcements, and whether the text ends in one."""
    filled = [line for line in lines if line.strip()]
    announces = [line.rstrip(" *").endswith(":") or _PREAMBLE.match(line) is not None for line in filled]
    items = [line for line, announcing in zip(filled, announces, strict=True) if not announcing]
    return items, bool(items) and not announces[-1]


def _marked_items(lines: list[str], mark: re.Pattern[str]) -> tuple[list[str], bool]:
    """Return each marked line with those that belong to it, and whether the text ends in one."""
    items: list[str] = []
    is_open = False  # whether an unmarked line still belongs to the last item
    for line in lines:
        found = mark.match(line)
        if found:
            items.append(line[found.end() :])
        elif is_open and line.strip():
            items[-1] += "\n" + line.strip()
        is_open = bool(line.strip()) and (found is not None or is_open)
    return items, is_open


def _cleaned(item: str) -> str:
    """Take Markdown's emphasis and a pair of quotes off an instruction."""
    item = item.strip()
    if item.startswith("**") and item.count("**") == 2:
        item = item.replace("**", "").strip()
    item = item.removesuffix("**").strip() if item.count("**") == 1 else item
    closing = _QUOTES.get(item[:1])
    if closing and len(item) > 1 and item.endswith(closing):
        inside = item[1:-1]
        item = inside.strip() if closing not in inside and item[0] not in inside else item
    return item
