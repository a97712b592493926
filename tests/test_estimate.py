import statistics

import pytest

from hfsynth.generation import Completion
from hfsynth.previewing.estimate import Range, estimate
from hfsynth.previewing.trying import Call, TriedRow, TriedStep


def row(index, tokens, kept=1):
    completion = Completion(
        text="", finish_reason="stop", prompt_tokens=tokens // 2, completion_tokens=tokens - tokens // 2
    )
    return TriedRow(index, (Call("", "", completion),), kept=kept)


def step(*rows, seconds=1.0, rows_out=None):
    return TriedStep("a", "m", rows, seconds, sum(one.kept for one in rows) if rows_out is None else rows_out)


def test_rows_and_tokens_are_carried_from_step_to_step():
    many = step(row(0, 10, kept=3), row(1, 30, kept=1), seconds=2)
    answers = step(*(row(index, 100) for index in range(4)), seconds=4)
    found = estimate([many, answers], 1000)
    assert found.rows.expected == 2000  # two of one
    assert found.tokens.expected == 1000 * 20 + 2000 * 100
    assert found.hours.expected == pytest.approx((1000 * 2 / 2 + 2000 * 4 / 4) / 3600)


def test_the_range_holds_nine_in_ten_draws_of_the_rows():
    tokens = [10, 20, 30, 40, 100, 10, 20, 30, 40, 100]
    found = estimate([step(*(row(n, count) for n, count in enumerate(tokens)))], 1000)
    error = statistics.pstdev(tokens) / len(tokens) ** 0.5 * 1000
    assert found.tokens.expected == 1000 * statistics.mean(tokens)
    assert found.tokens.low == pytest.approx(found.tokens.expected - 1.645 * error, rel=0.1)
    assert found.tokens.high == pytest.approx(found.tokens.expected + 1.645 * error, rel=0.1)


def test_where_all_rows_were_tried_there_is_nothing_to_guess():
    found = estimate([step(row(0, 10), row(1, 30))], 2)
    assert found.tokens == Range(40, 40, 40)


def test_what_a_filter_drops_is_not_carried_on():
    dropped = TriedStep("f", "", (TriedRow(0, kept=0), TriedRow(1)), 0.1, 1)
    found = estimate([dropped, step(row(0, 50))], 100)
    assert (found.rows.expected, found.tokens.expected) == (50, 2500)
    assert found.rows.low < 50 < found.rows.high


def test_a_functions_share_is_carried_on_though_nobody_knows_which_rows_it_dropped():
    function = TriedStep("f", "", tuple(TriedRow(n) for n in range(4)), 0.1, 1)
    found = estimate([function], 100)
    assert found.rows == Range(25, 25, 25)


def test_where_no_row_is_left_nothing_is_made():
    nothing = TriedStep("f", "", (TriedRow(0, kept=0),), 0.1, 0)
    assert estimate([nothing, TriedStep("a", "m", (), 0.0, 0)], 100).rows.expected == 0


def test_the_same_rows_give_the_same_estimate():
    steps = [step(*(row(n, n * 7 % 50) for n in range(9)))]
    assert estimate(steps, 1000) == estimate(steps, 1000)
