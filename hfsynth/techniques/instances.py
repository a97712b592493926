"""Self-Instruct's instances (arXiv 2212.10560): an instruction → inputs for it, each with its response.

A task that is a classification gets its labels first and then an input for each, or nearly all inputs would be of one
label; any other task gets its inputs first. What is no instance is cleaned away.
"""

import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from datasets import Features, List, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.generation import Request, SamplingParams
from hfsynth.prompts import check_prompt, render_prompt
from hfsynth.technique import Input, Inputs, Technique
from hfsynth.techniques.self_instruct import CITATION

CLASSIFICATION_PROMPT = """\
Is the task a classification, whose answer is one of a few labels?

Task: Say whether the review is positive or negative.
Classification: Yes

Task: Write a short poem about the sea.
Classification: No

Task: Which of these words is not an animal?
Classification: Yes

Task: Correct the grammar of the sentence.
Classification: No

Task: Sort the email into work, family or advertising.
Classification: Yes

Task: How many minutes are there in a week? Show the steps.
Classification: No

Task: {{ instruction }}
Classification:"""
INPUT_FIRST = """\
Make up examples for the task. Where the task needs an input, write one and then the output for it; where it says \
everything by itself, write the output alone. Write at most {{ num_instances }} examples.

Task: Translate the sentence into French.
Example 1
Input: The shop opens at nine.
Output: Le magasin ouvre à neuf heures.
Example 2
Input: I have lost my umbrella.
Output: J'ai perdu mon parapluie.

Task: Name three rivers in Africa.
Example 1
Output: The Nile, the Congo and the Niger.

Task: Sort the numbers from small to large.
Example 1
Input: 12, 3, 45, 7
Output: 3, 7, 12, 45

Task: {{ instruction }}
"""
OUTPUT_FIRST = """\
Make up examples for the classification task: for each possible label an input that has it. Where the task needs no \
input, write the label alone. Write at most {{ num_instances }} examples.

Task: Say whether the review is positive or negative.
Label: Positive
Input: The soup was hot, the waiter kind, and we will come again.
Label: Negative
Input: Two hours of waiting, and the room was still not clean.

Task: Tell whether the sentence is about sport, science or cooking.
Label: Cooking
Input: Let the dough rest for an hour before you roll it out.
Label: Sport
Input: She crossed the line two seconds before the others.
Label: Science
Input: The probe measured how strongly the planet's field bends.

Task: {{ instruction }}
"""
_EXAMPLE = re.compile(r"^\W*example\b[^\n]*$", re.IGNORECASE | re.MULTILINE)
_PART = re.compile(r"^[ \t*#-]*(input|output|(?:class )?label)[ \t*]*:[ \t*]*", re.IGNORECASE | re.MULTILINE)
_EMPTY = {"", "none", "n/a", "none.", "no input", "no input needed"}


DROPPED = {"input": Value("string"), "response": Value("string"), "rule": Value("string")}
"""One instance that was cleaned away, and by which rule."""


@dataclass(frozen=True)
class Instance:
    """An input for a task, "" where it needs none, and the response."""

    input: str
    response: str


@dataclass(frozen=True, kw_only=True)
class SelfInstructInstances(Technique):
    """Make instances of a task: `instruction` → `input`, `response` and `is_classification`, one row for each.

    A row that comes to no instance failed, and so did one whose inputs have two responses, as in the paper. What was
    cleaned away is in `dropped_instances`, by its rule (`clean_instances`).

    >>> from hfsynth import EchoLLM
    >>> list(SelfInstructInstances(EchoLLM()).output_features)
    ['input', 'response', 'is_classification', 'dropped_instances']
    """

    citation: ClassVar[str] = CITATION
    rules: ClassVar[tuple[str, str] | None] = ("dropped_instances", "rule")

    num_instances: int = field(default=5, metadata={"help": "The most instances of an instruction."})
    classification_prompt: str = field(
        default=CLASSIFICATION_PROMPT,
        metadata={"help": "Jinja2 text over instruction: answered with Yes or No, whichever is likelier."},
    )
    input_first_prompt: str = field(
        default=INPUT_FIRST, metadata={"help": "Jinja2 text over instruction and num_instances, for other tasks."}
    )
    output_first_prompt: str = field(
        default=OUTPUT_FIRST, metadata={"help": "Jinja2 text over these, for classifications."}
    )
    input_first_sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.0, presence_penalty=1.5, max_new_tokens=350, stop=("\nTask:",)),
        metadata={"help": "How instances of other tasks are sampled."},
    )
    output_first_sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.0, presence_penalty=1.5, max_new_tokens=300, stop=("\nTask:",)),
        metadata={"help": "How instances of classifications are sampled."},
    )

    def __post_init__(self) -> None:
        """Check the prompts and the number of instances."""
        super().__post_init__()
        if self.num_instances < 1:
            raise ValueError(f"{self.name}.num_instances is {self.num_instances}; it must be at least 1.")
        check_prompt("SelfInstructInstances.classification_prompt", self.classification_prompt, ("instruction",))
        for name in ("input_first_prompt", "output_first_prompt"):
            check_prompt(f"SelfInstructInstances.{name}", getattr(self, name), ("instruction", "num_instances"))

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - always the same
        """`instruction`: the task."""
        return {"instruction": Input.TEXT}

    @property
    def output_features(self) -> Features:
        """`input`, "" where the task needs none; `response`; `is_classification`; `dropped_instances` (`DROPPED`)."""
        text = Value("string")
        made = {"input": text, "response": text, "is_classification": Value("bool")}
        return Features({**made, "dropped_instances": List(DROPPED)})

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - nothing is drawn here
        """Ask whether it is a classification, then for instances, and clean them."""
        given = {"instruction": row["instruction"], "num_instances": self.num_instances}
        question = render_prompt(self.classification_prompt, {"instruction": row["instruction"]})
        answer = yield Request(messages=({"role": "user", "content": question},), choices=("Yes", "No"))
        is_classification = answer.text == "Yes"
        template = self.output_first_prompt if is_classification else self.input_first_prompt
        sampling = self.output_first_sampling if is_classification else self.input_first_sampling
        prompt = render_prompt(template, given)
        completion = yield Request(messages=({"role": "user", "content": prompt},), sampling=sampling)
        found = list(parse_instances(completion.text))
        kept, dropped = clean_instances(found, self.num_instances, completion.finish_reason == "length")
        if not kept:
            rules = ", ".join(dict.fromkeys(rule for _, rule in dropped))
            raise RowError(
                f"the completion has no instance{f' that stands: {rules}' if rules else ''}", completion.text
            )
        away = [{"input": one.input, "response": one.response, "rule": rule} for one, rule in dropped]
        return [
            {
                "input": one.input,
                "response": one.response,
                "is_classification": is_classification,
                "dropped_instances": away,
            }
            for one in kept
        ]


