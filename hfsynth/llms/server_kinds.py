"""Kinds of OpenAI-compatible servers (vLLM, SGLang, llama.cpp): detect the kind, and list its request fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from hfsynth.llm import SamplingParams

_OFF: dict[str, Any] = {"presence_penalty": 0.0, "min_p": 0.0, "top_k": 0}
"""Sampling parameters that some servers lack → the value that turns the parameter off."""
_UNSUPPORTED = re.compile(
    r"unrecogni[sz]ed|unknown|unsupported|unexpected|not supported|not permitted|not allowed|does(?:n't| not) support"
    r"|extra_forbidden|extra inputs",
    re.IGNORECASE,
)
_UNSUPPORTED_VALUE = re.compile(r"unsupported value|unsupported_value", re.IGNORECASE)
_ESSENTIAL = {"model", "messages", "prompt", "max_tokens", "stop", "echo", "logprobs"}
"""Fields that are never left out of a request, since the answer would mean something else without them."""


@dataclass(frozen=True)
class ServerKind:
    """One kind of server.

    Args:
        name: The name in records; "" if the kind is unknown.
        seeds: Number of seeds that the server takes; a request's 63-bit seed is reduced modulo this.
        off: Parameters and the values that turn them off. All are always sent, since the server takes a missing
            parameter from the model's generation config or from its own defaults.
        raw: Additional fields of a request to `/v1/completions`.
    """

    name: str = ""
    seeds: int = 2**31
    off: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    def sampling_fields(self, sampling: SamplingParams, seed: int, max_tokens: int) -> dict[str, Any]:
        """Return the sampling fields of a request."""
        fields = {
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed % self.seeds,
            **self.off,
        }
        fields |= {name: value for name, off in _OFF.items() if (value := getattr(sampling, name)) != off}
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        return fields


UNKNOWN = ServerKind()
VLLM = ServerKind(
    "vllm",
    2**63,
    {**_OFF, "frequency_penalty": 0.0, "repetition_penalty": 1.0},
    {"return_token_ids": True, "skip_special_tokens": False, "spaces_between_special_tokens": False},
)
SGLANG = ServerKind(
    "sglang",
    2**31,
    {**_OFF, "top_k": -1, "frequency_penalty": 0.0, "repetition_penalty": 1.0},
    {"skip_special_tokens": False, "spaces_between_special_tokens": False},
)
LLAMA_CPP = ServerKind(
    "llama.cpp",
    2**32 - 1,  # 2**32 - 1 itself asks for a random seed
    {
        **_OFF,
        "frequency_penalty": 0.0,
        "repeat_penalty": 1.0,
        "samplers": ["penalties", "temperature", "min_p", "top_k", "top_p"],
    },
)
_BY_OWNER = {"vllm": VLLM, "sglang": SGLANG, "llamacpp": LLAMA_CPP}
VERSION_PATHS = {"vllm": "/version", "sglang": "/get_server_info", "llama.cpp": "/props"}
"""Kind → path, next to `/v1`, at which the server reports its version and model."""


def kind_of(models: Mapping[str, Any]) -> ServerKind:
    """Return a server's kind, from the field `owned_by` of the models that it lists.

    Args:
        models: The server's answer to `GET /v1/models`.

    >>> kind_of({"data": [{"id": "small", "owned_by": "vllm"}]}).name
    'vllm'
    """
    owners = [str(entry.get("owned_by", "")) for entry in model_entries(models)]
    return next((_BY_OWNER[owner] for owner in owners if owner in _BY_OWNER), UNKNOWN)


def model_entries(models: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of an answer to `GET /v1/models`."""
    entries = models.get("data")
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []


def server_facts(
    kind: ServerKind, model: str, models: Mapping[str, Any], properties: Mapping[str, Any]
) -> dict[str, str]:
    """Return what a server reports about itself and a model, for the record, without addresses and paths on its disk.

    Args:
        kind: The server's kind.
        model: The model's name.
        models: The server's answer to `GET /v1/models`.
        properties: The server's answer to GET at its path in `VERSION_PATHS`.
    """
    version = properties.get("version") or properties.get("build_info") or ""
    entry = next((entry for entry in model_entries(models) if entry.get("id") == model), {})
    stated = {
        "server": f"{kind.name} {version}".strip(),
        "served_model": _last_part(entry.get("root") or properties.get("model_path") or properties.get("model")),
        "revision": entry.get("revision") or properties.get("revision"),
        "owner": entry.get("owned_by"),
        "context": entry.get("max_model_len"),
    }
    return {name: str(value) for name, value in stated.items() if isinstance(value, str | int) and value != ""}


def _last_part(path: Any) -> str:
    """Return the last part of a path; a model's name on the Hub is returned unchanged."""
    text = str(path or "")
    is_path = text.startswith(("/", ".", "~")) or "\\" in text or text.count("/") > 1
    return PurePosixPath(text.replace("\\", "/")).name if is_path else text


def unsupported_fields(body: Mapping[str, Any], words: str, parameter: str) -> list[str]:
    """Return the fields of a refused request that its server doesn't know.

    Args:
        body: The request.
        words: The server's error message.
        parameter: The field that the error is about; "" if the server doesn't state one.

    >>> unsupported_fields({"model": "m", "top_k": 5}, "Unrecognized request argument supplied: top_k", "")
    ['top_k']
    >>> unsupported_fields({"temperature": 3.0}, "temperature must be at most 2", "temperature")
    []
    """
    if not _UNSUPPORTED.search(words) or _UNSUPPORTED_VALUE.search(words):
        return []
    named = [parameter] if parameter else re.findall(r"\w+", words)
    return [name for name in body if name in named and name not in _ESSENTIAL]
