"""Whether a model can be run by the decode loop, found by trying.

Many models ask their attention for more than reading a row's earlier tokens (states that are carried along, capped
scores, sinks). Rather than listing them, a short text is read both ways and the logits compared.
"""

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from hfsynth.llms import varlen
from hfsynth.llms.attention import NAME, forward
from hfsynth.llms.passes import Asked, Prefill, Segment, Step
from hfsynth.llms.slots import KeyValueSlots

_TOKENS = 24  # length of the text that is read
_TOLERANCE = 0.05  # of the logits' size; bfloat16 differs by 0.01, a wrong attention by about 1
_ROWS = (1, 7, 40)  # that are read together
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
        for name in (varlen.NAME, NAME) if varlen.can_read(model) else (NAME,):
            model.set_attn_implementation(name)
            if not (fault := _differs(model, expected)):
                return ""
    model.set_attn_implementation(own)
    return fault


def is_batch_invariant(model: Any) -> bool:
    """Whether a row's logits are the same, to the bit, alone and among others of other texts and lengths.

    Not claimed of another device than a CPU: kernels there are chosen by how many rows there are.
    Not claimed of a model with experts: how many tokens each is given with a row's depends on the texts of all rows,
    and no trial shows every number.
    """
    if model.device.type != "cpu" or _has_experts(model):
        return False
    with torch.inference_mode():
        alone, *among = (_written(model, KeyValueSlots(rows, 64, model.device)) for rows in _ROWS)
        return all(torch.equal(alone, other) for other in among) and _attends_invariantly(model)


def _has_experts(model: Any) -> bool:
    """Whether tokens choose which weights they meet: those of experts lie one behind the other, or say their name."""
    return any(parameter.dim() > 2 or "expert" in name for name, parameter in model.named_parameters())


@dataclass
class _Watched(Prefill):
    """A pass that notes what layers give their attention."""

    given: set[tuple[int, int, int]] = field(default_factory=set)
    """Query heads that share a key head, width of the keys, width of the values."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, asked: Asked) -> Tensor:
        self.given.add((query.shape[1] // keys.shape[1], keys.shape[-1], values.shape[-1]))
        return super().attend(query, keys, values, asked)


def _attends_invariantly(model: Any) -> bool:
    """Whether attention to a long row is the same alone, among rows of other lengths, and as a prompt is read."""
    watched = _Watched(KeyValueSlots(1, 64, model.device), [Segment(0, 0, 2)], model.device)
    forward(model, [0, 0], watched)
    return all(_is_invariant(model, *given) for given in watched.given)


def _is_invariant(model: Any, shared: int, width: int, value_width: int) -> bool:
    """Whether attention is, with this many query heads for each of two key heads, and heads of these widths."""
    draw = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(shape, generator=draw).to(model.device, model.dtype)
        for shape in ((1, 2 * shared, 40, width), (40, 2, 1024, width), (40, 2, 1024, value_width))
    )
    slots = KeyValueSlots(40, 1024, model.device)
    for count in range(1, 33):  # tokens of a prompt: kernels may read the last few of 32 rows in another way
        length = _LENGTHS[count % len(_LENGTHS)]
        lengths = [length, *range(20, 1000, 26)][:40]
        among = Step(slots, lengths).attend(query[:, :, : len(lengths)], keys, values, Asked())[:, 0]
        alone = Step(slots, lengths[:1]).attend(query[:, :, :1], keys, values, Asked())[:, 0]
        read = Prefill(slots, [Segment(0, length + 1 - count, length + 1)], model.device)
        prompt = read.attend(query[:, :, :count].flip(2), keys, values, Asked())[:, -1]
        if not torch.equal(among, alone) or not torch.equal(alone, prompt):
            return False
    return True


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
