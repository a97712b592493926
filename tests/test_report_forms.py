"""The forms of a report: complete, and not broken by what stands in rows."""

import re
from html.parser import HTMLParser

import pytest

from hfsynth.analysis.render import Cell, Line, Picture, Section, Table, Told, printable

NASTY = "<script>alert(1)</script> | **a** [x](http://y) `c` \x1b[31m\n# \u202eb & \"q\" 'r' 漢字"


class Shown(Told):
    def sections(self):
        table = Table(
            ("label", NASTY, "n"),
            (
                Line(NASTY, (Cell(0.5, "share"), Cell(12345))),
                Line("漢字", (Cell(None), Cell(1.5, "number"))),
                Line("text", (Cell(NASTY, "text"), Cell(-3))),
            ),
        )
        return (Section(NASTY, (NASTY, "A note."), (table,), (Picture("one", NASTY, lambda: b"\x89PNG"),)),)


class Reader(HTMLParser):
    """Keeps what a browser would show, and the tags and attributes that there are."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.cells = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.tags[-1:] in (["td"], ["th"]):
            self.cells[-1] += data


def test_text_of_rows_is_shown_as_it_is_in_html():
    reader = Reader()
    reader.feed(Shown().html())
    assert set(reader.tags) == {"div", "h3", "p", "table", "tr", "th", "td", "img"}
    assert {name for name, _ in reader.attributes} == {"style", "alt", "src"}
    assert dict(reader.attributes)["alt"] == printable(NASTY)
    assert dict(reader.attributes)["src"] == "data:image/png;base64,iVBORw=="
    shown = [cell.strip() for cell in reader.cells]
    assert shown == [
        *("label", printable(NASTY), "n"),
        *(printable(NASTY), "50.0%", "12,345"),
        *("漢字", "–", "1.500"),
        *("text", printable(NASTY), "-3"),
    ]


def test_text_of_rows_is_shown_as_it_is_in_markdown():
    text = Shown().markdown("pictures")
    bare = re.sub(r"\\.", "", text)
    assert not re.search(r"[<>`*\[]|https?://", bare.replace("![", "").replace("](pictures/one.png)", ""))
    rows = [line for line in bare.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {4}, "each row has as many cells"
    assert "](pictures/one.png)" in text
    assert "pictures" not in Shown().markdown()


def test_text_of_rows_steers_no_terminal_and_columns_stand_under_each_other():
    text = str(Shown())
    assert all(sign.isprintable() for line in text.splitlines() for sign in line)
    assert "A note." in text
    head, ruler, *rows = [line for line in text.splitlines() if line][-5:]
    ends = [match.end() for match in re.finditer("-+", ruler)]
    assert len(ends) == 3
    assert [row[: ends[2] - row.count("漢") * 2].rstrip()[-6:].strip() for row in rows] == ["12,345", "1.500", "-3"]
    assert head.startswith("label")


def test_a_notebook_shows_the_html():
    assert Shown()._repr_html_() == Shown().html()


def test_pictures_are_given_by_the_names_of_their_files():
    assert Shown().pictures() == {"one.png": b"\x89PNG"}


@pytest.mark.parametrize("text", ["a\u202eb", "a\x00b", "a\r\nb", "a\x9bb"])
def test_signs_that_cannot_be_seen_become_a_space(text):
    assert printable(text) == "a b"
