"""Remove what chat models put around a text: announcements, headings, fences, quotes and closing remarks.

Text that could be content stays.
"""

import json
import re
from collections.abc import Callable, Sequence

from hfsynth.parsing.lines import (
    ANSWER,
    ANSWER_HEADING,
    CLOSING,
    COURTESY,
    FENCE,
    NOTE_HEADING,
    NOUN,
    OF_THE_MODEL,
    RULE,
    SUGGESTION,
    TEXT_LABEL,
    announces_inline,
    any_marker,
    bullet_marker,
    closes_fence,
    fenced_lines,
    is_announcement,
    is_closing,
    is_introduction,
    is_only_announcement,
    nonblank_lines,
    number_marker,
    presents_inline,
)
from hfsynth.parsing.structures import ASSIGNMENT, texts_of

_WRAPPING_FENCES = {"", "text", "txt", "plaintext", "plain", "markdown", "md", "prompt", "json", "jsonl", "json5"} | {
    "xml", "html", "yaml", "yml", "list", "csv",
}  # fmt: skip
_QUOTES = {
    '"': '"', "“": "”", "„": "“”", "'": "'", "‘": "’", "‚": "‘’", "«": "»", "»": "«", "‹": "›", "「": "」", "『": "』",
    "《": "》", "`": "`", "*": "*", "_": "_", "”": "”", "＂": "＂",
}  # fmt: skip


def unwrap(text: str) -> str:
    r"""Return a text without what a model put around it.

    Removed are a phrase that announces the text, a heading, a label, a fence, tags, JSON with one text, quotes or
    emphasis around all of it, a closing note, and white space around it.

    >>> unwrap('Sure! Here is the rewritten prompt:\n\n"Explain tea in 20 words."\n\nI added a limit.')
    'Explain tea in 20 words.'
    """
    text = without_thoughts(text).strip()
    while text:
        shorter = text
        for take_off in _WRAPPERS:
            shorter = take_off(shorter).strip() or shorter
        if shorter == text:
            return "" if is_only_announcement(text) else text
        text = shorter
    return text


def without_thoughts(text: str) -> str:
    r"""Return a text without the <think> block at its start, and with \n for every line end."""
    return _THOUGHTS.sub("", normalize_line_ends(text))


def without_surroundings(text: str) -> str:
    """Return a text without a code fence or block quote around all of it."""
    return _without_outer_fence(_without_quotation(text))


