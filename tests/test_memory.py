import torch

from hfsynth.llms.memory import available_memory, cache_bytes_per_token, free_memory
from tests.tiny import tiny


def test_there_is_some_memory_left_and_asking_costs_none():
    before = available_memory(torch.device("cpu"))
    free_memory()
    assert available_memory(torch.device("cpu")) > 2**20
    assert before > 2**20


def test_what_a_token_takes_is_told_by_the_configuration():
    assert cache_bytes_per_token(tiny()) == 2 * 2 * 2 * 16 * 4
    assert cache_bytes_per_token(tiny(dtype=torch.bfloat16, head_dim=32, num_key_value_heads=1)) == 2 * 2 * 1 * 32 * 2
