import json
import random
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from hfsynth.analysis import diversity as module
from hfsynth.analysis.diversity import nearest_scores, neighbours, sample_size
from hfsynth.data import drawn
from hfsynth.similarity.minhash import repeating_texts
from tests.languages import WordsOfAnyScript

SCORER = RougeScorer(["rougeL"], tokenizer=WordsOfAnyScript())
SEED_FILE = Path(__file__).parent.parent / "scripts" / "seeds.jsonl"
SEEDS = [json.loads(line)["input"] for line in SEED_FILE.read_text().splitlines()]

OTHER_SCRIPTS = ("今日は", "?!", "одна", "今日は晴れ", "одна!")


def variants(seed, count=60):
    """Texts, many of which are another one with a word changed; some in other scripts."""
    draw = random.Random(seed)
    made = [text.split(". ")[0] for text in SEEDS[:12]]
    while len(made) < count:
        words = draw.choice(made).split()
        words[draw.randrange(len(words))] = draw.choice(("tea", "Tea!", "42", words[0]))
        made.append(" ".join(words))
    return [*made, *OTHER_SCRIPTS, made[3]]


def batched(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


def all_pairs(items):
    """The highest F-measure of each text with every other one, by `rouge_score`."""
    score = lambda one, other: SCORER.score(other, one)["rougeL"].fmeasure  # noqa: E731
    return np.array(
        [max(score(text, o) for n, o in enumerate(items) if n != place) for place, text in enumerate(items)]
    )


def measure(items, size, batch=7):
    return neighbours(
        lambda: iter(batched(items, batch)), lambda places: [items[place] for place in places], len(items), size
    )


@pytest.mark.parametrize("cells", [1, 500, 4_000_000])
@pytest.mark.parametrize("batch", [1, 9, 1000])
def test_the_nearest_neighbours_are_those_of_rouge_score_on_all_pairs(batch, cells, monkeypatch):
    monkeypatch.setattr(module, "_CELLS", cells)
    items = variants(1, 40)
    places = np.arange(len(items))
    expected = all_pairs(items)
    assert nearest_scores(items, places, batched(items, batch)).tolist() == pytest.approx(expected.tolist())
    assert expected[3] == 1.0, "it is there twice"


def test_nearest_scores_of_more_words_than_code_points_are_equal(monkeypatch):
    items = variants(4, 20)
    expected = nearest_scores(items, np.arange(len(items)), [items]).tolist()
    monkeypatch.setattr(module, "_FIRST_NUMBER", 0x110000 - 3)
    assert nearest_scores(items, np.arange(len(items)), [items]).tolist() == expected


def test_of_drawn_rows_the_nearest_neighbour_is_searched_among_all():
    items = variants(2, 80)
    places = np.sort(drawn(len(items), 20))
    scores = all_pairs(items)[places]
    found = measure(items, 20)
    assert (found.rows, found.among, found.similarity.count) == (20, len(items), 20)
    assert found.similarity.mean == pytest.approx(scores.mean())
    assert found.near == (scores > 0.7).sum() > 0


def earlier_ones(items, threshold=0.8):
    """The places of texts that are similar to an earlier one, by comparing all pairs."""
    plain = [" ".join(text.lower().split()) for text in items]
    sets = [{text[at : at + 5] for at in range(max(len(text) - 4, 1))} for text in plain]
    return {
        n
        for n in range(len(items))
        if any(len(sets[n] & sets[m]) >= threshold * len(sets[n] | sets[m]) for m in range(n))
    }


@pytest.mark.parametrize("seed", range(3))
def test_near_repetitions_are_those_of_comparing_each_text_with_all_before_it(seed):
    items = variants(seed, 120)
    assert measure(items, len(items)).repeats == len(earlier_ones(items)) > 10
    chosen = {place: items[place] for place in drawn(len(items), 40).tolist()}
    assert repeating_texts(items, chosen, 0.8, 5, 256) == earlier_ones(items) & set(chosen)


def test_a_row_nearly_repeats_what_is_before_it_alone():
    assert repeating_texts(["Name a red fruit.", "Name a red fruit!"], {0: "Name a red fruit."}, 0.8, 5, 64) == set()


def test_rows_of_different_datasets_are_compared_among_as_many(monkeypatch):
    monkeypatch.setattr(module, "EVEN_ROWS", (10, 30, 1000))
    monkeypatch.setattr(module, "_EVEN_DRAWS", 2)
    items = variants(3, 60)
    (ten, thirty) = measure(items, 5).even
    order = [items[place] for place in drawn(len(items), 2000)]
    assert (ten.rows, ten.draws, thirty.rows, thirty.draws) == (10, 2, 30, 2)
    for even in (ten, thirty):
        draws = [[order[place] for place in drawn(len(order), even.rows, seed)] for seed in (0, 1)]
        scores = np.concatenate([all_pairs(texts) for texts in draws])
        assert even.mean == pytest.approx(scores.mean())
        assert even.near == pytest.approx((scores > 0.7).mean())


@pytest.mark.parametrize("items", [[], ["a"], ["今"]])
def test_texts_without_neighbours_have_no_similarity(items):
    found = measure(items, len(items))
    assert (found.rows, found.near, found.repeats, found.even) == (len(items), 0, 0, ())
    assert found.similarity is None


def test_texts_with_nothing_in_common_have_a_similarity_of_0():
    assert (found := measure(["今", "日"], 2)).near == 0
    assert (found.similarity.count, found.similarity.largest) == (2, 0.0)


def test_neighbours_of_other_scripts_are_near_where_they_are_alike():
    assert measure(["서울에 대해 알려 줘.", "서울에 대해서 알려 줘.", "🙂", "🙂", "?!", "3"], 6).near == 4


def test_the_longer_the_texts_the_fewer_are_drawn_and_never_too_few():
    assert sample_size(1_000_000, 130_000_000) == 100
    assert sample_size(10, 1_000_000_000_000) == 10
