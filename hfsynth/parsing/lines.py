"""Classify the lines of a completion: announcements, titles, closing remarks, and list items by their markers."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hfsynth.parsing.phrases import (
    CLOSING,
    COURTESY,
    FAREWELL,
    HERE,
    LABEL,
    LIST_NOUN,
    NOTE,
    OF_THE_MODEL,
    OFFER,
    ORDINALS,
    POINTING,
    PRESENTING,
    REQUEST,
    REWRITING,
    TEXT_NOUN,
)

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*$")
RULE = re.compile(r"^[ \t]*(?:[-–—*_=~][ \t]*){3,}$")
HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+(?=\S)|^[ \t]*#{1,6}(?=[^\s#!])")
_BOLD_LINE = re.compile(r"^[ \t]*(\*\*|__)(?=\S)(?:(?!\1).)+\1[ \t]*[:：]?[ \t]*$")
SENTENCE_END = re.compile(r"[.?!。？！؟।…][\"'”’»」』)*_]*$")
COLON_END = re.compile(r"[:：][\s*_]*$")


def is_announcement(line: str, in_list: bool = False) -> bool:
    """Return whether a line announces the text after it: "Here is the rewritten prompt:".

    Args:
        line: One line.
        in_list: Whether a list is expected next. A line that only names its items then counts too: "Questions:".
    """
    line = line.strip()
    courteous = COURTESY.match(line)
    if len(line) > 300 or (REQUEST.search(line) and not courteous):
        return False
    if courteous:
        rest = line[courteous.end() :].strip(" !,.:：！，。、*-")
        while twice := COURTESY.match(rest):
            rest = rest[twice.end() :].strip(" !,.:：！，。、*-")
        speaks = (_points_to_text(rest) and not REQUEST.search(rest)) or OFFER.match(rest) is not None
        return not rest or COLON_END.search(line) is not None or speaks
    if not COLON_END.search(line):
        return in_list and _announces_list_in_sentence(line)
    if in_list and (TEXT_NOUN.search(line) or LIST_NOUN.search(line) or HERE.match(line)):
        return True
    return _announces_text(line)


def _points_to_text(line: str) -> bool:
    return POINTING.match(line) is not None


def _announces_list_in_sentence(line: str) -> bool:
    """Return whether a sentence without a colon announces a list: "Here are two queries for you."."""
    is_short = len(line) <= 150 and not line.endswith(("?", "？")) and not re.search(r"[:：\"“]", line)
    return (
        _points_to_text(line)
        and is_short
        and not line.casefold().startswith("this")
        and TEXT_NOUN.search(line) is not None
    )


def _announces_text(line: str) -> bool:
    """Return whether a line with a colon announces a new version of a text."""
    about = TEXT_NOUN.search(line) is not None and LIST_NOUN.search(line) is None
    is_new = REWRITING.search(line) is not None
    if _points_to_text(line):
        return is_new or (about and not _VAGUE.match(line))
    if HEADING.match(line):
        return about
    return PRESENTING.match(line) is not None and (is_new or line.casefold().startswith(("to make", "let me", "i ")))


_VAGUE = re.compile(r"[\W_]*(?:below|this|these|(?:the )?following|هذا|هذه)\b", re.IGNORECASE)


def is_only_announcement(text: str) -> bool:
    """Return whether a text is one line that announces a list or a text, and nothing else."""
    return "\n" not in text and COLON_END.search(text) is not None and is_announcement(text, in_list=True)


def is_closing(line: str, in_list: bool = False) -> bool:
    """Return whether a line is a closing remark, in which the model comments on the text before it."""
    line = line.strip()
    if presents_inline(line):
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


def presents_inline(line: str) -> bool:
    """Return whether a line presents a text on the same line: "The rewritten prompt is: …"."""
    found = PRESENTING.match(line)
    return found is not None and REWRITING.search(found.group()) is not None and bool(line[found.end() :].strip(" *_"))


def announces_inline(phrase: str) -> bool:
    """Return whether a phrase before a colon announces the rest of its line: "Sure! Here is the query: …"."""
    courteous = COURTESY.match(phrase)
    rest = phrase[courteous.end() :].lstrip(" !,.！，。、-") if courteous else phrase
    if REQUEST.search(phrase) or not (_points_to_text(rest) or PRESENTING.match(rest)):
        return False
    if re.fullmatch(r"here (?:you go|it is|you are)[:：]", rest, re.IGNORECASE):
        return True
    return TEXT_NOUN.search(rest) is not None and (courteous is not None or REWRITING.search(rest) is not None)


def closes_fence(line: str, mark: str) -> bool:
    """Return whether a line closes the code fence that `mark` opened."""
    found = FENCE.match(line)
    return found is not None and found.group(1).startswith(mark) and not found.group(2)


def fenced_lines(lines: Sequence[str]) -> list[bool]:
    """Return for each line whether it belongs to a fenced code block; the fences do."""
    inside: list[bool] = []
    mark = ""
    for line in lines:
        found = _FENCE_IN_ITEM.match(line)
        if mark:
            inside.append(True)
            mark = "" if closes_fence(line, mark) else mark
        else:
            mark = found.group(1) if found else ""
            inside.append(bool(found))
    return inside


_FENCE_IN_ITEM = re.compile(r"^[ \t]*(?:[-*+][ \t]+|\d+[.)][ \t]+)?(`{3,}|~{3,})[ \t]*[\w+-]*[ \t]*$")


def nonblank_lines(lines: Sequence[str]) -> list[str]:
    """Return the lines that are not blank."""
    return [line for line in lines if line.strip()]


def is_introduction(lines: Sequence[str]) -> bool:
    """Return whether each of at most three lines announces a list or is a heading; True for no lines."""
    if any(any_marker(line) for line in lines) or len(lines) > 3:
        return False
    return all(is_announcement(line, in_list=True) or HEADING.match(line) or is_title(line) for line in lines)


def is_title(line: str) -> bool:
    """Return whether a line is entirely bold and doesn't end as a sentence does."""
    return _BOLD_LINE.match(line) is not None and SENTENCE_END.search(line.strip()) is None


