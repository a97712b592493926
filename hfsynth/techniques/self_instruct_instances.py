"""Generate instances of an instruction, as Self-Instruct (arXiv 2212.10560) does: inputs with their responses.

First the model is asked whether the instruction is a classification. If so, it writes a label and then an input for it
(output-first), because nearly all inputs would get one label otherwise. For other instructions it writes the input
first. At most five instances are kept, as in the paper, after its rules have dropped bad ones.

hfsynth differs in three points: the prompts have few examples and work with chat models; the answer to the first
question is scored, not parsed; and the parser reads more forms than that of the authors, in some 20 languages.
"""

import json
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets import Features, List, Value

from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row
from hfsynth.jinja_sandbox import check_prompt, render_prompt
from hfsynth.llm import Need, Request, SamplingParams
from hfsynth.parsing.lines import is_closing
from hfsynth.parsing.lists import parse_records
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


@dataclass(frozen=True)
class Instance:
    """An input of a task, "" if the task needs none, and the response to it."""

    input: str
    response: str


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

    @property
    def needs(self) -> tuple[Need, ...]:
        """Scores of the answers Yes and No."""
        return ("choices",)

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
                f"the completion has no instance{f' that passes the rules: {rules}' if rules else ''}", completion.text
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
    response equals the input; `colon`, the input or the response ends in a colon; `repeated`, an instance occurs
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
    broken = [_rule_of_instance(one, found[:place]) for place, one in enumerate(found)]
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


def _rule_of_instance(one: Instance, before: Sequence[Instance]) -> str:
    """Return the rule that drops an instance by itself; "" if there is none."""
    if not one.response:
        return "empty"
    if one.response == one.input:
        return "copied"
    if one.input.endswith(":") or one.response.endswith(":"):
        return "colon"
    return "repeated" if one in before else ""


