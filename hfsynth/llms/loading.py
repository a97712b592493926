"""What every model in this process is loaded with: its device, and its tokenizer's chat template."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate import PartialState

from hfsynth.chat import ChatTemplate

_THINKING_ON = dict.fromkeys(("enable_thinking", "thinking", "preserve_thinking", "keep_thinking"), True)
"""Variables by which chat templates show thoughts; a template reads those that it has."""


def process_device() -> torch.device:
    """Return the device of this process; on CPU accelerate must be told so, or each process thinks it is alone."""
    device: torch.device = PartialState(cpu=not torch.accelerator.is_available()).device
    return device


def chat_template(name: str, tokenizer: Any, variables: Mapping[str, Any]) -> ChatTemplate:
    """Return a tokenizer's chat template.

    Args:
        name: The model, for error messages.
        tokenizer: It has a chat template.
        variables: What the template is given besides the messages.
    """
    return ChatTemplate(
        name,
        partial(_render, tokenizer, dict(variables)),
        tokenizer.bos_token or "",
        partial(_render, tokenizer, {**_THINKING_ON, **variables}),
    )


def _render(tokenizer: Any, variables: dict[str, Any], messages: list[dict[str, Any]], generation_prompt: bool) -> str:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation_prompt, **variables
    )
    return str(text)
