"""A glance at a split's instructions, for its card: how near each is to its nearest other one.

It takes seconds, whatever the number of rows; `hfsynth.report` looks closely.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from hfsynth.likeness.words import compared_words
from hfsynth.reporting.neighbours import NEAR, nearest_scores, sample_size
from hfsynth.reporting.reading import Columns, batches_of, drawn, texts_at
from hfsynth.reporting.spread import Spread

_WORDS = 1_000_000_000  # that drawn rows are compared with: some seconds


@dataclass(frozen=True)
class Glance:
    """How alike a split's instructions are."""

    column: str
    """Where they are."""
    among: int
    """All instructions."""
    rows: int
    """Those that were compared with all others by ROUGE-L: all, or some drawn by chance."""
    similarity: Spread | None
    """F-measure with the nearest other one."""
    near: int
    """Of these, those with one above 0.7."""


def glance_at(dataset: Dataset) -> Glance | None:
    """Look at a dataset's instructions; None where it has fewer than two."""
    column = Columns.found(dataset)
    places, words = np.array(list(_filled(dataset, column)) if column else [], np.int64).reshape(-1, 2).T
    if column is None or len(places) < 2:
        return None
    chosen = np.sort(drawn(len(places), sample_size(len(places), int(words.sum()), _WORDS)))
    every = ([text for text in batch if text] for batch in batches_of(dataset, column, "instruction"))
    scores = nearest_scores(texts_at(dataset, column, "instruction", places[chosen]), chosen, every)
    return Glance(
        column=column,
        among=len(places),
        rows=len(chosen),
        similarity=Spread.of(scores, (0.0, 1.0)),
        near=int((scores > NEAR).sum()),
    )


def _filled(dataset: Dataset, column: str) -> Iterator[tuple[int, int]]:
    """Give the places of the rows that have an instruction, and about how many words of it are compared."""
    texts = (text for batch in batches_of(dataset, column, "instruction") for text in batch)
    return ((place, _number_of_words(text)) for place, text in enumerate(texts) if text)


def _number_of_words(text: str) -> int:
    return text.count(" ") + 1 if text.isascii() else len(compared_words(text))
