import json
import time

import httpx2
import pytest
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hfsynth import PushError
from hfsynth.publish.retry import is_passing, persistently, status_of

REQUEST = httpx2.Request("GET", "http://hub")


def answer(status, **headers):
    response = httpx2.Response(
        status, headers={name.replace("_", "-"): value for name, value in headers.items()}, request=REQUEST
    )
    return HfHubHTTPError(f"answer {status}", response=response)


@pytest.fixture
def pauses(monkeypatch):
    made = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def failing(*errors):
    left = list(errors)

    def call():
        if left:
            raise left.pop(0)
        return "done"

    return call


@pytest.mark.parametrize(
    "error", [answer(409), answer(412), answer(429), answer(503), httpx2.ConnectError("no")], ids=str
)
def test_what_may_pass_is_tried_again(error, pauses):
    assert persistently("asking", failing(error, error)) == "done"
    assert len(pauses) == 2


@pytest.mark.parametrize(
    "error", [answer(400), answer(401), answer(404), ValueError("x"), OfflineModeIsEnabled("o")], ids=str
)
def test_what_will_not_pass_is_raised_at_once(error, pauses):
    with pytest.raises(type(error)):
        persistently("asking", failing(error))
    assert pauses == []


def test_after_eight_tries_it_is_an_error_that_says_what_failed(pauses):
    with pytest.raises(PushError, match=r"asking failed 8 times: answer 503\. Try again later"):
        persistently("asking", failing(*[answer(503)] * 8))
    assert len(pauses) == 7
    assert pauses[0] < pauses[3] < pauses[6] <= 40


def test_interrupt_behind_which_a_failure_lies_is_raised(pauses):
    """An interrupt that comes while the client handles a broken connection carries that failure as its context."""
    error = KeyboardInterrupt()
    error.__context__ = httpx2.ConnectError("no")
    with pytest.raises(KeyboardInterrupt):
        persistently("asking", failing(error))
    assert pauses == []


def test_retry_is_logged_with_its_reason_and_pause(pauses, caplog):
    persistently("asking", failing(answer(503, Retry_After="17")))
    assert caplog.messages == ["asking failed: answer 503; again in 17 seconds"]


def test_request_is_limited_to_300_seconds_and_only_while_made():
    before = get_session().timeout
    limit = persistently("asking", lambda: get_session().timeout)
    assert (limit.read, limit.connect) == (300, 30)
    assert get_session().timeout == before


def test_as_long_as_the_hub_says_is_waited(pauses):
    persistently("asking", failing(answer(429, Retry_After="17")))
    assert pauses == [17]


def test_a_rate_limit_is_waited_for_to_its_end(pauses):
    limited = answer(429)
    limited.response.headers["RateLimit"] = '"api";r=0;t=240'
    persistently("asking", failing(limited))
    assert pauses == [241]


def test_an_error_behind_another_counts():
    error = RuntimeError("while uploading")
    error.__cause__ = answer(500)
    assert is_passing(error)
    assert (status_of(error), status_of(error.__cause__)) == (None, 500)


def test_an_error_page_instead_of_an_answer_may_pass():
    assert is_passing(json.JSONDecodeError("an error page", "", 0))
