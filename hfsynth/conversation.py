"""Read conversations in the formats of datasets: role/content, ShareGPT's from/value, dicts of lists, JSON texts."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from datasets import Json, LargeList, List, Value

from hfsynth.errors import RowError
from hfsynth.llm import MESSAGE_ROLES, Message

CONVERSATION_COLUMNS = ("messages", "conversations", "conversation")
"""Names of columns of conversations, in the order of preference."""
THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message with the model's thinking before its answer."""
EXTRA_FIELDS = ("tool_calls", "tool_call_id", "name", *THINKING_FIELDS)
"""Fields of a message besides role and content that chat templates read; others are left out."""
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_READ_FIELDS = ("role", "content", "from", "value", "function_call", *EXTRA_FIELDS)
_CALL_ROLES = ("function_call", "tool_call")  # ShareGPT turns whose text is the JSON of a call
_TEXT_PARTS = ("text", "input_text", "output_text")
_SHAPES = "lists of messages with role and content, or from and value; dicts of such lists; or the JSON text of either"


def read_conversation(column: str, value: object) -> tuple[Message, ...]:
    """Return a row's conversation, which has at least one message.

    A message has a role, a content, and those of `EXTRA_FIELDS` that are not empty. If a message with tool calls has
    no content, the content becomes "". Fields of a tool call that are None are left out, since a dataset adds the
    fields of all calls to each call; in JSON texts, they are kept.

    Args:
        column: The column's name, for error messages.
        value: The row's value: a list of messages with role and content, or with from and value (ShareGPT); a dict of
            the lists of roles and contents; or the JSON text of either.

    Raises:
        RowError: If the value is none of these, its JSON can't be read, a dict's lists have unequal lengths, a role is
            unknown, or a part of a content is not text but, say, an image.

    >>> read_conversation("messages", [{"role": "user", "content": "Hi", "date": None}])
    ({'role': 'user', 'content': 'Hi'},)
    >>> read_conversation("conversations", '[{"from": "human", "value": "Hi"}]')
    ({'role': 'user', 'content': 'Hi'},)
    """
    messages: Any = _rows(column, _from_json(column, value))
    is_json = isinstance(value, str)
    is_list = not isinstance(messages, (str, bytes, Mapping)) and isinstance(messages, Iterable)
    if not is_list or not (listed := list(messages)):
        raise RowError(f"{column} is not a list of role and content: {value!r:.200}")
    return tuple(_read_message(column, message, is_json) for message in listed)


def read_answered(column: str, value: object) -> tuple[Message, ...]:
    """Return a conversation that ends with an answer, as `read_conversation` reads it.

    Raises:
        RowError: If it can't be read, or ends with another turn.
    """
    messages = read_conversation(column, value)
    if messages[-1]["role"] != "assistant":
        raise RowError(f"{column} ends with a turn of {messages[-1]['role']!r}: there is no answer to score")
    return messages


def read_tools(column: str, value: object) -> tuple[dict[str, Any], ...]:
    """Return a row's tools as JSON schemas; () for None and for an empty list.

    Args:
        column: The column's name, for error messages.
        value: The row's value: a list of schemas, or its JSON text, as in TRL's datasets. Fields that are None are
            left out of schemas that are not JSON texts, since a dataset adds the fields of all schemas to each one.

    Raises:
        RowError: If the value is neither.

    >>> read_tools("tools", [{"type": "function", "function": {"name": "now", "parameters": None}}])
    ({'type': 'function', 'function': {'name': 'now'}},)
    """
    return tuple(_read_objects(column, value or [], "is not a list of tools as JSON schemas"))


def read_tool_calls(column: str, value: object) -> list[Any]:
    """Return tool calls from a list, or from the JSON text of a list.

    Raises:
        RowError: If the value is neither.

    >>> read_tool_calls("tool_calls", '[{"function": {"name": "now", "arguments": {"zone": null}}}]')
    [{'function': {'name': 'now', 'arguments': {'zone': None}}}]
    """
    return _read_objects(column, value, "is not a list of tool calls")


