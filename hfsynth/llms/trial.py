"""Whether a model can be run by the decode loop, found by trying.

Many models ask their attention for more than reading a row's earlier tokens (states that are carried along, capped
scores, sinks). Rather than listing them, a short text is read both ways and the logits compared.
"""

from typing import Any

import torch
from torch import Tensor

from hfsynth.llms.attention import NAME, KeyValueSlots, Prefill, Segment, Step, forward

_TOKENS = 24  # length of the text that is read
_TOLERANCE = 0.05  # of the logits' size; bfloat16 differs by 0.01, a wrong attention by about 1
_LENGTHS = (100, 290, 380, 440, 600, 950)  # of rows that are read alone and among others
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


def is_batch_invariant(model: Any) -> bool:
    """Whether a row's logits are the same, to the bit, alone and among many others of other lengths."""
    with torch.inference_mode():
        alone, among = (_written(model, KeyValueSlots(rows, 64, model.device)) for rows in (1, 40))
        return torch.equal(alone, among) and _attends_invariantly(model)


def _attends_invariantly(model: Any) -> bool:
    """Whether attention to a long row is the same alone, among rows of other lengths, and as a prompt is read."""
    draw = torch.Generator().manual_seed(0)
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys, values = torch.randn(2, 40, 2, 1024, width, generator=draw).to(model.device, model.dtype)
    query = torch.randn(1, 6, 40, width, generator=draw).to(model.device, model.dtype)
    slots = KeyValueSlots(40, 1024, model.device)
    for length in _LENGTHS:
        lengths = [length, *range(20, 1000, 26)][:40]
        among = Step(slots, lengths).attend(query[:, :, : len(lengths)], keys, values, None, None)[:, 0]
        alone = Step(slots, lengths[:1]).attend(query[:, :, :1], keys, values, None, None)[:, 0]
        read = Prefill(slots, [Segment(0, length, length + 20)], model.device)
        prompt = read.attend(query[:, :, :20], keys, values, None, None)[:, 0]
        if not torch.equal(among, alone) or not torch.equal(alone, prompt):
            return False
    return True


def _text(model: Any) -> Tensor:
    """Return tokens from all over the vocabulary, none of them special by design: (_TOKENS,)."""
    size = model.get_input_embeddings().num_embeddings
    text: Tensor = (torch.arange(1, _TOKENS + 1, device=model.device) * 7919) % size
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
    rows, text, half = slots.count, _text(model).tolist(), _TOKENS // 2
    lengths = [1 + (row * 5) % half for row in range(rows - 1)] + [half]
    segments = [Segment(row, 0, length) for row, length in enumerate(lengths)]
    logits = [forward(model, [t for n in lengths for t in text[:n]], Prefill(slots, segments, model.device))[-1:]]
    for place in range(half, _TOKENS - 1):
        at = [length + place - half for length in lengths]
        logits.append(forward(model, [text[place]] * rows, Step(slots, at))[-1:])
    return torch.cat(logits)
