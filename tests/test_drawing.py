import re

from hfsynth.diagram import Diagram, Node
from hfsynth.publishing.drawing import draw_diagram

CHAIN = Diagram.of(["a"], [Node("first", "m", ("a",), ("b",)), Node("second", "m", ("b",), ("c",))])


def test_the_picture_is_a_png_and_the_same_one_every_time():
    assert draw_diagram(CHAIN).startswith(b"\x89PNG")
    assert draw_diagram(CHAIN) == draw_diagram(CHAIN)


def test_the_steps_as_svg_have_their_names_as_text_and_need_no_network():
    svg = draw_diagram(CHAIN, "svg").decode()
    assert svg == draw_diagram(CHAIN, "svg").decode()
    assert all(f">{name}</text>" in svg for name in ("first", "second", "dataset", "result"))
    assert "<image" not in svg
    assert not re.search(r'href="(?!#)', svg)


def test_names_in_any_script_and_with_any_signs_can_be_drawn():
    odd = Diagram.of(["$x^{"], [Node("日本$_{", "מודל", ("$x^{",), ("\\frac{",))])
    assert draw_diagram(odd).startswith(b"\x89PNG")
