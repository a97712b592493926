"""Reward models: a conversation goes in, a number that says how good its last answer is comes out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hfsynth.chat import ChatTemplate
from hfsynth.config import Configuration, settle_fields
from hfsynth.distributed import process_device
from hfsynth.engine.memory import compute_fitting
from hfsynth.engine.plain_text import PlainText
from hfsynth.engine.sequence import PromptTooLongError
from hfsynth.errors import ChatTemplateError, GenerationError
from hfsynth.llm import LLM, Completion, Message, Origin, Request
from hfsynth.llms.model_files import ModelCache, chat_template, check_files, files_state, loading_error

_LOADED: ModelCache["Classifier"] = ModelCache()


@dataclass(frozen=True)
class RewardModel(Configuration, LLM):
    """Any sequence-classification model of transformers, as the llm of `Reward`. Loads on first use, once a process.

    A conversation is read as the tokenizer's chat template renders it or, where there is no template, as a pair: what
    was said before the answer, and the answer.

    >>> RewardModel("Skywork/Skywork-Reward-V2-Qwen3-0.6B", dtype="bfloat16").model_name
    'Skywork/Skywork-Reward-V2-Qwen3-0.6B'

    Raises:
        ValueError: If a field is out of its range.
    """

    version: ClassVar[int] = 2

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
    trust_remote_code: bool = field(
        default=False,
        kw_only=True,
        metadata={"help": "Run the Python code that the model's folder or repository brings with it."},
    )
    batch_size: int = field(
        default=32,
        kw_only=True,
        metadata={"help": "Most conversations that are read at once; fewer where they don't fit."},
    )

    def __post_init__(self) -> None:
        """Check the fields that can be checked without loading."""
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))
        settle_fields(self)
        if self.batch_size < 1:
            raise ValueError(f"RewardModel.batch_size is {self.batch_size}; it must be at least 1.")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"RewardModel.dtype is {self.dtype!r}; use auto, float32, bfloat16 or float16.")

    @property
    def model_name(self) -> str:
        """The model as given; of a folder, the last part of its name."""
        return os.path.basename(os.path.normpath(self.model)) if os.path.isdir(self.model) else self.model

    def origin(self) -> Origin:
        """Say what the model's folder, or the cache of the Hub, states of where it comes from."""
        from hfsynth.llms.model_files import model_origin

        return model_origin(self.model, self.revision, None)

    def files_state(self) -> str:
        """Return a text that changes when the model's files do: a hash of a folder's content, the Hub's commit."""
        return files_state(self.model, self.revision)

    def load(self) -> "RewardModel":
        """Load the model and its tokenizer, if an equal llm hasn't yet in this process.

        Raises:
            GenerationError: If the model can't be loaded, or was not trained to classify.
        """
        self._loaded()
        return self

    def unload(self) -> None:
        """Give back the memory of the model; the next `complete` loads it again."""
        _LOADED.drop(self._key)

    def __enter__(self) -> "RewardModel":
        """Load."""
        return self.load()

    def __exit__(self, *exception: object) -> None:
        """Unload."""
        self.unload()

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Score conversations whose last turn is the assistant's: the completions have `scores`, and no text.

        One that is longer than the model's context is a completion with `finish_reason="refused"`.

        Raises:
            GenerationError: If a request wants a text to be written or choices to be scored, the model can't be
                loaded, or one conversation alone runs out of memory.
        """
        for request in requests:
            last = request.messages[-1]["role"] if request.messages else ""
            if request.choices or not last == request.role == "assistant":
                wanted = f"the choices {request.choices}" if request.choices else f"the {request.role}'s next turn"
                raise GenerationError(
                    f"{self.model_name} is a reward model: it scores conversations that end with an answer, and "
                    f"writes nothing. It was asked for {wanted}; use TransformersLLM(...) for that."
                )
        return self._loaded().score([request.messages for request in requests], self.batch_size) if requests else []

    @property
    def _key(self) -> str:
        """What is loaded: the batch size is no part of it."""
        return replace(self, batch_size=1).to_json()

    def _loaded(self) -> "Classifier":
        def load() -> "Classifier":

            check_files(self.model)
            return Classifier.load(self)

        return _LOADED.get(self._key, self.files_state(), load)


_UNLIMITED = 1_000_000  # tokenizers that know no limit say a number far above this
Encoded = dict[str, list[int]]
"""A conversation as the model reads it: `input_ids`, and what else its tokenizer gives for each token."""


@dataclass
class Classifier:
    """A model in memory with its tokenizer."""

    model: Any
    tokenizer: Any
    template: ChatTemplate | None
    """None where the tokenizer has none."""
    context: int | None
    """Most tokens of a conversation; None where neither model nor tokenizer sets a limit."""

    @classmethod
    def load(cls, llm: "RewardModel") -> "Classifier":
        """Load what an llm names.

        Raises:
            GenerationError: If it can't be, or the checkpoint lacks weights: those of the head, say, which would be
                random numbers then.
        """
        # never None, at which transformers would ask on standard input
        source: dict[str, Any] = {"trust_remote_code": llm.trust_remote_code}
        if llm.revision:
            source["revision"] = llm.revision
        try:
            tokenizer = AutoTokenizer.from_pretrained(llm.model, **source)
            model: Any
            model, told = AutoModelForSequenceClassification.from_pretrained(
                llm.model, dtype=llm.dtype, output_loading_info=True, **source
            )
        except (OSError, ValueError, ImportError) as error:
            raise loading_error(llm.model, llm.revision, error) from error
        if missing := sorted(told["missing_keys"]):
            raise GenerationError(
                f"{llm.model!r} is no reward model: it has no weights for {missing}, so its scores would be random."
            )
        model.to(llm.device or process_device())
        model.eval()
        limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
        known = [limit for limit in limits if limit is not None and limit < _UNLIMITED]
        template = chat_template(llm.model_name, tokenizer, {}) if tokenizer.chat_template else None
        return cls(model, tokenizer, template, min(known, default=None))

    def score(self, conversations: Sequence[Sequence[Message]], batch_size: int) -> list[Completion]:
        """Score conversations, those of near lengths together.

        Raises:
            GenerationError: If one alone runs out of memory.
        """
        made: list[Completion | None] = [None] * len(conversations)
        encoded: dict[int, Encoded] = {}
        for number, conversation in enumerate(conversations):
            try:
                encoded[number] = self._encode(conversation)
            except (ChatTemplateError, PromptTooLongError) as error:
                made[number] = Completion(text="", finish_reason="refused", error=str(error))
        order = sorted(encoded, key=lambda number: -len(encoded[number]["input_ids"]))
        size = batch_size if self._pad is not None else 1  # causal models find a row's end by what pads it
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            rows = [encoded[number] for number in batch]
            logits = compute_fitting(self._logits, rows, lambda row: f"one of {len(row['input_ids'])} tokens")
            for number, row, scores in zip(batch, rows, logits, strict=True):
                made[number] = Completion(
                    text="", finish_reason="stop", prompt_tokens=len(row["input_ids"]), scores=tuple(scores)
                )
        return [completion for completion in made if completion is not None]

    @property
    def _pad(self) -> int | None:
        """The token that pads, or None where the model knows none."""
        pad: int | None = getattr(self.model.config.get_text_config(), "pad_token_id", None)
        return pad

    def _encode(self, conversation: Sequence[Message]) -> Encoded:
        """Turn a conversation into tokens.

        Raises:
            ChatTemplateError: If the chat template can't render it.
            PromptTooLongError: If it is longer than the context.
        """
        plain_text = PlainText(self.tokenizer, self.template.name if self.template else "")
        if self.template is not None:
            text = self.template.conversation(conversation)
            made = self.tokenizer(text, add_special_tokens=False)
            if any(plain_text.is_marked(message["content"]) for message in conversation):
                tokens = plain_text.of_prompt(text, conversation, self.template.conversation)
                fill = {"input_ids": tokens, "attention_mask": [1] * len(tokens)}
                made = {name: fill.get(name, [0] * len(tokens)) for name in made}
        else:
            pair = "\n\n".join(message["content"] for message in conversation[:-1]), conversation[-1]["content"]
            made = self.tokenizer(*pair, split_special_tokens=any(map(plain_text.is_marked, pair)))
        count = len(made["input_ids"])
        if self.context is not None and count > self.context:
            raise PromptTooLongError(
                f"the conversation's {count} tokens are more than the model's context of {self.context}"
            )
        return dict(made)

    def _logits(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """Read rows, padded behind: the logits of each, (rows, labels)."""
        longest = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self._pad or 0}
        batch = {
            name: torch.tensor(
                [row[name] + [fill.get(name, 0)] * (longest - len(row[name])) for row in rows],
                device=self.model.device,
            )
            for name in rows[0]
        }
        with torch.inference_mode():
            logits: list[list[float]] = self.model(**batch).logits.float().tolist()
        return logits
