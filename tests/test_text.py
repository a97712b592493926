import re
from itertools import chain, product

import pytest
from markdown_it import MarkdownIt

from hfsynth.text import duration, fenced, plain, printable


@pytest.mark.parametrize("text", ["a|b", "<b>", "[x](y)", "`c`", "# h", "*b*", "a\nb", "$x$", ":smile: http://x"])
def test_plain_escapes_every_mark(text):
    escaped = plain(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[|<>\[\]`#*$]", escaped)
    assert re.sub(r"\\(.)", r"\1", escaped) == " ".join(text.split())


def test_plain_underscores_are_rendered_as_text():
    """rich's own renderer of Markdown reads every text of up to five of these characters as it is."""
    markdown = MarkdownIt()
    for signs in chain.from_iterable(product("a_-é ", repeat=length) for length in range(1, 6)):
        text = " ".join("".join(signs).split())
        assert markdown.renderInline(plain(text)) == text


@pytest.mark.parametrize("text", ["```", "a\n````\nb", "``` x", "plain"])
def test_fenced_text_can_not_end_the_block(text):
    lines = fenced(text).splitlines()
    assert lines[0] == lines[-1]
    assert lines[0] not in lines[1:-1]


def test_duration_rounds_to_its_two_largest_units():
    seconds = (0, 59.96, 60, 3599, 3600)
    assert [duration(n) for n in seconds] == ["0.0 s", "60.0 s", "1 min 0 s", "59 min 59 s", "1 h 0 min"]


@pytest.mark.parametrize("text", ["a\u202eb", "a\x00b", "a\r\nb", "a\x9bb"])
def test_printable_replaces_control_characters(text):
    assert printable(text) == "a b"
