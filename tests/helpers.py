"""Shared by tests: an llm that repeats its replies in each call, a stateful filter, a driver of one flow."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from tqdm import tqdm

from hfsynth.config import Configuration
from hfsynth.filter import Drop, Filter
from hfsynth.flow import Flow, Row
from hfsynth.llm import LLM, Completion, Origin, Request

LONG_TEXTS = {
    "brackets": "[" * 5000,
    "closed brackets": "[" * 900 + "]" * 900,
    "objects": '{"a":' * 5000,
    "spaces": " " * 20000 + "x",
    "tags": "<query>" * 3000,
    "digits": "1" * 10000,
    "stars": "*" * 10000,
    "words": "word " * 6000 + ":",
}
"""Texts over which an expression that tries every place twice takes minutes, or recursion goes too deep."""


def fork() -> int:
    """Fork as `os.fork` does; the child has no progress bars, and a lock of its own for them.

    All children share the default lock, so that a child which is killed while it has it would stop the others.
    """
    child = os.fork()
    if not child:
        tqdm.set_lock(threading.RLock())
        disable_progress_bars()
    return child


def kill_at_random(
    start: Callable[[int], int], chance: random.Random, kills: int, processes: int, seconds: tuple[float, float]
) -> int:
    """Start children and kill them at random moments; the last ones are left to finish.

    Args:
        start: Takes the number of a child among those at once, and returns its process id.
        chance: Chooses the moments, and the number of children at once.
        kills: How many to kill at least.
        processes: Most children at once.
        seconds: Shortest and longest time until they are killed.

    Returns:
        The number of killed children; fewer than `kills` if most children finished before.
    """
    killed = 0
    for _ in range(200):
        children = [start(number) for number in range(chance.randint(1, processes))]
        time.sleep(chance.uniform(*seconds))
        victims = children if killed < kills else []
        for child in victims:
            os.kill(child, signal.SIGKILL)
        killed += sum(os.WIFSIGNALED(os.waitpid(child, 0)[1]) for child in children)
        if killed >= kills and not victims:
            break
    return killed


@dataclass(frozen=True)
class RepeatingLLM(Configuration, LLM):
    """Answers each call with `replies` in turn, so it can answer any number of rows and of processes.

    A reply "!reason" is a completion that failed. Each request is appended to the file `log`, if there is one. Of the
    choices of a request, the reply gets the best score. Where a test knows every request, use `hfsynth.ScriptedLLM`.
    """

    replies: tuple[str, ...] = ("ok",)
    log: str | None = None
    finish_reason: str = "stop"
    scores: bool = True

    @property
    def model_name(self) -> str:
        return "scripted"

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        if self.log:
            with Path(self.log).open("a") as file:
                file.writelines(f"{request.seed} {request.messages[-1]['content']!r}\n" for request in requests)
        replies = [self.replies[index % len(self.replies)] for index, _ in enumerate(requests)]
        return [self._reply(text, request.choices) for text, request in zip(replies, requests, strict=True)]

    def load(self) -> None:
        pass

    def unload(self) -> None:
        pass

    def _reply(self, text: str, choices: Sequence[str] = ()) -> Completion:
        if self.scores and choices:
            scores = tuple(0.0 if choice == text else -1.0 for choice in choices)
            best = choices[scores.index(max(scores))]
            return Completion(text=best, finish_reason="stop", scores=scores, scored_tokens=(1,) * len(choices))
        if text.startswith("!"):
            return Completion(text="", finish_reason="refused", error=text[1:])
        return Completion(text=text, finish_reason=self.finish_reason, prompt_tokens=3, completion_tokens=2)


@dataclass(frozen=True)
class NamedLLM(RepeatingLLM):
    """A repeating llm with the name, license and languages of another model."""

    model: str = ""
    license: str = ""
    languages: tuple[str, ...] = ()

    @property
    def model_name(self) -> str:
        return self.model

    def origin(self) -> Origin:
        return Origin(license=self.license, languages=self.languages)


@dataclass(frozen=True, kw_only=True)
class OnlyOnce(Filter):
    """Drops a text that was there before."""

    stateful = True

    def decide(self, values: Iterable[Any], kept: Iterable[Any]) -> Iterator[Drop | None]:
        previous = set(kept)
        for value in values:
            yield Drop("repeated", "1", value) if value in previous else None
            previous.add(value)


def say(text: str, finish_reason: str = "stop", thinking: str | None = None) -> Completion:
    return Completion(text=text, finish_reason=finish_reason, thinking=thinking)


def drive(flow: Flow, *completions: Completion) -> tuple[list[Request], list[Row]]:
    """Run a flow on literal completions; return its requests and its rows."""
    requests = []
    try:
        requests.append(next(flow))
        for completion in completions:
            requests.append(flow.send(completion))
    except StopIteration as end:
        return requests, end.value if isinstance(end.value, list) else [end.value]
    raise AssertionError(f"the flow still waits for {requests[-1]}")


def new_failures(rows: Iterable[Row], place: int) -> Counter[str]:
    """Return for each reason the number of rows on which the step at a place failed, and none before it."""
    found = {}
    for row in rows:
        *before, entry = row["generation_metadata"][: place + 1]
        if entry["error"] and not any(one["error"] for one in before):
            found[entry["row"]] = entry["error"]
    return Counter(found.values())
