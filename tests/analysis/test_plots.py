import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from hfsynth.analysis.plots import draw_funnel, draw_lengths, draw_similarity
from hfsynth.analysis.text_stats import Lengths, Spread

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
