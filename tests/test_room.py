"""Which rows sit and which wait; the rows of real decode loops are in test_decoding.py."""

import pytest
import torch

from hfsynth import GenerationError
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.scheduler import CAPACITY, Room
from tests.tiny import job, taker


def room(most=4, tokens=4 * CAPACITY):
    """Slots of which one layer is written."""
    made = Room(KeyValueSlots(min(most, tokens // CAPACITY), CAPACITY, torch.device("cpu")), most, tokens)
    made.seating.slots.layer(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    return made


def fill(made, take):
    """Seat rows while there are any, and say that they have read all they have."""
    while row := made.next(take):
        assert made.seat(row)
    for row in made.rows:
        row.filled = len(row.known) - 1
    return [len(row.known) for row in made.rows]


def lengths(*each):
    return taker([job([1] * length) for length in each])


def test_rows_sit_as_long_as_memory_holds_them():
    assert fill(room(), lengths(20, 20, 20, 20, 20)) == [20] * 4
    assert fill(room(), lengths(20, 700, 20)) == [20, 700]
    assert fill(room(8), lengths(20, 20, 1500, 30)) == [20, 20, 30]


def test_one_that_waits_sits_down_as_soon_as_there_is_room():
    made, take = room(8), lengths(20, 20, 1500)
    assert fill(made, take) == [20, 20]
    for row in made.rows:
        made.seating.free(row)
    assert fill(made, take) == [1500]
    assert (made.seating.slots.count, made.seating.slots.capacity) == (1, 1536)


@pytest.mark.parametrize(("most", "after"), [(40, (40, CAPACITY)), (30, (28, 544))])
def test_slots_are_made_shorter_for_many_more_rows_and_not_for_a_few(most, after):
    made, take = room(most, 40 * CAPACITY), lengths(400, *[20] * 60)
    fill(made, take)
    assert (made.seating.slots.count, made.seating.slots.capacity) == (28, 544)
    made.seating.free(max(made.rows, key=lambda row: len(row.known)))
    fill(made, take)
    assert (made.seating.slots.count, made.seating.slots.capacity) == after


def test_a_row_too_long_for_all_of_memory_gets_no_slot():
    made = room()
    assert not made.seat(made.next(lengths(1600)))
    assert made.rows == []
    assert made.is_whole


def test_few_rows_that_grow_wait_for_many_that_do_not():
    made = room()
    assert fill(made, lengths(20, 30, 384, 40)) == [20, 30, 384, 40]
    long = made.rows[2]
    long.tokens += [5]
    assert made.grow() == []
    assert sorted(len(row.known) for row in made.rows) == [20, 30, 40]
    assert long.filled == 0, "nothing is kept of it but its tokens"


def test_of_many_rows_that_grow_those_wait_that_are_soonest_read_again():
    made = room()
    assert fill(made, lengths(384, 380, 384, 384)) == [384, 380, 384, 384]
    for row in made.rows:
        row.tokens += [5] * 5
    assert made.grow() == []
    assert [len(row.known) for row in made.rows] == [389, 389, 389]
    assert made.seating.slots.capacity >= 389


def test_where_memory_runs_out_the_longer_half_waits():
    made = room()
    fill(made, lengths(20, 300, 30, 200))
    assert made.halve() == []
    assert [len(row.known) for row in made.rows] == [20, 30]
    assert not made.is_whole
    assert fill(made, lengths()) == [20, 30], "no more than memory held"


def test_one_long_row_is_given_up_and_one_short_row_is_an_error():
    made = room()
    fill(made, lengths(700))
    assert made.halve() == []
    (lost,) = made.halve()
    assert (len(lost.known), made.rows) == (700, [])
    other = room()
    fill(other, lengths(20))
    assert other.halve() == []
    with pytest.raises(GenerationError, match="out of memory with one row of 20 tokens"):
        other.halve()


def test_slots_grow_by_half_where_memory_has_that_for_all_of_them():
    made, sizes = room(4, 100 * CAPACITY), []
    fill(made, lengths(20))
    (row,) = made.rows
    for _ in range(2000):
        row.tokens.append(5)
        assert made.grow() == []
        sizes += [made.seating.slots.capacity] * (made.seating.slots.capacity not in sizes)
    assert sizes == [384, 576, 864, 1312, 2048]
