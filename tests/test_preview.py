import re
from html import unescape

import pytest
from datasets import Dataset

from hfsynth import (
    BootstrapInstructions,
    ColumnError,
    Deduplicate,
    EchoLLM,
    InstructionRules,
    Judge,
    Magpie,
    Pipeline,
    SeedPool,
    TextGeneration,
)
from hfsynth.dry_run import Preview
from tests.helpers import NamedLLM, OnlyOnce, ScriptedLLM

NASTY = "<b>[bold]x[/bold]</b> \x1b[2J \x9b2J \u202e</pre><script>"
GIVEN = Dataset.from_dict({"instruction": ["a", "a", "b", None, "c"] * 9})


def flat(preview: Preview) -> str:
    """The text on one line, without frames."""
    return " ".join(re.sub(r"[│─╭╮╰╯]", " ", str(preview)).split())


SHORT = Dataset.from_dict({"instruction": ["a", "b"] * 20})


def longer(dataset):
    return dataset.filter(lambda row: len(row["instruction"] or "") > 1)


@pytest.fixture(scope="module")
def preview():
    return (OnlyOnce() >> TextGeneration(ScriptedLLM((NASTY, "!tired")))).preview(GIVEN, 3)


def test_a_terminal_shows_prompts_completions_columns_and_failures_as_they_are(preview):
    text = str(preview)
    for shown in ("user: a", "<b>[bold]x[/bold]</b>", "generation", "failed", "tired", "dropped", "repeated: 1 (a)"):
        assert shown in text
    assert "─ TextGeneration (scripted) ─" in text


def test_only_as_many_rows_are_shown_as_asked_for_and_the_heading_says_what_is_not(preview):
    assert len(re.findall(r"\brow \d+", str(preview))) == 6  # three of each step
    assert preview.estimate.measured == 16
    for text in (flat(preview), unescape(preview.html())):
        assert re.search(r"16 rows in, 6 out, \d+\.\d s; 13 are not shown, of which 9 dropped", text)
        assert re.search(r"6 rows in, 6 out, \d+\.\d s, 10 tokens; 3 are not shown, of which 2 failed", text)


def test_html_shows_the_same_and_nothing_in_rows_is_markup(preview):
    html = preview._repr_html_()
    assert "<script>" not in html
    assert "[bold]x[/bold]" in unescape(html)
    assert html.count("<pre") == html.count("</pre>")
    assert "http" not in html, "it needs no network"


@pytest.mark.parametrize("form", [str, Preview.html])
def test_nothing_steers_a_terminal_or_turns_the_writing_be_it_in_rows_or_names(form):
    step = TextGeneration(
        NamedLLM((NASTY,), model=f"m{NASTY}"), output_mappings={"generation": f"c{NASTY}"}, name=f"n{NASTY}"
    )
    shown = form(Pipeline((step,)).preview(Dataset.from_dict({"instruction": [NASTY]})))
    assert not set(shown) & {"\x1b", "\x9b", "\u202e"}
    assert "␛[2J" in shown
    assert "<U+009B>2J <U+202E>" in unescape(shown)


def test_a_function_says_nothing_of_single_rows():
    shown = flat(Pipeline((longer,)).preview(GIVEN))
    assert "16 rows in, 0 out" in shown
    assert "which row became what, a function doesn't say" in shown
    assert "kept" not in shown


def test_a_very_long_text_is_cut_in_its_middle_and_kept_whole_in_the_result():
    prompt = f"begin {'word ' * 50_000}end"
    shown = Pipeline((TextGeneration(ScriptedLLM()),)).preview(Dataset.from_dict({"instruction": [prompt]}))
    for text in (str(shown), shown.html()):
        assert len(text) < 40_000
        assert "begin word" in text
        assert "word end" in text
        assert f"{len(f'user: {prompt}') - 20_000:,} characters are not shown" in text
    assert shown.steps[0].rows[0].calls[0].prompt == f"user: {prompt}"


