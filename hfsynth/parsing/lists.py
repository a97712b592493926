"""Read the items of a list, or the records of a text, from a completion.

`parse_list` reads numbered, lettered, bulleted and labelled lists, JSON, XML tags, Markdown tables and plain lines,
with numerals and labels of some 25 languages. `parse_records` reads JSON objects, XML elements and rows of tables.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from hfsynth.parsing.lines import (
    ALPHABETS,
    ANSWER,
    COLON_END,
    FENCE,
    HEADING,
    REMARK,
    REQUEST,
    ROMAN,
    RULE,
    SENTENCE_END,
    TEXT_NOUN,
    Marker,
    any_marker,
    bullet_marker,
    fenced_lines,
    generic_number_marker,
    is_announcement,
    is_closing,
    is_introduction,
    is_only_announcement,
    is_title,
    label_marker,
    letter_markers,
    nonblank_lines,
    number_marker,
    ordinal_marker,
    section_number_marker,
)
from hfsynth.parsing.markup import (
    TEXT_KEYS,
    element_records,
    json_items,
    parse_csv,
    parse_json,
    parse_table,
    table_items,
    tagged_items,
    take_off_fence,
    take_off_quotation,
    take_off_quotes,
    take_off_tags,
    without_outer_tag,
    without_surroundings,
    without_thoughts,
)


def parse_list(text: str, cut_off: bool = False) -> list[str]:
    r"""Return the items of a list without numbers, bullets, labels and quotes. Empty and repeated items are dropped.

    Blank lines, nested lists and code within an item stay, without the indentation of the list.

    Args:
        text: The completion.
        cut_off: Whether the completion was truncated. An unfinished last item is then dropped.

    >>> parse_list("Here are 2 queries:\n\n1. What is tea?\n2) **Brew some.**\n\nI hope this helps!")
    ['What is tea?', 'Brew some.']
    >>> parse_list('```json\n[{"query": "What is tea?"}, {"query": "Wha', cut_off=True)
    ['What is tea?']
    """
    lines = text.rstrip(" ").split("\n")
    if cut_off and not lines[-1] and SENTENCE_END.search(text.rstrip()) and not fenced_lines(lines)[-1]:
        cut_off = False  # truncated between two items
    text = without_outer_tag(without_surroundings(_LEAD.sub("", without_thoughts(text))))
    items: list[str] = []
    for read in (json_items, tagged_items, table_items, _marked_items, _plain_items):
        found = read(text, cut_off)
        if found is not None:
            items = found
            break
    unique: dict[str, str] = {}
    for item in map(_clean_item, _without_kinds(_without_numbers(items))):
        if any(character.isalnum() for character in item) and not is_only_announcement(item):
            unique.setdefault(" ".join(item.casefold().split()), item)
    return list(unique.values())


def _without_numbers(items: Sequence[str]) -> list[str]:
    """Remove the numbers of texts that are numbered from 1, as the strings of a JSON list may be."""
    markers = [number_marker(item.partition("\n")[0]) for item in items]
    if [marker and marker.value for marker in markers] != list(range(1, len(items) + 1)):
        return list(items)
    rests = (item.partition("\n")[1:] for item in items)
    return [marker.text + "".join(rest) for marker, rest in zip(markers, rests, strict=True) if marker]


_KIND = re.compile(  # (Question) …   **[Command]** …
    r"[*_]{0,3}[(\[（【][^\W\d_](?:[^\W\d_]|[ /&-]){1,30}[)\]）】][*_]{0,3}[:：]?[*_]{0,3}\s*(?=[^\sa-zа-я(（])"
)


def _without_kinds(items: Sequence[str]) -> list[str]:
    """Remove the kind in brackets at the beginning of each item, if several items have one."""
    kinds = [_KIND.match(item) for item in items]
    if len(items) < 2 or not all(kinds):
        return list(items)
    return [item[kind.end() :] for item, kind in zip(items, kinds, strict=True) if kind]


_LEAD = re.compile(
    r"\A[\s*#]*(?:output|response|answer|assistant|result|출력|답변|결과|输出|回答|出力)[*]*\s*[:：][*]*[ \t]*"
    r"(?=\n|\d+[.)]|[\[{<`])",
    re.IGNORECASE,
)
_Found = list[tuple[int, Marker]]
_COUNTED: tuple[Callable[[str], Marker | None], ...] = (
    number_marker,
    section_number_marker,
    generic_number_marker,
    ordinal_marker,
    letter_markers(ROMAN),
    *map(letter_markers, ALPHABETS),
)


def _item_starts(lines: Sequence[str]) -> _Found:
    """Return the numbers of the lines on which list items begin; none if the lines are no list."""
    fenced = fenced_lines(lines)
    open_lines = [
        (place, line) for place, line in enumerate(lines) if line.strip() and not _is_fenced(fenced, lines, place)
    ]

    def found_by(read: Callable[[str], Marker | None]) -> _Found:
        return [(place, marker) for place, line in open_lines if (marker := read(line)) is not None]

    first = open_lines[0][0] if open_lines else 0
    counted = [_counted(found_by(read), first, sure=read is number_marker) for read in _COUNTED]
    labels = _outermost(found_by(label_marker))
    has_text = any(marker.text.strip() for _, marker in labels)
    if not has_text and len(labels) < 2 and not any(ANSWER.match(line) for _, line in open_lines):
        labels = []  # this line announces the list
    lists = [found for found in (*counted, labels) if found]
    bullets = _outermost(found_by(bullet_marker))
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
    """Return the labelled items in the paragraphs after the last numbered item."""
    place = best[-1][0]
    end = next((n for n in range(place + 1, len(lines)) if not lines[n].strip()), len(lines))
    after = next((n for n in range(end, len(lines)) if lines[n].strip()), None)
    outermost = best[0][1].indent + 1
    later = [(n, marker) for n, marker in labels if n >= end and marker.text.strip() and marker.indent <= outermost]
    return later if later and later[0][0] == after else []


def _is_fenced(fenced: Sequence[bool], lines: Sequence[str], place: int) -> bool:
    """Return whether a line is in a fenced block that began on an earlier line."""
    return fenced[place] and (place == 0 or fenced[place - 1] or FENCE.match(lines[place]) is not None)


def _outermost(found: _Found) -> _Found:
    return [(place, marker) for place, marker in found if marker.indent <= found[0][1].indent + 1]


def _counted(found: _Found, first: int, sure: bool) -> _Found:
    """Return the markers with consecutive values: 1, 2, 3, or a new count from 1; none if they begin no list.

    Args:
        found: Markers with values.
        first: The line on which the text begins.
        sure: Whether one marker is enough for a list. True for numbers, False for letters.
    """
    counted: _Found = []
    for place, marker in _without_steps(_outermost(found)):
        if not counted or _counts_on(counted, marker):
            counted.append((place, marker))
    if not counted:
        return []
    values = [marker.value for _, marker in counted]
    if sure and values[0] not in (0, 1, 2):  # a list may begin with 2 if its first item has no number
        # "10 - 3" at the beginning is a subtraction
        is_first = counted[0][0] == first and not counted[0][1].form.endswith("-")
        goes_on = len(counted) > 1 and values[1] == (values[0] or 0) + 1
        return counted if goes_on or (is_first and len(counted) == 1) else []
    if sure:
        return counted
    return counted if values[0] == 1 and len(counted) > 1 else []


def _without_steps(found: _Found) -> _Found:
    """Remove the markers of nested lists: those that count from 1 after a line with a colon within an outer list.

    Of 1, 1, 2, 3, 2 the nested ones are the second to the fourth. In 1, 1, 2 they can't be determined.
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
        if steps and goes_on and COLON_END.search(marker.text):
            rest = rest[steps:]
    return kept


