"""Requests to an OpenAI-compatible server as HTTP bodies, and its answers as completions.

ServerKind      the request fields of vLLM, SGLang, llama.cpp, or an unknown server
ChatEndpoint    /chat/completions   the server renders the conversation with its own chat template
RawEndpoint     /completions        hfsynth renders the prompt, and sends token ids or, if the server can't, text
Sender          posts bodies without the fields that the server has refused as unknown
"""

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

from hfsynth.chat import ChatTokenizer, Generated, RenderedChoices, RenderedRequest, TokenizedChoices, log_sum
from hfsynth.errors import GenerationError
from hfsynth.llm import Completion, FinishReason, Message, Request, SamplingParams
from hfsynth.llms.http_client import FailedError, RefusedError, ServerClient
from hfsynth.thinking_and_tool_calls import THINKING, check_call, split_thinking

logger = logging.getLogger(__name__)
PromptForm = Literal["ids", "text"]
"""How a server takes a raw prompt."""
_FINISH_REASONS: dict[str, FinishReason] = {
    "": "stop", "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length",
}  # fmt: skip
_CALLED = ("tool_calls", "function_call")  # finish reasons of an answer that calls tools
_FAILED = ("abort", "error")  # finish reasons after which a retry may succeed
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


class Endpoint(Protocol):
    """Completes requests under one path of a server."""

    async def complete(self, request: Request) -> Completion:
        """Complete one request.

        Raises:
            FailedError, RefusedError, ServerError: As `ServerClient.post` does.
        """

    def check(self, requests: Sequence[Request]) -> None:
        """Check that the requests don't all fail for the same reason.

        Raises:
            ChatTemplateError, GenerationError: If they do; the message has the fix.
        """


