"""A row's flow: a generator that yields requests and receives completions, and what runs many of them at once.

    def flow(self, row, rng):
        completion = yield Request(messages=...)
        return {"generation": completion.text}

A flow does no I/O and knows no batch, device or chat template, so it is tested with `next` and `send` alone.
"""

import hashlib
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from hfsynth.errors import GenerationError, RowError
from hfsynth.generation import LLM, Completion, Request, Requests
from hfsynth.watchdog import PATIENCE, Watchdog

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


class Flows:
    """Flows under way, of one batch of rows or of several, that keep an llm supplied.

    Args:
        llm: What completes their requests.
        more: Called when the llm has room and no request waits; it may start another batch.
        patience: Seconds without a completion before the log says so.
    """

    def __init__(self, llm: LLM, more: Callable[[], None] | None = None, patience: float = PATIENCE) -> None:
        self._llm = llm
        self._patience = patience
        self._requests = Requests(more)
        self._stream: Iterator[tuple[Hashable, Completion]] = iter(())

    def start(self, flows: Sequence[Flow], seeds: Sequence["RowSeeds"]) -> list["Running"]:
        """Start a batch of flows, one a row, up to their first requests."""
        batch = [Running(flow, row) for flow, row in zip(flows, seeds, strict=True)]
        for run in batch:
            self._ask(run, run.start(), first=False)
        return batch

    def finish(self, batch: Sequence["Running"]) -> list[Outcome]:
        """Run a batch to its end; others go on as far as they come meanwhile.

        Raises:
            GenerationError: If the llm can't go on, or stops before it has completed every request.
        """
        if not (waiting := [run for run in batch if not run.finished]):
            return [run.outcome for run in batch]
        step, model = waiting[0].step, self._llm.model_name
        with Watchdog(step, model, lambda: sum(not run.finished for run in batch), self._patience) as watchdog:
            self._complete(batch, watchdog)
        return [run.outcome for run in batch]

    def _complete(self, batch: Sequence["Running"], watchdog: Watchdog) -> None:
        """Run a batch to its end."""
        while not all(run.finished for run in batch):
            answered = next(self._stream, None)
            watchdog.note_completion()
            if answered is None:
                if not self._requests:
                    raise GenerationError(f"{self._llm.model_name} stopped before it had completed every request.")
                self._stream = self._llm.stream(self._requests)
                continue
            run, completion = answered
            if not isinstance(run, Running):
                raise GenerationError(f"{self._llm.model_name} completed {run!r}, which nobody asked for.")
            self._ask(run, run.resume(completion), first=True)  # a row that is under way before one that is not

    def close(self) -> None:
        """Give up whatever is under way."""
        if isinstance(self._stream, Generator):
            self._stream.close()

    def _ask(self, run: "Running", request: Request | None, first: bool) -> None:
        if request is not None:
            self._requests.put(run, request, first)


def run_flows(flows: Sequence[Flow], llm: LLM, seeds: Sequence["RowSeeds"]) -> list[Outcome]:
    """Run a batch of flows to their end, giving the llm every waiting request at once.

    Args:
        flows: One flow a row, not started.
        llm: What completes their requests.
        seeds: One a row.

    Raises:
        GenerationError: If the llm can't go on, or gives back another number of completions than it was asked for.
    """
    with closing(Flows(llm)) as running:
        return running.finish(running.start(flows, seeds))


@dataclass(frozen=True)
class RowSeeds:
    """Where the random numbers of one row come from: the seed field, the step's name and the row's index."""

    seed: int
    step: str
    row: int

    def turn(self, turn: int) -> int:
        """Return the seed of the row's request number `turn`; -1 is for the row's own draws."""
        return derive_seed(self.seed, self.step, self.row, turn)


class Running:
    """One flow under way, and its outcome so far."""

    def __init__(self, flow: Flow, seeds: RowSeeds) -> None:
        self.finished = False
        self.outcome = Outcome()
        self._flow = flow
        self._seeds = seeds
        self._turn = 0
        self._choices = 0

    @property
    def step(self) -> str:
        """Name of the step that the row is in."""
        return self._seeds.step

    def start(self) -> Request | None:
        """Return the flow's first request, or None if it needs none."""
        return self._advance(None)

    def resume(self, completion: Completion) -> Request | None:
        """Give the flow its completion; return its next request, or None if that was its last.

        Raises:
            GenerationError: If its request had choices, and the llm did not score them.
        """
        if self._choices and not completion.error and len(completion.scores) != self._choices:
            raise GenerationError(
                f"{self._choices} choices were to be scored, and {len(completion.scores)} scores came; use an llm "
                "that scores choices, such as TransformersLLM(...)."
            )
        self.outcome.finish_reason = completion.finish_reason
        self.outcome.prompt_tokens += completion.prompt_tokens
        self.outcome.completion_tokens += completion.completion_tokens
        return self._advance(completion)

    def _advance(self, completion: Completion | None) -> Request | None:
        """Take the flow to its next request, its end or its failure."""
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
            self.finished, self.outcome.error, self.outcome.raw = True, error.reason, error.raw
        else:
            self._turn += 1
            self._choices = len(request.choices)
            return replace(request, seed=self._seeds.turn(self._turn - 1))
        return None

    def _finish(self, result: Row | list[Row]) -> None:
        self.finished = True
        self.outcome.rows = [result] if isinstance(result, dict) else list(result)
        if not self.outcome.rows:
            self.outcome.error = "the row became no rows"
