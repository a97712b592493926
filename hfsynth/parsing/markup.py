"""Read JSON, XML tags, tables and CSV in a completion, and a text out of the markup that chat models put around it.

The formats are read even if they have typical mistakes of models or are cut off. `unwrap` removes the markup around
one text: announcements, headings, fences, quotes and closing remarks. Text that could be content stays.
"""

import ast
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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
    SENTENCE_END,
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

ASSIGNMENT = re.compile(r"\A\s*(?:#[^\n]*\n\s*)*(?:(?:const|let|var)\s+)?\w+\s*=\s*(?=\[)")
TEXT_KEYS = re.compile(
    rf"(?:\w*[_ -])?(?:{NOUN}|text|content|body|item|value|q|内容|內容|文本|正文|本文|テキスト|내용|본문|텍스트|texto"
    r"|contenido|conteúdo|texte|contenu|inhalt|текст|содержание|النص|المحتوى)(?:[_ -]?(?:text|content|string|\d+))?",
    re.IGNORECASE,
)
_LIST_KEYS = re.compile(
    rf"(?:\w*[_ -])?(?:{NOUN}|commands?|statements?|items|list|data)(?:[_ -]?(?:list|\d+))?", re.IGNORECASE
)
_NUMBER_KEYS = re.compile(rf"(?:{NOUN}|item|q)?[_ -]?\d+", re.IGNORECASE)
_JSON_PREFIX = re.compile(r"[ \t]*(?:[-*•][ \t]+|\(?\d{1,3}[.):][ \t]*)?(?=[\[{])")


# --- JSON ---


def json_items(text: str, cut_off: bool) -> list[str] | None:  # noqa: ARG001 - only complete values are read
    """Return the texts in JSON: a list, an object with a list, or one object per line; None for other text."""
    try:
        return list(texts_of(parse_json(text))) or None
    except RecursionError:  # nested too deeply
        return None


def parse_json(text: str) -> list[Any] | None:
    """Return the complete values of a JSON text, after any lines that announce it; None for other text."""
    text = _with_brackets(_BLOCK_OF_JSON.sub("", ASSIGNMENT.sub("", text, count=1)))
    start = _json_start(text)
    return None if start is None else list(_json_values(text[start:]))


_BLOCK_OF_JSON = re.compile(r"^[ \t]*(?:```|~~~)(?:jsonl?|)[ \t]*$", re.IGNORECASE | re.MULTILINE)


def _with_brackets(text: str) -> str:
    """Add the missing brackets of a JSON list or object: "a", "b"."""
    if text.lstrip().startswith('"'):
        for opening, closing in ("[]", "{}"):
            try:
                if len(json.loads(f"{opening}{text}{closing}", strict=False)) > (opening == "["):
                    return f"{opening}{text.strip()}{closing}"
            except ValueError:
                continue
    return text


def _json_start(text: str) -> int | None:
    """Return the position at which JSON begins after its introduction, or None."""
    place = 0
    before: list[str] = []
    for line in text.split("\n"):
        found = _JSON_PREFIX.match(line)
        if found and re.match(r"\[\s*(?:[\"'{\[“]|$)|\{\s*(?:[\"'“]|$)", line[found.end() :]):
            return place if is_introduction(before) else None
        if line.strip():
            before.append(line)
        place += len(line) + 1
    return None


def _json_values(text: str) -> Iterator[Any]:
    """Yield the complete values of JSON that may be truncated: the elements of a list, or an object per line."""
    value = _parse_literal(text)
    if value is not None:
        yield value
        return
    if re.match(r"\s*[\[{]\s*“", text):
        text = text.replace("“", '"').replace("”", '"')
    place = 0
    while (found := _JSON_OBJECT.search(text, place)) is not None:
        value, place = _decode_json(text, found.end())
        if value is None:  # truncated or invalid; its elements may be complete
            end = max(text.rfind("]"), text.rfind("}")) + 1
            text = _with_escaped_quotes(text[place : end if end > place + 1 else len(text)])
            value = _parse_literal(text)
            yield from _json_elements(text[1:]) if value is None else iter([value])
            return
        yield value


_JSON_OBJECT = re.compile(rf"^{_JSON_PREFIX.pattern}", re.MULTILINE)
_FIRST_QUOTE = re.compile(r"[\s\[{]*([\"'])")


