import re
from itertools import combinations
from xml.etree import ElementTree

from hfsynth import EchoLLM, Magpie, Pipeline
from hfsynth.pipeline import Arrow, Diagram
from hfsynth.publish.diagram_image import draw_diagram
from hfsynth.step import Node

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
