"""Whether a model can be run by the decode loop, found by a short trial.

Many models do more in their attention than attend to earlier tokens: they carry states, cap scores or use sinks. A
short text is therefore read by the model's own attention and by the decode loop's, and the logits are compared.
"""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from hfsynth.engine.attention import NAME, DecodeBatch, PrefillBatch, Segment, forward
from hfsynth.engine.kv_cache import KeyValueSlots

_TOKENS = 24  # length of the text that is read
_TOLERANCE = 0.05  # relative to the logits' norm; bfloat16 differs by 0.01, a wrong attention by about 1
_LAYERS = {"full_attention", "sliding_attention"}
_ROTARY = ("dynamic", "longrope")  # rotations that depend on the longest row of a forward


def install_attention(model: Any) -> str:
    """Replace a model's attention function by ours, if the model then computes the same as before.

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
    own = attention_of(model)
    with torch.inference_mode():
        expected = _reference_logits(model)
        model.set_attn_implementation(NAME)
        fault = _difference(model, expected)
    if fault:
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
    """Return the logits of the trial text's second half by the model's own attention."""
    logits: Tensor = model(input_ids=_trial_text(model)[None], use_cache=False).logits[0]
    return logits[_TOKENS // 2 - 1 : -1]


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
    """Read half of the trial text as a prompt and half token by token, in the last slot: the logits of that half."""
    count, half = slots.count, _TOKENS // 2
    texts = [_trial_text(model, count - 1 - slot).tolist() for slot in range(count)]
    lengths = [1 + (slot * 5) % half for slot in range(count - 1)] + [half]
    segments = [Segment(slot, 0, length) for slot, length in enumerate(lengths)]
    prompts = [token for text, length in zip(texts, lengths, strict=True) for token in text[:length]]
    lasts = [end - 1 for end in accumulate(lengths)]
    logits = [forward(model, prompts, PrefillBatch(slots, segments, model.device), lasts)[-1:]]
    for _ in range(half, _TOKENS - 1):
        tokens = [text[length] for text, length in zip(texts, lengths, strict=True)]
        logits.append(forward(model, tokens, DecodeBatch(slots, lengths))[-1:])
        lengths = [length + 1 for length in lengths]
    return torch.cat(logits)
