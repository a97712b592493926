import numpy as np
import pytest
from datasets import Dataset

from hfsynth.dry_run import Call, Range, TriedRow, TriedStep, estimate
from hfsynth.llm import Completion
from hfsynth.runner.rounds import DatasetRows, EmptyRows, Target

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


def test_range_of_filter_that_dropped_none_or_all_is_wide():
    kept, dropped = over([sieve(*[1] * 16)], 1000).rows, over([sieve(*[0] * 16)], 1000).rows
    assert (kept.expected, kept.high) == (1000, 1000)
    assert 800 < kept.low < 900
    assert (dropped.expected, dropped.low) == (0, pytest.approx(0, abs=1))
    assert 100 < dropped.high < 200


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
    found = over([sieve(*[1, 0] * 8), step(*(row(n, 50) for n in range(8)))], None, goal=Target(1000))
    assert found.tried.expected == 128 + 512 + 1408  # as `Usage.next_round` says
    assert found.tried.low < 2048 < found.tried.high
    assert found.rows == Range(1000, 1000, 1000)
    assert found.tokens.expected == 2048 / 2 * 50


@pytest.mark.parametrize(("goal", "rows"), [(Target(1000, max_rows=300), None), (Target(1000), 300)])
def test_where_the_input_or_its_limit_ends_before_the_goal_fewer_rows_are_accepted(goal, rows):
    found = over([sieve(1, 0), step(row(0, 50))], rows, goal=goal)
    assert found.tried == Range(300, 300, 300)
    assert found.rows.expected == 150


def test_no_more_is_tried_than_the_tokens_do_for():
    found = over([step(row(0, 50), row(1, 50))], None, goal=Target(1000, max_tokens=20_000))
    assert 128 <= found.tried.expected <= 400
    assert round(found.tokens.high) <= 20_000


def test_a_dataset_is_as_long_as_it_is():
    source = DatasetRows(Dataset.from_dict({"a": list(range(30))}))
    assert estimate([sieve(1, 0)], source, 16).rows.expected == 15


def coverage(ranges, truth):
    """Return the share of ranges that hold the truth; of 300 with 90%, one standard deviation is 1.7%."""
    return sum(found.low <= truth <= found.high for found in ranges) / TRIES


def filtered(rng, rows, drop_rate):
    return sieve(*(int(number > drop_rate) for number in rng.random(rows)))


def answered(rng, rows, spread):
    return step(*(row(index, round(tokens)) for index, tokens in enumerate(rng.lognormal(5, spread, rows))))


@pytest.mark.parametrize(("drop_rate", "rows"), [(0.05, 16), (0.2, 16), (0.5, 16), (0.2, 64)])
def test_range_of_rows_holds_truth_in_90_percent(drop_rate, rows):
    rng = np.random.default_rng(1)
    found = (over([filtered(rng, rows, drop_rate)], 10_000, rows).rows for _ in range(TRIES))
    assert coverage(found, 10_000 * (1 - drop_rate)) >= 0.86


def test_range_of_rows_tried_for_goal_holds_truth_in_90_percent():
    rng = np.random.default_rng(2)
    found = (over([filtered(rng, 16, 0.5)], None, goal=Target(1000)).tried for _ in range(TRIES))
    assert coverage(found, 2048) >= 0.86


@pytest.mark.parametrize("spread", [0.2, 0.7, 1.0])
def test_range_of_tokens_with_long_tail_holds_truth_in_90_percent(spread):
    rng = np.random.default_rng(3)
    found = (over([answered(rng, 16, spread)], 10_000).tokens for _ in range(TRIES))
    assert 0.86 <= coverage(found, 10_000 * np.exp(5 + spread**2 / 2)) <= 0.96


def test_range_of_tokens_of_chain_holds_truth_in_90_percent():
    rng = np.random.default_rng(4)

    def chain():
        kept = filtered(rng, 16, 0.3)
        return [answered(rng, 16, 0.7), kept, answered(rng, max(kept.rows_out, 1), 0.5)]

    found = (over(chain(), 10_000).tokens for _ in range(TRIES))
    truth = 10_000 * (np.exp(5 + 0.7**2 / 2) + 0.7 * np.exp(5 + 0.5**2 / 2))
    assert 0.86 <= coverage(found, truth) <= 0.96


def test_range_with_four_times_the_rows_is_about_half_as_wide():
    few, many = (over([sieve(*[1, 0] * half)], 10_000, 2 * half).rows for half in (16, 64))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.05)
