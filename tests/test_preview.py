import re
from html import unescape

import pytest
from datasets import Dataset

from hfsynth import EchoLLM, Magpie, Pipeline, TextGeneration
from hfsynth.previewing.preview import Preview
from tests.helpers import NamedLLM, OnlyOnce, ScriptedLLM

NASTY = "<b>[bold]x[/bold]</b> \x1b[2J \x9b2J \u202e</pre><script>"


@pytest.fixture(scope="module")
def preview():
    pipeline = OnlyOnce() >> TextGeneration(ScriptedLLM((NASTY, "!tired")))
    return pipeline.preview(Dataset.from_dict({"instruction": ["a", "a", "b", None, "c"] * 9}), 3)


def test_a_terminal_shows_prompts_completions_columns_and_failures_as_they_are(preview):
    text = str(preview)
    for shown in ("user: a", "<b>[bold]x[/bold]</b>", "generation", "failed", "tired", "dropped", "repeated 1 a"):
        assert shown in text
    assert "OnlyOnce: 16 rows in" in text
    assert "TextGeneration (scripted): " in text


def test_only_as_many_rows_are_shown_as_asked_for(preview):
    assert len(re.findall(r"\brow \d+", str(preview))) == 6  # three of each step
    assert preview.estimate.measured == 16


def test_html_shows_the_same_and_nothing_in_rows_is_markup(preview):
    html = preview._repr_html_()
    assert "<script>" not in html
    assert "[bold]x[/bold]" in unescape(html)
    assert html.count("<pre") == html.count("</pre>")
    assert "http" not in html, "it needs no network"


def test_the_estimate_is_told_with_its_range(preview):
    assert re.search(r"rows made: about \d+ \(\d+ to \d+\)", str(preview))
    assert "from 45 rows, by 16 that were tried" in str(preview)


@pytest.mark.parametrize("form", [str, Preview.html])
def test_nothing_steers_a_terminal_or_turns_the_writing_be_it_in_rows_or_names(form):
    step = TextGeneration(
        NamedLLM((NASTY,), model=f"m{NASTY}"), output_mappings={"generation": f"c{NASTY}"}, name=f"n{NASTY}"
    )
    shown = form(Pipeline((step,)).preview(Dataset.from_dict({"instruction": [NASTY]})))
    assert not set(shown) & {"\x1b", "\x9b", "\u202e"}
    assert "␛[2J" in shown
    assert "<U+009B>2J <U+202E>" in unescape(shown)


def test_a_very_long_text_is_cut_in_its_middle_and_kept_whole_in_the_result():
    prompt = f"begin {'word ' * 50_000}end"
    shown = Pipeline((TextGeneration(ScriptedLLM()),)).preview(Dataset.from_dict({"instruction": [prompt]}))
    for text in (str(shown), shown.html()):
        assert len(text) < 40_000
        assert "begin word" in text
        assert "word end" in text
        assert f"{len(f'user: {prompt}') - 20_000:,} characters are not shown" in text
    assert shown.steps[0].rows[0].calls[0].prompt == f"user: {prompt}"


def test_rows_from_nothing_can_be_previewed():
    shown = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).preview(n=2, measured=2)
    assert "Question 0" in str(shown)
    assert shown.estimate.rows.expected == 2


def test_no_rows_to_show_is_an_error():
    with pytest.raises(ValueError, match="n is 0; a preview shows at least 1 row"):
        Pipeline((Magpie(EchoLLM()),)).preview(n=0)
