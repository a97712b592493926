import random
import statistics
from collections import Counter

import numpy as np
import pytest

from hfsynth.analysis import text_stats as wording
from hfsynth.analysis.text_stats import (
    Equals,
    EvenShare,
    GramCounts,
    Hashes,
    Spread,
    WordingCounts,
    even_shares,
    words_of_batch,
)
from hfsynth.similarity.words import normal_form, words_in


def texts(seed, count=300):
    draw = random.Random(seed)
    vocabulary = ["tea", "Milk", "no", "sugar", "今日", "wine", "Ё"]
    made = [" ".join(draw.choices(vocabulary, k=draw.randint(1, 9))) for _ in range(count)]
    return [*made, "", "?!", "one"]


def batched(items, size=7):
    return [items[at : at + size] for at in range(0, len(items), size)]


def grams_of(items, length):
    """The n-grams, counted one by one."""
    parted = [words_in(text) for text in items if text]
    return Counter(tuple(words[at : at + length]) for words in parted for at in range(len(words) - length + 1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_n_grams_are_those_of_a_plain_count_over_each_text_whatever_the_batch(seed, size):
    items, counts = texts(seed), GramCounts()
    for batch in batched(items, size):
        counts.see(words_of_batch(batch))
    for found in counts.result({1: (), 2: (), 3: ()}):
        expected = grams_of(items, found.length)
        assert (found.grams, found.distinct) == (expected.total(), len(expected))


def test_the_share_on_as_many_n_grams_is_of_the_first_of_them(monkeypatch):
    monkeypatch.setattr(wording, "EVEN_GRAMS", (10, 100, 1_000_000))
    items = texts(1)
    found = even_shares(iter(items))
    for length in (1, 2, 3):
        parted = [words_in(text) for text in items]
        listed = [tuple(words[at : at + length]) for words in parted for at in range(len(words) - length + 1)]
        assert found[length] == tuple(EvenShare(n, len(set(listed[:n])) / n) for n in (10, 100))


def test_no_more_texts_are_read_than_are_needed(monkeypatch):
    monkeypatch.setattr(wording, "EVEN_GRAMS", (5, 10))
    items = iter(["a b c d e f g h i j k l", "m n o", "p"])
    assert [even.share for even in even_shares(items)[1]] == [1.0, 1.0]
    assert next(items) == "m n o"


def test_equal_texts_are_those_with_the_same_normal_form_as_an_earlier_one():
    items = ["Tea ", "tea", "ＴＥＡ", "milk", "a  b", "A\nb", "ab"]
    equals = Equals()
    for batch in batched(items, 3):
        equals.see(batch)
    assert equals.result() == len(items) - len({normal_form(text) for text in items}) == 3


def test_lengths_and_scripts_are_those_of_a_plain_count():
    items, counts = texts(2), WordingCounts()
    for batch in batched(items):
        counts.see(batch, words_of_batch(batch))
    found, full = counts.result(), [text for text in items if text]
    assert (found.texts, found.empty) == (len(full), 1)
    assert found.characters.median == statistics.median_low(map(len, full))
    assert found.words.median == statistics.median_low(len(words_in(text)) for text in full)
    assert (found.words.smallest, found.words.largest) == (0, max(len(words_in(text)) for text in full))
    assert found.scripts["CJK"] == sum(text.count("今") + text.count("日") for text in full)
    assert WordingCounts().result().words is None


def test_hashes_in_batches_are_counted_once():
    hashes, values = Hashes(), np.random.default_rng(0).integers(0, 500, 10_000).astype(np.uint64)
    for part in np.array_split(values, 7):
        hashes.add(part)
    assert (len(hashes), hashes.distinct(), Hashes().distinct()) == (10_000, len(set(values.tolist())), 0)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_a_spread_is_that_of_the_sorted_numbers(count):
    values = np.random.default_rng(count).normal(size=count)
    found, ordered = Spread.of(values), sorted(values.tolist())
    assert (found.count, found.smallest, found.largest) == (count, ordered[0], ordered[-1])
    assert found.median == statistics.median_low(ordered)
    for share, quartile in ((0.25, found.lower), (0.75, found.upper)):
        assert quartile == next(v for v in ordered if sum(o <= v for o in ordered) >= share * count)
    assert found.mean == pytest.approx(statistics.fmean(ordered))
    assert sum(found.counts) == count
    assert Spread.of(np.array([])) is None
    assert Spread.of(np.array([0.5]), (0.0, 1.0)).edges[::20] == (0.0, 1.0)
