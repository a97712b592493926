"""What a preview says of each step and row, in pieces that a terminal or a notebook shows."""

import json
import unicodedata
from collections.abc import Iterator
from typing import Any

from hfsynth.previewing.trying import Call, TriedRow, TriedStep
from hfsynth.reporting.forms import printable

_LONGEST = 20_000  # characters of a text that are shown
_WIDEST = 80  # characters of a list or dict on one line
_PLAIN = "\n\t\u200c\u200d"  # lines and tabs, and what joins signs or parts them, as in Persian and in emoji

Piece = tuple[str, str, str]
"""A kind (`read`, `written`, `column`, `error`, `fact`), what it is, and the text."""


def pieces(row: TriedRow) -> Iterator[Piece]:
    """Give what is shown of a row, in order: what was read and written, and what became of it."""
    for kind, what, text in _pieces(row):
        yield kind, printable(what), visible(_cut(text))


def _pieces(row: TriedRow) -> Iterator[Piece]:
    for call in row.calls:
        yield "read", "the model reads", call.prompt
        yield "written", _how(call), call.written if not call.choices else _scored(call)
    if row.error:
        yield "error", "failed" if row.kept else "dropped", row.error
    for made in row.made:
        for name, value in made.items():
            yield "column", name, _value(value)
    if not (row.calls or row.error or row.made):
        yield "fact", "kept" if row.kept else "dropped", ""


def visible(text: str) -> str:
    r"""Show as signs what a terminal would obey, or what hides or turns what is written; lines and tabs stay.

    >>> print(visible("\x1b[2J, \x9b2J, \u202e"))
    ␛[2J, <U+009B>2J, <U+202E>
    """
    return "".join(map(_visible, text))


def title(step: TriedStep) -> str:
    """Name a step, and its model."""
    return printable(f"{step.name} ({step.model})" if step.model else step.name)


def _visible(sign: str) -> str:
    if sign.isprintable() or sign in _PLAIN or unicodedata.category(sign) == "Zs":
        return sign
    code = ord(sign)
    return chr(0x2400 + min(code, 0x21)) if code < 0x80 else f"<U+{code:04X}>"


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters are not shown …]\n{text[-half:]}"


def _value(value: Any) -> str:
    if not isinstance(value, list | tuple | dict):
        return str(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _WIDEST else json.dumps(value, ensure_ascii=False, default=str, indent=2)


def _how(call: Call) -> str:
    done = call.completion
    read = f"{done.prompt_tokens:,} tokens read"
    if call.choices:
        return f"it finds, of {len(call.choices)} choices ({read})"
    return f"it writes ({read}, {done.completion_tokens:,} written, {done.finish_reason})"


def _scored(call: Call) -> str:
    pairs = zip(call.choices, call.completion.scores, strict=False)
    return "\n".join(f"{score:9.3f}  {choice}" for choice, score in sorted(pairs, key=lambda pair: -pair[1]))
