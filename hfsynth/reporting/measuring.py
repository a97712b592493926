"""`report`: a dataset → what its rows are like, in a few passes over it, batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hfsynth.likeness.embeddings import embed
from hfsynth.reporting.answers import AnswerCounts
from hfsynth.reporting.embedded import EMBEDDED_ROWS, Embedded
from hfsynth.reporting.neighbours import Neighbours, neighbours, sample_size
from hfsynth.reporting.reading import Columns, batches_of, drawn, texts_at
from hfsynth.reporting.report import Report
from hfsynth.reporting.steps import funnel_of, steps_of
from hfsynth.reporting.verdicts import labels_of, scores_of
from hfsynth.reporting.wording import Equals, GramCounts, WordingCounts, even_shares, words_of_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWERS = 20_000  # responses in which repetition is looked for
_ORDERED = 2_000  # texts that are read at once, in an order drawn by chance


def report(
    dataset: Dataset,
    column: str | None = None,
    *,
    response: str | None = None,
    sample: int | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    embeddings: str | None = None,
    revision: str | None = None,
) -> Report:
    """Measure a dataset's instructions and responses: how diverse they are, and what is wrong with them.

    >>> from datasets import Dataset
    >>> told = report(Dataset.from_dict({"instruction": ["Name a fruit.", "name a FRUIT.", "Add 2 and 3."]}))
    >>> told.rows, told.duplicates, told.neighbours.near
    (3, 1, 2)

    Args:
        dataset: The rows, of one split.
        column: The column with the instructions: texts, or conversations, whose user's first turn is taken. Default:
            the first there of `evolved_instruction`, `instruction`, `prompt`, `conversation`, `messages`.
        response: The column with the responses: texts, or conversations, whose last turn is taken if it is the
            assistant's. Default: the first there of `response`, `generation`, `answer`, `completion`.
        sample: How many rows are compared with all others. Default: as many as that takes minutes for: of short
            instructions all up to 31,000, and a thousand of a million.
        tokenizer: Whose tokens lengths are told in, too, such as `AutoTokenizer.from_pretrained(name)`; special ones
            aren't counted.
        embeddings: A model of sentence-transformers, by its name on the Hub or its folder, to measure 20,000 rows
            at most by what they mean. Needs `hfsynth[embeddings]`. Default: they aren't.
        revision: Branch, tag or commit of that model on the Hub.

    Raises:
        TypeError: If it isn't a `Dataset`.
        ColumnError: If there is no column with instructions, or one that is named has no texts.
        ValueError: If the sample is of no rows.
        ImportError: If sentence-transformers is needed, and isn't installed.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample is {sample}; at least 1 row must be compared with the others.")
    columns = Columns.of(dataset, column, response)
    rows = _Rows(dataset, columns, tokenizer)
    rows.see()
    return Report(
        rows=len(dataset),
        columns=columns,
        instructions=rows.instructions.result(),
        duplicates=rows.equals.result(),
        distinct=rows.grams.result(even_shares(rows.in_order())),
        neighbours=rows.neighbours(sample),
        embedded=rows.meaning(embeddings, revision),
        responses=rows.responses.result() if columns.response else None,
        answers=rows.answers.result(rows.some_responses()) if columns.response else None,
        steps=steps_of(dataset),
        funnel=funnel_of(dataset),
        labels=labels_of(dataset),
        scores=scores_of(dataset),
    )


@dataclass
class _Rows:
    """The rows, and what was counted of them in the first pass."""

    dataset: Dataset
    columns: Columns
    tokenizer: "PreTrainedTokenizerBase | None"
    instructions: WordingCounts = field(default_factory=WordingCounts)
    responses: WordingCounts = field(default_factory=WordingCounts)
    equals: Equals = field(default_factory=Equals)
    grams: GramCounts = field(default_factory=GramCounts)
    answers: AnswerCounts = field(default_factory=AnswerCounts)
    places: NDArray[np.int64] = field(init=False)
    """Of the rows that have an instruction."""
    answered: NDArray[np.int64] = field(init=False)
    """Of the rows that have a response."""

    def see(self) -> None:
        """Count, batch by batch."""
        there: list[bool] = []
        for texts in batches_of(self.dataset, self.columns.instruction, "instruction"):
            words = words_of_batch(texts)
            self.instructions.see(texts, words, self.tokenizer)
            self.grams.see(words)
            self.equals.see([text for text in texts if text])
            there += map(bool, texts)
        self.places = np.flatnonzero(there)
        self.answered = np.flatnonzero(self._answers()) if self.columns.response else np.array([], np.int64)

    def neighbours(self, sample: int | None) -> Neighbours:
        """Measure how alike the instructions are."""
        words = sum(length * count for length, count in self.instructions.words.items())
        texts = len(self.places)
        size = sample_size(texts, words) if sample is None else min(sample, texts)
        return neighbours(self._full, self._instructions_at, texts, size)

    def meaning(self, model: str | None, revision: str | None) -> Embedded | None:
        """Measure some instructions by what they mean, if there is a model for that."""
        among = len(self.places)
        if model is None or not among:
            return None
        texts = self._instructions_at(drawn(among, EMBEDDED_ROWS))
        vectors = embed(texts, model, revision).astype(np.float64)
        # a folder says nothing to those who read a report
        name = Path(model).resolve().name if Path(model).is_dir() else model
        return Embedded.of(vectors, among, name)

    def in_order(self) -> Iterator[str]:
        """Give the instructions in an order drawn by chance, as long as they are asked for."""
        order = drawn(len(self.places), len(self.places))
        for start in range(0, len(order), _ORDERED):
            yield from self._instructions_at(order[start : start + _ORDERED])

    def some_responses(self) -> list[str]:
        """Return responses, all of them or some drawn by chance."""
        places = self.answered[np.sort(drawn(len(self.answered), _ANSWERS))]
        return texts_at(self.dataset, self.columns.response, "response", places)

    def _answers(self) -> list[bool]:
        """Count the responses, beside their instructions; return which rows have one."""
        there: list[bool] = []
        instructions = batches_of(self.dataset, self.columns.instruction, "instruction")
        responses = batches_of(self.dataset, self.columns.response, "response")
        for asked, texts in zip(instructions, responses, strict=True):
            self.responses.see(texts, words_of_batch(texts), self.tokenizer)
            self.answers.see(asked, texts)
            there += map(bool, texts)
        return there

    def _full(self) -> Iterator[list[str]]:
        for texts in batches_of(self.dataset, self.columns.instruction, "instruction"):
            yield [text for text in texts if text]

    def _instructions_at(self, places: NDArray[np.int64]) -> list[str]:
        """Return instructions by their places among those that there are."""
        return texts_at(self.dataset, self.columns.instruction, "instruction", self.places[places])
