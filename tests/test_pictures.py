import re

import pytest

from hfsynth.diagram import Diagram, Node
from hfsynth.publishing.figures import Lengths
from hfsynth.publishing.pictures import draw_diagram, draw_lengths

CHAIN = Diagram.of(["a"], [Node("first", "m", ("a",), ("b",)), Node("second", "m", ("b",), ("c",))])


@pytest.mark.parametrize("draw", [lambda: draw_diagram(CHAIN), lambda: draw_lengths({"a": Lengths.of({1: 2, 9: 1})})])
def test_a_picture_is_a_png_and_the_same_one_every_time(draw):
    assert draw().startswith(b"\x89PNG")
    assert draw() == draw()


def test_the_steps_as_svg_have_their_names_as_text_and_need_no_network():
    svg = draw_diagram(CHAIN, "svg").decode()
    assert svg == draw_diagram(CHAIN, "svg").decode()
    assert all(f">{name}</text>" in svg for name in ("first", "second", "dataset", "result"))
    assert "<image" not in svg
    assert not re.search(r'href="(?!#)', svg)


def test_names_in_any_script_and_with_any_signs_can_be_drawn():
    odd = Diagram.of(["$x^{"], [Node("日本$_{", "מודל", ("$x^{",), ("\\frac{",))])
    assert draw_diagram(odd).startswith(b"\x89PNG")
    assert draw_lengths({"$x^{": Lengths.of({3: 1})}).startswith(b"\x89PNG")