def parse_instances(text: str) -> Iterator[Instance]:
    r"""Read instances, whichever of input and output comes first, and whatever they are called.

    A text without any of the words that name the parts is a response alone.

    >>> list(parse_instances("Example 1\nInput: 2 + 2\nOutput: 4\nExample 2\nInput: 1 + 1\nOutput: 2"))
    [Instance(input='2 + 2', response='4'), Instance(input='1 + 1', response='2')]
    >>> list(parse_instances("Label: Positive\nInput: Lovely!\nLabel: Negative\nInput: Dull."))
    [Instance(input='Lovely!', response='Positive'), Instance(input='Dull.', response='Negative')]
    """
    parts = _PART.split(_EXAMPLE.sub("", text))
    if len(parts) == 1:
        if text.strip():
            yield Instance("", text.strip())
        return
    named = [("input" if name.lower() == "input" else "response", value.strip()) for name, value in _pairs(parts[1:])]
    one: dict[str, str] = {}
    for name, value in named:
        # an instance ends where a part comes again, or where, after a response alone, an input opens the next one
        if name in one or (name == named[0][0] and one):
            yield _instance(one)
            one = {}
        one[name] = value
    yield _instance(one)


def clean_instances(
    found: Sequence[Instance], most: int, cut_off: bool = False
) -> tuple[list[Instance], list[tuple[Instance, str]]]:
    """Part instances into those that stand, and the others with the rule that each breaks.

    The rules: `cut_off`, the last of a completion that was; `empty`, there is no response; `copied`, the response is
    the input once more; `colon`, a part ends in one; `repeated`, it was there before; `contradicted`, its input has
    another response too, and then none of the task stands; `surplus`, there are enough.

    >>> kept, dropped = clean_instances([Instance("a", "b"), Instance("a", "a"), Instance("c", "")], 5)
    >>> kept, [rule for _, rule in dropped]
    ([Instance(input='a', response='b')], ['copied', 'empty'])
    """
    broken = [_broken(one, found[:place]) for place, one in enumerate(found)]
    if cut_off and found:
        broken[-1] = "cut_off"
    standing = [one for one, rule in zip(found, broken, strict=True) if not rule]
    inputs = [one.input for one in standing if one.input]  # a task without input may have several responses
    if len(set(inputs)) < len(inputs):
        broken = [rule or "contradicted" for rule in broken]
        standing = []
    kept = standing[:most]
    dropped = [(one, rule) for one, rule in zip(found, broken, strict=True) if rule]
    return kept, [*dropped, *((one, "surplus") for one in standing[most:])]


def _broken(one: Instance, before: Sequence[Instance]) -> str:
    """Return the rule that an instance breaks by itself, or "" if it stands."""
    if not one.response:
        return "empty"
    if one.response == one.input:
        return "copied"
    if one.input.endswith(":") or one.response.endswith(":"):
        return "colon"
    return "repeated" if one in before else ""


def _pairs(parts: list[str]) -> Iterator[tuple[str, str]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _instance(parts: dict[str, str]) -> Instance:
    given = parts.get("input", "")
    return Instance("" if given.casefold() in _EMPTY else given, parts.get("response", ""))
