"""The slots of the KV cache, the memory that they take, and running out of it."""

import psutil
import pytest
import torch

from hfsynth.engine import kv_cache
from hfsynth.engine.kv_cache import (
    KeyValueSlots,
    cache_memory,
    is_out_of_memory,
    split_on_oom,
)
from hfsynth.errors import GenerationError

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 8


def result(count, capacity):
    slots = KeyValueSlots(count, capacity, CPU)
    slots.layer(0, torch.zeros(1, HEADS, 1, WIDTH), torch.zeros(1, HEADS, 1, 2 * WIDTH))
    return slots


def test_slots_resized_keep_their_contents():
    slots = result(2, 32)
    slots.layers[0][0][1] = 7.0
    slots.resize(4, 64, lengths=[0, 32])
    keys, values = slots.layers[0]
    assert keys.shape == (4, HEADS, 64, WIDTH)
    assert values.shape == (4, HEADS, 64, 2 * WIDTH)
    assert (keys[1, :, :32] == 7).all()
    assert not keys[:, :, 32:].any()
    assert not keys[0].any()


def test_slots_resized_keep_each_sequences_length():
    lengths = [1, 3, 64, 0, 40, 5]
    slots = result(6, 64)
    keys, values = slots.layers[0]
    keys[:], values[:] = 5.0, 6.0
    slots.resize(6, 96, lengths)
    for tensor, value in zip(slots.layers[0], (5, 6), strict=True):
        for slot, length in enumerate(lengths):
            assert (tensor[slot, :, :length] == value).all()
        assert not tensor[3].any()
        assert not tensor[:, :, 64:].any()


def test_slots_may_change_places():
    slots = result(3, 32)
    keys, _ = slots.layers[0]
    keys[:] = torch.arange(3.0)[:, None, None, None]
    slots.copy([0, 1, 2], [1, 2, 0], [4, 4, 4])
    assert keys[:, 0, 0, 0].tolist() == [2, 0, 1]
    assert keys[:, 0, 4, 0].tolist() == [0, 1, 2]


def test_slots_that_hold_much_and_little_change_places():
    slots = result(4, 512)
    keys, values = slots.layers[0]
    keys[:] = values[:] = torch.arange(4.0)[:, None, None, None]
    lengths = [2, 500, 30, 400]
    slots.copy([0, 1, 2, 3], [3, 0, 1, 2], lengths)
    for source, target in ((0, 3), (1, 0), (2, 1), (3, 2)):
        for tensor in (keys, values):
            assert (tensor[target, :, : lengths[source]] == source).all()
            assert (tensor[target, :, 2 * lengths[source] :] == target).all()


def test_slot_blanked_is_zero():
    slots = result(3, 32)
    for tensor in slots.layers[0]:
        tensor[:] = torch.nan
    slots.blank(1)
    assert not slots.layers[0][0][1].any()
    assert slots.layers[0][1][[0, 2]].isnan().all()


def test_positions_that_nobody_wrote_take_no_memory():
    process = psutil.Process()
    before = process.memory_info().rss
    slots = result(512, 1 << 14)
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

    monkeypatch.setattr(kv_cache.mmap, "mmap", refuse)
    with pytest.raises(torch.OutOfMemoryError, match="no 1024 bytes for 2 rows"):
        KeyValueSlots(2, 8, CPU).layer(0, *[torch.zeros(1, HEADS, 1, WIDTH)] * 2)


def test_slots_resize_out_of_memory_leaves_them_empty(monkeypatch):
    slots = result(2, 32)

    def refuse(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(kv_cache.mmap, "mmap", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        slots.resize(4, 64, [1])
    assert (slots.count, slots.capacity, slots.layers) == (2, 32, {})


def test_cache_memory_of_a_cpu_is_a_share_of_the_systems(monkeypatch):
    system = psutil.virtual_memory()._replace(available=12345)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: system)
    assert cache_memory(CPU) == 4938


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB", "and more"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_split_on_oom_recognises_every_wording(error):
    def compute(items):
        if len(items) > 2:
            raise error
        return list(items)

    assert split_on_oom(compute, range(7), str) == list(range(7))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        GenerationError("out of memory with a row of 9 tokens"),
    ],
)
def test_is_out_of_memory_of_other_errors_is_false(error):
    assert not is_out_of_memory(error)
