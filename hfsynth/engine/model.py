"""A loaded model and its tokenizer: requests become sequences, sequences become completions."""

import logging
import os
import re
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.quantization_config import GgufConfig

from hfsynth.chat import ChatTemplate, turn_end
from hfsynth.engine.compatibility import adopt_attention
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.memory import free_memory
from hfsynth.engine.plain_text import PlainText
from hfsynth.engine.scoring import FORWARD_TOKENS, Comparison, score
from hfsynth.engine.sequence import Job, PromptTooLongError, Take, Written
from hfsynth.engine.static_batches import StaticBatches
from hfsynth.errors import ChatTemplateError, GenerationError
from hfsynth.llm import Completion, Message, Request, Requests
from hfsynth.llms.model_files import chat_template, loading_error, process_device
from hfsynth.thinking import split_thinking

if TYPE_CHECKING:
    from hfsynth.llms.transformers import TransformersLLM


_ROWS = 64  # rows that the layout is chosen for
_DTYPES = (torch.bfloat16, torch.float32)


class PackedLinear(nn.Module):
    """A linear layer whose weight is kept as only the CPU's kernels can read it."""

    packed: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight, laid out anew as it was: some models compute with a layer's weight themselves."""
        dense: Tensor = self.packed.to_dense()
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ + bias, (…, in) → (…, out)."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return made


def pack_linears(model: Any) -> int:
    """Replace a model's linear layers, where its device is a CPU for whose kernels torch can pack weights.

    Returns:
        How many were replaced.
    """
    if model.device.type != "cpu" or model.dtype not in _DTYPES or not _can_pack(model.dtype):
        return 0
    found = [  # without the layers: each is gone as soon as it is replaced, so only one is there twice
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.dtype in _DTYPES
    ]
    with torch.inference_mode(False), torch.no_grad():
        for parent, name in found:
            setattr(parent, name, PackedLinear(getattr(parent, name)))
    return len(found)


def _can_pack(dtype: torch.dtype) -> bool:
    ops = torch.ops.mkldnn
    if not torch._C._has_mkldnn or not hasattr(ops, "_linear_pointwise"):
        return False
    return dtype is torch.float32 or bool(ops._is_mkldnn_bf16_supported())


@dataclass
class Intake:
    """Turns requests into jobs as they are wanted, and has ready what needs none: what is refused or scored.

    Requests with choices are gathered, and scored when a forward is full or no other request waits.
    """

    loaded: "Loaded"
    requests: Requests
    asked: dict[Job, tuple[Hashable, Request, str]] = field(default_factory=dict)
    """Job → the request's key, the request and its prompt."""
    ready: deque[tuple[Hashable, Completion]] = field(default_factory=deque)
    """Completions to be given back, with their requests' keys."""
    _gathered: list[tuple[Hashable, Request, Comparison]] = field(default_factory=list)

    def given_back(self) -> Iterator[tuple[Hashable, Completion]]:
        """Give out what is ready, once."""
        while self.ready:
            yield self.ready.popleft()

    def take(self) -> Job | None:
        """Return the next request's job; None where none waits now.

        Also None, rather than to let further requests be put, while something is ready: it is to be given back first.
        """
        while self.requests or not (self.ready or self._gathered):
            if (item := self.requests.take()) is None:
                return None
            if job := self._taken(*item):
                return job
        self._score()
        return None

    def _taken(self, key: Hashable, request: Request) -> Job | None:
        """Return a request's job, or None if it is refused or has choices."""
        try:
            prompt = self.loaded.prompt(request)
            if request.choices:
                self._gather(key, request, self.loaded.comparison(request, prompt))
            else:
                job = self.loaded.job(request, prompt)
                self.asked[job] = key, request, prompt
                return job
        except (ChatTemplateError, PromptTooLongError) as error:
            self.ready.append((key, Completion(text="", finish_reason="refused", error=str(error))))
        return None

    def _gather(self, key: Hashable, request: Request, comparison: Comparison) -> None:
        """Add a request to the next forward, or to one after it where that is full."""
        if sum(len(one.tokens) for _, _, one in self._gathered) + len(comparison.tokens) > FORWARD_TOKENS:
            self._score()
        self._gathered.append((key, request, comparison))

    def _score(self) -> None:
        """Score what is gathered."""
        gathered, self._gathered = self._gathered, []
        completions = self.loaded.score([one for _, _, one in gathered]) if gathered else []
        for (key, request, _), made in zip(gathered, completions, strict=True):
            self.ready.append((key, replace(made, text=request.choices[made.scores.index(max(made.scores))])))


logger = logging.getLogger(__name__)
_EMPTY = "the chat template makes an empty prompt of the conversation"
_SLOTS = {"cpu": 96, "cuda": 256}  # rows at once, where the user doesn't say


class Engine(Protocol):
    """What completes jobs: the decode loop, or static batches for a model that can't be run by it."""

    @property
    def fresh(self) -> bool:
        """Whether it is as it was made: nothing is under way, and nothing was given up for want of memory."""

    def run(self, take: Take) -> Iterator[tuple[Job, Written]]:
        """Complete jobs until there are none left."""