@dataclass
class Sender:
    """Posts bodies to a server, without the fields that the server has refused as unknown.

    Args:
        client: The server's client.
        extra_body: Fields that are set in every body, in place of hfsynth's own values.
    """

    client: ServerClient
    extra_body: Mapping[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)
    """Field that the server doesn't know → the field that replaces it, or ""."""

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post a body; if the server doesn't know some of its fields, post it again without them.

        Raises:
            FailedError, RefusedError, ServerError: As `ServerClient.post` does.
        """
        while True:
            fields = self._supported_fields({**body, **self.extra_body})
            try:
                return await self.client.post(path, fields)
            except RefusedError as error:
                if not self._leave_out(fields, error):
                    raise

    def _supported_fields(self, body: Mapping[str, Any]) -> dict[str, Any]:
        names = {name: self.left_out.get(name, name) for name in body}
        return {names[name]: value for name, value in body.items() if names[name]}

    def _leave_out(self, body: Mapping[str, Any], error: RefusedError) -> bool:
        """Note the fields that a refusal names as unknown; return whether there were any."""
        message = str(error)
        if "max_tokens" in body and "max_completion_tokens" in message:
            unknown = {"max_tokens": "max_completion_tokens"}
        else:
            unknown = dict.fromkeys(unsupported_fields(body, message, error.parameter), "")
        for name in unknown.keys() - self.left_out:
            logger.warning("the server doesn't know the field %s; it is left out from now on: %s", name, message)
        self.left_out.update(unknown)
        return bool(unknown)


@dataclass(frozen=True)
class ChatEndpoint:
    """Completes chats that the server renders.

    Args:
        sender: Posts to the server.
        kind: The server's kind.
        model: The model's name on the server.
        template_variables: The chat template's variables besides the messages.
        advice: The fix in the error for a request that is not a chat.
    """

    sender: Sender
    kind: ServerKind
    model: str
    template_variables: Mapping[str, Any]
    advice: str

    async def complete(self, request: Request) -> Completion:
        """Complete one chat."""
        if fault := self._fault(request):
            raise RefusedError(fault)
        sampling = request.sampling
        body = {
            "model": self.model,
            "messages": [_with_json_arguments(message) for message in request.messages],
            **self.kind.sampling_fields(sampling, request.seed, sampling.max_new_tokens),
        }
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        if self.template_variables:
            body["chat_template_kwargs"] = dict(self.template_variables)
        data = await self.sender.post("/chat/completions", body)
        choice = _first_choice(data)
        message = choice.get("message")
        message = message if isinstance(message, Mapping) else {}
        calls, call_error = _parsed_calls(message) if request.parse_tool_calls else ((), "")
        text = _content_text(message.get("content")) if calls else _text_of(message)
        thinking = message.get("reasoning") or message.get("reasoning_content")
        if not isinstance(thinking, str) or not thinking:
            thinking, text = split_thinking("", text, THINKING)
        cuts = [text.index(stop) for stop in sampling.stop if stop in text]
        text = text[: min(cuts, default=len(text))].strip()
        completion = Completion(
            text=text, finish_reason="stop", thinking=thinking, tool_calls=calls, tool_call_error=call_error
        )
        return _with_usage(_with_finish_reason(completion, choice), data)

    def check(self, requests: Sequence[Request]) -> None:
        """Check that at least one of the requests is a chat.

        Raises:
            GenerationError: If each asks for scores of choices or a user's turn, or has nothing to answer.
        """
        faults = [self._fault(request) for request in requests]
        if faults and all(faults):
            raise GenerationError(faults[0])

    def _fault(self, request: Request) -> str:
        """Return why a request is not a chat; "" if it is one."""
        last = request.messages[-1]["role"] if request.messages else ""
        if request.choices:
            wanted = "scores of choices"
        elif request.role == "user":
            wanted = "a user's turn"
        elif last in ("", "assistant"):
            wanted = "an answer to a conversation that is empty" if not last else "an answer after an answer"
        else:
            return ""
        return f"{self.model} answers chats, and was asked for {wanted}; {self.advice}."


@dataclass
class RawEndpoint:
    """Completes prompts that are rendered in this process.

    Args:
        sender: Posts to the server.
        kind: The server's kind.
        model: The model's name on the server.
        chat: Renders requests, and decodes token ids.
        form: The form of prompts that the server takes; `find_form` sets it.
    """

    sender: Sender
    kind: ServerKind
    model: str
    chat: ChatTokenizer
    form: PromptForm = "ids"
    scores_prompts: bool | None = None
    """Whether the server scores the tokens of a prompt; None before the first check."""

    async def complete(self, request: Request) -> Completion:
        """Complete one request."""
        rendered = self.chat.render(request)
        if isinstance(rendered, Completion):
            return rendered
        if isinstance(rendered, RenderedChoices):
            return self.chat.scored(rendered, await self._scores(rendered.tokens))
        return await self._generate(rendered)

    def check(self, requests: Sequence[Request]) -> None:
        """Check the requests as `ChatTokenizer.check` does."""
        self.chat.check(requests)

    async def find_form(self) -> str:
        """Set `form` to the form of prompts that the server takes; return why it takes neither, or "".

        A server that counts more tokens than it was sent doesn't take the form: it adds a chat template of its own.

        Raises:
            ServerError: If the server can't be used.
        """
        ids = self.chat.tokenizer("a", add_special_tokens=False).input_ids
        forms: list[tuple[PromptForm, list[int] | str, int]] = [
            ("ids", ids, len(ids)),
            ("text", "a", len(self.chat.tokenizer("a").input_ids)),
        ]
        fault = ""
        for self.form, prompt, sent in forms:
            try:
                data = await self.sender.post("/completions", {"model": self.model, "prompt": prompt, "max_tokens": 1})
            except (RefusedError, FailedError) as error:
                fault = str(error)
            else:
                read = _usage(data).get("prompt_tokens")
                if not isinstance(read, int) or read == sent or (self.form == "text" and read < sent):
                    return ""  # some servers don't count the tokens of a text that they have cached
                fault = f"it was sent a prompt of {sent} tokens and counted {read}"
        return fault

    async def find_scores(self) -> bool:
        """Return whether the server scores the tokens of a prompt; the first call tries it."""
        if self.scores_prompts is None:
            ids = self.chat.tokenizer("a b", add_special_tokens=False).input_ids
            try:
                self.scores_prompts = self.form == "ids" and all(await self._echo([ids, ids]))
            except (RefusedError, FailedError) as error:
                logger.info("%s scores no prompts: %s", self.model, error)
                self.scores_prompts = False
        return self.scores_prompts

    async def _generate(self, rendered: RenderedRequest) -> Completion:
        tokens = rendered.tokens
        prompt: list[int] | str = tokens.prompt_ids
        if self.form == "text":
            prompt = self._prompt_text(rendered)
        sampling = replace(tokens.sampling, stop=tokens.stop)
        body = {
            "model": self.model,
            "prompt": prompt,
            **self.kind.sampling_fields(sampling, tokens.seed, tokens.max_new_tokens),
            "stop_token_ids": sorted(tokens.end_tokens),
            **self.kind.raw,
        }
        data = await self.sender.post("/completions", body)
        choice = _first_choice(data)
        ids, text = choice.get("token_ids"), _content_text(choice.get("text"))
        if isinstance(ids, list) and ids:
            completion = self.chat.completion(rendered, Generated(ids, "stop"))
        else:
            completion = replace(self.chat.completion_of_text(rendered, text, "stop"), written=text)
        return _with_usage(_with_finish_reason(completion, choice), data)

    def _prompt_text(self, rendered: RenderedRequest) -> str:
        """Return a text that the tokenizer reads as a prompt's token ids, even if it adds a BOS token.

        Raises:
            RefusedError: If there is none.
        """
        bos = self.chat.template.bos_token or ""
        for text in (rendered.prompt.removeprefix(bos), rendered.prompt):
            if self.chat.tokenizer(text).input_ids == rendered.tokens.prompt_ids:
                return text
        raise RefusedError(
            "this server takes prompts as text, and would read other tokens than those of the chat template: the row "
            "has the text of a special token, or the tokenizer adds tokens that the template lacks"
        )

    async def _scores(self, tokens: TokenizedChoices) -> tuple[float, ...]:
        """Return the log-likelihood of each choice, followed by the end of the turn.

        Raises:
            RefusedError: If the server doesn't score the tokens of prompts.
        """
        ends: list[list[int]] = [[end] for end in sorted(tokens.end_tokens)] or [[]]
        prompts = [[*tokens.prompt_ids, *choice, *end] for choice in tokens.choices for end in ends]
        echoed = await self._echo(prompts)
        start = len(tokens.prompt_ids)
        scores: list[float] = []
        for number, choice in enumerate(tokens.choices):
            own = echoed[number * len(ends) : (number + 1) * len(ends)]
            middle = math.fsum(own[0][start : start + len(choice)])
            scores.append(middle + (log_sum([one[-1] for one in own]) if tokens.end_tokens else 0.0))
        return tuple(scores)

    async def _echo(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-probabilities of each prompt's tokens; 0 for the first token, which follows nothing.

        Raises:
            RefusedError: If the server doesn't return them.
        """
        body = {
            "model": self.model,
            "prompt": [list(prompt) for prompt in prompts],
            "max_tokens": 0,
            "temperature": 0.0,
            "echo": True,
            "logprobs": 1,
        }
        data = await self.sender.post("/completions", body)
        found = data.get("choices")
        choices = [choice for choice in found if isinstance(choice, Mapping)] if isinstance(found, list) else []
        choices.sort(key=lambda choice: choice.get("index", 0))
        scored = [(choice.get("logprobs") or {}).get("token_logprobs") or [] for choice in choices]
        lengths_match = [len(one) for one in scored] == [len(prompt) for prompt in prompts]
        if not lengths_match or any(value is None for one in scored for value in one[1:]):
            raise RefusedError("the server doesn't score the tokens of a prompt (echo with logprobs)")
        return [[0.0, *map(float, one[1:])] for one in scored]


