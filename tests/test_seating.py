import pytest
import torch

from hfsynth.engine.attention import cost, windows
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.scheduler import Row, Seating, common
from tests.tiny import job


def seating(count=4, capacity=1024):
    """Slots whose one layer says at each position which token is there."""
    made = Seating(KeyValueSlots(count, capacity, torch.device("cpu")))
    made.slots.layer(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    return made


def sit(seats, tokens):
    """Seat a row that has read all of its tokens."""
    row = Row(job(tokens), [])
    seats.seat(row)
    slot = seats._seats.index(row)
    seats.adopt(slot, slot, 0)
    row.filled = len(tokens)
    seats.slots.layers[0][0][slot, 0, : len(tokens), 0] = torch.tensor(tokens).float()
    return row


def stored(seats, slot, length):
    return seats.slots.layers[0][0][slot, 0, :length, 0].int().tolist()


def test_a_row_sits_where_most_of_its_beginning_is():
    seats = seating()
    rows = [sit(seats, [n, n + 1, n + 2, n + 3]) for n in (10, 20, 30, 40)]
    for row in rows:
        seats.free(row)
    seats.seat(Row(job([30, 31, 32, 9]), []))
    assert seats._seats[2] is not None
    assert seats.longest_beginning([30, 31, 32, 9], 2) == (2, 3)
    assert seats.longest_beginning([20, 21], 2) == (1, 2)


def test_what_is_adopted_is_copied_and_nothing_else_of_the_slot_counts():
    seats = seating()
    sit(seats, [5, 6, 7, 8])
    late = Row(job([5, 6, 9]), [])
    seats.seat(late)
    seats.adopt(1, 0, 2)
    assert late.filled == 2
    assert seats.held(1) == [5, 6]
    assert stored(seats, 1, 4) == [5, 6, 0, 0]


def test_gaps_are_closed_by_the_last_rows_with_what_they_hold():
    seats = seating()
    rows = [sit(seats, [n] * n) for n in (1, 2, 3, 4)]
    seats.free(rows[0])
    seats.free(rows[1])
    seats.close_ranks()
    assert [row.filled for row in seats.rows] == [3, 4]
    assert [stored(seats, slot, 3) for slot in (0, 1)] == [[3, 3, 3], [4, 4, 4]]
    assert seats.held(0) == [3, 3, 3]


def test_rows_of_near_lengths_come_to_sit_together_and_keep_what_they_hold():
    seats = seating(40)
    lengths = [(n * 217) % 600 + 1 for n in range(40)]
    rows = [sit(seats, [length] * length) for length in lengths]
    device = seats.slots.device
    before = cost(windows([n + 1 for n in lengths], device), device)
    seats.arrange()
    after = [row.filled for row in seats.rows]
    assert sorted(after) == sorted(lengths)
    assert set(seats.rows) == set(rows)
    assert cost(windows([n + 1 for n in after], device), device) < 0.8 * before
    for slot, row in enumerate(seats.rows):
        assert stored(seats, slot, row.filled) == row.known


def test_rows_that_lose_their_slots_keep_their_tokens_only():
    seats = seating()
    rows = [sit(seats, [n, n]) for n in range(4)]
    assert seats.resize(2, 2048) == rows[2:]
    assert [row.filled for row in rows] == [2, 2, 0, 0]
    assert [stored(seats, slot, 2) for slot in (0, 1)] == [[0, 0], [1, 1]]
    assert not seats.has_room


def test_where_memory_runs_out_among_the_layers_nothing_that_slots_hold_is_trusted():
    seats = seating()
    rows = [sit(seats, [n] * 4) for n in (1, 2, 3)]
    seats.slots.layers[1] = (None, None)  # the second layer can't be copied
    seats.free(rows[0])

    def half(sources, targets, length, whole=seats.slots.copy):
        del seats.slots.layers[1]
        whole(sources, targets, length)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    seats.slots.copy = half
    with pytest.raises(torch.OutOfMemoryError):
        seats.close_ranks()
    assert [row.filled for row in seats.rows] == [0, 0]
    assert [seats.held(slot) for slot in range(4)] == [[]] * 4


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_the_common_beginning_ends_at_the_first_token_that_differs(length):
    text = list(range(length))
    assert common([*text, -1, 7], [*text, -2, 7]) == length
    assert common(text, [*text, 5]) == length
