"""A row's flow: a generator that yields requests and receives completions, and what runs many of them at once.

    def flow(self, row, rng):
        completion = yield Request(messages=...)
        return {"generation": completion.text}

A flow does no I/O and knows no batch, device or chat template, so it is tested with `next` and `send` alone.
"""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hfsynth.errors import GenerationError, RowError
from hfsynth.generation import LLM, Completion, Request

Row = dict[str, Any]
Flow = Generator[Request, Completion, Row | list[Row]]


def derive_seed(seed: int, step: str, row: int, turn: int) -> int:
    """Return the seed of one request, or of a row's own draws (turn -1): 63 bits, from nothing but these four.

    >>> derive_seed(0, "Magpie", 7, 1) == derive_seed(0, "Magpie", 7, 1) != derive_seed(0, "Magpie", 8, 1)
    True
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{row}/{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass
class Outcome:
    """What became of one row."""

    rows: list[Row] = field(default_factory=list)
    """Rows that the flow returned; empty where it failed."""
    error: str = ""
    """Why it failed; empty where it didn't."""
    raw: str = ""
    """The completion that could not be used, where that is why."""
    finish_reason: str = ""
    """How the last completion ended; empty where there was none."""
    prompt_tokens: int = 0
    """Tokens read, over all of the row's requests."""
    completion_tokens: int = 0
    """Tokens written, over all of the row's requests."""


def run_flows(flows: Sequence[Flow], llm: LLM, seeds: Sequence["RowSeeds"]) -> list[Outcome]:
    """Run all flows to their end, giving the llm every waiting request at once.

    Args:
        flows: One flow a row, not started.
        llm: What completes their requests.
        seeds: One a row.

    Raises:
        GenerationError: If the llm can't go on, or gives back another number of completions than it was asked for.
    """
    running = [_Running(flow, row) for flow, row in zip(flows, seeds, strict=True)]
    for run in running:
        run.start()
    while waiting := [(run, run.request) for run in running if run.request is not None]:
        completions = llm.complete([request for _, request in waiting])
        if len(completions) != len(waiting):
            raise GenerationError(f"{llm.model_name} gave {len(completions)} completions for {len(waiting)} requests.")
        for (run, _), completion in zip(waiting, completions, strict=True):
            run.resume(completion)
    return [run.outcome for run in running]


@dataclass(frozen=True)
class RowSeeds:
    """Where the random numbers of one row come from: the seed field, the step's name and the row's index."""

    seed: int
    step: str
    row: int

    def turn(self, turn: int) -> int:
        """Return the seed of the row's request number `turn`; -1 is for the row's own draws."""
        return derive_seed(self.seed, self.step, self.row, turn)


class _Running:
    """One flow under way: its next request, if it waits for one, and its outcome so far."""

    def __init__(self, flow: Flow, seeds: RowSeeds) -> None:
        self.request: Request | None = None
        self.outcome = Outcome()
        self._flow = flow
        self._seeds = seeds
        self._turn = 0

    def start(self) -> None:
        self._advance(None)

    def resume(self, completion: Completion) -> None:
        self.outcome.finish_reason = completion.finish_reason
        self.outcome.prompt_tokens += completion.prompt_tokens
        self.outcome.completion_tokens += completion.completion_tokens
        self._advance(completion)

    def _advance(self, completion: Completion | None) -> None:
        """Take the flow to its next request, its end or its failure."""
        self.request = None
        try:
            if completion is None:
                request = next(self._flow)
            elif completion.error:
                request = self._flow.throw(RowError(completion.error, completion.text))
            else:
                request = self._flow.send(completion)
        except StopIteration as end:
            self._finish(end.value)
        except RowError as error:
            self.outcome.error, self.outcome.raw = error.reason, error.raw
        else:
            self.request = replace(request, seed=self._seeds.turn(self._turn))
            self._turn += 1

    def _finish(self, result: Row | list[Row]) -> None:
        self.outcome.rows = [result] if isinstance(result, dict) else list(result)
        if not self.outcome.rows:
            self.outcome.error = "the row became no rows"
