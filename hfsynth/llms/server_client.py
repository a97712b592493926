"""Post JSON to an OpenAI-compatible server: requests in flight, retries, and whose fault a failure is."""

import asyncio
import json
import logging
import random
import re
import threading
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from httpx2 import (
    AsyncClient,
    ConnectError,
    ConnectTimeout,
    Limits,
    Response,
    Timeout,
    TimeoutException,
    TransportError,
)

from hfsynth.errors import HfsynthError, ServerError
from hfsynth.secrets import redact

T = TypeVar("T")
logger = logging.getLogger(__name__)
_CONNECT_TIMEOUT = 30.0  # seconds
_KEEP_ALIVE = 3.0  # seconds that an idle connection is kept: many servers close theirs after 5
_TRANSIENT = {408, 409, 425, 429}  # time-out, conflict, too early, rate limit; and 500 and above
_OVERLOADED = {429, 503}
_UNUSABLE = {401, 402, 403, 404, 405}
_GET_ATTEMPTS = 3  # after which a server that answers 500 is taken to have nothing to say
_WARNING_PAUSE = 60.0  # seconds between two warnings of failures that were followed by a success
_MAX_WORDS = 400  # characters of a server's answer that an error quotes


class RefusedError(HfsynthError):
    """A server refuses one request, and would at any time.

    Args:
        words: What it says.
        parameter: The field of the request that it names, if its answer has a place for that.
    """

    def __init__(self, words: str, parameter: str = "") -> None:
        super().__init__(words)
        self.parameter = parameter


class FailedError(HfsynthError):
    """A server failed on one request as often as it was asked, while it completed others."""


class _UnusableError(ServerError):
    """A server refuses every request."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _TransientError(Exception):
    """An attempt failed, and a later one may succeed."""

    def __init__(self, reason: str, overloaded: bool = False, wait: float = 0.0, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.overloaded = overloaded
        self.wait = wait


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long a server is asked again.

    Args:
        attempts: Most attempts for one request on which the server fails while it completes others.
        patience: Seconds since the first failure after the last success, after which a server counts as dead.
        first_delay: Seconds before the second attempt; doubled for each further one, and shortened by up to a half
            at random, so that requests that failed together don't come back together.
        longest_delay: Seconds between two attempts at most, unless the server asks for more.
    """

    attempts: int = 6
    patience: float = 300.0
    first_delay: float = 0.5
    longest_delay: float = 30.0

    def delay(self, failures: int, wait: float) -> float:
        """Return the seconds to wait after a number of failures, where the server asks to wait for some itself."""
        backoff = min(self.first_delay * 2.0 ** min(failures - 1, 30), self.longest_delay)
        return max(backoff * random.uniform(0.5, 1.0), wait)


