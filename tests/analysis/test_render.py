import re
from html.parser import HTMLParser

import pytest
from rich.cells import cell_len
from rich.console import Console

from hfsynth.analysis.render import Cell, Line, Picture, Renderable, Section, Table, printable

NASTY = "<script>alert(1)</script> | **a** [x](http://y) `c` {{ 1 }} [b]z[/b] \x1b[31m\n# \u202eb & \"q\" 'r' 漢字"


class Example(Renderable):
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
    """Keeps the tags, the attributes and the texts of cells, as a browser reads them."""

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


def test_html_escapes_texts():
    reader = Reader()
    reader.feed(Example().html())
    assert set(reader.tags) == {"div", "style", "h3", "p", "table", "tr", "th", "td", "img"}
    assert {name for name, _ in reader.attributes} == {"class", "alt", "src"}
    assert dict(reader.attributes)["alt"] == printable(NASTY)
    assert dict(reader.attributes)["src"] == "data:image/png;base64,iVBORw=="
    assert [cell.strip() for cell in reader.cells] == [
        *("label", printable(NASTY), "n"),
        *(printable(NASTY), "50.0%", "12,345"),
        *("漢字", "–", "1.500"),
        *("text", printable(NASTY), "-3"),
    ]


def test_markdown_escapes_texts():
    bare = re.sub(r"\\.", "", Example().markdown("images"))
    assert not re.search(r"[<>`*\[]|https?://", bare.replace("![", "").replace("](images/one.png)", ""))
    rows = [line for line in bare.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {4}


def test_markdown_links_pictures_if_a_folder_is_named():
    assert "](images/one.png)" in Example().markdown("images")
    assert "one.png" not in Example().markdown()


def test_text_has_printable_characters_and_aligned_columns():
    text = str(Example())
    assert all(sign.isprintable() for line in text.splitlines() for sign in line)
    *_, head, ruler, first, second, third = text.splitlines()
    assert head.startswith("label")
    assert set(ruler) == {"─"}
    assert {cell_len(line) for line in (head, ruler, first, second, third)} == {cell_len(ruler)}
    assert [line.split()[-1] for line in (first, second, third)] == ["12,345", "1.500", "-3"]


def test_text_shows_rich_markup_as_it_is():
    assert "[b]z[/b]" in str(Example())


def test_terminal_shows_no_line_wider_than_itself():
    console = Console(width=60, color_system=None)
    with console.capture() as captured:
        console.print(Example())
    assert max(map(cell_len, captured.get().splitlines())) <= 60


def test_notebook_shows_html():
    assert Example()._repr_html_() == Example().html()


def test_pictures_have_file_names():
    assert Example().pictures() == {"one.png": b"\x89PNG"}


@pytest.mark.parametrize("text", ["a\u202eb", "a\x00b", "a\r\nb", "a\x9bb"])
def test_printable_replaces_control_characters(text):
    assert printable(text) == "a b"
