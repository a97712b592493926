"""Run requests on vLLM's engine. No other module uses vLLM's API.

    Request → token ids → add_request ┐
                                      step, step, … → outputs as they finish → Completion
    choices → prefixes of choices ────┘

A request is admitted when another finishes; there are no batches. Written for vLLM 0.32 and 0.33.
"""

import difflib
import logging
import os
import queue
import random
import sys
import types
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any

import numpy as np
import psutil
import torch
import vllm
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext

from hfsynth.chat import (
    ChatTokenizer,
    Generated,
    Prefix,
    RenderedChoices,
    RenderedRequest,
    TokenizedChoices,
    TokenizedRequest,
)
from hfsynth.distributed import local_world_size
from hfsynth.errors import GenerationError
from hfsynth.llm import Completion, FinishReason, Requests

logger = logging.getLogger(__name__)

_LAUNCHER = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "VLLM_DIST_IDENT",
)  # fmt: skip
"""Variables of `accelerate launch`, which would make an engine join the launch's process group, and VLLM_DIST_IDENT,
which vLLM does not remove."""
_CPU_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_REQUEST_ERRORS = (ValueError, VLLMClientError)
_ENGINE_ERRORS = (ValueError, RuntimeError, AssertionError, LookupError, OSError, VLLMError)
_FINISH_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}
_BLOCK_SIZE = 32  # tokens in a block of the KV cache on a CPU; vLLM's default is 128
_MAX_CACHE = 4 << 30  # bytes of KV cache on a CPU
_MAX_TOKEN_IDS = 128  # maximum number of tokens whose probabilities vLLM returns after a prompt
# Cost of scoring, in prefilled tokens: of one prefix (its block and logits), and of one prompt token with its logprob.
_PREFIX_COST, _PROMPT_COST = 24, 5


def engine_args(arguments: Mapping[str, Any], context: int | None) -> EngineArgs:
    """Return vLLM's arguments, with hfsynth's defaults for those that the user does not set.

    Args:
        arguments: The user's arguments.
        context: The model's context length, used if `arguments` has no `max_model_len`.

    Raises:
        GenerationError: If vLLM doesn't know an argument.
    """
    defaults: dict[str, Any] = {
        "disable_log_stats": True,
        "generation_config": "vllm",  # not the defaults of the model's generation config
        "max_logprobs": _MAX_TOKEN_IDS,
    }
    if current_platform.is_cpu():
        defaults |= _cpu_defaults(arguments, context)
    elif local_world_size() > 1:
        devices = int(arguments.get("tensor_parallel_size", 1)) * int(arguments.get("pipeline_parallel_size", 1))
        first = int(os.environ.get("LOCAL_RANK", "0")) * devices
        defaults["device_ids"] = list(range(first, first + devices))
    names = {one.name for one in fields(EngineArgs)}
    if unknown := sorted(set(arguments) - names):
        near = difflib.get_close_matches(unknown[0], names, n=1)
        advice = f"; did you mean {near[0]!r}?" if near else "."
        raise GenerationError(f"VLLM.engine_kwargs has {unknown}, which vLLM {vllm.__version__} doesn't know{advice}")
    try:
        return EngineArgs(**{**defaults, **arguments})
    except _ENGINE_ERRORS as error:
        raise GenerationError(f"vLLM refuses the arguments {dict(arguments)}: {error}") from error


def start_engine(args: EngineArgs, environment: Mapping[str, str]) -> LLMEngine:
    """Start an engine.

    Args:
        args: The engine's arguments.
        environment: Environment variables that are set while the engine starts, besides those of `cpu_binding`.

    Raises:
        GenerationError: If vLLM can't start it.
    """
    try:
        with _own_environment({**cpu_binding(), **environment}), _without_main():
            return LLMEngine.from_engine_args(args, UsageContext.LLM_CLASS)
    except _ENGINE_ERRORS as error:
        raise GenerationError(f"vLLM can't run {args.model!r}: {error}") from error


