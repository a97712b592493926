"""Evolve instructions, as WizardLM (arXiv 2304.12244) does, and eliminate evolutions that fail.

Each round draws one of six operations, five that make an instruction harder (depth) and one that asks for a new one
(breadth), each with the same chance. Elimination discards an evolved instruction, and keeps the version before it, if

1. a judge finds that both versions ask for the same (`equal`);
2. the answer contains "sorry" and has fewer than 80 words (`sorry`); this finds apologies in English only;
3. the answer consists of punctuation and English stop words (`no_content`);
4. the evolved instruction copies words of the operation's own prompt (`leaked_prompt`);
5. the evolved instruction is `empty`, was `cut_off`, or is `unchanged`.

Rules 1 to 4 are those of the paper. Rules 1 to 3 cost requests, so they are off unless `eliminate=True`.

hfsynth differs in two points: prompts are worded anew, and the judge's verdict is scored, not parsed.
"""

import random
import re
import unicodedata
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from datasets import Features, List, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.jinja_sandbox import check_prompt, render_prompt
from hfsynth.llm import Completion, Need, Request, SamplingParams
from hfsynth.parsing.markup import unwrap
from hfsynth.similarity.words import SPACED_ENDS, UNSPACED_ENDS, normal_form, spaced_word_bounds, words_in
from hfsynth.technique import Input, Inputs, Technique

JUDGE_TEMPLATE = """\
Compare two instructions for an AI assistant. They are equal if both have the same constraints and requirements, and \
ask for the same depth and breadth.

First instruction:
{{ before }}

Second instruction:
{{ after }}

Answer with "Equal" or "Not equal" and nothing else.
"""
EQUAL = ("Equal", "Not equal")
"""The judge's choices."""
_LEAKS = re.compile(r"\b(?:given|rewritten|created)[\s_-]+prompt\b", re.IGNORECASE)
_SORRY_WORDS = 80
_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but
by can could did do does doing down during each few for from further had has have having he her here hers him
his how i if in into is it its itself just me more most my no nor not now of off on once only or other our out
over own same she should so some such than that the their them then there these they this those through to too
under until up very was we were what when where which while who whom why will with would you your
"""


def elimination(before: str, evolved: str, finish_reason: str) -> str:
    """Return the rule that eliminates an evolved instruction by its text; "" if there is none.

    >>> elimination("Make tea.", "Make  TEA!", "stop")
    'unchanged'
    """
    if not evolved:
        return "empty"
    if finish_reason == "length":
        return "cut_off"
    if _without_outer_marks(before) == _without_outer_marks(evolved):
        return "unchanged"
    if _LEAKS.search(evolved) and not _LEAKS.search(before):
        return "leaked_prompt"
    return ""


def elimination_by_answer(answer: str) -> str:
    """Return the rule that eliminates an evolved instruction by its answer; "" if there is none.

    >>> elimination_by_answer("I'm sorry, but I can't.")
    'sorry'
    >>> elimination_by_answer("It is so!")
    'no_content'
    """
    if "sorry" in answer.casefold() and spaced_word_bounds(answer)[0] < _SORRY_WORDS:
        return "sorry"
    words = words_in(answer) or [character for character in answer if unicodedata.category(character) == "So"]
    return "no_content" if set(words) <= set(_STOP_WORDS.split()) else ""


def _without_outer_marks(text: str) -> str:
    """Return a text without case, extra spaces, and the marks of any script that begin or end a sentence."""
    return normal_form(text).rstrip(f"{SPACED_ENDS}{UNSPACED_ENDS} ").lstrip("¿¡ ")


_DEPTH = """\
Rewrite the given prompt so that it is somewhat harder for well-known AI assistants, while people can still \
understand and answer it. {change} Keep everything else that it asks for; don't answer it. Add at most 10 to 20 \
words. Write the rewritten prompt alone, without a heading.

#Given Prompt#:
{{{{ instruction }}}}

#Rewritten Prompt#:
"""
MUTATION_TEMPLATES: dict[str, str] = {
    "add_constraints": _DEPTH.format(change="Add one more constraint or requirement."),
    "deepen": _DEPTH.format(change="Ask about its subject in more depth and breadth."),
    "concretize": _DEPTH.format(change="Replace general terms by more specific ones."),
    "increase_reasoning": _DEPTH.format(change="Where simple thinking would do, make it need several steps."),
    "complicate_input": """\
Rewrite the given prompt so that it is somewhat harder for well-known AI assistants, while people can still \
understand and answer it. \
{% if input %}Its input data is given below: rewrite it too, so that there is more to work with, and put it into the \
rewritten prompt.\
{% else %}Add input data that the answer must work with, such as a table, a formula, code or a short text.\
{% endif %} Keep everything else that it asks for; don't answer it. Write the rewritten prompt alone, without a \
heading.