class InFlightLimit:
    """How many requests are sent at once: halved where the server is overloaded, and raised by one after successes.

    Args:
        capacity: The number at the beginning, and the largest.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.now = capacity
        self.lowest = capacity
        """The smallest number so far."""
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._epoch = 0  # number of reductions so far
        self._successes = 0  # since the last change

    async def acquire(self) -> int:
        """Wait for a place, and return the number of reductions so far."""
        while self._active >= self.now:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                self._wake()  # another one, in case this one had been woken
                raise
        self._active += 1
        return self._epoch

    def release(self) -> None:
        """Give a place back."""
        self._active -= 1
        self._wake()

    def reduce(self, epoch: int) -> bool:
        """Halve the limit, unless the request was sent before the last reduction; return whether it is a new low."""
        if epoch != self._epoch:
            return False
        self.now = max(1, self.now // 2)
        self._epoch += 1
        self._successes = 0
        is_lower = self.now < self.lowest
        self.lowest = min(self.lowest, self.now)
        return is_lower

    def note_success(self) -> None:
        """Count a completed request; as many as are in flight raise the limit by one."""
        self._successes += 1
        if self._successes >= self.now and self.now < self.capacity:
            self.now += 1
            self._successes = 0
            self._wake()

    def _wake(self) -> None:
        for _ in range(self.now - self._active):
            while self._waiting and self._waiting[0].done():
                self._waiting.popleft()
            if not self._waiting:
                return
            self._waiting.popleft().set_result(None)


class LoopThread:
    """An asyncio loop in a thread of its own, in which requests are in flight while flows run in the caller's."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="hfsynth-server", daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and return its result."""
        return self.start(coroutine).result()

    def stop(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class ServerClient:
    """A client of one server, used from one asyncio loop.

    Args:
        base_url: The server's address, such as "http://localhost:8000/v1".
        headers: Sent with every request: the key.
        key_advice: What to do where the server refuses the key.
        concurrency: Most requests in flight.
        timeout: Seconds that the server may take to complete a request.
        policy: How often it is asked again.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        key_advice: str,
        *,
        concurrency: int,
        timeout: float,
        policy: RetryPolicy,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.models: tuple[str, ...] = ()
        """The names that the server lists, for error messages."""
        self.limit = InFlightLimit(concurrency)
        self._key_advice = key_advice
        self._policy = policy
        limits = Limits(
            max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=_KEEP_ALIVE
        )
        self._http = AsyncClient(
            headers=dict(headers), limits=limits, timeout=Timeout(timeout, connect=_CONNECT_TIMEOUT, pool=None)
        )
        self._completed = 0
        self._failing_since: float | None = None  # the first failure after the last success, by the monotonic clock
        self._next_warning = 0.0  # when a failure is logged next

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post to a path under the base URL, as often as the policy has it, and return the answer.

        Raises:
            RefusedError: If the server refuses this request.
            FailedError: If it fails on it, and completes others.
            ServerError: If it refuses the key or the model, or nothing was completed for as long as the patience is.
        """
        content = json.dumps(body, ensure_ascii=False).encode()
        tries, failures, completed_before = 0, 0, -1
        while True:
            try:
                return await self._attempt("POST", f"{self.base_url}{path}", content)
            except _TransientError as error:
                tries += 1
                if not error.overloaded and self._completed != completed_before:  # else the server is down for all
                    failures += 1
                    completed_before = self._completed
                self._check_patience(error)
                if failures >= self._policy.attempts:
                    raise FailedError(f"the server failed {failures} times, the last time so: {error}") from None
                delay = self._policy.delay(tries, error.wait)
            await asyncio.sleep(delay)

    async def get(self, url: str) -> dict[str, Any] | None:
        """Return what the server answers to GET, asked as `post` asks; None where that is no JSON object, or 500.

        Raises:
            ServerError: If it refuses the key, or can't be reached for as long as the patience is.
        """
        tries = 0
        while True:
            try:
                return await self._attempt("GET", url, None)
            except RefusedError:
                return None
            except _UnusableError as error:
                if error.status not in (404, 405):
                    raise
                return None
            except _TransientError as error:
                tries += 1
                self._check_patience(error)
                if error.status == 500 and tries >= _GET_ATTEMPTS:  # it runs, and can't say this
                    logger.info("%s: %s", url, error)
                    self._failing_since = None
                    return None
                delay = self._policy.delay(tries, error.wait)
            await asyncio.sleep(delay)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _attempt(self, method: str, url: str, content: bytes | None) -> dict[str, Any]:
        """Send a request once."""
        epoch = await self.limit.acquire()
        try:
            answer = self._read(await self._send(method, url, content), url)
        except _TransientError as error:
            if error.overloaded and self.limit.reduce(epoch):
                logger.warning(
                    "%s: %s; at most %d requests are in flight from now on", self.base_url, error, self.limit.now
                )
            raise
        finally:
            self.limit.release()
        self._completed += 1
        self._failing_since = None
        self.limit.note_success()
        return answer

    async def _send(self, method: str, url: str, content: bytes | None) -> Response:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            return await self._http.request(method, url, content=content, headers=headers)
        except TransportError as error:
            connecting = isinstance(error, ConnectError | ConnectTimeout)
            overloaded = isinstance(error, TimeoutException) and not connecting
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise _TransientError(redact(reason), overloaded) from error

    def _read(self, response: Response, url: str) -> dict[str, Any]:
        """Return a response's JSON object.

        Raises:
            RefusedError, ServerError, _TransientError: By its status.
        """
        status, data = response.status_code, _json_object(response)
        fault = data.get("error")
        if 200 <= status < 300 and fault and "choices" not in data:  # a router reports so what another server answered
            code = fault.get("code") if isinstance(fault, Mapping) else None
            status = code if isinstance(code, int) and code >= 400 else 500
        if 200 <= status < 300:
            if not data:
                raise _TransientError(f"the server's answer is no JSON object: {response.text[:_MAX_WORDS]!r}")
            return data
        words = _words(data, response)
        if status in _TRANSIENT or status >= 500:
            wait = _retry_after(response.headers.get("Retry-After", ""))
            raise _TransientError(f"HTTP {status}: {words}", status in _OVERLOADED, wait, status)
        if status in _UNUSABLE or status < 400:
            raise _UnusableError(self._unusable(url, status, words, response.headers.get("Location", "")), status)
        raise RefusedError(f"the server refuses the request (HTTP {status}): {words}", _parameter(data))

    def _unusable(self, url: str, status: int, words: str, location: str) -> str:
        """Return the error of a server that refuses every request, with what to do."""
        if status in (401, 403):
            advice = self._key_advice
        elif status == 402:
            advice = "add credit to the account, or use another server"
        elif status < 400:
            advice = f"it has moved to {location!r}; set base_url to that"
        else:
            listed = ", ".join(map(repr, self.models[:10]))
            advice = "check base_url, which ends in /v1 with most servers, and model" + (
                f"; the server lists the models {listed}" if listed else ""
            )
        return redact(f"{url} answers {status}: {words}: {advice}.")

    def _check_patience(self, error: _TransientError) -> None:
        """Note a failure.

        Raises:
            ServerError: If nothing was completed for as long as the patience is, or the server asks to wait longer.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            if now >= self._next_warning:
                self._next_warning = now + _WARNING_PAUSE
                logger.warning(
                    "%s: %s; requests are sent again for up to %.0f seconds",
                    self.base_url,
                    error,
                    self._policy.patience,
                )
        silent = now - self._failing_since
        if silent >= self._policy.patience or error.wait > self._policy.patience:
            waits = f", and asks to wait {error.wait:.0f} seconds" if error.wait else ""
            raise ServerError(
                f"{self.base_url} has completed no request for {silent:.0f} seconds{waits}; the last failure: "
                f"{error}. Start the server again, or raise patience."
            ) from error


def _json_object(response: Response) -> dict[str, Any]:
    try:
        data = response.json()
    except ValueError:  # cut, or an error page of a proxy
        return {}
    return data if isinstance(data, dict) else {}


def _words(data: Mapping[str, Any], response: Response) -> str:
    """Return what a server says in an answer that reports an error."""
    fault = data.get("error", data.get("detail", data.get("message")))
    if isinstance(fault, Mapping):
        fault = fault.get("message") or json.dumps(dict(fault), ensure_ascii=False)
    elif isinstance(fault, list):  # of a validation by pydantic
        fault = "; ".join(str(one.get("msg", one)) if isinstance(one, Mapping) else str(one) for one in fault)
    text = " ".join(str(fault or response.text or response.reason_phrase).split())
    return redact(text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…")


def _parameter(data: Mapping[str, Any]) -> str:
    """Return the request's field that an answer names, by OpenAI's `param` or pydantic's `loc`."""
    fault, detail = data.get("error"), data.get("detail")
    if isinstance(fault, Mapping) and isinstance(fault.get("param"), str):
        return str(fault["param"])
    first = detail[0] if isinstance(detail, list) and detail else None
    place = first.get("loc") if isinstance(first, Mapping) else None
    return str(place[-1]) if isinstance(place, list) and place else ""


def _retry_after(value: str) -> float:
    """Return the seconds that a `Retry-After` header asks for, as a number or a date; 0 without one.

    >>> _retry_after("2.5"), _retry_after(""), _retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (2.5, 0.0, 0.0)
    """
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
