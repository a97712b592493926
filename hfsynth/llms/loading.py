"""What every model in this process is loaded with: its device, and its tokenizer's chat template."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate import PartialState

from hfsynth.chat import ChatTemplate
from hfsynth.errors import GenerationError

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


def loading_error(name: str, revision: str | None, error: Exception) -> GenerationError:
    """Return the error for a model that can't be loaded.

    Args:
        name: The model, as the user named it.
        revision: Branch, tag or commit on the Hub.
        error: What transformers raised.
    """
    if "trust_remote_code" in str(error):
        return GenerationError(
            f"{name!r} can't be loaded: it brings Python code of its own, which would be run in this process. "
            "Read the code; where you trust it, set trust_remote_code=True on the llm (and pin its revision)."
        )
    return GenerationError(f"{name!r} (revision {revision}) can't be loaded: {error}")
