"""A row's flow: a generator that yields requests and receives completions, and `FlowDriver`, which runs many at once.

    def flow(self, row, rng):
        completion = yield Request(messages=...)
        return {"generation": completion.text}

A flow does no I/O and knows no batch, device or chat template, so it is tested with `next` and `send` alone.
"""

import hashlib
import logging
import traceback
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, get_args

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
from hfsynth.watchdog import PATIENCE, Watchdog

logger = logging.getLogger(__name__)
Row = dict[str, Any]
Flow = Generator[Request, Completion, Row | list[Row]]
_MAX_RAISED = 8  # rows that may raise before any row of a technique was completed
_FATAL = (ColumnError, FlowError, RunError, ServerError, NameError, ImportError)  # would be the same for every row
_FATAL_IN_FLOW = (ColumnError, FlowError, GenerationError, RunError)
_MISTAKES_ALWAYS = (NameError, ImportError)
_MISTAKES = (AttributeError, KeyError, NotImplementedError, TypeError)  # of who wrote the flow, rather than of a row


def derive_seed(seed: int, step: str, row: int, turn: int, content: str = "") -> int:
    """Return the seed of one request, or of a row's own draws (turn -1): 63 bits, from nothing but these five.

    >>> derive_seed(0, "Magpie", 7, 1) == derive_seed(0, "Magpie", 7, 1) != derive_seed(0, "Magpie", 8, 1)
    True
    """
    text = f"{seed}/{step}/{row}/{turn}" + (f"/{content}" if content else "")
    digest = hashlib.blake2b(storable(text).encode(), digest_size=8).digest()
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
    truncated: bool = False
    """Whether a text of it was cut off and is kept."""

    @property
    def is_transient(self) -> bool:
        """Whether the row failed for the time being: an endpoint was down, or memory ran out."""
        return is_transient(self.error, self.finish_reason)


def is_transient(error: str, finish_reason: str) -> bool:
    """Whether a row that failed may be completed at another time, by what its metadata entry says.

    >>> is_transient("Connection refused", "error"), is_transient("the completion has no task", "stop")
    (True, False)
    """
    return bool(error) and finish_reason == "error"


class Attempt:
    """Keeps the exception that its `with` block raises, for one row or request to be blamed.

    Not kept is what stops the process (an interrupt, an exit), and what would be the same for every row.

    Args:
        fatal: The exceptions that would.
    """

    def __init__(self, fatal: tuple[type[Exception], ...] = _FATAL) -> None:
        self.error: Exception | None = None
        self._fatal = fatal

    def __enter__(self) -> "Attempt":
        """Begin to watch."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep an exception, or let it pass."""
        if isinstance(error, Exception) and not isinstance(error, self._fatal):
            self.error = error
        return self.error is not None


