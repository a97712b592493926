import re

import pytest

from hfsynth.text import fenced, plain


@pytest.mark.parametrize(
    "text", ["a|b", "<b>", "{{ x }}", "[x](y)", "`c`", "# h", "*b*", "a\nb", "$x$", ":smile: http://x"]
)
def test_plain_text_has_no_mark_left_that_means_something(text):
    shown = plain(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)[|<>{}\[\]`#*$]", shown)
    assert re.sub(r"\\(.)", r"\1", shown) == " ".join(text.split())


@pytest.mark.parametrize("text", ["```", "a\n````\nb", "``` x", "plain"])
def test_a_block_of_code_ends_where_it_should(text):
    lines = fenced(text).splitlines()
    assert lines[0] == lines[-1]
    assert lines[0] not in lines[1:-1]