def _counts_on(counted: _Found, marker: Marker) -> bool:
    """Return whether a marker continues a list: it has the next number, or the same form."""
    before = counted[-1][1]
    assert marker.value is not None
    assert before.value is not None
    if marker.form.endswith("#") != before.form.endswith("#"):
        return False  # a comment in code
    if marker.value == before.value + 1:
        return True
    return marker.form == counted[0][1].form and (marker.value in (0, 1) or marker.value >= before.value)


def _marked_items(text: str, cut_off: bool) -> list[str] | None:
    """Return the items that begin with a number, letter, bullet or label; None if no line begins with one."""
    lines = _with_own_lines(text.split("\n"))
    starts = _item_starts(lines)
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
    items = [_join_item(marker, body, all_answered or _is_labelled(marker)) for marker, body in complete]
    if any(label_marker(marker.text) for _, marker in starts):
        items = [item for item in items if not ANSWER.match(item)]
    return _unnumbered_first(lines[: places[0]], starts[0][1]) + items


def _with_own_lines(lines: Sequence[str]) -> list[str]:
    """Put each item of a list on one line ("1. What? 2. Who?") on a line of its own."""
    filled = nonblank_lines(lines)
    announced = re.match(r"[^:：]{1,120}[:：][ \t]*(?=1[.)]\s)", filled[0]) if len(filled) == 1 else None
    if announced and is_announcement(announced.group(), in_list=True):
        lines = filled = [filled[0][announced.end() :]]
    numbered = [line for line in filled if number_marker(line)]
    if len(numbered) != 1 or filled[-1] is not numbered[0] or not re.match(r"\W*1\s*[.)]", numbered[0]):
        return list(lines)
    parts = [numbered[0]]
    while found := re.search(rf"(?<=[.?!。？！\"”])\s+(?=\(?{len(parts) + 1}[.)]\s)", parts[-1]):
        parts[-1:] = [parts[-1][: found.start()], parts[-1][found.end() :]]
    place = lines.index(numbered[0])
    return [*lines[:place], *parts, *lines[place + 1 :]]


