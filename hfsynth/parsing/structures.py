"""Read JSON, XML tags, Markdown tables and CSV as models write them, with faults and cut off."""

import ast
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hfsynth.parsing.lines import NOUN, SENTENCE_END, any_marker, is_introduction, nonblank_lines

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


def json_items(text: str, cut_off: bool) -> list[str] | None:  # noqa: ARG001 - only complete values are read
    """Return the texts in JSON: a list, an object with a list, or one object per line; None for other text."""
    try:
        return list(texts_of(parsed_json(text))) or None
    except RecursionError:  # nested too deeply
        return None


def parsed_json(text: str) -> list[Any] | None:
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
    value = _literal(text)
    if value is not None:
        yield value
        return
    if re.match(r"\s*[\[{]\s*“", text):
        text = text.replace("“", '"').replace("”", '"')
    place = 0
    while (found := _JSON_OBJECT.search(text, place)) is not None:
        value, place = _decoded(text, found.end())
        if value is None:  # truncated or invalid; its elements may be complete
            end = max(text.rfind("]"), text.rfind("}")) + 1
            text = _with_escaped_quotes(text[place : end if end > place + 1 else len(text)])
            value = _literal(text)
            yield from _json_elements(text[1:]) if value is None else iter([value])
            return
        yield value


_JSON_OBJECT = re.compile(rf"^{_JSON_PREFIX.pattern}", re.MULTILINE)
_FIRST_QUOTE = re.compile(r"[\s\[{]*([\"'])")


def _with_escaped_quotes(text: str) -> str:
    r"""Escape quotes within JSON strings: those before anything but a bracket, colon, comma or line with a quote.

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
        value, place = _decoded(text, found.start())
        if value is None and text[place] == '"':
            return  # a truncated string
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
    """Return the JSON value at a position and the position after it; None and the position if it is invalid."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place


def _literal(text: str) -> Any:
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
    items = [found["content"] for found in _innermost(text)]
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
    """Return the elements of a text as records, a repeated tag beginning the next; else those of nested elements."""
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


def _innermost(text: str) -> Iterator[re.Match[str]]:
    for found in _TAG.finditer(text):
        inside = list(_TAG.finditer(found["content"]))
        if inside:
            yield from inside
        else:
            yield found


_TABLE_RULE = re.compile(r"^\s*\|?(?:\s*:?-+:?\s*\|)+\s*(?::?-+:?\s*)?$|^\s*\|?\s*:?-+:?\s*\|?\s*$")


def table_items(text: str, cut_off: bool) -> list[str] | None:
    """Return the instruction column of a Markdown table or CSV; None if the text doesn't begin with one."""
    table = parsed_table(text, cut_off) or parsed_csv(text, cut_off)
    if table is None:
        return None
    names, rows = table
    column = _instruction_column(names, rows)
    return [row[column] for row in rows]


def parsed_table(text: str, cut_off: bool) -> tuple[list[str], list[list[str]]] | None:
    """Return the column names and the rows of a Markdown table; None if the text doesn't begin with one."""
    lines = text.split("\n")
    head = next((place for place, line in enumerate(lines) if "|" in line), None)
    if head is None or head + 1 >= len(lines) or not _TABLE_RULE.match(lines[head + 1]) or "|" not in lines[head + 1]:
        return None
    if not is_introduction(nonblank_lines(lines[:head])):
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
_CSV_KEYS = re.compile(rf"{TEXT_KEYS.pattern}|output|response|answer|label", re.IGNORECASE)


def parsed_csv(text: str, cut_off: bool) -> tuple[list[str], list[list[str]]] | None:
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


def _cells(line: str) -> list[str]:
    inside = line.strip().removeprefix("|")
    inside = inside[:-1] if inside.endswith("|") and not inside.endswith("\\|") else inside
    return [_LINE_BREAK.sub("\n", cell.strip()).replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inside)]


def _instruction_column(names: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return the column whose name is that of instructions and that has words, else the one with the longest texts."""
    lengths = [
        sum(len(row[column]) for row in rows if re.search(r"[^\W\d]", row[column])) for column in range(len(names))
    ]
    filled = [(column, name) for column, name in enumerate(names) if lengths[column]]
    named = [column for column, name in filled if TEXT_KEYS.fullmatch(name)]
    named = named or [column for column, name in filled if re.search(NOUN, name, re.IGNORECASE)]
    return max(named or range(len(names)), key=lengths.__getitem__)
