import json
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from hfsynth import (
    BootstrapInstructions,
    ColumnError,
    Deduplicate,
    EchoLLM,
    EvolInstruct,
    GenerationError,
    InstructionRules,
    Judge,
    Magpie,
    Pipeline,
    SeedPool,
    SelfInstruct,
    TextGeneration,
)
from hfsynth.dry_run import (
    Call,
    Estimate,
    Interval,
    Preview,
    TracedRow,
    TracedStep,
    estimate,
    estimate_lines,
    row_parts,
    step_summary,
    trace_steps,
    visible,
)
from hfsynth.llm import Completion
from hfsynth.runner.rounds import DatasetRows, EmptyRows, Target
from tests.helpers import NamedLLM, OnlyOnce, RepeatingLLM

GOLDEN = Path(__file__).parent / "golden"
FOUR_ROWS = Dataset.from_dict({"instruction": ["Make tea.", "Make tea.", None, "Sing."]})


def first_two(dataset):
    return dataset.select(range(2))


def none(dataset):
    return dataset.select([])


def trace(steps, dataset):
    return trace_steps(Pipeline(tuple(steps)).steps, dataset)


# the traced run


@dataclass(frozen=True)
class Unloadable(RepeatingLLM):
    def load(self):
        raise GenerationError("it can't be loaded")


@dataclass(frozen=True)
class Announcing(RepeatingLLM):
    def load(self):
        print("load")

    def unload(self):
        print("unload")


def test_trace_keeps_each_prompt_and_completion():
    (step,) = trace([EvolInstruct(RepeatingLLM(("Make green tea.",)), generate_answers=True)], FOUR_ROWS.select([0]))
    (row,) = step.rows
    assert "#Given Prompt#:\nMake tea." in row.calls[0].prompt
    assert row.calls[1].prompt == "user: Make green tea."
    assert [call.raw for call in row.calls] == ["Make green tea."] * 2
    assert row.outputs[0]["evolved_instruction"] == "Make green tea."
    assert (row.tokens, step.tokens) == (10, 10)


def test_trace_of_failed_rows_has_reason_and_calls():
    (step,) = trace([TextGeneration(RepeatingLLM(("!too tired", "fine")))], FOUR_ROWS)
    assert [row.error for row in step.rows] == ["too tired", "", "instruction is None", "too tired"]
    assert [len(row.calls) for row in step.rows] == [1, 1, 0, 1]
    assert step.rows[0].calls[0].completion.error == "too tired"
    assert step.rows_out == 4


def test_trace_of_flow_without_requests_has_no_calls():
    (step,) = trace([EvolInstruct(EchoLLM(), num_evolutions=0)], FOUR_ROWS.select([0]))
    assert step.rows[0].calls == ()
    assert step.rows[0].outputs[0]["evolved_instruction"] == "Make tea."


def test_trace_of_judge_has_scores_and_mapped_columns():
    (step,) = trace([Judge.quality(EchoLLM())], FOUR_ROWS.select([0]))
    (row,) = step.rows
    assert set(row.outputs[0]) == {"quality", "quality_probabilities"}
    assert len(row.calls[0].choices) == len(row.calls[0].completion.scores) == 5


def test_trace_runs_filters_and_functions():
    first, second, third = trace([OnlyOnce(), first_two, TextGeneration(EchoLLM())], FOUR_ROWS)
    assert [row.error for row in first.rows] == ["", "repeated: 1 (Make tea.)", "", ""]
    assert [row.rows_out for row in first.rows] == [1, 0, 1, 1]
    assert first.rows[1].outputs == ({"instruction": "Make tea."},)
    assert (first.rows_out, second.rows_out, len(third.rows)) == (3, 2, 2)
    assert (first.stateful, second.stateful) == (True, False)


def test_trace_of_function_has_numbers_only():
    (step,) = trace([first_two], FOUR_ROWS)
    assert (step.rows, step.rows_in, step.rows_out) == ((), 4, 2)


