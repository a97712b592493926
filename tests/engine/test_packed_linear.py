"""Linear layers with packed weights: what is stored, and that they compute the same."""

import threading
import weakref

import pytest
import torch
from torch import nn
from transformers import GPT2Config, LongcatFlashConfig, Qwen2MoeConfig

from hfsynth.engine import packed_linear
from hfsynth.engine.packed_linear import (
    Float16Weight,
    OneDnnWeight,
    PackedLinear,
    can_pack,
    consists_of_linears,
    faster_cpu_dtype,
    has_fbgemm,
    is_float16,
    pack_linears,
    packing_of,
    seconds_of_product,
)
from tests.tiny import prompt, tiny

LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 24}
ROUTED = {"n_routed_experts": 4, "expert_ffn_hidden_size": 32, "moe_topk": 2, "zero_expert_num": 2}
needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU packs no bfloat16 weights"
)
needs_fbgemm = pytest.mark.skipif(not has_fbgemm(), reason="this torch has no FBGEMM")
KINDS = [
    pytest.param((torch.float32, torch.float32), id="float32"),
    pytest.param((torch.bfloat16, torch.float32), id="float32 of bfloat16 numbers", marks=needs_fbgemm),
    pytest.param((torch.float16, torch.float32), id="float32 of float16 numbers", marks=needs_fbgemm),
    pytest.param((torch.bfloat16, torch.bfloat16), id="bfloat16", marks=needs_bfloat16),
]


@pytest.fixture(params=KINDS)
def rounded(request):
    """Return a module with its weights rounded to one type and stored by torch in another; how they are packed."""
    numbers, dtype = request.param
    kind = OneDnnWeight if numbers is dtype else Float16Weight
    return lambda module: module.to(numbers).to(dtype), kind


def logits(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].float()


def test_packed_layers_compute_the_same(rounded):
    convert, kind = rounded
    model = convert(tiny())
    expected = logits(model, prompt(20))
    assert pack_linears(model) == 2 * 7 + 1
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | PackedLinear)]
    assert {type(layer.packed) for layer in layers} == {kind}
    tolerance = 0.05 if model.dtype is torch.bfloat16 else 1e-4
    assert torch.allclose(logits(model, prompt(20)), expected, atol=tolerance * float(expected.abs().max()))


def test_a_bias_is_kept(rounded):
    torch.manual_seed(0)
    layer = rounded[0](nn.Linear(32, 16))
    x = torch.randn(2, 3, 32, dtype=layer.weight.dtype)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(layer)(x), layer(x), atol=0.02 if x.dtype is torch.bfloat16 else 1e-5)


def test_a_packed_weight_equals_the_layers_weight(rounded):
    layer = rounded[0](nn.Linear(33, 77))
    weight, expected = PackedLinear(layer).weight, layer.weight.detach()
    if torch.equal(expected, expected.bfloat16()) and expected.dtype is torch.float32:
        assert torch.allclose(weight, expected, rtol=0, atol=2**-25)
    else:
        assert torch.equal(weight, expected)
    assert weight.dtype is expected.dtype


def test_a_rows_product_is_the_same_to_the_bit_in_any_company(rounded):
    convert, kind = rounded
    torch.manual_seed(0)
    layer = PackedLinear(convert(nn.Linear(576, 1536, bias=False)))
    x = torch.randn(200, 576, dtype=layer.weight.dtype)
    with torch.inference_mode():
        full = layer(x)
        # oneDNN has kernels of its own for a single row, which the loop never asks for
        for count in (2, 3, 16, 33, 64, 100, *([1] if kind is Float16Weight else [])):
            assert torch.equal(layer(x[50 : 50 + count]), full[50 : 50 + count])


@needs_fbgemm
def test_inputs_are_not_rounded_to_float16():
    weight = torch.eye(32)
    x = torch.full((2, 32), 1 + 2**-20)
    x[1] = 1e6
    assert torch.equal(Float16Weight(weight, None).multiply(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_weights_of_a_16_bit_checkpoint_are_stored_in_float16(dtype, scale):
    torch.manual_seed(0)
    assert is_float16((torch.randn(512, 512) * scale).to(dtype).float())


OTHER_WEIGHTS = {
    "more digits": lambda: torch.randn(64, 64),
    "more digits in the last rows": lambda: torch.cat([torch.zeros(5000, 1024), torch.randn(4, 1024)]),
    "too large": lambda: torch.tensor([[1.0, 70000.0]]),
    "far too large": lambda: torch.tensor([[1.0, 1e38]]),
    "infinite": lambda: torch.tensor([[1.0, -torch.inf]]),
    "not a number": lambda: torch.tensor([[1.0, torch.nan]]),
    "small": lambda: (torch.randn(64, 64) * 1e-6).bfloat16().float(),
    "far too small": lambda: torch.full((4, 4), 1e-30),
}


@pytest.mark.parametrize("kind", OTHER_WEIGHTS)
def test_other_weights_are_stored_in_float32(kind):
    torch.manual_seed(0)
    weight = OTHER_WEIGHTS[kind]()
    assert not is_float16(weight)
    assert packing_of(weight) is OneDnnWeight


@needs_fbgemm
@pytest.mark.parametrize(("shape", "kind"), [((65536, 32256), Float16Weight), ((65536, 32257), OneDnnWeight)])
def test_fbgemm_packs_no_weight_whose_size_is_beyond_its_numbers(shape, kind, monkeypatch):
    monkeypatch.setattr(packed_linear, "is_float16", lambda weight: True)
    assert packing_of(torch.empty(shape, device="meta")) is kind


def test_weights_of_zeros_are_stored_in_float16():
    assert is_float16(torch.zeros(4, 4))


def test_without_fbgemm_weights_are_stored_in_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.quantized, "engine", "onednn")
    assert not has_fbgemm()
    assert packing_of(torch.eye(4)) is OneDnnWeight


def test_a_model_may_use_the_weight_of_a_layer_by_itself():
    model = tiny(LongcatFlashConfig, num_layers=2, num_key_value_heads=4, head_dim=16, **LATENT, **ROUTED)
    expected = logits(model, prompt(20))
    pack_linears(model)
    assert torch.allclose(logits(model, prompt(20)), expected, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16], ids=str)
