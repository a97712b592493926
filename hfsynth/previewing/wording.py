"""What a preview says: of each step and row, in pieces that a terminal or a notebook shows, and of the estimate."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from hfsynth.previewing.estimate import Estimate, Range
from hfsynth.previewing.trying import Call, TriedRow, TriedStep
from hfsynth.publishing.telling import duration
from hfsynth.reporting.forms import printable

_LONGEST = 20_000  # characters of a text that are shown
_WIDEST = 80  # characters of a list or dict on one line
_PLAIN = "\n\t\u200c\u200d"  # lines and tabs, and what joins signs or parts them, as in Persian and in emoji
_FEW = 5  # rows by which nothing can be told of others

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
        yield "fact", "kept", ""


def visible(text: str) -> str:
    r"""Show as signs what a terminal would obey, or what hides or turns what is written; lines and tabs stay.

    >>> print(visible("\x1b[2J, \x9b2J, \u202e"))
    ␛[2J, <U+009B>2J, <U+202E>
    """
    return "".join(map(_visible, text))


def title(step: TriedStep) -> str:
    """Name a step, and its model."""
    return printable(f"{step.name} ({step.model})" if step.model else step.name)


def facts(step: TriedStep, shown: int) -> str:
    """Say how many rows a step was given and made, and what is not shown of them.

    >>> rows = tuple(TriedRow(row, error="late" if row == 3 else "") for row in range(4))
    >>> facts(TriedStep("a", "m", rows, 2, rows_in=4, rows_out=4), 2)
    '4 rows in, 4 out, 2.0 s; 2 are not shown, of which 1 failed'
    """
    if not step.rows_in:
        return "not run: no row came as far as this"
    told = f"{step.rows_in:,} rows in, {step.rows_out:,} out, {duration(step.seconds)}"
    told += f", {step.tokens:,} tokens" if step.tokens else ""
    if not step.rows:
        return f"{told}; which row became what, a function doesn't say"
    hidden = step.rows[shown:]
    if not hidden:
        return told
    ends = {
        "failed": sum(bool(row.error and row.kept) for row in hidden),
        "dropped": sum(not row.kept for row in hidden),
    }
    of_which = " and ".join(f"{count:,} {end}" for end, count in ends.items() if count)
    return f"{told}; {len(hidden):,} are not shown" + (f", of which {of_which}" if of_which else "")


def told(estimate: Estimate, steps: Sequence[TriedStep]) -> list[str]:
    """Say an estimate in lines."""
    lines = [_of_what(estimate)]
    if estimate.wanted and not estimate.rows.expected:
        return [*lines, f"none of them was accepted, so that nobody can tell what {estimate.wanted:,} take"]
    if estimate.wanted:
        lines += [
            f"rows tried: {_ranged(estimate.tried)}",
            f"rows accepted: {_ranged(estimate.rows)}{_short_of(estimate)}",
            f"rows on which a step fails: {_ranged(estimate.failed)}",
        ]
    else:
        failed = f", and {_ranged(estimate.failed)} on which a step fails" if estimate.failed.high else ""
        lines += [f"rows made: {_ranged(estimate.rows)}{failed}"]
    lines += [f"tokens read and written: {_ranged(estimate.tokens)}", _time(estimate, steps)]
    return lines if estimate.exact else [*lines, *_doubts(steps)]


def _of_what(estimate: Estimate) -> str:
    tried = f"the {estimate.measured:,} that were tried"
    if estimate.wanted:
        what = f"until {estimate.wanted:,} rows are accepted"
    elif estimate.rows_in is None:
        return f"of {tried} (say num_rows=… for what so many accepted rows take):"
    else:
        what = f"from {estimate.rows_in:,} rows"
    sure = "" if estimate.exact else "; ranges are 90% intervals"
    return f"{what}, by {tried}{sure}:"


def _short_of(estimate: Estimate) -> str:
    if estimate.wanted is None or round(estimate.rows.expected) >= estimate.wanted:
        return ""
    return f" of {estimate.wanted:,} wanted: the input or the budget is spent first"


def _time(estimate: Estimate, steps: Sequence[TriedStep]) -> str:
    hours = estimate.hours
    low, expected, high = (duration(value * 3600) for value in (hours.low, hours.expected, hours.high))
    if estimate.exact:
        return f"time on this device: {expected}"
    at_once = sorted({step.rows_in for step in steps if step.model and step.rows_in})
    many = " to ".join(f"{count:,}" for count in dict.fromkeys(at_once[:1] + at_once[-1:]))
    speed = f", at the speed of {many} rows at once; with more it is likely to be faster" if many else ""
    return f"time on this device: at most {_about(low, expected, high)}{speed}"


def _doubts(steps: Sequence[TriedStep]) -> Iterator[str]:
    """Say what the ranges don't hold."""
    for step in steps:
        name = printable(step.name)
        if not step.rows_in:
            yield f"{name} was not tried: what it takes is not in these numbers"
        elif step.rows_in < _FEW:
            yield f"{name} was tried on {step.rows_in} rows, which are too few to tell; try more, with measured=…"
        if step.remembers:
            yield f"{name} compares rows with those before: the more rows, the more of them it drops; expect fewer"


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


def _ranged(found: Range) -> str:
    return _about(*(f"{number:,.0f}" for number in (found.low, found.expected, found.high)))


def _about(low: str, expected: str, high: str) -> str:
    return expected if low == high else f"about {expected} ({low} to {high})"
