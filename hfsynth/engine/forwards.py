"""Forwards of a model over KV-cache slots, and the trial that decides which of them compute what the model does.

Many models do more in their attention than attend to earlier tokens: they carry states, cap scores or use sinks.
`install_attention` therefore lets a model read a short text by its own attention and by ours, and compares logits.
"""

import logging
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from hfsynth.engine.attention import BUCKETS, DecodeBatch, PrefillBatch, Segment, forward
from hfsynth.engine.cuda import VARLEN, CudaForwards, has_varlen_kernel
from hfsynth.engine.kv_cache import KeyValueSlots

logger = logging.getLogger(__name__)
# tokens of the trial text, and of its part that is read as a prompt; every other token is a forward of its own
_TOKENS, _PROMPT = 24, 20
_TOLERANCE = 0.05  # relative to the logits' norm; bfloat16 differs by 0.01, a wrong attention by about 1
_LAYERS = {"full_attention", "sliding_attention"}
_ROTARY = ("dynamic", "longrope")  # rotations that depend on the longest row of a forward


class Forwards(Protocol):
    """Runs a model on tokens of sequences that have slots."""

    has_buckets: bool
    """Whether sequences that decode must be in the first slots, and those of near lengths should be neighbours."""

    def prefill(self, tokens: Sequence[int], segments: Sequence[Segment], keep: Sequence[int]) -> Tensor:
        """Read pieces of prompts.

        Args:
            tokens: Their tokens, one piece after the other.
            segments: The pieces.
            keep: Indices of the tokens after which logits are wanted.

        Returns:
            Logits, (kept, vocabulary).
        """

    def decode(self, tokens: Sequence[int], slots: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Read one more token of each of some sequences.

        Args:
            tokens: The token of each, N of them.
            slots: The slot of each.
            lengths: Number of tokens that each has there already.

        Returns:
            Logits, (N, vocabulary), which the next forward may overwrite.
        """


class BucketForwards:
    """Forwards on any device, by PyTorch's attention on buckets of sequences of near lengths."""

    has_buckets = True

    def __init__(self, model: Any, slots: KeyValueSlots) -> None:
        self._model, self._slots = model, slots

    def prefill(self, tokens: Sequence[int], segments: Sequence[Segment], keep: Sequence[int]) -> Tensor:
        """See Forwards.prefill."""
        return forward(self._model, tokens, PrefillBatch(self._slots, segments, self._model.device), keep)

    def decode(self, tokens: Sequence[int], slots: Sequence[int], lengths: Sequence[int]) -> Tensor:  # noqa: ARG002 - the first ones
        """See Forwards.decode."""
        return forward(self._model, tokens, DecodeBatch(self._slots, lengths))


def forwards_of(model: Any, slots: KeyValueSlots) -> Forwards:
    """Return the forwards of a model whose attention `install_attention` replaced."""
    return CudaForwards(model, slots) if attention_of(model) == VARLEN else BucketForwards(model, slots)


def install_attention(model: Any) -> str:
    """Replace a model's attention function by the first of ours with which it computes the same as before.

    Returns:
        The reason why not, where the model keeps its own attention; empty where it was replaced.
    """
    text = model.config.get_text_config()
    rotary = (getattr(text, "rope_parameters", None) or {}).get("rope_type")
    if rotary in _ROTARY:
        return f"its rotary embedding is {rotary!r}, which depends on the longest row"
    if not has_attention_backend(model):
        return f"{type(model).__name__} has an attention that can't be replaced"
    if other := set(getattr(text, "layer_types", None) or ()) - _LAYERS:
        return f"{type(model).__name__} has layers of type {sorted(other)}"
    own, fault = attention_of(model), ""
    with torch.inference_mode():
        expected = _reference_logits(model)
        for name in (VARLEN, BUCKETS) if has_varlen_kernel(model) else (BUCKETS,):
            model.set_attn_implementation(name)
            if not (fault := _difference(model, expected)):
                return ""
            if name == VARLEN:
                logger.warning("FlashAttention isn't used, which is slower: %s", fault)
    model.set_attn_implementation(own)
    return fault


def has_attention_backend(model: Any) -> bool:
    """Whether a model's attention can be replaced. transformers' name of that is private."""
    return bool(getattr(model, "_supports_attention_backend", False))


def attention_of(model: Any) -> str:
    """Return the name of a model's attention function. transformers' name of that is private."""
    name: str = model.config._attn_implementation
    return name


def _trial_text(model: Any, number: int = 0) -> Tensor:
    """Return tokens from all over the vocabulary, (_TOKENS,); other numbers give other texts."""
    size = model.get_input_embeddings().num_embeddings
    text: Tensor = (torch.arange(1, _TOKENS + 1, device=model.device) * 7919 + number * 104729) % size
    return text


def _reference_logits(model: Any) -> Tensor:
    """Return the logits of the model's own attention from the end of the prompt on: of _TOKENS - _PROMPT tokens."""
    logits: Tensor = model(input_ids=_trial_text(model)[None], use_cache=False).logits[0]
    return logits[_PROMPT - 1 : -1]


def _difference(model: Any, expected: Tensor) -> str:
    """Return how a model with our attention differs from the expected logits; empty where it doesn't."""
    slots = KeyValueSlots(2, 64, model.device)
    try:
        logits = _decoded_logits(model, slots)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        return f"{type(model).__name__} can't be run with another attention: {error}"
    if _has_sliding_window(model) and slots.sliding_windows == {None}:  # the trial text is shorter than the window
        return f"{type(model).__name__} doesn't pass its sliding window to its attention function"
    off = float((logits.float() - expected.float()).norm() / expected.float().norm())
    if off < _TOLERANCE:
        return ""
    return f"{type(model).__name__} computes something else with another attention (off by {off:.0%})"


def _has_sliding_window(model: Any) -> bool:
    """Whether some layers have a sliding window, by the configuration."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    return bool(getattr(text, "sliding_window", None)) and (not kinds or "sliding_attention" in kinds)


def _decoded_logits(model: Any, slots: KeyValueSlots) -> Tensor:
    """Return the same logits by our attention: the text is read in the last slot, after its prompt token by token."""
    count = slots.count
    texts = [_trial_text(model, count - 1 - slot).tolist() for slot in range(count)]
    lengths = [1 + (slot * 5) % _PROMPT for slot in range(count - 1)] + [_PROMPT]
    segments = [Segment(slot, 0, length) for slot, length in enumerate(lengths)]
    prompts = [token for text, length in zip(texts, lengths, strict=True) for token in text[:length]]
    lasts = [end - 1 for end in accumulate(lengths)]
    forwards = forwards_of(model, slots)
    logits = [forwards.prefill(prompts, segments, lasts)[-1:]]
    for _ in range(_PROMPT, _TOKENS - 1):
        tokens = [text[length] for text, length in zip(texts, lengths, strict=True)]
        logits.append(forwards.decode(tokens, range(count), lengths)[-1:].clone())
        lengths = [length + 1 for length in lengths]
    return torch.cat(logits)
