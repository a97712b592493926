"""An llm that does something to its process, for the processes that tests launch. Importable, so hashed by its name.

The environment says what, on which process and before which row's chunk ("any" for either): ACTION="kill 1 8" kills
process 1 (SIGKILL) when it takes row 8. "kill", "term" (SIGTERM to the launcher) and "raise" happen once in a folder,
"always" raises every time, and "slow" makes the process four times slower.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from hfsynth import EchoLLM
from hfsynth.llm import Completion, Request


def folder() -> Path:
    return Path(os.environ["ACTING_FOLDER"])


def note(file: str, text: str) -> None:
    with (folder() / file).open("a") as log:
        log.write(text)


@dataclass(frozen=True)
class NotedLLM(EchoLLM):
    """An echo that notes when it is used and unloaded, and that differs from another by its number."""

    number: int = 0

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        note("memory", f"{self.number} ")
        return super().complete(requests)

    def unload(self) -> None:
        note("memory", f"-{self.number} ")


@dataclass(frozen=True)
class ActingLLM(EchoLLM):
    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        own_rank = os.environ.get("RANK", "0")
        action, rank, row = os.environ.get("ACTION", "none any any").split()
        texts = [request.messages[-1]["content"] for request in requests]
        if rank in (own_rank, "any") and (row == "any" or f"say {row}" in texts):
            self._act(action, len(requests))
        completions = super().complete(requests)
        note("log", "".join(f"{own_rank} {text}\n" for text in texts))
        return completions

    def _act(self, action: str, requests: int) -> None:
        if action == "slow":
            time.sleep(3 * self.seconds_per_request * requests)
        elif action == "always":
            raise LookupError("no answer")
        elif action != "none" and not (folder() / "acted").exists():
            note("acted", os.environ.get("RANK", "0"))
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "term":
                os.kill(os.getppid(), signal.SIGTERM)
                time.sleep(60)
            raise LookupError("no answer")


def without_first(dataset: Dataset) -> Dataset:
    note("functions", os.environ.get("RANK", "0"))
    return dataset.select(range(1, len(dataset)))
