import random
import statistics
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from hfsynth import Deduplicate, report
from hfsynth.analysis import text_stats
from hfsynth.analysis.text_stats import (
    AnswerCounter,
    ColumnFigures,
    DistinctShare,
    DuplicateCounter,
    GramCounter,
    Hashes,
    Lengths,
    Spread,
    TextCounter,
    column_figures,
    count_labels,
    distinct_shares,
    hash_of,
    is_refusal,
    measure_scores,
    script_of,
)
from hfsynth.similarity.words import normal_form, words_in

CHAT = List({"role": Value("string"), "content": Value("string")})


def texts(seed, count=300):
    rng = random.Random(seed)
    vocabulary = ["tea", "Milk", "no", "sugar", "今日", "wine", "Ё"]
    return [*(" ".join(rng.choices(vocabulary, k=rng.randint(1, 9))) for _ in range(count)), "", "?!", "one"]


def batched(items, size=7):
    return [items[at : at + size] for at in range(0, len(items), size)]


def words_of(items):
    return [words_in(text) for text in items if text]


def grams_of(items, length):
    """The n-grams, counted one by one."""
    return Counter(
        tuple(words[at : at + length]) for words in words_of(items) for at in range(len(words) - length + 1)
    )


def figures_of(values, kind=None):
    features = Features({"text": kind or Value("string")})
    return column_figures(Dataset.from_dict({"text": values}, features=features), "text")


# distributions


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_spread_matches_sorted_numbers(count):
    values = np.random.default_rng(count).normal(size=count)
    found, ordered = Spread.of(values), sorted(values.tolist())
    assert (found.count, found.smallest, found.largest) == (count, ordered[0], ordered[-1])
    assert found.median == statistics.median_low(ordered)
    for share, quartile in ((0.25, found.lower), (0.75, found.upper)):
        assert quartile == next(v for v in ordered if sum(o <= v for o in ordered) >= share * count)
    assert found.mean == pytest.approx(statistics.fmean(ordered))
    assert sum(found.counts) == count


def test_spread_of_nothing_is_none():
    assert Spread.of(np.array([])) is None
    assert Lengths.of({}) is None


def test_spread_limits_are_the_histogram_ends():
    assert Spread.of(np.array([0.5]), (0.0, 1.0)).edges[::20] == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_lengths_match_plain_count(seed):
    rng = random.Random(seed)
    lengths = sorted(rng.choice([1, 2, 3, 50, 51, 400]) for _ in range(rng.choice([1, 2, 7, 100])))
    found = Lengths.of(Counter(lengths))
    assert (found.smallest, found.largest) == (lengths[0], lengths[-1])
    assert found.median == statistics.median_low(lengths)
    assert found.mean == pytest.approx(statistics.fmean(lengths))
    for share, quartile in ((0.25, found.lower), (0.75, found.upper)):
        assert quartile == np.quantile(lengths, share, method="inverted_cdf")
    assert sum(found.counts) == len(lengths)
    for left, right, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        assert count == sum(left <= length < right or length == right == found.edges[-1] for length in lengths)


# texts


def test_text_counter_matches_plain_count():
    items, counter = texts(2), TextCounter()
    for batch in batched(items):
        counter.update(batch, words_of(batch))
    found, full = counter.result(), [text for text in items if text]
    assert (found.texts, found.empty) == (len(full), 1)
    assert found.characters.median == statistics.median_low(map(len, full))
    assert found.words.median == statistics.median_low(len(words_in(text)) for text in full)
    assert (found.words.smallest, found.words.largest) == (0, max(len(words_in(text)) for text in full))
    assert found.scripts["CJK"] == sum(text.count("今") + text.count("日") for text in full)


def test_text_counter_without_texts_has_no_lengths():
    found = TextCounter().result()
    assert (found.texts, found.characters, found.words, found.tokens, found.scripts) == (0, None, None, None, {})


