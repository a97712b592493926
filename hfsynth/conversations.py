"""Conversations as rows have them: lists of messages, which may hold anything, checked before a model reads them."""

import re
from collections.abc import Iterable, Mapping

from hfsynth.errors import RowError
from hfsynth.generation import Message

_CALLS = ("tool_calls", "function_call")  # fields of a turn that a model must read to understand what follows
_TEXT_PARTS = ("text", "input_text", "output_text")


def checked_messages(column: str, messages: object) -> tuple[Message, ...]:
    """Return a row's conversation, of one message at least.

    Args:
        column: Where it comes from, for error messages.
        messages: What the row has there.

    Raises:
        RowError: If it is not a list of messages with role and content; or a turn calls a tool or has a part that is
            no text, such as an image: without it, the model would read another conversation.

    >>> checked_messages("messages", [{"role": "user", "content": "Hi", "date": None}])
    ({'role': 'user', 'content': 'Hi'},)
    """
    if (
        isinstance(messages, (str, bytes, Mapping))
        or not isinstance(messages, Iterable)
        or not (listed := list(messages))
    ):
        raise RowError(f"{column} is not a list of role and content: {messages!r:.200}")
    return tuple(_checked(column, message) for message in listed)


def _checked(column: str, message: object) -> Message:
    """Return one message, if it has nothing but a text to be read.

    Raises:
        RowError: If it has no role or text, calls a tool, or has a part that is no text.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or not message["role"]:
        raise RowError(f"{column} has an entry without role or content: {message!r:.200}")
    if not re.fullmatch(r"\w[\w.-]*", message["role"]):  # a template writes it as it is, beside its special tokens
        raise RowError(f"{column} has a role that is no word: {message['role']!r:.200}")
    if called := [field for field in _CALLS if message.get(field)]:
        raise RowError(
            f"{column} has a turn of {message['role']!r} with {called[0]}, which aren't read: {message!r:.200}"
        )
    try:
        text = content_text(message.get("content"))
    except ValueError as error:
        raise RowError(f"{column} has a turn of {message['role']!r} with {error}") from None
    if text is None:
        raise RowError(f"{column} has an entry without role or content: {message!r:.200}")
    return {"role": message["role"], "content": text}


def content_text(content: object) -> str | None:
    r"""Return the text of a message's content: a text, or a list of parts of type text, one below the other.

    Returns:
        None where there is no content.

    Raises:
        ValueError: If a part is no text, such as an image.

    >>> content_text([{"type": "text", "text": "Name a fruit."}, {"type": "text", "text": "A red one."}])
    'Name a fruit.\nA red one.'
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"content of type {type(content).__name__}; texts and lists of text parts are read.")
    texts: list[str] = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") in _TEXT_PARTS else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"a part of type {kind!r} in its content; only parts of type 'text' are read.")
        texts.append(text)
    return "\n".join(texts) if texts else None
