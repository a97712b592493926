"""Reward models: score the last answer of a conversation with a sequence-classification model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hfsynth.chat import ChatTemplate, PlainText, PromptTooLongError
from hfsynth.distributed import process_device
from hfsynth.errors import ChatTemplateError, GenerationError
from hfsynth.llm import Completion, Message, Need, Request
from hfsynth.llms.checkpoint import CheckpointLLM, loading_error

_UNLIMITED = 1_000_000  # a tokenizer without a limit has a number far above this
Encoded = dict[str, list[int]]
"""A tokenized conversation: `input_ids` and the other lists that the tokenizer returns."""


@dataclass(frozen=True)
class RewardModel(CheckpointLLM["Classifier"]):
    """Any sequence-classification model of transformers, as the llm of `Reward`. Loads on first use, once a process.

    A conversation is rendered by the tokenizer's chat template. Without a template, the model reads a pair of texts:
    the messages before the answer, and the answer.

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

    @property
    def parallel_requests(self) -> int:
        """The batch size."""
        return self.batch_size

    def lacks(self, need: Need) -> str:
        """Return why the model can't meet a need other than "reward"."""
        return "" if need == "reward" else f"{self.model_name} is a reward model; use TransformersLLM(...)"

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Score conversations whose last turn is the assistant's: the completions have `scores`, and no text.

        The completion of a conversation that is longer than the context has `finish_reason="refused"`.

        Raises:
            GenerationError: If a request asks for a text or for the scores of choices, the model can't be loaded, or a
                batch of one conversation runs out of memory.
        """
        for request in requests:
            last = request.messages[-1]["role"] if request.messages else ""
            if request.choices or (last, request.role) != ("assistant", "assistant"):
                wanted = f"the choices {request.choices}" if request.choices else f"the {request.role}'s next turn"
                raise GenerationError(
                    f"{self.model_name} is a reward model: it scores conversations that end with an answer, and "
                    f"writes nothing; a request asked for {wanted}. Use TransformersLLM(...) for that."
                )
        return self.loaded_model().score(requests, self.batch_size) if requests else []

    def _load(self) -> "Classifier":
        """Load the model and its tokenizer.

        Raises:
            GenerationError: If they can't be loaded, or the checkpoint lacks weights, such as those of the head, which
                transformers would then initialize at random.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, **self._source)
            model: Any
            model, report = AutoModelForSequenceClassification.from_pretrained(
                self.model, dtype=self.dtype, output_loading_info=True, **self._source
            )
        except (OSError, ValueError, ImportError) as error:
            raise loading_error(self.model, self.revision, error) from error
        if missing := sorted(report["missing_keys"]):
            raise GenerationError(
                f"{self.model!r} is no reward model: it has no weights for {missing}, so its scores would be random."
            )
        model.to(self.device or process_device())
        model.eval()
        limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
        context = min((limit for limit in limits if limit is not None and limit < _UNLIMITED), default=None)
        has_template = bool(tokenizer.chat_template)
        template = ChatTemplate.of_tokenizer(self.model_name, tokenizer, {}) if has_template else None
        return Classifier(model, tokenizer, template, context)


@dataclass
class Classifier:
    """A model in memory with its tokenizer."""

    model: Any
    tokenizer: Any
    template: ChatTemplate | None
    """None where the tokenizer has none."""
    context: int | None
    """Most tokens of a conversation; None where neither model nor tokenizer sets a limit."""

    def score(self, requests: Sequence[Request], batch_size: int) -> list[Completion]:
        """Score the conversations of requests in batches of similar lengths.

        Raises:
            GenerationError: If a batch of one conversation runs out of memory.
        """
        from hfsynth.engine.kv_cache import split_on_oom

        completions: dict[int, Completion] = {}
        encoded: dict[int, Encoded] = {}
        for number, request in enumerate(requests):
            try:
                encoded[number] = self._encode(request.messages, request.tools)
            except (ChatTemplateError, PromptTooLongError) as error:
                completions[number] = Completion(text="", finish_reason="refused", error=str(error))
        order = sorted(encoded, key=lambda number: -len(encoded[number]["input_ids"]))
        size = batch_size if self._pad is not None else 1  # causal models find the last token by the pad token
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            rows = [encoded[number] for number in batch]
            logits = split_on_oom(self._logits, rows, lambda row: f"one of {len(row['input_ids'])} tokens")
            for number, row, scores in zip(batch, rows, logits, strict=True):
                completions[number] = Completion(
                    text="", finish_reason="stop", prompt_tokens=len(row["input_ids"]), scores=tuple(scores)
                )
        return [completions[number] for number in range(len(requests))]

    @property
    def _pad(self) -> int | None:
        """The id of the pad token; None if the model's configuration has none."""
        pad: int | None = getattr(self.model.config.get_text_config(), "pad_token_id", None)
        return pad

    def _encode(self, conversation: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Encoded:
        """Return the tokens of a conversation in which the model may call these tools.

        Raises:
            ChatTemplateError: If the chat template can't render it.
            PromptTooLongError: If it is longer than the context.
        """
        plain_text = PlainText(self.tokenizer, self.template.name if self.template else "")
        if self.template is not None:
            template = self.template.with_tools(tools)
            text = template.conversation(conversation)
            encoded = self.tokenizer(text, add_special_tokens=False)
            plain_text.check_tools(tools)
            if plain_text.is_marked_in(conversation):
                tokens = plain_text.of_prompt(text, conversation, template.conversation)
                fill = {"input_ids": tokens, "attention_mask": [1] * len(tokens)}
                encoded = {name: fill.get(name, [0] * len(tokens)) for name in encoded}
        elif tools or any(message.get("tool_calls") for message in conversation):
            raise ChatTemplateError("the reward model has no chat template to render tools and their calls")
        else:
            pair = "\n\n".join(message["content"] for message in conversation[:-1]), conversation[-1]["content"]
            encoded = self.tokenizer(*pair, split_special_tokens=any(map(plain_text.is_marked, pair)))
        count = len(encoded["input_ids"])
        if self.context is not None and count > self.context:
            raise PromptTooLongError(
                f"the conversation's {count} tokens are more than the model's context of {self.context}"
            )
        return dict(encoded)

    def _logits(self, rows: Sequence[Encoded]) -> list[list[float]]:
        """Return the logits of right-padded rows: (rows, labels)."""
        import torch

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
