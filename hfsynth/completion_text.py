r"""Read what a model wrote: the items of a list, or one text, without what chat models put around them.

`parse_list` reads numbered, lettered, bulleted and labelled lists, JSON, XML tags, Markdown tables and plain lines,
with numerals and labels of some 25 languages. `unwrap` takes announcements, headings, fences, quotes and closing notes
off one text. Both return the rest as the model wrote it; what could be a wrapper or content stays.
"""

import ast
import csv
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hfsynth.completion_phrases import (
    ANSWER,
    ANSWER_HEADING,
    CLOSING,
    COURTESY,
    FAREWELL,
    HERE,
    LABEL,
    LIST_NOUN,
    NOTE,
    NOTE_HEADING,
    NOUN,
    OF_THE_MODEL,
    OFFER,
    ORDINALS,
    POINTING,
    PRESENTING,
    REMARK,
    REQUEST,
    REWRITING,
    SUGGESTION,
    TEXT_LABEL,
    TEXT_NOUN,
)

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*$")
_WRAPPING_FENCES = {"", "text", "txt", "plaintext", "plain", "markdown", "md", "prompt", "json", "jsonl", "json5"} | {
    "xml", "html", "yaml", "yml", "list", "csv",
}  # fmt: skip
_RULE = re.compile(r"^[ \t]*(?:[-–—*_=~][ \t]*){3,}$")
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+(?=\S)|^[ \t]*#{1,6}(?=[^\s#!])")
_BOLD_LINE = re.compile(r"^[ \t]*(\*\*|__)(?=\S)(?:(?!\1).)+\1[ \t]*[:：]?[ \t]*$")
_SENTENCE_END = re.compile(r"[.?!。？！؟।…][\"'”’»」』)*_]*$")
_COLON_END = re.compile(r"[:：][\s*_]*$")
_QUOTES = {
    '"': '"', "“": "”", "„": "“”", "'": "'", "‘": "’", "‚": "‘’", "«": "»", "»": "«", "‹": "›", "「": "」", "『": "』",
    "《": "》", "`": "`", "*": "*", "_": "_", "”": "”", "＂": "＂",
}  # fmt: skip


def unwrap(text: str) -> str:
    r"""Take off one text what a model put around it.

    Taken off are a phrase that announces the text, a heading, a label, a fence, tags, JSON with one text, quotes or
    emphasis around all of it, and a closing note. A text without these loses the white space around it alone.

    >>> unwrap('Sure! Here is the rewritten prompt:\n\n"Explain tea in 20 words."\n\nI added a limit.')
    'Explain tea in 20 words.'
    """
    text = _without_thoughts(text).strip()
    while text:
        shorter = text
        for take_off in _WRAPPERS:
            shorter = take_off(shorter).strip() or shorter
        if shorter == text:
            return "" if _only_announces(text) else text
        text = shorter
    return text


def parse_list(text: str, cut_off: bool = False) -> list[str]:
    r"""Read the items of a list, each without number, bullet, label or quotes; blank and repeated ones are dropped.

    An item keeps its blank lines, nested lists and code as they are, without the indentation that the list gives them.

    Args:
        text: The completion.
        cut_off: Whether it was cut off: then an item that reaches to its end is dropped.

    >>> parse_list("Here are 2 queries:\n\n1. What is tea?\n2) **Brew some.**\n\nI hope this helps!")
    ['What is tea?', 'Brew some.']
    >>> parse_list('```json\n[{"query": "What is tea?"}, {"query": "Wha', cut_off=True)
    ['What is tea?']
    """
    lines = text.rstrip(" ").split("\n")
    if cut_off and not lines[-1] and _SENTENCE_END.search(text.rstrip()) and not _fenced(lines)[-1]:
        cut_off = False  # it was cut off between two items
    text = _without_outer_tag(_without_surroundings(_LEAD.sub("", _without_thoughts(text))))
    items: list[str] = []
    for read in (_json_items, _tagged_items, _table_items, _marked_items, _plain_items):
        found = read(text, cut_off)
        if found is not None:
            items = found
            break
    unique: dict[str, str] = {}
    for item in map(_clean, _without_kinds(_without_numbers(items))):
        if any(character.isalnum() for character in item) and not _only_announces(item):
            unique.setdefault(" ".join(item.casefold().split()), item)
    return list(unique.values())