def test_trace_marks_rows_that_failed_upstream():
    answer = TextGeneration(RepeatingLLM(("!tired", "fine")))
    _, judge, cut = trace([answer, Judge.quality(EchoLLM()), first_two], FOUR_ROWS)
    assert [row.upstream_ok for row in judge.rows] == [False, True, False, False]
    assert [row.accepted for row in judge.rows] == [0, 1, 0, 0]
    assert (judge.failed_in, judge.failed_out, cut.failed_out) == (3, 3, 1)


def test_trace_runs_no_step_that_no_row_reaches():
    first, second, third = trace([first_two, none, TextGeneration(Unloadable())], FOUR_ROWS)
    assert (second.rows_out, third.rows_in, third.rows_out, third.rows) == (0, 0, 0, ())
    assert first.rows_out == 2


def test_trace_has_one_model_in_memory_at_a_time(capsys):
    first, second = Announcing(("fine",)), Announcing(("good",))
    other = TextGeneration(first, output_mappings={"generation": "other"})
    trace([TextGeneration(first), other, Judge.quality(second)], FOUR_ROWS)
    assert capsys.readouterr().out.split() == ["load", "load", "unload", "load"]


def test_trace_counts_rows_that_become_several():
    llm = RepeatingLLM(("1. Say a.\n2. Say b.",))
    first, second = trace([SelfInstruct(llm), TextGeneration(llm)], Dataset.from_dict({"input": ["x", "y"]}))
    assert [row.rows_out for row in first.rows] == [2, 2]
    assert len(second.rows) == first.rows_out == 4


def test_trace_matches_the_run_and_writes_no_files(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"instruction": "say {n}"}}\n' for n in range(6)))
    rows = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    pipeline = TextGeneration(EchoLLM()) >> Judge.quality(EchoLLM())
    before = sorted(tmp_path.rglob("*"))
    traced = trace_steps(pipeline.steps, rows.select(range(4)))
    assert sorted(tmp_path.rglob("*")) == before
    result = pipeline.run(rows, run_dir=tmp_path / "run", quiet=True)
    probabilities = [row.outputs[0]["quality_probabilities"] for row in traced[1].rows]
    assert probabilities == result["quality_probabilities"][:4]


@pytest.mark.model
def test_trace_of_real_model_has_special_tokens(smollm):
    from hfsynth import SamplingParams

    short = SamplingParams(temperature=0, max_new_tokens=40)
    (step,) = trace([TextGeneration(smollm, sampling=short)], Dataset.from_dict({"instruction": ["Say only: yes"]}))
    (call,) = step.rows[0].calls
    assert call.prompt.endswith("<|im_start|>user\nSay only: yes<|im_end|>\n<|im_start|>assistant\n")
    assert call.raw.removesuffix("<|im_end|>").strip() == call.completion.text
    assert call.completion.finish_reason == "length" or call.raw.endswith("<|im_end|>")


# the estimate

TRIES = 300


def row(index, tokens, **outcome):
    completion = Completion(
        text="", finish_reason="stop", prompt_tokens=tokens // 2, completion_tokens=tokens - tokens // 2
    )
    return TracedRow(index, (Call("", "", completion),), **outcome)


def step(*rows, seconds=1.0, model="m"):
    rows_out = sum(one.rows_out for one in rows)
    return TracedStep(
        name="a",
        model=model,
        rows=rows,
        seconds=seconds,
        rows_in=len(rows),
        rows_out=rows_out,
        failed_in=sum(not one.upstream_ok for one in rows),
        failed_out=rows_out - sum(one.accepted for one in rows),
    )


def sieve(*kept):
    """A filter that keeps the rows with a 1."""
    rows = (TracedRow(index, error="" if keep else "bad", rows_out=keep) for index, keep in enumerate(kept))
    return step(*rows, model="")


def over(steps, rows, measured=16, goal=None):
    return estimate(steps, EmptyRows(num_rows=rows), measured, goal)


def test_estimate_carries_rows_and_tokens_from_step_to_step():
    several = step(row(0, 10, rows_out=3), row(1, 30, rows_out=1), seconds=2)
    answers = step(*(row(index, 100) for index in range(4)), seconds=4)
    found = over([several, answers], 1000)
    assert found.rows.expected == 2000
    assert found.tokens.expected == 1000 * 20 + 2000 * 100
    assert found.hours.expected == pytest.approx((1000 * 2 / 2 + 2000 * 4 / 4) / 3600)


