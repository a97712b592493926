"""Assignment of sequences to slots, admission and preemption; real sequences are in test_decode_loop.py."""

import random

import pytest
import torch

from hfsynth import GenerationError
from hfsynth.engine.attention import length_buckets, read_cost
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.scheduler import CAPACITY, Scheduler, Sequence, SlotTable, common_prefix_len
from tests.tiny import next_of, tokenized


def room(limit=4, tokens=4 * CAPACITY):
    """Slots of which one layer is written."""
    result = Scheduler(KeyValueSlots(min(limit, tokens // CAPACITY), CAPACITY, torch.device("cpu")), limit, tokens)
    result.table.slots.layer(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    return result


def fill(result, take):
    """Seat rows while there are any, and say that they have read all they have."""
    while row := result.admit(take):
        assert result.allocate(row)
    for row in result.sequences:
        row.num_cached = len(row.token_ids) - 1
    return [len(row.token_ids) for row in result.sequences]


def lengths(*each):
    return next_of([tokenized([1] * length) for length in each])


def test_scheduler_admits_sequences_within_memory():
    assert fill(room(), lengths(20, 20, 20, 20, 20)) == [20] * 4
    assert fill(room(), lengths(20, 700, 20)) == [20, 700]
    assert fill(room(8), lengths(20, 20, 1500, 30)) == [20, 20, 30]


def test_scheduler_admits_a_waiting_sequence_first():
    result, take = room(8), lengths(20, 20, 1500)
    assert fill(result, take) == [20, 20]
    for row in result.sequences:
        result.table.release(row)
    assert fill(result, take) == [1500]
    assert (result.table.slots.count, result.table.slots.capacity) == (1, 1536)


@pytest.mark.parametrize(("limit", "after"), [(40, (40, CAPACITY)), (30, (28, 544))])
def test_scheduler_shortens_slots_for_many_sequences(limit, after):
    result, take = room(limit, 40 * CAPACITY), lengths(400, *[20] * 60)
    fill(result, take)
    assert (result.table.slots.count, result.table.slots.capacity) == (28, 544)
    result.table.release(max(result.sequences, key=lambda row: len(row.token_ids)))
    fill(result, take)
    assert (result.table.slots.count, result.table.slots.capacity) == after


def test_scheduler_allocate_too_long_returns_false():
    result = room()
    assert not result.allocate(result.admit(lengths(1600)))
    assert result.sequences == []
    assert result.is_pristine


def test_scheduler_extend_preempts_few_long_ones():
    result = room()
    assert fill(result, lengths(20, 30, 384, 40)) == [20, 30, 384, 40]
    long = result.sequences[2]
    long.generated += [5]
    assert result.extend() == []
    assert sorted(len(row.token_ids) for row in result.sequences) == [20, 30, 40]
    assert long.num_cached == 0, "nothing is kept of it but its tokens"


def test_scheduler_extend_preempts_the_shortest():
    result = room()
    assert fill(result, lengths(384, 380, 384, 384)) == [384, 380, 384, 384]
    for row in result.sequences:
        row.generated += [5] * 5
    assert result.extend() == []
    assert [len(row.token_ids) for row in result.sequences] == [389, 389, 389]
    assert result.table.slots.capacity >= 389


def test_scheduler_preempt_half_keeps_the_shorter():
    result = room()
    fill(result, lengths(20, 300, 30, 200))
    assert result.preempt_half() == []
    assert [len(row.token_ids) for row in result.sequences] == [20, 30]
    assert not result.is_pristine
    assert fill(result, lengths()) == [20, 30], "no more than memory held"


def test_scheduler_preempt_half_of_one_sequence():
    result = room()
    fill(result, lengths(700))
    assert result.preempt_half() == []
    (lost,) = result.preempt_half()
    assert (len(lost.token_ids), result.sequences) == (700, [])
    other = room()
    fill(other, lengths(20))
    assert other.preempt_half() == []
    with pytest.raises(GenerationError, match="row of 20 tokens"):
        other.preempt_half()


def test_scheduler_extend_grows_slots_geometrically():
    result, sizes = room(4, 100 * CAPACITY), []
    fill(result, lengths(20))
    (row,) = result.sequences
    for _ in range(2000):
        row.generated.append(5)
        assert result.extend() == []
        sizes += [result.table.slots.capacity] * (result.table.slots.capacity not in sizes)
    assert sizes == [384, 576, 864, 1312, 2048]


def slot_table(count=4, capacity=1024):
    """Slots whose one layer says at each position which token is there."""
    result = SlotTable(KeyValueSlots(count, capacity, torch.device("cpu")))
    result.slots.layer(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    return result


def sit(seats, tokens):
    """Seat a row that has read all of its tokens."""
    row = Sequence(tokenized(tokens), [])
    seats.assign(row)
    slot = seats._sequences.index(row)
    seats.reuse_prefix(slot, slot, 0)
    row.num_cached = len(tokens)
    seats.slots.layers[0][0][slot, 0, : len(tokens), 0] = torch.tensor(tokens).float()
    return row


def stored(seats, slot, length):
    return seats.slots.layers[0][0][slot, 0, :length, 0].int().tolist()


def test_slot_table_assigns_the_slot_with_the_prefix():
    seats = slot_table()
    rows = [sit(seats, [n, n + 1, n + 2, n + 3]) for n in (10, 20, 30, 40)]
    for row in rows:
        seats.release(row)
    seats.assign(Sequence(tokenized([30, 31, 32, 9]), []))
    assert seats._sequences[2] is not None
    assert seats.longest_shared_prefix([30, 31, 32, 9], 2) == (2, 3)
    assert seats.longest_shared_prefix([20, 21], 2) == (1, 2)


def test_slot_table_reuse_prefix_copies_that_prefix():
    seats = slot_table()
    sit(seats, [5, 6, 7, 8])
    late = Sequence(tokenized([5, 6, 9]), [])
    seats.assign(late)
    seats.reuse_prefix(1, 0, 2)
    assert late.num_cached == 2
    assert seats.cached_tokens(1) == [5, 6]
    assert stored(seats, 1, 4) == [5, 6, 0, 0]


def test_slot_table_compact_moves_the_last_sequences():
    seats = slot_table()
    rows = [sit(seats, [n] * n) for n in (1, 2, 3, 4)]
    seats.release(rows[0])
    seats.release(rows[1])
    seats.compact()
    assert [row.num_cached for row in seats.sequences] == [3, 4]
    assert [stored(seats, slot, 3) for slot in (0, 1)] == [[3, 3, 3], [4, 4, 4]]
    assert seats.cached_tokens(0) == [3, 3, 3]


def test_slot_table_group_by_length_keeps_contents():
    seats = slot_table(40)
    lengths = [(n * 217) % 600 + 1 for n in range(40)]
    rows = [sit(seats, [length] * length) for length in lengths]
    device = seats.slots.device
    before = read_cost(length_buckets([n + 1 for n in lengths], device), device)
    seats.group_by_length()
    after = [row.num_cached for row in seats.sequences]
    assert sorted(after) == sorted(lengths)
    assert set(seats.sequences) == set(rows)
    assert read_cost(length_buckets([n + 1 for n in after], device), device) < 0.8 * before
    for slot, row in enumerate(seats.sequences):
        assert stored(seats, slot, row.num_cached) == row.token_ids


def test_slot_table_resize_evicts_sequences():
    seats = slot_table()
    rows = [sit(seats, [n, n]) for n in range(4)]
    assert seats.resize(2, 2048) == rows[2:]
    assert [row.num_cached for row in rows] == [2, 2, 0, 0]
    assert [stored(seats, slot, 2) for slot in (0, 1)] == [[0, 0], [1, 1]]
    assert len(seats.sequences) == 2


def test_slot_table_out_of_memory_forgets_contents():
    seats = slot_table()
    rows = [sit(seats, [n] * 4) for n in (1, 2, 3)]
    seats.slots.layers[1] = (None, None)  # the second layer can't be copied
    seats.release(rows[0])

    def half(sources, targets, length, full=seats.slots.copy):
        del seats.slots.layers[1]
        full(sources, targets, length)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    seats.slots.copy = half
    with pytest.raises(torch.OutOfMemoryError):
        seats.compact()
    assert [row.num_cached for row in seats.sequences] == [0, 0]
    assert [seats.cached_tokens(slot) for slot in range(4)] == [[]] * 4


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_common_prefix_len_ends_at_a_difference(length):
    text = list(range(length))
    assert common_prefix_len([*text, -1, 7], [*text, -2, 7]) == length
    assert common_prefix_len(text, [*text, 5]) == length


def test_longest_shared_prefix_equals_comparing_with_every_slot():
    """With few different tokens, so that beginnings are shared and several slots tie."""
    draw = random.Random(0)

    def text(limit):
        return [draw.randrange(2) for _ in range(draw.randint(1, limit))]

    for _ in range(300):
        seats = slot_table(6)
        for _ in range(4):
            sequence = Sequence(tokenized(text(8)), [])
            free = [slot for slot in range(6) if slot not in dict(seats.assigned)]
            prompt = sequence.request.prompt_ids
            wanted = max(free, key=lambda slot: common_prefix_len(seats.cached_tokens(slot), prompt))
            seats.assign(sequence)
            assert seats.sequence(wanted) is sequence
            sequence.generated += text(4)
            sequence.num_cached = draw.randint(0, sequence.num_tokens)
            if draw.random() < 0.4:
                seats.release(sequence)
        wanted_text, own = text(10), draw.randrange(6)
        shared = {slot: common_prefix_len(seats.cached_tokens(slot), wanted_text) for slot in range(6)}
        best = max(shared, key=lambda slot: (shared[slot], slot == own))
        assert seats.longest_shared_prefix(wanted_text, own) == (best, shared[best])
        for sequence in seats.sequences:
            for count in range(1, len(wanted_text) + 1):
                expected = sequence.token_ids[:count] == wanted_text[:count]
                assert sequence.begins_with(wanted_text, count) is expected