def test_duplicate_counter_compares_normal_forms():
    items = ["Tea ", "tea", "ＴＥＡ", "milk", "", "a  b", "A\nb", "ab", ""]
    duplicates = DuplicateCounter()
    for batch in batched(items, 3):
        duplicates.update(batch)
    full = [text for text in items if text]
    assert duplicates.result() == len(full) - len({normal_form(text) for text in full}) == 3


def test_hashes_in_batches_count_distinct_values():
    hashes, values = Hashes(), np.random.default_rng(0).integers(0, 500, 10_000).astype(np.uint64)
    for part in np.array_split(values, 7):
        hashes.add(part)
    assert (len(hashes), hashes.distinct(), Hashes().distinct()) == (10_000, len(set(values.tolist())), 0)


def test_hash_of_lone_surrogates_differs():
    assert hash_of("\ud800") != hash_of("\ud801")


@pytest.mark.parametrize(
    "values",
    [
        ["Name it.", "name  IT.", "Ｎame it.", " ", "\n\t", "\u3000", None, "Name it!"],
        ["안녕", "\u110b\u1161\u11ab\u1102\u1167\u11bc", "안녕\u200b", "ﬁne", "FINE", ""],
        ["a"],
    ],
)
def test_column_figures_count_duplicates_as_report_and_filter(values):
    found = figures_of(values)
    measured = report(Dataset.from_dict({"text": values}), "text")
    assert (found.duplicates, found.empty) == (measured.duplicates, measured.instructions.empty)
    dataset = Dataset.from_dict({"text": [text for text in values if text and text.strip()]})
    assert found.duplicates == len(dataset) - len(Deduplicate(column="text")(dataset))


def test_column_figures_of_many_rows_match_plain_count():
    values = [f"{'x' * (n % 7)}{n % 6000}" for n in range(20_001)] + [None]
    found = figures_of(values)
    full = values[:-1]
    assert (found.empty, found.duplicates) == (1, len(full) - len(set(full)))
    assert found.lengths.mean == pytest.approx(statistics.fmean(map(len, full)))
    assert found.scripts == {"LATIN": sum(text.count("x") for text in full)}


def test_column_figures_count_letters_by_script():
    values = ["Grüße, 12!", "Привет", "漢字 kana かな", "🙂"]
    expected = Counter(script_of(ord(sign)) for text in values for sign in text if sign.isalpha())
    assert figures_of(values).scripts == expected == {"LATIN": 9, "CYRILLIC": 6, "CJK": 2, "HIRAGANA": 2}


def test_column_figures_of_chats_join_all_messages():
    chats = [[{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}], None, []]
    found = figures_of([*chats, chats[0]], CHAT)
    assert (found.empty, found.duplicates, found.lengths.largest) == (2, 1, len("ab\nc"))


def test_column_figures_without_texts_have_no_lengths():
    assert figures_of([None, " "]) == ColumnFigures(empty=2, duplicates=0, lengths=None, scripts={})
    assert figures_of([]) == ColumnFigures(empty=0, duplicates=0, lengths=None, scripts={})


# n-grams


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_gram_counter_matches_plain_count(seed, size):
    items, counter = texts(seed), GramCounter()
    for batch in batched(items, size):
        counter.update(words_of(batch))
    for found in counter.result({1: (), 2: (), 3: ()}):
        expected = grams_of(items, found.length)
        assert (found.grams, found.distinct) == (expected.total(), len(expected))


def test_distinct_shares_are_those_of_the_first_grams(monkeypatch):
    monkeypatch.setattr(text_stats, "FIXED_NUMBERS_OF_GRAMS", (10, 100, 1_000_000))
    items = texts(1)
    found = distinct_shares(iter(items))
    for length in (1, 2, 3):
        grams = [tuple(words[at : at + length]) for words in words_of(items) for at in range(len(words) - length + 1)]
        assert found[length] == tuple(DistinctShare(n, len(set(grams[:n])) / n) for n in (10, 100))


