import pytest

from tests.tiny import job, letters


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [([1, 2], None), ([1, 9], "stop"), ([1, 2, 3], "stop"), ([5] * 11, None), ([5] * 12, "length"), ([9], "stop")],
)
def test_a_completion_ends_by_an_end_token_a_stop_text_or_its_length(tokens, reason):
    assert job([], ends=[9], stop=["23"]).ended(tokens, letters) == reason


def test_a_stop_text_may_begin_inside_a_token():
    words = ["He", "llo ST", "OP it"]
    assert job([], stop=["STOP"]).ended([0, 1, 2], lambda tokens: "".join(words[t] for t in tokens)) == "stop"


def test_an_end_token_in_the_last_place_is_an_end_and_no_cut():
    assert job([], ends=[9], max_new_tokens=1).ended([9], letters) == "stop"


def test_a_stop_text_is_found_where_every_token_is_a_byte_of_a_character():
    stop = "質問と回答例"
    written = list(f"abc {stop}".encode())
    one = job([1], stop=(stop,), max_new_tokens=100)
    assert one.ended(written, lambda tokens: bytes(tokens).decode(errors="replace")) == "stop"