def parse_records(text: str, is_record: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    r"""Read the records of a text: objects of JSON, elements of XML, or rows of a Markdown table; [] without any.

    Args:
        text: The completion. A record may be within others that are none, and after a line that announces it.
        is_record: Whether an object is one, by its keys and values.

    >>> text = 'Here are the examples:\n```json\n{"examples": [{"input": "2 + 2", "output": 4}]}\n```'
    >>> parse_records(text, lambda record: "output" in record)
    [{'input': '2 + 2', 'output': 4}]
    """
    try:
        return _records(_without_surroundings(_without_thoughts(text)), is_record)
    except RecursionError:  # nested too deep for records
        return []


def _records(text: str, is_record: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    if (values := _parsed_json(text)) is not None:
        return list(_records_within(values, is_record))
    if (table := _parsed_table(text, cut_off=False) or _parsed_csv(text, cut_off=False)) is not None:
        rows = [dict(zip(table[0], row, strict=True)) for row in table[1]]
        return [row for row in rows if is_record(row)]
    before, opening, _ = text.partition("<")
    return _element_records(text, is_record) if opening and _introduces(_filled(before.split("\n"))) else []


def _records_within(value: Any, is_record: Callable[[Mapping[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    """Yield the records in a value, in lists and objects that are none."""
    if isinstance(value, dict) and is_record(value):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _records_within(inner, is_record)


def _without_thoughts(text: str) -> str:
    return _THOUGHTS.sub("", _with_plain_line_ends(text))


def _without_surroundings(text: str) -> str:
    """Return a text without the fence or the quotation that is around all of it."""
    return _without_outer_fence(_without_quotation(text))


def _without_numbers(items: Sequence[str]) -> list[str]:
    """Take the numbers off texts that are numbered from 1 on, as the strings of a list in JSON may be."""
    markers = [_number_marker(item.partition("\n")[0]) for item in items]
    if [marker and marker.value for marker in markers] != list(range(1, len(items) + 1)):
        return list(items)
    rests = (item.partition("\n")[1:] for item in items)
    return [marker.text + "".join(rest) for marker, rest in zip(markers, rests, strict=True) if marker]


_KIND = re.compile(  # (Question) …   **[Command]** …
    r"[*_]{0,3}[(\[（【][^\W\d_](?:[^\W\d_]|[ /&-]){1,30}[)\]）】][*_]{0,3}[:：]?[*_]{0,3}\s*(?=[^\sa-zа-я(（])"
)


def _without_kinds(items: Sequence[str]) -> list[str]:
    """Take off what names the kind of each of several items in brackets."""
    kinds = [_KIND.match(item) for item in items]
    if len(items) < 2 or not all(kinds):
        return list(items)
    return [item[kind.end() :] for item, kind in zip(items, kinds, strict=True) if kind]


def _with_plain_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").strip("\ufeff\n")


# --- phrases


def _announces(line: str, in_list: bool = False) -> bool:
    """Tell whether a line announces what follows it.

    Args:
        line: One line.
        in_list: Whether a list is expected after it: then naming what the list is of is enough.
    """
    line = line.strip()
    courteous = COURTESY.match(line)
    if len(line) > 300 or (REQUEST.search(line) and not courteous):
        return False
    if courteous:
        rest = line[courteous.end() :].strip(" !,.:：！，。、*-")
        while twice := COURTESY.match(rest):
            rest = rest[twice.end() :].strip(" !,.:：！，。、*-")
        speaks = (_points(rest) and not REQUEST.search(rest)) or OFFER.match(rest) is not None
        return not rest or _COLON_END.search(line) is not None or speaks
    if not _COLON_END.search(line):
        return in_list and _announces_list_in_sentence(line)
    if in_list and (TEXT_NOUN.search(line) or LIST_NOUN.search(line) or HERE.match(line)):
        return True
    return _announces_text(line)


def _points(line: str) -> bool:
    return POINTING.match(line) is not None


def _announces_list_in_sentence(line: str) -> bool:
    """Tell whether a sentence without a colon announces a list: "Here are two queries for you."."""
    is_short = len(line) <= 150 and not line.endswith(("?", "？")) and not re.search(r"[:：\"“]", line)
    return _points(line) and is_short and not line.casefold().startswith("this") and TEXT_NOUN.search(line) is not None


def _announces_text(line: str) -> bool:
    """Tell whether a line with a colon announces a version of a text."""
    about = TEXT_NOUN.search(line) is not None and LIST_NOUN.search(line) is None
    is_new = REWRITING.search(line) is not None
    if _points(line):
        return is_new or (about and not _VAGUE.match(line))
    if _HEADING.match(line):
        return about
    return PRESENTING.match(line) is not None and (is_new or line.casefold().startswith(("to make", "let me", "i ")))


_VAGUE = re.compile(r"[\W_]*(?:below|this|these|(?:the )?following|هذا|هذه)\b", re.IGNORECASE)


def _only_announces(text: str) -> bool:
    """Tell whether all of a text is an announcement."""
    return "\n" not in text and _COLON_END.search(text) is not None and _announces(text, in_list=True)


def is_closing(line: str, in_list: bool = False) -> bool:
    """Tell whether a model speaks in a line of what it wrote before."""
    line = line.strip()
    if _presents_inline(line):
        return False
    if CLOSING.match(line) or (in_list and FAREWELL.match(line)):
        return True
    if line[:1] in "(（[*_" and line[-1:] in ")）]*_" and _IN_BRACKETS.search(line):
        return True
    return NOTE.match(line) is not None and OF_THE_MODEL.search(line) is not None


_IN_BRACKETS = re.compile(
    r"^\W*(?:\d+ words|word count|(?:this|i|it) (?:\w+ )?add(?:s|ed)|added|new constraint"
    r"|this (?:version|prompt|makes))\b|字数|단어 수",
    re.IGNORECASE,
)


def _presents_inline(line: str) -> bool:
    """Tell whether a line presents a text that follows on it: "The rewritten prompt is: …"."""
    found = PRESENTING.match(line)
    return found is not None and REWRITING.search(found.group()) is not None and bool(line[found.end() :].strip(" *_"))


# --- wrappers around one text


def _take_off_announcement(text: str) -> str:
    first, _, rest = text.partition("\n")
    if rest.strip() and _announces(first):
        return rest
    inline = re.match(r"[^\n:：?？\"“]{1,200}[:：][*_]*[ \t]+(?=\S)|[^\n：？“]{1,80}：(?=\S)", text)
    if inline and _announces_inline(inline.group().rstrip()):
        return text[inline.end() :]
    exclaimed = _EXCLAMATION.match(text) or SUGGESTION.match(text)
    return text[exclaimed.end() :] if exclaimed else text


def _announces_inline(phrase: str) -> bool:
    """Tell whether a phrase before a colon announces the rest of its line: as a new version, or with a courtesy."""
    courteous = COURTESY.match(phrase)
    rest = phrase[courteous.end() :].lstrip(" !,.！，。、-") if courteous else phrase
    if REQUEST.search(phrase) or not (_points(rest) or PRESENTING.match(rest)):
        return False
    if re.fullmatch(r"here (?:you go|it is|you are)[:：]", rest, re.IGNORECASE):
        return True
    return TEXT_NOUN.search(rest) is not None and (courteous is not None or REWRITING.search(rest) is not None)


_EXCLAMATION = re.compile(rf"{COURTESY.pattern}\s*[!！]\s*(?=\S)", re.IGNORECASE)


def _take_off_closing(text: str) -> str:
    lines = text.split("\n")
    fenced = _fenced(lines)
    for place in range(1, len(lines)):
        line = lines[place].lstrip()
        if not fenced[place] and line.startswith("#") and (ANSWER_HEADING.match(line) or _OLD_HEADING.match(line)):
            return "\n".join(lines[:place])
    for place in range(len(lines) - 1, 0, -1):
        if fenced[place]:
            break
        starts = not lines[place - 1].strip() or _RULE.match(lines[place - 1]) is not None
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
    """Tell whether a closing line that follows another at once is the last one, and in brackets or a farewell."""
    is_last = not any(line.strip() for line in lines[place + 1 :])
    line = lines[place].strip()
    is_sure = line[:1] in "([（*_" or CLOSING.match(line) is not None or re.search(r"\bI(?:['’]ve| have)? \w", line)
    return is_last and bool(is_sure)


def _without_rules(text: str) -> str:
    lines = text.strip().split("\n")
    while len(lines) > 1 and (
        _RULE.match(lines[-1]) or _HASH_HEADING.match(lines[-1]) or not lines[-1].strip("#* \t")
    ):
        lines.pop()
    while len(lines) > 1 and (_RULE.match(lines[0]) or not lines[0].strip()):
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
    """Take off a heading, or all up to the last one, where the prompt's own headings were repeated."""
    lines = text.split("\n")
    heading = 0
    if _HASH_HEADING.match(lines[0]) or _OLD_HEADING.match(lines[0]):
        heading = max(n for n, line in enumerate(lines) if n == 0 or _names_prompt(line))
    found = _HASH_HEADING.match(lines[heading]) or _PROMPT_HEADING.match(lines[heading])
    if found is None:
        return "\n".join(lines[heading:])
    answer = next((n for n, line in enumerate(lines) if n > heading + 1 and ANSWER.match(line)), len(lines))
    if not "".join([*lines[answer:]]).partition(":")[2].strip():
        answer = len(lines)  # the text asks for it
    rest = "\n".join([lines[heading][found.end() :], *lines[heading + 1 : answer]])
    return rest if rest.strip() else text


def _names_prompt(line: str) -> bool:
    """Tell whether a line begins with a heading that names a new prompt: "Rewritten Prompt:"."""
    found = _HASH_HEADING.match(line)
    if found is not None:
        return re.search(NOUN, found.group(), re.IGNORECASE) is not None
    found = _PROMPT_HEADING.match(line)
    if found is None:
        return _presents_inline(line)
    return not re.match(rf"^\W*{NOUN}\W*$", found.group(), re.IGNORECASE)


def _take_off_fence(text: str) -> str:
    lines = text.split("\n")
    opening = _FENCE.match(lines[0])
    if opening is None or opening.group(2).lower() not in _WRAPPING_FENCES:
        return text
    closings = [place for place, line in enumerate(lines) if place and _closes_fence(line, opening.group(1))]
    if closings != [len(lines) - 1]:
        return text
    return "\n".join(lines[1:-1])


def _closes_fence(line: str, mark: str) -> bool:
    found = _FENCE.match(line)
    return found is not None and found.group(1).startswith(mark) and not found.group(2)


_WRAPPING_TAG = re.compile(
    rf"^<(?P<tag>(?:\w+[_-])?{NOUN}(?:[_-]?\w+)?|item|li|text|output|result"
    rf"|version)(?:\s[^<>]*)?>(?P<content>.*)</(?P=tag)\s*>$",
    re.IGNORECASE | re.DOTALL,
)


def _take_off_tags(text: str) -> str:
    found = _WRAPPING_TAG.match(text)
    if found is None or f"</{found['tag']}" in found["content"]:
        return text
    return found["content"]


def _take_off_quotation(text: str) -> str:
    """Take the signs of a quotation off a text of which each line has one."""
    lines = text.split("\n")
    if not all(line.lstrip().startswith(">") for line in lines if line.strip()):
        return text
    return "\n".join(re.sub(r"^[ \t]*>[ ]?", "", line) for line in lines)


def _take_off_json(text: str) -> str:
    if text[:1] not in ("{", '"') or (text[0] == '"' and text.count('"') == 2):
        return text
    try:
        value = json.loads(text, strict=False)
        texts = list(_texts_of(value))
    except (ValueError, RecursionError):
        return text
    return texts[0] if len(texts) == 1 else text


def _take_off_quotes(text: str) -> str:
    """Take a pair of quotes, or emphasis, off a text that is all within it."""
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
    """Take a number off the only item of a list: "1. Explain …"."""
    lines = text.split("\n")
    bullet = _bullet_marker(text) if len(lines) == 1 else None
    if bullet is not None:
        return bullet.text
    marker = _number_marker(lines[0])
    if marker is None or marker.value != 1 or not marker.text.strip():
        return text
    others = (_number_marker(line) for line in lines[1:])
    return (
        text
        if any(other is not None and other.value == 2 for other in others)
        else "\n".join([marker.text, *lines[1:]])
    )


_WRAPPERS: tuple[Callable[[str], str], ...] = (
    _take_off_heading,
    _take_off_announcement,
    _take_off_closing,
    _take_off_quotation,
    _take_off_fence,
    _take_off_tags,
    _take_off_json,
    _take_off_quotes,
    _take_off_number,
)


# --- lines and fences


def _fenced(lines: Sequence[str]) -> list[bool]:
    """Tell of each line whether it is in a fenced block, the fences included."""
    inside: list[bool] = []
    mark = ""
    for line in lines:
        found = _FENCE_IN_ITEM.match(line)
        if mark:
            inside.append(True)
            mark = "" if _closes_fence(line, mark) else mark
        else:
            mark = found.group(1) if found else ""
            inside.append(bool(found))
    return inside


_FENCE_IN_ITEM = re.compile(r"^[ \t]*(?:[-*+][ \t]+|\d+[.)][ \t]+)?(`{3,}|~{3,})[ \t]*[\w+-]*[ \t]*$")


def _without_outer_fence(text: str) -> str:
    """Return what is within the one fence around a list; the text itself, where its fences belong to its items."""
    lines = text.split("\n")
    opening = next((place for place, line in enumerate(lines) if _FENCE.match(line)), None)
    if opening is None:
        return text
    found = _FENCE.match(lines[opening])
    before = _filled(lines[:opening])
    if found is None or not _introduces(before):
        return text
    closing = next((n for n in range(opening + 1, len(lines)) if _closes_fence(lines[n], found.group(1))), len(lines))
    inside, after = lines[opening + 1 : closing], lines[closing + 1 :]
    is_code = found.group(2).lower() not in _WRAPPING_FENCES
    if is_code and not _ASSIGNMENT.match("\n".join(inside)):
        return text
    if any(_FENCE.match(line) or _any_marker(line) for line in after):
        return text
    return "\n".join(inside)


_ASSIGNMENT = re.compile(r"\A\s*(?:#[^\n]*\n\s*)*(?:(?:const|let|var)\s+)?\w+\s*=\s*(?=\[)")


def _without_quotation(text: str) -> str:
    """Return what is within a quotation that is around all of a list."""
    lines = text.split("\n")
    start = next((place for place, line in enumerate(lines) if line.startswith(">")), None)
    if start is None or not _introduces(_filled(lines[:start])):
        return text
    return _take_off_quotation("\n".join(lines[start:]))


_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_LEAD = re.compile(
    r"\A[\s*#]*(?:output|response|answer|assistant|result|출력|답변|결과|输出|回答|出力)[*]*\s*[:：][*]*[ \t]*"
    r"(?=\n|\d+[.)]|[\[{<`])",
    re.IGNORECASE,
)
_OUTER_TAG = re.compile(
    r"^<(?P<tag>queries|questions|instructions|prompts|tasks|requests|items|\w*list|output|answer|response|result)>"
    r"[ \t]*\n"
    r"(?P<content>.*?)(?:^[ \t]*</(?P=tag)>|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)


def _without_outer_tag(text: str) -> str:
    """Return what is within the one tag around a list."""
    found = _OUTER_TAG.search(text)
    if found is None or not _introduces(_filled(text[: found.start()].split("\n"))):
        return text
    return found["content"]


def _filled(lines: Sequence[str]) -> list[str]:
    """Return the lines that are not blank."""
    return [line for line in lines if line.strip()]


def _introduces(lines: Sequence[str]) -> bool:
    """Tell whether lines, three at most, only announce a list; no lines do."""
    if any(_any_marker(line) for line in lines) or len(lines) > 3:
        return False
    return all(_announces(line, in_list=True) or _HEADING.match(line) or _is_title(line) for line in lines)


def _is_title(line: str) -> bool:
    """Tell whether a line is in bold alone and no sentence."""
    return _BOLD_LINE.match(line) is not None and _SENTENCE_END.search(line.strip()) is None


# --- JSON

_TEXT_KEYS = re.compile(
    rf"(?:\w*[_ -])?(?:{NOUN}|text|content|body|item|value|q|内容|內容|文本|正文|本文|テキスト|내용|본문|텍스트|texto"
    r"|contenido|conteúdo|texte|contenu|inhalt|текст|содержание|النص|المحتوى)(?:[_ -]?(?:text|content|string|\d+))?",
    re.IGNORECASE,
)
_LIST_KEYS = re.compile(
    rf"(?:\w*[_ -])?(?:{NOUN}|commands?|statements?|items|list|data)(?:[_ -]?(?:list|\d+))?", re.IGNORECASE
)
_NUMBER_KEYS = re.compile(rf"(?:{NOUN}|item|q)?[_ -]?\d+", re.IGNORECASE)
_JSON_PREFIX = re.compile(r"[ \t]*(?:[-*•][ \t]+|\(?\d{1,3}[.):][ \t]*)?(?=[\[{])")


def _json_items(text: str, cut_off: bool) -> list[str] | None:  # noqa: ARG001 - only complete values are read
    """Read JSON: a list, an object with one, or an object on each line; None where the text is something else."""
    try:
        return list(_texts_of(_parsed_json(text))) or None
    except RecursionError:  # nested too deep for a list of instructions
        return None


def _parsed_json(text: str) -> list[Any] | None:
    """Return the complete values of the JSON that a text is, after lines that announce it; None where it is none."""
    text = _with_brackets(_BLOCK_OF_JSON.sub("", _ASSIGNMENT.sub("", text, count=1)))
    start = _json_start(text)
    return None if start is None else list(_json_values(text[start:]))


_BLOCK_OF_JSON = re.compile(r"^[ \t]*(?:```|~~~)(?:jsonl?|)[ \t]*$", re.IGNORECASE | re.MULTILINE)


def _with_brackets(text: str) -> str:
    """Put brackets around strings, or a key, that have none: "a", "b"."""
    if text.lstrip().startswith('"'):
        for opening, closing in ("[]", "{}"):
            try:
                if len(json.loads(f"{opening}{text}{closing}", strict=False)) > (opening == "["):
                    return f"{opening}{text.strip()}{closing}"
            except ValueError:
                continue
    return text


def _json_start(text: str) -> int | None:
    """Return where JSON begins that the lines before it introduce, or None."""
    place = 0
    before: list[str] = []
    for line in text.split("\n"):
        found = _JSON_PREFIX.match(line)
        if found and re.match(r"\[\s*(?:[\"'{\[“]|$)|\{\s*(?:[\"'“]|$)", line[found.end() :]):
            return place if _introduces(before) else None
        if line.strip():
            before.append(line)
        place += len(line) + 1
    return None


def _json_values(text: str) -> Iterator[Any]:
    """Yield the complete values of JSON that may be cut off: the elements of a list, the objects of lines."""
    value = _literal(text)
    if value is not None:
        yield value
        return
    if re.match(r"\s*[\[{]\s*“", text):
        text = text.replace("“", '"').replace("”", '"')
    place = 0
    while (found := _JSON_OBJECT.search(text, place)) is not None:
        value, place = _decoded(text, found.end())
        if value is None:  # it has no end, or a fault: its elements may have none
            end = max(text.rfind("]"), text.rfind("}")) + 1
            text = _with_escaped_quotes(text[place : end if end > place + 1 else len(text)])
            value = _literal(text)
            yield from _json_elements(text[1:]) if value is None else iter([value])
            return
        yield value


_JSON_OBJECT = re.compile(rf"^{_JSON_PREFIX.pattern}", re.MULTILINE)


_FIRST_QUOTE = re.compile(r"[\s\[{]*([\"'])")


def _with_escaped_quotes(text: str) -> str:
    r"""Escape the quotes within the strings of JSON: those that no bracket, colon, comma or line with a quote follows.

    Strings in single quotes get double ones.

    >>> print(_with_escaped_quotes("['What\'s \"umami\"?', 'Why?']"))
    ["What's \"umami\"?", "Why?"]
    """
    first = _FIRST_QUOTE.match(text)
    if first is None:
        return text
    quote = first[1]
    comma = r",\s*(?:\n|//|$)" if re.search(rf"{quote},[ \t]*\n", text) else r",\s*(?:[\"'\[{\d\]}]|$)"
    closing = re.compile(rf"(?<!\\){quote}(?=\s*(?:[\]}}]|//|$|{comma}|:\s*[\"'\[{{\dtfn-])|[ \t]*\n\s*{quote})")
    parts: list[str] = []
    place = 0
    while (start := text.find(quote, place)) >= 0 and (end := closing.search(text, start + 1)) is not None:
        content = re.sub(r'(?<!\\)"', r"\"", text[start + 1 : end.start()]).replace("\\'", "'")
        parts += [text[place:start], f'"{content}"']
        place = end.end()
    return "".join([*parts, text[place:]])


def _json_elements(text: str) -> Iterator[Any]:
    """Yield the complete values within a list, or the keys with their values within an object, that has no end."""
    place = 0
    while (found := re.compile(r"[\[{\"]").search(text, place)) is not None:
        value, place = _decoded(text, found.start())
        if value is None and text[place] == '"':
            return  # a string without an end
        if value is None:
            place += 1
            continue
        colon = re.compile(r"\s*:\s*").match(text, place) if isinstance(value, str) else None
        if colon is None:
            yield value
            continue
        content, place = _decoded(text, colon.end())
        if content is not None:
            yield {value: content}


def _decoded(text: str, place: int) -> tuple[Any, int]:
    """Decode the JSON value at a place: return it and where it ends, or None and the place."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place


def _literal(text: str) -> Any:
    """Read all of a text as JSON, or as a literal of Python; None where it is neither."""
    text = text.strip().rstrip(";")
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    if re.search(r"[\"']\s*\n\s*[\"']", text):
        return None  # Python would join these strings
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _texts_of(value: Any) -> Iterator[str]:
    """Yield the instructions of a value: of an object, what has the key of one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for element in value:
            only = list(element.values()) if isinstance(element, dict) and len(element) == 1 else []
            yield from _texts_of(only[0] if only and isinstance(only[0], str) else element)
    elif isinstance(value, dict):
        yield from _texts_of_object(value)


def _texts_of_object(value: dict[Any, Any]) -> Iterator[str]:
    texts = {str(key): content for key, content in value.items() if isinstance(content, str)}
    numbered = [content for key, content in texts.items() if _NUMBER_KEYS.fullmatch(key)]
    named = [content for key, content in texts.items() if _TEXT_KEYS.fullmatch(key)]
    nested = {str(key): content for key, content in value.items() if isinstance(content, list | dict)}
    sentences = [content for content in texts.values() if _SENTENCE_END.search(content) or len(content.split()) > 2]
    if len(numbered) > 1 or (numbered and len(value) == 1):
        yield from numbered
    elif named:
        text = next((content for content in named if not re.fullmatch(NOUN, content, re.IGNORECASE)), named[0])
        data = next((content for key, content in texts.items() if key.casefold() == "input"), "")
        yield f"{text}\n{data}" if data.strip() else text
    elif nested:
        lists = [content for key, content in nested.items() if _LIST_KEYS.fullmatch(key)]
        for content in lists or nested.values():
            yield from _texts_of(content)
    elif len(sentences) == 1:
        yield from sentences


# --- tags

_TAG = re.compile(
    rf"<(?P<tag>(?:\w+[_-])?{NOUN}(?:[_-]?\d+|[_-]text)?|item|li|q)(?:\s[^<>]*)?>(?P<content>.*?)</(?P=tag)\s*>",
    re.IGNORECASE | re.DOTALL,
)
_LINE_TAG = re.compile(
    r"^[ \t]*<(?P<tag>[^\W\d]\w*)(?:\s[^<>]*)?>(?P<content>.*?)</(?P=tag)\s*>[ \t]*$", re.DOTALL | re.MULTILINE
)


def _tagged_items(text: str, cut_off: bool) -> list[str] | None:  # noqa: ARG001 - a tag without its end isn't read
    """Read what is within tags that are named for it, or that are around every line; None without any."""
    start = text.find("<")
    lines = text[: max(start, 0)].split("\n")
    marker = _any_marker(lines[-1])
    if marker is not None and not marker.text.strip():
        lines.pop()  # the first tag follows a number or a bullet
    if start < 0 or "</" not in text or not _introduces(_filled(lines)):
        return None
    items = [found["content"] for found in _innermost(text)]
    if items:
        records = [_element_records(item, _has_text_key) if item.lstrip().startswith("<") else [] for item in items]
        return [next(_texts_of(found), item) for found, item in zip(records, items, strict=True)]
    lines = _filled(text[start:].split("\n"))
    found = [_LINE_TAG.match(line) for line in lines]
    if len(lines) > 1 and len({one["tag"] for one in found if one}) == 1 and all(found):
        return [one["content"] for one in found if one]
    return None


_ELEMENT = re.compile(r"<(?P<tag>[^\W\d]\w*)(?:\s[^<>]*)?>(?P<content>.*?)</(?P=tag)\s*>", re.DOTALL)


def _element_records(text: str, is_record: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    """Read the elements of a text as records, where a tag that comes again begins the next; else those within them."""
    if "</" not in text:
        return []
    records: list[dict[str, Any]] = [{}]
    for found in _ELEMENT.finditer(text):
        if found["tag"] in records[-1]:
            records.append({})
        records[-1][found["tag"]] = found["content"].strip()
    if all(map(is_record, records)):
        return records
    contents = [content for record in records for content in record.values()]
    return [inner for content in contents for inner in _element_records(content, is_record)]


def _has_text_key(record: Mapping[str, Any]) -> bool:
    return any(_TEXT_KEYS.fullmatch(key) for key in record)


def _innermost(text: str) -> Iterator[re.Match[str]]:
    for found in _TAG.finditer(text):
        inside = list(_TAG.finditer(found["content"]))
        if inside:
            yield from inside
        else:
            yield found


# --- tables

_TABLE_RULE = re.compile(r"^\s*\|?(?:\s*:?-+:?\s*\|)+\s*(?::?-+:?\s*)?$|^\s*\|?\s*:?-+:?\s*\|?\s*$")


def _table_items(text: str, cut_off: bool) -> list[str] | None:
    """Read the column of a Markdown table that has the instructions; None where the text doesn't begin with one."""
    table = _parsed_table(text, cut_off) or _parsed_csv(text, cut_off)
    if table is None:
        return None
    names, rows = table
    column = _instruction_column(names, rows)
    return [row[column] for row in rows]


def _parsed_table(text: str, cut_off: bool) -> tuple[list[str], list[list[str]]] | None:
    """Return the names of a Markdown table's columns and its rows; None where the text doesn't begin with a table."""
    lines = text.split("\n")
    head = next((place for place, line in enumerate(lines) if "|" in line), None)
    if head is None or head + 1 >= len(lines) or not _TABLE_RULE.match(lines[head + 1]) or "|" not in lines[head + 1]:
        return None
    if not _introduces(_filled(lines[:head])):
        return None
    names = _cells(lines[head])
    rows = []
    for line in lines[head + 2 :]:
        if "|" not in line:
            break
        rows.append(line)
    if cut_off and rows and head + 2 + len(rows) == len(lines) and not rows[-1].rstrip().endswith("|"):
        rows.pop()
    return names, [row for row in map(_cells, rows) if len(row) == len(names)]


_CSV_HEAD = re.compile(r"[^\W\d]\w*(?: \w+)?(?:(?P<delimiter>[,;\t])(?! )[^\W\d]\w*(?: \w+)?)+")
_CSV_KEYS = re.compile(rf"{_TEXT_KEYS.pattern}|output|response|answer|label", re.IGNORECASE)


def _parsed_csv(text: str, cut_off: bool) -> tuple[list[str], list[list[str]]] | None:
    """Return the names of the columns of CSV and its rows; None where the text is none, or no name is of a text."""
    lines = _filled(text.split("\n"))
    place = next((place for place, line in enumerate(lines) if _CSV_HEAD.fullmatch(line.strip())), None)
    if place is None or not _introduces(lines[:place]):
        return None
    found = _CSV_HEAD.fullmatch(lines[place].strip())
    assert found is not None
    names = found.group().split(found["delimiter"])
    try:
        rows = list(csv.reader(lines[place + 1 :], delimiter=found["delimiter"]))
    except csv.Error:  # a field without its end is too long
        return None
    rows = rows[:-1] if cut_off else rows
    rows = [[*row[: len(names) - 1], found["delimiter"].join(row[len(names) - 1 :])] for row in rows]
    is_table = rows and all(len(row) == len(names) for row in rows) and any(map(_CSV_KEYS.fullmatch, names))
    return (names, rows) if is_table else None


_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


def _cells(line: str) -> list[str]:
    inside = line.strip().removeprefix("|")
    inside = inside[:-1] if inside.endswith("|") and not inside.endswith("\\|") else inside
    return [_LINE_BREAK.sub("\n", cell.strip()).replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inside)]


def _instruction_column(names: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return the column that is named for instructions and has words, or else the one with the longest texts."""
    lengths = [
        sum(len(row[column]) for row in rows if re.search(r"[^\W\d]", row[column])) for column in range(len(names))
    ]
    filled = [(column, name) for column, name in enumerate(names) if lengths[column]]
    named = [column for column, name in filled if _TEXT_KEYS.fullmatch(name)]
    named = named or [column for column, name in filled if re.search(NOUN, name, re.IGNORECASE)]
    return max(named or range(len(names)), key=lengths.__getitem__)


# --- lists with numbers, letters, bullets or labels


@dataclass(frozen=True)
class _Marker:
    """What begins an item: how far it is indented, its place in the list, its form, and the text after it."""

    indent: int
    value: int | None
    form: str
    text: str
    width: int


_LIST_LABEL = rf"(?:{LABEL}|items?|examples?|exercises?|problems?|command|q|问|問)"
_HEAD = (
    r"^(?P<indent>[ \t\u3000]*)[\"“]?(?:\#{1,6}[ \t]*)?(?P<open>\*\*\*|\*\*|__|\*(?=\S)|_(?=\S))?"
    r"(?:[\[(（【〔〈<「][ \t]*)?"
)
_CLOSE = r"(?(open)(?:(?P=open))?)"
_CJK_NUMERAL = "[一二三四五六七八九十]{1,3}"
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MONTH = re.compile(
    r"(?:jan|feb|mär|mar|apr|mai|maj|jun|jul|aug|sep|okt|nov|dez|dec)[\w.]*\s+\d|(?:januar|februar|märz|april"
    r"|mai|juni|juli|august"
    r"|september|oktober|november|dezember|jahrhundert|weltkrieg|bundesliga|liga|klasse|stock|platz)\b",
    re.IGNORECASE,
)
_NUMBER_FORMS = tuple(
    re.compile(_HEAD + form + _CLOSE + r"[ \t\u3000]*", re.IGNORECASE)
    for form in (
        # Query 1:   Question #2.   질문 1:   问题一：   [Question 1]
        rf"(?P<label>{_LIST_LABEL})[ \t._-]*(?:no\.?|nr\.?|№|n[º°]\.?|\#)?[ \t]*[(\[（【]?"
        rf"(?P<number>\d{{1,3}}|{_CJK_NUMERAL}"
        rf"|{'|'.join(_WORDS)})[)\]）】]?(?:번|号|號|番|目)?"
        rf"(?:[ \t]*[(（][^()（）\n]{{1,30}}[)）](?=[*_ \t]*[:：]))?{_CLOSE}[ \t]*"
        r"(?:[.:：)\]】）〉>」、．，]+(?=\D|$)|[-–—](?=\s)|\u3000|$)",
        # 第一个问题：   第1，   1번 질문:   2nd query:
        rf"(?P<label>第)?(?P<number>\d{{1,3}}|{_CJK_NUMERAL})(?:번째?|番目の?|つ目の?|个|個|条|條|题|題|问|問"
        rf"|点|點|項|项|st|nd|rd|th)?"
        rf"[ \t]*(?(label)(?:{_LIST_LABEL})?|{_LIST_LABEL}){_CLOSE}[ \t]*[:：、，,.．)）】](?=\D|$)",
        # 1.   1)   (1)   [1]   1번.   １．   ١.   1\.   1.-   1 -   1/
        r"(?:(?:no\.?|nr\.?|№|\#)[ \t]*)?(?P<number>\d{1,3})(?:번째?|[ºª°])?"
        + _CLOSE
        + r"(?:\\?[.)\]】）〕〉>」:：、．]+-?(?=\D|$)|[ \t]+[-–—.)](?=\s)|[-–—/](?=[ \t])|\t|(?<=[ºª°])(?=[ \t]))",
        # 一、   （一）   十.
        rf"(?P<number>{_CJK_NUMERAL}){_CLOSE}[、．.:：)）】〕]",
        # ①   ⒈   1️⃣
        r"(?P<number>[①-⑳❶-❿⓵-⓾⑴-⒇⒈-⒛㈠-㈩㊀-㊉]|\d(?=\ufe0f?\u20e3)|🔟)\ufe0f?\u20e3?"
        + _CLOSE
        + r"(?:[.:：)、．）](?=\D|$))?",
        # #1 What
        r"\#(?P<number>\d{1,3})" + _CLOSE + r"(?=[ \t])",
    )
)
_GENERIC_NUMBER = re.compile(
    _HEAD + rf"(?P<label>[^\W\d_][^\d:：.\n]{{0,30}}?)[ \t]*(?:\#|№|no\.?)?[ \t]*(?P<number>\d{{1,3}}){_CLOSE}[ \t]*"
    rf"[:：.)–—-]+(?=\D|$){_CLOSE}[ \t]*",
    re.IGNORECASE,
)
_ORDINAL_FORM = re.compile(rf"{_HEAD}(?P<word>{'|'.join(ORDINALS)}){_CLOSE}[:：,،，.、]{_CLOSE}[ \t]*", re.IGNORECASE)
_LABEL_FORM = re.compile(
    rf"{_HEAD}(?:{_LIST_LABEL}|user|human)"
    rf"(?:[\]】>」）)]{_CLOSE}[ \t]*[:：]?|{_CLOSE}[ \t]*[:：]{_CLOSE}|(?<=\bq)[.．](?=\s))[ \t]*",
    re.IGNORECASE,
)
_LABEL_TITLE = re.compile(
    rf"^(?P<indent>[ \t]*)\#{{1,6}}[ \t]*(?P<open>\*\*)?{_LIST_LABEL}[ \t]*{_CLOSE}[ \t]*$", re.IGNORECASE
)
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзиклмн",
    "가나다라마바사아자차카타파하",
    "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊ",
    "أبجدهوزحطي",
    "アイウエオカキクケコ",
    "イロハニホヘト",
    "あいうえおかきくけこ",
    "甲乙丙丁戊己庚辛壬癸",
    "אבגדהוזחטי",
    "αβγδεζηθικ",
    "กขคงจฉชซ",
    "कखगघङ",
)
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv")
_LETTER = re.compile(_HEAD + rf"(?P<letter>[^\W\d_]{{1,5}}){_CLOSE}[.)）\]、．]{_CLOSE}(?=\s)[ \t]*")
_BULLET = re.compile(
    r"^(?P<indent>[ \t\u3000]*)(?:[-+*–—](?=[ \t])"
    r"|[•·▪◦‣●○■□►▶➤➢➜→✓✔✅☑・◆◇★☆▸▹❓❔👉🔹🔸🔶🔷⭐](?!\w*:)\ufe0f?)[ \t]*(?:\[[ xX]?\][ \t]+)?"
)


def _any_marker(line: str) -> _Marker | None:
    return _number_marker(line) or _label_marker(line) or _bullet_marker(line)


def _number_marker(line: str) -> _Marker | None:
    """Read a number at the beginning of a line, with a label before it or not."""
    for form, pattern in enumerate(_NUMBER_FORMS):
        found = pattern.match(line)
        if found is None:
            continue
        label = found.groupdict().get("label") or ""
        if not label and "." in found.group() and _MONTH.match(line[found.end() :]):
            return None  # 3. Oktober 1990: …
        dash = "-" if found.group().rstrip().endswith(("-", "–", "—", "/")) and not label else ""
        return _marker(line, found, _value(found["number"]), f"{form}{label.casefold()}{dash}")
    return None


def _generic_number_marker(line: str) -> _Marker | None:
    """Read any words and a number: "Nutzerfrage 1: …"."""
    found = _GENERIC_NUMBER.match(line)
    return found and _marker(line, found, _value(found["number"]), found["label"].casefold())


def _label_marker(line: str) -> _Marker | None:
    """Read a label without a number: "Question: …"."""
    found = _LABEL_FORM.match(line) or _LABEL_TITLE.match(line)
    return found and _marker(line, found, None, "label")


def _bullet_marker(line: str) -> _Marker | None:
    found = None if _RULE.match(line) else _BULLET.match(line)
    return found and _marker(line, found, None, "bullet")


def _letter_markers(alphabet: Sequence[str]) -> Callable[[str], _Marker | None]:
    """Return a reader of the letters of an alphabet at the beginning of a line: "a) …", "가. …"."""

    def read(line: str) -> _Marker | None:
        found = _LETTER.match(line)
        letter = found["letter"].lower() if found else ""
        if found is None or letter not in alphabet:
            return None
        return _marker(line, found, list(alphabet).index(letter) + 1, "letter")

    return read


def _marker(line: str, found: re.Match[str], value: int | None, form: str) -> _Marker:
    """Describe what was found; emphasis that began before the marker and didn't end within it belongs to the text."""
    opening = found.groupdict().get("open") or ""
    is_closed = not opening or found.group().count(opening) > 1
    text = line[found.end() :]
    form += "#" if line.lstrip().startswith("#") and " " in found.group().strip() else ""
    indent = len(found["indent"].expandtabs(4))
    return _Marker(indent, value, form, text if is_closed else opening + text, len(found.group().expandtabs(4)))


def _value(number: str) -> int:
    """Return the value of a numeral.

    >>> [_value(number) for number in ("12", "١", "③", "十二", "二十", "three")]
    [12, 1, 3, 12, 20, 3]
    """
    if number.casefold() in _WORDS:
        return _WORDS.index(number.casefold()) + 1
    if number == "🔟":
        return 10
    if number.isdecimal():
        return int(number)
    if len(number) == 1:
        return int(unicodedata.numeric(number))
    tens, _, ones = number.partition("十")
    return (_value(tens) if tens else 1) * 10 + (_value(ones) if ones else 0) if "十" in number else _value(number[0])


def _ordinal_marker(line: str) -> _Marker | None:
    """Read an ordinal at the beginning of a line: "First: …", "둘째, …"."""
    found = _ORDINAL_FORM.match(line)
    if found is None:
        return None
    word = found["word"].casefold()
    value = next(n for n, words in enumerate(ORDINALS, start=1) if re.fullmatch(words, word, re.IGNORECASE))
    return _marker(line, found, value, "ordinal")


_Found = list[tuple[int, _Marker]]
_COUNTED: tuple[Callable[[str], _Marker | None], ...] = (
    _number_marker,
    _generic_number_marker,
    _ordinal_marker,
    _letter_markers(_ROMAN),
    *map(_letter_markers, _ALPHABETS),
)


def _starts(lines: Sequence[str]) -> _Found:
    """Return the lines on which the items of a list begin; none where the lines are no list."""
    fenced = _fenced(lines)
    open_lines = [
        (place, line) for place, line in enumerate(lines) if line.strip() and not _inside(fenced, lines, place)
    ]

    def found_by(read: Callable[[str], _Marker | None]) -> _Found:
        return [(place, marker) for place, line in open_lines if (marker := read(line)) is not None]

    first = open_lines[0][0] if open_lines else 0
    counted = [_counted(found_by(read), first, sure=read is _number_marker) for read in _COUNTED]
    labels = _outermost(found_by(_label_marker))
    has_text = any(marker.text.strip() for _, marker in labels)
    if not has_text and len(labels) < 2 and not any(ANSWER.match(line) for _, line in open_lines):
        labels = []  # it announces the list
    lists = [found for found in (*counted, labels) if found]
    bullets = _outermost(found_by(_bullet_marker))
    best = min(lists, key=lambda found: found[0][0], default=[])
    if best and best is not labels:
        best = best + _labelled_after(labels, best, lines)
    if (
        best
        and bullets
        and bullets[0][0] < best[0][0]
        and (best[0][1].indent > bullets[0][1].indent or len(best) == 1)
    ):
        return bullets
    return best or bullets


def _labelled_after(labels: _Found, best: _Found, lines: Sequence[str]) -> _Found:
    """Return the labelled items in the paragraphs after the last one of a list that counts."""
    place = best[-1][0]
    end = next((n for n in range(place + 1, len(lines)) if not lines[n].strip()), len(lines))
    after = next((n for n in range(end, len(lines)) if lines[n].strip()), None)
    outermost = best[0][1].indent + 1
    later = [(n, marker) for n, marker in labels if n >= end and marker.text.strip() and marker.indent <= outermost]
    return later if later and later[0][0] == after else []


def _inside(fenced: Sequence[bool], lines: Sequence[str], place: int) -> bool:
    """Tell whether a line is in a fenced block, and not one that begins both an item and the block."""
    return fenced[place] and (place == 0 or fenced[place - 1] or _FENCE.match(lines[place]) is not None)


def _outermost(found: _Found) -> _Found:
    return [(place, marker) for place, marker in found if marker.indent <= found[0][1].indent + 1]


def _counted(found: _Found, first: int, sure: bool) -> _Found:
    """Return those markers that count on: 1, 2, 3, or from 1 again; none where they don't begin a list.

    Args:
        found: Markers with values.
        first: The line on which the text begins.
        sure: Whether one alone is enough, as a number is where a letter isn't.
    """
    counted: _Found = []
    for place, marker in _without_steps(_outermost(found)):
        if not counted or _counts_on(counted, marker):
            counted.append((place, marker))
    if not counted:
        return []
    values = [marker.value for _, marker in counted]
    if sure and values[0] not in (0, 1, 2):  # 2 where the first item has no number
        is_first = counted[0][0] == first and not counted[0][1].form.endswith("-")  # 10 - 3 is no number of an item
        goes_on = len(counted) > 1 and values[1] == (values[0] or 0) + 1
        return counted if goes_on or (is_first and len(counted) == 1) else []
    if sure:
        return counted
    return counted if values[0] == 1 and len(counted) > 1 else []


def _without_steps(found: _Found) -> _Found:
    """Leave out the lines that count from 1 after one that ends in a colon, where the count before goes on after them.

    Of 1, 1, 2, 3, 2 these are the second 1 and the 2 and 3 after it; of 1, 1, 2 they are unknown.
    """
    kept: _Found = []
    rest = list(found)
    while rest:
        place, marker = rest.pop(0)
        kept.append((place, marker))
        steps = 0
        while steps < len(rest) and (rest[steps][0], rest[steps][1].value) == (place + steps + 1, steps + 1):
            steps += 1
        after = rest[steps][1].value if steps < len(rest) else None
        goes_on = marker.value is not None and after == marker.value + 1 and after != steps + 1
        if steps and goes_on and _COLON_END.search(marker.text):
            rest = rest[steps:]
    return kept


def _counts_on(counted: _Found, marker: _Marker) -> bool:
    """Tell whether a marker goes on with a list: by its number, or at least by its form."""
    before = counted[-1][1]
    assert marker.value is not None
    assert before.value is not None
    if marker.form.endswith("#") != before.form.endswith("#"):
        return False  # a comment in code
    if marker.value == before.value + 1:
        return True
    return marker.form == counted[0][1].form and (marker.value in (0, 1) or marker.value >= before.value)


def _marked_items(text: str, cut_off: bool) -> list[str] | None:
    """Read the items that begin with a number, a letter, a bullet or a label; None where no line does."""
    lines = _with_own_lines(text.split("\n"))
    starts = _starts(lines)
    if not starts or _is_data(lines, starts):
        return None
    places = [place for place, _ in starts] + [len(lines)]
    bodies = [lines[place + 1 : after] for place, after in pairwise(places)]
    complete = [
        (marker, _without_section(marker, body)) for (_, marker), body in zip(starts[:-1], bodies[:-1], strict=True)
    ]
    has_paragraphs = any(_has_paragraphs(body) for _, body in complete)
    last, is_open = _last_body(starts[-1][1], bodies[-1], has_paragraphs)
    if not (cut_off and is_open):
        complete.append((starts[-1][1], last))
    all_answered = len(complete) > 1 and all(any(map(ANSWER.match, body)) for _, body in complete)
    items = [_item(marker, body, all_answered or _is_labelled(marker)) for marker, body in complete]
    if any(_label_marker(marker.text) for _, marker in starts):
        items = [item for item in items if not ANSWER.match(item)]
    return _unnumbered_first(lines[: places[0]], starts[0][1]) + items


def _with_own_lines(lines: Sequence[str]) -> list[str]:
    """Give each item of a list that is all on one line, "1. What? 2. Who?", a line of its own."""
    filled = _filled(lines)
    announced = re.match(r"[^:：]{1,120}[:：][ \t]*(?=1[.)]\s)", filled[0]) if len(filled) == 1 else None
    if announced and _announces(announced.group(), in_list=True):
        lines = filled = [filled[0][announced.end() :]]
    numbered = [line for line in filled if _number_marker(line)]
    if len(numbered) != 1 or filled[-1] is not numbered[0] or not re.match(r"\W*1\s*[.)]", numbered[0]):
        return list(lines)
    parts = [numbered[0]]
    while found := re.search(rf"(?<=[.?!。？！\"”])\s+(?=\(?{len(parts) + 1}[.)]\s)", parts[-1]):
        parts[-1:] = [parts[-1][: found.start()], parts[-1][found.end() :]]
    place = lines.index(numbered[0])
    return [*lines[:place], *parts, *lines[place + 1 :]]


def _is_data(lines: Sequence[str], starts: _Found) -> bool:
    """Tell whether a list is the data of an instruction before it, rather than one of instructions."""
    before = _filled(lines[: starts[0][0]])
    if not before or not _COLON_END.search(before[-1]) or _announces(before[-1], in_list=True):
        return False
    others = [line for line in before[:-1] if not _announces(line, in_list=True) and not _HEADING.match(line)]
    texts = [marker.text.rstrip() for _, marker in starts]
    are_short = all(len(text.split()) <= 3 and len(text) <= 40 and text[-1:] not in ("?", "？") for text in texts)
    return bool(others) or (are_short and len(before[-1].split()) > 3)


def _unnumbered_first(lines: Sequence[str], marker: _Marker) -> list[str]:
    """Return the text before the first marker, where that has a number above 1 and the text announces nothing."""
    if not marker.value or marker.value < 2:
        return []
    kept = [
        line for line in lines if not (_announces(line, in_list=True) or _COLON_END.search(line) or _is_title(line))
    ]
    text = "\n".join(kept).strip()
    return [text] if text else []


def _has_paragraphs(body: Sequence[str]) -> bool:
    """Tell whether a line that isn't indented follows a blank one."""
    return any(not before.strip() and after[:1].strip() for before, after in pairwise(body))


def _without_section(marker: _Marker, body: Sequence[str]) -> list[str]:
    """Take off the end of an item what introduces those that follow it: a heading, a rule, a line with a colon."""
    kept = list(body)
    while kept:
        line = kept[-1]
        follows_blank = len(kept) == 1 or not kept[-2].strip()
        is_awaited = _COLON_END.search("\n".join([marker.text, *kept[:-1]]).rstrip()) is not None
        is_title = not is_awaited and _titles(line, follows_blank) and _width(line) <= marker.indent + 1
        if not line.strip() or _RULE.match(line) or is_title:
            kept.pop()
        else:
            break
    return kept if _fenced(kept)[-1:] != [True] or kept == list(body) else _with_fence(body, kept)


def _with_fence(body: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Return an item that ends in a fenced block without the blank lines after it."""
    end = max(len(kept), max((place + 1 for place, inside in enumerate(_fenced(body)) if inside), default=0))
    return list(body[:end])


def _titles(line: str, follows_blank: bool) -> bool:
    """Tell whether a line is the heading of a part of a list."""
    if _HEADING.match(line):
        return True
    is_short = len(line.split()) <= 10 and len(line) <= 100
    return follows_blank and is_short and (_is_title(line) or _COLON_END.search(line) is not None)


def _width(line: str) -> int:
    line = line.expandtabs(4)
    return len(line) - len(line.lstrip())


def _last_body(marker: _Marker, body: Sequence[str], has_paragraphs: bool) -> tuple[list[str], bool]:
    """Return what belongs to the last item, and whether the text may go on with it."""
    fenced = _fenced(body)
    kept: list[str] = []
    for place, line in enumerate(body):
        if fenced[place] or not line.strip():
            kept.append(line)
            continue
        before = "\n".join([marker.text, *kept])
        if _width(line) <= marker.indent + 1 and _is_outside(line, before, has_paragraphs):
            return kept, False
        kept.append(line)
    return kept, True


def _is_outside(line: str, before: str, has_paragraphs: bool) -> bool:
    """Tell whether a line that isn't indented ends the last item, which is what was before it."""
    if is_closing(line, in_list=True):
        return True
    text = before.rstrip()
    if not text or _RULE.match(line):
        return bool(text)
    if before.rpartition("\n")[2].strip():  # no blank line is between them
        return False
    belongs = has_paragraphs or _COLON_END.search(text) is not None or text.endswith(("```", "~~~")) or line[0] in "|>"
    return _HEADING.match(line) is not None or not belongs


_CODE_LINE = re.compile(
    r"^\s*(?:(?:async\s+)?def|class|if|for|while|with|try|else|elif|function|public|private|static|void|int"
    r"|const|let|var|fn|func)\b"
    r".*[:{(]\s*$|[{;]\s*$"
)


def _is_labelled(marker: _Marker) -> bool:
    return marker.form[:1] in ("0", "1") or "label" in marker.form or _label_marker(marker.text) is not None


def _item(marker: _Marker, body: Sequence[str], cut_answer: bool) -> str:
    """Put an item together; its lines lose the indentation that the list gives them, and keep that of code."""
    lines = [line.expandtabs(4) if line[:1] == "\t" else line for line in body]
    if cut_answer:
        lines = lines[: next((n for n, line in enumerate(lines) if ANSWER.match(line)), len(lines))]
    if lines and not marker.text.strip() and _RULE.match(lines[0]):
        lines = lines[1:]
    widths = [_width(line) for line in lines if line.strip()]
    shift = min(widths, default=0)
    if _CODE_LINE.match(marker.text):
        shift = min(shift, marker.width)
    return "\n".join([marker.text, *(line[min(shift, _width(line)) :] for line in lines)])


# --- lists without marks


def _plain_items(text: str, cut_off: bool) -> list[str]:
    """Read each line, or each paragraph where some have several lines that belong together, as an item."""
    lines = text.split("\n")
    while lines and (not lines[0].strip() or _is_introduction(lines)):
        lines.pop(0)
    announcing = [_stands_alone(lines, n) and _announces(line, in_list=True) for n, line in enumerate(lines)]
    lines = [line for line, announces in zip(lines, announcing, strict=True) if not announces]
    last, is_open = _without_closing(lines)
    items = list(_ruled(last) or (_paragraphs(last) if _has_blocks(last) else _single_lines(last)))
    if cut_off and is_open and items:
        items.pop()
    return items


def _stands_alone(lines: Sequence[str], place: int) -> bool:
    """Tell whether a line is a paragraph that ends in a colon."""
    around = [*lines[place - 1 : place], *lines[place + 1 : place + 2]]
    return _COLON_END.search(lines[place]) is not None and not any(line.strip() for line in around)


def _is_introduction(lines: Sequence[str]) -> bool:
    """Tell whether the first of some lines announces the others: a last line ending in a colon has none."""
    first, others = lines[0], [line for line in lines[1:] if line.strip()]
    if _announces(first, in_list=True) or _RULE.match(first):
        return True
    are_questions = len(others) > 1 and all(re.search(r"[?？؟;][\s\W]*$", line) for line in others)
    return are_questions and _COLON_END.search(first) is not None and not REQUEST.search(first)


def _without_closing(lines: Sequence[str]) -> tuple[list[str], bool]:
    """Return the lines before the first with which a model closes a list, and whether there is none."""
    fenced = _fenced(lines)
    for place, line in enumerate(lines):
        if place and not fenced[place] and is_closing(line, in_list=True):
            return list(lines[:place]), False
    return list(lines), True


def _ruled(lines: Sequence[str]) -> list[str]:
    """Return the blocks that rules part, where some have several lines; none where no rule does."""
    fenced = _fenced(lines)
    blocks: list[list[str]] = [[]]
    for line, inside in zip(lines, fenced, strict=True):
        if _RULE.match(line) and not inside:
            blocks.append([])
        else:
            blocks[-1].append(line)
    texts = [text for block in blocks if (text := "\n".join(block).strip())]
    return texts if len(texts) > 1 and any("\n" in text for text in texts) and "\n\n" not in texts[0] else []


def _has_blocks(lines: Sequence[str]) -> bool:
    """Tell whether blank lines part items that have several lines: one introduces data, or has code."""
    if any(_fenced(lines)) or len({_is_code(line) for line in lines if line.strip()}) > 1:
        return True
    if any(_COLON_END.search(line) and _any_marker(after) for line, after in pairwise(lines)):
        return True
    blocks = list(_paragraphs(lines))
    opening = [block for block in blocks if "\n" in block and _COLON_END.search(block.split("\n")[0])]
    return len(blocks) > 1 and any(len(block.split("\n")[0].split()) > 3 for block in opening)


def _is_code(line: str) -> bool:
    """Tell whether a line is indented as Markdown's code is."""
    return _width(line) >= 4 and _any_marker(line) is None


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Yield the paragraphs; one with a fence, or after a colon, belongs to the one before it."""
    fenced = _fenced(lines)
    block: list[str] = []
    for place, line in enumerate(lines):
        ends = not line.strip() and not fenced[place]
        follows = next((later for later in lines[place:] if later.strip()), "")
        belongs = _FENCE.match(follows) or (block and (_is_code(follows) or _COLON_END.search(block[-1])))
        if ends and belongs:
            block.append(line)
        elif ends and block:
            yield "\n".join(block)
            block = []
        elif not ends:
            block.append(line)
    if block:
        yield "\n".join(block)


def _single_lines(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines; headings are left out, and what follows a colon belongs to the line that ends in it."""
    filled = [line for line in lines if line.strip() and not _RULE.match(line)]
    sections = [bool(_HEADING.match(line)) or _is_title(line) for line in filled]
    all_alike = all(sections)
    pending: list[str] = []
    for line, is_section in zip(filled, sections, strict=True):
        if is_section and not all_alike:
            continue
        if _COLON_END.search(line) and not pending:
            words = len(line.split())
            pending = [line] if words > 5 or (words > 2 and not TEXT_NOUN.search(line)) else []
            continue
        yield "\n".join([*pending, line])
        pending = []


# --- items


def _clean(item: str) -> str:
    """Take labels, emphasis, quotes, tags and fences off an item, as often as there are any."""
    item = item.strip()
    while item:
        shorter = item
        for take_off in _ITEM_WRAPPERS:
            shorter = take_off(shorter).strip()
        if shorter == item:
            return item
        item = shorter
    return item


def _take_off_label(item: str) -> str:
    """Take off a label, after a bullet or not, and the answer that may follow what it labels."""
    first, separator, rest = item.partition("\n")
    bullet = _bullet_marker(first)
    marker = _label_in(first if bullet is None else bullet.text)
    if marker is None:
        return item
    lines = [marker.text, *rest.split("\n")] if separator else [marker.text]
    answer = next((n for n, line in enumerate(lines) if n and ANSWER.match(line) and "".join(lines[:n]).strip()), None)
    return "\n".join(lines[:answer])


_PLURAL_LABEL = re.compile(r"(?:queries|(?:question|instruction|prompt|task|request|command)s)\s*[:：]", re.IGNORECASE)


def _label_in(line: str) -> _Marker | None:
    """Read a label, with a number or not; a bare number within an item is its own."""
    marker = _label_marker(line) or _number_marker(line)
    if marker is not None and marker.text.strip() and _PLURAL_LABEL.match(line):
        return None  # Tasks: name five that a barista does.
    return None if marker is None or marker.form[:1] in "2345" else marker


def _take_off_mark(item: str) -> str:
    """Take the sign of a heading off an item of one line."""
    return item if "\n" in item else _HEADING.sub("", item)


def _take_off_remarks(item: str) -> str:
    """Take off an item of several lines the explanation that its last ones give of it."""
    lines = item.split("\n")
    for place, line in enumerate(lines[1:], start=1):
        before = "\n".join(lines[:place]).rstrip()
        if REMARK.match(line) and _SENTENCE_END.search(before):
            return before
    return item


def _take_off_record(item: str) -> str:
    """Return the instruction of a record of YAML: "id: 1", and on the next line "query: …"."""
    pairs = [re.match(r"([a-z]\w*): +(\S.*)$", line) for line in item.split("\n")]
    found = [pair[2] for pair in pairs if pair and _TEXT_KEYS.fullmatch(pair[1])]
    return found[0] if len(pairs) > 1 and all(pairs) and found else item


def _take_off_bullet(item: str) -> str:
    """Take a bullet off an item of one line."""
    marker = None if "\n" in item else _bullet_marker(item)
    return item if marker is None else marker.text


def _take_off_stray_quote(item: str) -> str:
    """Take off a quote that is open at the beginning, or closed at the end, and there alone."""
    for mark in ('"', "“", "”"):
        if item.count(mark) == 1 and not (mark == "“" and "”" in item) and not (mark == "”" and "“" in item):
            item = item.removeprefix(mark)
            item = item.removesuffix(mark) if _SENTENCE_END.search(item.removesuffix(mark)) else item
    return item


def _take_off_comma(item: str) -> str:
    """Take the comma off an item that is quoted as in JSON."""
    return item[:-1] if re.fullmatch(r"([\"'“]).*[\"'”],", item, re.DOTALL) else item


_ITEM_WRAPPERS: tuple[Callable[[str], str], ...] = (
    _take_off_record,
    _take_off_label,
    _take_off_mark,
    _take_off_remarks,
    _take_off_bullet,
    _take_off_quotation,
    _take_off_fence,
    _take_off_tags,
    _take_off_comma,
    _take_off_quotes,
    _take_off_stray_quote,
)
