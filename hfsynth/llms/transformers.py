"""Any causal language model of transformers, in this process, on the device that accelerate gives it."""

import gc
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hfsynth.chat import ChatTemplate, split_thinking, turn_end
from hfsynth.configuration import Configuration
from hfsynth.errors import ChatTemplateError, GenerationError
from hfsynth.generation import Completion, Request

if TYPE_CHECKING:
    from hfsynth.llms.static import Job, Written

logger = logging.getLogger(__name__)
_LOADED: dict[str, "_Loaded"] = {}  # configuration → what it loaded; one of each in a process


@dataclass(frozen=True)
class TransformersLLM(Configuration):
    """A model by its name on the Hub or its folder. Loads on first use, once a process for all equal ones.

    >>> llm = TransformersLLM("HuggingFaceTB/SmolLM2-135M-Instruct", dtype="bfloat16")
    >>> llm.model_name
    'HuggingFaceTB/SmolLM2-135M-Instruct'

    `with llm:` loads on entry and unloads at the end.

    Raises:
        ValueError: If a field is out of its range.
    """

    model: str = field(metadata={"help": "Name on the Hub, or folder."})
    revision: str | None = field(default=None, kw_only=True, metadata={"help": "Branch, tag or commit on the Hub."})
    dtype: str = field(
        default="auto",
        kw_only=True,
        metadata={"help": "Type of the weights: float32, bfloat16, float16; auto is the checkpoint's."},
    )
    device: str | None = field(
        default=None, kw_only=True, metadata={"help": "Device; default: the one accelerate gives this process."}
    )
    gguf_file: str | None = field(
        default=None, kw_only=True, metadata={"help": "GGUF file to load, in the folder or repository of `model`."}
    )
    chat_template_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        kw_only=True,
        metadata={"help": "Variables of the chat template, such as enable_thinking or date_string."},
    )
    batch_size: int = field(default=32, kw_only=True, metadata={"help": "Most rows that are generated at once."})

    def __post_init__(self) -> None:
        """Check the fields that can be checked without loading."""
        if self.batch_size < 1:
            raise ValueError(f"TransformersLLM.batch_size is {self.batch_size}; it must be at least 1.")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"TransformersLLM.dtype is {self.dtype!r}; use auto, float32, bfloat16 or float16.")

    @property
    def model_name(self) -> str:
        """The model as given; of a folder or GGUF file, the last part of its name."""
        if self.gguf_file:
            return self.gguf_file.removesuffix(".gguf")
        return os.path.basename(os.path.normpath(self.model)) if os.path.isdir(self.model) else self.model

    def load(self) -> "TransformersLLM":
        """Load the model and its tokenizer, if an equal llm hasn't yet in this process.

        Raises:
            GenerationError: If the model can't be loaded or its tokenizer has no chat template.
        """
        self._loaded()
        return self

    def unload(self) -> None:
        """Give back the memory of the model; the next `complete` loads it again."""
        if _LOADED.pop(self._key, None) is not None:
            _free_memory()

    def __enter__(self) -> "TransformersLLM":
        """Load."""
        return self.load()

    def __exit__(self, *exception: object) -> None:
        """Unload."""
        self.unload()

    def prompt(self, request: Request) -> str:
        """Return what the model reads for a request, exactly.

        Raises:
            ChatTemplateError: If the model's chat template can't render it.
        """
        return self._loaded().template.prompt(request.messages, request.role)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Complete all requests, longest prompts first, and return the completions in the requests' order.

        A request that the chat template refuses, or whose prompt leaves no room in the model's context, is a
        completion with `finish_reason="error"`. Running out of memory halves the batch and goes on.

        Raises:
            ChatTemplateError: If every request needs what the chat template doesn't have: a system role, say.
            GenerationError: If the model can't be loaded, or one row alone runs out of memory.
        """
        if not requests:
            return []
        loaded = self._loaded()
        faults = [loaded.template.fault(request.messages, request.role) for request in requests]
        if all(faults):  # no row's own failure, but a technique that this model can't serve
            raise ChatTemplateError(faults[0])
        completions: dict[int, Completion] = {}
        jobs: dict[int, Job] = {}
        prompts: dict[int, str] = {}
        for index, request in enumerate(requests):
            try:
                prompts[index] = loaded.template.prompt(request.messages, request.role)
                jobs[index] = loaded.job(request, prompts[index])
            except (ChatTemplateError, _PromptTooLong) as error:
                completions[index] = Completion(text="", finish_reason="error", error=str(error))
        for index, written in loaded.run(jobs, self.batch_size):
            completions[index] = loaded.completion(requests[index], prompts[index], jobs[index], written)
        return [completions[index] for index in range(len(requests))]

    @property
    def _key(self) -> str:
        """What is loaded: the batch size is no part of it, so llms that differ in nothing else share a model."""
        return replace(self, batch_size=1).to_json()

    def _loaded(self) -> "_Loaded":
        if self._key not in _LOADED:
            _LOADED[self._key] = _Loaded.load(self)
        return _LOADED[self._key]


class _PromptTooLong(ValueError):
    """A prompt leaves no room in the model's context."""


