"""What the filters of texts share: how a column's value is read as text."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hfsynth.conversations import content_text
from hfsynth.errors import ColumnError
from hfsynth.filter import Drop, Filter


@dataclass(frozen=True, kw_only=True)
class TextFilter(Filter, ABC):
    """A filter of texts; a conversation is read as the texts of its messages, one below the other.

    Raises:
        ColumnError: If a value is neither.
    """

    def verdicts(self, values: Iterable[Any], kept: Iterable[Any]) -> Iterator[Drop | None]:
        """Decide on rows one by one, by their texts."""
        return self.decide(map(self._text, values), map(self._text, kept))

    @abstractmethod
    def decide(self, texts: Iterator[str], kept: Iterator[str]) -> Iterator[Drop | None]:
        """Decide on texts one by one, as `verdicts` does on values."""

    def _text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        messages: list[Any] = value if isinstance(value, list) else [None]
        if any(not isinstance(message, dict) or "content" not in message for message in messages):
            raise ColumnError(
                f"{self.name} reads texts or conversations; column {self.column!r} has {value!r}, "
                f"of type {type(value).__name__}."
            )
        try:
            texts = [content_text(message["content"]) for message in messages]
        except ValueError as error:
            raise ColumnError(f"{self.name} reads texts; column {self.column!r} has {error}") from None
        return "\n".join(text for text in texts if text is not None)  # a turn that calls a tool may be without a text
