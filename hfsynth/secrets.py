"""Keys, tokens and passwords among the fields of an llm or a step: which values are secret, and texts without them.

The real value stays in memory and is sent to worker processes; recipes, records, cards, caches, reprs, errors and logs
have `***` in its place. A field is secret if it is declared with `field(metadata={"secret": True})`; objects such as
pydantic's `SecretStr`, values with the form of a token, and texts in fields or keys with names such as `api_key` and
`authorization` count too.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "***"
_REPR_LENGTH = 80  # characters of a text in a repr: of a longer one it has the beginning
_MIN_TOKEN_LENGTH = 8  # characters of a text named `token`: a shorter one is a word of a prompt, such as "Answer:"
_MIN_LENGTH = 6  # characters of a secret that is looked for in other texts: a shorter one is in many words

_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:hf|api_org)_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|sk-(?=[\w-]*[\dA-Z])[\w-]{8,}|sk-[\w-]{20,}"  # OpenAI, Anthropic, OpenRouter
    r"|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"  # GitHub
    r"|gl(?:pat|dt|rt|cbt|ft|imt|agent|soat)-[\w-]{12,}"  # GitLab
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{20,}|ya29\.[\w-]{16,}"  # AWS, Google
    r"|xox[a-z]-[\w-]{8,}|xapp-[\w-]{16,}"  # Slack
    r"|[rsp]k_(?:live|test)_\w{10,}|whsec_\w{16,}"  # Stripe
    r"|(?:nvapi-|gsk_|r8_|pplx-|xai-|npm_|dop_v1_|pypi-|shpat_|tgp_v1_|fw_|csk-|SG\.)(?=[\w.-]*\d)[\w.-]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"  # a JSON web token
    r")"
)
_NAMES_IN_TEXT = (
    r"(?:api[_-]?key|(?:access|auth|id|refresh)[_-]?token|[?&](?:key|token|sig|signature)|secret(?:[_-]access)?(?:[_-]key)?"
    r"|password|passwd|passphrase|authorization|subscription[_-]key|private[_-]key)"
)
_IN_CONTEXT = (
    re.compile(r"(?i:\bbearer\s+)((?=\S*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{20,})"),
    re.compile(r"(?i:\bbasic\s+)((?=\S*[\d=])[A-Za-z0-9+/]{8,}={0,2})"),
    # user:password@host, where the password may have @ and /; host:80/path@x is no password
    re.compile(r"[A-Za-z][\w+.-]*://([^\s/@:]*:(?!\d{1,5}[/?#])[^\s\"'<>]+|[^\s/@:]{16,})@"),
    re.compile(rf"(?i){_NAMES_IN_TEXT}=(?![{{<\[$])([^\s&,;'\"]{{8,}})"),
    re.compile(rf"(?i)[\"']{_NAMES_IN_TEXT}[\"']\s*:\s*[\"']([^\s\"'<>{{}}]{{8,}})[\"']"),
    re.compile(
        rf"(?i){_NAMES_IN_TEXT}\s*:\s+(?:(?:bearer|basic|token)\s+)?((?=\S*[a-z])(?=\S*\d)[\w.~+/=@!$%^&*-]{{8,}})"
    ),
    re.compile(r"(?i)hooks\.slack\.com/(?:services|workflows|triggers)/([\w/-]+)"),
    re.compile(r"(?i)discord(?:app)?\.com/api/webhooks/\d+/([\w-]+)"),
    re.compile(r"(?i)webhook\.office\.com/webhookb2/([\w@/-]+)"),
    re.compile(r"(?i)api\.telegram\.org/bot(\d+:[\w-]+)"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.+?)(?:-----END|\Z)", re.DOTALL),
)
_ALWAYS = re.compile(  # the ends of names whose text is secret whatever it looks like
    r"(?:^|_)(?:password|passwd|passphrase|pwd|pw|secret|secrets|authorization|credential|credentials|creds?|apikey|cookie"
    r"|jwt|bearer|(?:user|db|login|admin|root|smtp|mail|proxy)_?pass"
    r"|(?:api|access|auth|secret|private|subscription|account|client|signing|encryption|shared|license|master|service)"
    r"_?(?:key|token|secret)s?"
    r"|(?:openai|anthropic|azure|google|gemini|hf|huggingface|hub|mistral|cohere|groq|together|openrouter|deepseek|nvidia"
    r"|replicate|fireworks|perplexity|xai|aws|wandb|github|gitlab|slack)_?(?:key|token)s?"
    r"|(?:bearer|id|refresh|session|bot)_?token|secret_value)$|^pass$"
)
_PERHAPS = re.compile(r"(?:^|_)(?:key|keys|token|tokens|auth|pat|signature|sas)$")  # secret if the text looks random
_RANDOM = re.compile(r"(?=\S*[A-Za-z])(?=\S*\d)[^\s<>\[\]|]{12,}|(?=\S*[A-Z])(?=\S*[a-z])[A-Za-z]{24,}")
_SPECIAL_TOKEN = re.compile(r"[<\[{|].*[>\]}|]")  # of a tokenizer, such as <|im_end|> and [PAD]
_PAIR = re.compile(r"\s*-{0,2}([\w-]+)\s*[:=]\s*(?![{<\[$])(\S+)\s*")  # a header, an option or a setting
_PARAMETER = re.compile(r"[?&]([\w.-]+)=([^&\s#\"'<>]{4,})")  # of a URL
_PARAMETERS = {"code", "key", "sig", "signature", "token"}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_SECRETS: set[str] = set()
"""Secrets of the configurations that this process has pickled, hashed or described: for `redact`."""


def is_secret_field(field: "dataclasses.Field[Any]") -> bool:
    """Return whether a field is marked with `metadata={"secret": True}`."""
    return bool(field.metadata.get("secret"))


def masked(value: Any, name: str = "", marked: bool = False) -> str | None:
    """Return a value's text with `***` in the place of secrets, or None if it has none.

    Args:
        value: The value of a field, or a part of it.
        name: The name of the field, or the key of the mapping.
        marked: Whether the field is marked as secret.

    >>> masked("https://me:pass@host/v1"), masked("x", "api_key"), masked("gpt-5", "model")
    ('https://***@host/v1', '***', None)
    """
    if hasattr(value, "get_secret_value") and not isinstance(value, type):
        _remember(value.get_secret_value())
        return MASK
    if marked:
        for text in _texts(value):
            _remember(text)
        return MASK
    if isinstance(value, (bytes, bytearray)):
        return MASK if masked(value.decode("utf-8", "replace"), name) is not None else None
    if isinstance(value, (set, frozenset)):
        return MASK if [item for item in value if masked(item, name) is not None] else None
    if not isinstance(value, str) or not value:
        return None
    if _names_secret(name, value):
        _remember(value)
        return MASK
    found = _find_secrets(value)
    for text in found:
        _remember(text)
        _remember(text.partition(":")[2])  # the password of user:password
    shorter = _replace(value, found)
    return shorter if shorter != value else None


def redact(text: str) -> str:
    """Return a text without tokens, and without the secrets of the configurations that this process has used.

    >>> redact("401: key hf_abcdefghijklmnop1234 is not valid")
    '401: key *** is not valid'
    """
    return _replace(_replace(text, _find_secrets(text)), list(_SECRETS))


def children(value: Any, name: str) -> Iterator[tuple[Any, Any, str]]:
    """Yield the parts of a mapping, list or tuple: key or index, part, and the name that decides whether it is secret.

    In `["--api-key", "…"]` and `("Authorization", "…")` the text after a name gets that name.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key, item, _name_of_item(name, str(key))
        return
    before = ""
    for index, item in enumerate(value):
        named = _ALWAYS.search(_snake(before)) and not before[:1].isspace()
        yield index, item, before if named else name
        before = item if isinstance(item, str) and len(item) < 40 else ""


