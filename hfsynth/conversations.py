"""Conversations as rows have them: lists of messages, which may hold anything, checked before a model reads them."""

from collections.abc import Iterable

from hfsynth.errors import RowError
from hfsynth.generation import Message


def checked_messages(column: str, messages: object) -> tuple[Message, ...]:
    """Return a row's conversation, of one message at least.

    Args:
        column: Where it comes from, for error messages.
        messages: What the row has there.

    Raises:
        RowError: If it is not a list of messages with role and content.

    >>> checked_messages("messages", [{"role": "user", "content": "Hi", "date": None}])
    ({'role': 'user', 'content': 'Hi'},)
    """
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Iterable) or not (listed := list(messages)):
        raise RowError(f"{column} is not a list of role and content: {messages!r}")
    for message in listed:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or not message.get("role"):
            raise RowError(f"{column} has an entry without role or content: {message!r}")
    return tuple({"role": message["role"], "content": message["content"]} for message in listed)