@dataclass
class RaisedRows:
    """Rows of a technique on which something raised, before it completed any.

    A row that raises is a row's failure as soon as another one was completed. Until then it may as well be a mistake
    in the technique, or an llm that can't go on: it is raised at once where the exception says so, or else for the
    eighth row.
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
        """Check what is left of a batch that has ended.

        Raises:
            Exception: A row's that is a mistake in the technique or says that the llm can't go on, if no row was
                completed.
        """
        if self._decisive is not None and not self.completed:
            raise self._decisive


@dataclass(frozen=True)
class Watcher:
    """What is called as flows come along: by a progress bar, say."""

    answered: Callable[["RowState", Completion], None] | None = None
    """Called with each completion."""
    ended: Callable[["RowState"], None] | None = None
    """Called with each flow that has ended, whether it failed or not."""


class FlowDriver:
    """FlowDriver under way, of one batch of rows or of several, that keep an llm supplied.

    Args:
        llm: What completes their requests.
        more: Called when the llm has room and no request waits; it may start another batch.
        raised: Rows of the same technique that raised so far.
        watcher: What is called as they come along.
        patience: Seconds without a completion before the log says so.
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
        self._more = more
        self._error_of_more: BaseException | None = None
        self._raised = raised or RaisedRows()
        self._watcher = watcher or Watcher()
        self._requests = Requests(self._start_more if more else None)
        self._asked: dict[RowState, Request] = {}
        self._stream: Iterator[tuple[Hashable, Completion]] = iter(())
        self._logged: set[tuple[type, ...]] = set()

    def start(
        self, flows: Sequence["Flow | Outcome"], seeds: Sequence["RowSeeds"], owner: str = ""
    ) -> list["RowState"]:
        """Start a batch of flows, one a row, up to their first requests.

        Args:
            flows: The flows, not started; of a row whose outcome is there already, the outcome.
            seeds: One a row.
            owner: The technique's class, for error messages.
        """
        batch = [RowState(flow, row, owner) for flow, row in zip(flows, seeds, strict=True)]
        for run in batch:
            if not run.finished:
                self._ask(run, run.start(), first=False)
        return batch

    def finish(self, batch: Sequence["RowState"]) -> list[Outcome]:
        """Run a batch to its end; others go on as far as they come meanwhile.

        A row whose flow raises fails, and so does one for whose request the llm raises, when it is asked for that one
        alone.

        Raises:
            Exception: What the first rows raised, if it is no fault of theirs (see `RaisedRows`).
            FlowError: If a flow yields anything but a request.
            GenerationError: If the llm can't be loaded, or stops before it has completed every request.
        """
        if waiting := [run for run in batch if not run.finished]:
            step, model = waiting[0].seeds.step, self._llm.model_name
            with Watchdog(
                step, model, lambda: sum(not run.finished for run in batch), self._patience
            ) as self._watchdog:
                while not all(run.finished for run in batch):
                    self._go_on()
            self._watchdog = None
        self._raised.check()
        return [run.outcome for run in batch]

    def close(self) -> None:
        """Give up whatever is under way."""
        if isinstance(self._stream, Generator):
            self._stream.close()

    def _go_on(self) -> None:
        """Take the next completion from the llm, which is asked again where it has none left."""
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
        """Ask again for what the llm had taken when it raised; what waits goes on as before."""
        if error is self._error_of_more:
            raise error
        self._llm.load()  # where it can't be, no request is to blame
        waiting = set(self._requests.keys())
        taken = [run for run in self._asked if run not in waiting]
        if not taken:  # it raised on sight of them
            taken = list(self._asked)
            self._requests.clear()
        if not taken:
            raise error
        self._log(
            error, "%s raised on %d requests, which are asked for again in halves", self._llm.model_name, len(taken)
        )
        self._stream = iter(())
        middle = len(taken) // 2
        for part in (taken[:middle], taken[middle:]):
            self._retry(part)

    def _retry(self, runs: Sequence["RowState"]) -> None:
        """Ask for some requests by themselves, and for halves of those where that raises; a single one fails."""
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
                left.pop(answered[0], None)  # type: ignore[call-overload] # a key that isn't there is told of below
                self._answer(*answered)
                continue
            stopped = GenerationError(f"{self._llm.model_name} stopped before it had completed every request.")
            self._halve(list(left), attempt.error or stopped)
            return

    def _halve(self, runs: Sequence["RowState"], error: Exception) -> None:
        if len(runs) == 1:
            del self._asked[runs[0]]
            runs[0].fail(error)
            self._end(runs[0])
            return
        middle = len(runs) // 2
        for part in (runs[:middle], runs[middle:]):
            self._retry(part)

    def _answer(self, run: Hashable, completion: Completion) -> None:
        """Give a flow its completion."""
        if not isinstance(run, RowState) or run not in self._asked:
            raise GenerationError(f"{self._llm.model_name} completed {run!r}, which nobody asked for.")
        if not isinstance(completion, Completion):
            raise GenerationError(
                f"{self._llm.model_name} gave {completion!r} for a request; it must be a Completion."
            )
        del self._asked[run]
        if self._watchdog is not None:
            self._watchdog.note_completion()
        if self._watcher.answered is not None:
            self._watcher.answered(run, completion)
        self._ask(run, run.resume(completion), first=True)  # a row that is under way before one that is not

    def _ask(self, run: "RowState", request: Request | None, first: bool) -> None:
        if request is None:
            self._end(run)
        else:
            self._asked[run] = request
            self._requests.put(run, request, first)

    def _end(self, run: "RowState") -> None:
        """Note what became of a row."""
        if run.raised is not None:
            self._log(run.raised, "row %d of %s failed", run.seeds.row, run.seeds.step)
            self._raised.add(run.raised)
        elif run.outcome.rows or run.outcome.finish_reason not in ("", "error", "refused"):
            self._raised.completed = True
        if self._watcher.ended is not None:
            self._watcher.ended(run)

    def _log(self, error: Exception, message: str, *values: object) -> None:
        """Log an exception, the first of its kind with its traceback unless it is one that says enough."""
        kind = (type(error), type(error.__cause__))
        if kind not in self._logged:
            self._logged.add(kind)
            says_enough = isinstance(error, GenerationError | ChatTemplateError | OSError)
            text = _sentence(error) if says_enough else "".join(traceback.format_exception(error))
            logger.warning(f"{message}: %s", *values, redact(text))

    def _start_more(self) -> None:
        """Let another batch start; what that raises is not the llm's."""
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
        flows: One flow a row, not started.
        llm: What completes their requests.
        seeds: One a row.
        owner: The technique's class, for error messages.
        raised: Rows of the same technique that raised so far.
        watcher: What is called as they come along.

    Raises:
        Exception: As `FlowDriver.finish` does.
    """
    with closing(FlowDriver(llm, raised=raised, watcher=watcher)) as running:
        return running.finish(running.start(flows, seeds, owner))


@dataclass(frozen=True)
class RowSeeds:
    """Where a row's random numbers come from: the seed field, the step's name, the row's index and its content."""

    seed: int
    step: str
    row: int
    content: str = ""
    """What else tells the row from others; "" where its index does."""

    def row_seed(self) -> int:
        """Return the seed of the row's own draws, which its flow gets as `rng`."""
        return derive_seed(self.seed, self.step, self.row, -1, self.content)

    def request_seed(self, number: int) -> int:
        """Return the seed of one of the row's requests, counted from 0."""
        return derive_seed(self.seed, self.step, self.row, number, self.content)


