import pytest
from rouge_score.tokenize import tokenize

from hfsynth.similarity.words import (
    compared_words,
    find_repeated_line,
    find_repeated_words,
    has_no_spaces,
    normal_form,
    spaced_word_bounds,
    word_bounds,
    words_in,
)
from tests.languages import NEAR, UNLIKE


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
        ("भाषाओं में", ["भाषाओं", "में"]),
        ("مُحَمَّد كتب", ["مُحَمَّد", "كتب"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("Vie\u0323\u0302t Nam", ["việt", "nam"]),
        ("ｱｲｽ・クリーム", ["ア", "イ", "ス", "ク", "リ", "ー", "ム"]),
        ("時々", ["時", "々"]),
        ("ภาษาไทย", ["ภา", "ษา", "ไท", "ย"]),
        ("ພາສາ", ["ພາ", "ສາ"]),
        ("ភាសាខ្មែរ", ["ភា", "សា", "ខ្មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("བོད་སྐད", ["བོད", "སྐད"]),
        ("2024年", ["2024", "年"]),
        ("葛\U000e0100城", ["葛", "城"]),
        ("?! … —", []),
        ("🙂", []),
        ("", []),
    ],
)
def test_words_in_follow_the_script(text, words):
    assert words_in(text) == words


def test_normal_form_ignores_width_case_and_spaces():
    assert normal_form("ＡＢＣ\u00a0 d\r\n") == normal_form("abc D") == "abc d"


def test_normal_form_drops_invisible_characters():
    assert normal_form("\ufeffa\u200bb\u00ad \u200f") == "ab"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't panic!", ["don", "t", "panic"]),
        ("설명해 주세요.", ["설", "명", "해주세요"]),
        ("바다에 대한 시", ["바", "다", "에대한", "시"]),
        ("詩を書いてください。", ["詩", "を", "書", "いてください"]),
        ("\u1109\u1165\u110b\u116e\u11af", ["서", "울"]),
        ("2 € − 🙂", ["2", "€", "−", "🙂"]),
        ("x^2 + 1 = $5", ["x", "2", "1", "5"]),
        ("… —", [".", ".", ".", "—"]),
        (" \n", [""]),
    ],
)
def test_compared_words_are_never_empty(text, words):
    assert compared_words(text) == words


@pytest.mark.parametrize("text", [text for pair in (*NEAR["en"], *UNLIKE["en"]) for text in pair])
def test_compared_words_of_english_are_those_of_rouge_score(text):
    assert compared_words(text) == words_in(text) == tokenize(text, None)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("It's a dog.", (4, 4)),
        ("写一首关于春天的诗", (5, 9)),
        ("用Python写一个函数", (4, 7)),
        ("コンピューター", (4, 7)),
        ("ปัญญาประดิษฐ์", (3, 8)),
        ("이순신 장군은 누구인가요", (3, 7)),
        ("", (0, 0)),
    ],
)
def test_word_bounds_count_characters_as_parts_of_words(text, bounds):
    assert word_bounds(words_in(text)) == bounds


def test_spaced_word_bounds_of_spaced_scripts_count_spaces():
    assert spaced_word_bounds("It's 2 + 2, isn't it?") == (6, 6)
    assert spaced_word_bounds("Привет, друзья!") == (2, 2)
    assert spaced_word_bounds("འོད་ཀྱི་སྦྱོར་བ་འགྲེལ་བཤད་བྱོས།") == (7, 7)
    assert spaced_word_bounds("请写 a poem") == (3, 4)


def test_has_no_spaces_recognizes_scripts():
    assert [has_no_spaces(word) for word in ("東", "の", "ー", "ไท", "ខ្មែ", "한", "a", "2", "भाषा")] == [
        True, True, True, True, True, False, False, False, False,
    ]  # fmt: skip


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