def _is_data(lines: Sequence[str], starts: _Found) -> bool:
    """Return whether a list is the data of an instruction before it, and not a list of instructions."""
    before = nonblank_lines(lines[: starts[0][0]])
    if not before or not COLON_END.search(before[-1]) or is_announcement(before[-1], in_list=True):
        return False
    others = [line for line in before[:-1] if not is_announcement(line, in_list=True) and not HEADING.match(line)]
    texts = [marker.text.rstrip() for _, marker in starts]
    are_short = all(len(text.split()) <= 3 and len(text) <= 40 and text[-1:] not in ("?", "？") for text in texts)
    return bool(others) or (are_short and len(before[-1].split()) > 3)


def _unnumbered_first(lines: Sequence[str], marker: Marker) -> list[str]:
    """Return the text before the first marker, if the marker's number is above 1 and the text announces nothing."""
    if not marker.value or marker.value < 2:
        return []
    kept = [
        line for line in lines if not (is_announcement(line, in_list=True) or COLON_END.search(line) or is_title(line))
    ]
    text = "\n".join(kept).strip()
    return [text] if text else []


def _has_paragraphs(body: Sequence[str]) -> bool:
    """Return whether a line without indentation follows a blank line."""
    return any(not before.strip() and after[:1].strip() for before, after in pairwise(body))


def _without_section(marker: Marker, body: Sequence[str]) -> list[str]:
    """Remove lines at the end of an item that introduce the next ones: a heading, a rule, a line with a colon."""
    kept = list(body)
    while kept:
        line = kept[-1]
        follows_blank = len(kept) == 1 or not kept[-2].strip()
        is_awaited = COLON_END.search("\n".join([marker.text, *kept[:-1]]).rstrip()) is not None
        is_title = not is_awaited and _is_section_title(line, follows_blank) and _indent(line) <= marker.indent + 1
        if not line.strip() or RULE.match(line) or is_title:
            kept.pop()
        else:
            break
    return kept if fenced_lines(kept)[-1:] != [True] or kept == list(body) else _with_fence(body, kept)