def _cpu_defaults(arguments: Mapping[str, Any], context: int | None) -> dict[str, Any]:
    """Return the arguments that replace vLLM's defaults on a CPU.

    Chunked prefill of a seeded request ends the engine: vLLM sets back the offset of the request's random generator,
    which torch does not support on CPUs. vLLM's default for the KV cache is 92% of the memory.
    """
    longest = arguments.get("max_model_len") or context
    processes = local_world_size()
    defaults: dict[str, Any] = {
        "block_size": _BLOCK_SIZE,
        "kv_cache_memory_bytes": min(psutil.virtual_memory().available // 2, _MAX_CACHE) // processes,
        "enable_chunked_prefill": False,
    }
    if longest:
        defaults["max_num_batched_tokens"] = max(int(longest), 2048)
    return defaults


def cpu_binding() -> dict[str, str]:
    """Return the environment variable that binds an engine's threads to its rank's share of the cores.

    Returns:
        {} on a GPU, for one process on a machine, or where the user sets the variable.
    """
    processes = local_world_size()
    if not current_platform.is_cpu() or processes == 1 or _CPU_BINDING in os.environ:
        return {}
    cores = sorted(psutil.Process().cpu_affinity() or range(os.cpu_count() or 1))
    rank, share = int(os.environ.get("LOCAL_RANK", "0")), max(1, len(cores) // processes)
    own = cores[rank * share % len(cores) :][:share]
    return {_CPU_BINDING: ",".join(map(str, own))}


@contextmanager
def _own_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Set variables and hide the launcher's while an engine starts; then restore the state that vLLM changes.

    vLLM writes LOCAL_WORLD_SIZE and LD_PRELOAD, seeds all random numbers, and replaces torch.set_num_threads.
    """
    before = {name: os.environ.pop(name, None) for name in _LAUNCHER}
    before |= {name: os.environ.get(name) for name in ("LD_PRELOAD", *environment)}
    os.environ |= environment
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    set_num_threads = torch.set_num_threads
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_num_threads = set_num_threads


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the user's script, which a spawned process would run a second time if it has no `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@dataclass
class _Text:
    """A request for a text: one request to vLLM."""

    key: Hashable
    rendered: RenderedRequest


@dataclass
class _Scoring:
    """A request with choices: one request to vLLM for each prefix of a choice, or for each choice."""

    key: Hashable
    rendered: RenderedChoices
    waiting: int
    """Requests to vLLM that haven't finished."""
    found: dict[Prefix, dict[int, float]] = field(default_factory=dict)
    """Prefix of a choice → next token → its log-probability."""


@dataclass(frozen=True)
class _PrefixScoring:
    """One request to vLLM for a `_Scoring`: the probabilities of the tokens after a prefix of a choice.

    With `is_scored`, the prefix is a complete choice, and vLLM returns the probabilities of its own tokens too.
    """

    scoring: _Scoring
    tokens: Prefix
    is_scored: bool


_Job = _Text | _PrefixScoring


class _OutputsOfLivingCore:
    """Output queue of an engine core in a subprocess. vLLM itself would wait forever if the subprocess is killed.

    Args:
        client: vLLM's client of the core, which has the queue.
    """

    def __init__(self, client: Any) -> None:
        self._resources, self._queue = client.resources, client.outputs_queue

    def get(self) -> Any:
        """Return the next outputs.

        Raises:
            RuntimeError: If the subprocess is dead and the queue is empty.
        """
        while True:
            try:
                return self._queue.get(timeout=1.0)
            except queue.Empty:
                if self._resources.engine_dead and self._queue.empty():
                    raise RuntimeError("the process of its core was killed.") from None


class VLLMEngine:
    """An engine of vLLM in memory.

    Args:
        engine: vLLM's engine.
        chat: The model's tokenizer; its `context` is set to the engine's.
    """

    def __init__(self, engine: LLMEngine, chat: ChatTokenizer) -> None:
        self.chat = chat
        self.chat.context = engine.vllm_config.model_config.max_model_len
        self._slots: int = engine.vllm_config.scheduler_config.max_num_seqs
        self._engine: LLMEngine | None = engine
        if hasattr(engine.engine_core, "outputs_queue"):  # the core runs in a subprocess
            engine.engine_core.outputs_queue = _OutputsOfLivingCore(engine.engine_core)
        self._process = os.getpid()
        self._ids = count()
        self._is_calling = False
        self._streams = 0
        self._finished: dict[str, Any] = {}
        """Id → output that no stream has taken yet. Two streams may be open at a time."""

    @property
    def is_dead(self) -> bool:
        """Whether the engine raised an error or was shut down, so that it can't be used any more."""
        return self._is_calling or self._engine is None

    def check_process(self) -> None:
        """Check that this is the process that started the engine.

        Raises:
            GenerationError: If it was forked from that process.
        """
        if self._process != os.getpid():
            raise GenerationError(
                "this process was forked, as Dataset.map(..., num_proc=...) does, after its parent had started vLLM, "
                "which it can't share. Use map without num_proc, or pipeline.run under `accelerate launch`."
            )

    def shutdown(self) -> None:
        """Shut down the engine and its subprocesses."""
        if self._engine is not None and self._process == os.getpid():
            self._engine.engine_core.shutdown()
        self._engine = None

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Complete requests as `LLM.stream` does.

        Raises:
            ChatTemplateError: If every request needs something that the chat template lacks.
            GenerationError: If the engine dies, or the last turn of every conversation is an answer already.
        """
        self.chat.check(requests.waiting())
        if self._streams == 0:  # cached prefixes round differently, so rows would depend on earlier streams
            self._call("reset_prefix_cache")
        self._streams += 1
        jobs: dict[str, _Job] = {}
        try:
            while True:
                while len(jobs) < self._slots and (item := requests.take()):
                    yield from self._admit(*item, jobs)
                if not jobs:
                    return
                for output in self._take_outputs(jobs):
                    yield from self._finish(jobs.pop(output.request_id), output)
        finally:
            self._streams -= 1
            if jobs and not self.is_dead:
                self._call("abort_request", list(jobs))

    def _admit(self, key: Hashable, request: Any, jobs: dict[str, _Job]) -> Iterator[tuple[Hashable, Completion]]:
        """Send a request to vLLM; yield its completion if it is refused."""
        rendered = self.chat.render(request)
        if isinstance(rendered, Completion):
            yield key, rendered
            return
        try:
            if isinstance(rendered, RenderedRequest):
                params = sampling_params(rendered.tokens)
                self._add(rendered.tokens.prompt_ids, params, _Text(key, rendered), jobs)
            else:
                self._add_choices(key, rendered, jobs)
        except _REQUEST_ERRORS as error:
            yield key, Completion(text="", finish_reason="refused", error=f"vLLM refuses the request: {error}")

    def _add_choices(self, key: Hashable, rendered: RenderedChoices, jobs: dict[str, _Job]) -> None:
        """Send vLLM the requests for the probabilities from which the scores of choices are computed."""
        choices = rendered.tokens
        is_by_prefix = _is_by_prefix(choices)
        texts = list(choices.wanted) if is_by_prefix else list(dict.fromkeys(map(tuple, choices.choices)))
        scoring = _Scoring(key, rendered, len(texts))
        for tokens in texts:
            wanted = choices.wanted.get(tokens) or [tokens[-1]]
            params = scoring_params(wanted, is_scored=not is_by_prefix)
            self._add([*choices.prompt_ids, *tokens], params, _PrefixScoring(scoring, tokens, not is_by_prefix), jobs)

    def _add(self, token_ids: list[int], params: SamplingParams, job: _Job, jobs: dict[str, _Job]) -> None:
        name = str(next(self._ids))  # not the id that add_request returns, since outputs don't have it
        self._call("add_request", name, tokens_input(token_ids), params)
        jobs[name] = job

    def _take_outputs(self, jobs: Mapping[str, _Job]) -> list[Any]:
        """Step the engine until at least one job has finished; return the outputs of finished jobs."""
        while not (names := [name for name in self._finished if name in jobs]):
            self._finished |= {output.request_id: output for output in self._call("step") if output.finished}
        return [self._finished.pop(name) for name in names]

    def _finish(self, job: _Job, output: Any) -> Iterator[tuple[Hashable, Completion]]:
        """Yield the completion of a finished job; a scoring is completed by its last output."""
        (result,) = output.outputs
        if isinstance(job, _Text):
            completion = self.chat.completion(job.rendered, read_generated(result))
            yield job.key, replace(completion, cached_tokens=output.num_cached_tokens or 0)
            return
        scoring = job.scoring
        scoring.waiting -= 1
        if result.logprobs:
            found = {token: one.logprob for token, one in result.logprobs[0].items()}
            scoring.found.setdefault(job.tokens, {}).update(found)
        if job.is_scored:
            self._read_choice(job, output.prompt_logprobs)
        if not scoring.waiting:
            scores = scoring.rendered.tokens.scores(scoring.found)
            yield scoring.key, self.chat.scored(scoring.rendered, scores)

    def _read_choice(self, job: _PrefixScoring, logprobs: Sequence[Any]) -> None:
        """Read the log-probabilities of a choice's own tokens from those of the prompt's tokens."""
        start = len(logprobs) - len(job.tokens)
        for place, token in enumerate(job.tokens):
            found = job.scoring.found.setdefault(job.tokens[:place], {})
            found[token] = logprobs[start + place][token].logprob

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of vLLM's engine. Any error other than a refused request leaves the engine dead.

        Raises:
            GenerationError: If the engine is dead.
        """
        if self._engine is None or self._is_calling:
            raise GenerationError("vLLM's engine has ended; the next call starts a new one.")
        self._is_calling = True
        try:
            result = getattr(self._engine, method)(*arguments)
        except _ENGINE_ERRORS as error:
            if method == "add_request" and isinstance(error, _REQUEST_ERRORS):
                self._is_calling = False
                raise
            raise GenerationError(f"vLLM's engine died: {type(error).__name__}: {error}") from error
        self._is_calling = False
        return result


def sampling_params(tokens: TokenizedRequest) -> SamplingParams:
    """Return vLLM's parameters for a request. All are set, so that no default of a model or server applies."""
    sampling = tokens.sampling
    return SamplingParams(
        n=1,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=tokens.seed,
        stop=list(tokens.stop),
        stop_token_ids=sorted(tokens.end_tokens),
        ignore_eos=True,  # stop_token_ids has the request's end tokens
        max_tokens=tokens.max_new_tokens,
        min_tokens=0,
        detokenize=bool(tokens.stop),  # only to find stop texts; the completion is decoded from the token ids
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring_params(wanted: Sequence[int], *, is_scored: bool) -> SamplingParams:
    """Return vLLM's parameters for the probabilities of tokens after a prompt.

    Args:
        wanted: The tokens.
        is_scored: Whether the probabilities of the prompt's own tokens are needed too.
    """
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        ignore_eos=True,
        detokenize=False,
        logprobs=len(wanted),  # vLLM takes no other number beside logprob_token_ids
        logprob_token_ids=list(wanted),
        prompt_logprobs=0 if is_scored else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def read_generated(result: Any) -> Generated:
    """Return vLLM's output as generated tokens; a finish reason other than "stop" or "length" is an error."""
    reason = str(result.finish_reason)
    if reason in _FINISH_REASONS:
        return Generated(list(result.token_ids), _FINISH_REASONS[reason])
    return Generated(list(result.token_ids), "error", f"vLLM ended the request with {reason!r}")


def _is_by_prefix(tokens: TokenizedChoices) -> bool:
    """Return whether to score choices with one request for each prefix, rather than with one for each choice.

    A request for a prefix reuses the prompt's KV cache. A request that returns the probabilities of its prompt's
    tokens prefills the entire prompt, and computes logits for each of its tokens.
    """
    prompt = len(tokens.prompt_ids)
    if max(map(len, tokens.wanted.values())) > _MAX_TOKEN_IDS:
        return False
    by_choice = sum(prompt + len(choice) for choice in tokens.choices)
    return prompt + len(tokens.wanted) * _PREFIX_COST <= by_choice * _PROMPT_COST
