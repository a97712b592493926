"""Any model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, OpenAI, Hugging Face's providers."""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import partial
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import get_token

from hfsynth.config import UNHASHED, Configuration, settle_fields
from hfsynth.distributed import rank
from hfsynth.errors import GenerationError, ServerError
from hfsynth.llm import LLM, Completion, Need, Origin, Request, Requests, SameRows, complete_by_stream
from hfsynth.llms.checkpoint import files_state, load_chat_tokenizer, model_origin, split_gguf_path
from hfsynth.llms.http_client import FailedError, LoopThread, RefusedError, RetryPolicy, ServerClient
from hfsynth.llms.openai_protocol import (
    VERSION_PATHS,
    ChatEndpoint,
    Endpoint,
    RawEndpoint,
    Sender,
    kind_of,
    model_entries,
    server_facts,
)
from hfsynth.secrets import masked

_URL_VARIABLE, _KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"
_OPENAI = "https://api.openai.com/v1"
_HUGGING_FACE = ("huggingface.co", "hf.co", "endpoints.huggingface.cloud")  # hosts that take the Hub's token
_AHEAD = 4  # one more request waits in the loop for every four in flight, to be sent as soon as one finishes
_MAX_REFUSED = 16  # refused requests, with none completed, after which a run stops
_ABOUT_LENGTH = ("context", "too long", "longer than", "maximum model length", "too many tokens")
"""Words of an error message that refuses a row for its length."""
_UNLOADED = "the llm was unloaded while requests were in flight; unload it after the last completion."
_CONNECTED: "dict[tuple[int, str], ServerModel]" = {}
"""(process id, configuration of an llm) → its server. The server's thread does not exist in a forked process."""


