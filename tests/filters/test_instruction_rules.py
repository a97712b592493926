import pickle

import pytest
from datasets.fingerprint import Hasher

from hfsynth import InstructionRules
from hfsynth.similarity.words import has_no_spaces
from tests.languages import NEAR, UNLIKE


def rule(text, filter=None):
    drop = next((filter or InstructionRules()).decide([text], []))
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
        ("Profile the mapping of a photographer.", None),  # only parts of words
        ("Write a program that adds two numbers.", "beginning"),
        ("Tell me how to write a program that adds.", None),
        ("- Name a red fruit.", "punctuation"),
        (' "Name a red fruit."', "punctuation"),
        ("Évaluez le prix de cette maison.", "not_ascii"),
        ("“Name a red fruit.”", "not_ascii"),
    ],
)
def test_instruction_rules_each_drops_its_texts(text, expected):
    assert rule(text, InstructionRules(rules=InstructionRules.all_rules)) == expected


@pytest.mark.parametrize("language", UNLIKE)
def test_instruction_rules_any_language_is_kept(language):
    texts = [text for pair in (*NEAR[language], *UNLIKE[language]) for text in pair]
    long = [text for text in texts if len(text.split()) > 3 or has_no_spaces(text[-2])]
    assert len(long) >= 16
    assert [rule(text) for text in long] == [None] * len(long)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("写诗。", "too_short"),
        ("什么是光合作用？", None),
        ("《红楼梦》的作者是谁？", None),
        ("「桜」という題の詩を書いてください。", None),
        ("¿Cuál es la capital de Francia?", None),
        ("🎉 Write a short poem.", None),
        ("写" * 300, None),
        ("写" * 301, "too_long"),
        ("กา" * 450, None),
        ("กา" * 451, "too_long"),
        ("한국어 " * 150, None),
        ("한국어 " * 151, "too_long"),
        ("안녕하세요!", "too_short"),
        ("이순신 장군은 누구인가요?", None),
    ],
)
def test_instruction_rules_unspaced_scripts_count_signs(text, expected):
    assert rule(text) == expected


@pytest.mark.parametrize(
    ("word", "text", "expected"),
    [
        ("画", "请你画一只猫。", "unsuitable"),
        ("描い", "猫の絵を描いてください。", "unsuitable"),
        ("วาด", "ช่วยวาดรูปแมวหน่อย", "unsuitable"),
        ("이미지", "고양이 이미지를 만들어 주세요.", "unsuitable"),
        ("그림", "이 밑그림을 설명해 주세요.", None),
        ("चित्र", "बिल्ली का चित्र बनाइए ज़रा", "unsuitable"),
        ("चित्र", "चित्रा नाम का अर्थ बताइए", None),
        ("im\u00e1genes", "Describe las ima\u0301genes de ayer.", "unsuitable"),
        ("карта", "Объясни, что такое карта мира.", "unsuitable"),
        ("image", "请描述这张image的内容。", "unsuitable"),
        ("image", "이 image를 설명해 주세요.", "unsuitable"),
        ("карта", "Зачем нужна картавость в речи?", None),
    ],
)
def test_instruction_rules_unsuitable_words_in_any_script(word, text, expected):
    assert rule(text, InstructionRules(words=[word])) == expected


def test_instruction_rules_drop_holds_value_and_limit():
    drops = InstructionRules().decide(["Hello there", "Draw a red fruit.", "- Name a red fruit."], [])
    assert [(drop.value, drop.matched) for drop in drops] == [("2 words", "at least 4"), ("Draw", ""), ("-", "")]


def test_instruction_rules_fields_change_the_rules():
    assert rule("Use C++ for this task.", InstructionRules(words=["c++"])) == "unsuitable"
    assert rule("Sing a song for me.", InstructionRules(words=["song"])) == "unsuitable"
    assert rule("Sing a song for me.", InstructionRules(beginnings=["Sing"])) == "beginning"
    assert rule("Sing a song.", InstructionRules(min_words=3)) is None
    assert rule("Évaluez le prix de cette maison.", InstructionRules(rules=["too_short"])) is None


def test_instruction_rules_are_tried_in_a_fixed_order():
    assert InstructionRules(rules=["punctuation", "too_short"]) == InstructionRules(rules=["too_short", "punctuation"])
    assert rule("- a", InstructionRules(rules=["punctuation", "too_short"])) == "too_short"


def test_instruction_rules_unknown_rule_lists_the_rules():
    with pytest.raises(ValueError, match=r"'short'.*'too_short'"):
        InstructionRules(rules=["short"])


def test_instruction_rules_crossed_limits_are_an_error():
    with pytest.raises(ValueError, match=r"min_words .*max_words=3.*\b9\b"):
        InstructionRules(min_words=9, max_words=3)


def test_instruction_rules_default_rules_have_one_hash():
    rules = InstructionRules(min_words=2)
    assert pickle.loads(pickle.dumps(rules)) == rules
    assert Hasher.hash(InstructionRules(rules=InstructionRules.default_rules)) == Hasher.hash(InstructionRules())