def test_no_more_layers_than_threads_are_there_twice(numbers, threads, monkeypatch):
    model = tiny(num_hidden_layers=8).to(numbers).float()
    layers = weakref.WeakSet(layer for layer in model.modules() if type(layer) is nn.Linear)
    total, packed, surplus, lock = len(layers), [], [], threading.Lock()

    def counting(layer, kind):
        replacement = PackedLinear(layer, kind)
        with lock:
            packed.append(replacement.in_features)
            surplus.append(len(layers) + len(packed) - total)
        return replacement

    monkeypatch.setattr(packed_linear, "PackedLinear", counting)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert pack_linears(model) == total == 8 * 7 + 1
    assert 1 <= max(surplus) <= threads
    assert not layers


def test_a_layer_that_can_not_be_packed_is_an_error_in_any_thread(monkeypatch):
    def refusing(weight, bias):
        raise RuntimeError("no memory")

    monkeypatch.setattr(packed_linear, "packing_of", lambda weight: Float16Weight)
    monkeypatch.setattr(Float16Weight, "__init__", lambda self, weight, bias: refusing(weight, bias))
    with pytest.raises(RuntimeError, match="no memory"):
        pack_linears(tiny())


def test_a_layer_of_a_type_without_kernels_is_left_alone(monkeypatch):
    model = tiny()
    model.lm_head.to(torch.float64)
    model.model.layers[0].mlp.up_proj.to(torch.bfloat16)
    monkeypatch.setattr(packed_linear, "can_pack", lambda dtype: dtype is torch.float32)  # as without bfloat16
    assert pack_linears(model) == 15 - 2
    assert type(model.lm_head) is type(model.model.layers[0].mlp.up_proj) is nn.Linear


def test_a_model_of_experts_does_not_consist_of_linears():
    assert consists_of_linears(tiny())
    sizes = {
        "num_experts": 16,
        "shared_expert_intermediate_size": 64,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
    }
    assert not consists_of_linears(tiny(Qwen2MoeConfig, **sizes))
    assert not consists_of_linears(tiny(GPT2Config, n_embd=64, n_layer=2, n_head=4))  # Conv1D


def test_a_dtype_that_can_not_be_packed_is_left_alone():
    model = tiny(dtype=torch.float64)
    assert pack_linears(model) == 0
    assert any(type(layer) is nn.Linear for layer in model.modules())


def test_a_model_without_linear_layers_is_left_alone():
    model = nn.Sequential(nn.Embedding(4, 4))
    model.device, model.dtype = torch.device("cpu"), torch.float32
    assert pack_linears(model) == 0


def test_torchs_private_packing_operations_are_unchanged():
    """The private operations of torch that are used have the arguments that they are called with."""
    names = {
        "mkldnn::_reorder_linear_weight": ["self", "batch_size"],
        "mkldnn::_linear_pointwise": ["X", "W", "B", "attr", "scalars", "algorithm"],
        "quantized::linear_prepack_fp16": ["W", "B"],
        "quantized::linear_dynamic_fp16": ["X", "W_prepack"],
        "quantized::linear_unpack_fp16": ["W_prepack"],
    }
    for name, arguments in names.items():
        namespace, operation = name.split("::")
        schema = getattr(getattr(torch.ops, namespace), operation).default._schema
        assert [argument.name for argument in schema.arguments] == arguments
    assert can_pack(torch.float32) is True
    assert can_pack(torch.bfloat16) is torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert can_pack(torch.float16) is False


def test_a_product_of_a_type_is_measured_once():
    for is_packed in (True, False):
        first = seconds_of_product(torch.float32, torch.get_num_threads(), is_packed)
        assert 0 < first == seconds_of_product(torch.float32, torch.get_num_threads(), is_packed)


def test_a_wide_type_is_kept():
    assert faster_cpu_dtype(torch.float32, "model") is torch.float32
    assert faster_cpu_dtype(torch.float64, "model") is torch.float64
