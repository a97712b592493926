"""A report's numbers, each worked out again from the rows by other means."""

import json
import re
import statistics

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from hfsynth import ColumnError, Report, report
from hfsynth import data as reading
from hfsynth.analysis import report as measuring
from tests.test_neighbours import all_pairs, earlier_ones, variants

TEXTS = [*variants(5, 70), None, " "]
ANSWERS = [f"It is {n}." if n % 3 else None for n in range(len(TEXTS))]
ANSWERS[1:3] = ["I'm sorry, but I can't help with that.", "on and on " * 30]
WORDS = re.compile("[a-z0-9]+|[\u0430-\u044f]+|[\u3040-\u30ff\u4e00-\u9fff]")  # English, Russian, each Japanese sign
CHAT = List({"role": Value("string"), "content": Value("string")})


@pytest.fixture(params=[7, 5000])
def rows(request, monkeypatch):
    """Rows that are read in several batches, and in one."""
    monkeypatch.setattr(reading, "_ROWS_AT_ONCE", request.param)
    return Dataset.from_dict({"instruction": TEXTS, "response": ANSWERS})


def test_every_number_is_that_of_a_plain_count_over_the_rows(rows):
    told = report(rows)
    full = [text for text in TEXTS if text and text.strip()]
    scores = all_pairs(full).tolist()
    assert (told.rows, told.instructions.texts, told.instructions.empty) == (len(TEXTS), len(full), 2)
    assert told.duplicates == len(full) - len({" ".join(text.lower().split()) for text in full}) > 0
    assert told.neighbours.similarity.mean == pytest.approx(statistics.fmean(scores))
    assert told.neighbours.similarity.median == pytest.approx(sorted(scores)[(len(scores) - 1) // 2])
    assert told.neighbours.near == sum(score > 0.7 for score in scores) > 0
    assert told.neighbours.repeats == len(earlier_ones(full)) > 0
    words = [WORDS.findall(text.lower()) for text in full]
    for found in told.distinct:
        n = found.length
        grams = [tuple(each[at : at + n]) for each in words for at in range(len(each) - n + 1)]
        assert (found.grams, found.distinct) == (len(grams), len(set(grams)))
    assert told.instructions.words.mean == pytest.approx(statistics.fmean(map(len, words)))


def test_lengths_in_tokens_are_those_of_the_tokenizer_that_is_given(rows):
    letters = Tokenizer(models.BPE({sign: n for n, sign in enumerate(ByteLevel.alphabet())}, []))
    letters.pre_tokenizer = ByteLevel(add_prefix_space=False)  # so that a token is a byte
    told = report(rows, tokenizer=PreTrainedTokenizerFast(tokenizer_object=letters, model_max_length=3))
    sizes = sorted(len(text.encode()) for text in TEXTS if text and text.strip())
    assert (told.instructions.tokens.smallest, told.instructions.tokens.largest) == (sizes[0], sizes[-1])
    assert told.instructions.tokens.mean == pytest.approx(statistics.fmean(sizes))
    assert told.responses.tokens.mean == pytest.approx(statistics.fmean(len(text) for text in ANSWERS if text))
    assert "response, tokens" in str(told)
    assert "tokens.png" in told.pictures()
    assert report(rows).instructions.tokens is None


def test_every_number_of_the_responses_is_that_of_a_plain_count(rows):
    told = report(rows).answers
    pairs = list(zip(TEXTS, ANSWERS, strict=True))
    there = [answer for answer in ANSWERS if answer]
    assert told.asked == sum(bool(text and text.strip()) for text, _ in pairs)
    assert told.unanswered == sum(bool(text and text.strip()) and not answer for text, answer in pairs)
    assert (told.responses, told.looked_at, told.refusals) == (len(there), len(there), 1)
    assert told.repetitions == {"repeated_line": 0, "repeated_words": 1}


def test_the_share_on_as_many_n_grams_is_that_of_rows_drawn_by_chance():
    texts = [" ".join(str((n * 7 + k) % 400) for k in range(12)) for n in range(300)]
    (ones, _, _) = report(Dataset.from_dict({"prompt": texts})).distinct
    order = np.random.default_rng(0).permutation(300)
    words = [word for place in order for word in texts[place].split()]
    assert [(even.grams, even.share) for even in ones.even] == [(1000, len(set(words[:1000])) / 1000)]


def test_of_a_sample_the_rows_are_compared_with_all_and_the_report_says_so():
    told = report(Dataset.from_dict({"instruction": TEXTS}), sample=20)
    full = [text for text in TEXTS if text and text.strip()]
    places = sorted(np.random.default_rng(0).permutation(len(full))[:20].tolist())
    expected = all_pairs(full)[places]
    assert told.neighbours.similarity.mean == pytest.approx(expected.mean())
    assert f"Each of 20 of the {len(full)} instructions, drawn by chance, was compared with all others" in str(told)
    assert "Their shares are off by 21.9 points at most" in str(told), "1.96 × √(0.25 / 20)"


def test_of_many_responses_repetition_is_looked_for_in_some_and_the_report_says_so(rows, monkeypatch):
    monkeypatch.setattr(measuring, "_ANSWERS", 5)
    told = report(rows)
    assert told.answers.looked_at == 5
    assert f"looked for in 5 of the {told.answers.responses} responses, drawn by chance" in " ".join(str(told).split())


def test_conversations_are_read_from_both_sides():
    talk = [{"role": "user", "content": "Name a lake."}, {"role": "assistant", "content": "As an AI, no."}]
    talks = Dataset.from_dict({"conversation": [talk, talk[:1]]}, features=Features({"conversation": CHAT}))
    told = report(talks)
    assert (told.duplicates, told.answers.unanswered, told.answers.refusals) == (1, 1, 1)
    assert told.columns.response == "conversation"


@pytest.mark.parametrize("texts", [[], [None], ["", " "], ["?!"]])
def test_rows_without_words_make_a_report_in_every_form(texts):
    rows = Dataset.from_dict({"instruction": texts}, features=Features({"instruction": Value("string")}))
    told = report(rows)
    assert told.rows == len(texts)
    assert "rows" in str(told)
    assert told.html().startswith("<div")
    assert told.markdown().startswith("### Rows")
    assert Report.from_json(told.to_json()) == told


def test_a_report_comes_back_from_json(rows):
    told = report(rows, sample=9)
    assert Report.from_json(told.to_json()) == told
    assert str(Report.from_json(told.to_json())) == str(told)


@pytest.mark.parametrize("change", [{"rows": "7"}, {"age": 7}, {"neighbours": {}}, {"distinct": None}])
def test_what_another_version_wrote_is_an_error(rows, change):
    text = json.dumps({**json.loads(report(rows).to_json()), **change})
    with pytest.raises(ValueError, match="this is no report that this version can read"):
        Report.from_json(text)


def test_what_cannot_be_measured_is_an_error(rows):
    with pytest.raises(ValueError, match="sample is 0; at least 1 row"):
        report(rows, sample=0)
    with pytest.raises(ColumnError, match=r"no texts in column 'title'; there are in \['instruction', 'response'\]"):
        report(rows, "title")