def test_estimate_counts_failed_rows_once():
    first = step(row(0, 10, error="tired"), *(row(index, 10) for index in range(1, 4)))
    second = step(
        TracedRow(0, error="generation is None", upstream_ok=False),
        row(1, 8, error="tired"),
        row(2, 8, rows_out=2),
        row(3, 8),
    )
    found = over([first, second], 400)
    assert (found.rows.expected, found.failed.expected) == pytest.approx((300, 200))
    assert found.tokens.expected == pytest.approx(400 * 10 + 300 * 8)


def test_estimate_of_the_traced_rows_alone_is_exact():
    found = over([step(row(0, 10), row(1, 30))], 2, measured=2)
    assert found.tokens == Interval(40, 40, 40)
    assert found.exact


def test_estimate_leaves_out_dropped_rows():
    found = over([sieve(0, 1), step(row(0, 50))], 100)
    assert (found.rows.expected, found.tokens.expected) == (50, 2500)
    assert found.rows.low < 50 < found.rows.high


def test_interval_of_filter_that_dropped_none_or_all_is_wide():
    kept, dropped = over([sieve(*[1] * 16)], 1000).rows, over([sieve(*[0] * 16)], 1000).rows
    assert (kept.expected, kept.high) == (1000, 1000)
    assert 800 < kept.low < 900
    assert (dropped.expected, dropped.low) == (0, pytest.approx(0, abs=1))
    assert 100 < dropped.high < 200


def test_estimate_of_function_uses_its_share_of_rows():
    found = over([TracedStep("f", "", (), 0.1, rows_in=8, rows_out=2)], 100).rows
    assert found.expected == 25
    assert found.low < 15 < 40 < found.high


def test_estimate_of_function_that_removes_failed_rows():
    first = step(row(0, 10, error="tired"), row(1, 10))
    function = TracedStep("f", "", (), 0.1, rows_in=2, rows_out=1, failed_in=1, failed_out=0)
    found = over([first, function], 100)
    assert (found.rows.expected, found.failed.expected) == (50, 0)


def test_estimate_of_unreached_step_is_0():
    unreached = TracedStep("a", "m", (), 0.0, rows_in=0, rows_out=0)
    assert over([sieve(0), unreached], 100).rows.expected == 0
    assert over([sieve(0), unreached], 100).tokens.high == 0


def test_estimate_of_same_rows_is_the_same():
    steps = [step(*(row(n, n * 7 % 50) for n in range(9)))]
    assert over(steps, 1000) == over(steps, 1000)


def test_estimate_of_goal_tries_full_chunks():
    found = over([sieve(*[1, 0] * 8), step(*(row(n, 50) for n in range(8)))], None, goal=Target(1000))
    assert found.tried.expected == 128 + 512 + 1408  # the rounds of `Usage.next_round`
    assert found.tried.low < 2048 < found.tried.high
    assert found.rows == Interval(1000, 1000, 1000)
    assert found.tokens.expected == 2048 / 2 * 50


@pytest.mark.parametrize(("goal", "rows"), [(Target(1000, max_rows=300), None), (Target(1000), 300)])
def test_estimate_of_goal_ends_with_the_input(goal, rows):
    found = over([sieve(1, 0), step(row(0, 50))], rows, goal=goal)
    assert found.tried == Interval(300, 300, 300)
    assert found.rows.expected == 150


def test_estimate_of_goal_ends_with_the_tokens():
    found = over([step(row(0, 50), row(1, 50))], None, goal=Target(1000, max_tokens=20_000))
    assert 128 <= found.tried.expected <= 400
    assert round(found.tokens.high) <= 20_000


def test_estimate_of_dataset_uses_its_length():
    source = DatasetRows(Dataset.from_dict({"a": list(range(30))}))
    assert estimate([sieve(1, 0)], source, 16).rows.expected == 15


