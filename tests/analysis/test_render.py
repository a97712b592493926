import io
import re
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.cells import cell_len
from rich.console import Console

from hfsynth import EchoLLM, Magpie, Pipeline
from hfsynth.analysis.render import (
    Cell,
    Line,
    Picture,
    Renderable,
    Section,
    Table,
    draw_diagram,
    draw_funnel,
    draw_lengths,
    draw_similarity,
)
from hfsynth.analysis.text_stats import Lengths, Spread
from hfsynth.pipeline import Arrow, Diagram
from hfsynth.step import Node
from hfsynth.text import printable

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


NEAREST = Spread.of(np.linspace(0.1, 0.9, 50), (0.0, 1.0))
ONE = Lengths.of({3: 1})
PICTURES = {
    "similarity": lambda: draw_similarity({"instructions": NEAREST}, 0.7),
    "similarities": lambda: draw_similarity({"$one^{": NEAREST, "漢字": NEAREST}, 0.7),
    "lengths": lambda: draw_lengths({"$x^{": Lengths.of({3: 5, 9: 2}), "מודל": ONE}, "words"),
    "funnel": lambda: draw_funnel([("SelfInstruct", 10, 25, 3), ("$odd^{" * 20, 25, 0, 0), ("last", 0, 0, 0)]),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_picture_is_opaque_with_dark_ink_on_white(draw):
    pixels = imread(io.BytesIO(draw()))
    assert pixels.shape[2] == 3 or (pixels[..., 3] == 1).all()
    light = pixels[..., :3].mean(axis=2)
    border = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    assert np.median(border) == pytest.approx(1)
    assert (light < 0.3).mean() > 0.003


def test_draw_lengths_puts_three_histograms_in_a_row():
    shapes = [
        imread(io.BytesIO(draw_lengths(dict.fromkeys("abcdefg"[:count], ONE), "words"))).shape[:2]
        for count in (1, 3, 7)
    ]
    assert shapes == [(286, 396), (286, 1188), (858, 1188)]


@pytest.mark.parametrize("name", ["lengths", "funnel"])
def test_ticks_of_counts_are_integers(monkeypatch, name):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    draw = {
        "lengths": lambda: draw_lengths({"a": Lengths.of({3: 1, 9: 2})}, "words"),
        "funnel": lambda: draw_funnel([("a", 2, 1, 1)]),
    }[name]
    draw()
    (axes,) = figures[0].axes
    ticks = axes.get_yticks() if name == "lengths" else axes.get_xticks()
    assert len(ticks) > 1
    assert all(float(tick).is_integer() for tick in ticks)


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_picture_is_the_same_file_under_any_style(draw):
    import matplotlib.pyplot as plt

    plain = draw()
    assert plain.startswith(b"\x89PNG")
    with plt.style.context("dark_background"):
        assert draw() == plain


CHAIN = Diagram.of(["a"], [Node("first", "m", ("a",), ("b",)), Node("second", "m", ("b",), ("c",))])


def test_draw_diagram_png_is_the_same_every_time():
    assert draw_diagram(CHAIN).startswith(b"\x89PNG")
    assert draw_diagram(CHAIN) == draw_diagram(CHAIN)


def test_draw_diagram_svg_has_names_as_text_and_no_links():
    svg = draw_diagram(CHAIN, "svg").decode()
    assert svg == draw_diagram(CHAIN, "svg").decode()
    assert all(f">{name}</text>" in svg for name in ("first", "second", "dataset", "result"))
    assert "<image" not in svg
    assert not re.search(r'href="(?!#)', svg)


def test_draw_diagram_any_script_and_signs_works():
    odd = Diagram.of(["$x^{"], [Node("日本$_{", "מודל", ("$x^{",), ("\\frac{",))])
    assert draw_diagram(odd).startswith(b"\x89PNG")


def test_draw_diagram_svg_has_a_title_for_screen_readers():
    diagram = Diagram.of(["a"], [Node("<Answer> & more", "m", ("a",), ("b",))])
    root = ElementTree.fromstring(draw_diagram(diagram, "svg"))
    assert root.attrib["role"] == "img"
    assert root[0].tag.endswith("title"), "a browser takes the first child alone"
    assert root[0].text == "Steps: dataset → <Answer> & more → result"


def test_draw_diagram_labels_every_arrow_once():
    """Every pair of six steps is connected: straight where they are neighbors, on an arc elsewhere."""
    arrows = tuple(Arrow(*ends, (f"from{ends[0]}to{ends[1]}",)) for ends in combinations(range(8), 2))
    nodes = tuple(Node(f"step{number}", "m", (), ()) for number in range(1, 7))
    svg = draw_diagram(Diagram(nodes, arrows), "svg").decode()
    labels = re.findall(r">(from\dto\d)</text>", svg)
    assert sorted(labels) == sorted(arrow.columns[0] for arrow in arrows)
    places = re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>from', svg)
    assert len(set(places)) == len(arrows), "no label lies on another"


def test_draw_diagram_long_name_breaks_after_underscore():
    outputs = ("difficulty", "difficulty_probabilities", "intent")
    svg = draw_diagram(Diagram.of(["a"], [Node("Judge", "m", ("a",), outputs)]), "svg").decode()
    lines = re.findall(r">([^<>]*)</text>", svg)
    assert [line for line in lines if "difficulty" in line or "prob" in line] == [
        "difficulty,",
        "difficulty_",
        "probabilities, intent",
    ]


def test_draw_without_inputs_has_no_dataset_box(tmp_path):
    Pipeline((Magpie(EchoLLM()),)).draw(file=tmp_path / "a.svg")
    picture = (tmp_path / "a.svg").read_text()
    assert "dataset" not in picture
    assert "<title>Steps: Magpie → result</title>" in picture