def _with_fence(body: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Return an item without blank lines after the fenced block at its end."""
    end = max(len(kept), max((place + 1 for place, inside in enumerate(fenced_lines(body)) if inside), default=0))
    return list(body[:end])


def _is_section_title(line: str, follows_blank: bool) -> bool:
    """Return whether a line is the heading of a part of a list."""
    if HEADING.match(line):
        return True
    is_short = len(line.split()) <= 10 and len(line) <= 100
    return follows_blank and is_short and (is_title(line) or COLON_END.search(line) is not None)


def _indent(line: str) -> int:
    line = line.expandtabs(4)
    return len(line) - len(line.lstrip())


def _last_body(marker: Marker, body: Sequence[str], has_paragraphs: bool) -> tuple[list[str], bool]:
    """Return the text of the last item, and whether the completion may have been cut off within it."""
    fenced = fenced_lines(body)
    kept: list[str] = []
    for place, line in enumerate(body):
        if fenced[place] or not line.strip():
            kept.append(line)
            continue
        before = "\n".join([marker.text, *kept])
        if _indent(line) <= marker.indent + 1 and _is_outside(line, before, has_paragraphs):
            return kept, False
        kept.append(line)
    return kept, True


def _is_outside(line: str, before: str, has_paragraphs: bool) -> bool:
    """Return whether a line without indentation ends the last item, whose text so far is `before`."""
    if is_closing(line, in_list=True):
        return True
    text = before.rstrip()
    if not text or RULE.match(line):
        return bool(text)
    if before.rpartition("\n")[2].strip():  # no blank line before this line
        return False
    belongs = has_paragraphs or COLON_END.search(text) is not None or text.endswith(("```", "~~~")) or line[0] in "|>"
    return HEADING.match(line) is not None or not belongs


_CODE_LINE = re.compile(
    r"^\s*(?:(?:async\s+)?def|class|if|for|while|with|try|else|elif|function|public|private|static|void|int"
    r"|const|let|var|fn|func)\b"
    r".*[:{(]\s*$|[{;]\s*$"
)


def _is_labelled(marker: Marker) -> bool:
    return marker.form[:1] in ("0", "1") or "label" in marker.form or label_marker(marker.text) is not None


def _join_item(marker: Marker, body: Sequence[str], cut_answer: bool) -> str:
    """Join the lines of an item, without the indentation of the list; that of code stays."""
    lines = [line.expandtabs(4) if line[:1] == "\t" else line for line in body]
    if cut_answer:
        lines = lines[: next((n for n, line in enumerate(lines) if ANSWER.match(line)), len(lines))]
    if lines and not marker.text.strip() and RULE.match(lines[0]):
        lines = lines[1:]
    widths = [_indent(line) for line in lines if line.strip()]
    shift = min(widths, default=0)
    if _CODE_LINE.match(marker.text):
        shift = min(shift, marker.width)
    return "\n".join([marker.text, *(line[min(shift, _indent(line)) :] for line in lines)])


def _plain_items(text: str, cut_off: bool) -> list[str]:
    """Return each line as an item, or each paragraph if some have several lines that belong together."""
    lines = text.split("\n")
    while lines and (not lines[0].strip() or _is_opening_paragraph(lines)):
        lines.pop(0)
    announcing = [_stands_alone(lines, n) and is_announcement(line, in_list=True) for n, line in enumerate(lines)]
    lines = [line for line, announces in zip(lines, announcing, strict=True) if not announces]
    last, is_open = _without_closing(lines)
    items = list(_ruled_blocks(last) or (_paragraphs(last) if _has_blocks(last) else _single_lines(last)))
    if cut_off and is_open and items:
        items.pop()
    return items


def _stands_alone(lines: Sequence[str], place: int) -> bool:
    """Return whether a line is a paragraph that ends in a colon."""
    around = [*lines[place - 1 : place], *lines[place + 1 : place + 2]]
    return COLON_END.search(lines[place]) is not None and not any(line.strip() for line in around)


def _is_opening_paragraph(lines: Sequence[str]) -> bool:
    """Return whether the first line announces the others. If the last line ends in a colon too, it does not."""
    first, others = lines[0], [line for line in lines[1:] if line.strip()]
    if is_announcement(first, in_list=True) or RULE.match(first):
        return True
    are_questions = len(others) > 1 and all(re.search(r"[?？؟;][\s\W]*$", line) for line in others)
    return are_questions and COLON_END.search(first) is not None and not REQUEST.search(first)


def _without_closing(lines: Sequence[str]) -> tuple[list[str], bool]:
    """Return the lines before the first closing remark, and whether there is no such remark."""
    fenced = fenced_lines(lines)
    for place, line in enumerate(lines):
        if place and not fenced[place] and is_closing(line, in_list=True):
            return list(lines[:place]), False
    return list(lines), True


def _ruled_blocks(lines: Sequence[str]) -> list[str]:
    """Return the blocks between horizontal rules, if some have several lines; none without rules."""
    fenced = fenced_lines(lines)
    blocks: list[list[str]] = [[]]
    for line, inside in zip(lines, fenced, strict=True):
        if RULE.match(line) and not inside:
            blocks.append([])
        else:
            blocks[-1].append(line)
    texts = [text for block in blocks if (text := "\n".join(block).strip())]
    return texts if len(texts) > 1 and any("\n" in text for text in texts) and "\n\n" not in texts[0] else []


def _has_blocks(lines: Sequence[str]) -> bool:
    """Return whether blank lines separate items of several lines: a line introduces data, or there is code."""
    if any(fenced_lines(lines)) or len({_is_code(line) for line in lines if line.strip()}) > 1:
        return True
    if any(COLON_END.search(line) and any_marker(after) for line, after in pairwise(lines)):
        return True
    blocks = list(_paragraphs(lines))
    opening = [block for block in blocks if "\n" in block and COLON_END.search(block.split("\n")[0])]
    return len(blocks) > 1 and any(len(block.split("\n")[0].split()) > 3 for block in opening)


def _is_code(line: str) -> bool:
    """Return whether a line is indented like a Markdown code block."""
    return _indent(line) >= 4 and any_marker(line) is None


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Yield the paragraphs. A paragraph with a fence, or after a colon, is joined to the one before it."""
    fenced = fenced_lines(lines)
    block: list[str] = []
    for place, line in enumerate(lines):
        ends = not line.strip() and not fenced[place]
        follows = next((later for later in lines[place:] if later.strip()), "")
        belongs = FENCE.match(follows) or (block and (_is_code(follows) or COLON_END.search(block[-1])))
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
    """Yield the lines without headings. Lines after a line that ends in a colon are joined to it."""
    filled = [line for line in lines if line.strip() and not RULE.match(line)]
    sections = [bool(HEADING.match(line)) or is_title(line) for line in filled]
    all_alike = all(sections)
    pending: list[str] = []
    for line, is_section in zip(filled, sections, strict=True):
        if is_section and not all_alike:
            continue
        if COLON_END.search(line) and not pending:
            words = len(line.split())
            pending = [line] if words > 5 or (words > 2 and not TEXT_NOUN.search(line)) else []
            continue
        yield "\n".join([*pending, line])
        pending = []


def _clean_item(item: str) -> str:
    """Remove labels, emphasis, quotes, tags and fences around an item until none is left."""
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
    """Remove the label of an item, also after a bullet, and an answer after the item."""
    first, separator, rest = item.partition("\n")
    bullet = bullet_marker(first)
    marker = _label_in(first if bullet is None else bullet.text)
    if marker is None:
        return item
    lines = [marker.text, *rest.split("\n")] if separator else [marker.text]
    answer = next((n for n, line in enumerate(lines) if n and ANSWER.match(line) and "".join(lines[:n]).strip()), None)
    return "\n".join(lines[:answer])


_PLURAL_LABEL = re.compile(r"(?:queries|(?:question|instruction|prompt|task|request|command)s)\s*[:：]", re.IGNORECASE)


def _label_in(line: str) -> Marker | None:
    """Return the label of an item, with or without a number. A number without a label belongs to the item."""
    marker = label_marker(line) or number_marker(line)
    if marker is not None and marker.text.strip() and _PLURAL_LABEL.match(line):
        return None  # "Tasks: name five that a barista does."
    return None if marker is None or marker.form[:1] in "2345" else marker


def _take_off_mark(item: str) -> str:
    """Remove the heading sign of an item of one line."""
    return item if "\n" in item else HEADING.sub("", item)


def _take_off_remarks(item: str) -> str:
    """Remove an explanation of the item from its last lines."""
    lines = item.split("\n")
    for place, line in enumerate(lines[1:], start=1):
        before = "\n".join(lines[:place]).rstrip()
        if REMARK.match(line) and SENTENCE_END.search(before):
            return before
    return item


def _take_off_record(item: str) -> str:
    """Return the instruction of a YAML record: "id: 1" and, on the next line, "query: …"."""
    pairs = [re.match(r"([a-z]\w*): +(\S.*)$", line) for line in item.split("\n")]
    found = [pair[2] for pair in pairs if pair and TEXT_KEYS.fullmatch(pair[1])]
    return found[0] if len(pairs) > 1 and all(pairs) and found else item


def _take_off_bullet(item: str) -> str:
    """Remove the bullet of an item of one line."""
    marker = None if "\n" in item else bullet_marker(item)
    return item if marker is None else marker.text


def _take_off_stray_quote(item: str) -> str:
    """Remove an unpaired quote at the beginning or the end."""
    for mark in ('"', "“", "”"):
        if item.count(mark) == 1 and not (mark == "“" and "”" in item) and not (mark == "”" and "“" in item):
            item = item.removeprefix(mark)
            item = item.removesuffix(mark) if SENTENCE_END.search(item.removesuffix(mark)) else item
    return item


def _take_off_comma(item: str) -> str:
    """Remove the comma after an item in quotes, as in JSON."""
    return item[:-1] if re.fullmatch(r"([\"'“]).*[\"'”],", item, re.DOTALL) else item


_ITEM_WRAPPERS: tuple[Callable[[str], str], ...] = (
    _take_off_record,
    _take_off_label,
    _take_off_mark,
    _take_off_remarks,
    _take_off_bullet,
    take_off_quotation,
    take_off_fence,
    take_off_tags,
    _take_off_comma,
    take_off_quotes,
    _take_off_stray_quote,
)


def parse_records(text: str, is_record: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    r"""Return the records of a text: JSON objects, XML elements, or rows of a Markdown table or CSV; [] if none.

    Args:
        text: The completion. Records may be nested in other objects, and follow a line that announces them.
        is_record: Returns whether an object is a record, by its keys and values.

    >>> text = 'Here are the examples:\n```json\n{"examples": [{"input": "2 + 2", "output": 4}]}\n```'
    >>> parse_records(text, lambda record: "output" in record)
    [{'input': '2 + 2', 'output': 4}]
    """
    try:
        return _read_records(without_surroundings(without_thoughts(text)), is_record)
    except RecursionError:  # nested too deeply
        return []


def _read_records(text: str, is_record: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    if (values := parse_json(text)) is not None:
        return list(_records_within(values, is_record))
    if (table := parse_table(text, cut_off=False) or parse_csv(text, cut_off=False)) is not None:
        rows = [dict(zip(table[0], row, strict=True)) for row in table[1]]
        return [row for row in rows if is_record(row)]
    before, opening, _ = text.partition("<")
    return element_records(text, is_record) if opening and is_introduction(nonblank_lines(before.split("\n"))) else []


def _records_within(value: Any, is_record: Callable[[Mapping[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    """Yield the records in a value, also those nested in lists and in other objects."""
    if isinstance(value, dict) and is_record(value):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _records_within(inner, is_record)
