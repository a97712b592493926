import pytest

from hfsynth.techniques.evol_instruct import elimination, elimination_by_answer


@pytest.mark.parametrize(
    ("before", "evolved", "finish_reason", "rule"),
    [
        ("a", "b", "stop", ""),
        ("a", "", "stop", "empty"),
        ("a", "b", "length", "cut_off"),
        ("Make tea.", "make TEA", "stop", "unchanged"),
        ("Explain pointers in C", "Explain pointers in C++", "stop", ""),
        ("写一首诗", "写一首诗。", "stop", "unchanged"),
        ("यह समझाइए", "यह समझाइए।", "stop", "unchanged"),
        ("ما هذا", "ما هذا؟", "stop", "unchanged"),
        ("Qué es", "¿Qué es?", "stop", "unchanged"),
        ("写一首诗", "写一首短诗。", "stop", ""),
        ("Explain NET", "Explain .NET", "stop", ""),
        ("NET for a beginner", ".NET for a beginner", "stop", ""),
        ("🙂", "🎉", "stop", ""),
        ("a", "The given prompt asks for b", "stop", "leaked_prompt"),
        ("a", "#Rewritten Prompt#", "stop", "leaked_prompt"),
        ("a", "My created_prompt", "stop", "leaked_prompt"),
        ("Improve the given prompt", "Improve the given prompt twice", "stop", ""),
    ],
)
def test_an_evolution_is_eliminated_by_the_rule_it_breaks(before, evolved, finish_reason, rule):
    assert elimination(before, evolved, finish_reason) == rule


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("Sorry, no.", "sorry"),
        ("I am SORRY to say " + "so " * 74, "sorry"),  # 79 words
        ("I am sorry to say " + "word " * 75, ""),  # 80 words
        ("", "no_content"),
        (" ... !", "no_content"),
        ("It is what it is, and so on.", "no_content"),
        ("It is water.", ""),
        ("42", ""),
        ("Да.", ""),
        ("好。", ""),
        ("हाँ।", ""),
        ("👍", ""),
        ("。！？", "no_content"),
        ("“抱歉”的英文是 sorry。" + "这个词很常用" * 30, ""),  # 192 signs
        ("英文是 sorry。", "sorry"),
    ],
)
def test_an_evolution_is_eliminated_by_its_answer(answer, rule):
    assert elimination_by_answer(answer) == rule
