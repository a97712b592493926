"""A model behind a server: convert requests to HTTP bodies and answers to completions, with many in flight.

ChatEndpoint    /chat/completions   the server renders the conversation with its own chat template
RawEndpoint     /completions        hfsynth renders the prompt, and sends token ids or, if the server can't, text
"""

import json
import logging
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal, Protocol

from hfsynth.answer_format import THINKING, check_call, split_thinking
from hfsynth.chat import ChatTokenizer, Generated, RenderedChoices, RenderedRequest, TokenizedChoices, log_sum
from hfsynth.errors import GenerationError, ServerError
from hfsynth.llm import Completion, FinishReason, Message, Request, Requests
from hfsynth.llms.server_client import (
    FailedError,
    LoopThread,
    RefusedError,
    ServerClient,
    ServerKind,
    unsupported_fields,
)

logger = logging.getLogger(__name__)
PromptForm = Literal["ids", "text"]
"""How a server takes a raw prompt."""
_AHEAD = 4  # one more request waits in the loop for every four in flight, to be sent as soon as one finishes
_MAX_REFUSED = 16  # refused requests, with none completed, after which a run stops
_ABOUT_LENGTH = ("context", "too long", "longer than", "maximum model length", "too many tokens")
"""Words of a refusal for a row's length."""
_FINISH_REASONS: dict[str, FinishReason] = {
    "": "stop", "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length",
}  # fmt: skip
_UNLOADED = "the llm was unloaded while requests were in flight; unload it after the last completion."
_CALLED = ("tool_calls", "function_call")  # finish reasons of an answer that calls tools
_FAILED = ("abort", "error")  # finish reasons after which a retry may succeed


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
        advice: The fix that the error for a request that is not a chat names.
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
        """Return the text that the tokenizer reads as a prompt's token ids, where it adds a BOS token or not.

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


class ServerModel:
    """A model behind a server, ready to complete requests.

    Args:
        loop: The event loop in which requests are in flight.
        endpoint: Completes requests.
        sender: Posts to the server.
        facts: What the server reports about itself and the model.
        concurrency: Maximum number of requests in flight.
    """

    def __init__(
        self, loop: LoopThread, endpoint: Endpoint, sender: Sender, facts: Mapping[str, str], concurrency: int
    ) -> None:
        self.endpoint = endpoint
        self._facts = facts
        self._sender = sender
        self._loop = loop
        self._capacity = concurrency + concurrency // _AHEAD
        self._refused = 0  # refused requests before the first completed one
        self._has_completed = False
        self._is_closed = False

    @property
    def facts(self) -> dict[str, str]:
        """The server's reports about itself and the model, and the request fields that it doesn't know."""
        left_out = {"left_out": ", ".join(sorted(self._sender.left_out))} if self._sender.left_out else {}
        return {**self._facts, **left_out}

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Complete requests as `LLM.stream` does.

        Raises:
            ChatTemplateError: As `ChatTokenizer.check` does.
            GenerationError: If no request is a chat, and the llm has no tokenizer.
            ServerError: If the server can't be used.
        """
        self.endpoint.check(requests.waiting())
        answered: SimpleQueue[Hashable] = SimpleQueue()
        in_flight: dict[Hashable, Future[Completion]] = {}
        try:
            while True:
                while len(in_flight) < self._capacity and (item := requests.take()) is not None:
                    key, request = item
                    in_flight[key] = self._loop.start(self._complete(request))
                    in_flight[key].add_done_callback(partial(_put, answered, key))
                if not in_flight:
                    return
                key = answered.get()
                try:
                    completion = in_flight.pop(key).result()
                except CancelledError:
                    raise GenerationError(_UNLOADED) from None
                yield key, completion
                if self._is_closed:
                    raise GenerationError(_UNLOADED)
        finally:
            for future in in_flight.values():
                future.cancel()

    def scores_prompts(self) -> bool:
        """Return whether the server scores choices; the first call tries it.

        Raises:
            ServerError: If the server can't be used.
        """
        return isinstance(self.endpoint, RawEndpoint) and self._loop.run(self.endpoint.find_scores())

    def close(self) -> None:
        """Cancel the requests in flight, close the connections and end the loop."""
        self._is_closed = True
        self._loop.cancel()
        self._loop.run(self._sender.client.close())
        self._loop.stop()

    async def _complete(self, request: Request) -> Completion:
        try:
            completion = await self.endpoint.complete(request)
        except RefusedError as error:
            self._note_refusal(error)
            return Completion(text="", finish_reason="refused", error=str(error))
        except FailedError as error:
            return Completion(text="", finish_reason="error", error=str(error))
        self._has_completed |= completion.finish_reason not in ("refused", "error")
        return completion

    def _note_refusal(self, error: Exception) -> None:
        """Count a refused request.

        Raises:
            ServerError: If the server refused the first 16 requests, not for their lengths, and completed none.
        """
        if self._has_completed or any(word in str(error).lower() for word in _ABOUT_LENGTH):
            return
        self._refused += 1
        if self._refused >= _MAX_REFUSED:
            raise ServerError(
                f"{self._sender.client.base_url} refused the first {self._refused} requests and completed none; the "
                f"last refusal: {error}. Check model, sampling and extra_body."
            )


def _put(answered: "SimpleQueue[Hashable]", key: Hashable, future: "Future[Completion]") -> None:  # noqa: ARG001
    answered.put(key)


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
    """Return the text of an answer; of one that only calls tools, the calls as JSON."""
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
        return (), f"the server's tool_calls are no list: {calls!r:.200}"
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
