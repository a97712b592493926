"""Split answers into thinking, text and tool calls, by markers that are derived from the chat template.

A sample thought is rendered with the chat template, and the texts around it are the markers of thinking. transformers
parses tool calls by a response template (`tokenizer.parse_response`). Where a tokenizer has none, one is derived: a
sample call is rendered with the chat template, and the text around its name and arguments becomes the pattern. A
derived template is used only if it parses the rendered sample.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

from hfsynth.conversation import THINKING_FIELDS

_QUESTION, _ANSWER = "Placeholder-of-a-question", "Placeholder-of-a-reply"
_THOUGHT = "Placeholder-of-a-thought"
TryRender = Callable[[list[dict[str, Any]], bool], str | None]
"""A chat template: (messages, add_generation_prompt) → text, or None if the template refuses the messages."""

_MARKER = r"(?:<[^<>\s][^<>]*>|\[[^\[\]\s][^\[\]]*\]|◁[^◁▷]+▷)"
_LAST_MARKER = re.compile(rf"{_MARKER}\Z")
_FIRST_MARKER = re.compile(_MARKER)
_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_text")
_AS_DATA = re.compile(r"""['"]thinking['"]""")  # in a list of parts that a template writes as its repr


# --- thinking ---


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


def derive_markers(render: TryRender) -> tuple[ThinkingMarkers, ...]:
    """Derive the markers of thinking from a chat template.

    A thought is rendered before an answer, under each of the names that templates have for it. The texts before,
    between and after the two are the markers. If no thought is rendered and only the generation prompt ends with a
    marker, this marker opens the thoughts, and its counterpart closes them.

    Args:
        render: The chat template.
    """
    question = {"role": "user", "content": _QUESTION}
    prompt = render([question], True)
    plain = render([question, {"role": "assistant", "content": _ANSWER}], False)
    if prompt is None or plain is None:
        return ()
    for answer in _sample_answers():
        text = render([question, answer], False) or ""
        is_rendered = text.count(_THOUGHT) == 1 and text.find(_THOUGHT) < text.find(_ANSWER)
        if is_rendered and not _AS_DATA.search(text) and (found := _markers_around(text, prompt, plain)):
            return (found,)
    return _opened_by_prompt(prompt, plain)


def _sample_answers() -> list[dict[str, Any]]:
    """Return an answer with a thought, in the forms that templates read."""
    fields = [{"role": "assistant", "content": _ANSWER, field: _THOUGHT} for field in _FIELDS]
    part = {"type": "text", "text": _ANSWER}
    parts = [{"type": "thinking", "thinking": thought} for thought in (_THOUGHT, [{"type": "text", "text": _THOUGHT}])]
    return [*fields, *({"role": "assistant", "content": [thought, part]} for thought in parts)]


def _markers_around(text: str, prompt: str, plain: str) -> ThinkingMarkers | None:
    """Return the markers in an answer that was rendered with a thought; None if there are none."""
    before, _, rest = text.partition(_THOUGHT)
    between, _, after = rest.partition(_ANSWER)
    direct = plain.partition(_ANSWER)[0]
    first = _FIRST_MARKER.match(after.strip())
    found = ThinkingMarkers(
        _opening(before, prompt, direct),
        between.strip(),
        direct.removeprefix(prompt).strip() if direct.startswith(prompt) else "",
        first.group() if first else "",
    )
    return found if found.opening and found.closing else None


def _opening(before: str, prompt: str, direct: str) -> str:
    """Return the opening of a thought.

    Args:
        before: The text before the thought.
        prompt: The prompt, with the header of the answer.
        direct: The text before an answer without a thought.
    """
    for header in (prompt, direct):
        if before.startswith(header) and (opening := before.removeprefix(header).strip()):
            return opening
    ending = before.rstrip()
    last = _LAST_MARKER.search(ending)
    return last.group() if last else ending.rpartition("\n")[2]


