import random

import pytest
from datasets import Dataset

from hfsynth import Comparison, report
from hfsynth.analysis import diversity as neighbours
from hfsynth.analysis import text_stats as wording

WORDS = [f"word{n}" for n in range(300)]


def rows(seed, count, vocabulary):
    draw = random.Random(seed)
    texts = [" ".join(["Write", *draw.choices(WORDS[:vocabulary], k=8)]) for _ in range(count)]
    return Dataset.from_dict({"instruction": texts})


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Even measures that small datasets reach."""
    monkeypatch.setattr(neighbours, "EVEN_ROWS", (20,))
    monkeypatch.setattr(wording, "EVEN_GRAMS", (100,))


def lines(comparison, title):
    """A section's lines by their labels: what stands in their cells."""
    section = next(section for section in comparison.sections() if section.title == title)
    return {line.label: [cell.value for cell in line.cells] for table in section.tables for line in table.lines}


def test_every_number_of_both_stands_beside_the_other_with_the_difference():
    one, other = report(rows(1, 40, 300)), report(rows(2, 60, 10))
    compared = one.compare(other)
    assert lines(compared, "Rows")["rows"] == [40, 60, "+20"]
    shown = [lines(compared, section.title) for section in one.sections()]
    cells = [line.cells for section in one.sections() for table in section.tables for line in table.lines]
    assert sum(map(len, shown)) >= sum(map(len, cells))
    assert lines(compared, "Lengths")["instruction, words, median"] == [9, 9, "+0"]


def test_the_one_with_fewer_words_is_less_diverse_by_the_measures_on_as_many():
    compared = report(rows(1, 40, 300)).compare(report(rows(2, 60, 10)), names=("many", "few"))
    found = lines(compared, "Diversity of the instructions")
    assert found["20 rows, mean"][-1] == "many"
    assert found["distinct-1, share of 100"][-1] == "many"
    assert found["distinct-1, share"][-1] == "many *"
    assert found["equal to an earlier one, share"][-1] == "neither *"
    summary = lines(compared, "Which is more diverse")
    verdicts = [values[-1] for values in lines(compared, "Diversity of the instructions").values()]
    for name in ("many", "few", "neither"):
        assert summary[name] == [verdicts.count(name), verdicts.count(f"{name} *")]


def test_turned_round_the_verdicts_are_too():
    one, other = report(rows(1, 40, 300)), report(rows(2, 40, 10))
    there, back = (
        lines(one.compare(other), "Which is more diverse"),
        lines(other.compare(one), "Which is more diverse"),
    )
    assert there["first"] == back["second"]
    assert there["second"] == back["first"]
    assert there["first"][0] > there["second"][0]


def test_measures_on_different_amounts_are_marked_and_the_caution_is_stated():
    even = report(rows(1, 40, 300)).compare(report(rows(2, 40, 300)))
    uneven = report(rows(1, 40, 300)).compare(report(rows(2, 60, 300)))
    assert "* was measured on more rows" not in str(even)
    assert "* was measured on more rows" in str(uneven)
    assert "No measure could be taken" in str(report(rows(1, 10, 9)).compare(report(rows(2, 5, 9))))


def test_a_dataset_is_as_diverse_as_itself():
    told = report(rows(1, 40, 300))
    assert lines(told.compare(told), "Which is more diverse")["neither"][0] > 5
    assert "+1" not in str(told.compare(told))


def test_what_only_one_has_stands_beside_a_dash():
    answered = rows(1, 20, 50).add_column("response", ["Yes."] * 20)
    compared = report(rows(1, 20, 50)).compare(report(answered))
    assert lines(compared, "Responses")["refusals, by English phrases, of"] == [None, 20, "–"]
    assert list(compared.pictures()) == ["similarity.png"]
    for form in (compared.text(), compared.markdown(), compared.html()):
        assert "Which is more diverse" in form


def test_a_comparison_comes_back_from_json():
    compared = report(rows(1, 20, 50)).compare(report(rows(2, 20, 50)), names=("a", "b"))
    assert Comparison.from_json(compared.to_json()) == compared
    with pytest.raises(ValueError, match="this is no comparison that this version can read"):
        Comparison.from_json(compared.first.to_json())


def test_what_is_no_report_or_has_the_others_name_is_an_error():
    told = report(rows(1, 20, 50))
    with pytest.raises(TypeError, match="not with Dataset"):
        told.compare(rows(1, 2, 2))
    with pytest.raises(ValueError, match=r"names are \('a', 'a'\)"):
        told.compare(told, ("a", "a"))
