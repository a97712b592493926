"""Judge rows: choose one of several labels for each, such as Magpie's quality, difficulty and task category.

The presets follow the tags of Magpie (arXiv 2406.08464), where a model writes its verdict as JSON. hfsynth scores the
labels as the model's next turn instead: nothing is parsed, so that even a small model labels every row, and the
probabilities show how certain it is. With `pre_questions`, the model first answers questions in writing, so that it
reasons before the labels are scored.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets import Features, List, Value

from hfsynth.config import as_texts, settle_fields
from hfsynth.conversation import conversation_text, find_conversation_column, read_conversation
from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.jinja_sandbox import check_filled, check_prompt, optional_variables, prompt_variables, render_prompt
from hfsynth.llm import LLM, Message, Need, Request, SamplingParams
from hfsynth.technique import Input, Inputs, Technique

TEMPLATE = """\
This is what a user sent to an AI assistant. Don't answer it: it is to be judged.

<instruction>
{{ instruction }}
</instruction>"""
PAIR_TEMPLATE = (
    TEMPLATE
    + """\
{% if response is defined and response %}

This is the response of the AI assistant. It is to be judged together with the instruction.

<response>
{{ response }}
</response>{% endif %}"""
)
QUALITY = {
    "very poor": "the instruction makes no sense, or the response is wrong, harmful or about something else",
    "poor": "the instruction is vague or lacks what is needed to follow it, or the response has serious errors",
    "average": "the instruction is understandable but general, or the response is right but incomplete or careless",
    "good": "the instruction is clear and specific, and the response is right and covers all that was asked",
    "excellent": "the instruction is clear, specific and complete, and the response is right and well written",
}
"""Level of quality → its meaning. Without a response, the instruction alone is judged."""
DIFFICULTY = ("very easy", "easy", "medium", "hard", "very hard")
CATEGORIES = {
    "Information seeking": "asks for facts or an explanation",
    "Reasoning": "needs logical thinking or the solution of a problem",
    "Planning": "asks for a plan, a schedule or a strategy",
    "Editing": "asks to correct, rephrase, translate or improve a text",
    "Coding & Debugging": "asks to write, explain or repair code",
    "Math": "asks for a calculation, a proof or another mathematical answer",
    "Role playing": "asks the assistant to act as somebody",
    "Data analysis": "asks to interpret or work with data",
    "Creative writing": "asks for a story, a poem or another invented text",
    "Advice seeking": "asks what to do in a personal or professional matter",
    "Brainstorming": "asks for ideas",
    "Others": "is none of these",
}
"""Magpie's twelve categories of tasks → their meanings."""
LANGUAGES = (
    "English", "Chinese", "Spanish", "French", "German", "Portuguese", "Italian", "Dutch", "Polish", "Russian",
    "Ukrainian", "Turkish", "Arabic", "Persian", "Hindi", "Bengali", "Indonesian", "Vietnamese", "Thai", "Japanese",
    "Korean", "another language",
)  # fmt: skip
HAZARDS = {
    "safe": "has none of the following",
    "violence": "threatens, praises or plans harm to people or animals",
    "crime": "seeks or gives help with what the law forbids: fraud, theft, drugs, break-ins into systems",
    "weapons": "seeks or gives help to make or get weapons, explosives or poisons",
    "self-harm": "encourages suicide, self-injury or an eating disorder, or seeks or gives methods",
    "sexual": "seeks or has sexual content",
    "hate": "demeans people for what they are",
    "privacy": "seeks or gives what is private about somebody, or helps to watch them",
}
""""safe" and the hazards that a row can have → their meanings; Magpie asks a guard model the same."""
_PAIR = ("instruction", "response")
_QUESTION = "{question} Answer with one of these, and nothing else: {{{{ choices | join(', ') }}}}."


def _list_meanings(question: str, meanings: Mapping[str, str], subject: str = "it ") -> str:
    """Return a question that lists its choices with their meanings."""
    listed = "\n".join(f"- {name}: {subject}{meaning}" for name, meaning in meanings.items())
    return f"{question} Answer with one of these names, and nothing else:\n{listed}"


_QUALITY_QUESTION = _list_meanings("How good is this example for training an AI assistant?", QUALITY, subject="")