def _opened_by_prompt(prompt: str, plain: str) -> tuple[ThinkingMarkers, ...]:
    """Return the markers if the generation prompt ends with a marker, but no marker precedes a rendered answer."""
    read, before = prompt.rstrip(), plain.partition(_ANSWER)[0].rstrip()
    last = _LAST_MARKER.search(read)
    if last is None or before == read:
        return ()
    if before.startswith(read):  # the template renders empty thoughts before an answer without any
        return (ThinkingMarkers(last.group(), before.removeprefix(read).strip()),)
    closing = _counterpart(last.group()) if read[: last.start()].rstrip() == before else ""
    return (ThinkingMarkers(last.group(), closing),) if closing else ()


def _counterpart(opening: str) -> str:
    """Return the usual closing marker for an opening one; "" if there is no usual one.

    >>> _counterpart("<think>"), _counterpart("[THINK]"), _counterpart("<|begin_of_thought|>")
    ('</think>', '[/THINK]', '<|end_of_thought|>')
    """
    for begin, end in (("begin", "end"), ("BEGIN", "END"), ("start", "end"), ("START", "END")):
        if begin in opening:
            return opening.replace(begin, end, 1)
    signs = re.match(r"(<\||<|\[|◁)(\w.*)", opening, re.DOTALL)
    return f"{signs[1]}/{signs[2]}" if signs else ""


def split_thinking(prompt: str, text: str, markers: Sequence[ThinkingMarkers] = THINKING) -> tuple[str | None, str]:
    r"""Split a model's thinking from its answer.

    Args:
        prompt: The rendered prompt; some templates open the thinking at its end.
        text: The generated text, special tokens included.
        markers: Possible markers of thinking, of which the first that open the text count.

    Returns:
        The thinking, or None if there is none, and the answer, which is "" if the thinking was cut off.

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
            return _split_thoughts(written, marks)
        if marks.direct and written.startswith(marks.direct):
            return None, _without_end(written.removeprefix(marks.direct).lstrip(), marks)
    return None, text


def _split_thoughts(written: str, marks: ThinkingMarkers) -> tuple[str, str]:
    """Split a text that begins with a thought. Later thoughts are removed too, if they begin a line and are closed."""
    thoughts: list[str] = []
    answer = marks.opening + written.removeprefix(marks.opening)
    while answer.startswith(marks.opening):
        thought, answer = _split_at_closing(answer.removeprefix(marks.opening), marks)
        thoughts.append(thought.strip())
    later = re.compile(rf"^\s*{re.escape(marks.opening)}(.*?){_flexible(marks.closing)}\s*", re.DOTALL | re.MULTILINE)
    thoughts += [thought.strip() for thought in later.findall(answer)]
    return "\n\n".join(filter(None, thoughts)), _without_end(later.sub("", answer), marks)


def _split_at_closing(text: str, marks: ThinkingMarkers) -> tuple[str, str]:
    """Split a text at the full closing of a thought, or at its first marker; (text, "") without either."""
    first = _FIRST_MARKER.match(marks.closing)
    rest_of_closing = marks.closing[first.end() :].strip() if first else ""
    match = re.search(_flexible(marks.closing), text)
    if match is None and first and not _begins_turn(rest_of_closing):
        match = re.search(re.escape(first.group()), text)
    return (text[: match.start()], text[match.end() :].lstrip()) if match else (text, "")


def _begins_turn(rest_of_closing: str) -> bool:
    """Return whether the rest of a closing is the header of a turn; its first marker may then close any part."""
    return len(_FIRST_MARKER.findall(rest_of_closing)) > 1


def _flexible(marker: str) -> str:
    """Return a pattern for a marker with any white space, or none, between its parts."""
    return r"\s*".join(map(re.escape, marker.split()))


def _padded(marker: str) -> str:
    """Return a pattern for a marker with any white space, or none, between its parts and around it."""
    return rf"\s*{_flexible(marker)}\s*" if marker.strip() else ""


def _without_end(answer: str, marks: ThinkingMarkers) -> str:
    if marks.answer_end and answer.rstrip().endswith(marks.answer_end):
        return answer.rstrip().removesuffix(marks.answer_end).rstrip()
    return answer


# --- tool calls ---


_NAMES = ("sample_tool_one", "sample_tool_two")
_ARGUMENTS = ({"first_key": "value one", "second_key": "value two"}, {"first_key": "one", "second_key": "two"})
_PROPERTIES = {key: {"type": "string", "description": "A text."} for key in _ARGUMENTS[0]}
SAMPLE_TOOLS: tuple[Mapping[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A sample.",
            "parameters": {"type": "object", "properties": _PROPERTIES, "required": list(_PROPERTIES)},
        },
    }
    for name in _NAMES
)
"""Tools that `derive_response_template` renders."""
_ARGUMENT_NAMES = ("arguments", "parameters")
_CALL = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}

_NO_MARKER = r"\s*"


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer that calls tools."""

    text: str
    """The text besides the calls; "" if there is none."""
    calls: tuple[Mapping[str, Any], ...]
    """At least one call: `{"type": "function", "function": {"name": …, "arguments": {…}}}`."""
    thinking: str | None = None