def coverage(intervals, truth):
    """Return the share of intervals that hold the truth; of 300 with 90%, one standard deviation is 1.7%."""
    return sum(found.low <= truth <= found.high for found in intervals) / TRIES


def filtered(rng, rows, drop_rate):
    return sieve(*(int(number > drop_rate) for number in rng.random(rows)))


def answered(rng, rows, spread):
    return step(*(row(index, round(tokens)) for index, tokens in enumerate(rng.lognormal(5, spread, rows))))


@pytest.mark.parametrize(("drop_rate", "rows"), [(0.05, 16), (0.2, 16), (0.5, 16), (0.2, 64)])
def test_interval_of_rows_holds_truth_in_90_percent(drop_rate, rows):
    rng = np.random.default_rng(1)
    found = (over([filtered(rng, rows, drop_rate)], 10_000, rows).rows for _ in range(TRIES))
    assert coverage(found, 10_000 * (1 - drop_rate)) >= 0.86


def test_interval_of_rows_to_try_holds_truth_in_90_percent():
    rng = np.random.default_rng(2)
    found = (over([filtered(rng, 16, 0.5)], None, goal=Target(1000)).tried for _ in range(TRIES))
    assert coverage(found, 2048) >= 0.86


@pytest.mark.parametrize("spread", [0.2, 0.7, 1.0])
def test_interval_of_tokens_holds_truth_in_90_percent(spread):
    rng = np.random.default_rng(3)
    found = (over([answered(rng, 16, spread)], 10_000).tokens for _ in range(TRIES))
    assert 0.86 <= coverage(found, 10_000 * np.exp(5 + spread**2 / 2)) <= 0.96


def test_interval_of_chain_holds_truth_in_90_percent():
    rng = np.random.default_rng(4)

    def chain():
        kept = filtered(rng, 16, 0.3)
        return [answered(rng, 16, 0.7), kept, answered(rng, max(kept.rows_out, 1), 0.5)]

    found = (over(chain(), 10_000).tokens for _ in range(TRIES))
    truth = 10_000 * (np.exp(5 + 0.7**2 / 2) + 0.7 * np.exp(5 + 0.5**2 / 2))
    assert 0.86 <= coverage(found, truth) <= 0.96


def test_interval_with_four_times_the_rows_is_half_as_wide():
    few, more = (over([sieve(*[1, 0] * half)], 10_000, 2 * half).rows for half in (16, 64))
    assert (few.high - few.low) / (more.high - more.low) == pytest.approx(2, rel=0.05)


# the preview

NASTY = "<b>[bold]x[/bold]</b> \x1b[2J \x9b2J \u202e</pre><script>"
ROWS = Dataset.from_dict({"instruction": ["a", "a", "b", None, "c"] * 9})
SHORT = Dataset.from_dict({"instruction": ["a", "b"] * 20})
CHAIN = (
    InstructionRules()
    >> TextGeneration(EchoLLM(), output_mappings={"generation": "response"})
    >> Deduplicate(column="response")
)


@pytest.fixture(scope="module")
def preview():
    return (OnlyOnce() >> TextGeneration(RepeatingLLM((NASTY, "!tired")))).preview(ROWS, 3)


def test_preview_of_n_rows_traces_more_for_the_estimate(preview):
    assert (preview.n, preview.estimate.measured) == (3, 16)
    assert len(re.findall(r"\brow \d+", str(preview))) == len(re.findall(r"<summary>row \d+", preview.html())) == 6


def test_preview_displays_texts_as_they_are(preview):
    assert "<b>[bold]x[/bold]</b>" in str(preview)
    html = preview._repr_html_()
    assert "<script>" not in html
    assert "[bold]x[/bold]" in unescape(html)
    assert html.count("<pre") == html.count("</pre>")
    assert "http" not in html


@pytest.mark.parametrize("render", [str, Preview.html])
def test_preview_has_no_control_characters(render):
    step = TextGeneration(
        NamedLLM((NASTY,), model=f"m{NASTY}"), output_mappings={"generation": f"c{NASTY}"}, name=f"n{NASTY}"
    )
    text = render(Pipeline((step,)).preview(Dataset.from_dict({"instruction": [NASTY]})))
    assert not set(text) & {"\x1b", "\x9b", "\u202e"}
    assert "␛[2J" in text
    assert "<U+009B>2J <U+202E>" in unescape(text)


