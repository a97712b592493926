"""Whether a model can be run by the decode loop, found by trying.

Many models ask their attention for more than reading a row's earlier tokens (states that are carried along, capped
scores, sinks). Rather than listing them, a short text is read both ways and the logits compared.
"""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from hfsynth.engine.attention import NAME, Prefill, Segment, Step, forward
from hfsynth.engine.kv_cache import KeyValueSlots

_TOKENS = 24  # length of the text that is read
_TOLERANCE = 0.05  # of the logits' size; bfloat16 differs by 0.01, a wrong attention by about 1
_LAYERS = {"full_attention", "sliding_attention"}
_ROTARY = ("dynamic", "longrope")  # rotations that depend on the longest row of a forward


def adopt_attention(model: Any) -> str:
    """Give a model our attention function, if it then computes the same as before.

    Returns:
        Why it doesn't, and has its own again; empty where it does.
    """
    text = model.config.get_text_config()
    rotary = (getattr(text, "rope_parameters", None) or {}).get("rope_type")
    if rotary in _ROTARY:
        return f"its rotary embedding is {rotary!r}, which depends on the longest row"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} has an attention that can't be replaced"
    if other := set(getattr(text, "layer_types", None) or ()) - _LAYERS:
        return f"{type(model).__name__} has layers of type {sorted(other)}"
    own = model.config._attn_implementation
    with torch.inference_mode():
        expected = _reference(model)
        model.set_attn_implementation(NAME)
        fault = _differs(model, expected)
    if fault:
        model.set_attn_implementation(own)
    return fault


def _text(model: Any, number: int = 0) -> Tensor:
    """Return tokens from all over the vocabulary, none of them special by design: (_TOKENS,). Numbers give others."""
    size = model.get_input_embeddings().num_embeddings
    text: Tensor = (torch.arange(1, _TOKENS + 1, device=model.device) * 7919 + number * 104729) % size
    return text


def _reference(model: Any) -> Tensor:
    logits: Tensor = model(input_ids=_text(model)[None], use_cache=False).logits[0]
    return logits[_TOKENS // 2 - 1 : -1]


def _differs(model: Any, expected: Tensor) -> str:
    slots = KeyValueSlots(2, 64, model.device)
    try:
        found = _written(model, slots)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        return f"{type(model).__name__} can't be run with another attention: {error}"
    if _has_window(model) and slots.reaches == {None}:  # the text of the trial is too short to show it
        return f"{type(model).__name__} keeps its window to itself"
    off = float((found.float() - expected.float()).norm() / expected.float().norm())
    if off < _TOLERANCE:
        return ""
    return f"{type(model).__name__} computes something else with another attention (off by {off:.0%})"


def _has_window(model: Any) -> bool:
    """Whether some layers attend only so far back, by the configuration."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    return bool(getattr(text, "sliding_window", None)) and (not kinds or "sliding_attention" in kinds)


def _written(model: Any, slots: KeyValueSlots) -> Tensor:
    """Read half of the text as a prompt and half token by token, in the last of some rows: the logits of that half."""
    rows, half = slots.count, _TOKENS // 2
    texts = [_text(model, rows - 1 - row).tolist() for row in range(rows)]
    lengths = [1 + (row * 5) % half for row in range(rows - 1)] + [half]
    segments = [Segment(row, 0, length) for row, length in enumerate(lengths)]
    prompts = [token for text, length in zip(texts, lengths, strict=True) for token in text[:length]]
    lasts = [end - 1 for end in accumulate(lengths)]
    logits = [forward(model, prompts, Prefill(slots, segments, model.device), lasts)[-1:]]
    for _ in range(half, _TOKENS - 1):
        tokens = [text[length] for text, length in zip(texts, lengths, strict=True)]
        logits.append(forward(model, tokens, Step(slots, lengths))[-1:])
        lengths = [length + 1 for length in lengths]
    return torch.cat(logits)
