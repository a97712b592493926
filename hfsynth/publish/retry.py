"""Retries of calls to the Hub whose network or server is busy or broken for a while."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from httpx2 import Timeout, TransportError
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]
from tenacity import RetryCallState, Retrying, retry_if_exception, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from hfsynth.errors import PushError

T = TypeVar("T")
logger = logging.getLogger(__name__)
_TRIES = 8
_BACKOFF = wait_exponential(max=30) + wait_random(0, 2)  # seconds between two tries
_LONGEST_ASKED = 300.0  # seconds between two tries where the Hub says how long
ANSWER_SECONDS = 300.0
"""Longest silence of the Hub within one request, in seconds; then the request is made again."""
_CONNECT_SECONDS = 30.0
# taken meanwhile, changed meanwhile, too many requests; what is wrong with the server is 500 and above
_AGAIN = (408, 409, 412, 429)
_ERRORS = (OSError, ValueError, RuntimeError, TransportError)  # an interrupt is never retried, whatever its context


def persistently(what: str, call: Callable[[], T]) -> T:
    """Make a call to the Hub until it is answered; wait longer after each failure, or as long as the Hub says.

    Args:
        what: What the call does, for messages.
        call: May be made any number of times.

    Raises:
        PushError: If it isn't answered in eight tries, each of which may be silent for `ANSWER_SECONDS`. What else the
            call raises is raised at once.
    """

    def attempt() -> T:
        with _time_limit():
            return call()

    def log(state: RetryCallState) -> None:
        logger.warning("%s failed: %s; again in %.0f seconds", what, told(_error_of(state)), state.upcoming_sleep)

    def give_up(state: RetryCallState) -> NoReturn:
        error = _error_of(state)
        raise PushError(f"{what} failed {_TRIES} times: {told(error)}. Try again later.") from error

    retrying = Retrying(
        retry=retry_if_exception_type(_ERRORS) & retry_if_exception(is_passing),
        wait=_wait,
        stop=stop_after_attempt(_TRIES),
        before_sleep=log,
        retry_error_callback=give_up,
    )
    return retrying(attempt)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Limit the silence of requests by the Hub's client, which by itself waits for an answer without end."""
    session = get_session()
    before = session.timeout
    session.timeout = Timeout(ANSWER_SECONDS, connect=_CONNECT_SECONDS, pool=None)
    try:
        yield
    finally:
        session.timeout = before


def is_passing(error: BaseException) -> bool:
    """Whether an error, or one behind it, may be gone when the call is made again."""
    return any(_is_passing(one) for one in _chain(error))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error of the Hub's client; None where there was no answer."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in _AGAIN or status >= 500
    # an error page instead of JSON; an upload's own errors carry their answer behind them
    return isinstance(error, (TransportError, json.JSONDecodeError, LocalEntryNotFoundError, ConnectionError))


def _chain(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _error_of(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error
    return error


def _wait(state: RetryCallState) -> float:
    """Return the seconds to the next try."""
    answers = (one.response for one in _chain(_error_of(state)) if isinstance(one, HfHubHTTPError))
    for headers in (answer.headers for answer in answers):
        limit = parse_ratelimit_headers(headers)
        seconds = limit.reset_in_seconds + 1 if limit else headers.get("Retry-After", "")
        if str(seconds).isdigit():
            return min(float(seconds), _LONGEST_ASKED)
    return _BACKOFF(state)


def told(error: BaseException) -> str:
    """Return an error's words on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