def parse_answer(
    tokenizer: Any, response_template: Mapping[str, Any], prompt: str, text: str, tools: Sequence[Mapping[str, Any]]
) -> ParsedAnswer | None:
    """Parse an answer; None if it calls no tool.

    Args:
        tokenizer: A tokenizer of transformers.
        response_template: The pattern of answers.
        prompt: The prompt; "" if no part of the answer is in it.
        text: The generated text, with special tokens.
        tools: The tools that it may call; their schemas give the arguments their types.

    Raises:
        ValueError: If the text has a call that can't be parsed.
    """
    try:
        parsed = tokenizer.parse_response(
            text, dict(response_template), prefix=prompt, tools=[dict(tool) for tool in tools]
        )
    except (LookupError, TypeError, AttributeError) as error:  # raised if a call lacks a part
        raise ValueError(f"{type(error).__name__}: {error}") from error
    calls = parsed.get("tool_calls") or []
    if not calls:
        return None
    thoughts = (parsed.get(name) for name in THINKING_FIELDS)
    listed = calls if isinstance(calls, list) else [calls]
    thinking = next((thought for thought in thoughts if isinstance(thought, str)), None)
    return ParsedAnswer(str(parsed.get("content") or "").strip(), tuple(map(check_call, listed)), thinking)


def check_call(call: Any) -> Mapping[str, Any]:
    """Return a tool call with its arguments as a dict.

    Raises:
        ValueError: If it has no name, or its arguments are neither a dict nor the JSON text of one.

    >>> check_call({"id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}})
    {'id': '1', 'type': 'function', 'function': {'name': 'add', 'arguments': {'a': 1}}}
    """
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise ValueError(f"a tool call has no name: {call!r:.200}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"the arguments of {name!r} are not JSON: {error.msg} (column {error.colno})") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {name!r} are not a JSON object: {arguments!r:.200}")
    identifier = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def derive_response_template(
    tokenizer: Any, render: TryRender, markers: Sequence[ThinkingMarkers] = THINKING
) -> Mapping[str, Any] | None:
    """Derive the pattern of tool calls from a chat template; None if none parses the rendered sample calls.

    The derived response template parses an answer without its thinking, as `split_thinking` returns it.

    Args:
        tokenizer: A tokenizer of transformers.
        render: Its chat template with `SAMPLE_TOOLS`.
        markers: Markers of the model's thinking.
    """
    for number in (2, 1):  # some templates refuse two calls in a turn
        written, end = _render_calls(render, number, markers)
        for form in (_json_field, _named_json_field, _tagged_field, _python_field):
            field = form(written, end, number)
            if field and not any(name in str(field) for name in _NAMES):
                # texts before and after a call are both kept
                content = {"content": "text", "repeats": True, "join": "\n"}
                template = {"start_anchor_pattern": r"\A", "fields": {"tool_calls": field, "content": content}}
                if _is_parsed(tokenizer, template, written.removesuffix(end), number):
                    return template
    return None


