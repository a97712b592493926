"""A row's flow: a generator that yields requests and receives completions; the seeds of its requests; `FlowDriver`.

    def flow(self, row, rng):
        completion = yield Request(messages=...)
        return {"generation": completion.text}

A flow does no I/O and knows no batch, device or chat template, so it is tested with `next` and `send` alone.
`derive_seed` makes each request's seed from the row's index and the turn. A `FlowDriver` runs many flows at once;
a `Watchdog` warns while the llm completes nothing.
"""

import hashlib
import logging
import random
import threading
import time
import traceback
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, NamedTuple, get_args

from hfsynth.errors import (
    ChatTemplateError,
    ColumnError,
    FlowError,
    GenerationError,
    RowError,
    RunError,
    ServerError,
    TruncatedError,
)
from hfsynth.llm import LLM, MESSAGE_ROLES, Completion, Request, Requests, Role, SamplingParams
from hfsynth.secrets import redact

logger = logging.getLogger(__name__)
Row = dict[str, Any]
Flow = Generator[Request, Completion, Row | list[Row]]
PATIENCE = 300.0
"""Seconds without a completion before the first warning."""
_MAX_RAISED = 8  # the row at which an exception is raised, if no row of the technique was completed
_FATAL = (ColumnError, FlowError, RunError, ServerError, NameError, ImportError)  # raised for every row alike
_FATAL_IN_FLOW = (ColumnError, FlowError, GenerationError, RunError)
_ROLES = get_args(Role)
_MAPPINGS = (dict, Mapping)  # a test for a dict is much faster than one for a Mapping
_YIELD = "yield Request(messages=({'role': 'user', 'content': …},))"
_MISTAKES_ALWAYS = (NameError, ImportError)
_MISTAKES = (AttributeError, KeyError, NotImplementedError, TypeError)  # bugs of the flow, not faults of a row


def derive_seed(seed: int, step: str, row: int, turn: int, content: str = "") -> int:
    """Return the seed of one request, or of the row's own random numbers (turn -1): a 63-bit hash of the arguments.

    >>> derive_seed(0, "Magpie", 7, 1) == derive_seed(0, "Magpie", 7, 1) != derive_seed(0, "Magpie", 8, 1)
    True
    """
    text = f"{seed}/{step}/{row}/{turn}" + (f"/{content}" if content else "")
    digest = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def split_seed(seed: int, split: str) -> int:
    """Return a step's seed for one split of a `DatasetDict`: a 63-bit hash of the step's `seed` and the split's name.

    >>> split_seed(0, "train") == split_seed(0, "train") != split_seed(0, "test")
    True
    """
    return derive_seed(seed, "", 0, -1, split)


@dataclass
class Outcome:
    """The result of one row's flow."""

    rows: list[Row] = field(default_factory=list)
    """Rows that the flow returned; empty if the row failed."""
    error: str = ""
    """Why the row failed; empty if it didn't."""
    raw: str = ""
    """The completion that could not be used, if that is why the row failed; or why tool calls were kept as text."""
    finish_reason: str = ""
    """Finish reason of the last completion; empty without a completion."""
    prompt_tokens: int = 0
    """Prompt tokens of all the row's requests."""
    completion_tokens: int = 0
    """Completion tokens of all the row's requests."""
    truncated: bool = False
    """Whether a truncated text of the row was kept."""

    @property
    def is_transient(self) -> bool:
        """Whether the row may be completed in another run: an endpoint was down, or memory ran out."""
        return is_transient(self.error, self.finish_reason)


def is_transient(error: str, finish_reason: str) -> bool:
    """Return whether a failed row may be completed in another run, by the fields of its metadata entry.

    >>> is_transient("Connection refused", "error"), is_transient("the completion has no task", "stop")
    (True, False)
    """
    return bool(error) and finish_reason == "error"


class Attempt:
    """A `with` block that keeps the exception raised in it, so that only one row or request fails.

    Interrupts, exits and the `fatal` exceptions, which every row would raise, pass through.

    Args:
        fatal: The exceptions that every row would raise.
    """

    def __init__(self, fatal: tuple[type[Exception], ...] = _FATAL) -> None:
        self.error: Exception | None = None
        self._fatal = fatal

    def __enter__(self) -> "Attempt":
        """Enter the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep an exception, or let it pass through."""
        if isinstance(error, Exception) and not isinstance(error, self._fatal):
            self.error = error
        return self.error is not None