@dataclass
class Loaded:
    """A model in memory with its tokenizer."""

    model: Any
    tokenizer: Any
    template: ChatTemplate
    end_tokens: frozenset[int]
    context: int | None
    """Most tokens of prompt and completion together; None where the model sets no limit."""
    fault: str
    """Why the model can't be run by the decode loop; empty where it can."""
    _engine: tuple[int, Engine] | None = None

    @classmethod
    def load(cls, llm: "TransformersLLM") -> "Loaded":
        """Load what an llm names.

        Raises:
            GenerationError: If it can't be, or its tokenizer has no chat template.
        """
        # never None, at which transformers would ask on standard input
        source: dict[str, Any] = {"trust_remote_code": llm.trust_remote_code}
        if llm.revision:
            source["revision"] = llm.revision
        if llm.gguf_file:
            source["gguf_file"] = llm.gguf_file
        try:
            tokenizer = AutoTokenizer.from_pretrained(llm.model, **source)
            model = _load_model(llm, source)
        except (OSError, ValueError, ImportError) as error:
            raise loading_error(llm.model, llm.revision, error) from error
        if tokenizer.chat_template is None:
            raise GenerationError(f"the tokenizer of {llm.model!r} has no chat template; use an instruct model.")
        ends = model.generation_config.eos_token_id
        end_tokens = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        # a checkpoint's own sampling defaults would work on the logits before a technique's parameters do
        model.generation_config = GenerationConfig.from_dict({})
        fault = _prepare(model, llm)
        template = chat_template(llm.model_name, tokenizer, llm.chat_template_kwargs)
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return cls(model, tokenizer, template, frozenset(end_tokens), limit, fault)

    def stream(self, requests: Requests, batch_size: int | None) -> Iterator[tuple[Hashable, Completion]]:
        """Complete requests as `LLM.stream` does, at most `batch_size` at once.

        Raises:
            ChatTemplateError: If every request needs what the chat template doesn't have: a system role, say.
            GenerationError: If one row alone runs out of memory, or every request is an answered conversation, as a
                reward model takes them.
        """
        waiting = requests.waiting()
        faults = [self.template.fault(request.messages, request.role) for request in waiting]
        if faults and all(faults):  # no row's own failure, but a technique that this model can't serve
            raise ChatTemplateError(faults[0])
        if waiting and all(map(_is_answered, waiting)):
            raise GenerationError(
                f"{self.template.name} writes texts or scores choices, and every request is a conversation that is "
                "answered already; to score whole conversations, use RewardModel(...) as the llm."
            )
        intake = Intake(self, requests)
        while True:
            for job, written in self._engine_of(batch_size).run(intake.take):
                key, request, prompt = intake.asked.pop(job)
                yield key, self.completion(request, prompt, job, written)
                yield from intake.given_back()  # at once: a chunk waits for its last row
            if not intake.ready:
                return
            yield from intake.given_back()

    def prompt(self, request: Request) -> str:
        """Return what the model reads before what it is to write, or before the choices.

        Raises:
            ChatTemplateError: If the chat template can't render it.
        """
        if request.choices and request.role == "assistant":
            return self.template.before_answer(request.messages)
        return self.template.prompt(request.messages, request.role)

    def job(self, request: Request, prompt: str) -> Job:
        """Lay out a request for the model.

        Raises:
            PromptTooLongError: If the prompt leaves no room for an answer.
            ChatTemplateError: If it is empty.
        """
        tokens = self._prompt_tokens(request, prompt)
        if not tokens:
            raise ChatTemplateError(_EMPTY)
        limit = request.sampling.max_new_tokens
        if self.context is not None:
            if len(tokens) >= self.context:
                raise PromptTooLongError(
                    f"the prompt's {len(tokens)} tokens fill the model's context of {self.context}"
                )
            limit = min(limit, self.context - len(tokens))
        ends, text = self._turn_ends(request)
        stop = request.sampling.stop + ((text,) if text else ())
        return Job(tokens, request.sampling, request.seed, limit, ends, stop)

    def comparison(self, request: Request, prompt: str) -> Comparison:
        """Lay out a request's choices for the model.

        They are tokenized apart from the prompt: it is read once for all of them, so it must end in the same token
        before each, as it would if the model wrote them. Spaces at its end belong to a choice, since in most
        vocabularies a word and the space before it are one token; some tokenizers put it there by themselves.

        Raises:
            PromptTooLongError: If the prompt and a choice are longer than the context.
            ChatTemplateError: If the prompt is empty.
        """
        begun = prompt.rstrip(" ")
        tokens, spaces = self._prompt_tokens(request, begun), prompt[len(begun) :]
        if not tokens:
            raise ChatTemplateError(_EMPTY)
        choices = [self._continued(tokens, spaces, choice) for choice in request.choices]
        longest = max(map(len, choices))
        if self.context is not None and len(tokens) + longest > self.context:
            raise PromptTooLongError(
                f"the prompt's {len(tokens)} tokens and a choice's {longest} are more than the model's context of "
                f"{self.context}"
            )
        return Comparison(tokens, choices, self._turn_ends(request)[0])

    def score(self, compared: Sequence[Comparison]) -> list[Completion]:
        """Score the choices of comparisons; the texts of the completions are left empty.

        Raises:
            GenerationError: If one alone runs out of memory.
        """
        scored = zip(compared, score(self.model, compared, replaced=not self.fault), strict=True)
        return [
            Completion(
                text="",
                finish_reason="stop",
                prompt_tokens=len(one.tokens),
                scores=scores,
                scored_tokens=tuple(len(choice) + bool(one.end_tokens) for choice in one.choices),
            )
            for one, scores in scored
        ]

    def completion(self, request: Request, prompt: str, job: Job, written: Written) -> Completion:
        """Read what was written as text: without end tokens, stop texts, thinking and special tokens."""
        tokens = written.tokens
        ended = bool(tokens) and tokens[-1] in job.end_tokens
        text = self._decode(tokens[:-1] if ended else tokens)
        if cuts := [text.index(stop) for stop in job.stop if stop in text]:
            text = text[: min(cuts)]
        thinking = None
        if request.role == "assistant":
            thinking, text = split_thinking(prompt, text, self.template.thinking)
        return Completion(
            text=self._without_special(text),
            finish_reason=written.finish_reason,
            prompt_tokens=len(job.prompt),
            completion_tokens=len(tokens),
            thinking=thinking and self._without_special(thinking),
            written=self._decode(tokens),
            error=written.error,
        )

    def _engine_of(self, batch_size: int | None) -> Engine:
        size = batch_size or _SLOTS.get(self.model.device.type, _SLOTS["cuda"])
        if self._engine is None or self._engine[0] != size or not self._engine[1].fresh:
            self._engine = None  # gives the memory back before more is asked for
            free_memory()
            made = StaticBatches if self.fault else DecodeLoop
            self._engine = size, made(self.model, self._decode, size)
        return self._engine[1]

    def _turn_ends(self, request: Request) -> tuple[frozenset[int], str]:
        """Return the tokens that end a request's turn, and the text that does where there are others."""
        if request.role == "assistant":
            return self.end_tokens, ""
        special, text = turn_end(self.template.user_end, [token for token, _ in self._added_tokens])
        return self.end_tokens | set(self.tokenizer.convert_tokens_to_ids(list(special))), text

    def _continued(self, prompt: Sequence[int], spaces: str, choice: str) -> list[int]:
        """Return the tokens of a choice that stands some spaces behind a prompt."""
        alone = self._plain_text.of_text(choice)
        if not spaces or self._decode([*prompt[-1:], *alone]).endswith(spaces + choice):
            return alone
        return self._plain_text.of_text(spaces + choice)

    def _prompt_tokens(self, request: Request, prompt: str) -> list[int]:
        """Return the tokens of a request's prompt, in which what its messages hold stays text."""

        def render(messages: tuple[Message, ...]) -> str:
            rendered = self.prompt(replace(request, messages=messages))
            return rendered.rstrip(" ") if request.choices else rendered

        return self._plain_text.of_prompt(prompt, request.messages, render)

    @cached_property
    def _plain_text(self) -> PlainText:
        return PlainText(self.tokenizer, self.template.name)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _without_special(self, text: str) -> str:
        special = "|".join(re.escape(token) for token, is_special in self._added_tokens if is_special)
        return re.sub(special, "", text).strip() if special else text.strip()

    @property
    def _added_tokens(self) -> list[tuple[str, bool]]:
        """Tokens with a meaning of their own, and whether they are no part of a text."""
        return [(token.content, token.special) for token in self.tokenizer.added_tokens_decoder.values()]


