"""Normalize texts, split them into words in any script, and find words and repetitions in them.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put no space between words, so each of their characters counts as a
word: an ideograph, a kana, or a letter of South-East Asia with its vowels. ROUGE-L compares these words. For Korean it
compares syllables, because spacing and endings vary. The most frequent polite endings and particles of Japanese and
Korean count as one word each, so that shared endings alone don't make requests similar. The words of `rouge_score`,
for English, are here too.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise
from typing import Literal, get_args

Tokenizer = Literal["unicode", "rouge_score"]
"""The words that ROUGE-L compares: those of any script, or those of the package rouge_score."""
SPACED_ENDS = ".!?؟۔।॥։።"
"""Marks that end a sentence where white space follows."""
UNSPACED_ENDS = "。｡．！？។៕။"
"""Marks that end a sentence, whatever follows."""
UNSPACED_SCRIPTS = frozenset({"CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR"})
"""Scripts without spaces between words, by the first word of their letters' Unicode names."""
LINE_TIMES = 3
"""Occurrences from which a line or sentence counts as repeated."""
LINE_WORDS = 3
"""Fewest words of a line or sentence that counts: shorter ones recur in code and verse."""
NGRAM_WORDS = 4
"""Words of a run."""
NGRAM_TIMES = 3
"""Occurrences from which a run of words counts as repeated."""
NGRAM_SHARE = 0.3
"""Share of a text's words above which one repeated run counts as a repetition."""

_EAST = (  # Chinese and Japanese, without the middle dot and the double hyphen of katakana
    "\u3005-\u3007\u3021-\u3029\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_SOUTH = (  # Thai, Lao, Burmese, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese, Tai Viet
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aad\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"
)
_SYLLABLES = "\uac00-\ud7a3"  # Korean
_SYLLABLE = re.compile(f"[{_SYLLABLES}]")
_KOREAN_PHRASES = (
    r"에 ?(?:대하여|대한|대해서?)|(?:(?:해|하여) ?)?(?:주세요|주십시오|주시오|줘요?)"
    r"|하(?:세요|십시오|시오)|인가요|[입습]니까|[습합입]니다"
    r"|에게|에서|으로"
)
_JAPANESE_PHRASES = (
    r"(?:[ぁ-ゖ]?[てで])?ください|(?:です|ます|でしょう)か?|[にと](?:ついて|関する|関して)の?|とは|なさい|ため[のに]?|から|まで|より|という"
    r"|こと|ように?"
)
_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4"  # Thai and Lao vowels that are written before their consonant
_AFTER = "\u0e30\u0e32\u0e45\u0eb0\u0eb2"  # vowels after their consonant that are letters, not marks
_STACKERS = "\u1039\u17d2\u1a60\u1b44\ua9c0"  # marks after which a consonant is written below
_TSHEG = "\u0f0b\u0f0c"  # marks between the syllables of Tibetan
_EAST_LENGTH, _SOUTH_LENGTH = 2, 3  # characters of a word, on average
_INVISIBLE = re.compile(  # Unicode's default ignorable code points
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_PLANES = 0x20000  # code points above are ideographs and variants of them
_LATIN_WORD = re.compile(r"[a-z0-9]+")
_SENTENCE_END = re.compile(rf"(?<=[{SPACED_ENDS}])\s+|(?<=[{UNSPACED_ENDS}])|\n")


def normal_form(text: str) -> str:
    r"""Return a text without differences of width, ligatures, accent composition, case and white space.

    Invisible characters are removed.

    >>> normal_form("  Ｎame\n the ﬁrst\tKing \u200b")
    'name the first king'
    """
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_INVISIBLE.sub("", folded).split())


@dataclass(frozen=True)
class Match:
    """The text that another text was compared with and resembles most."""

    text: str
    score: float
    """Their similarity, from 0 to 1: ROUGE-L F-measure, Jaccard or cosine."""


def words_in(text: str) -> list[str]:
    """Return the words of a text in any script, in normal form, without punctuation.

    >>> words_in("Don't panic: it's 42_000 km!")
    ['don', 't', 'panic', 'it', 's', '42', '000', 'km']
    >>> words_in("你好，world"), words_in("한국어를 공부해요")
    (['你', '好', 'world'], ['한국어를', '공부해요'])
    """
    form = normal_form(text)
    return _LATIN_WORD.findall(form) if form.isascii() else _word_pattern().findall(form)


