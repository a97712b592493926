from collections import Counter

import pytest

from hfsynth.reporting.openings import OpeningCounts, opening


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Give me a cooking recipe for the following food.", ("give", "recipe")),
        ("Can you make a detailed plan for me?", ("make", "plan")),
        ("I'd like you to list three uses of salt", ("list", "uses")),
        ("Please come up with a metaphor that fits.", ("come up with", "metaphor")),
        ("Sort the given list ascendingly.", ("sort", "list")),
        ("Using the facts given, write a question-answer pair.", ("write", "pair")),
        ("Identify the possible disease and suggest a medicine.", ("identify", "disease")),
        ("I broke up. Give me some advice", ("give", "advice")),
        ("Explain why it’s raining.", ("explain", "")),
        ("Tell me if this is true", ("tell", "")),
        ("Add 2 and 3.", ("add", "")),
        ("How are hash tables built?", ("how", "")),
        ("Why is this? Describe the process in detail.", ("describe", "process")),
        ("Write.", ("write", "")),
        ("The family is happy.", ("", "")),
        ("Nenne drei Farben.", ("", "")),
        ("今日は", ("", "")),
        ("?!,;", ("", "")),
    ],
)
def test_the_verb_and_the_noun_are_those_that_a_reader_names(text, expected):
    assert opening(text) == expected


def test_openings_are_counted_and_the_most_frequent_are_told_with_their_nouns():
    texts = [f"Write a {noun} about tea." for noun in "eeeeddddcccbba"] + ["Sort the list.", "Why?", "Ja."]
    counts = OpeningCounts()
    counts.see(texts[:4])
    counts.see(texts[4:])
    found = counts.result()
    pairs = Counter(opening(text) for text in texts)
    assert (found.texts, found.found) == (len(texts), len(texts) - pairs["", ""])
    assert found.pairs == len([noun for _, noun in pairs if noun]) == 6
    told = [(one.verb, one.noun, one.count) for one in found.told]
    assert told == [
        ("write", "", 14),
        *[("write", noun, pairs["write", noun]) for noun in "decb"],
        ("sort", "", 1),
        ("sort", "list", 1),
        ("why", "", 1),
    ]
