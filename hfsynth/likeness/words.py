"""A text as words, whatever its script: what is compared where two texts should count as the same in spite of style.

`hfsynth.likeness.novelty` has another way, which is that of `rouge_score`.
"""

import re
import unicodedata

# Chinese and Japanese put no space between words: each of their signs counts as one
_SIGNS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# marks that belong to the letter before, which \w leaves out: accents, Hebrew, Arabic, and the scripts of India
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_WORD = re.compile(rf"[{_SIGNS}]|(?:[^\W_{_SIGNS}]|[{_MARKS}])+")


def normal_form(text: str) -> str:
    r"""Return a text without what is only a difference in writing: width, ligatures, case, spaces and line breaks.

    >>> normal_form("  Ｎame\n the ﬁrst\tKing ")
    'name the first king'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_in(text: str) -> list[str]:
    """Return the words of a text in any script, in their normal form, without punctuation.

    >>> words_in("Don't panic: it's 42_000 km!")
    ['don', 't', 'panic', 'it', 's', '42', '000', 'km']
    >>> words_in("你好，world")
    ['你', '好', 'world']
    """
    return _WORD.findall(normal_form(text))
