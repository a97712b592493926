"""Attention over key/value slots, as a function that any transformers model can be given for its own.

A forward reads one flat list of tokens, (1, T), and everything in a model but attention treats each token by itself.
So tokens of many rows, at any positions, are computed together without padding; only attention knows whose they are:

    slots    keys and values of every layer, (slots, heads, capacity, width): a row's own are at its slot (`slots.py`)
    pass     which slots and positions the T tokens of a forward belong to (`passes.py`)
    attend   registered with transformers under two names: writes the tokens' keys and values, reads each row's own
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from hfsynth.llms import varlen
from hfsynth.llms.passes import Asked, Pass

NAME = "hfsynth"
"""Under which transformers knows attention by windows; that by `varlen.py` has a name of its own."""


class UnsupportedAttention(ValueError):
    """A model asks for more than attention over a row's earlier tokens."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the shape of an attention function
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Write a layer's new keys and values to their slots and attend to each row's own, as transformers calls it.

    Raises:
        UnsupportedAttention: If the model needs something else than this.
    """
    tokens: Pass | None = options.get("tokens")
    if tokens is None:
        raise UnsupportedAttention(f"{type(module).__name__} doesn't hand on what its attention function is given")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if options.get(name) is not None:
            raise UnsupportedAttention(f"{type(module).__name__} needs {name}")
    count = tokens.count
    keys, values = tokens.slots.layer(module.layer_idx, key, value)
    tokens.slots.reaches.add(options.get("sliding_window"))
    tokens.write(keys, key[:, :, :count])
    tokens.write(values, value[:, :, :count])
    asked = Asked(scaling, options.get("sliding_window"), varlen.is_used(module))
    read = tokens.attend(query[:, :, :count], keys, values, asked)
    missing = query.shape[2] - count
    return F.pad(read, (0, 0, 0, 0, 0, missing)) if missing else read, None


def forward(model: Any, tokens: Sequence[int], where: Pass, keep: Sequence[int] | int = 0) -> Tensor:
    """Read tokens with a model whose attention is `attend`.

    Args:
        model: A transformers causal language model.
        tokens: The tokens, T of them.
        where: Their slots and positions.
        keep: Places among the tokens after which logits are wanted; 0 for all. No tensor: where a model is on several
            devices, that would be moved to the first of them, and the logits may be on another.

    Returns:
        Logits, (kept, vocabulary).
    """
    ids, positions = torch.tensor([tokens], device=model.device), where.positions[None]
    # kernels for a single token or logit round otherwise than those for many, so there are never less than two
    if len(tokens) == 1:
        ids, positions = ids.expand(1, 2), positions.expand(1, 2)
    count = len(tokens) if isinstance(keep, int) else len(keep)
    if not isinstance(keep, int) and count == 1:
        keep = [*keep, *keep]
    output = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep, tokens=where)
    logits: Tensor = output.logits[0, :count]
    return logits


for name in (NAME, varlen.NAME):
    AttentionInterface.register(name, attend)