class RowState:
    """One flow under way, and its outcome so far.

    Args:
        flow: The flow, not started, or the outcome where that is there already.
        seeds: The row's.
        owner: The technique's class, for error messages.
    """

    def __init__(self, flow: Flow | Outcome, seeds: RowSeeds, owner: str = "") -> None:
        self.finished = isinstance(flow, Outcome)
        self.outcome = flow if isinstance(flow, Outcome) else Outcome()
        self.seeds = seeds
        self.raised: Exception | None = None
        """What the flow raised, or the llm for its request."""
        self._flow = flow
        self._owner = owner or seeds.step
        self._turn = 0
        self._request: Request | None = None  # the last one

    def start(self) -> Request | None:
        """Return the flow's first request, or None if it needs none."""
        return self._advance(None)

    def resume(self, completion: Completion) -> Request | None:
        """Give the flow its completion; return its next request, or None if that was its last.

        Raises:
            GenerationError: If its request had choices, and the llm did not score them.
        """
        choices = len(self._request.choices) if self._request else 0
        if choices and not completion.error and len(completion.scores) != choices:
            raise GenerationError(
                f"{choices} choices were to be scored, and {len(completion.scores)} scores came; use an llm "
                "that scores choices, such as TransformersLLM(...)."
            )
        self.outcome.prompt_tokens += completion.prompt_tokens
        self.outcome.completion_tokens += completion.completion_tokens
        return self._advance(completion)

    def fail(self, error: Exception) -> None:
        """End the row, since the llm raised for its request."""
        refused = isinstance(error, ChatTemplateError | UnicodeError)
        self.outcome.finish_reason = "refused" if refused else "error"
        self._fail(str(error) if isinstance(error, ChatTemplateError) else _sentence(error))
        self.raised = error

    def _advance(self, completion: Completion | None) -> Request | None:
        """Take the flow to its next request, its end or its failure."""
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
        return replace(request, seed=self.seeds.request_seed(self._turn - 1))

    def _step(self, completion: Completion | None) -> Request | None:
        """Resume the flow once."""
        flow = self._flow
        assert isinstance(flow, Generator)  # an outcome is finished
        try:
            if completion is None:
                request = next(flow)
            else:
                self.outcome.finish_reason = completion.finish_reason
                if completion.error or completion.finish_reason in ("error", "refused"):
                    transient = completion.finish_reason != "refused"
                    reason = completion.error or "the llm says no reason"
                    request = flow.throw(RowError(reason, completion.text, transient=transient))
                elif error := self._truncation(completion):
                    request = flow.throw(error)
                else:
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
        """Return the error of a text that was cut off and isn't to be kept; mark the row where it is."""
        keep = self._request.keep_truncated if self._request else None
        if keep is None or completion.finish_reason != "length" or not completion.text.strip():
            return None
        if keep:
            self.outcome.truncated = True
            return None
        reason = f"the response was cut off after {completion.completion_tokens} tokens"
        return TruncatedError(f"{reason} (raise max_new_tokens, or set keep_truncated=True)", completion.text)

    def _checked(self, request: Request) -> Request:
        """Return what a flow yielded, if it is a request.

        Raises:
            FlowError: If it isn't, or its messages, role or sampling have another type than they must.
            TypeError: If a message has an unknown role or no text, which may be one row's fault.
        """
        call = "yield Request(messages=({'role': 'user', 'content': …},))"
        if not isinstance(request, Request):
            raise FlowError(
                f"{self._owner}.flow yielded {request!r:.200}, of type {type(request).__name__}; it must {call}."
            )
        yielded = f"{self._owner}.flow yielded a request with"
        messages: Any = request.messages
        is_sequence = isinstance(messages, list | tuple)
        if not is_sequence or not all(isinstance(one, Mapping) and "role" in one for one in messages):
            raise FlowError(f"{yielded} messages={messages!r:.200}; it must {call}.")
        if request.role not in get_args(Role):
            raise FlowError(f"{yielded} role={request.role!r:.200}; it must be one of {list(get_args(Role))}.")
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
            self.outcome.error = "the row became no rows"


def _sentence(error: Exception) -> str:
    """Say what was raised, in a line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check the messages of a request, whose roles and texts may come from a row.

    Raises:
        TypeError: If one has a role that no chat template knows, or no text.
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
    """Say why no llm can read a request's texts, if so: a lone surrogate is no character."""
    for text in (*(message.get("content") for message in request.messages), *request.choices):
        if isinstance(text, str) and not text.isascii() and (found := lone_surrogate(text)):
            return f"the prompt has {found}"
    return ""


def storable(text: str) -> str:
    r"""Return a text with an escape for each lone surrogate, which can't be stored.

    >>> storable("a\ud83d")
    'a\\ud83d'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def lone_surrogate(text: str) -> str:
    r"""Say where a text has half of a surrogate pair, which can't be encoded; "" where it has none.

    >>> lone_surrogate("a\ud83d")
    'a lone surrogate (U+D83D) at position 1, which is no Unicode text'
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"a lone surrogate (U+{ord(text[error.start]):04X}) at position {error.start}, which is no Unicode text"
    return ""
