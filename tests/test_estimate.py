import numpy as np
import pytest
from datasets import Dataset

from hfsynth.generation import Completion
from hfsynth.previewing.estimate import Range, estimate
from hfsynth.previewing.trying import Call, TriedRow, TriedStep
from hfsynth.running.rounds import DatasetRows, EmptyRows, Goal

TRIES = 300


def row(index, tokens, **fate):
    completion = Completion(
        text="", finish_reason="stop", prompt_tokens=tokens // 2, completion_tokens=tokens - tokens // 2
    )
    return TriedRow(index, (Call("", "", completion),), **fate)


def step(*rows, seconds=1.0, model="m"):
    made = sum(one.kept for one in rows)
    return TriedStep(
        name="a",
        model=model,
        rows=rows,
        seconds=seconds,
        rows_in=len(rows),
        rows_out=made,
        failed_in=sum(not one.sound for one in rows),
        failed_out=made - sum(one.accepted for one in rows),
    )


def sieve(*kept):
    return step(
        *(TriedRow(index, error="" if keep else "bad", kept=keep) for index, keep in enumerate(kept)), model=""
    )


def over(steps, rows, measured=16, goal=None):
    source = EmptyRows(num_rows=rows)
    return estimate(steps, source, measured, goal)


def test_rows_and_tokens_are_carried_from_step_to_step():
    many = step(row(0, 10, kept=3), row(1, 30, kept=1), seconds=2)
    answers = step(*(row(index, 100) for index in range(4)), seconds=4)
    found = over([many, answers], 1000)
    assert found.rows.expected == 2000  # two of one
    assert found.tokens.expected == 1000 * 20 + 2000 * 100
    assert found.hours.expected == pytest.approx((1000 * 2 / 2 + 2000 * 4 / 4) / 3600)


def test_rows_on_which_a_step_fails_are_told_apart_from_accepted_ones_in_every_later_step():
    first = step(row(0, 10, error="tired"), *(row(index, 10) for index in range(1, 4)))
    second = step(
        TriedRow(0, error="generation is None", sound=False),
        row(1, 8, error="tired"),
        row(2, 8, kept=2),
        row(3, 8),
    )
    found = over([first, second], 400)
    assert (found.rows.expected, found.failed.expected) == pytest.approx((300, 200))
    assert found.tokens.expected == pytest.approx(400 * 10 + 300 * 8)


def test_where_all_rows_were_tried_there_is_nothing_to_guess():
    found = over([step(row(0, 10), row(1, 30))], 2, measured=2)
    assert found.tokens == Range(40, 40, 40)
    assert found.exact


def test_what_a_filter_drops_is_not_carried_on():
    found = over([sieve(0, 1), step(row(0, 50))], 100)
    assert (found.rows.expected, found.tokens.expected) == (50, 2500)
    assert found.rows.low < 50 < found.rows.high


def test_a_filter_that_dropped_nothing_and_one_that_dropped_all_may_be_otherwise_with_other_rows():
    kept, dropped = over([sieve(*[1] * 16)], 1000).rows, over([sieve(*[0] * 16)], 1000).rows
    assert (kept.expected, kept.high) == (1000, 1000)
    assert 850 < kept.low < 950
    assert (dropped.expected, dropped.low) == (0, pytest.approx(0, abs=1))
    assert 50 < dropped.high < 150


def test_of_a_function_a_share_is_known_and_has_a_range():
    function = TriedStep("f", "", (), 0.1, rows_in=8, rows_out=2)
    found = over([function], 100).rows
    assert found.expected == 25
    assert found.low < 15 < 40 < found.high


def test_failed_rows_that_a_function_removes_are_gone():
    first = step(row(0, 10, error="tired"), row(1, 10))
    function = TriedStep("f", "", (), 0.1, rows_in=2, rows_out=1, failed_in=1, failed_out=0)
    found = over([first, function], 100)
    assert (found.rows.expected, found.failed.expected) == (50, 0)


def test_a_step_that_no_row_came_to_adds_nothing():
    unreached = TriedStep("a", "m", (), 0.0, rows_in=0, rows_out=0)
    assert over([sieve(0), unreached], 100).rows.expected == 0
    assert over([sieve(0), unreached], 100).tokens.high == 0


def test_the_same_rows_give_the_same_estimate():
    steps = [step(*(row(n, n * 7 % 50) for n in range(9)))]
    assert over(steps, 1000) == over(steps, 1000)


def test_a_goal_is_reached_after_as_many_rows_as_it_takes_in_whole_chunks():
    found = over([sieve(*[1, 0] * 8), step(*(row(n, 50) for n in range(8)))], None, goal=Goal(1000))
    assert found.tried.expected == 128 + 512 + 1408  # as `Spent.next_round` says
    assert found.tried.low < 2048 < found.tried.high
    assert found.rows == Range(1000, 1000, 1000)
    assert found.tokens.expected == 2048 / 2 * 50


@pytest.mark.parametrize(("goal", "rows"), [(Goal(1000, max_rows=300), None), (Goal(1000), 300)])
def test_where_the_input_or_its_limit_ends_before_the_goal_fewer_rows_are_accepted(goal, rows):
    found = over([sieve(1, 0), step(row(0, 50))], rows, goal=goal)
    assert found.tried == Range(300, 300, 300)
    assert found.rows.expected == 150


def test_no_more_is_tried_than_the_tokens_do_for():
    found = over([step(row(0, 50), row(1, 50))], None, goal=Goal(1000, max_tokens=20_000))
    assert 128 <= found.tried.expected <= 400
    assert round(found.tokens.high) <= 20_000


def test_a_dataset_is_as_long_as_it_is():
    source = DatasetRows(Dataset.from_dict({"a": list(range(30))}))
    assert estimate([sieve(1, 0)], source, 16).rows.expected == 15


def coverage(shares, truth):
    """How often the range holds the truth."""
    return sum(found.low <= truth <= found.high for found in shares) / TRIES


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_range_of_rows_holds_the_truth_in_more_than_five_of_six_tries(share):
    rng = np.random.default_rng(1)
    tried = (over([sieve(*(int(drawn > share) for drawn in rng.random(16)))], 10_000) for _ in range(TRIES))
    assert coverage((found.rows for found in tried), 10_000 * (1 - share)) >= 0.85


def test_the_range_of_rows_tried_for_a_goal_holds_the_truth_as_often():
    rng = np.random.default_rng(2)
    tried = (
        over([sieve(*(int(drawn > 0.5) for drawn in rng.random(16)))], None, goal=Goal(1000)) for _ in range(TRIES)
    )
    assert coverage((found.tried for found in tried), 2048) >= 0.85


@pytest.mark.parametrize("spread", [0.2, 0.7, 1.0])
def test_the_range_of_tokens_holds_the_truth_as_often_though_their_tail_is_long(spread):
    rng = np.random.default_rng(3)
    tried = (
        over([step(*(row(n, round(drawn)) for n, drawn in enumerate(rng.lognormal(5, spread, 16))))], 10_000)
        for _ in range(TRIES)
    )
    assert coverage((found.tokens for found in tried), 10_000 * np.exp(5 + spread**2 / 2)) >= 0.85