def _sample_call(index: int, as_text: bool) -> dict[str, Any]:
    arguments: Any = json.dumps(_ARGUMENTS[index]) if as_text else dict(_ARGUMENTS[index])
    identifier = f"call0000{index}"  # nine letters and digits, as Mistral's templates demand
    return {"id": identifier, "type": "function", "function": {"name": _NAMES[index], "arguments": arguments}}


def _render_calls(render: TryRender, number: int, markers: Sequence[ThinkingMarkers]) -> tuple[str, str]:
    """Return the text of sample calls in an answer, and the end of a turn; "" for both if they can't be rendered.

    Args:
        render: The chat template.
        number: How many calls.
        markers: Markers of thinking, which is left out.
    """
    question = {"role": "user", "content": _QUESTION}
    prompt = render([question], True)
    plain = render([question, {"role": "assistant", "content": _ANSWER}], False)
    rendered = []
    for as_text in (False, True):  # some templates take arguments as JSON text only
        calls = [_sample_call(index, as_text) for index in range(number)]
        rendered.append(render([question, {"role": "assistant", "content": "", "tool_calls": calls}], False))
    called = next((text for text in rendered if text is not None), None)
    if prompt is None or called is None or plain is None or _ANSWER not in plain:
        return "", ""
    shared = _shared_length(prompt, called)
    return split_thinking(called[:shared], called[shared:], markers)[1], plain.partition(_ANSWER)[2]


def _is_parsed(tokenizer: Any, template: Mapping[str, Any], written: str, number: int) -> bool:
    """Return whether a response template parses the rendered sample calls, and finds no call in a plain answer."""
    try:
        parsed = parse_answer(tokenizer, template, "", written, SAMPLE_TOOLS)
        plain = parse_answer(tokenizer, template, "", f"{_ANSWER} {{1}}", SAMPLE_TOOLS)
    except (ValueError, re.error):
        return False
    expected = [{"name": name, "arguments": _ARGUMENTS[index]} for index, name in enumerate(_NAMES[:number])]
    return plain is None and parsed is not None and [call["function"] for call in parsed.calls] == expected


def _json_field(written: str, end: str, number: int) -> dict[str, Any] | None:
    """Return the field of calls that are JSON objects with a name, or a list of such objects."""
    found = [(start, stop, value) for start, stop, value in _json_objects(written) if value.get("name") in _NAMES]
    if len(found) != number:
        return None
    key = next((name for name in _ARGUMENT_NAMES if name in found[0][2]), "")
    spans = [(start, stop) for start, stop, _ in found]
    before, after = written[: spans[0][0]], written[spans[-1][1] :].removesuffix(end)
    if before.rstrip().endswith("[") and after.lstrip().startswith("]"):
        function = {"name": "{name}", "arguments": f"{{{key}}}"}
        return _list_field("json", before.rstrip()[:-1], after.lstrip()[1:], function)
    function = {"name": "{content.name}", "arguments": f"{{content.{key}}}"}
    frame = _call_patterns(written, spans, end)
    if frame["open_pattern"] == _NO_MARKER:  # no marker: an answer that is one object
        frame = {"open_pattern": r'\A\s*(?=\{\s*"name")'}
    return {**frame, "content": "json", "transform": {"type": "function", "function": function}}


def _named_json_field(written: str, end: str, number: int) -> dict[str, Any] | None:
    """Return the field of calls in which a JSON object of arguments follows the name."""
    found = [(start, stop) for start, stop, value in _json_objects(written) if value in _ARGUMENTS]
    starts = [written.find(name) for name in _NAMES[:number]]
    if len(found) != number or any(not 0 <= start < span[0] for start, span in zip(starts, found, strict=True)):
        return None
    between = written[starts[0] + len(_NAMES[0]) : found[0][0]]
    frame = _call_patterns(written, [(start, span[1]) for start, span in zip(starts, found, strict=True)], end)
    if not between.strip() or frame["open_pattern"] == _NO_MARKER:
        return None
    opening = f"{frame['open_pattern']}(?P<name>[\\w.-]+?){_padded(between)}"
    return {**frame, "open_pattern": opening, "content": "json", "transform": _CALL}