def normalize_line_ends(text: str) -> str:
    r"""Return a text with \n for every line end, without empty lines at its beginning and end."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").strip("\ufeff\n")


def _take_off_announcement(text: str) -> str:
    first, _, rest = text.partition("\n")
    if rest.strip() and is_announcement(first):
        return rest
    inline = re.match(r"[^\n:：?？\"“]{1,200}[:：][*_]*[ \t]+(?=\S)|[^\n：？“]{1,80}：(?=\S)", text)
    if inline and announces_inline(inline.group().rstrip()):
        return text[inline.end() :]
    exclaimed = _EXCLAMATION.match(text) or SUGGESTION.match(text)
    return text[exclaimed.end() :] if exclaimed else text


_EXCLAMATION = re.compile(rf"{COURTESY.pattern}\s*[!！]\s*(?=\S)", re.IGNORECASE)


def _take_off_closing(text: str) -> str:
    lines = text.split("\n")
    fenced = fenced_lines(lines)
    for place in range(1, len(lines)):
        line = lines[place].lstrip()
        if not fenced[place] and line.startswith("#") and (ANSWER_HEADING.match(line) or _OLD_HEADING.match(line)):
            return "\n".join(lines[:place])
    for place in range(len(lines) - 1, 0, -1):
        if fenced[place]:
            break
        starts = not lines[place - 1].strip() or RULE.match(lines[place - 1]) is not None
        if is_closing(lines[place]) and (starts or _is_last_line_of_the_model(lines, place)):
            before = _without_rules("\n".join(lines[:place]))
            return _without_rules(re.sub(r"\n[^\n]*\Z", "", before)) if _ends_in_note_heading(before) else before
    note = _NOTE_AT_END.search(text)
    if note and note.start() and OF_THE_MODEL.search(note.group()):
        text = text[: note.start()]
    return _without_rules(text)


def _ends_in_note_heading(text: str) -> bool:
    before, _, last = text.rpartition("\n")
    return bool(before.strip()) and NOTE_HEADING.match(last) is not None


_NOTE_AT_END = re.compile(r"\s*[(（]\s*(?:note|참고|注|nota|hinweis)\s*[:：][^()（）]*[)）]\s*$", re.IGNORECASE)


def _is_last_line_of_the_model(lines: Sequence[str], place: int) -> bool:
    """Return whether a line right after another is the last one, and in brackets or a farewell."""
    is_last = not any(line.strip() for line in lines[place + 1 :])
    line = lines[place].strip()
    is_sure = line[:1] in "([（*_" or CLOSING.match(line) is not None or re.search(r"\bI(?:['’]ve| have)? \w", line)
    return is_last and bool(is_sure)


def _without_rules(text: str) -> str:
    lines = text.strip().split("\n")
    while len(lines) > 1 and (RULE.match(lines[-1]) or _HASH_HEADING.match(lines[-1]) or not lines[-1].strip("#* \t")):
        lines.pop()
    while len(lines) > 1 and (RULE.match(lines[0]) or not lines[0].strip()):
        lines.pop(0)
    return "\n".join(lines)


_PROMPT_HEADING = re.compile(
    rf"^[ \t]*(?:#+[ \t]*{TEXT_LABEL}[ \t]*#+[ \t]*[:：]?"  # #Rewritten Prompt#:
    rf"|#+[ \t]+{TEXT_LABEL}[ \t]*(?:[:：]|$)"  # ## Rewritten prompt
    rf"|(?:#+[ \t]*)?(?P<bold>\*\*|__|\*|_){TEXT_LABEL}[ \t]*"  # **Prompt:**
    rf"(?:[:：][ \t]*(?P=bold)|(?P=bold)[ \t]*(?:[:：]|$))"
    rf"|[\[【]{TEXT_LABEL}[\]】][ \t]*[:：]?"  # [Prompt]
    rf"|{TEXT_LABEL}[ \t]*[:：]"  # Prompt:
    rf"|(?:new|rewritten|revised) prompt[ \t]+[-–—](?=[ \t]))[ \t]*",  # New prompt -
    re.IGNORECASE,
)
_HASH_HEADING = re.compile(r"^[ \t]*#[^\n#]{2,60}#[ \t]*[:：]?[ \t]*(?=\n|$)")
_OLD_HEADING = re.compile(
    rf"^[\W_]*(?:the )?(?:given|original|old|initial)(?: {NOUN})?(?: is| was)?[\W_]*(?:[:：#*]|$)", re.IGNORECASE
)


def _take_off_heading(text: str) -> str:
    """Remove a heading, or everything up to the last heading if the model repeated those of the prompt."""
    lines = text.split("\n")
    heading = 0
    if _HASH_HEADING.match(lines[0]) or _OLD_HEADING.match(lines[0]):
        heading = max(n for n, line in enumerate(lines) if n == 0 or _names_prompt(line))
    found = _HASH_HEADING.match(lines[heading]) or _PROMPT_HEADING.match(lines[heading])
    if found is None:
        return "\n".join(lines[heading:])
    answer = next((n for n, line in enumerate(lines) if n > heading + 1 and ANSWER.match(line)), len(lines))
    if not "".join([*lines[answer:]]).partition(":")[2].strip():
        answer = len(lines)  # the instruction itself asks for an answer
    rest = "\n".join([lines[heading][found.end() :], *lines[heading + 1 : answer]])
    return rest if rest.strip() else text


def _names_prompt(line: str) -> bool:
    """Return whether a line begins with the heading of a new prompt: "Rewritten Prompt:"."""
    found = _HASH_HEADING.match(line)
    if found is not None:
        return re.search(NOUN, found.group(), re.IGNORECASE) is not None
    found = _PROMPT_HEADING.match(line)
    if found is None:
        return presents_inline(line)
    return not re.match(rf"^\W*{NOUN}\W*$", found.group(), re.IGNORECASE)


def take_off_fence(text: str) -> str:
    """Remove the fence around a text, unless it names a programming language."""
    lines = text.split("\n")
    opening = FENCE.match(lines[0])
    if opening is None or opening.group(2).lower() not in _WRAPPING_FENCES:
        return text
    closings = [place for place, line in enumerate(lines) if place and closes_fence(line, opening.group(1))]
    if closings != [len(lines) - 1]:
        return text
    return "\n".join(lines[1:-1])


_WRAPPING_TAG = re.compile(
    rf"^<(?P<tag>(?:\w+[_-])?{NOUN}(?:[_-]?\w+)?|item|li|text|output|result"
    rf"|version)(?:\s[^<>]*)?>(?P<content>.*)</(?P=tag)\s*>$",
    re.IGNORECASE | re.DOTALL,
)


def take_off_tags(text: str) -> str:
    """Remove the XML tag around a text."""
    found = _WRAPPING_TAG.match(text)
    if found is None or f"</{found['tag']}" in found["content"]:
        return text
    return found["content"]


def take_off_quotation(text: str) -> str:
    """Remove the block quote signs of a text in which every line has one."""
    lines = text.split("\n")
    if not all(line.lstrip().startswith(">") for line in lines if line.strip()):
        return text
    return "\n".join(re.sub(r"^[ \t]*>[ ]?", "", line) for line in lines)


def _take_off_json(text: str) -> str:
    if text[:1] not in ("{", '"') or (text[0] == '"' and text.count('"') == 2):
        return text
    try:
        value = json.loads(text, strict=False)
        texts = list(texts_of(value))
    except (ValueError, RecursionError):
        return text
    return texts[0] if len(texts) == 1 else text


def take_off_quotes(text: str) -> str:
    """Remove a pair of quotes or emphasis marks around a text."""
    for mark in ('"""', "'''", "***", "**", "__"):
        inside = text[len(mark) : -len(mark)]
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark) and mark[:2] not in inside:
            return inside
    closing = _QUOTES.get(text[:1], "")
    if len(text) < 3 or not closing or text[-1] not in closing or text.startswith(("```", "**", "__")):
        return text
    inside = text[1:-1]
    marks = re.sub(r"(?<=\w)['’](?=\w)", "", inside) if text[-1] in "'’" else inside
    return text if any(mark in marks for mark in (text[0], text[-1])) else inside