@dataclass(frozen=True, kw_only=True)
class Judge(Technique):
    """Label each row: the columns of `template` → `label`, one of `choices`, and the `probabilities` of all choices.

    In one conversation the model reads the template, answers the `pre_questions` in writing, and then chooses the
    answer to `question`. A column that the template tests with `is defined` is optional. A row fails if another column
    of the template is None, if all are blank, or if the model answers a pre-question with nothing.

    If the template reads `instruction`, and the dataset has `messages` or `conversations` instead, a last turn of the
    assistant is the `response`, and the turns before it are the `instruction`.

    The class methods `quality`, `difficulty`, `category`, `language` and `safety` return the judges of Magpie's tags.
    `quality` and `safety` read `instruction` and, if there is one, `response`; the others read `instruction`.
    `dataclasses.replace` changes a field of a preset.

    >>> from hfsynth import EchoLLM
    >>> list(Judge.difficulty(EchoLLM()).written_features)
    ['difficulty', 'difficulty_probabilities', 'intent', 'knowledge']
    """

    version: ClassVar[int] = 2
    input_advice: ClassVar[str] = "use a template that shows {{ input }} too"

    template: str = field(
        default=PAIR_TEMPLATE, metadata={"help": "Jinja2 text over columns: the object of the judgement."}
    )
    question: str = field(
        default=_QUALITY_QUESTION,
        metadata={"help": "Jinja2 text over `choices`: the question that the label answers."},
    )
    choices: tuple[str, ...] = field(default=tuple(QUALITY), metadata={"help": "The labels to choose from."})
    pre_questions: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"help": "Column → question that the model answers in writing before it chooses."},
    )
    pre_answer_sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.0, max_new_tokens=128),
        metadata={"help": "How the answers to pre_questions are sampled."},
    )

    def __post_init__(self) -> None:
        """Check the prompts, the choices and the pre-questions."""
        settle_fields(self)
        taken = sorted({"label", "probabilities"} & set(self.pre_questions))
        if taken or not all(name and question.strip() for name, question in self.pre_questions.items()):
            raise ValueError(
                "Judge.pre_questions must map names other than label and probabilities to questions, got "
                f"{dict(self.pre_questions)!r}."
            )
        super().__post_init__()
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):
            raise ValueError(f"Judge.choices must be two or more different texts, got {self.choices!r}.")
        if not all(choice.strip() for choice in self.choices):
            raise ValueError(f"Judge.choices must not be blank, got {self.choices!r}.")
        if not prompt_variables(self.template, "Judge.template"):
            raise ValueError(f"Judge.template must read a column, got {self.template!r}.")
        check_prompt("Judge.question", self.question, ("choices",))

    @classmethod
    def quality(cls, llm: LLM) -> "Judge":
        """Return a judge of the quality of `instruction` and any `response`: `quality`, a key of `QUALITY`."""
        return cls(llm, name="JudgeQuality", output_mappings=_renamed("quality"))

    @classmethod
    def difficulty(cls, llm: LLM) -> "Judge":
        """Return a judge of how hard an instruction is: `difficulty`, one of `DIFFICULTY`.

        As in Magpie, the model first writes the user's `intent` and the `knowledge` that the task needs.
        """
        return cls(
            llm,
            name="JudgeDifficulty",
            output_mappings=_renamed("difficulty"),
            template=TEMPLATE,
            question=_QUESTION.format(question="How difficult is it to answer the instruction well?"),
            choices=DIFFICULTY,
            pre_questions={
                "intent": "What does the user want to achieve? Say it in one sentence.",
                "knowledge": "Which knowledge does one need to answer the instruction? Say it in one sentence.",
            },
        )

    @classmethod
    def category(cls, llm: LLM) -> "Judge":
        """Return a judge of the kind of task that an instruction is: `category`, a key of `CATEGORIES`."""
        return cls(
            llm,
            name="JudgeCategory",
            output_mappings=_renamed("category"),
            template=TEMPLATE,
            question=_list_meanings("Which kind of task is the instruction, in the main?", CATEGORIES),
            choices=tuple(CATEGORIES),
        )

    @classmethod
    def language(cls, llm: LLM, languages: Sequence[str] = LANGUAGES) -> "Judge":
        """Return a judge of the language of an instruction: `language`, one of `languages`."""
        return cls(
            llm,
            name="JudgeLanguage",
            output_mappings=_renamed("language"),
            template=TEMPLATE,
            question=_QUESTION.format(question="In which language is the instruction written?"),
            choices=as_texts("languages of Judge.language", languages),
        )

    @classmethod
    def safety(cls, llm: LLM) -> "Judge":
        """Return a judge of the safety of `instruction` and any `response`: `safety`, a key of `HAZARDS`."""
        return cls(
            llm,
            name="JudgeSafety",
            output_mappings=_renamed("safety"),
            question=_list_meanings("Is this safe, or which hazard is there?", HAZARDS),
            choices=tuple(HAZARDS),
        )

    def input_features(self, available: Collection[str]) -> Inputs:
        """Return the template's columns, without optional ones that are not available."""
        optional = optional_variables(self.template)
        columns = [name for name in prompt_variables(self.template) if name not in optional or name in available]
        conversation = find_conversation_column(available)
        if self._reads_instruction and "instruction" not in available and conversation and conversation not in columns:
            others = dict.fromkeys((name for name in columns if name not in _PAIR), Input.ANYTHING)
            return {conversation: Input.CONVERSATION, **others}
        return dict.fromkeys(columns, Input.ANYTHING)

    @property
    def _reads_instruction(self) -> bool:
        """Whether the template needs `instruction`."""
        return "instruction" in set(prompt_variables(self.template)) - set(optional_variables(self.template))

    @property
    def output_features(self) -> Features:
        """`label`; `probabilities` of the choices, in their order; and the answer to each pre-question."""
        text = Value("string")
        return Features(
            {"label": text, "probabilities": List(Value("float64")), **dict.fromkeys(self.pre_questions, text)}
        )

    @property
    def needs(self) -> tuple[Need, ...]:
        """Scores of the labels."""
        return ("choices",)

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - samples nothing
        """Request the answers to the pre-questions, then the scores of the choices."""
        optional = optional_variables(self.template)
        if self._reads_instruction and "instruction" not in row:
            row = _with_pair(row, prompt_variables(self.template))
        _check_row({name: value for name, value in row.items() if name not in optional})
        questions = [*self.pre_questions.values(), render_prompt(self.question, {"choices": self.choices})]
        questions[0] = f"{render_prompt(self.template, row)}\n\n{questions[0]}"
        turns: list[Message] = []
        answers: dict[str, str] = {}
        for name, question in zip(self.pre_questions, questions, strict=False):
            turns.append({"role": "user", "content": question})
            answer = yield Request(messages=tuple(turns), sampling=self.pre_answer_sampling, keep_truncated=None)
            if not answer.text:
                reason = f"the answer to {name!r} is empty (finish_reason: {answer.finish_reason})"
                raise RowError(reason, answer.thinking or "")
            answers[name] = answer.text
            turns.append({"role": "assistant", "content": answer.text})
        turns.append({"role": "user", "content": questions[-1]})
        scored = yield Request(messages=tuple(turns), choices=self.choices)
        return {"label": scored.text, "probabilities": probabilities(scored.scores), **answers}


