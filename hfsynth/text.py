"""Escape and format text for Markdown, terminals and pages."""

import re

# what means something in Markdown, HTML and mathematics; a colon where it is part of a link or an emoji
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!~&$@]|:(?=//|[\w+-]+:))")


def plain(text: str) -> str:
    r"""Make text that Markdown and HTML show as it is, on one line.

    >>> print(plain("<b> | a_b"))
    \<b\> \| a\_b
    """
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def fenced(text: str, language: str = "") -> str:
    """Put any text in a code block that it can't end.

    >>> print(fenced("```"))
    ````
    ```
    ````
    """
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def number(value: float) -> str:
    """Write a number with its thousands parted.

    >>> number(12345), number(1.5)
    ('12,345', '1.5')
    """
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Write a time in the two largest units that it has.

    >>> [duration(seconds) for seconds in (0.42, 75, 7322)]
    ['0.4 s', '1 min 15 s', '2 h 2 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"