def conversation_fault(kind: Any) -> str:
    """Return why a column with this feature can't hold conversations; "" if it can.

    >>> conversation_fault(Value("int64")).partition(";")[0]
    'it holds int64'
    """
    columns = kind if isinstance(kind, Mapping) else None
    if columns is None and isinstance(kind, List | LargeList):
        columns = kind.feature
        if isinstance(columns, Json):
            return ""
    if isinstance(kind, Json) or (isinstance(kind, Value) and kind.dtype in ("string", "large_string", "null")):
        return ""
    if isinstance(columns, Mapping) and any(set(columns) >= pair for pair in ({"role", "content"}, {"from", "value"})):
        return ""
    found = kind.dtype if isinstance(kind, Value) else str(kind)
    return f"it holds {found:.200}; conversations are {_SHAPES}"


def tools_fault(kind: Any) -> str:
    """Return why a column with this feature can't hold tools; "" if it can.

    >>> tools_fault(List(Json())), tools_fault(Value("int64")).partition(";")[0]
    ('', 'it holds int64')
    """
    one = kind.feature if isinstance(kind, List | LargeList) else kind
    is_text = isinstance(one, Value) and one.dtype in ("string", "large_string", "null")
    if is_text or isinstance(one, Json) or (one is not kind and isinstance(one, Mapping)):
        return ""
    found = kind.dtype if isinstance(kind, Value) else str(kind)
    return f"it holds {found:.200}; tools are lists of JSON schemas, or the JSON text of such a list"


def is_conversation(kind: Any) -> bool:
    """Return whether a feature is that of conversations. Texts and JSON, which may hold one, don't count."""
    return kind is not None and not isinstance(kind, Value | Json) and not conversation_fault(kind)


def find_conversation_column(columns: Collection[str]) -> str:
    """Return the first of `CONVERSATION_COLUMNS` that a dataset has; "" if it has none.

    >>> find_conversation_column(["id", "conversations"])
    'conversations'
    """
    return next((name for name in CONVERSATION_COLUMNS if name in columns), "")


def conversation_text(messages: Sequence[Message]) -> str:
    r"""Return the contents of messages and the calls in them, joined by line breaks.

    >>> call = {"function": {"name": "add", "arguments": {"a": 1}}}
    >>> conversation_text([{"role": "assistant", "content": "Let me see.", "tool_calls": [call]}])
    'Let me see.\nadd({"a": 1})'
    """
    return "\n".join(text for message in messages for text in (message["content"], *call_texts(message)) if text)


def call_texts(message: Message) -> list[str]:
    """Return the tool calls of a message, each as a text: the name, and the arguments in parentheses.

    >>> call_texts({"role": "assistant", "content": "", "tool_calls": [{"name": "now", "arguments": "{}"}]})
    ['now({})']
    """
    functions = [(call.get("function") or call) for call in message.get("tool_calls", ())]
    return [f"{one.get('name')}({_json(one.get('arguments', one.get('parameters', {})))})" for one in functions]


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def is_conversation_json(text: str) -> bool:
    """Return whether a text is the JSON of a list of messages.

    >>> is_conversation_json('[{"role": "user", "content": "Hi"}]'), is_conversation_json("[{name}] asks:")
    (True, False)
    """
    if not text.lstrip().startswith("[") or not any(f'"{name}"' in text for name in ("role", "from")):
        return False
    try:
        listed = json.loads(text)
    except json.JSONDecodeError:
        return False
    return all(isinstance(one, Mapping) and {"role", "from"} & set(one) for one in listed)


def content_text(content: object) -> str | None:
    r"""Return the text of a message's content, which is a text or a list of text parts; parts are joined by newlines.

    Returns:
        None if there is no content.

    Raises:
        ValueError: If a part is not text but, say, an image.

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


def _from_json(column: str, value: object) -> Any:
    """Return the value of a JSON list or object; return any other value unchanged.

    Raises:
        RowError: If a text begins like one, but is not JSON.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise RowError(f"{column} is not JSON: {error.msg} (column {error.colno})", value) from error


def _rows(column: str, value: object) -> object:
    """Return the messages of a dict of lists, or of a dict with a key such as "messages"; return others unchanged.

    Raises:
        RowError: If the lists that are read have unequal lengths.
    """
    if not isinstance(value, Mapping):
        return value
    for name in CONVERSATION_COLUMNS:
        if isinstance(value.get(name), list | tuple):
            return value[name]
    lists = {name: value[name] for name in _READ_FIELDS if isinstance(value.get(name), list | tuple)}
    if not any(set(lists) >= pair for pair in ({"role", "content"}, {"from", "value"})):
        return value
    lengths = {name: len(one) for name, one in lists.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise RowError(f"{column} has lists of unequal lengths: {listed}")
    return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]


