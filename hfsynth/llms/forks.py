"""What a forked process must know of its parent, as of `Dataset.map(…, num_proc=2)` on Linux.

The threads that torch computes with don't survive a fork, and a child that hands them work waits for ever. A GPU that
the parent used can't be used by the child at all.
"""

import logging
import os
import sys
from dataclasses import dataclass

from hfsynth.errors import GenerationError

logger = logging.getLogger(__name__)


@dataclass
class _BeforeFork:
    """What a process was like when it last forked; a child inherits it."""

    process: int = 0
    has_torch: bool = False
    has_gpu: bool = False

    def note(self) -> None:
        """Note it of this process, which is about to fork."""
        cuda = sys.modules.get("torch.cuda")
        self.process = os.getpid()
        self.has_torch = "torch" in sys.modules
        self.has_gpu = bool(getattr(cuda, "is_initialized", bool)())


_BEFORE_FORK = _BeforeFork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_BEFORE_FORK.note)


def prepare_child() -> None:
    """See that torch can compute in this process, if it was forked: with one thread. Costs nothing in any other.

    Raises:
        GenerationError: If the parent had used a GPU.
    """
    if _BEFORE_FORK.process in (0, os.getpid()) or not _BEFORE_FORK.has_torch:
        return
    if _BEFORE_FORK.has_gpu:
        raise GenerationError(
            "this process was forked, as Dataset.map(..., num_proc=...) does, after its parent had used the GPU, "
            "which it can't share. Use map without num_proc, or pipeline.run under `accelerate launch`."
        )
    import torch

    torch.set_num_threads(1)
    logger.warning(
        "process %d was forked after torch had been loaded, and computes with 1 thread; for more, let no llm load "
        "before Dataset.map(..., num_proc=...)",
        os.getpid(),
    )
    _BEFORE_FORK.process = os.getpid()
