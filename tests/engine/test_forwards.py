"""The trial of a model's attention, and forwards."""

import logging

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    Gemma2Config,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    Mamba2Config,
    PhimoeConfig,
    Qwen2MoeConfig,
)

from hfsynth.engine import cuda as cuda_module
from hfsynth.engine import forwards
from hfsynth.engine.attention import BUCKETS, Segment
from hfsynth.engine.cuda import VARLEN, CudaForwards
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.forwards import (
    BucketForwards,
    attention_of,
    forwards_of,
    has_attention_backend,
    install_attention,
)
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.scoring import supports_logits_to_keep
from tests.tiny import generated, letters, next_of, prompt, reference_kernel, tiny, tokenized

MAMBA = {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "expand": 2, "chunk_size": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
WINDOW = {"use_sliding_window": True, "sliding_window": 32, "layer_types": ["sliding_attention"] * 2}
CHUNKED = {"attention_chunk_size": 32, "head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 64}
UNFIT = [
    (Qwen2MoeConfig, {**MOE, **WINDOW}, "sliding window"),
    (PhimoeConfig, {"sliding_window": 32, "num_local_experts": 4}, "sliding window"),
    (Llama4TextConfig, {**CHUNKED, "num_hidden_layers": 4}, "has layers of type ['chunked_attention']"),
    (Gemma2Config, {"head_dim": 16}, "softcap"),
    (Mamba2Config, MAMBA, "Mamba2ForCausalLM has an attention that can't be replaced"),
    (
        LlamaConfig,
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        "depends on the longest row",
    ),
]


@pytest.mark.parametrize(
    ("config", "sizes", "reason"), UNFIT, ids=["window", "window too", "chunks", "capped", "states", "dynamic"]
)
def test_install_attention_incompatible_names_the_reason(config, sizes, reason):
    model = tiny(config, **sizes)
    before = generated(model, prompt(10), 6)
    assert reason in install_attention(model)
    assert model.config._attn_implementation != BUCKETS
    assert generated(model, prompt(10), 6) == before


def test_a_kernel_that_returns_other_strides_is_no_obstacle(monkeypatch):
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(  # as one for GPUs does: what is returned lies token by token, not head by head
        F,
        "scaled_dot_product_attention",
        lambda *received, **options: kernel(*received, **options).transpose(1, 2).contiguous().transpose(1, 2),
    )
    assert install_attention(tiny()) == ""


def test_learned_positions_are_no_obstacle():
    model = tiny(GPT2Config, n_embd=64, n_head=4, n_layer=2)
    assert install_attention(model) == ""


def test_install_attention_without_logits_to_keep_is_refused():
    def some(module, inputs, options):
        if not isinstance(options.get("logits_to_keep", 0), int):
            raise RuntimeError("indices should be on the same device")

    model = tiny()
    model.register_forward_pre_hook(some, with_kwargs=True)
    assert "indices should be on the same device" in install_attention(model)


def test_install_attention_with_other_logits_is_refused():

    model = tiny()
    assert install_attention(model) == ""
    own = tiny()
    own.model.layers[0].self_attn.register_forward_hook(
        lambda module, inputs, output: (output[0] * (2 if module.config._attn_implementation == BUCKETS else 1), None)
    )
    assert "computes something else with another attention" in install_attention(own)


def test_transformers_private_attributes_are_unchanged():
    """The private attributes of models that are read, each in a function of its own."""
    model = tiny()
    assert has_attention_backend(model) is True
    assert has_attention_backend(tiny(Mamba2Config, **MAMBA)) is False
    assert attention_of(model) == "sdpa"
    assert install_attention(model) == ""
    assert attention_of(model) == BUCKETS
    assert supports_logits_to_keep(model) is True


@pytest.fixture
def gpu(monkeypatch):
    """Let a CPU do what a GPU does, but for CUDA graphs: the layout of slots, and a reference of the kernel."""
    monkeypatch.setattr(cuda_module, "flash_attention", reference_kernel)
    monkeypatch.setattr(
        KeyValueSlots,
        "_zeros",
        lambda self, like: like.new_zeros(self.count, self.capacity, like.shape[1], like.shape[3]).transpose(1, 2),
    )


@pytest.mark.usefixtures("gpu")
def test_cuda_forwards_agree_with_bucket_forwards():
    model = tiny()
    assert install_attention(model) == ""
    texts = [prompt(length, seed=length) for length in (3, 9, 5)]
    tokens = [token for text in texts for token in text]
    buckets = BucketForwards(model, KeyValueSlots(3, 64, model.device))
    segments = [Segment(slot, 0, len(text)) for slot, text in enumerate(texts)]
    with torch.inference_mode():
        expected = [buckets.prefill(tokens, segments, [2, 11, 16])]
        expected += [buckets.decode([7, 8, 9], range(3), [3 + n, 9 + n, 5 + n]) for n in range(2)]
        model.set_attn_implementation(VARLEN)
        slots = KeyValueSlots(20, 64, model.device)
        cuda = forwards_of(model, slots)
        assert isinstance(cuda, CudaForwards)
        places = [11, 0, 4]
        segments = [Segment(place, 0, len(text)) for place, text in zip(places, texts, strict=True)]
        computed = [cuda.prefill(tokens, segments, [2, 11, 16])]
        computed.append(cuda.decode([7, 8, 9], places, [3, 9, 5]))
        slots.resize(30, 96, [64] * 20)
        computed.append(cuda.decode([7, 8, 9], places, [4, 10, 6]))
    for ours, theirs in zip(computed, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.usefixtures("gpu")
def test_loop_by_cuda_forwards_equals_generate():
    """More rows than slots, some with a shared beginning, and one so long that slots are resized."""
    model, shared = tiny(), prompt(40, seed=99)
    prompts = [[*shared[: number % 3 * 20], *prompt(3 + number, seed=number)] for number in range(14)]
    prompts.append(prompt(380, seed=50))
    requests = [tokenized(one, max_new_tokens=6 + number) for number, one in enumerate(prompts)]
    expected = [generated(model, one, 6 + number) for number, one in enumerate(prompts)]
    assert install_attention(model) == ""
    model.set_attn_implementation(VARLEN)
    loop = DecodeLoop(model, letters, 5)
    results = dict(loop.run(next_of(requests)))
    assert [results[request].token_ids for request in requests] == expected
    assert loop.stats.reused >= 20


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("is_wrong", [False, True])
def test_install_attention_prefers_varlen_where_it_is_right(monkeypatch, caplog, is_wrong):
    monkeypatch.setattr(forwards, "has_varlen_kernel", lambda model: True)
    if is_wrong:
        monkeypatch.setattr(cuda_module, "flash_attention", lambda query, *rest: query)
    model = tiny()
    with caplog.at_level(logging.WARNING):
        assert install_attention(model) == ""
    assert attention_of(model) == (BUCKETS if is_wrong else VARLEN)
    assert ["computes something else" in record.getMessage() for record in caplog.records] == [True] * is_wrong
