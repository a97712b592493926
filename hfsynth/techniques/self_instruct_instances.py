"""Generate instances of an instruction, as Self-Instruct (arXiv 2212.10560) does: inputs with their responses.

First the model is asked whether the instruction is a classification. If so, it writes a label and then an input for it
(output-first), because nearly all inputs would get one label otherwise. For other instructions it writes the input
first. At most five instances are kept, as in the paper, after its rules have dropped bad ones.

hfsynth differs in three points: the prompts have few examples and work with chat models; the answer to the first
question is scored, not parsed; and the parser reads more forms than that of the authors, in some 20 languages.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from datasets import Features, List, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.llm import Request, SamplingParams
from hfsynth.parsing.instances import Instance, parse_instances
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
DROPPED = {"input": Value("string"), "response": Value("string"), "rule": Value("string")}
"""A dropped instance and the rule that dropped it."""


@dataclass(frozen=True, kw_only=True)
class SelfInstructInstances(Technique):
    """Generate instances of a task: `instruction` → `input`, `response`, `is_classification`; one row for each.

    A row without a good instance fails. So does, as in the paper, a row in which one input has two responses. Dropped
    instances are in `dropped_instances`, with the rule of `clean_instances` that dropped them.

    >>> from hfsynth import EchoLLM
    >>> list(SelfInstructInstances(EchoLLM()).output_features)
    ['input', 'response', 'is_classification', 'dropped_instances']
    """

    version: ClassVar[int] = 2
    citation: ClassVar[str] = CITATION
    rejection_column: ClassVar[tuple[str, str] | None] = ("dropped_instances", "rule")

    num_instances: int = field(default=5, metadata={"help": "Largest number of instances of an instruction."})
    classification_prompt: str = field(
        default=CLASSIFICATION_PROMPT,
        metadata={"help": "Jinja2 prompt over instruction, answered with Yes or No."},
    )
    input_first_prompt: str = field(
        default=INPUT_FIRST, metadata={"help": "Jinja2 prompt over instruction and num_instances, for other tasks."}
    )
    output_first_prompt: str = field(
        default=OUTPUT_FIRST, metadata={"help": "Jinja2 prompt over the same, for classifications."}
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
            raise ValueError(f"SelfInstructInstances.num_instances must be at least 1, got {self.num_instances}.")
        check_prompt("SelfInstructInstances.classification_prompt", self.classification_prompt, ("instruction",))
        for name in ("input_first_prompt", "output_first_prompt"):
            check_prompt(f"SelfInstructInstances.{name}", getattr(self, name), ("instruction", "num_instances"))

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - always the same
        """Return `instruction`: the task."""
        return {"instruction": Input.TEXT}

    @property
    def output_features(self) -> Features:
        """`input`, "" if the task needs none; `response`; `is_classification`; `dropped_instances` (`DROPPED`)."""
        text = Value("string")
        return Features(
            {"input": text, "response": text, "is_classification": Value("bool"), "dropped_instances": List(DROPPED)}
        )

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - samples nothing
        """Request whether the task is a classification, then its instances, and drop the bad ones."""
        question = render_prompt(self.classification_prompt, {"instruction": row["instruction"]})
        answer = yield Request(messages=({"role": "user", "content": question},), choices=("Yes", "No"))
        is_classification = answer.text == "Yes"
        template = self.output_first_prompt if is_classification else self.input_first_prompt
        sampling = self.output_first_sampling if is_classification else self.input_first_sampling
        prompt = render_prompt(template, {"instruction": row["instruction"], "num_instances": self.num_instances})
        completion = yield Request(
            messages=({"role": "user", "content": prompt},), sampling=sampling, keep_truncated=None
        )
        found = parse_instances(completion.text)
        kept, dropped = clean_instances(found, self.num_instances, completion.finish_reason == "length")
        if not kept:
            rules = ", ".join(dict.fromkeys(rule for _, rule in dropped))
            raise RowError(
                f"the completion has no instance{f' that stands: {rules}' if rules else ''}", completion.text
            )
        rejected = [{"input": one.input, "response": one.response, "rule": rule} for one, rule in dropped]
        return [
            {
                "input": one.input,
                "response": one.response,
                "is_classification": is_classification,
                "dropped_instances": rejected,
            }
            for one in kept
        ]


def clean_instances(
    found: Sequence[Instance], limit: int, cut_off: bool = False
) -> tuple[list[Instance], list[tuple[Instance, str]]]:
    """Divide instances into those to keep and those to drop, with the rule that drops each.

    The rules: `cut_off`, the last instance of a truncated completion; `empty`, without a response; `copied`, the
    response equals the input; `colon`, the input or the response ends in a colon; `repeated`, an instance is there
    twice; `contradicted`, one input has two responses, which drops all instances; `surplus`, beyond the limit.

    Args:
        found: The instances of one task.
        limit: The largest number to keep.
        cut_off: Whether the completion was truncated.

    Returns:
        The kept instances, and the dropped ones with their rules.

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
    kept = standing[:limit]
    dropped = [(one, rule) for one, rule in zip(found, broken, strict=True) if rule]
    return kept, [*dropped, *((one, "surplus") for one in standing[limit:])]


def _broken(one: Instance, before: Sequence[Instance]) -> str:
    """Return the rule that drops an instance by itself; "" if there is none."""
    if not one.response:
        return "empty"
    if one.response == one.input:
        return "copied"
    if one.input.endswith(":") or one.response.endswith(":"):
        return "colon"
    return "repeated" if one in before else ""
