"""What slots keep of rows, and the memory that they take for it."""

import psutil
import pytest
import torch

from hfsynth.engine import kv_cache as module
from hfsynth.engine.kv_cache import KeyValueSlots

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 8


def made(count, capacity):
    slots = KeyValueSlots(count, capacity, CPU)
    slots.layer(0, torch.zeros(1, HEADS, 1, WIDTH), torch.zeros(1, HEADS, 1, 2 * WIDTH))
    return slots


def test_slots_grow_without_losing_what_they_hold():
    slots = made(2, 32)
    slots.layers[0][0][1] = 7.0
    slots.resize(4, 64, lengths=[0, 32])
    keys, values = slots.layers[0]
    assert keys.shape == (4, HEADS, 64, WIDTH)
    assert values.shape == (4, HEADS, 64, 2 * WIDTH)
    assert (keys[1, :, :32] == 7).all()
    assert not keys[:, :, 32:].any()
    assert not keys[0].any()


def test_each_slot_keeps_what_its_row_needs():
    lengths = [1, 3, 64, 0, 40, 5]
    slots = made(6, 64)
    keys, values = slots.layers[0]
    keys[:], values[:] = 5.0, 6.0
    slots.resize(6, 96, lengths)
    for tensor, value in zip(slots.layers[0], (5, 6), strict=True):
        for slot, length in enumerate(lengths):
            assert (tensor[slot, :, :length] == value).all()
        assert not tensor[3].any()
        assert not tensor[:, :, 64:].any()


def test_slots_may_change_places():
    slots = made(3, 32)
    keys, _ = slots.layers[0]
    keys[:] = torch.arange(3.0)[:, None, None, None]
    slots.copy([0, 1, 2], [1, 2, 0], [4, 4, 4])
    assert keys[:, 0, 0, 0].tolist() == [2, 0, 1]
    assert keys[:, 0, 4, 0].tolist() == [0, 1, 2]


def test_slots_that_hold_much_and_little_change_places():
    slots = made(4, 512)
    keys, values = slots.layers[0]
    keys[:] = values[:] = torch.arange(4.0)[:, None, None, None]
    lengths = [2, 500, 30, 400]
    slots.copy([0, 1, 2, 3], [3, 0, 1, 2], lengths)
    for source, target in ((0, 3), (1, 0), (2, 1), (3, 2)):
        for tensor in (keys, values):
            assert (tensor[target, :, : lengths[source]] == source).all()
            assert (tensor[target, :, 2 * lengths[source] :] == target).all()


def test_a_slot_that_is_made_blank_holds_nothing():
    slots = made(3, 32)
    for tensor in slots.layers[0]:
        tensor[:] = torch.nan
    slots.blank(1)
    assert not slots.layers[0][0][1].any()
    assert slots.layers[0][1][[0, 2]].isnan().all()


def test_positions_that_nobody_wrote_take_no_memory():
    process = psutil.Process()
    before = process.memory_info().rss
    slots = made(512, 1 << 14)
    keys, values = slots.layers[0]
    size = keys.nbytes + values.nbytes
    assert size > 3 << 28
    keys[:, :, :10] = 1.0
    assert not values[:, :, :10].any()
    slots.resize(600, 1 << 14, [10] * 512)
    slots.copy([3], [599], [10])
    assert (slots.layers[0][0][599, :, :10] == 1).all()
    assert process.memory_info().rss - before < size / 8


def test_memory_that_the_system_refuses_is_memory_that_ran_out(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module.mmap, "mmap", refuse)
    with pytest.raises(torch.OutOfMemoryError, match="no 1024 bytes for 2 rows"):
        KeyValueSlots(2, 8, CPU).layer(0, *[torch.zeros(1, HEADS, 1, WIDTH)] * 2)


def test_where_memory_runs_out_among_the_layers_the_slots_are_as_they_were_and_empty(monkeypatch):
    slots = made(2, 32)

    def refuse(self, like):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(KeyValueSlots, "_room", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        slots.resize(4, 64, [1])
    assert (slots.count, slots.capacity, slots.layers) == (2, 32, {})
