import weakref

import pytest
import torch
from torch import nn
from transformers import LongcatFlashConfig

from hfsynth.engine import model as packing
from hfsynth.engine.model import PackedLinear, pack_linears
from tests.tiny import prompt, tiny

BFLOAT16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU packs no bfloat16 weights"
    ),
)


def logits(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


def test_packed_layers_compute_the_same():
    model = tiny()
    expected = logits(model, prompt(20))
    assert pack_linears(model) == 2 * 7 + 1
    assert not any(type(layer) is nn.Linear for layer in model.modules())
    assert torch.allclose(logits(model, prompt(20)), expected, atol=1e-4)


def test_a_bias_is_kept():
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 16), torch.randn(2, 3, 32)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(layer)(x), layer(x), atol=1e-5)


LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 24}
ROUTED = {"n_routed_experts": 4, "expert_ffn_hidden_size": 32, "moe_topk": 2, "zero_expert_num": 2}


def test_a_model_may_use_the_weight_of_a_layer_by_itself():
    model = tiny(LongcatFlashConfig, num_layers=2, num_key_value_heads=4, head_dim=16, **LATENT, **ROUTED)
    expected = logits(model, prompt(20))
    pack_linears(model)
    assert torch.allclose(logits(model, prompt(20)), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [BFLOAT16, torch.float32], ids=str)
def test_a_weight_is_given_back_as_it_was(dtype):
    layer = nn.Linear(33, 77, dtype=dtype)
    assert torch.equal(PackedLinear(layer).weight, layer.weight)


@pytest.mark.parametrize("dtype", [BFLOAT16, torch.float32], ids=str)
def test_a_rows_product_is_the_same_to_the_bit_in_any_company(dtype):
    torch.manual_seed(0)
    layer, x = PackedLinear(nn.Linear(576, 1536, bias=False, dtype=dtype)), torch.randn(200, 576, dtype=dtype)
    with torch.inference_mode():
        whole = layer(x)
        for count in (2, 3, 16, 33, 64, 100):
            assert torch.equal(layer(x[50 : 50 + count]), whole[50 : 50 + count])


def test_only_one_layer_at_a_time_is_there_twice(monkeypatch):
    model = tiny()
    layers = weakref.WeakSet(layer for layer in model.modules() if type(layer) is nn.Linear)
    left = []

    def packed(layer):
        left.append(len(layers))
        return PackedLinear(layer)

    monkeypatch.setattr(packing, "PackedLinear", packed)
    assert pack_linears(model) == 15
    assert left == list(range(15, 0, -1))


def test_a_dtype_that_can_not_be_packed_is_left_alone():
    model = tiny(dtype=torch.float64)
    assert pack_linears(model) == 0
    assert any(type(layer) is nn.Linear for layer in model.modules())