def _read_message(column: str, message: object, is_json: bool) -> Message:
    """Return one message.

    Args:
        column: The column's name, for error messages.
        message: The message.
        is_json: Whether it comes from a JSON text, so that None is a value of its own.

    Raises:
        RowError: If it has no role, has neither text nor tool calls, or has a part that is not text.
    """
    is_json = is_json or isinstance(message, str)
    message = _from_json(column, message)
    if isinstance(message, Mapping) and message.get("role") is None and isinstance(message.get("from"), str):
        is_json = is_json or message["from"] in _CALL_ROLES
        message = _from_sharegpt(column, message)
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or not message["role"]:
        raise RowError(f"{column} has an entry without role or content: {message!r:.200}")
    role = message["role"]
    if role not in MESSAGE_ROLES:  # a template writes the role unescaped, next to its special tokens
        raise RowError(f"{column} has a turn of role {role!r:.200}; a role is one of {list(MESSAGE_ROLES)}")
    try:
        text = content_text(message.get("content"))
    except ValueError as error:
        raise RowError(f"{column} has a turn of {role!r} with {error}") from None
    read: Any = {"role": role, "content": "" if text is None else text}
    call = _from_json(column, message.get("function_call"))  # the older form of OpenAI's format
    if call and not isinstance(call, Mapping):
        raise RowError(f"{column} has a function_call that is not a call: {call!r:.200}")
    legacy = [{"type": "function", "function": call}] if call else None
    for field in EXTRA_FIELDS:
        value = message.get(field) or (legacy if field == "tool_calls" else None)
        if value:
            fault = "has tool_calls that are not a list of calls"
            read[field] = _read_objects(column, value, fault, is_json) if field == "tool_calls" else value
    if text is None and "tool_calls" not in read:
        raise RowError(f"{column} has an entry without role or content: {message!r:.200}")
    checked: Message = read
    return checked


def _from_sharegpt(column: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a ShareGPT turn with role and content.

    Raises:
        RowError: If its `from` is not one of ShareGPT's roles, or the tool call in its text can't be read.
    """
    role, value = message["from"], message.get("value")
    extra = {field: message.get(field) for field in EXTRA_FIELDS}
    if role in _CALL_ROLES:
        calls = _from_json(column, value)
        named = calls if isinstance(calls, list) else [calls]
        if not all(isinstance(call, Mapping) and "name" in call for call in named):
            raise RowError(f"{column} has a turn of {role!r} that is not the JSON of a call with name and arguments")
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": call} for call in named],
        }
    if role not in _SHAREGPT_ROLES:
        raise RowError(f"{column} has a turn from {role!r}; one of {sorted({*_SHAREGPT_ROLES, *_CALL_ROLES})} is read")
    return {**extra, "role": _SHAREGPT_ROLES[role], "content": value}


def _read_objects(column: str, value: object, fault: str, is_json: bool = False) -> list[Any]:
    """Return the objects of a list, or of its JSON text; without fields that are None, unless they come from JSON.

    Raises:
        RowError: If there is no such list.
    """
    listed = _from_json(column, value)
    objects = [_from_json(column, one) for one in listed] if isinstance(listed, list | tuple) else [listed]
    if not isinstance(listed, list | tuple) or not all(map(_is_function, objects)):
        raise RowError(f"{column} {fault}: {value!r:.200}")
    is_json = is_json or isinstance(value, str)
    return [
        read if is_json or isinstance(one, str) else _without_none(read)
        for one, read in zip(listed, objects, strict=True)
    ]


def _is_function(value: object) -> bool:
    """Return whether a value is an object whose `function`, if it has one, is an object too."""
    return isinstance(value, Mapping) and isinstance(value.get("function") or {}, Mapping)


def _without_none(value: Any) -> Any:
    """Return a value without the entries of its dicts that are None."""
    if isinstance(value, Mapping):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list | tuple) else value
