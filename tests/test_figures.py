import random
import statistics
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from hfsynth import Deduplicate, report
from hfsynth.analysis import text_stats as figures
from hfsynth.analysis.text_stats import ColumnFigures, column_figures, script_of
from hfsynth.data import text_columns

CHAT = List({"role": Value("string"), "content": Value("string")})


def of(texts, kind=None):
    features = Features({"text": kind or Value("string")})
    return column_figures(Dataset.from_dict({"text": texts}, features=features), "text")


@pytest.fixture(params=[3, 5000])
def batch(request, monkeypatch):
    monkeypatch.setattr(figures, "_ROWS_AT_ONCE", request.param)


@pytest.mark.usefixtures("batch")
@pytest.mark.parametrize("seed", range(5))
def test_every_figure_is_that_of_a_plain_count_over_the_texts(seed):
    draw = random.Random(seed)
    texts = ["x" * draw.choice([1, 2, 3, 50, 51, 400]) for _ in range(draw.choice([1, 2, 7, 100]))] + [None, ""]
    found = of(texts)
    full = [text for text in texts if text]
    lengths = sorted(map(len, full))
    assert found.empty == 2
    assert found.duplicates == len(full) - len(set(full))
    assert (found.lengths.smallest, found.lengths.largest) == (lengths[0], lengths[-1])
    assert found.lengths.median == statistics.median_low(lengths)
    assert found.lengths.mean == pytest.approx(statistics.fmean(lengths))
    for share, quartile in ((0.25, found.lengths.lower), (0.75, found.lengths.upper)):
        assert quartile == np.quantile(lengths, share, method="inverted_cdf")
    assert sum(found.lengths.counts) == len(full)
    edges = found.lengths.edges
    for left, right, count in zip(edges, edges[1:], found.lengths.counts, strict=False):
        assert count == sum(left <= length < right or length == right == edges[-1] for length in lengths)
    assert found.scripts == {"LATIN": sum(lengths)}


@pytest.mark.parametrize(
    "texts",
    [
        ["Name it.", "name  IT.", "Ｎame it.", " ", "\n\t", "\u3000", None, "Name it!"],
        ["안녕", "\u110b\u1161\u11ab\u1102\u1167\u11bc", "안녕\u200b", "ﬁne", "FINE", ""],
        ["a"],
    ],
)
def test_column_figures_count_duplicates_as_the_report_does(texts):
    found = of(texts)
    measured = report(Dataset.from_dict({"text": texts}), "text")
    assert (found.duplicates, found.empty) == (measured.duplicates, measured.instructions.empty)
    dataset = Dataset.from_dict({"text": [text for text in texts if text and text.strip()]})
    assert found.duplicates == len(dataset) - len(Deduplicate(column="text")(dataset))


@pytest.mark.usefixtures("batch")
def test_letters_are_counted_by_script_and_nothing_else_is():
    texts = ["Grüße, 12!", "Привет", "漢字 kana かな", "🙂"]
    expected = Counter(script_of(ord(sign)) for text in texts for sign in text if sign.isalpha())
    assert of(texts).scripts == expected == {"LATIN": 9, "CYRILLIC": 6, "CJK": 2, "HIRAGANA": 2}


@pytest.mark.usefixtures("batch")
def test_of_a_conversation_all_that_is_said_counts():
    chats = [[{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}], None, []]
    found = of([*chats, chats[0]], CHAT)
    assert (found.empty, found.duplicates, found.lengths.largest) == (2, 1, len("ab\nc"))


def test_where_no_text_is_there_are_no_lengths():
    assert of([None, " "]) == ColumnFigures(empty=2, duplicates=0, lengths=None, scripts={})
    assert of([]) == ColumnFigures(empty=0, duplicates=0, lengths=None, scripts={})


def test_the_columns_that_have_figures_are_those_of_texts_and_conversations():
    features = Features({"a": Value("string"), "n": Value("int64"), "c": CHAT, "l": List(Value("string"))})
    assert text_columns(features) == ["a", "c"]


def test_figures_come_back_from_json():
    for found in (of(["a", "bb", "a"]), of([None])):
        assert ColumnFigures.from_json(asdict(found)) == found


def test_a_lone_surrogate_does_not_stop_the_count():
    assert figures.hash_of("\ud800") != figures.hash_of("\ud801")
