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
    MixtralConfig,
    OlmoeConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from hfsynth.llms.attention import NAME, forward
from hfsynth.llms.packing import pack_linears
from hfsynth.llms.passes import Prefill, Segment, Step
from hfsynth.llms.slots import KeyValueSlots
from hfsynth.llms.trial import adopt_attention, is_batch_invariant
from tests.tiny import generated, prompt, tiny

MAMBA = {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "expand": 2, "chunk_size": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
WINDOW = {"use_sliding_window": True, "sliding_window": 32, "layer_types": ["sliding_attention"] * 2}
CHUNKED = {"attention_chunk_size": 32, "head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 64}
UNFIT = [
    (Qwen2MoeConfig, {**MOE, **WINDOW}, "keeps its window to itself"),
    (PhimoeConfig, {"sliding_window": 32, "num_local_experts": 4}, "keeps its window to itself"),
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
def test_a_model_that_needs_more_keeps_its_own_attention_and_says_why(config, sizes, reason):
    model = tiny(config, **sizes)
    before = generated(model, prompt(10), 6)
    assert reason in adopt_attention(model)
    assert model.config._attn_implementation != NAME
    assert generated(model, prompt(10), 6) == before


def test_a_kernel_that_returns_other_strides_is_no_obstacle(monkeypatch):
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(  # as one for GPUs does: what is returned lies token by token, not head by head
        F,
        "scaled_dot_product_attention",
        lambda *given, **options: kernel(*given, **options).transpose(1, 2).contiguous().transpose(1, 2),
    )
    assert adopt_attention(tiny()) == ""


def test_learned_positions_are_no_obstacle():
    model = tiny(GPT2Config, n_embd=64, n_head=4, n_layer=2)
    assert adopt_attention(model) == ""


def test_a_model_that_does_not_give_the_logits_of_some_places_alone_is_noticed():
    def some(module, inputs, options):
        if not isinstance(options.get("logits_to_keep", 0), int):
            raise RuntimeError("indices should be on the same device")

    model = tiny()
    model.register_forward_pre_hook(some, with_kwargs=True)
    assert "indices should be on the same device" in adopt_attention(model)


def test_another_result_is_noticed():

    model = tiny()
    assert adopt_attention(model) == ""
    own = tiny()
    own.model.layers[0].self_attn.register_forward_hook(
        lambda module, inputs, output: (output[0] * (2 if module.config._attn_implementation == NAME else 1), None)
    )
    assert "computes something else with another attention" in adopt_attention(own)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("heads", "width"), [(4, 64), (2, 64), (1, 64), (2, 128), (1, 256)])
def test_packed_on_a_cpu_a_row_is_the_same_to_the_bit_in_any_company(dtype, heads, width):
    model = tiny(dtype=dtype, num_key_value_heads=heads, head_dim=width)
    pack_linears(model)
    assert adopt_attention(model) == ""
    assert is_batch_invariant(model)


def test_the_logits_of_a_single_place_are_the_same_to_the_bit_as_among_others():
    model = tiny(hidden_size=2048)
    pack_linears(model)
    assert adopt_attention(model) == ""
    assert is_batch_invariant(model)


LOOKS = {
    "at how many there are": lambda tokens: tokens.shape[1] == 7,
    "at texts": lambda tokens: tokens.shape[1] == 40 and len(tokens.unique()) > 1,
}


@pytest.mark.parametrize("looks", LOOKS.values(), ids=LOOKS)
def test_a_model_that_looks_at_other_rows_is_found_out(looks):
    model = tiny(num_key_value_heads=1)
    pack_linears(model)
    assert adopt_attention(model) == ""
    assert is_batch_invariant(model)
    model.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: output * 1.1 if looks(inputs[0]) else output
    )
    assert not is_batch_invariant(model)


ROUTED = {"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@pytest.mark.parametrize("config", [MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig])
def test_nothing_is_claimed_of_a_model_whose_tokens_choose_their_weights(config):
    model = tiny(config, dtype=torch.bfloat16, **ROUTED, shared_expert_intermediate_size=32)
    pack_linears(model)
    assert adopt_attention(model) == ""
    assert not is_batch_invariant(model)


def test_what_is_claimed_of_attention_is_tried_with_the_heads_of_the_model():
    model = tiny(num_key_value_heads=4, head_dim=64)
    pack_linears(model)
    assert adopt_attention(model) == ""
    tokens, slots = prompt(20), KeyValueSlots(1, 32, model.device)
    read = forward(model, tokens, Prefill(slots, [Segment(0, 0, 20)], model.device))[-1]
    written = forward(model, tokens[-1:], Step(slots, [19]))[-1]
    assert torch.equal(read, written) or not is_batch_invariant(model)


def test_places_stay_where_they_are_in_a_model_on_several_devices():
    model, seen = tiny(), []
    hook = AlignDevicesHook(execution_device="meta", io_same_device=True)

    def moved(module, inputs, options):
        seen.append(hook.pre_forward(module, logits_to_keep=options["logits_to_keep"])[1]["logits_to_keep"])

    assert adopt_attention(model) == ""
    model.register_forward_pre_hook(moved, with_kwargs=True)
    slots = KeyValueSlots(1, 32, model.device)
    kept = forward(model, prompt(8), Prefill(slots, [Segment(0, 0, 8)], model.device), [2, 7])
    whole = forward(model, prompt(8), Prefill(slots, [Segment(0, 0, 8)], model.device))
    assert torch.allclose(kept, whole[[2, 7]], atol=1e-4)
    assert seen == [[2, 7], 0]
