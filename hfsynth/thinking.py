"""Find the markers around a model's thinking, by rendering a sample thought with the chat template itself."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_ASKED, _THOUGHT, _ANSWER = "Placeholder-of-a-question", "Placeholder-of-a-thought", "Placeholder-of-a-reply"
_MARKER = r"(?:<[^<>\s][^<>]*>|\[[^\[\]\s][^\[\]]*\]|◁[^◁▷]+▷)"
_LAST_MARKER = re.compile(rf"{_MARKER}\Z")
_FIRST_MARKER = re.compile(_MARKER)
_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_text")
_AS_DATA = re.compile(r"""['"]thinking['"]""")  # a list of parts that a template wrote as it is


@dataclass(frozen=True)
class ThinkingMarkers:
    """The markers around the thoughts of a model."""

    opening: str
    closing: str
    """Marker between the thoughts and the answer."""
    direct: str = ""
    """Marker before an answer without thoughts; "" if there is none."""
    answer_end: str = ""
    """Marker after an answer; "" if there is none."""


THINKING = (
    ThinkingMarkers("<think>", "</think>"),
    ThinkingMarkers(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
    ),
    ThinkingMarkers("<|channel>thought", "<channel|>"),
    ThinkingMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingMarkers("[THINK]", "[/THINK]"),
    ThinkingMarkers("<seed:think>", "</seed:think>"),
    ThinkingMarkers("◁think▷", "◁/think▷"),
    ThinkingMarkers("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThinkingMarkers("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", answer_end="[END FINAL RESPONSE]"),
)
"""Markers of models whose templates don't render thoughts: DeepSeek and Qwen, gpt-oss, Gemma 4, Command, Magistral,
Seed-OSS, Kimi, OpenThinker, Apriel."""


def derive_markers(render: Callable[[list[dict[str, Any]], bool], str | None]) -> tuple[ThinkingMarkers, ...]:
    """Find the markers of a chat template.

    A thought is rendered before an answer, under each of the names that templates have for it. The texts before,
    between and after the two are the markers. If no thought is rendered and only the generation prompt ends with a
    marker, this marker opens the thoughts, and its counterpart closes them.

    Args:
        render: (messages, add_generation_prompt) → text, or None where the template refuses the messages.
    """
    question = {"role": "user", "content": _ASKED}
    reads = render([question], True)
    plain = render([question, {"role": "assistant", "content": _ANSWER}], False)
    if reads is None or plain is None:
        return ()
    for answer in _answers():
        text = render([question, answer], False) or ""
        is_rendered = text.count(_THOUGHT) == 1 and text.find(_THOUGHT) < text.find(_ANSWER)
        if is_rendered and not _AS_DATA.search(text) and (found := _between(text, reads, plain)):
            return (found,)
    return _opened_by_prompt(reads, plain)


def _answers() -> list[dict[str, Any]]:
    """Return an answer with a thought, in the forms that templates read."""
    fields = [{"role": "assistant", "content": _ANSWER, field: _THOUGHT} for field in _FIELDS]
    part = {"type": "text", "text": _ANSWER}
    parts = [{"type": "thinking", "thinking": thought} for thought in (_THOUGHT, [{"type": "text", "text": _THOUGHT}])]
    return [*fields, *({"role": "assistant", "content": [thought, part]} for thought in parts)]


def _between(text: str, reads: str, plain: str) -> ThinkingMarkers | None:
    """Read the markers off an answer rendered with a thought."""
    before, _, rest = text.partition(_THOUGHT)
    between, _, after = rest.partition(_ANSWER)
    direct = plain.partition(_ANSWER)[0]
    first = _FIRST_MARKER.match(after.strip())
    found = ThinkingMarkers(
        _opening(before, reads, direct),
        between.strip(),
        direct.removeprefix(reads).strip() if direct.startswith(reads) else "",
        first.group() if first else "",
    )
    return found if found.opening and found.closing else None


def _opening(before: str, reads: str, direct: str) -> str:
    """Return what opens a thought, by what stands before it, before a reply in general, and before one without."""
    for header in (reads, direct):
        if before.startswith(header) and (opening := before.removeprefix(header).strip()):
            return opening
    ending = before.rstrip()
    last = _LAST_MARKER.search(ending)
    return last.group() if last else ending.rpartition("\n")[2]


def _opened_by_prompt(reads: str, plain: str) -> tuple[ThinkingMarkers, ...]:
    """Return the markers where a generation prompt ends with one that an answer doesn't have before it."""
    read, before = reads.rstrip(), plain.partition(_ANSWER)[0].rstrip()
    last = _LAST_MARKER.search(read)
    if last is None or before == read:
        return ()
    if before.startswith(read):  # an answer without thoughts has empty ones
        return (ThinkingMarkers(last.group(), before.removeprefix(read).strip()),)
    closing = _counterpart(last.group()) if read[: last.start()].rstrip() == before else ""
    return (ThinkingMarkers(last.group(), closing),) if closing else ()


def _counterpart(opening: str) -> str:
    """Return the marker that closes what another one opens, as it is usually written; "" where that can't be told.

    >>> _counterpart("<think>"), _counterpart("[THINK]"), _counterpart("<|begin_of_thought|>")
    ('</think>', '[/THINK]', '<|end_of_thought|>')
    """
    for begin, end in (("begin", "end"), ("BEGIN", "END"), ("start", "end"), ("START", "END")):
        if begin in opening:
            return opening.replace(begin, end, 1)
    signs = re.match(r"(<\||<|\[|◁)(\w.*)", opening, re.DOTALL)
    return f"{signs[1]}/{signs[2]}" if signs else ""


def split_thinking(prompt: str, text: str, markers: Sequence[ThinkingMarkers] = THINKING) -> tuple[str | None, str]:
    r"""Part what a model thought from what it answered.

    Args:
        prompt: What the model read; some templates begin the thinking there.
        text: What it wrote, special tokens included.
        markers: How thoughts may be marked; the first pair that opens the text holds.

    Returns:
        The thinking, or None where there is none, and the answer: empty if the thinking was cut off.

    >>> split_thinking("<think>\n", "2 + 2 is 4.</think>\n\nFour.")
    ('2 + 2 is 4.', 'Four.')
    >>> split_thinking("user: hi", "<think>A greeting")
    ('A greeting', '')
    >>> split_thinking("user: hi", "Hello!")
    (None, 'Hello!')
    """
    written = text.lstrip()
    for marks in markers:
        if written.startswith(marks.opening) or prompt.rstrip().endswith(marks.opening):
            return _split(written, marks)
        if marks.direct and written.startswith(marks.direct):
            return None, _without_end(written.removeprefix(marks.direct).lstrip(), marks)
    return None, text


def _split(written: str, marks: ThinkingMarkers) -> tuple[str, str]:
    """Part a text that begins with a thought; further ones are taken out where they begin a line and end."""
    thoughts: list[str] = []
    answer = marks.opening + written.removeprefix(marks.opening)
    while answer.startswith(marks.opening):
        thought, answer = _closed(answer.removeprefix(marks.opening), marks)
        thoughts.append(thought.strip())
    later = re.compile(rf"^\s*{re.escape(marks.opening)}(.*?){_flexible(marks.closing)}\s*", re.DOTALL | re.MULTILINE)
    thoughts += [thought.strip() for thought in later.findall(answer)]
    return "\n\n".join(filter(None, thoughts)), _without_end(later.sub("", answer), marks)


def _closed(text: str, marks: ThinkingMarkers) -> tuple[str, str]:
    """Part a text where a thought closes: by the full closing, or else by its first marker; ("…", "") by none."""
    first = _FIRST_MARKER.match(marks.closing)
    rest_of_closing = marks.closing[first.end() :].strip() if first else ""
    match = re.search(_flexible(marks.closing), text)
    if match is None and first and not _begins_turn(rest_of_closing):
        match = re.search(re.escape(first.group()), text)
    return (text[: match.start()], text[match.end() :].lstrip()) if match else (text, "")


def _begins_turn(rest_of_closing: str) -> bool:
    """Whether a closing goes on with the header of another turn: its first marker alone may end several kinds."""
    return len(_FIRST_MARKER.findall(rest_of_closing)) > 1


def _flexible(marker: str) -> str:
    """Return a pattern for a marker of several parts, with any white space between them."""
    return r"\s*".join(map(re.escape, marker.split()))


def _without_end(answer: str, marks: ThinkingMarkers) -> str:
    if marks.answer_end and answer.rstrip().endswith(marks.answer_end):
        return answer.rstrip().removesuffix(marks.answer_end).rstrip()
    return answer