def _take_off_number(text: str) -> str:
    """Remove the number of a list with one item: "1. Explain …"."""
    lines = text.split("\n")
    bullet = bullet_marker(text) if len(lines) == 1 else None
    if bullet is not None:
        return bullet.text
    marker = number_marker(lines[0])
    if marker is None or marker.value != 1 or not marker.text.strip():
        return text
    others = (number_marker(line) for line in lines[1:])
    return (
        text
        if any(other is not None and other.value == 2 for other in others)
        else "\n".join([marker.text, *lines[1:]])
    )


_WRAPPERS: tuple[Callable[[str], str], ...] = (
    _take_off_heading,
    _take_off_announcement,
    _take_off_closing,
    take_off_quotation,
    take_off_fence,
    take_off_tags,
    _take_off_json,
    take_off_quotes,
    _take_off_number,
)


def _without_outer_fence(text: str) -> str:
    """Return the content of the fence around a list; the text itself if its fences belong to items."""
    lines = text.split("\n")
    opening = next((place for place, line in enumerate(lines) if FENCE.match(line)), None)
    if opening is None:
        return text
    found = FENCE.match(lines[opening])
    before = nonblank_lines(lines[:opening])
    if found is None or not is_introduction(before):
        return text
    closing = next((n for n in range(opening + 1, len(lines)) if closes_fence(lines[n], found.group(1))), len(lines))
    inside, after = lines[opening + 1 : closing], lines[closing + 1 :]
    is_code = found.group(2).lower() not in _WRAPPING_FENCES
    if is_code and not ASSIGNMENT.match("\n".join(inside)):
        return text
    if any(FENCE.match(line) or any_marker(line) for line in after):
        return text
    return "\n".join(inside)


def _without_quotation(text: str) -> str:
    """Return the content of the block quote around a list."""
    lines = text.split("\n")
    start = next((place for place, line in enumerate(lines) if line.startswith(">")), None)
    if start is None or not is_introduction(nonblank_lines(lines[:start])):
        return text
    return take_off_quotation("\n".join(lines[start:]))


_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OUTER_TAG = re.compile(
    r"^<(?P<tag>queries|questions|instructions|prompts|tasks|requests|items|\w*list|output|answer|response|result)>"
    r"[ \t]*\n"
    r"(?P<content>.*?)(?:^[ \t]*</(?P=tag)>|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)


def without_outer_tag(text: str) -> str:
    """Return the content of the tag around a list."""
    found = _OUTER_TAG.search(text)
    if found is None or not is_introduction(nonblank_lines(text[: found.start()].split("\n"))):
        return text
    return found["content"]