#Given Prompt#:
{{ instruction }}
{% if input %}
#Given Input#:
{{ input }}
{% endif %}
#Rewritten Prompt#:
""",
    "breadth": """\
Write a new prompt in the same domain as the given prompt, about something rarer. It must be about as long and as \
difficult, and people must be able to understand and answer it. Don't answer it. Write the created prompt alone, \
without a heading.

#Given Prompt#:
{{ instruction }}

#Created Prompt#:
""",
}

EVOLUTION = {"operation": Value("string"), "instruction": Value("string"), "eliminated_by": Value("string")}
"""One round: its operation, its text, and the rule that eliminated it ("" if it was kept)."""

_CITATION = """\
@article{xu2023wizardlm,
  title = {WizardLM: Empowering Large Language Models to Follow Complex Instructions},
  author = {Xu, Can and Sun, Qingfeng and Zheng, Kai and Geng, Xiubo and Zhao, Pu and Feng, Jiazhan and
            Tao, Chongyang and Jiang, Daxin},
  year = {2023},
  eprint = {2304.12244}
}"""


@dataclass(frozen=True, kw_only=True)
class EvolInstruct(Technique):
    """Evolve each instruction: `instruction` → `evolved_instruction`, and all rounds in `evolutions`.

    With `store_evolutions` or `include_original_instruction` the output is the list `evolved_instructions`, without
    eliminated versions. With `generate_answers` there is also `answer`, or the list `answers`.

    >>> from hfsynth import EchoLLM
    >>> list(EvolInstruct(EchoLLM(), store_evolutions=True, generate_answers=True).output_features)
    ['evolved_instructions', 'answers', 'evolutions']
    """

    version: ClassVar[int] = 3
    citation: ClassVar[str] = _CITATION

    replaces: ClassVar[Mapping[str, str]] = {"instruction": "evolved_instruction"}
    rejection_column: ClassVar[tuple[str, str] | None] = ("evolutions", "eliminated_by")
    input_advice: ClassVar[str] = "use input_mappings={'input': 'input'}"

    num_evolutions: int = field(default=1, metadata={"help": "Rounds of evolution; 0 changes nothing."})
    store_evolutions: bool = field(default=False, metadata={"help": "Keep all versions, not only the last one."})
    include_original_instruction: bool = field(
        default=False, metadata={"help": "Keep the original instruction as the first version."}
    )
    generate_answers: bool = field(default=False, metadata={"help": "Answer each version that is kept."})
    mutation_templates: Mapping[str, str] = field(
        default_factory=lambda: dict(MUTATION_TEMPLATES),
        metadata={"help": "Operation → Jinja2 prompt over `instruction` and `input`; each round samples one."},
    )
    eliminate: bool = field(
        default=False,
        metadata={
            "help": "Apply the paper's elimination rules that need requests too: those of the judge and of the answer."
        },
    )
    judge_template: str = field(
        default=JUDGE_TEMPLATE,
        metadata={"help": "Jinja2 prompt over before and after, answered with Equal or Not equal."},
    )
    keep_truncated: bool = field(
        default=False,
        metadata={"help": "Keep answers that reach max_new_tokens, marked as truncated; otherwise their rows fail."},
    )
    sampling: SamplingParams = field(
        default=SamplingParams(temperature=1.0, top_p=0.9, max_new_tokens=512),
        metadata={"help": "How evolutions are sampled."},
    )
    answer_sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.7, max_new_tokens=1024), metadata={"help": "How answers are sampled."}
    )

    def __post_init__(self) -> None:
        """Check the templates and the number of evolutions."""
        super().__post_init__()
        if self.num_evolutions < 0:
            raise ValueError(f"EvolInstruct.num_evolutions must be 0 or more, got {self.num_evolutions}.")
        if not self.mutation_templates:
            raise ValueError(f"EvolInstruct.mutation_templates must not be empty, got {self.mutation_templates}.")
        for operation, template in self.mutation_templates.items():
            check_prompt(f"EvolInstruct.mutation_templates[{operation!r}]", template, ("instruction", "input"))
        check_prompt("EvolInstruct.judge_template", self.judge_template, ("before", "after"))

    @property
    def _keeps_list(self) -> bool:
        return self.store_evolutions or self.include_original_instruction

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - depends on the mappings
        """Return `instruction`, and `input`, the data that belongs to it, if `input_mappings` names a column."""
        data: Inputs = {"input": Input.OPTIONAL_TEXT} if "input" in self.input_mappings else {}
        return {"instruction": Input.TEXT, **data}

    @property
    def output_features(self) -> Features:
        """The kept version or versions, their answers if requested, and all rounds (`EVOLUTION`)."""
        text = Value("string")
        kept: dict[str, Any] = (
            {"evolved_instructions": List(text)} if self._keeps_list else {"evolved_instruction": text}
        )
        if self.generate_answers:
            kept |= {"answers": List(text)} if self._keeps_list else {"answer": text}
        return Features({**kept, "evolutions": List(EVOLUTION)})

    @property
    def needs(self) -> tuple[Need, ...]:
        """Scores of the judge's verdicts, if there is a judge."""
        return ("choices",) if self.eliminate else ()

    def flow(self, row: Row, rng: random.Random) -> Flow:
        """Evolve round by round, then answer the kept versions."""
        versions: list[str] = [row["instruction"]]
        rounds: list[dict[str, str]] = []
        answered: dict[str, Completion] = {}
        for _ in range(self.num_evolutions):
            operation = rng.choice(sorted(self.mutation_templates))
            variables = {"instruction": versions[-1], "input": row.get("input")}
            prompt = render_prompt(self.mutation_templates[operation], variables)
            evolved = ""
            try:
                completion = yield _request(prompt, self.sampling)
                evolved = unwrap(completion.text)
                rule = elimination(versions[-1], evolved, completion.finish_reason)
                if self.eliminate and not rule:
                    rule = yield from self._judge_and_answer(versions[-1], evolved, answered)
            except RowError as error:  # the prompt is too long for the model, for example
                if len(versions) == 1 or error.transient:
                    raise  # no version would be lost, or a retry repeats the row
                rule = f"not completed: {error.reason}"
            rounds.append({"operation": operation, "instruction": evolved, "eliminated_by": rule})
            if not rule:
                versions.append(evolved)
        kept = self._kept_versions(versions)
        answers = (yield from self._answers(kept, answered)) if self.generate_answers else []
        everything = {
            "evolved_instructions": kept,
            "evolved_instruction": kept[-1],
            "answers": answers,
            "answer": answers[-1] if answers else None,
            "evolutions": rounds,
        }
        return {name: everything[name] for name in self.output_features}

    def _judge_and_answer(
        self, before: str, evolved: str, answered: dict[str, Completion]
    ) -> Generator[Request, Completion, str]:
        """Judge and answer an evolved instruction; return the rule that eliminates it, or ""."""
        question = render_prompt(self.judge_template, {"before": before, "after": evolved})
        verdict = yield Request(messages=({"role": "user", "content": question},), choices=EQUAL)
        if verdict.text == EQUAL[0]:
            return "equal"
        answered[evolved] = yield from self._answer(evolved)
        return elimination_by_answer(answered[evolved].text)

    def _answers(
        self, kept: Sequence[str], answered: dict[str, Completion]
    ) -> Generator[Request, Completion, list[str | None]]:
        """Answer the kept versions, except those that were answered for elimination.

        Raises:
            RowError: If all answers are empty, or one was cut off and `keep_truncated` is False.
        """
        for version in kept:
            if version not in answered:
                answered[version] = yield from self._answer(version)
        answers = [answered[version] for version in kept]
        cut_off = [answer for answer in answers if answer.text and answer.finish_reason == "length"]
        if cut_off and not self.keep_truncated:
            count = "the answer was" if len(answers) == 1 else f"{len(cut_off)} of {len(answers)} answers were"
            reason = f"{count} cut off; raise max_new_tokens or set keep_truncated=True (finish_reason: length)"
            raise RowError(reason, "\n\n".join(answer.text for answer in answers))
        if not any(answer.text for answer in answers):
            raise RowError(f"the answer is empty (finish_reason: {answers[-1].finish_reason})", "\n".join(kept))
        return [answer.text or None for answer in answers]

    def _answer(self, instruction: str) -> Generator[Request, Completion, Completion]:
        """Answer an instruction; a truncated answer is returned too, since elimination needs it."""
        request = _request(instruction, self.answer_sampling)
        if self.keep_truncated and self.generate_answers:
            request = replace(request, keep_truncated=True)
        return (yield request)

    def _kept_versions(self, versions: list[str]) -> list[str]:
        """Return the versions to keep; the original one if every round was eliminated."""
        kept = versions[1:] if self.store_evolutions else versions[1:][-1:]
        if self.include_original_instruction or not kept:
            return [versions[0], *kept]
        return kept


def _request(prompt: str, sampling: SamplingParams) -> Request:
    return Request(messages=({"role": "user", "content": prompt},), sampling=sampling, keep_truncated=None)