def repr_of(value: Any, name: str = "", marked: bool = False) -> str:
    """Return `repr(value)` with `***` in the place of secrets, inside dataclasses, mappings and lists too.

    Dataclasses have the fields that aren't at their defaults; long texts are cut.
    """
    text = masked(value, name, marked) if value or hasattr(value, "get_secret_value") else None
    if text is not None:
        return repr(_shorten(text))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if f.repr and not _is_default(f, value)]
        parts = [f"{f.name}={repr_of(getattr(value, f.name), f.name, is_secret_field(f))}" for f in fields]
        return f"{type(value).__qualname__}({', '.join(parts)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {repr_of(item, inner)}" for key, item, inner in children(value, name)) + "}"
    if type(value) in (list, tuple):
        parts = [repr_of(item, inner) for _, item, inner in children(value, name)]
        if isinstance(value, list):
            return f"[{', '.join(parts)}]"
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    return repr(_shorten(value) if type(value) is str else value)


def _is_default(field: "dataclasses.Field[Any]", owner: Any) -> bool:
    """Return whether a field has its default value, of the same type; a step's name is its class's by default."""
    value, default = getattr(owner, field.name), field.default
    if field.name == "name" and value == type(owner).__name__:
        return True
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return default is value or (type(default) is type(value) and bool(default == value))


