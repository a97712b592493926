import pytest

from hfsynth.similarity.repetition import find_repeated_line, find_repeated_words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Go on like this.\n" * 3, ("go on like this", 3)),
        ("Go on like this. And on. Go on like this! Or not. Go on LIKE this? Well.", ("go on like this", 3)),
        ("再说一遍吧。再说一遍吧。再说一遍吧。", ("再 说 一 遍 吧", 3)),
        ("Go on like this.\n" * 2, None),
        ("Yes. Yes. Yes.", None),
        ("", None),
    ],
)
def test_find_repeated_line_takes_lines_then_sentences(text, found):
    assert find_repeated_line(text) == found


def test_find_repeated_line_limits_are_arguments():
    assert find_repeated_line("Yes.\nYes.", min_times=2, min_words=1) == ("yes", 2)


def test_find_repeated_words_returns_run_times_and_share():
    assert find_repeated_words("a b c d " * 3 + "e f g h") == ("a b c d", 3, 0.75)
    assert find_repeated_words("a b c d " * 3 + "e f g h", max_share=0.75) is None


@pytest.mark.parametrize("text", ["", "a b c d a b c d", "Compare the cost of living in Rome with that in Paris."])
def test_find_repeated_words_without_repetition_is_none(text):
    assert find_repeated_words(text) is None