@dataclass
class RaisedRows:
    """Counts rows of a technique that raised before any row was completed.

    Once a row is completed, an exception is the failure of its row. Until then, it may also mean a bug of the
    technique or an unusable llm. If its type shows that (`TypeError`, `GenerationError` and the like), it is raised at
    the end of the batch. Any other exception is raised when eight rows have raised.
    """

    completed: bool = False
    """Whether a row was completed."""
    _count: int = 0
    _decisive: Exception | None = None

    def add(self, error: Exception) -> None:
        """Count a row that raised.

        Raises:
            Exception: The row's, if it is the eighth and no row was completed.
        """
        if self.completed:
            return
        self._count += 1
        mistake = isinstance(error.__cause__, _MISTAKES) and "NoneType" not in str(error)
        if self._decisive is None and (mistake or isinstance(error, GenerationError)):
            self._decisive = error
        if self._count >= _MAX_RAISED:
            raise self._decisive or error

    def check(self) -> None:
        """Raise at the end of a batch if no row was completed and an exception shows a bug or an unusable llm.

        Raises:
            Exception: The first such row's.
        """
        if self._decisive is not None and not self.completed:
            raise self._decisive


@dataclass(frozen=True)
class Watcher:
    """Callbacks on the progress of flows, for a progress bar for example."""

    answered: Callable[["RowState", Completion], None] | None = None
    """Called with each completion."""
    ended: Callable[["RowState"], None] | None = None
    """Called with each flow that ended, failed ones included."""
    raised: Callable[[Exception], None] | None = None
    """Called with an exception of a flow or a callback that isn't its row's failure. Default: it is raised."""

    def errors(self) -> AbstractContextManager[None]:
        """Return a context manager that passes an exception of its `with` block to `raised`, if that is set."""
        return nullcontext() if self.raised is None else self._pass_on(self.raised)

    @staticmethod
    @contextmanager
    def _pass_on(raised: Callable[[Exception], None]) -> Iterator[None]:
        with Attempt(()) as attempt:
            yield
        if attempt.error is not None:
            raised(attempt.error)


