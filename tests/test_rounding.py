"""What attention's products round to, whatever is read together."""

import pytest
import torch
import torch.nn.functional as F

from hfsynth.engine.attention import scaled_dot_product

BFLOAT16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no kernels for bfloat16"
    ),
)
WIDTHS = [(16, 16), (64, 64), (80, 80), (128, 128), (256, 256), (192, 128)]


@pytest.mark.parametrize("dtype", [BFLOAT16, torch.float32], ids=str)
@pytest.mark.parametrize(("width", "value_width"), WIDTHS)
def test_a_query_row_is_the_same_to_the_bit_however_many_are_read_with_it(dtype, width, value_width):
    draw = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(4, 4, *shape, generator=draw).to(dtype)
        for shape in ((100, width), (1024, width), (1024, value_width))
    )
    whole = scaled_dot_product(query, keys, values, torch.zeros(100, 1024, dtype=dtype), None)
    plain = F.scaled_dot_product_attention(query, keys, values)
    assert torch.allclose(whole, plain, atol=0.02)
    for rows in (1, 2, 3, 5, 8, 10, 31, 33, 34, 37, 42, 65, 97):
        for mask_rows in (rows, 1):
            mask = torch.zeros(mask_rows, 1024, dtype=dtype)
            part = scaled_dot_product(query[:, :, :rows], keys, values, mask, None)
            assert torch.equal(part, whole[:, :, :rows])