@dataclass
class _Loaded:
    """A model in memory with its tokenizer: text → jobs → tokens → text."""

    model: Any
    tokenizer: Any
    template: ChatTemplate
    end_tokens: frozenset[int]
    context: int | None
    """Most tokens of prompt and completion together; None where the model sets no limit."""
    fitting: int | None = None
    """Rows that fitted in memory after more did not."""

    @classmethod
    def load(cls, llm: TransformersLLM) -> "_Loaded":
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils.quantization_config import GgufConfig

        source: dict[str, Any] = {"revision": llm.revision} if llm.revision else {}
        if llm.gguf_file:
            source["gguf_file"] = llm.gguf_file
        quantized = {"quantization_config": GgufConfig(dequantize=True)} if llm.gguf_file else {}
        try:
            tokenizer = AutoTokenizer.from_pretrained(llm.model, **source)
            model: Any = AutoModelForCausalLM.from_pretrained(llm.model, dtype=llm.dtype, **source, **quantized)
        except (OSError, ValueError, ImportError) as error:
            raise GenerationError(f"{llm.model!r} (revision {llm.revision}) can't be loaded: {error}") from error
        if tokenizer.chat_template is None:
            raise GenerationError(f"the tokenizer of {llm.model!r} has no chat template; use an instruct model.")
        model.to(llm.device or _device()).eval()
        ends = model.generation_config.eos_token_id
        end_tokens = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        # a checkpoint's own sampling defaults would work on the logits before a technique's parameters do
        model.generation_config = GenerationConfig.from_dict({})
        render = partial(_render, tokenizer, dict(llm.chat_template_kwargs))
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return cls(model, tokenizer, ChatTemplate(llm.model_name, render), frozenset(end_tokens), limit)

    def job(self, request: Request, prompt: str) -> "Job":
        """Lay out a request for the model.

        Raises:
            _PromptTooLong: If the prompt leaves no room for an answer.
        """
        from hfsynth.llms.static import Job

        tokens: list[int] = self.tokenizer(prompt, add_special_tokens=False).input_ids
        limit = request.sampling.max_new_tokens
        if self.context is not None:
            if len(tokens) >= self.context:
                raise _PromptTooLong(f"the prompt's {len(tokens)} tokens fill the model's context of {self.context}")
            limit = min(limit, self.context - len(tokens))
        ends, stop = self.end_tokens, request.sampling.stop
        if request.role == "user":
            special, text = turn_end(self.template.user_end, [token for token, _ in self._added_tokens])
            ends |= set(self.tokenizer.convert_tokens_to_ids(list(special)))
            stop += (text,) if text else ()
        return Job(tokens, request.sampling, request.seed, limit, ends, stop)

    def run(self, jobs: Mapping[int, "Job"], batch_size: int) -> "Iterator[tuple[int, Written]]":
        """Generate in batches, longest prompts first; out of memory, in smaller ones.

        Raises:
            GenerationError: If one row alone runs out of memory.
        """
        from accelerate.utils.memory import should_reduce_batch_size

        from hfsynth.llms.static import generate_batch

        waiting = sorted(jobs, key=lambda index: -len(jobs[index].prompt))
        while waiting:
            batch = waiting[: min(batch_size, self.fitting or batch_size)]
            try:
                written = generate_batch(self.model, [jobs[index] for index in batch], self._decode)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                longest = len(jobs[batch[0]].prompt)
                if len(batch) == 1:
                    raise GenerationError(
                        f"out of memory with one row of {longest} tokens; use a smaller max_new_tokens or model."
                    ) from error
                self.fitting = len(batch) // 2
                logger.warning(
                    "out of memory with %d rows of %d tokens: on with %d", len(batch), longest, self.fitting
                )
            else:
                yield from zip(batch, written, strict=True)
                waiting = waiting[len(batch) :]
                continue
            _free_memory()  # outside the handler, whose traceback holds the tensors

    def completion(self, request: Request, prompt: str, job: "Job", written: "Written") -> Completion:
        """Read what was written as text: without end tokens, stop texts, thinking and special tokens."""
        tokens = written.tokens
        ended = bool(tokens) and tokens[-1] in job.end_tokens
        text = self._decode(tokens[:-1] if ended else tokens)
        if cuts := [text.index(stop) for stop in job.stop if stop in text]:
            text = text[: min(cuts)]
        thinking = None
        if request.role == "assistant":
            thinking, text = split_thinking(prompt, text)
        return Completion(
            text=self._without_special(text),
            finish_reason=written.finish_reason,
            prompt_tokens=len(job.prompt),
            completion_tokens=len(tokens),
            thinking=thinking and self._without_special(thinking),
        )

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _without_special(self, text: str) -> str:
        special = "|".join(re.escape(token) for token, is_special in self._added_tokens if is_special)
        return re.sub(special, "", text).strip() if special else text.strip()

    @property
    def _added_tokens(self) -> list[tuple[str, bool]]:
        """Tokens with a meaning of their own, and whether they are no part of a text."""
        return [(token.content, token.special) for token in self.tokenizer.added_tokens_decoder.values()]


def _render(tokenizer: Any, variables: dict[str, Any], messages: list[dict[str, Any]], generation_prompt: bool) -> str:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation_prompt, **variables
    )
    return str(text)


def _device() -> Any:
    """Return the device of this process; on CPU accelerate must be told so, or each process thinks it is alone."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available()).device


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
