import pickle

import pytest
from datasets.fingerprint import Hasher

from hfsynth import InstructionRules


def rule(text, filter=None):
    drop = (filter or InstructionRules()).verdict(text)
    return drop and drop.rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Name a red fruit.", None),
        ("Name red fruits.", "too_short"),
        ("", "too_short"),
        (" ".join(["word"] * 150), None),
        (" ".join(["word"] * 151), "too_long"),
        ("Describe what this image shows.", "unsuitable"),
        ("Describe what these IMAGES show.", "unsuitable"),
        ("Open the file, and read it aloud.", "unsuitable"),
        ("Please go\nto the shop for me.", "unsuitable"),
        ("Profile the mapping of a photographer.", None),  # no whole word
        ("Write a program that adds two numbers.", "beginning"),
        ("Tell me how to write a program that adds.", None),
        ("- Name a red fruit.", "punctuation"),
        (' "Name a red fruit."', "punctuation"),
        ("Évaluez le prix de cette maison.", "not_ascii"),
        ("“Name a red fruit.”", "not_ascii"),
    ],
)
def test_each_rule_drops_what_it_says(text, expected):
    assert rule(text) == expected


def test_what_was_found_is_told():
    drops = [InstructionRules().verdict(text) for text in ("Hello there", "Draw a red fruit.", "- Name a red fruit.")]
    assert [(drop.value, drop.met) for drop in drops] == [("2 words", "at least 4"), ("Draw", ""), ("-", "")]


def test_words_numbers_and_rules_are_the_users_to_choose():
    assert rule("Use C++ for this task.", InstructionRules(words=["c++"])) == "unsuitable"
    assert rule("Sing a song for me.", InstructionRules(words=["song"])) == "unsuitable"
    assert rule("Sing a song for me.", InstructionRules(beginnings=["Sing"])) == "beginning"
    assert rule("Sing a song.", InstructionRules(min_words=3)) is None
    assert rule("Évaluez le prix de cette maison.", InstructionRules(rules=["too_short"])) is None


def test_the_rules_are_tried_in_their_own_order():
    assert InstructionRules(rules=["punctuation", "too_short"]) == InstructionRules(rules=["too_short", "punctuation"])
    assert rule("- a", InstructionRules(rules=["punctuation", "too_short"])) == "too_short"


def test_an_unknown_rule_is_an_error_that_names_those_there_are():
    with pytest.raises(ValueError, match=r"InstructionRules has no rule 'short'; its rules are \['too_short'"):
        InstructionRules(rules=["short"])


def test_limits_that_leave_nothing_are_an_error():
    with pytest.raises(ValueError, match="min_words is 9 and max_words 3"):
        InstructionRules(min_words=9, max_words=3)


def test_the_rules_are_their_configuration():
    rules = InstructionRules(min_words=2)
    assert pickle.loads(pickle.dumps(rules)) == rules
    assert Hasher.hash(InstructionRules(rules=InstructionRules.all_rules)) == Hasher.hash(InstructionRules())