def _tagged_field(written: str, end: str, number: int) -> dict[str, Any] | None:
    """Return the field of calls whose name, keys and values stand in markers, as in XML."""
    texts = [text for i in range(number) for text in (_NAMES[i], *chain.from_iterable(_ARGUMENTS[i].items()))]
    match = re.search("(.*?)".join(map(re.escape, texts)), written, re.DOTALL)
    if match is None:
        return None
    after_name, inside, between = match.groups()[:3]
    key_opening = _common_ending(after_name, between)
    value_closing, name_end = between.removesuffix(key_opening), after_name.removesuffix(key_opening)
    if not (key_opening.strip() and inside.strip() and value_closing.strip()):
        return None
    breaks = [match.span(5)] if number > 1 else []  # between the calls
    starts = [match.start(), *(stop for _, stop in breaks)]
    ends = [*(start for start, _ in breaks), match.end()]
    spans = [(start, stop + len(value_closing)) for start, stop in zip(starts, ends, strict=True)]
    frame = _call_patterns(written, spans, end)
    if frame["open_pattern"] == _NO_MARKER:
        return None
    tag = (
        rf"{_padded(key_opening)}(?P<key>.*?){re.escape(inside.strip())}\n?"
        rf"(?P<value>.*?)\n?{re.escape(value_closing.strip())}"
    )
    return {
        **frame,
        "open_pattern": rf"{frame['open_pattern']}(?P<name>[\w.-]+){_padded(name_end)}",
        "content": "xml-inline",
        "content_args": {"tag_pattern": tag},
        "transform": _CALL,
    }


def _python_field(written: str, end: str, number: int) -> dict[str, Any] | None:  # noqa: ARG001 - any number
    """Return the field of calls that are a list in Python, such as `[add(a=1)]`."""
    match = re.search(rf"\[{_NAMES[0]}\(.*\)\]", written, re.DOTALL)
    if match is None:
        return None
    function = {"name": "{name}", "arguments": "{arguments}"}
    return _list_field(
        "python-call-list", written[: match.start()], written[match.end() :].removesuffix(end), function
    )


def _list_field(content: str, before: str, after: str, function: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the field of calls that are one list between two markers."""
    if not before.strip():
        return None
    closing = {"close": after.strip()} if after.strip() else {}
    transform = {"type": "function", "function": dict(function)}
    return {"open": before.strip(), **closing, "content": content, "transform_each": True, "transform": transform}


def _call_patterns(written: str, spans: Sequence[tuple[int, int]], end: str) -> dict[str, Any]:
    """Return the patterns before and after a call; a marker around all calls may precede the first.

    Args:
        written: The rendered calls.
        spans: Where the text of each call begins and ends.
        end: The end of a turn.
    """
    before, after = written[: spans[0][0]], written[spans[-1][1] :].removesuffix(end)
    opening, closing = before, after
    if len(spans) > 1:
        between = written[spans[0][1] : spans[1][0]]
        opening = _common_ending(before, between)
        closing = between.removesuffix(opening)
    all_open, all_close = before.removesuffix(opening).strip(), after.strip().removeprefix(closing.strip()).strip()
    start = rf"{_NO_MARKER}(?:{_padded(all_open)})?" if all_open else _NO_MARKER
    frame: dict[str, Any] = {"open_pattern": start + _padded(opening), "repeats": True}
    if closing.strip():
        frame["close_pattern"] = _padded(closing) + (rf"(?:{_padded(all_close)})?" if all_close else "")
    return frame


def _json_objects(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (begin, end, value) of the outermost JSON objects in a text."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, stop = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            stop = place + 1
        else:
            yield place, stop, value
        place = text.find("{", stop)


def _common_ending(one: str, other: str) -> str:
    return one[len(one) - _shared_length(one[::-1], other[::-1]) :]


def _shared_length(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
