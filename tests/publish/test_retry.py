import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hfsynth import PushError
from hfsynth.publish.retry import is_transient, status_of, with_retries

REQUEST = httpx2.Request("GET", "http://hub")


def answer(status, **headers):
    response = httpx2.Response(
        status, headers={name.replace("_", "-"): value for name, value in headers.items()}, request=REQUEST
    )
    return HfHubHTTPError(f"answer {status}", response=response)


@pytest.fixture
def pauses(monkeypatch):
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def failing(*errors):
    remaining = list(errors)

    def call():
        if remaining:
            raise remaining.pop(0)
        return "done"

    return call


@pytest.mark.parametrize(
    "error", [answer(409), answer(412), answer(429), answer(503), httpx2.ConnectError("no")], ids=str
)
def test_with_retries_transient_error_is_retried(error, pauses):
    assert with_retries("asking", failing(error, error)) == "done"
    assert len(pauses) == 2


@pytest.mark.parametrize(
    "error", [answer(400), answer(401), answer(404), ValueError("x"), OfflineModeIsEnabled("o")], ids=str
)
def test_with_retries_lasting_error_is_raised_at_once(error, pauses):
    with pytest.raises(type(error)):
        with_retries("asking", failing(error))
    assert pauses == []


def test_with_retries_gives_up_after_eight_attempts(pauses):
    with pytest.raises(PushError, match=r"asking failed 8 times: answer 503"):
        with_retries("asking", failing(*[answer(503)] * 8))
    assert len(pauses) == 7
    assert pauses[0] < pauses[3] < pauses[6] <= 40


def test_with_retries_interrupt_is_raised_at_once(pauses):
    """An interrupt while the client handles a broken connection has that failure as its context."""
    error = KeyboardInterrupt()
    error.__context__ = httpx2.ConnectError("no")
    with pytest.raises(KeyboardInterrupt):
        with_retries("asking", failing(error))
    assert pauses == []


def test_with_retries_logs_reason_and_pause(pauses, caplog):
    with_retries("asking", failing(answer(503, Retry_After="17")))
    (message,) = caplog.messages
    assert "answer 503" in message
    assert "17 seconds" in message


def test_with_retries_limits_requests_to_300_seconds():
    before = get_session().timeout
    limit = with_retries("asking", lambda: get_session().timeout)
    assert (limit.read, limit.connect) == (300, 30)
    assert get_session().timeout == before


def test_with_retries_in_two_threads_keeps_the_limit():
    """The second thread asks while the first one ends, and the client is as before in the end."""
    before, entered, ended = get_session().timeout, threading.Event(), threading.Event()

    def ask_long():
        entered.set()
        assert ended.wait(10)
        return get_session().timeout

    with ThreadPoolExecutor() as threads:

        def ask_first():
            long = threads.submit(with_retries, "asking", ask_long)
            assert entered.wait(10)
            return long

        long = with_retries("asking", ask_first)
        ended.set()
        assert long.result().read == 300
    assert get_session().timeout == before


def test_with_retries_waits_as_long_as_retry_after_says(pauses):
    with_retries("asking", failing(answer(429, Retry_After="17")))
    assert pauses == [17]


def test_with_retries_waits_until_rate_limit_resets(pauses):
    limited = answer(429)
    limited.response.headers["RateLimit"] = '"api";r=0;t=240'
    with_retries("asking", failing(limited))
    assert pauses == [241]


def test_is_transient_counts_the_cause_of_an_error():
    error = RuntimeError("while uploading")
    error.__cause__ = answer(500)
    assert is_transient(error)
    assert (status_of(error), status_of(error.__cause__)) == (None, 500)


def test_is_transient_error_page_instead_of_json_counts():
    assert is_transient(json.JSONDecodeError("an error page", "", 0))
