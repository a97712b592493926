import pytest

from hfsynth.analysis.text_stats import AnswerCounts, is_refusal


@pytest.mark.parametrize(
    ("text", "refused"),
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
def test_a_refusal_is_told_by_stated_english_phrases_at_the_beginning(text, refused):
    assert is_refusal(text) == refused


def test_rows_without_a_response_refusals_and_repetitions_are_counted():
    loop = "go on and on " * 20
    line = "\n".join(["It is as it is.", "Other words here.", "it is as it is", "More of them.", "It is as it is!"])
    rows = [("a", "Fine."), ("b", ""), ("", "Lost."), ("", ""), ("c", "As an AI, no."), ("d", loop), ("e", line)]
    counts = AnswerCounts()
    for batch in (rows[:3], rows[3:]):
        counts.see(*map(list, zip(*batch, strict=True)))
    found = counts.result([response for _, response in rows if response])
    assert (found.asked, found.unanswered, found.responses, found.refusals) == (5, 1, 5, 1)
    assert (found.looked_at, found.repetitions) == (5, {"repeated_line": 1, "repeated_words": 1})