def unsupported_fields(body: Mapping[str, Any], message: str, parameter: str) -> list[str]:
    """Return the fields of a refused request that its server doesn't know.

    Args:
        body: The request.
        message: The server's error message.
        parameter: The field that the error is about; "" if the server doesn't state one.

    >>> unsupported_fields({"model": "m", "top_k": 5}, "Unrecognized request argument supplied: top_k", "")
    ['top_k']
    >>> unsupported_fields({"temperature": 3.0}, "temperature must be at most 2", "temperature")
    []
    """
    if not _UNSUPPORTED.search(message) or _UNSUPPORTED_VALUE.search(message):
        return []
    named = [parameter] if parameter else re.findall(r"\w+", message)
    return [name for name in body if name in named and name not in _ESSENTIAL]


def _last_part(path: Any) -> str:
    """Return the last part of a path; a model's name on the Hub is returned unchanged."""
    text = str(path or "")
    is_path = text.startswith(("/", ".", "~")) or "\\" in text or text.count("/") > 1
    return PurePosixPath(text.replace("\\", "/")).name if is_path else text


def _first_choice(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first choice of an answer.

    Raises:
        RefusedError: If there is none.
    """
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise RefusedError(f"the server's answer has no choices: {str(data)[:200]}")
    return choices[0]


def _text_of(message: Mapping[str, Any]) -> str:
    """Return the text of an answer, or its calls of tools as JSON if it has no text."""
    text, calls = _content_text(message.get("content")), message.get("tool_calls")
    return text if text or not calls else json.dumps(calls, ensure_ascii=False)


def _with_json_arguments(message: Message) -> dict[str, Any]:
    """Return a message in which the arguments of tool calls are JSON texts, as OpenAI's format has them."""
    calls = []
    for call in message.get("tool_calls", ()):
        function = dict(call.get("function") or call)
        if not isinstance(function.get("arguments", ""), str):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        identifier = {"id": call["id"]} if "id" in call else {}
        calls.append({**identifier, "type": "function", "function": function})
    return {**message, **({"tool_calls": calls} if calls else {})}


def _parsed_calls(message: Mapping[str, Any]) -> tuple[tuple[Mapping[str, Any], ...], str]:
    """Return the tool calls that a server has parsed, and why they can't be read, or ""."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        return (), f"the server's tool_calls are not a list: {calls!r:.200}"
    try:
        return tuple(map(check_call, calls)), ""
    except ValueError as error:
        return (), str(error)


def _content_text(content: Any) -> str:
    """Return the text of an answer's content, which is a text, a list of parts, or None."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text")
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _with_finish_reason(completion: Completion, choice: Mapping[str, Any]) -> Completion:
    """Return a completion with the finish reason of the server's choice."""
    reason = str(choice.get("finish_reason") or "")
    if reason in _CALLED and (completion.text or completion.tool_calls):
        return completion
    if reason in _FINISH_REASONS:
        return replace(completion, finish_reason=_FINISH_REASONS[reason])
    error = f"the server ended the answer with the finish reason {reason!r}"
    return replace(completion, finish_reason="error" if reason in _FAILED else "refused", error=error)


def _usage(data: Mapping[str, Any]) -> Mapping[str, Any]:
    usage = data.get("usage")
    return usage if isinstance(usage, Mapping) else {}


def _with_usage(completion: Completion, data: Mapping[str, Any]) -> Completion:
    """Return a completion with the token counts of the server's answer."""
    usage = _usage(data)
    prompt, written = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    counts = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": prompt.get("cached_tokens"),
        "reasoning_tokens": written.get("reasoning_tokens"),
    }
    stated: dict[str, Any] = {name: count for name, count in counts.items() if isinstance(count, int)}
    return replace(completion, **stated)
