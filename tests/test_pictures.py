"""The pictures of a dataset: words in them, and nothing that a dark page would swallow."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from hfsynth.analysis.plots import draw_funnel, draw_lengths, draw_similarity
from hfsynth.analysis.text_stats import Lengths, Spread

NEAREST = Spread.of(np.linspace(0.1, 0.9, 50), (0.0, 1.0))
PICTURES = {
    "similarity": lambda: draw_similarity({"instructions": NEAREST}, 0.7),
    "similarities": lambda: draw_similarity({"$one^{": NEAREST, "漢字": NEAREST}, 0.7),
    "lengths": lambda: draw_lengths({"instruction": Lengths.of({3: 5, 9: 2})}, "words"),
    "funnel": lambda: draw_funnel([("SelfInstruct", 10, 25, 3), ("$odd^{" * 20, 25, 0, 0), ("last", 0, 0, 0)]),
}


def luminance(pixels):
    """The relative luminance of sRGB colours, as WCAG defines it."""
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_opaque_white_with_dark_ink_so_that_it_is_legible_on_any_page(draw):
    pixels = imread(io.BytesIO(draw()))
    assert pixels.shape[2] == 3 or (pixels[..., 3] == 1).all(), "no page shines through"
    light = luminance(pixels[..., :3])
    border = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    assert np.median(border) == pytest.approx(1)
    assert (1 + 0.05) / (light.min() + 0.05) > 12, "the contrast of text with its ground; WCAG asks for 7 at most"
    assert (light < 0.3).mean() > 0.003, "there is ink"


def test_names_in_any_script_and_with_any_signs_can_be_drawn():
    assert draw_lengths({"$x^{": Lengths.of({3: 1}), "מודל": Lengths.of({3: 1})}, "words").startswith(b"\x89PNG")


def test_many_histograms_stand_in_rows_of_three():
    heights, widths = zip(
        *(
            imread(io.BytesIO(draw_lengths(dict.fromkeys("abcdefg"[:count], Lengths.of({3: 1})), "words"))).shape[:2]
            for count in (1, 3, 7)
        ),
        strict=True,
    )
    assert widths == (396, 1188, 1188)
    assert heights == (286, 286, 858)


def test_a_dark_style_of_the_users_changes_no_picture():
    import matplotlib.pyplot as plt

    plain = {name: draw() for name, draw in PICTURES.items()}
    with plt.style.context("dark_background"):
        assert {name: draw() for name, draw in PICTURES.items()} == plain


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_a_png_and_the_same_one_every_time(draw):
    assert draw().startswith(b"\x89PNG")
    assert draw() == draw()