def compared_words(text: str) -> list[str]:
    """Return the words of a text that ROUGE-L compares: those of `words_in`, with Korean in syllables, and symbols.

    The most frequent polite endings and particles of Japanese and Korean, such as "ください" or "해 주세요", are one
    word each. A text without words and symbols is compared by its punctuation, and a blank text has one empty word; so
    equal texts always have a ROUGE-L of 1.

    >>> compared_words("What's 2+2, naïvely?")
    ['what', 's', '2', '2', 'naïvely']
    >>> compared_words("설명해 줘 🙂"), compared_words("?!")
    (['설', '명', '해줘', '🙂'], ['?', '!'])
    """
    form = normal_form(text)
    if form.isascii():
        found = _LATIN_WORD.findall(form)
    else:
        found = [word.replace(" ", "") for word in _compared_pattern().findall(form)]
    return found or list(form.replace(" ", "")) or [form]


def rouge_score_words(text: str) -> list[str]:
    """Return the words of `rouge_score` without a stemmer: runs of a-z and 0-9, in lower case.

    >>> rouge_score_words("What's 2+2, naïvely?")
    ['what', 's', '2', '2', 'na', 'vely']
    """
    return _LATIN_WORD.findall(text.lower())


TOKENIZERS: Mapping[Tokenizer, Callable[[str], list[str]]] = {
    "unicode": compared_words,
    "rouge_score": rouge_score_words,
}


def check_tokenizer(name: str, tokenizer: str) -> None:
    """Check that a field holds the name of a tokenizer.

    Args:
        name: The field, for the error message.
        tokenizer: Its value.

    Raises:
        ValueError: If the tokenizer is unknown.
    """
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"{name} must be one of {list(get_args(Tokenizer))}, got {tokenizer!r}.")