def _load_model(llm: "TransformersLLM", source: Mapping[str, Any]) -> Any:
    """Load the weights onto this process's device, or as many devices or processes as they are to be spread over."""
    if llm.device_map and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise GenerationError(
            f"device_map is {llm.device_map!r}, and {os.environ['LOCAL_WORLD_SIZE']} processes run on this node, each "
            "of which would take all its devices; launch one process a node (--num_processes 1)."
        )
    how: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)} if llm.gguf_file else {}
    if llm.device_map:
        how["device_map"] = llm.device_map
    model: Any = AutoModelForCausalLM.from_pretrained(llm.model, dtype=llm.dtype, **source, **how)
    if not llm.device_map:
        model.to(llm.device or process_device())
    return model.eval()


def _prepare(model: Any, llm: "TransformersLLM") -> str:
    """Make a model ready for the decode loop; return why it can't be, if it can't."""
    fault = adopt_attention(model)
    if fault:
        logger.warning("%s is run in static batches, which are slower: %s", llm.model_name, fault)
    else:
        pack_linears(model)
    return fault


def _is_answered(request: Request) -> bool:
    """Whether there is nothing to write or choose: the conversation's last turn is the one that is asked for."""
    last = request.messages[-1]["role"] if request.messages else ""
    return last == request.role == "assistant" and not request.choices
