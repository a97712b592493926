import pytest
import torch
from torch import nn

from hfsynth.llms.packing import PackedLinear, pack_linears
from tests.tiny import prompt, tiny


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_rows_product_is_the_same_to_the_bit_in_any_company(dtype):
    torch.manual_seed(0)
    layer, x = PackedLinear(nn.Linear(576, 1536, bias=False, dtype=dtype)), torch.randn(200, 576, dtype=dtype)
    with torch.inference_mode():
        whole = layer(x)
        for count in (2, 3, 16, 33, 64, 100):
            assert torch.equal(layer(x[50 : 50 + count]), whole[50 : 50 + count])


def test_a_dtype_that_can_not_be_packed_is_left_alone():
    model = tiny(dtype=torch.float64)
    assert pack_linears(model) == 0
    assert any(type(layer) is nn.Linear for layer in model.modules())