@dataclass(frozen=True)
class Marker:
    """The marker of a list item: its indentation, number, form and width in columns, and the text after it."""

    indent: int
    value: int | None
    form: str
    text: str
    width: int


_LIST_LABEL = rf"(?:{LABEL}|items?|examples?|exercises?|problems?|command|q|问|問)"
_OPEN = (
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
    re.compile(_OPEN + form + _CLOSE + r"[ \t\u3000]*", re.IGNORECASE)
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
        # 1.   1)   (1)   [1]   1번.   １．   ١.   1\.   1.-   1 -   1 |   1/
        r"(?:(?:no\.?|nr\.?|№|\#)[ \t]*)?(?P<number>\d{1,3})(?:번째?|[ºª°])?"
        + _CLOSE
        + r"(?:\\?[.)\]】）〕〉>」:：、．]+-?(?=\D|$)|[ \t]+[-–—.)|](?=\s)|[-–—/](?=[ \t])|\t|(?<=[ºª°])(?=[ \t]))",
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
_SECTION_NUMBER = re.compile(rf"{_OPEN}\d{{1,2}}\.(?P<number>\d{{1,2}})\.?{_CLOSE}[ \t]+(?=[^\W\d_])")  # 1.2 What
_GENERIC_NUMBER = re.compile(
    _OPEN + rf"(?P<label>[^\W\d_][^\d:：.\n]{{0,30}}?)[ \t]*(?:\#|№|no\.?)?[ \t]*(?P<number>\d{{1,3}}){_CLOSE}[ \t]*"
    rf"[:：.)–—-]+(?=\D|$){_CLOSE}[ \t]*",
    re.IGNORECASE,
)
_ORDINAL_FORM = re.compile(rf"{_OPEN}(?P<word>{'|'.join(ORDINALS)}){_CLOSE}[:：,،，.、]{_CLOSE}[ \t]*", re.IGNORECASE)
_LABEL_FORM = re.compile(
    rf"{_OPEN}(?:{_LIST_LABEL}|user|human)"
    rf"(?:[\]】>」）)]{_CLOSE}[ \t]*[:：]?|{_CLOSE}[ \t]*[:：]{_CLOSE}|(?<=\bq)[.．](?=\s))[ \t]*",
    re.IGNORECASE,
)
_LABEL_TITLE = re.compile(
    rf"^(?P<indent>[ \t]*)\#{{1,6}}[ \t]*(?P<open>\*\*)?{_LIST_LABEL}[ \t]*{_CLOSE}[ \t]*$", re.IGNORECASE
)
ALPHABETS = (
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
ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv")
_LETTER = re.compile(_OPEN + rf"(?P<letter>[^\W\d_]{{1,5}}){_CLOSE}[.)）\]、．]{_CLOSE}(?=\s)[ \t]*")
_BULLET = re.compile(
    r"^(?P<indent>[ \t\u3000]*)(?:[-+*–—](?=[ \t])"
    r"|[•·▪◦‣●○■□►▶➤➢➜→✓✔✅☑・◆◇★☆▸▹❓❔👉🔹🔸🔶🔷⭐](?!\w*:)\ufe0f?)[ \t]*(?:\[[ xX]?\][ \t]+)?"
)


def any_marker(line: str) -> Marker | None:
    """Return the number, label or bullet at the beginning of a line, or None."""
    return number_marker(line) or label_marker(line) or bullet_marker(line)


def number_marker(line: str) -> Marker | None:
    """Return the number at the beginning of a line, with or without a label before it: "1.", "Question 1:"."""
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


def section_number_marker(line: str) -> Marker | None:
    """Read a number of two parts, of which the second one counts: "1.2 …"."""
    found = _SECTION_NUMBER.match(line)
    return found and _marker(line, found, _value(found["number"]), "section")


def generic_number_marker(line: str) -> Marker | None:
    """Return words and a number at the beginning of a line: "Nutzerfrage 1: …"."""
    found = _GENERIC_NUMBER.match(line)
    return found and _marker(line, found, _value(found["number"]), found["label"].casefold())


def label_marker(line: str) -> Marker | None:
    """Return a label without a number at the beginning of a line: "Question: …"."""
    found = _LABEL_FORM.match(line) or _LABEL_TITLE.match(line)
    return found and _marker(line, found, None, "label")


def bullet_marker(line: str) -> Marker | None:
    """Return the bullet at the beginning of a line, unless the line is a horizontal rule."""
    found = None if RULE.match(line) else _BULLET.match(line)
    return found and _marker(line, found, None, "bullet")


def letter_markers(alphabet: Sequence[str]) -> Callable[[str], Marker | None]:
    """Return a function that finds a letter of an alphabet at the beginning of a line: "a) …", "가. …"."""

    def read(line: str) -> Marker | None:
        found = _LETTER.match(line)
        letter = found["letter"].lower() if found else ""
        if found is None or letter not in alphabet:
            return None
        return _marker(line, found, list(alphabet).index(letter) + 1, "letter")

    return read


def _marker(line: str, found: re.Match[str], value: int | None, form: str) -> Marker:
    """Return the marker of a match. Emphasis that opens before the marker and closes after it belongs to the text."""
    opening = found.groupdict().get("open") or ""
    is_closed = not opening or found.group().count(opening) > 1
    text = line[found.end() :]
    form += "#" if line.lstrip().startswith("#") and " " in found.group().strip() else ""
    indent = len(found["indent"].expandtabs(4))
    return Marker(indent, value, form, text if is_closed else opening + text, len(found.group().expandtabs(4)))


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


def ordinal_marker(line: str) -> Marker | None:
    """Return the ordinal at the beginning of a line: "First: …", "둘째, …"."""
    found = _ORDINAL_FORM.match(line)
    if found is None:
        return None
    word = found["word"].casefold()
    value = next(n for n, words in enumerate(ORDINALS, start=1) if re.fullmatch(words, word, re.IGNORECASE))
    return _marker(line, found, value, "ordinal")
