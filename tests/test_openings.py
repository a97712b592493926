import json
from collections import Counter
from pathlib import Path

import pytest

from hfsynth.reporting.openings import OpeningCounts, opening

BY_HAND = [
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
    ("Plan einer Reise nach Köln", ("", "")),
    ("Plan einer Reise nach Berlin", ("", "")),
    ("Describe el proceso de la fotosíntesis", ("", "")),
    ("Compare deux pays européens", ("", "")),
    ("Describe the beaches of Rio de Janeiro.", ("describe", "beaches")),
    ("今日は", ("", "")),
    ("?!,;", ("", "")),
]
# the first 40 of Self-Instruct's seed tasks, read one by one
SEEDS_BY_HAND = """
is | what | generate description | describe situation | generate title | how | brainstorm list | explain idiom |
generate haiku | recommend movie | suggest games | make list | explain behavior | output dependencies | write pair
| write word | identify disease | create checklist | reply_to email | how | write scene | create question | find
subsets | give recipe | plan menu | find numbers | link entities | are | add comments | compose | make list |
suggest completion | explain | create survey | give suggestions | find value | write adjectives | replace comment |
come_up_with synonyms | extract names
"""
SEED_FILE = Path(__file__).parent.parent / "dataset_cards" / "self_instruct_seed_tasks.jsonl"


@pytest.mark.parametrize(("text", "expected"), BY_HAND)
def test_the_verb_and_the_noun_are_those_that_a_reader_names(text, expected):
    assert opening(text) == expected


def test_of_forty_seed_tasks_the_opening_of_one_is_missed():
    texts = [json.loads(line)["instruction"] for line in SEED_FILE.read_text().splitlines()]
    read = [[word.replace("_", " ") for word in each.split()] for each in SEEDS_BY_HAND.split("|")]
    wrong = [text for text, words in zip(texts, read, strict=False) if opening(text) != (*words, "")[:2]]
    assert wrong == ["Solving the equation and find the value of X. Show your steps."]


def test_what_is_counted_is_what_a_reader_named():
    counts = OpeningCounts()
    counts.see(text for text, _ in BY_HAND)
    found, read = counts.result(), [words for _, words in BY_HAND]
    assert (found.texts, found.found) == (len(read), sum(bool(verb) for verb, _ in read))
    assert found.pairs == len({(verb, noun) for verb, noun in read if noun})


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