@dataclass(frozen=True)
class OpenAILLM(Configuration, LLM):
    """A model that a server offers under `/v1/chat/completions`, or with a `tokenizer` under `/v1/completions`.

    With a tokenizer, prompts are rendered and tokenized in this process, as for `TransformersLLM`. Techniques that
    write a user's turn (Magpie) or score choices (Judge) need it. The key is read from an environment variable, and is
    never part of the configuration.

    Up to `concurrency` requests are in flight, and fewer while the server is overloaded. Transient failures are
    retried. A request that the server refuses fails its row, with the server's message. If the server rejects the key
    or the model, or completes nothing for `patience` seconds, the run ends and keeps its finished rows. A later run
    finds them even if the address, a time-out or the key has changed.

    `transformers serve` accepts raw prompts, so Magpie works there. This server can't score choices, and samples only
    if the generation config does: the model's own, or one that is sent by
    `extra_body={"generation_config": '{"do_sample": true}'}`. Equal seeds give equal texts only with `concurrency=1`.

    >>> llm = OpenAILLM("Qwen/Qwen3-8B", base_url="http://localhost:8000/v1", tokenizer="Qwen/Qwen3-8B")
    >>> llm.model_name, llm.same_rows
    ('Qwen/Qwen3-8B', 'none')
    >>> OpenAILLM("gpt-5-mini").lacks("choices").partition(";")[0]
    'without a tokenizer, gpt-5-mini can only answer chats'

    Raises:
        ValueError: If a field is out of its range.
    """

    model: str = field(metadata={"help": "Name of the model on the server."})
    base_url: tuple[str, ...] = field(
        default=(),
        kw_only=True,
        metadata={
            "help": "Address up to /v1; of several, process k takes the k-th in turn. Default: $OPENAI_BASE_URL, else "
            "OpenAI.",
            **UNHASHED,
        },
    )
    tokenizer: str | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "Name on the Hub, folder or GGUF file of the model's tokenizer, to send raw prompts."},
    )
    api_key_variable: str | None = field(
        default=None,
        kw_only=True,
        metadata={
            "help": "Environment variable with the key. Default: HF_TOKEN for Hugging Face's hosts, else "
            "OPENAI_API_KEY.",
            **UNHASHED,
        },
    )
    chat_template_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        kw_only=True,
        metadata={"help": "Variables of the chat template, such as enable_thinking."},
    )
    extra_body: Mapping[str, Any] = field(
        default_factory=dict,
        kw_only=True,
        metadata={"help": "Further fields of every request, such as reasoning_effort."},
    )
    concurrency: int = field(
        default=64,
        kw_only=True,
        metadata={"help": "Most requests in flight; fewer while the server is overloaded.", **UNHASHED},
    )
    timeout: float = field(
        default=600.0, kw_only=True, metadata={"help": "Seconds that the server may take for a request.", **UNHASHED}
    )
    patience: float = field(
        default=300.0,
        kw_only=True,
        metadata={
            "help": "Seconds without a completed request after which a failing server counts as dead.",
            **UNHASHED,
        },
    )
    retry_delay: float = field(
        default=0.5,
        kw_only=True,
        metadata={
            "help": "Seconds before a failed request is sent a second time; doubled each further time.",
            **UNHASHED,
        },
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        settle_fields(self)
        if not self.model.strip():
            raise ValueError(f"OpenAILLM.model must be the name of a model, got {self.model!r}.")
        for url in self.base_url:
            _check_url("OpenAILLM.base_url", url)
        if self.concurrency < 1:
            raise ValueError(f"OpenAILLM.concurrency must be at least 1, got {self.concurrency}.")
        for name in ("timeout", "patience", "retry_delay"):
            object.__setattr__(self, name, float(getattr(self, name)))
            if getattr(self, name) <= 0:
                raise ValueError(f"OpenAILLM.{name} must be above 0 seconds, got {getattr(self, name)}.")

    @property
    def model_name(self) -> str:
        """The model as the server names it; for a path, only the last part."""
        return os.path.basename(self.model.rstrip("/")) if self.model.startswith(("/", ".", "~")) else self.model

    @property
    def parallel_requests(self) -> int | None:
        """The most requests in flight."""
        return self.concurrency

    @property
    def same_rows(self) -> SameRows:
        """A repeated run may give other rows: a server batches requests of several clients, and may ignore seeds."""
        return "none"

    def lacks(self, need: Need) -> str:
        """Return the reason why the llm can't meet a need of a technique, with the fix; "" if it can.

        Before `load`, a server counts as able to score choices; afterwards, one request finds out.
        """
        if fault := super().lacks(need):
            return fault
        if self.tokenizer is None:
            return f"without a tokenizer, {self.model_name} can only answer chats; {_chat_advice(self.model)}"
        if need == "choices" and self._key in _CONNECTED and not self.connected().scores_prompts():
            return (
                f"the server of {self.model_name} doesn't score the tokens of a prompt; use a server that does, such "
                "as vLLM's, or score in process with TransformersLLM(...) or VLLM(...)"
            )
        return ""

    def prompt(self, request: Request) -> str:
        """Return the text that the model reads if there is a tokenizer, else the text of the messages.

        Raises:
            ChatTemplateError: If the tokenizer's chat template can't render it.
        """
        if self.tokenizer is None:
            return super().prompt(request)
        endpoint = self.connected().endpoint
        assert isinstance(endpoint, RawEndpoint)
        return endpoint.chat.prompt(request)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, in their order.

        The completion of a request that the server refuses has `finish_reason="refused"` and the server's message; if
        every attempt fails, it has "error".

        Raises:
            ChatTemplateError: If every request needs something that the tokenizer's chat template lacks.
            GenerationError: If every request needs a tokenizer, and there is none.
            ServerError: If the server rejects the key or the model, or stays unreachable.
        """
        return complete_by_stream(self, requests)

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Yield each completion as soon as it arrives, with at most `concurrency` requests in flight.

        Raises:
            ChatTemplateError, GenerationError, ServerError: As `complete` does.
        """
        return self.connected().stream(requests)

    def origin(self) -> Origin:
        """Return the license and languages that the model's card in the cache of the Hub states.

        The commit is "", since a server does not report it.
        """
        return replace(model_origin(self.tokenizer or self.model, None, None), commit="")

    def files_state(self) -> str:
        """Return a text that changes when the tokenizer's files do; "" without a tokenizer."""
        if self.tokenizer is None:
            return ""
        folder, gguf_file = split_gguf_path(self.tokenizer, None)
        return files_state(folder, None, gguf_file)

    def server_facts(self) -> Mapping[str, str]:
        """Return the server's kind and version, and what it reports about the model; {} before it is connected."""
        return _CONNECTED[self._key].facts if self._key in _CONNECTED else {}

    def load(self) -> "OpenAILLM":
        """Connect to the server, list its models, and load the tokenizer, if there is one.

        Raises:
            GenerationError: If the tokenizer can't be loaded.
            ServerError: If the server can't be used, or does not accept raw prompts.
        """
        self.connected()
        return self

    def unload(self) -> None:
        """Close the connections; the next `complete` opens them again."""
        if (model := _CONNECTED.pop(self._key, None)) is not None:
            model.close()

    def connected(self) -> "ServerModel":
        """Return the connection to the server; open it on first use.

        Raises:
            GenerationError, ServerError: As `load` does.
        """
        if self._key not in _CONNECTED:
            _CONNECTED[self._key] = self._connect()
        return _CONNECTED[self._key]

    @property
    def _key(self) -> tuple[int, str]:
        unhashed = [getattr(self, f.name) for f in fields(self) if not f.metadata.get("hashed", True)]
        return os.getpid(), f"{self.to_json()} {unhashed} {self._url()}"

    def _connect(self) -> "ServerModel":
        """Open the connections.

        Raises:
            GenerationError, ServerError: As `load` does.
        """
        chat = None
        if self.tokenizer is not None:
            folder, gguf_file = split_gguf_path(self.tokenizer, None)
            source = {"gguf_file": gguf_file} if gguf_file else {}
            chat = load_chat_tokenizer(folder, name=self.model_name, variables=self.chat_template_kwargs, **source)
        loop, client = LoopThread(), self._client()
        with ExitStack() as opened:
            opened.callback(loop.stop)
            opened.callback(lambda: loop.run(client.close()))
            models = loop.run(client.get(f"{client.base_url}/models")) or {}
            client.models = tuple(str(entry.get("id")) for entry in model_entries(models))
            kind = kind_of(models)
            path = VERSION_PATHS.get(kind.name)
            stated = loop.run(client.get(client.base_url.removesuffix("/v1") + path)) if path else None
            facts = server_facts(kind, self.model, models, stated or {})
            sender = Sender(client, self.extra_body)
            endpoint: Endpoint = ChatEndpoint(
                sender, kind, self.model, self.chat_template_kwargs, _chat_advice(self.model)
            )
            if chat is not None:
                limit = facts.get("context", "")
                limits = [chat.context, int(limit) if limit.isdigit() else None]
                context = min((one for one in limits if one is not None), default=None)
                endpoint = RawEndpoint(sender, kind, self.model, replace(chat, context=context))
                if fault := loop.run(endpoint.find_form()):
                    raise ServerError(
                        f"{client.base_url}/completions does not accept tokenized prompts: {fault}. Leave tokenizer "
                        "out to send chats, or use a server such as vLLM's."
                    )
            opened.pop_all()
        return ServerModel(loop, endpoint, sender, facts, self.concurrency)

    def _client(self) -> ServerClient:
        url = self._url()
        variable = self.api_key_variable or ("HF_TOKEN" if _is_hugging_face(url) else _KEY_VARIABLE)
        key = os.environ.get(variable) or (get_token() if variable == "HF_TOKEN" else None) or ""
        masked(key, marked=True)  # registers the key, which errors and logs then replace by ***
        state = "a valid key" if key else "a key, which isn't set"
        return ServerClient(
            url,
            {"Authorization": f"Bearer {key}"} if key else {},
            f"set the environment variable {variable} to {state}, or name another one by api_key_variable",
            concurrency=self.concurrency,
            timeout=self.timeout,
            policy=RetryPolicy(patience=self.patience, first_delay=self.retry_delay),
        )

    def _url(self) -> str:
        """Return the address of this process's server.

        Raises:
            ValueError: If the environment variable holds no valid address.
        """
        if self.base_url:
            return self.base_url[rank() % len(self.base_url)]
        url = os.environ.get(_URL_VARIABLE) or _OPENAI
        _check_url(_URL_VARIABLE, url)
        return url


class ServerModel:
    """A model behind a server, ready to complete requests.

    Args:
        loop: The event loop in which requests are in flight.
        endpoint: Completes requests.
        sender: Posts to the server.
        facts: The server's reports about itself and the model.
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


def _chat_advice(model: str) -> str:
    return (
        f"give tokenizer={model!r} (a name or folder), if the server has /v1/completions, or use "
        "TransformersLLM(...) or VLLM(...)"
    )


def _is_hugging_face(url: str) -> bool:
    """Return whether an address is one of Hugging Face's over https, so that nobody else can read the token."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" and any(host == name or host.endswith(f".{name}") for name in _HUGGING_FACE)


def _check_url(name: str, url: str) -> None:
    """Check an address.

    Raises:
        ValueError: If it is not a web address, or contains a user, password or query.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name} must be an address such as http://localhost:8000/v1, got {masked(url) or url!r}.")
    if parts.username or parts.password or parts.query:
        raise ValueError(
            f"{name} has a user, password or query, got {masked(url) or url!r}; pass the key with api_key_variable."
        )
