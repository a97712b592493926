"""Match texts that are equal but for width, case, white space and invisible characters."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hfsynth.similarity.words import normal_form


@dataclass(frozen=True)
class Match:
    """The text that another text was compared with and resembles most."""

    text: str
    score: float
    """Their similarity, from 0 to 1: ROUGE-L F-measure, Jaccard or cosine."""


def match_equal(texts: Iterable[str], kept: Iterable[str]) -> Iterator[Match | None]:
    """Match each text with the first earlier one that has the same normal form.

    Args:
        texts: The texts.
        kept: Texts before these.

    Yields:
        For each text the earlier one, with a score of 1; None where the text is the first of its form.
    """
    first: dict[str, str] = {}
    for text in kept:
        first.setdefault(normal_form(text), text)
    for text in texts:
        form = normal_form(text)
        yield Match(first[form], 1.0) if form in first else None
        first.setdefault(form, text)
