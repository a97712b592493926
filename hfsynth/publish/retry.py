"""Retries of calls to the Hub after temporary errors of the network or the server."""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from httpx2 import Timeout, TransportError
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from hfsynth.errors import PushError
from hfsynth.text import one_line

T = TypeVar("T")
logger = logging.getLogger(__name__)
MAX_ATTEMPTS = 8
ANSWER_TIMEOUT = 300.0
"""Seconds within one request that the client waits for data from the Hub."""
_CONNECT_TIMEOUT, _MAX_BACKOFF, _MAX_RETRY_AFTER = 30.0, 30.0, 300.0  # seconds
_TRANSIENT_STATUSES = (408, 409, 412, 429)  # timeout, conflict, changed meanwhile, rate limit; and 500 and above
# a JSONDecodeError comes from a proxy that answers with an error page
_TRANSIENT_ERRORS = (TransportError, json.JSONDecodeError, LocalEntryNotFoundError, ConnectionError)


def with_retries(action: str, call: Callable[[], T]) -> T:
    """Return the result of a call to the Hub, retried after transient errors.

    The pause between attempts grows exponentially, unless the Hub asks for a certain pause.

    Args:
        action: Name of the call in messages, such as "reading user/name".
        call: The function to call; must be safe to repeat.

    Raises:
        PushError: If `MAX_ATTEMPTS` attempts failed. Errors that aren't transient are raised at once.
    """
    attempt = 1
    while True:
        try:
            with _ANSWER_TIMEOUT:
                return call()
        except (OSError, ValueError, RuntimeError, TransportError) as error:
            if not is_transient(error):
                raise
            if attempt == MAX_ATTEMPTS:
                raise PushError(f"{action} failed {attempt} times: {one_line(error)}. Try again later.") from error
            seconds = _retry_after(error) or min(2.0 ** (attempt - 1), _MAX_BACKOFF) + random.uniform(0, 2)
            logger.warning("%s failed: %s; trying again in %.0f seconds", action, one_line(error), seconds)
        time.sleep(seconds)
        attempt += 1


def is_transient(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, may disappear when the call is repeated."""
    return any(
        status in _TRANSIENT_STATUSES or status >= 500
        if (status := status_of(cause))
        else isinstance(cause, _TRANSIENT_ERRORS) and not isinstance(cause, OfflineModeIsEnabled)
        for cause in _causes(error)
    )


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error of the Hub's client; None if the error has no response."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


class _AnswerTimeout:
    """Context manager that limits the time that the Hub's client waits for an answer, which is unlimited by default.

    All threads share the client: the first that enters sets the limit, and the last that leaves restores the default.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._entered:
                self._session = get_session()
                self._default = self._session.timeout
                self._session.timeout = Timeout(ANSWER_TIMEOUT, connect=_CONNECT_TIMEOUT, pool=None)
            self._entered += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                self._session.timeout = self._default


_ANSWER_TIMEOUT = _AnswerTimeout()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes; for an upload, the Hub's response is in a cause."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _retry_after(error: BaseException) -> float | None:
    """Return the pause in seconds that the Hub asks for; None if the response has none."""
    for answer in (cause.response for cause in _causes(error) if isinstance(cause, HfHubHTTPError)):
        limit = parse_ratelimit_headers(answer.headers)
        seconds = str(limit.reset_in_seconds + 1 if limit else answer.headers.get("Retry-After", ""))
        if seconds.isdigit():
            return min(float(seconds), _MAX_RETRY_AFTER)
    return None
