import pytest

from hfsynth.techniques.elimination import elimination, elimination_by_answer


@pytest.mark.parametrize(
    ("before", "evolved", "finish_reason", "rule"),
    [
        ("a", "b", "stop", ""),
        ("a", "", "stop", "empty"),
        ("a", "b", "length", "cut_off"),
        ("Make tea.", "make TEA", "stop", "unchanged"),
        ("Explain pointers in C", "Explain pointers in C++", "stop", ""),
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
    ],
)
def test_an_evolution_is_eliminated_by_its_answer(answer, rule):
    assert elimination_by_answer(answer) == rule
