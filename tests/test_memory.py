import pytest
import torch

from hfsynth.errors import GenerationError
from hfsynth.llms.memory import (
    available_memory,
    cache_bytes_per_token,
    compute_fitting,
    free_memory,
    is_out_of_memory,
)
from tests.tiny import tiny


def test_there_is_some_memory_left_and_asking_costs_none():
    before = available_memory(torch.device("cpu"))
    free_memory()
    assert available_memory(torch.device("cpu")) > 2**20
    assert before > 2**20


def test_what_a_token_takes_is_told_by_the_configuration():
    assert cache_bytes_per_token(tiny()) == 2 * 2 * 2 * 16 * 4
    assert cache_bytes_per_token(tiny(dtype=torch.bfloat16, head_dim=32, num_key_value_heads=1)) == 2 * 2 * 1 * 32 * 2


TOLD = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB", "and more"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
]


@pytest.mark.parametrize("error", TOLD, ids=lambda error: str(error)[:30])
def test_in_whatever_words_memory_runs_out_less_is_tried(error):
    def compute(items):
        if len(items) > 2:
            raise error
        return list(items)

    assert compute_fitting(compute, range(7), str) == list(range(7))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        GenerationError("out of memory with a row of 9 tokens"),
    ],
)
def test_another_error_is_none_of_memory(error):
    assert not is_out_of_memory(error)
