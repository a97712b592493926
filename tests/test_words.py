import pytest

from hfsynth.likeness.words import normal_form, words_in


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("e\u0301te\u0301 é", ["été", "é"]),
        ("naïve, snake_case", ["naïve", "snake", "case"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("東京タワー2号", ["東", "京", "タ", "ワ", "ー", "2", "号"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("?! … —", []),
        ("", []),
    ],
)
def test_words_are_those_of_the_script(text, words):
    assert words_in(text) == words


def test_texts_that_differ_in_writing_alone_have_one_normal_form():
    assert normal_form("ＡＢＣ\u00a0 d\r\n") == normal_form("abc D") == "abc d"
