import pytest

from hfsynth import LLM, EchoLLM, SamplingParams


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
    with pytest.raises(ValueError, match=rf"SamplingParams\.{name} is .*must be"):
        SamplingParams(**{name: value})


def test_equal_sampling_is_equal_however_it_was_written():
    assert SamplingParams(temperature=1, stop=["a"]) == SamplingParams(temperature=1.0, stop=("a",))


def test_any_class_with_the_right_methods_is_an_llm():
    assert isinstance(EchoLLM(), LLM)
    assert not isinstance("gpt2", LLM)
