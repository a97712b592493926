"""HTTP client of an OpenAI-compatible server: limits the requests in flight, retries, and classifies failures."""

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
_GET_ATTEMPTS = 3  # after this many answers of 500, `get` returns None
_WARNING_PAUSE = 60.0  # seconds between two warnings of failures that were followed by a success
_MAX_MESSAGE = 400  # characters of a server's answer that an error quotes


class RefusedError(HfsynthError):
    """A server refuses one request; a retry would be refused, too.

    Args:
        message: The server's error message.
        parameter: The field of the request that the error is about; "" if the server doesn't state one.
    """

    def __init__(self, message: str, parameter: str = "") -> None:
        super().__init__(message)
        self.parameter = parameter


class FailedError(HfsynthError):
    """A server failed on every attempt for one request, while it completed other requests."""


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
    """When a failed request is sent again, and when a server counts as dead.

    Args:
        attempts: Maximum number of attempts for a request, if the server completes others meanwhile. Answers of an
            overloaded server (429, 503) and time-outs don't count.
        patience: Seconds without a success, counted from the first failure, after which a server counts as dead.
        first_delay: Seconds before the second attempt; doubled for each further attempt, and shortened at random by up
            to a half, so that requests that failed together are not sent again together.
        longest_delay: Maximum seconds between two attempts, unless the server asks for more.
    """

    attempts: int = 6
    patience: float = 300.0
    first_delay: float = 0.5
    longest_delay: float = 30.0

    def delay(self, failures: int, wait: float) -> float:
        """Return the seconds before the next attempt, at least the `wait` seconds that the server asks for."""
        backoff = min(self.first_delay * 2.0 ** min(failures - 1, 30), self.longest_delay)
        return max(backoff * random.uniform(0.5, 1.0), wait)


