"""Which evolved instructions can't stand: the elimination rules of EvolInstruct (WizardLM, arXiv 2304.12244).

A round fails, and the row keeps its version from before, where by the paper's rules

1. a judge finds that the evolved instruction asks for nothing else than the one before (`equal`),
2. its answer says "sorry" and has less than 80 words (`sorry`): an apology in another language isn't found,
3. its answer is nothing but punctuation and English stop words (`no_content`): a word of another language is content,
   and so is an emoji,
4. it has words of the operation's own prompt that the instruction didn't have (`leaked_prompt`);

and where there is no use in asking: it is `empty`, was `cut_off`, or is `unchanged`.
"""

import re
import unicodedata

from hfsynth.likeness.words import SPACED_ENDS, UNSPACED_ENDS, normal_form, spaced_word_bounds, words_in

JUDGE_TEMPLATE = """\
Compare two instructions for an AI assistant. They are equal if both have the same constraints and requirements, and \
ask for the same depth and breadth.

First instruction:
{{ before }}

Second instruction:
{{ after }}

Answer with "Equal" or "Not equal" and nothing else.
"""
EQUAL = ("Equal", "Not equal")
"""What the judge may answer."""
_LEAKS = re.compile(r"\b(?:given|rewritten|created)[\s_-]+prompt\b", re.IGNORECASE)
_SORRY_WORDS = 80
_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but
by can could did do does doing down during each few for from further had has have having he her here hers him
his how i if in into is it its itself just me more most my no nor not now of off on once only or other our out
over own same she should so some such than that the their them then there these they this those through to too
under until up very was we were what when where which while who whom why will with would you your
"""


def elimination(before: str, evolved: str, finish_reason: str) -> str:
    """Return the rule that an evolved instruction fails by itself, or "" if it stands.

    >>> elimination("Make tea.", "Make  TEA!", "stop")
    'unchanged'
    """
    if not evolved:
        return "empty"
    if finish_reason == "length":
        return "cut_off"
    if _normal(before) == _normal(evolved):
        return "unchanged"
    if _LEAKS.search(evolved) and not _LEAKS.search(before):
        return "leaked_prompt"
    return ""


def elimination_by_answer(answer: str) -> str:
    """Return the rule that an evolved instruction fails by its answer, or "" if it stands.

    >>> elimination_by_answer("I'm sorry, but I can't.")
    'sorry'
    >>> elimination_by_answer("It is so!")
    'no_content'
    """
    if "sorry" in answer.casefold() and spaced_word_bounds(answer)[0] < _SORRY_WORDS:
        return "sorry"
    words = words_in(answer) or [sign for sign in answer if unicodedata.category(sign) == "So"]
    return "no_content" if set(words) <= set(_STOP_WORDS.split()) else ""


def _normal(text: str) -> str:
    """Return a text without its style: case, spaces, the marks of any script that begin or end a sentence."""
    return normal_form(text).rstrip(f"{SPACED_ENDS}{UNSPACED_ENDS} ").lstrip("¿¡ ")
