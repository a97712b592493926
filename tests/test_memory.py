import torch

from hfsynth.llms.memory import available_memory, free_memory


def test_there_is_some_memory_left_and_asking_costs_none():
    before = available_memory(torch.device("cpu"))
    free_memory()
    assert available_memory(torch.device("cpu")) > 2**20
    assert before > 2**20
