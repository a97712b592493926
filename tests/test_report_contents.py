"""What a report shows: every part, in its order, and nothing of what isn't there."""

import pytest
from datasets import Dataset, List, Value

from hfsynth import SelfInstruct, TextGeneration, WellFormed, report
from tests.helpers import ScriptedLLM

ASKS = ScriptedLLM(("Why is tea <b>green</b>?\nSay it.", "!out of | memory", "Name a lake.\nName a river."))
ANSWERS = ScriptedLLM(("It is so.", "As an AI, I can't say."))
ORDER = [
    "Rows",
    "Diversity of the instructions",
    "Lengths",
    "Scripts",
    "Responses",
    "What each step made of the rows",
    "Generation",
    "Labels",
    "Scores",
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    texts = Dataset.from_dict({"input": [f"text {n}" for n in range(6)]})
    answer = TextGeneration(ANSWERS, output_mappings={"generation": "response"})
    pipeline = SelfInstruct(ASKS, num_instructions=2) >> WellFormed(min_words=3) >> answer
    made = pipeline.run(texts, run_dir=tmp_path_factory.mktemp("run"), quiet=True)
    rows = len(made)
    made = made.add_column("quality", ["good", "poor"] * (rows // 2) + [None] * (rows % 2), feature=Value("string"))
    made = made.add_column("quality_probabilities", [[0.5]] * rows, feature=List(Value("float64")))
    return report(made.add_column("reward", [n / 2 for n in range(rows)]))


def shown(told, title, head):
    """A table's lines: label → what stands in its cells."""
    section = next(section for section in told.sections() if section.title == title)
    table = next(table for table in section.tables if table.head[0] == head)
    return {line.label: [cell.value for cell in line.cells] for line in table.lines}


def test_every_part_is_shown_in_its_order(told):
    assert [section.title for section in told.sections()] == ORDER
    assert list(told.pictures()) == ["similarity.png", "words.png", "written.png", "funnel.png"]


def test_what_is_not_there_is_not_shown():
    plain = report(Dataset.from_dict({"instruction": ["Name a lake."]}))
    assert [section.title for section in plain.sections()] == ORDER[:4]


def test_what_is_shown_are_the_reports_values(told):
    assert shown(told, "Rows", "")["rows"] == [told.rows]
    funnel = shown(told, "What each step made of the rows", "step")
    assert funnel["WellFormed"] == [8, 6, 0, 2]
    assert shown(told, "What each step made of the rows", "dropped by") == {"WellFormed: too_short": [2]}
    assert shown(told, "Generation", "why rows failed") == {"SelfInstruct: out of | memory": [2]}
    assert shown(told, "Responses", "")["refusals, by English phrases"] == [3, 6, 0.5]
    assert shown(told, "Labels", "quality") == {"good": [4, 0.5], "poor": [4, 0.5]}
    assert shown(told, "Scores", "")["reward"] == [0, 0.5, 1.5, 2.5, 3.5, 1.75, 0]
    assert shown(told, "Lengths", "")["response, words"][0] == 3


def test_a_reason_of_a_failure_breaks_no_table(told):
    line = next(line for line in told.markdown().splitlines() if "memory" in line)
    assert line == r"| SelfInstruct: out of \| memory | 2 |"
    assert "&lt;b&gt;" not in told.html(), "instructions are not among what is shown"


@pytest.mark.parametrize(("text", "scripts"), [("Name it.", ""), ("写诗 of spring", "Cjk"), ("เขียน คน", "Thai")])
def test_lengths_note_that_signs_count_as_words(text, scripts):
    notes = str(report(Dataset.from_dict({"instruction": [text]})))
    assert (f"a script has no spaces: {scripts}." in " ".join(notes.split())) == bool(scripts)
    assert ("Each sign counts as a word" in notes) == bool(scripts)
