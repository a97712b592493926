import pytest
import torch
from transformers import DeepseekV3Config, Gemma4TextConfig, GPTBigCodeConfig, LlamaConfig

from hfsynth.engine import memory
from hfsynth.engine.compatibility import adopt_attention
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.memory import (
    available_memory,
    cache_bytes_per_token,
    compute_fitting,
    free_memory,
    is_out_of_memory,
)
from hfsynth.errors import GenerationError
from tests.tiny import WORDS, job, letters, prompt, taker, tiny


def test_there_is_some_memory_left_and_asking_costs_none():
    before = available_memory(torch.device("cpu"))
    free_memory()
    assert available_memory(torch.device("cpu")) > 2**20
    assert before > 2**20


GEMMA = {"head_dim": 16, "global_head_dim": 32, "num_hidden_layers": 6, "sliding_window": 24}
PER_LAYER = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": WORDS}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8, "v_head_dim": 40}
KEPT = [
    (LlamaConfig, {}, 2 * 2 * 2 * 16 * 4),
    (LlamaConfig, {"head_dim": 32, "num_key_value_heads": 1}, 2 * 2 * 1 * 32 * 4),
    (GPTBigCodeConfig, {"n_embd": 64, "n_head": 4, "n_layer": 2}, 2 * 2 * 1 * 16 * 4),
    (Gemma4TextConfig, {**GEMMA, **PER_LAYER}, 2 * (5 * 2 * 16 + 1 * 2 * 32) * 4),
    (DeepseekV3Config, {**LATENT, "num_key_value_heads": 4, "first_k_dense_replace": 2}, 2 * 4 * (32 + 40) * 4),
]


@pytest.mark.parametrize(("config", "sizes", "kept"), KEPT, ids=["llama", "one head", "shared", "widths", "latent"])
def test_what_a_token_takes_is_what_slots_keep_of_it(config, sizes, kept):
    model = tiny(config, **sizes)
    assert adopt_attention(model) == ""
    assert cache_bytes_per_token(model) == {torch.device("cpu"): kept}
    loop = DecodeLoop(model, letters, 2)
    list(loop.run(taker([job(prompt(20))])))
    slots = loop._seating.slots
    assert sum(t.nbytes for pair in slots.layers.values() for t in pair) == kept * slots.count * slots.capacity


def test_the_device_with_the_least_room_for_its_layers_says_how_many_tokens_fit(monkeypatch):
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    monkeypatch.setattr(memory, "cache_bytes_per_token", lambda model: {first: 100, second: 300})
    monkeypatch.setattr(memory, "available_memory", lambda device: {first: 20_000, second: 30_000}[device])
    assert memory.tokens_fitting(None) == 80


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