def test_distinct_shares_read_no_more_texts_than_needed(monkeypatch):
    monkeypatch.setattr(text_stats, "FIXED_NUMBERS_OF_GRAMS", (5, 10))
    items = iter(["a b c d e f g h i j k l", "m n o", "p"])
    assert [one.share for one in distinct_shares(items)[1]] == [1.0, 1.0]
    assert next(items) == "m n o"


# responses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m unable to open links.", True),
        ("  As an AI, I have no body.", True),
        ("I'm sorry. I cannot do this.", True),
        ("Unfortunately, I can't answer that.", True),
        ("I cannot create such content.", True),
        ("My father works as an airline pilot, my mother as an aide.", False),
        ("Sorry is a word of five letters.", False),
        ("I can't believe how blue the sky is!", False),
        ("x" * 300 + " I'm sorry, but no.", False),
        ("Es tut mir leid, das kann ich nicht.", False),
    ],
)
def test_is_refusal_finds_english_phrases_at_the_beginning(text, expected):
    assert is_refusal(text) == expected


def test_answer_counter_counts_refusals_and_repetition():
    loop = "go on and on " * 20
    line = "\n".join(["It is as it is.", "Other words here.", "it is as it is", "More of them.", "It is as it is!"])
    rows = [("a", "Fine."), ("b", ""), ("", "Lost."), ("", ""), ("c", "As an AI, no."), ("d", loop), ("e", line)]
    counter = AnswerCounter()
    for batch in (rows[:3], rows[3:]):
        counter.update(*map(list, zip(*batch, strict=True)))
    found = counter.result([response for _, response in rows if response])
    assert (found.asked, found.unanswered, found.responses, found.refusals) == (5, 1, 5, 1)
    assert (found.checked, found.repetitions) == (5, {"repeated_line": 1, "repeated_words": 1})


# labels and scores

NUMBERS = List(Value("float64"))
ROWS = {
    "quality": ["good", "poor", None, "good", "fair"],
    "quality_probabilities": [[0.5, 0.5]] * 5,
    "label": ["a", "b", "a", "a", None],
    "probabilities": [[1.0]] * 5,
    "note": ["x"] * 5,
    "task_category": ["maths", "code", "maths", None, "maths"],
    "ifd": [0.5, 1.5, None, float("nan"), 0.7],
    "reward": [None] * 5,
}
TYPES = {"quality_probabilities": NUMBERS, "probabilities": NUMBERS, "ifd": "float64", "reward": "float32"}


@pytest.fixture
def judged():
    kinds = {name: TYPES.get(name, "string") for name in ROWS}
    features = Features({name: Value(kind) if isinstance(kind, str) else kind for name, kind in kinds.items()})
    return Dataset.from_dict(ROWS, features=features)


def test_count_labels_matches_plain_count(judged):
    found = count_labels(judged)
    assert [one.column for one in found] == ["quality", "label", "task_category"]
    for one in found:
        assert one.counts == Counter(label for label in ROWS[one.column] if label)
        assert one.missing == 1


def test_measure_scores_ignores_numbers_that_are_not_finite(judged):
    ifd, reward = measure_scores(judged)
    assert (ifd.column, ifd.missing, ifd.spread.count) == ("ifd", 2, 3)
    assert ifd.spread.median == statistics.median([0.5, 1.5, 0.7])
    assert ifd.spread.mean == pytest.approx(0.9)
    assert (reward.column, reward.spread, reward.missing) == ("reward", None, 5)


def test_measure_scores_reads_integers():
    (reward,) = measure_scores(Dataset.from_dict({"reward": [1, 2, 6, None]}))
    assert (reward.spread.mean, reward.spread.largest, reward.missing) == (3, 6, 1)


def test_dataset_without_labels_and_scores_has_none(judged):
    plain = judged.select_columns(["note"])
    assert (count_labels(plain), measure_scores(plain)) == ((), ())