class FlowDriver:
    """Runs the flows of one or several batches of rows, and gives an llm their requests.

    Args:
        llm: Completes the requests.
        more: Called when the llm has room and no request waits; it may start another batch.
        raised: Counts the rows of the same technique that raised.
        watcher: Callbacks on completions and ended flows.
        patience: Seconds without a completion before the first warning.
    """

    def __init__(
        self,
        llm: LLM,
        more: Callable[[], None] | None = None,
        raised: RaisedRows | None = None,
        watcher: Watcher | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._llm = llm
        self._patience = patience
        self._watchdog: Watchdog | None = None
        self._error_of_more: BaseException | None = None
        self.set_callbacks(more, raised, watcher)
        self._requests = Requests(self._start_more if more else None)
        self._asked: dict[RowState, Request] = {}
        self._stream: Iterator[tuple[Hashable, Completion]] = iter(())
        self._logged: set[tuple[type, ...]] = set()

    def set_callbacks(
        self,
        more: Callable[[], None] | None = None,
        raised: RaisedRows | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        """Set the callbacks of the batches that start from now on, such as those of the next technique.

        Batches in flight keep theirs, and the llm's stream continues.

        Args:
            more: As in the constructor, for the batches from now on; the next arguments too.
            raised: See `more`.
            watcher: See `more`.
        """
        self._more = more
        self._raised = raised or RaisedRows()
        self._watcher = watcher or Watcher()

    def start(
        self,
        flows: Sequence["Flow | Outcome"],
        seeds: Sequence["RowSeeds"],
        owner: str = "",
        raised: RaisedRows | None = None,
        watcher: Watcher | None = None,
    ) -> list["RowState"]:
        """Start a batch of flows, one per row, and submit their first requests.

        Args:
            flows: The flows, not started; for a row that is finished already, its outcome.
            seeds: One per row.
            owner: The technique's class, for error messages.
            raised: Counts the rows that raised, for a batch of another technique than the driver's.
            watcher: Callbacks for this batch. Default: those of the driver.
        """
        raised, watcher = raised or self._raised, watcher or self._watcher
        batch = [RowState(flow, row, owner, raised, watcher) for flow, row in zip(flows, seeds, strict=True)]
        for run in batch:
            if not run.finished:
                self._ask(run, run.start(), first=False)
        return batch

    def finish(self, batch: Sequence["RowState"]) -> list[Outcome]:
        """Run the flows of a batch to their end; flows of other batches advance meanwhile.

        A row fails if its flow raises, or if the llm raises for its request alone.

        Raises:
            Exception: The first rows', if the technique or the llm is at fault (see `RaisedRows`).
            FlowError: If a flow yields anything but a request.
            GenerationError: If the llm can't be loaded, or stops before it has completed every request.
        """
        if waiting := [run for run in batch if not run.finished]:
            step, model = waiting[0].seeds.step, self._llm.model_name
            with Watchdog(
                step, model, lambda: sum(not run.finished for run in batch), self._patience
            ) as self._watchdog:
                while waiting:
                    if waiting[-1].finished:
                        waiting.pop()
                    else:
                        self._go_on()
            self._watchdog = None
        self._raised.check()
        return [run.outcome for run in batch]

    def advance(self) -> bool:
        """Wait for the llm's next completion; return False if no row is in flight."""
        if not self._asked:
            return False
        self._go_on()
        return True

    def close_if_idle(self) -> None:
        """Stop the llm's stream if no row is in flight, so that the llm frees its memory."""
        if not self._asked:
            self.close()

    def close(self) -> None:
        """Stop the llm's stream; unfinished flows are abandoned."""
        if isinstance(self._stream, Generator):
            self._stream.close()

    def _go_on(self) -> None:
        """Take the next completion from the llm, and start a new stream where the last one has ended."""
        with Attempt() as attempt:
            answered = next(self._stream, None)
            if answered is None:
                if not self._requests:
                    raise GenerationError(f"{self._llm.model_name} stopped before it had completed every request.")
                self._stream = iter(self._llm.stream(self._requests))
        if attempt.error is not None:
            self._recover(attempt.error)
        elif answered is not None:
            self._answer(*answered)

    def _recover(self, error: Exception) -> None:
        """Repeat the requests that the llm had taken when it raised; waiting requests keep waiting."""
        if error is self._error_of_more:
            raise error
        self._llm.load()  # raises if the llm can't be loaded, which is no request's fault
        waiting = set(self._requests.keys())
        taken = [run for run in self._asked if run not in waiting]
        if not taken:  # the llm raised before it took a request
            taken = list(self._asked)
            self._requests.clear()
        if not taken:
            raise error
        self._log(error, "%s raised on %d requests, which are repeated in halves", self._llm.model_name, len(taken))
        self._stream = iter(())
        middle = len(taken) // 2
        for part in (taken[:middle], taken[middle:]):
            self._retry(part)

    def _retry(self, runs: Sequence["RowState"]) -> None:
        """Repeat requests apart from all others. If the llm raises, repeat each half; a single request fails."""
        if not runs:
            return
        requests, left = Requests(), dict.fromkeys(runs)
        for run in runs:
            requests.put(run, self._asked[run])
        stream: Iterator[tuple[Hashable, Completion]] | None = None
        while left:
            answered = None
            with Attempt() as attempt:
                stream = iter(self._llm.stream(requests)) if stream is None else stream
                answered = next(stream, None)
            if answered is not None:
                left.pop(answered[0], None)  # type: ignore[call-overload] # _answer reports an unknown key
                self._answer(*answered)
                continue
            stopped = GenerationError(f"{self._llm.model_name} stopped before it had completed every request.")
            self._halve(list(left), attempt.error or stopped)
            return

    def _halve(self, runs: Sequence["RowState"], error: Exception) -> None:
        if len(runs) == 1:
            del self._asked[runs[0]]
            runs[0].fail(error)
            with runs[0].watcher.errors():
                self._end(runs[0])
            return
        middle = len(runs) // 2
        for part in (runs[:middle], runs[middle:]):
            self._retry(part)

    def _answer(self, run: Hashable, completion: Completion) -> None:
        """Send a completion to its flow."""
        if not isinstance(run, RowState) or run not in self._asked:
            raise GenerationError(f"{self._llm.model_name} completed {run!r}, which was not requested.")
        if not isinstance(completion, Completion):
            raise GenerationError(
                f"{self._llm.model_name} returned {completion!r} for a request; it must be a Completion."
            )
        del self._asked[run]
        if self._watchdog is not None:
            self._watchdog.note_completion()
        with run.watcher.errors():
            if run.watcher.answered is not None:
                run.watcher.answered(run, completion)
            self._ask(run, run.resume(completion), first=True)  # a started row goes before a new one

    def _ask(self, run: "RowState", request: Request | None, first: bool) -> None:
        if request is None:
            self._end(run)
        else:
            self._asked[run] = request
            self._requests.put(run, request, first)

    def _end(self, run: "RowState") -> None:
        """Log and count the end of a row."""
        if run.raised is not None:
            self._log(run.raised, "row %d of %s failed", run.seeds.row, run.seeds.step)
            run.raised_rows.add(run.raised)
        elif run.outcome.rows or run.outcome.finish_reason not in ("", "error", "refused"):
            run.raised_rows.completed = True
        if run.watcher.ended is not None:
            run.watcher.ended(run)

    def _log(self, error: Exception, message: str, *values: object) -> None:
        """Log the first exception of each kind, with its traceback unless its message is enough."""
        kind = (type(error), type(error.__cause__))
        if kind not in self._logged:
            self._logged.add(kind)
            says_enough = isinstance(error, GenerationError | ChatTemplateError | OSError)
            text = _sentence(error) if says_enough else "".join(traceback.format_exception(error))
            logger.warning(f"{message}: %s", *values, redact(text))

    def _start_more(self) -> None:
        """Start another batch, and keep its exception apart from those of the llm."""
        if self._more is not None:
            try:
                self._more()
            except BaseException as error:
                self._error_of_more = error
                raise


def run_flows(
    flows: Sequence[Flow],
    llm: LLM,
    seeds: Sequence["RowSeeds"],
    owner: str = "",
    raised: RaisedRows | None = None,
    watcher: Watcher | None = None,
) -> list[Outcome]:
    """Run a batch of flows to their end, giving the llm every waiting request at once.

    Args:
        flows: One flow per row, not started.
        llm: Completes the requests.
        seeds: One per row.
        owner: The technique's class, for error messages.
        raised: Counts the rows of the same technique that raised.
        watcher: Callbacks on completions and ended flows.

    Raises:
        Exception: As `FlowDriver.finish` does.
    """
    with closing(FlowDriver(llm, raised=raised, watcher=watcher)) as running:
        return running.finish(running.start(flows, seeds, owner))


class RowSeeds(NamedTuple):  # three of these for each row: a frozen dataclass takes four times as long to create
    """The source of a row's random numbers: seed field, step name, row index and, for some techniques, content."""

    seed: int
    step: str
    row: int
    content: str = ""
    """The row's content as text; "" if the index alone identifies the row."""

    def row_seed(self) -> int:
        """Return the seed of the random numbers that the flow gets as `rng`."""
        return derive_seed(self.seed, self.step, self.row, -1, self.content)

    def request_seed(self, number: int) -> int:
        """Return the seed of one of the row's requests, counted from 0."""
        return derive_seed(self.seed, self.step, self.row, number, self.content)


class RowRandom(random.Random):
    """A row's random numbers. Their generator is created at the first use: that is slow, and most flows draw none.

    >>> seeds = RowSeeds(0, "Magpie", 7)
    >>> RowRandom(seeds).choice("abc") == random.Random(seeds.row_seed()).choice("abc")
    True
    """

    def __init__(self, seeds: RowSeeds) -> None:
        self._seeds = seeds
        self.gauss_next = None

    @cached_property
    def _numbers(self) -> random.Random:
        return random.Random(self._seeds.row_seed())

    def random(self) -> float:
        """Return the next number in [0, 1)."""
        return self._numbers.random()

    def getrandbits(self, k: int) -> int:
        """Return a number of `k` random bits."""
        return self._numbers.getrandbits(k)

    def seed(self, *seed: Any, **version: Any) -> None:
        """Start anew, as `random.Random.seed` does."""
        self._numbers.seed(*seed, **version)
        self.gauss_next = None

    def getstate(self) -> tuple[Any, ...]:
        """Return the state, for `setstate`."""
        return (*self._numbers.getstate()[:2], self.gauss_next)

    def setstate(self, state: tuple[Any, ...]) -> None:
        """Restore a state."""
        self._numbers.setstate(state)
        self.gauss_next = state[2]

    def __reduce__(self) -> Any:
        """Copy or pickle it as a plain `random.Random` of the same state."""
        return random.Random, (), self.getstate()


class RowState:
    """A started flow, and its outcome so far.

    Args:
        flow: The flow, not started; or its outcome, if the row is finished already.
        seeds: The row's.
        owner: The technique's class, for error messages.
        raised_rows: Counts the rows of the same technique that raised.
        watcher: Callbacks on this row.
    """

    def __init__(
        self, flow: Flow | Outcome, seeds: RowSeeds, owner: str, raised_rows: RaisedRows, watcher: Watcher
    ) -> None:
        self.finished = isinstance(flow, Outcome)
        self.outcome = flow if isinstance(flow, Outcome) else Outcome()
        self.seeds = seeds
        self.raised: Exception | None = None
        """The exception of the flow, or of the llm for its request."""
        self.raised_rows = raised_rows
        self.watcher = watcher
        self._flow = flow
        self._owner = owner or seeds.step
        self._turn = 0
        self._request: Request | None = None  # the last one

    def start(self) -> Request | None:
        """Return the flow's first request, or None if it needs none."""
        return self._advance(None)

    def resume(self, completion: Completion) -> Request | None:
        """Send the flow its completion; return its next request, or None if there is none.

        Raises:
            GenerationError: If its request had choices, and the llm did not score them.
        """
        choices = len(self._request.choices) if self._request else 0
        if choices and not completion.error and len(completion.scores) != choices:
            raise GenerationError(
                f"for {choices} choices, the llm returned {len(completion.scores)} scores; use an llm "
                "that scores choices, such as TransformersLLM(...)."
            )
        self.outcome.prompt_tokens += completion.prompt_tokens
        self.outcome.completion_tokens += completion.completion_tokens
        return self._advance(completion)

    def fail(self, error: Exception) -> None:
        """End the row, for whose request the llm raised."""
        refused = isinstance(error, ChatTemplateError | UnicodeError)
        self.outcome.finish_reason = "refused" if refused else "error"
        self._fail(str(error) if isinstance(error, ChatTemplateError) else _sentence(error))
        self.raised = error

    def _advance(self, completion: Completion | None) -> Request | None:
        """Advance the flow to its next request, its end or its failure."""
        request: Request | None = None
        with Attempt(_FATAL_IN_FLOW) as attempt:
            request = self._step(completion)
            while request is not None and (fault := _fault(request)):
                request = self._step(Completion(text="", finish_reason="refused", error=fault))
        if attempt.error is not None:
            self._fail(_sentence(attempt.error))
            self.raised = FlowError(f"{self._owner}.flow raised {_sentence(attempt.error)}")
            self.raised.__cause__ = attempt.error
            if isinstance(attempt.error, _MISTAKES_ALWAYS):
                raise self.raised
        if request is None:
            return None
        self._turn += 1
        self._request = request
        return request.with_seed(self.seeds.request_seed(self._turn - 1))

    def _step(self, completion: Completion | None) -> Request | None:
        """Resume the flow once."""
        flow = self._flow
        assert not isinstance(flow, Outcome)  # which is finished
        try:
            if completion is None:
                request = next(flow)
            else:
                self.outcome.finish_reason = completion.finish_reason
                if completion.error or completion.finish_reason in ("error", "refused"):
                    transient = completion.finish_reason != "refused"
                    reason = completion.error or "the llm gave no reason"
                    request = flow.throw(RowError(reason, completion.text, transient=transient))
                elif error := self._truncation(completion):
                    request = flow.throw(error)
                else:
                    if completion.tool_call_error:
                        self.outcome.raw = storable(f"tool calls are kept as text: {completion.tool_call_error}")
                    request = flow.send(completion)
        except StopIteration as end:
            self._finish(end.value)
        except RowError as error:
            if error.transient:
                self.outcome.finish_reason = "error"
            self._fail(error.reason, error.raw)
        else:
            return self._checked(request)
        return None

    def _truncation(self, completion: Completion) -> TruncatedError | None:
        """Return the error of a truncated text, or mark the row as truncated if such texts are kept."""
        keep = self._request.keep_truncated if self._request else None
        if keep is None or completion.finish_reason != "length" or not completion.text.strip():
            return None
        if keep:
            self.outcome.truncated = True
            return None
        reason = f"the response was cut off after {completion.completion_tokens} tokens"
        return TruncatedError(f"{reason} (raise max_new_tokens, or set keep_truncated=True)", completion.text)

    def _checked(self, request: Request) -> Request:
        """Check that a flow yielded a request, and return it.

        Raises:
            FlowError: If it is no request, or its messages, role or sampling have a wrong type.
            TypeError: If a message has an unknown role or no text, which may be one row's fault.
        """
        if not isinstance(request, Request):
            raise FlowError(
                f"{self._owner}.flow yielded {request!r:.200}, of type {type(request).__name__}; it must {_YIELD}."
            )
        yielded = f"{self._owner}.flow yielded a request with"
        messages: Any = request.messages
        is_sequence = isinstance(messages, list | tuple)
        if not is_sequence or not all(isinstance(one, _MAPPINGS) and "role" in one for one in messages):
            raise FlowError(f"{yielded} messages={messages!r:.200}; it must {_YIELD}.")
        if request.role not in _ROLES:
            raise FlowError(f"{yielded} role={request.role!r:.200}; it must be one of {list(_ROLES)}.")
        sampling: Any = request.sampling
        if not isinstance(sampling, SamplingParams):
            raise FlowError(f"{yielded} sampling={sampling!r:.200}; it must be SamplingParams(...).")
        _check_messages(messages)
        return request

    def _fail(self, reason: str, raw: str = "") -> None:
        self.finished = True
        self.outcome.error = storable(reason) or "no reason was given"
        self.outcome.raw = storable(raw)

    def _finish(self, result: Row | list[Row]) -> None:
        self.finished = True
        self.outcome.rows = [result] if isinstance(result, dict) else list(result)
        if not self.outcome.rows:
            self.outcome.error = "the flow returned no rows"


def _sentence(error: Exception) -> str:
    """Return an exception's message as one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check the messages of a request, whose roles and texts may come from a row.

    Raises:
        TypeError: If a message has a role that chat templates don't have, or no text.
    """
    for number, message in enumerate(messages):
        role, content = message["role"], message.get("content")
        yielded = f"it yielded a request with messages[{number}]"
        if role not in MESSAGE_ROLES:
            raise TypeError(f"{yielded}['role']={role!r:.200}; a role is one of {list(MESSAGE_ROLES)}")
        if "content" not in message:
            raise TypeError(f"{yielded}={message!r:.200}, which has no 'content'; give its text")
        if not isinstance(content, str):
            raise TypeError(f"{yielded}['content']={content!r:.200}; a content is text, so give str")


def _fault(request: Request) -> str:
    """Return the error of a request whose texts have a lone surrogate, which can't be encoded; "" if none has."""
    for text in [*[message.get("content") for message in request.messages], *request.choices]:
        if isinstance(text, str) and not text.isascii() and (found := lone_surrogate(text)):
            return f"the prompt has {found}"
    return ""


def storable(text: str) -> str:
    r"""Return a text in which each lone surrogate is escaped, so that it can be stored.

    >>> storable("a\ud83d")
    'a\\ud83d'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def lone_surrogate(text: str) -> str:
    r"""Return the position of a lone surrogate in a text, as a phrase for an error; "" if there is none.

    >>> lone_surrogate("a\ud83d")
    'a lone surrogate (U+D83D) at position 1, which is no Unicode text'
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"a lone surrogate (U+{ord(text[error.start]):04X}) at position {error.start}, which is no Unicode text"
    return ""


class Watchdog:
    """Warns while no completion comes: after `patience` seconds, and whenever the time without one has doubled.

    There is no time limit, since Python can't stop code from another thread. An llm that waits for something of its
    own, such as a server, sets a timeout there and returns a `Completion` with `finish_reason="error"`.

    >>> with Watchdog("TextGeneration", "some/model", lambda: 3, patience=60) as watchdog:
    ...     watchdog.note_completion()

    Args:
        step: Name of the step, for the warning.
        model: Name of the llm, for the warning.
        rows: Returns the number of waiting rows.
        patience: Seconds before the first warning.
    """

    def __init__(self, step: str, model: str, rows: Callable[[], int], patience: float = PATIENCE) -> None:
        self._step, self._model, self._rows = step, model, rows
        self._patience = self._next_warning = patience
        self._last_completion = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hfsynth-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        """Start the thread that warns."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def note_completion(self) -> None:
        """Note that a completion has come."""
        self._last_completion, self._next_warning = time.monotonic(), self._patience

    def _watch(self) -> None:
        while not self._stop.wait(max(self._last_completion + self._next_warning - time.monotonic(), 0.01)):
            seconds = time.monotonic() - self._last_completion
            if seconds >= self._next_warning:
                self._next_warning *= 2
                logger.warning(
                    "%s: no completion from %s for %.0f seconds; %d rows wait. If the llm hangs, interrupt the "
                    "process: a run keeps its finished chunks",
                    self._step,
                    self._model,
                    seconds,
                    self._rows(),
                )
