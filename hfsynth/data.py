"""What a report reads: a column's texts, batch by batch; of a conversation, the first instruction or last answer."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from hfsynth.errors import ColumnError
from hfsynth.metadata import METADATA_COLUMN

INSTRUCTION_COLUMNS = (
    "evolved_instruction", "evolved_instructions", "instruction", "prompt", "conversation", "messages"
)  # fmt: skip
"""Where instructions are looked for; what was evolved comes before what it was made of."""
RESPONSE_COLUMNS = ("response", "generation", "answer", "answers", "completion", "chosen")
VERSIONS = ("evolved_instructions", "answers")
"""Lists of texts, of which the last one counts."""
Part = Literal["instruction", "response"]
_ROWS_AT_ONCE = 5_000
_MESSAGE_FIELDS = {"role", "content"}


@dataclass(frozen=True)
class Columns:
    """The columns that a report is about."""

    instruction: str
    response: str = ""
    """"" where there is none. A column of conversations can be both."""

    @classmethod
    def of(cls, dataset: Dataset, instruction: str | None, response: str | None) -> "Columns":
        """Find the columns that aren't given.

        Raises:
            TypeError: If it isn't a `Dataset`.
            ColumnError: If a column isn't there, or has neither texts nor conversations.
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"a report is about a Dataset, not about {type(dataset).__name__}; of a DatasetDict, say which split: "
                "report(dataset['train'])."
            )
        readable = _readable(dataset.features)
        for name in (instruction, response):
            if name is not None and name not in readable:
                raise ColumnError(f"there are no texts in column {name!r}; there are in {readable}.")
        found = instruction or cls.found(dataset)
        if found is None:
            raise ColumnError(
                f"no column is named like instructions, {list(INSTRUCTION_COLUMNS)}; there are texts in {readable}. "
                "Say which: report(dataset, column='…')."
            )
        answers = response or next((name for name in RESPONSE_COLUMNS if name in readable and name != found), "")
        return cls(found, answers or (found if is_chat(dataset.features[found]) else ""))

    @staticmethod
    def found(dataset: Dataset) -> str | None:
        """Find the column with the instructions by its name; None where there is no such column."""
        readable = _readable(dataset.features)
        chosen = "chosen" if is_chat(dataset.features.get("chosen")) else None
        return next((name for name in INSTRUCTION_COLUMNS if name in readable), chosen)


def batches_of(dataset: Dataset, column: str, part: Part) -> Iterator[list[str]]:
    """Give a column's texts in batches of rows, in order; "" where there is none, or nothing but white space."""
    kind = dataset.features[column]
    for rows in dataset.select_columns(column).with_format(None).iter(_ROWS_AT_ONCE):
        values = rows[column]
        if is_chat(kind):
            values = (_said(messages, part) for messages in values)
        elif isinstance(kind, List):
            values = (texts[-1] if texts else None for texts in values)
        yield [value if isinstance(value, str) and not value.isspace() else "" for value in values]


def texts_at(dataset: Dataset, column: str, part: Part, places: NDArray[np.int64]) -> list[str]:
    """Return a column's texts at some places, in their order."""
    return [text for batch in batches_of(dataset.select(places), column, part) for text in batch]


def drawn(count: int, size: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw `size` of `count` things, or all, without order: the same ones every time, and more begin with the fewer.

    >>> drawn(5, 9).tolist(), drawn(5, 2).tolist()
    ([2, 4, 3, 0, 1], [2, 4])
    """
    places: NDArray[np.int64] = np.random.default_rng(seed).permutation(count)[:size]
    return places


def text_columns(features: Features) -> list[str]:
    """List the columns that hold texts or conversations."""
    return [name for name, kind in features.items() if name != METADATA_COLUMN and (_is_text(kind) or is_chat(kind))]


def is_chat(kind: Any) -> bool:
    """Return whether a feature is that of conversations: lists of messages with role and content."""
    return isinstance(kind, List) and isinstance(kind.feature, dict) and set(kind.feature) >= _MESSAGE_FIELDS


def _is_text(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype in ("string", "large_string")


def _readable(features: Features) -> list[str]:
    """List the columns of texts and of conversations; those with versions of a text, and those with nothing, too."""
    versions = [name for name in VERSIONS if features.get(name) == List(Value("string"))]
    nothing = [name for name, kind in features.items() if kind == Value("null")]
    return [*text_columns(features), *versions, *nothing]


def _said(messages: Iterable[Mapping[str, Any]] | None, part: Part) -> str | None:
    """Return what a conversation's user says first, or what its assistant says last, if nobody speaks after that."""
    turns = list(messages or ())
    if part == "response":
        return turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else None
    return next((turn["content"] for turn in turns if turn["role"] == "user"), None)