def word_bounds(words: Sequence[str]) -> tuple[int, int]:
    """Return the smallest and the largest number of words that a text may have, from the result of `words_in`.

    In scripts without spaces, the largest number counts each character as a word; the smallest counts two characters
    of Chinese or Japanese, the average, or three of the other scripts. In Korean, where particles and endings belong
    to a word, the largest number counts two syllables as a word. In other scripts both numbers are the same.

    >>> word_bounds(words_in("Write a poem")), word_bounds(words_in("写一首诗")), word_bounds(words_in("시를 써 줘"))
    ((3, 3), (2, 4), (3, 3))
    """
    east = sum(_east().match(word) is not None for word in words)
    south = sum(_south().match(word) is not None for word in words)
    unspaced = -(-east // _EAST_LENGTH) - (-south // _SOUTH_LENGTH)
    endings = sum((len(word) - 1) // 2 for word in words if _SYLLABLE.match(word))
    return len(words) - east - south + unspaced, len(words) + endings


def num_items(number: int, words: Sequence[str]) -> int:
    """Return the number of items of `words_in` that make up a number of words in a text, on average.

    >>> num_items(4, words_in("Go on and on")), num_items(4, words_in("我们继续走下去吧"))
    (4, 8)
    """
    return round(number * len(words) / max(word_bounds(words)[0], 1))


def spaced_word_bounds(text: str) -> tuple[int, int]:
    """Return the bounds of `word_bounds`, with words separated by spaces where the script has them.

    Tibetan syllables, which a mark separates, count as words.

    >>> spaced_word_bounds("Don't go!"), spaced_word_bounds("用 Python 写一首诗")
    ((2, 2), (4, 6))
    """
    words: list[str] = []
    for part in re.sub(f"[{_TSHEG}]", " ", text).split():
        found = words_in(part)
        words += found if any(has_no_spaces(word) for word in found) else [part]
    return word_bounds(words)


def has_no_spaces(word: str) -> bool:
    """Return whether a word begins with a character of a script without spaces between words.

    >>> [has_no_spaces(word) for word in ("a", "言", "한", "ไทย")]
    [False, True, False, True]
    """
    return _east().match(word) is not None or _south().match(word) is not None


def find_word(word: str, text: str) -> str:
    """Return the first occurrence of a word or phrase in a text, in upper or lower case; "" if there is none.

    Only complete words match. In a script without spaces a word matches anywhere; a Korean word matches with any
    ending.

    >>> find_word("map", "Draw a MAP."), find_word("map", "Draw maps."), find_word("画", "请画一只猫")
    ('MAP', '', '画')
    """
    found = _word_finder(word).search(unicodedata.normalize("NFKC", text))
    return found.group() if found else ""


def find_repeated_line(text: str, min_times: int = LINE_TIMES, min_words: int = LINE_WORDS) -> tuple[str, int] | None:
    r"""Find the most frequent line of a text, or else its most frequent sentence, without case and punctuation.

    Args:
        text: The text.
        min_times: Fewest occurrences.
        min_words: Fewest words of the line or sentence.

    Returns:
        The words of the line and its occurrences; None if no line or sentence has so many.

    >>> find_repeated_line("So it goes on.\nSo it goes on!\nso it goes on")
    ('so it goes on', 3)
    """
    for parts in (text.splitlines(), _SENTENCE_END.split(text)):
        in_words = (words_in(part) for part in parts)
        counts = Counter(" ".join(words) for words in in_words if word_bounds(words)[0] >= min_words)
        for part, times in counts.most_common(1):
            if times >= min_times:
                return part, times
    return None


def find_repeated_words(
    text: str, length: int = NGRAM_WORDS, min_times: int = NGRAM_TIMES, max_share: float = NGRAM_SHARE
) -> tuple[str, int, float] | None:
    """Find the repeated run of words that covers the largest share of a text.

    Args:
        text: The text.
        length: Words of a run; in scripts without spaces, as many characters as make that many words on average.
        min_times: Fewest occurrences.
        max_share: The largest share of the words, from 0 to 1, that one repeated run may cover.

    Returns:
        The run, its occurrences and their share of the words; None if no repeated run covers more than `max_share`.

    >>> find_repeated_words("go on and on " * 5)
    ('go on and on', 5, 1.0)
    """
    words = words_in(text)
    size = num_items(length, words)
    starts: dict[tuple[str, ...], list[int]] = {}
    for start in range(len(words) - size + 1):
        starts.setdefault(tuple(words[start : start + size]), []).append(start)
    repeated = {gram: places for gram, places in starts.items() if len(places) >= min_times}
    shares = {gram: _covered_words(places, size) / len(words) for gram, places in repeated.items()}
    gram = max(shares, key=shares.__getitem__, default=())
    if not gram or shares[gram] <= max_share:
        return None
    return " ".join(gram), len(repeated[gram]), shares[gram]


def _covered_words(starts: list[int], length: int) -> int:
    """Count the words within runs of a length that begin at `starts`, in ascending order and perhaps overlapping.

    >>> _covered_words([0, 1, 10], 4)
    9
    """
    return length + sum(min(following - start, length) for start, following in pairwise(starts))


@cache
def _word_finder(word: str) -> re.Pattern[str]:
    form, marks = unicodedata.normalize("NFKC", word), _class_of("Mn", "Mc", "Me")
    before = "" if has_no_spaces(form[:1]) else rf"(?<![^\W{_EAST}{_SOUTH}])(?<![{marks}])"
    after = "" if has_no_spaces(form[-1:]) else rf"(?![^\W{_EAST}{_SOUTH}{_SYLLABLES}]|[{marks}])"
    return re.compile(f"{before}{re.escape(form)}{after}", re.IGNORECASE)


@cache
def _east() -> re.Pattern[str]:
    return re.compile(f"[{_EAST}]")


@cache
def _south() -> re.Pattern[str]:
    return re.compile(f"[{_SOUTH}]")


@cache
def _word_pattern() -> re.Pattern[str]:
    """Match words: characters of scripts without spaces, and runs of letters and digits, each with its marks."""
    return re.compile("|".join(_words_by_script()))


@cache
def _compared_pattern() -> re.Pattern[str]:
    """Match phrases of Korean and Japanese, Korean syllables, words and symbols."""
    symbols = _class_of("So", "Sm", "Sc")
    words = (f"[{_SYLLABLES}]", *_words_by_script(_SYLLABLES), f"(?![\\x00-\\x7f])[{symbols}]")
    return re.compile("|".join((_KOREAN_PHRASES, _JAPANESE_PHRASES, *words)))


def _words_by_script(other: str = "") -> Iterator[str]:
    """Yield the patterns of words, without the letters of `other`."""
    mark = f"[{_class_of('Mn', 'Mc', 'Me')}]"
    letter = rf"[^\W_{_EAST}{_SOUTH}{other}]"
    yield f"{letter}+(?:{mark}+{letter}*)*"
    yield f"[{_EAST}]{mark}*"
    consonant = rf"[^\W_]{mark}*"
    yield f"(?=[{_SOUTH}])[{_BEFORE}]?{consonant}(?:(?<=[{_STACKERS}]){consonant})*[{_AFTER}]?"


@cache
def _class_of(*categories: str) -> str:
    """Return the characters of Unicode categories in the form of a character class, without its brackets."""
    points = [point for point in range(_PLANES) if unicodedata.category(chr(point)) in categories]
    runs = (list(run) for _, run in groupby(enumerate(points), key=lambda pair: pair[1] - pair[0]))
    return "".join(f"{re.escape(chr(run[0][1]))}-{re.escape(chr(run[-1][1]))}" for run in runs)