def _with_escaped_quotes(text: str) -> str:
    r"""Escape quotes within JSON strings: all but those before a bracket, colon, comma or line with a quote.

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
    """Yield the complete values of a truncated list, or the complete pairs of a truncated object."""
    place = 0
    while (found := re.compile(r"[\[{\"]").search(text, place)) is not None:
        value, place = _decode_json(text, found.start())
        if value is None and text[place] == '"':
            return  # a truncated string
        if value is None:
            place += 1
            continue
        colon = re.compile(r"\s*:\s*").match(text, place) if isinstance(value, str) else None
        if colon is None:
            yield value
            continue
        content, place = _decode_json(text, colon.end())
        if content is not None:
            yield {value: content}


def _decode_json(text: str, place: int) -> tuple[Any, int]:
    """Return the JSON value at a position and the position after it; None and the position if it is invalid."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place


def _parse_literal(text: str) -> Any:
    """Return a text's value as JSON or as a Python literal; None if it is neither."""
    text = text.strip().rstrip(";")
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    if re.search(r"[\"']\s*\n\s*[\"']", text):
        return None  # Python concatenates adjacent strings
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def texts_of(value: Any) -> Iterator[str]:
    """Yield the instructions in a value. Of an object, these are the values of keys such as "query"."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for element in value:
            only = list(element.values()) if isinstance(element, dict) and len(element) == 1 else []
            yield from texts_of(only[0] if only and isinstance(only[0], str) else element)
    elif isinstance(value, dict):
        yield from _texts_of_object(value)


def _texts_of_object(value: dict[Any, Any]) -> Iterator[str]:
    texts = {str(key): content for key, content in value.items() if isinstance(content, str)}
    numbered = [content for key, content in texts.items() if _NUMBER_KEYS.fullmatch(key)]
    named = [content for key, content in texts.items() if TEXT_KEYS.fullmatch(key)]
    nested = {str(key): content for key, content in value.items() if isinstance(content, list | dict)}
    sentences = [content for content in texts.values() if SENTENCE_END.search(content) or len(content.split()) > 2]
    if len(numbered) > 1 or (numbered and len(value) == 1):
        yield from numbered
    elif named:
        text = next((content for content in named if not re.fullmatch(NOUN, content, re.IGNORECASE)), named[0])
        data = next((content for key, content in texts.items() if key.casefold() == "input"), "")
        yield f"{text}\n{data}" if data.strip() else text
    elif nested:
        lists = [content for key, content in nested.items() if _LIST_KEYS.fullmatch(key)]
        for content in lists or nested.values():
            yield from texts_of(content)
    elif len(sentences) == 1:
        yield from sentences


# --- XML tags ---


_TAG = re.compile(
    rf"<(?P<tag>(?:\w+[_-])?{NOUN}(?:[_-]?\d+|[_-]text)?|item|li|q)(?:\s[^<>]*)?>(?P<content>.*?)</(?P=tag)\s*>",
    re.IGNORECASE | re.DOTALL,
)
_LINE_TAG = re.compile(
    r"^[ \t]*<(?P<tag>[^\W\d]\w*)(?:\s[^<>]*)?>(?P<content>.*?)</(?P=tag)\s*>[ \t]*$", re.DOTALL | re.MULTILINE
)


def tagged_items(text: str, cut_off: bool) -> list[str] | None:  # noqa: ARG001 - a tag without its end isn't read
    """Return the contents of tags such as <query>, or of any tags if they enclose every line; None without any."""
    start = text.find("<")
    lines = text[: max(start, 0)].split("\n")
    marker = any_marker(lines[-1])
    if marker is not None and not marker.text.strip():
        lines.pop()  # a number or bullet before the first tag
    if start < 0 or "</" not in text or not is_introduction(nonblank_lines(lines)):
        return None
    items = [found["content"] for found in _innermost_tags(text)]
    if items:
        records = [element_records(item, _has_text_key) if item.lstrip().startswith("<") else [] for item in items]
        return [next(texts_of(found), item) for found, item in zip(records, items, strict=True)]
    lines = nonblank_lines(text[start:].split("\n"))
    found = [_LINE_TAG.match(line) for line in lines]
    if len(lines) > 1 and len({one["tag"] for one in found if one}) == 1 and all(found):
        return [one["content"] for one in found if one]
    return None


_ELEMENT = re.compile(r"<(?P<tag>[^\W\d]\w*)(?:\s[^<>]*)?>(?P<content>.*?)</(?P=tag)\s*>", re.DOTALL)


def element_records(text: str, is_record: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    """Return the elements of a text as records, divided by repeated tags; if some aren't records, the nested ones."""
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
    return [inner for content in contents for inner in element_records(content, is_record)]


