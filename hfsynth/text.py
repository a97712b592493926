"""Escape and format text for Markdown, terminals and pages."""

import re

# characters with a meaning in Markdown, HTML and mathematics: an underscore outside of words, a colon where it is part
# of a link or an emoji
_MARKUP = re.compile(r"([\\`*\[\]<>#|!~&$@]|(?<![^\W_])_|_(?!_*[^\W_])|:(?=//|[\w+-]+:))")
_MAX_ERROR = 300  # characters


def plain(text: str) -> str:
    r"""Escape text so that Markdown and HTML show it as it is, on one line.

    >>> print(plain("<b> | a_b _c_"))
    \<b\> \| a_b \_c\_
    """
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def printable(value: object) -> str:
    r"""Return a value on one line, without control characters and those that change the direction of writing.

    >>> printable("a\x1b[31m\nb\u202e")
    'a [31m b'
    """
    return " ".join("".join(character if character.isprintable() else " " for character in str(value)).split())


def fenced(text: str, language: str = "") -> str:
    """Put text into a code block whose fence is longer than any run of backticks in the text.

    >>> print(fenced("```"))
    ````
    ```
    ````
    """
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def number(value: float) -> str:
    """Format a number with thousands separators.

    >>> number(12345), number(1.5)
    ('12,345', '1.5')
    """
    return f"{value:,}"


def counted(count: int, noun: str) -> str:
    """Format a count with its noun, in the plural unless the count is 1.

    >>> counted(1, "row"), counted(2000, "row"), counted(2, "process")
    ('1 row', '2,000 rows', '2 processes')
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number(count)} {noun if count == 1 else plural}"


def duration(seconds: float) -> str:
    """Format a time in its two largest units.

    >>> [duration(seconds) for seconds in (0.42, 75, 7322)]
    ['0.4 s', '1 min 15 s', '2 h 2 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def one_line(error: BaseException) -> str:
    r"""Return an error's message on one line, cut to 300 characters; its class's name if it has none.

    >>> one_line(ValueError("no such\n  file")), one_line(KeyError())
    ('no such file', 'KeyError')
    """
    return " ".join(str(error).split())[:_MAX_ERROR] or type(error).__name__