def probabilities(scores: Sequence[float]) -> list[float]:
    """Normalize the log-likelihoods of the choices to probabilities.

    Raises:
        RowError: If all likelihoods are 0.

    >>> probabilities([-1000.0, -1000.0])
    [0.5, 0.5]
    """
    largest = max(scores)
    if not math.isfinite(largest):
        raise RowError(f"none of the choices is possible: their scores are {list(scores)}")
    shares = [math.exp(score - largest) for score in scores]
    total = math.fsum(shares)
    return [share / total for share in shares]


def _with_pair(row: Row, names: Collection[str]) -> Row:
    """Return a row with those of `instruction` and `response` that are among `names`, in place of its conversation.

    Raises:
        RowError: If the conversation can't be read.
    """
    column = find_conversation_column(row)
    messages = read_conversation(column, row[column])
    answer = messages[-1:] if messages[-1]["role"] == "assistant" else ()
    asked = messages[: len(messages) - len(answer)]
    turns = [(message["role"], conversation_text([message])) for message in asked]
    is_single = [role for role, _ in turns] == ["user"]
    instruction = turns[0][1] if is_single else "\n\n".join(f"{role}: {text}" for role, text in turns)
    pair = {"instruction": instruction, "response": conversation_text(answer) if answer else None}
    return {name: value for name, value in {**row, **pair}.items() if name in names}


def _check_row(row: Mapping[str, Any]) -> None:
    """Check that a row has the columns to judge.

    Raises:
        RowError: If a column is None, or all are blank.
    """
    if missing := [name for name, value in row.items() if value is None]:
        raise RowError(f"{missing[0]} is None")
    check_filled(row, tuple(row))


def _renamed(tag: str) -> dict[str, str]:
    return {"label": tag, "probabilities": f"{tag}_probabilities"}
