"""A sequence-classification model in memory with its tokenizer: conversations → tokens → logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hfsynth.chat import ChatTemplate
from hfsynth.errors import ChatTemplateError, GenerationError
from hfsynth.generation import Completion, Message
from hfsynth.llms.job import PromptTooLongError
from hfsynth.llms.loading import chat_template, loading_error, process_device
from hfsynth.llms.memory import compute_fitting
from hfsynth.llms.plain_text import PlainText

if TYPE_CHECKING:
    from hfsynth.llms.reward import RewardModel

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