def test_the_estimate_is_told_with_its_range_and_what_it_does_not_hold(preview):
    text = flat(preview)
    assert "from 45 rows, by the 16 that were tried; ranges are 90% intervals:" in text
    assert re.search(r"rows made: about \d+ \(\d+ to \d+\), and about \d+ \(\d+ to \d+\) on which a step fails", text)
    assert re.search(r"at the speed of 6 rows at once; with more it is likely to be faster", text)
    assert "OnlyOnce compares rows with those before: the more rows, the more of them it drops" in text


def test_rows_from_nothing_can_be_previewed():
    shown = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).preview(n=2, measured=2)
    assert "Question 0" in str(shown)
    assert shown.estimate.rows.expected == 2
    assert "of the 2 that were tried (say num_rows=… for what so many accepted rows take)" in flat(shown)


def test_what_a_number_of_accepted_rows_takes_is_told():
    shown = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).preview(num_rows=1000)
    assert "until 1,000 rows are accepted, by the 16 that were tried" in flat(shown)
    assert "rows tried: about 1,024 (1,024 to 1,280) rows accepted: 1,000 rows on which a step fails" in flat(shown)


def test_a_pool_of_seeds_can_be_previewed():
    pool = SeedPool(seeds=tuple(f"Task {n}" for n in range(20)), round_size=50)
    shown = Pipeline((BootstrapInstructions(ScriptedLLM(("Say a.",))),)).preview(pool, num_rows=1010)
    assert shown.estimate.tried.expected == 1050
    assert shown.estimate.rows.expected == 1010


def test_a_goal_that_is_beyond_the_input_is_told_so():
    shown = (OnlyOnce() >> TextGeneration(EchoLLM())).preview(GIVEN, num_rows=1000)
    assert re.search(r"rows tried: 45 rows accepted: about \d+ \(.*\) of 1,000 wanted: the input or the", flat(shown))


def test_no_more_rows_are_tried_than_the_limit_says():
    shown = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).preview(num_rows=100, max_rows=5)
    assert shown.estimate.measured == 5


def test_limits_without_a_goal_are_an_error_as_in_a_run():
    with pytest.raises(ValueError, match=r"max_rows=3.*num_rows"):
        Pipeline((Magpie(EchoLLM()),)).preview(GIVEN, max_rows=3)


CHAIN = (
    InstructionRules()
    >> TextGeneration(EchoLLM(), output_mappings={"generation": "response"})
    >> Deduplicate(column="response")
)


def test_where_every_row_was_dropped_the_later_steps_are_told_to_be_untried():
    shown = flat(CHAIN.preview(SHORT))
    assert shown.count("not run: no row came as far as this") == 2
    assert "TextGeneration was not tried: what it takes is not in these numbers" in shown


def test_where_no_row_was_accepted_nobody_can_tell_what_a_goal_takes():
    shown = flat(CHAIN.preview(SHORT, num_rows=10))
    assert "none of them was accepted, so that nobody can tell what 10 take" in shown
    assert "tokens read" not in shown


def test_a_step_that_few_rows_came_to_is_told_so():
    shown = (OnlyOnce() >> Judge.quality(EchoLLM())).preview(Dataset.from_dict({"instruction": ["a"] * 90 + ["b"]}))
    assert "JudgeQuality was tried on 1 rows, which are too few to tell; try more, with measured=…" in flat(shown)


def test_a_dataset_without_rows_can_be_previewed():
    shown = CHAIN.preview(SHORT.select([]))
    assert shown.estimate.rows.expected == 0
    assert flat(shown).count("not run") == 3


def test_columns_and_filters_are_checked_before_a_model_is_loaded():
    with pytest.raises(ColumnError, match="step 3, Deduplicate needs column 'response'"):
        (InstructionRules() >> TextGeneration(EchoLLM()) >> Deduplicate(column="response")).preview(GIVEN)


def test_no_rows_to_show_is_an_error():
    with pytest.raises(ValueError, match="n is 0; a preview shows at least 1 row"):
        Pipeline((Magpie(EchoLLM()),)).preview(n=0)
