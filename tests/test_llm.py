from dataclasses import replace

import pytest

from hfsynth import (
    LLM,
    EchoLLM,
    Request,
    SamplingParams,
)
from hfsynth.llm import Requests


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -1),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("min_p", 2),
        ("stop", [""]),
    ],
)
def test_a_sampling_value_out_of_range_is_an_error_that_names_it(name, value):
    with pytest.raises(ValueError, match=rf"SamplingParams\.{name} must be .*, got "):
        SamplingParams(**{name: value})


def test_equal_sampling_is_equal_however_it_was_written():
    assert SamplingParams(temperature=1, stop=["a"]) == SamplingParams(temperature=1.0, stop=("a",))


def test_any_class_with_the_right_methods_is_an_llm():
    assert isinstance(EchoLLM(), LLM)
    assert not isinstance("gpt2", LLM)


def test_requests_put_first_are_taken_first():
    requests = Requests()
    for key in "abc":
        requests.put(key, Request(messages=()), first=key == "c")
    requests.put("d", Request(messages=()), first=True)
    assert len(requests) == 4
    assert [requests.take()[0] for _ in range(4)] == ["c", "d", "a", "b"]
    assert requests.take() is None


def test_more_requests_are_asked_for_only_when_none_waits():
    asked = []

    def more():
        asked.append(len(requests))
        if len(asked) < 3:
            requests.put(len(asked), Request(messages=()))

    requests = Requests(more)
    requests.put(0, Request(messages=()))
    assert [requests.take()[0] for _ in range(3)] == [0, 1, 2]
    assert requests.take() is None
    assert asked == [0, 0, 0]


def test_llm_without_files_has_an_empty_files_state():
    assert EchoLLM().files_state() == ""


def test_request_with_new_seed_keeps_its_other_fields():
    tools = ({"type": "function", "function": {"name": "look_up"}},)
    request = Request(
        messages=({"role": "user", "content": "Hi"},), role="user", seed=1, tools=tools, choices=("a", "b")
    )
    assert request.with_seed(2) == replace(request, seed=2)
    assert request.seed == 1
