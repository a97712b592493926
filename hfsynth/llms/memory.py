"""How much memory a device has left, and giving back what isn't needed."""

import gc
from typing import Any

import psutil
import torch


def available_memory(device: torch.device) -> int:
    """Return what is free on a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def cache_bytes_per_token(model: Any) -> int:
    """Return what the keys and values of one token take in all layers of a model, in bytes."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def free_memory() -> None:
    """Give back what tensors that are gone have left behind."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