class InFlightLimit:
    """Limit of the requests in flight: halved if the server is overloaded, and raised by one after successes.

    Args:
        capacity: The initial limit, which is also the maximum.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.now = capacity
        self.lowest = capacity
        """The lowest limit so far."""
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._epoch = 0  # number of reductions so far
        self._successes = 0  # since the last change

    async def acquire(self) -> int:
        """Wait until the limit allows one more request; return the number of reductions so far."""
        while self._active >= self.now:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                self._wake()  # this waiter may have been woken: wake another instead
                raise
        self._active += 1
        return self._epoch

    def release(self) -> None:
        """Note that a request is no longer in flight."""
        self._active -= 1
        self._wake()

    def reduce(self, epoch: int) -> bool:
        """Halve the limit, unless it was halved since the request was sent; return whether it is the lowest so far."""
        if epoch != self._epoch:
            return False
        self.now = max(1, self.now // 2)
        self._epoch += 1
        self._successes = 0
        is_lower = self.now < self.lowest
        self.lowest = min(self.lowest, self.now)
        return is_lower

    def note_success(self) -> None:
        """Count a completed request; after as many successes as the limit, raise the limit by one."""
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
    """An asyncio event loop in its own thread, so that requests are in flight while the caller's thread computes."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="hfsynth-server", daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a coroutine in the loop, and return its future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and return its result."""
        return self.start(coroutine).result()

    def cancel(self) -> None:
        """Cancel everything that runs in the loop, and wait until it has ended."""
        self.run(_cancel_others())

    def stop(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _cancel_others() -> None:
    """Cancel all tasks of the running loop but this one."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class ServerClient:
    """A client of one server, for use in one asyncio event loop.

    Args:
        base_url: The server's address, such as "http://localhost:8000/v1".
        headers: Headers of every request, such as the key.
        key_advice: Advice for the error that is raised if the server rejects the key.
        concurrency: Maximum number of requests in flight.
        timeout: Maximum seconds for a request.
        policy: When a failed request is sent again.
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
        self._failing_since: float | None = None  # time.monotonic() of the first failure after the last success
        self._next_warning = 0.0  # time.monotonic() from which a failure is logged again

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post to a path under the base URL, with the policy's retries, and return the answer.

        Raises:
            RefusedError: If the server refuses this request.
            FailedError: If every attempt for this request fails, while the server completes others.
            ServerError: If the server rejects the key or the model, or has completed nothing for `patience` seconds.
        """
        content = json.dumps(body, ensure_ascii=False).encode()
        tries, failures, completed_before = 0, 0, -1
        while True:
            try:
                return await self._attempt("POST", f"{self.base_url}{path}", content)
            except _TransientError as error:
                tries += 1
                if not error.overloaded and self._completed != completed_before:  # else the server fails on all
                    failures += 1
                    completed_before = self._completed
                self._check_patience(error)
                if failures >= self._policy.attempts:
                    raise FailedError(f"the server failed {failures} times; the last failure: {error}") from None
                delay = self._policy.delay(tries, error.wait)
            await asyncio.sleep(delay)

    async def get(self, url: str) -> dict[str, Any] | None:
        """Return the JSON object at an address, with the policy's retries.

        Returns:
            None if the server refuses the request (such as 404), or answers three times with status 500.

        Raises:
            ServerError: If the server rejects the key, or can't be reached for `patience` seconds.
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
                if error.status == 500 and tries >= _GET_ATTEMPTS:  # the server runs, but can't answer this
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
            RefusedError, ServerError, _TransientError: As the status says.
        """
        status, data = response.status_code, _json_object(response)
        fault = data.get("error")
        if 200 <= status < 300 and fault and "choices" not in data:  # a router's report of another server's error
            code = fault.get("code") if isinstance(fault, Mapping) else None
            status = code if isinstance(code, int) and code >= 400 else 500
        if 200 <= status < 300:
            if not data:
                raise _TransientError(f"the server's answer is not a JSON object: {response.text[:_MAX_MESSAGE]!r}")
            return data
        message = _error_message(data, response)
        if status in _TRANSIENT or status >= 500:
            wait = _retry_after(response.headers.get("Retry-After", ""))
            raise _TransientError(f"HTTP {status}: {message}", status in _OVERLOADED, wait, status)
        if status in _UNUSABLE or status < 400:
            raise _UnusableError(self._unusable(url, status, message, response.headers.get("Location", "")), status)
        raise RefusedError(f"the server refuses the request (HTTP {status}): {message}", _parameter(data))

    def _unusable(self, url: str, status: int, message: str, location: str) -> str:
        """Return the error message of a server that refuses every request, with the fix."""
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
        return redact(f"{url} answers {status}: {message}: {advice}.")

    def _check_patience(self, error: _TransientError) -> None:
        """Note a failure.

        Raises:
            ServerError: If nothing was completed for `patience` seconds, or the server asks to wait longer than that.
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
    except ValueError:  # a truncated answer, or a proxy's error page
        return {}
    return data if isinstance(data, dict) else {}


def _error_message(data: Mapping[str, Any], response: Response) -> str:
    """Return the error message in a server's answer."""
    fault = data.get("error", data.get("detail", data.get("message")))
    if isinstance(fault, Mapping):
        fault = fault.get("message") or json.dumps(dict(fault), ensure_ascii=False)
    elif isinstance(fault, list):  # errors of a validation by pydantic
        fault = "; ".join(str(one.get("msg", one)) if isinstance(one, Mapping) else str(one) for one in fault)
    text = " ".join(str(fault or response.text or response.reason_phrase).split())
    return redact(text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}…")


def _parameter(data: Mapping[str, Any]) -> str:
    """Return the field of the request that an error names in OpenAI's `param` or pydantic's `loc`; "" if none."""
    fault, detail = data.get("error"), data.get("detail")
    if isinstance(fault, Mapping) and isinstance(fault.get("param"), str):
        return str(fault["param"])
    first = detail[0] if isinstance(detail, list) and detail else None
    place = first.get("loc") if isinstance(first, Mapping) else None
    return str(place[-1]) if isinstance(place, list) and place else ""


def _retry_after(value: str) -> float:
    """Return the seconds that a `Retry-After` header, a number or a date, asks to wait; 0 without one.

    >>> _retry_after("2.5"), _retry_after(""), _retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (2.5, 0.0, 0.0)
    """
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
