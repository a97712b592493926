import pytest
import torch
import torch.nn.functional as F
from accelerate.hooks import AlignDevicesHook
from transformers import (
    Gemma2Config,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    Mamba2Config,
    PhimoeConfig,
    Qwen2MoeConfig,
)

from hfsynth.engine.attention import NAME, PrefillBatch, Segment, forward
from hfsynth.engine.compatibility import install_attention
from hfsynth.engine.kv_cache import KeyValueSlots
from tests.tiny import generated, prompt, tiny

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
    assert model.config._attn_implementation != NAME
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
        lambda module, inputs, output: (output[0] * (2 if module.config._attn_implementation == NAME else 1), None)
    )
    assert "computes something else with another attention" in install_attention(own)


def test_forward_on_several_devices_keeps_the_batch_in_place():
    model, observed = tiny(), []
    hook = AlignDevicesHook(execution_device="meta", io_same_device=True)

    def moved(module, inputs, options):
        observed.append(hook.pre_forward(module, logits_to_keep=options["logits_to_keep"])[1]["logits_to_keep"])

    assert install_attention(model) == ""
    model.register_forward_pre_hook(moved, with_kwargs=True)
    slots = KeyValueSlots(1, 32, model.device)
    kept = forward(model, prompt(8), PrefillBatch(slots, [Segment(0, 0, 8)], model.device), [2, 7])
    full = forward(model, prompt(8), PrefillBatch(slots, [Segment(0, 0, 8)], model.device))
    assert torch.allclose(kept, full[[2, 7]], atol=1e-4)
    assert observed == [[2, 7], 0]