_NUMBER = r"(?:\s*[#№(\[]?\s*\d{1,3}[)\]]?)"
_INPUT = (
    r"(?:sample )?inputs?"
    r"|eingabe|entrada|entrée|ввод|вход|入力|输入|輸入|입력|المدخلات|المدخل|इनपुट|girdi|giriş|đầu vào|wejście"
    r"|invoer|masukan|อินพุต|ข้อมูลนำเข้า|ข้อมูลเข้า"
)
_OUTPUT = (
    r"(?:expected |sample )?outputs?|ausgabe|salida|saída|sortie|вывод|выход|出力|输出|輸出|출력|المخرجات|المخرج|आउटपुट"
    r"|çıktı|çıkış|đầu ra|wyjście|uitvoer|keluaran|เอาต์พุต|เอาท์พุต|ผลลัพธ์"
)
_ANSWER = r"answer|response|solution"  # other names of an output, if nothing is named output
_LABEL = (
    r"class label|label|etiqueta|étiquette|kategorie|метка|ラベル|标签|標籤|레이블|라벨|التصنيف|लेबल|etiket|nhãn"
    r"|etykieta|ป้ายกำกับ|ฉลาก"
)
_HEADING = (
    r"example|ejemplo|exemplo|exemple|beispiel|esempio|пример|例子|示例|例|예시|예제|예|مثال|उदाहरण|örnek|ví dụ"
    r"|przykład|voorbeeld|contoh|ตัวอย่าง(?:ที่)?"
)
_LINE_START = r"^[ \t>*#_•–-]*(?:\d{1,3}[.)][ \t]+)?[*_]*"
_PART_END = rf"{_NUMBER}?[ \t*_]*[:：][ \t*_]*"
_EXAMPLE = re.compile(
    rf"{_LINE_START}(?:{_HEADING})(?:{_NUMBER}[ \t*_]*[.:：)]*|[ \t]+[A-Z](?=[.:：)])[.:：)]+|[ \t*_]*[:：])[ \t*_]*",
    re.IGNORECASE | re.MULTILINE,
)
_PART = re.compile(rf"{_LINE_START}({_INPUT}|{_OUTPUT}|{_ANSWER}|{_LABEL}){_PART_END}", re.IGNORECASE | re.MULTILINE)
_TITLE = re.compile(  # ### Input   **Output**
    rf"^[ \t]*(?:#{{1,6}}[ \t]*[*_]*|[*_]{{2,3}})({_INPUT}|{_OUTPUT}|{_ANSWER}|{_LABEL}){_NUMBER}?[ \t*_]*$",
    re.IGNORECASE | re.MULTILINE,
)
_INLINE_PART = re.compile(r"(?<=\s)(?:(?:[-=]>|→)[ \t]*)?(Input|Output|Class label|Label)\s*\d*\s*:[ \t]*")
_OTHER_NAME = re.compile(r"^([^\W\d_][^\n:：]{0,30})[:：]")
_FENCE = re.compile(
    r"(?P<mark>```+|~~~+)[ \t]*(?P<language>[\w+-]*)[ \t]*\n(?P<content>.*?)(?:^[ \t>]*(?P=mark)[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_TEXT_LANGUAGES = {"", "text", "txt", "plaintext", "markdown", "md", "yaml", "yml"}
_OTHER_KEYS = re.compile(
    r"id|nr|no\.?|n[º°]|\W*|number|index|(?:example|instance)\W*\w*|explanation|reason(?:ing)?", re.IGNORECASE
)
_RULE = re.compile(r"[ \t]*(?:[-*_=][ \t]*){3,}")
_NO_INPUT = {
    "", "none", "n/a", "na", "null", "empty", "no input", "noinput", "no input needed", "no input required",
    "not applicable",
}  # fmt: skip


def parse_instances(text: str) -> list[Instance]:
    r"""Read the instances of a completion.

    An instance begins at a heading ("Example 1") or, without headings, where an input follows a response. The text
    before "Output:" is the input, under any name. In a classification the line after "Label:" is the response, and the
    remaining text the input. JSON and XML records are read too. A text without such words has no instance. Every text
    that the parser of Self-Instruct's authors reads is read in the same way.

    >>> parse_instances("Example 1: Input: 2 + 2\nOutput: 4\nExample 2\nInput: 1 + 1\nOutput: 2")
    [Instance(input='2 + 2', response='4'), Instance(input='1 + 1', response='2')]
    >>> parse_instances("Label: Positive\nReview: Lovely!\nLabel: Negative\nReview: Dull.")
    [Instance(input='Review: Lovely!', response='Positive'), Instance(input='Review: Dull.', response='Negative')]
    """
    if records := parse_records(text, _has_response):
        return [_instance_of(record) for record in records]
    text = _without_closing(_fence_content(text))
    headings = _headings(text)
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    chunks = [
        _fence_content(_without_rules(text[heading.end() : end])) for heading, end in zip(headings, ends, strict=False)
    ]
    if headings and _response_marks(text[: headings[0].start()]):
        chunks.insert(0, text[: headings[0].start()].strip())
    if headings:
        return [one for chunk in chunks if chunk for one in _read_parts(chunk) or [Instance("", chunk)]]
    return _read_parts(text)


def _fence_content(text: str) -> str:
    """Return the content of the only fence of a text, if all names of parts are in it; else the text."""
    fences = list(_FENCE.finditer(text))
    if len(fences) != 1 or fences[0]["language"].casefold() not in _TEXT_LANGUAGES:
        return text.strip()
    around = f"{text[: fences[0].start()]}\n{text[fences[0].end() :]}"
    content = fences[0]["content"]
    return content.strip() if _PART.search(content) and not _PART.search(around) else text.strip()


def _without_closing(text: str) -> str:
    """Return a text without horizontal rules at its end, and without closing remarks of the model.

    After a response of several paragraphs a closing remark stays, since a letter ends in the same way.
    """
    paragraphs = _without_rules(text).split("\n\n")
    end = len(paragraphs)
    while end > 1 and "\n" not in paragraphs[end - 1] and is_closing(paragraphs[end - 1]):
        end -= 1
    before = _without_rules("\n\n".join(paragraphs[:end]))
    last = before.rpartition("\n\n")[2]
    is_sure = _PART.search(last) or last.endswith(("```", "~~~")) or len(before.split("\n\n")) < end
    return before if is_sure else "\n\n".join(paragraphs)


def _without_rules(text: str) -> str:
    """Return a text without horizontal rules at its end."""
    lines = text.rstrip().split("\n")
    while lines and (not lines[-1].strip() or _RULE.fullmatch(lines[-1])):
        lines.pop()
    return "\n".join(lines).strip()


def _outside_fences(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Return the matches of a pattern that are not in a fenced block."""
    fences = [fence.span() for fence in _FENCE.finditer(text)]
    return [mark for mark in pattern.finditer(text) if not any(start < mark.end() <= end for start, end in fences)]


def _headings(text: str) -> list[re.Match[str]]:
    """Return the headings of examples: those with numbers or, if there are none, those that a part follows."""
    found = _outside_fences(_EXAMPLE, text)
    numbered = [heading for heading in found if any(character.isdigit() for character in heading[0])]
    if numbered:
        return numbered
    return [heading for heading in found if not heading.start() or _PART.match(text[heading.end() :].lstrip("\n"))]


def _read_parts(text: str) -> list[Instance]:
    """Read the instances of a text by the names of their parts."""
    marks = _part_marks(text)
    ends = [*(start for _, start, _ in marks[1:]), len(text)]
    parts = [(name, _without_rules(text[begin:end])) for (name, _, begin), end in zip(marks, ends, strict=False)]
    if not parts:
        return []
    if parts[0][0] == "label":
        return list(_label_first(parts))
    before = text[: marks[0][1]].strip()
    if parts[0][0] == "output" and before and before[-1] not in ":：":
        parts = list(_under_own_name(before, parts))  # the input has a name of its own
    if parts[0][0] == "output" and parts[-1][0] == "input":
        return list(_label_first(parts))
    return list(_input_first(parts))


def _part_marks(text: str) -> list[tuple[str, int, int]]:
    """Find the names of parts: (part, start of its name, start of its text).

    A name begins a line and precedes a colon, or all names are titles. If a part has no such name, "Input:" and
    "Output:" within a line count too. Several inputs in a row are one input.
    """
    named = _outside_fences(_PART, text) or _outside_fences(_TITLE, text)
    found = [(_part_name(mark), mark.start(), mark.end()) for mark in named]
    if any(name in ("output", "label") for name, *_ in found):
        found = [mark for mark in found if mark[0] != "answer"]
    wanted = {"input"} if any(name == "label" for name, *_ in found[:1]) else set()
    wanted |= {"output", "label"} if not any(name != "input" for name, *_ in found) else set()
    inline = [(_part_name(mark), mark.start(), mark.end()) for mark in _outside_fences(_INLINE_PART, text)]
    present = {name for name, *_ in found}
    found += [mark for mark in inline if mark[0] in wanted - present]
    marks: list[tuple[str, int, int]] = []
    for name, start, begin in sorted(found, key=lambda mark: mark[1]):
        if not (marks and marks[-1][0] == name == "input"):
            marks.append(("output" if name == "answer" else name, start, begin))
    return marks


def _response_marks(text: str) -> bool:
    return any(_part_name(mark) != "input" for mark in _outside_fences(_PART, text))


def _part_name(mark: re.Match[str]) -> str:
    """Return the part that a name means: "input", "output", "label", or "answer", another name of an output."""
    name = mark[1].casefold()
    for part, names in (("input", _INPUT), ("output", _OUTPUT), ("label", _LABEL)):
        if re.fullmatch(names, name, re.IGNORECASE):
            return part
    return "answer"


def _under_own_name(before: str, parts: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the parts; an input under another name ("Sentence: …") keeps this name in its text."""
    yield "input", before
    name = _OTHER_NAME.match(before)
    mark = re.compile(rf"^{re.escape(name[0])}", re.MULTILINE) if name else None
    for part, value in parts:
        following = mark.search(value) if mark and part == "output" else None
        yield part, value[: following.start()].strip() if following else value
        if following:
            yield "input", value[following.start() :]


def _label_first(parts: list[tuple[str, str]]) -> Iterator[Instance]:
    """Pair each response with the input after it."""
    for place, (part, value) in enumerate(parts):
        if part == "input":
            continue
        if place + 1 < len(parts) and parts[place + 1][0] == "input":
            yield Instance(_plain_input(parts[place + 1][1]), value.rstrip(" \t,;|-–—*_"))
        elif part == "label":
            label, _, rest = value.partition("\n")
            yield Instance(_plain_input(rest.strip()), label.strip().rstrip("*_").strip())
        else:
            yield Instance("", value)


def _input_first(parts: list[tuple[str, str]]) -> Iterator[Instance]:
    """Pair each response with the input before it, and an input with the first response after it."""
    pending, is_answered = None, False
    for part, value in parts:
        if part == "input":
            if pending is not None and not is_answered:
                yield Instance(pending, "")
            pending, is_answered = _plain_input(value), False
        elif pending is None or not is_answered:
            yield Instance(pending or "", value)
            is_answered = pending is not None
    if pending is not None and not is_answered:
        yield Instance(pending, "")


def _has_response(record: Mapping[str, Any]) -> bool:
    return any(_key_part(key) == "response" for key in record)


def _instance_of(record: Mapping[str, Any]) -> Instance:
    """Read an instance from a record; if no key names the input, the other keys and values are the input."""
    parts = {
        _key_part(key): _as_text(value) for key, value in reversed(list(record.items()))
    }  # of two values of a part, the first counts
    named = [
        f"{key}: {_as_text(value)}"
        for key, value in record.items()
        if value and not _key_part(key) and not _OTHER_KEYS.fullmatch(key)
    ]
    return Instance(_plain_input(parts.get("input", "\n".join(named))), parts["response"])


def _as_text(value: Any) -> str:
    """Return a value of JSON as a text: "" for null, a string as it is, another value as JSON."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _key_part(key: str) -> str:
    mark = _PART.match(f"{key}:")
    return "" if mark is None else "input" if _part_name(mark) == "input" else "response"


def _plain_input(text: str) -> str:
    """Return an input; "" for a text such as "N/A"."""
    return "" if text.strip(" .()[]<>*_-–—").casefold() in _NO_INPUT else text
