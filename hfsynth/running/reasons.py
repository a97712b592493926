"""Why rows failed or were dropped, counted, as lines to show."""

import re
from collections import Counter
from collections.abc import Mapping

_LISTED = 5
_LONGEST = 300  # characters of a reason: some quote what a model wrote


def reason_lines(reasons: Mapping[str, int]) -> list[str]:
    """Return a line for each of the commonest reasons, with its rows; those that differ in a number are one.

    >>> reason_lines({"cut off after 96 tokens": 2, "Connection refused": 3, "cut off after 90 tokens": 2})
    ['4 rows: cut off after 96 tokens', '3 rows: Connection refused']
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason, rows in reasons.items():
        pattern = re.sub(r"\d+", "#", reason)
        first.setdefault(pattern, reason)
        counts[pattern] += rows
    lines = [f"{_rows(rows)}: {_one_line(first[pattern])}" for pattern, rows in counts.most_common(_LISTED)]
    others = list(counts.most_common()[_LISTED:])
    if others:
        lines.append(f"{_rows(sum(rows for _, rows in others))}: {len(others):,} other reasons")
    return lines


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _one_line(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