def _has_text_key(record: Mapping[str, Any]) -> bool:
    return any(TEXT_KEYS.fullmatch(key) for key in record)


def _innermost_tags(text: str) -> Iterator[re.Match[str]]:
    for found in _TAG.finditer(text):
        inside = list(_TAG.finditer(found["content"]))
        if inside:
            yield from inside
        else:
            yield found


# --- tables ---


_TABLE_RULE = re.compile(r"^\s*\|?(?:\s*:?-+:?\s*\|)+\s*(?::?-+:?\s*)?$|^\s*\|?\s*:?-+:?\s*\|?\s*$")


def table_items(text: str, cut_off: bool) -> list[str] | None:
    """Return the instruction column of a Markdown table or CSV; None if the text doesn't begin with one."""
    table = parse_table(text, cut_off) or parse_csv(text, cut_off)
    if table is None:
        return None
    names, rows = table
    column = _instruction_column(names, rows)
    return [row[column] for row in rows]


def parse_table(text: str, cut_off: bool) -> tuple[list[str], list[list[str]]] | None:
    """Return the column names and the rows of a Markdown table; None if the text doesn't begin with one."""
    lines = text.split("\n")
    head = next((place for place, line in enumerate(lines) if "|" in line), None)
    if head is None or head + 1 >= len(lines) or not _TABLE_RULE.match(lines[head + 1]) or "|" not in lines[head + 1]:
        return None
    if not is_introduction(nonblank_lines(lines[:head])):
        return None
    names = _split_cells(lines[head])
    rows = []
    for line in lines[head + 2 :]:
        if "|" not in line:
            break
        rows.append(line)
    if cut_off and rows and head + 2 + len(rows) == len(lines) and not rows[-1].rstrip().endswith("|"):
        rows.pop()
    return names, [row for row in map(_split_cells, rows) if len(row) == len(names)]


_CSV_HEAD = re.compile(r"[^\W\d]\w*(?: \w+)?(?:(?P<delimiter>[,;\t])(?! )[^\W\d]\w*(?: \w+)?)+")
_CSV_KEYS = re.compile(rf"{TEXT_KEYS.pattern}|output|response|answer|label", re.IGNORECASE)


def parse_csv(text: str, cut_off: bool) -> tuple[list[str], list[list[str]]] | None:
    """Return the column names and the rows of CSV; None for other text, or if no column name is that of a text."""
    lines = nonblank_lines(text.split("\n"))
    place = next((place for place, line in enumerate(lines) if _CSV_HEAD.fullmatch(line.strip())), None)
    if place is None or not is_introduction(lines[:place]):
        return None
    found = _CSV_HEAD.fullmatch(lines[place].strip())
    assert found is not None
    names = found.group().split(found["delimiter"])
    try:
        rows = list(csv.reader(lines[place + 1 :], delimiter=found["delimiter"]))
    except csv.Error:  # an unclosed field exceeds the size limit
        return None
    rows = rows[:-1] if cut_off else rows
    rows = [[*row[: len(names) - 1], found["delimiter"].join(row[len(names) - 1 :])] for row in rows]
    is_table = rows and all(len(row) == len(names) for row in rows) and any(map(_CSV_KEYS.fullmatch, names))
    return (names, rows) if is_table else None


_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


def _split_cells(line: str) -> list[str]:
    inside = line.strip().removeprefix("|")
    inside = inside[:-1] if inside.endswith("|") and not inside.endswith("\\|") else inside
    return [_LINE_BREAK.sub("\n", cell.strip()).replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inside)]


def _instruction_column(names: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return the column with words under a name of instructions, else the column with the longest texts."""
    lengths = [
        sum(len(row[column]) for row in rows if re.search(r"[^\W\d]", row[column])) for column in range(len(names))
    ]
    filled = [(column, name) for column, name in enumerate(names) if lengths[column]]
    named = [column for column, name in filled if TEXT_KEYS.fullmatch(name)]
    named = named or [column for column, name in filled if re.search(NOUN, name, re.IGNORECASE)]
    return max(named or range(len(names)), key=lengths.__getitem__)


# --- one text without its wrapping ---


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
        if is_closing(lines[place]) and (starts or _is_last_remark(lines, place)):
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


def _is_last_remark(lines: Sequence[str], place: int) -> bool:
    """Return whether a line is the last one and, by brackets, emphasis or words, surely a remark of the model."""
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
