"""Parse tool calls in answers, by the tokenizer's response template or by one derived from its chat template.

transformers parses answers by a response template (`tokenizer.parse_response`). Where a tokenizer has none, one is
derived: a sample call is rendered with the chat template, and the text around its name and arguments becomes the
pattern. A derived template is used only if it parses the rendered sample.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

from hfsynth.conversation import THINKING_FIELDS
from hfsynth.thinking import THINKING, ThinkingMarkers, split_thinking

_QUESTION, _ANSWER = "Placeholder-of-a-question", "Placeholder-of-a-reply"
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

TryRender = Callable[[list[dict[str, Any]], bool], str | None]
"""A chat template: (messages, add_generation_prompt) → text, or None if the template refuses the messages."""


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
        response_template: How answers are written.
        prompt: The prompt; "" if no part of the answer is in it.
        text: The generated text, with special tokens.
        tools: The tools it may call, whose schemas give the arguments their types.

    Raises:
        ValueError: If the text has a call that can't be parsed.
    """
    try:
        parsed = tokenizer.parse_response(
            text, dict(response_template), prefix=prompt, tools=[dict(tool) for tool in tools]
        )
    except (LookupError, TypeError, AttributeError) as error:  # of a call that lacks a part
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
        raise ValueError(f"the arguments of {name!r} are no object: {arguments!r:.200}")
    identifier = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def derive_response_template(
    tokenizer: Any, render: TryRender, markers: Sequence[ThinkingMarkers] = THINKING
) -> Mapping[str, Any] | None:
    """Derive the pattern of tool calls from a chat template; None if it doesn't parse the template's own rendering.

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
    """Return whether a response template parses the rendered sample calls, and no call from a plain answer."""
    try:
        parsed = parse_answer(tokenizer, template, "", written, SAMPLE_TOOLS)
        plain = parse_answer(tokenizer, template, "", f"{_ANSWER} {{1}}", SAMPLE_TOOLS)
    except (ValueError, re.error):
        return False
    expected = [{"name": name, "arguments": _ARGUMENTS[index]} for index, name in enumerate(_NAMES[:number])]
    return plain is None and parsed is not None and [call["function"] for call in parsed.calls] == expected


def _json_field(written: str, end: str, number: int) -> dict[str, Any] | None:
    """Return the field of calls that are JSON objects with a name, or a list of such objects."""
    found = [(start, stop, value) for start, stop, value in _objects(written) if value.get("name") in _NAMES]
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
    found = [(start, stop) for start, stop, value in _objects(written) if value in _ARGUMENTS]
    starts = [written.find(name) for name in _NAMES[:number]]
    if len(found) != number or any(not 0 <= start < span[0] for start, span in zip(starts, found, strict=True)):
        return None
    between = written[starts[0] + len(_NAMES[0]) : found[0][0]]
    frame = _call_patterns(written, [(start, span[1]) for start, span in zip(starts, found, strict=True)], end)
    if not between.strip() or frame["open_pattern"] == _NO_MARKER:
        return None
    opening = f"{frame['open_pattern']}(?P<name>[\\w.-]+?){_flexible(between)}"
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
        rf"{_flexible(key_opening)}(?P<key>.*?){re.escape(inside.strip())}\n?"
        rf"(?P<value>.*?)\n?{re.escape(value_closing.strip())}"
    )
    return {
        **frame,
        "open_pattern": rf"{frame['open_pattern']}(?P<name>[\w.-]+){_flexible(name_end)}",
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
    start = rf"{_NO_MARKER}(?:{_flexible(all_open)})?" if all_open else _NO_MARKER
    frame: dict[str, Any] = {"open_pattern": start + _flexible(opening), "repeats": True}
    if closing.strip():
        frame["close_pattern"] = _flexible(closing) + (rf"(?:{_flexible(all_close)})?" if all_close else "")
    return frame


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
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


def _flexible(marker: str) -> str:
    """Return a pattern for a marker with any white space, or none, between its parts and around it."""
    parts = marker.split()
    return r"\s*" + r"\s*".join(map(re.escape, parts)) + r"\s*" if parts else ""


def _common_ending(one: str, other: str) -> str:
    return one[len(one) - _shared_length(one[::-1], other[::-1]) :]


def _shared_length(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