def test_preview_of_long_text_omits_its_middle():
    prompt = f"begin {'word ' * 50_000}end"
    preview = Pipeline((TextGeneration(RepeatingLLM()),)).preview(Dataset.from_dict({"instruction": [prompt]}))
    for text in (str(preview), preview.html()):
        assert len(text) < 40_000
        assert "begin word" in text
        assert "word end" in text
        assert f"{len(f'user: {prompt}') - 20_000:,} characters" in text
    assert preview.steps[0].rows[0].calls[0].prompt == f"user: {prompt}"


def test_preview_of_endless_input_counts_traced_rows():
    preview = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).preview(n=2, measured=2)
    assert "Question 0" in str(preview)
    assert preview.estimate.rows.expected == 2
    assert "num_rows" in estimate_lines(preview.estimate, preview.steps)[0]


def test_preview_of_goal_estimates_rows_to_try():
    preview = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).preview(num_rows=1000, chunk_size=128)
    assert preview.estimate.tried == Interval(1024, 1024, pytest.approx(1280))
    assert preview.estimate.rows.expected == 1000


def test_preview_of_seed_pool_uses_its_rounds():
    pool = SeedPool(seeds=tuple(f"Task {n}" for n in range(20)), round_size=50)
    preview = Pipeline((BootstrapInstructions(RepeatingLLM(("Say a.",))),)).preview(pool, num_rows=1010)
    assert preview.estimate.tried.expected == 1050
    assert preview.estimate.rows.expected == 1010


def test_preview_of_goal_beyond_the_input_names_it():
    preview = (OnlyOnce() >> TextGeneration(EchoLLM())).preview(ROWS, num_rows=1000)
    assert preview.estimate.tried.expected == 45
    (line,) = [line for line in estimate_lines(preview.estimate, preview.steps) if line.startswith("accepted rows")]
    assert "1,000" in line


def test_preview_traces_no_more_than_max_rows():
    preview = Pipeline((Magpie(EchoLLM(), only_instruction=True),)).preview(num_rows=100, max_rows=5)
    assert preview.estimate.measured == 5


def test_preview_with_limits_alone_is_an_error():
    with pytest.raises(ValueError, match=r"max_rows.*num_rows"):
        Pipeline((Magpie(EchoLLM()),)).preview(ROWS, max_rows=3)


def test_preview_of_no_rows_is_an_error():
    with pytest.raises(ValueError, match=r"n must be positive, got 0"):
        Pipeline((Magpie(EchoLLM()),)).preview(n=0)


def test_preview_checks_columns_before_loading():
    with pytest.raises(ColumnError, match=r"step 3, Deduplicate .*'response'"):
        (InstructionRules() >> TextGeneration(Unloadable()) >> Deduplicate(column="response")).preview(ROWS)


def test_preview_all_rows_dropped_names_unreached_steps():
    preview = CHAIN.preview(SHORT)
    assert [step.rows_in for step in preview.steps] == [16, 0, 0]
    warnings = "\n".join(estimate_lines(preview.estimate, preview.steps))
    assert "TextGeneration was not run" in warnings


def test_preview_without_accepted_row_has_no_estimate():
    preview = CHAIN.preview(SHORT, num_rows=10)
    assert len(estimate_lines(preview.estimate, preview.steps)) == 2


def test_preview_warns_of_steps_with_few_rows():
    rows = Dataset.from_dict({"instruction": ["a"] * 90 + ["b"]})
    preview = (OnlyOnce() >> Judge.quality(EchoLLM())).preview(rows)
    warnings = "\n".join(estimate_lines(preview.estimate, preview.steps))
    assert "JudgeQuality ran on 1 row" in warnings
    assert "OnlyOnce compares rows" in warnings


def test_preview_of_empty_dataset_expects_no_rows():
    preview = CHAIN.preview(SHORT.select([]))
    assert preview.estimate.rows.expected == 0
    assert {step_summary(step, 3) for step in preview.steps} == {"not run: no row reached this step"}