def _shorten(text: str) -> str:
    return text if len(text) <= _REPR_LENGTH else text[: _REPR_LENGTH - 1] + "…"


def _names_secret(name: str, text: str) -> bool:
    """Return whether a field's or key's name says that its text is secret."""
    plain = _snake(name)
    if plain == "token":
        return len(text) >= _MIN_TOKEN_LENGTH and not _SPECIAL_TOKEN.fullmatch(text)
    return bool(_ALWAYS.search(plain) or (_PERHAPS.search(plain) and _RANDOM.fullmatch(text)))


def _snake(name: str) -> str:
    return re.sub(r"\W+", "_", _CAMEL.sub("_", name)).strip("_").lower()


def _name_of_item(name: str, key: str) -> str:
    """Return the name that decides whether an item of a mapping is secret.

    >>> _name_of_item("credentials", "user"), _name_of_item("keys", "openai"), _name_of_item("extra", "pw")
    ('credentials', 'openai_key', 'pw')
    """
    plain = _snake(name)
    if _ALWAYS.search(plain):
        return name
    plural = re.search(r"(?:^|_)(key|token)s$", plain)
    return f"{key}_{plural[1]}" if plural and not _ALWAYS.search(_snake(key)) else key


def _find_secrets(text: str) -> list[str]:
    """Return the parts of a text that are secret by their form or by the text before them."""
    found = [match[match.lastindex or 0] for pattern in (_PREFIXED, *_IN_CONTEXT) for match in pattern.finditer(text)]
    for match in _PARAMETER.finditer(text):
        if _names_secret(match[1], match[2]) or (_snake(match[1]) in _PARAMETERS and len(match[2]) >= _MIN_LENGTH):
            found.append(match[2])
    if (pair := _PAIR.fullmatch(text)) and _names_secret(pair[1], pair[2]):
        found.append(pair[2])
    return [*found, *_found_in_json(text)]


def _found_in_json(text: str) -> list[str]:
    """Return the texts under secret names of a text that is a JSON object or list."""
    if text[:1] not in "{[" or text[-1:] not in "}]":
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return list(_secret_items(value, ""))


def _secret_items(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, str):
        if value and value[0] not in "{<[$" and _names_secret(name, value):  # else a placeholder
            yield value
    elif isinstance(value, (dict, list)):
        for _, item, inner in children(value, name):
            yield from _secret_items(item, inner)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (bytes, bytearray)):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _texts(item)


def _remember(text: Any) -> None:
    if isinstance(text, str) and len(text) >= _MIN_LENGTH:
        _SECRETS.add(text)


def _replace(text: str, secrets: list[str]) -> str:
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
