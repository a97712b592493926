"""How much memory a device has left, and giving back what isn't needed."""

import gc

import psutil
import torch


def available_memory(device: torch.device) -> int:
    """Return what is free on a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def free_memory() -> None:
    """Give back what tensors that are gone have left behind."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