def test_step_summary_of_function_has_no_outcomes():
    summary = step_summary(TracedStep("f", "", (), 0.1, rows_in=16, rows_out=0), 3)
    assert summary.startswith("16 rows in, 0 rows out, 0.1 s")
    assert "displayed" not in summary


@pytest.fixture
def fixed_preview():
    """A preview with every kind of part, and a time that doesn't depend on this machine."""
    answer = Completion(text="Hi", finish_reason="stop", prompt_tokens=3, completion_tokens=2)
    scored = Completion(text="b", finish_reason="stop", prompt_tokens=7, scores=(-2.0, -0.5))
    steps = (
        TracedStep(
            "OnlyOnce",
            "",
            (TracedRow(0), TracedRow(1, outputs=({"instruction": "a"},), error="repeated: 1 (a)", rows_out=0)),
            0.02,
            rows_in=2,
            rows_out=1,
            stateful=True,
        ),
        TracedStep("longer", "", (), 0.01, rows_in=1, rows_out=1),
        TracedStep(
            "Answer",
            "some/model",
            (
                TracedRow(
                    0, (Call("<|user|>a", "Hi<|end|>", answer), Call("p", "", scored, ("a", "b"))), ({"x": "Hi"},)
                ),
            ),
            2.5,
            rows_in=1,
            rows_out=1,
        ),
        TracedStep("Judge", "some/model", (TracedRow(0, error="no <label>", upstream_ok=True),), 1, 1, 1, 0, 1),
    )
    totals = (
        Interval(400, 500, 600),
        Interval(90, 100, 100),
        Interval(0, 10, 40),
        Interval(3000, 4000, 5500),
        Interval(0.5, 0.75, 1.25),
    )
    return Preview(steps, Estimate(2, 1000, 100, *totals), 1)


@pytest.mark.parametrize("name", ["preview.txt", "preview.html"])
def test_preview_matches_golden_file(fixed_preview, name):
    """To write the files anew: delete them, run this test twice, and read them."""
    output = str(fixed_preview) if name.endswith("txt") else fixed_preview.html()
    if not (GOLDEN / name).exists():
        (GOLDEN / name).write_text(output, encoding="utf-8")
        pytest.fail(f"{name} was missing and is written now: read it.")
    assert output == (GOLDEN / name).read_text(encoding="utf-8")


# parts of a row


def test_visible_replaces_control_characters():
    assert visible("a\x1bb\x7fc\x9bd\r") == "a␛b␡c<U+009B>d␍"
    assert visible("\u202e\u2066\u2028\ufeff\ud800") == "<U+202E><U+2066><U+2028><U+FEFF><U+D800>"


def test_visible_keeps_lines_tabs_spaces_and_joiners():
    text = "c\nd\te\u00a0f\u3000\u0645\u06cc\u200c\u062e 👩\u200d💻"
    assert visible(text) == text


def test_row_parts_of_long_lists_are_json_on_several_lines():
    messages = [{"role": "user", "content": f"Größe {'!' * 80}"}]
    parts = row_parts(TracedRow(0, outputs=({"short": [1, None], "long": messages},)))
    texts = {part.heading: part.text for part in parts}
    assert texts["short"] == "[1, null]"
    assert texts["long"].startswith('[\n  {\n    "role": "user",\n    "content": "Größe !')
    assert json.loads(texts["long"]) == messages


def test_row_parts_of_other_values_are_as_python_writes_them():
    parts = row_parts(TracedRow(0, outputs=({"a": None, "b": True, "c": 1.5, "d": "x"},)))
    assert [part.text for part in parts] == ["None", "True", "1.5", "x"]


def test_row_parts_of_choices_begin_with_the_best():
    completion = Completion(text="b", finish_reason="stop", prompt_tokens=7, scores=(-2.0, -0.5))
    (_, scores) = row_parts(TracedRow(0, (Call("p", "", completion, ("a", "b")),)))
    assert scores.text == "   -0.500  b\n   -2.000  a"
