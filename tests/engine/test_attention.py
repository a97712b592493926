"""Attention over slots: batches, length buckets, and the rounding of products."""

import random

import pytest
import torch
import torch.nn.functional as F
from accelerate.hooks import AlignDevicesHook

from hfsynth.engine.attention import (
    AttentionParams,
    DecodeBatch,
    PrefillBatch,
    Segment,
    UnsupportedAttention,
    attend,
    bucket_of,
    forward,
    length_buckets,
    read_cost,
    scaled_dot_product,
    without_cudnn_attention,
)
from hfsynth.engine.forwards import install_attention
from hfsynth.engine.kv_cache import KeyValueSlots
from tests.tiny import prompt, tiny

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_attend_with_an_unsupported_option_raises():
    step = DecodeBatch(KeyValueSlots(1, 32, CPU), [0])
    with pytest.raises(UnsupportedAttention, match="Module needs softcap"):
        attend(torch.nn.Module(), *[torch.zeros(1, 2, 1, 8)] * 3, None, tokens=step, softcap=30.0)
    with pytest.raises(UnsupportedAttention, match="doesn't pass options"):
        attend(torch.nn.Module(), *[torch.zeros(1, 2, 1, 8)] * 3, None)


WIDTH, HEADS, SHARED = 8, 2, 3


def reference(query, keys, values, length, sliding_window=None):
    """One token's attention to the first `length` positions, in float64."""
    first = 0 if sliding_window is None else max(0, length - sliding_window)
    out = []
    for head in range(HEADS * SHARED):
        k, v = keys[head // SHARED, first:length].double(), values[head // SHARED, first:length].double()
        out.append(((query[head].double() @ k.T) / WIDTH**0.5).softmax(-1) @ v)
    return torch.stack(out).float()


@pytest.fixture
def kept():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 20, HEADS, 1024, WIDTH, generator=draw)


def queries(number):
    return torch.randn(1, HEADS * SHARED, number, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sliding_window", [None, 5])
def test_decode_batch_attends_to_each_sequences_own_tokens(kept, sliding_window):
    lengths = [0, 3, 31, 32, 40, 380, 390, 600, *range(5, 17)]
    query = queries(len(lengths))
    read = DecodeBatch(KeyValueSlots(20, 1024, CPU), lengths).attend(
        query, *kept, AttentionParams(sliding_window=sliding_window)
    )
    for row, length in enumerate(lengths):
        expected = reference(query[0, :, row], kept[0, row], kept[1, row], length + 1, sliding_window)
        assert torch.allclose(read[0, row], expected, atol=1e-5)


@pytest.mark.parametrize("sliding_window", [None, 5])
def test_prefill_batch_attends_to_the_past_alone(kept, sliding_window):
    segments = [Segment(4, 0, 7), Segment(1, 100, 300), Segment(9, 383, 386)]
    query = queries(210)
    read = PrefillBatch(KeyValueSlots(20, 1024, CPU), segments, CPU).attend(
        query, *kept, AttentionParams(sliding_window=sliding_window)
    )
    places = [(part.slot, position) for part in segments for position in range(part.start, part.stop)]
    for token, (slot, position) in enumerate(places):
        expected = reference(query[0, :, token], kept[0, slot], kept[1, slot], position + 1, sliding_window)
        assert torch.allclose(read[0, token], expected, atol=1e-5)


def test_decode_batch_ignores_positions_beyond_a_sequence(kept):
    step = DecodeBatch(KeyValueSlots(20, 1024, CPU), [10, 30])
    before = step.attend(queries(2), *kept, AttentionParams())
    kept[:, 0, :, 11:], kept[:, 1, :, 31:] = 1e4, -1e4
    assert torch.equal(step.attend(queries(2), *kept, AttentionParams()), before)


def test_batches_write_each_token_to_its_slot_and_position():
    slots, new = KeyValueSlots(3, 64, CPU), torch.arange(1.0, 6.0)[None, None, :, None].expand(1, HEADS, 5, WIDTH)
    target = torch.zeros(3, HEADS, 64, WIDTH)
    PrefillBatch(slots, [Segment(2, 4, 6), Segment(0, 0, 3)], CPU).write(target, new)
    assert target[2, 0, 3:7, 0].tolist() == [0, 1, 2, 0]
    assert target[0, 1, :4, 3].tolist() == [3, 4, 5, 0]
    DecodeBatch(slots, [3, 0, 6]).write(target, new[:, :, :3])
    assert (target[0, 0, 3, 0], target[1, 0, 0, 0], target[2, 0, 6, 0]) == (1, 2, 3)


def test_length_buckets_have_one_summation_order():
    assert length_buckets([380, 390, 500, 600, 900], CPU) == [
        (slice(0, 1), 384),
        (slice(1, 3), 512),
        (slice(3, 4), 608),
        (slice(4, 5), 1024),
    ]
    assert all(length <= bucket_of(length) < length + 512 for length in range(1, 2000))


def test_length_buckets_part_long_from_many_short():
    assert length_buckets([1300, *[100] * 20], CPU) == [(slice(0, 1), 1312), (slice(1, 21), 128)]
    assert length_buckets([100, 100, 130, 100], CPU) == [(slice(0, 4), 160)], "one more group would read_cost more"
    assert length_buckets([4000, *[100] * 250], CUDA) == [(slice(0, 9), 4096), (slice(9, 251), 128)]
    assert length_buckets([400, *[100] * 50], CUDA) == [(slice(0, 51), 512)]


def test_length_buckets_cover_every_length_once():
    draw = random.Random(0)
    for device in (CPU, CUDA):
        for _ in range(200):
            lengths = [draw.randint(1, 2000) for _ in range(draw.randint(1, 60))]
            groups = length_buckets(lengths, device)
            assert [row for part, _ in groups for row in range(part.start, part.stop)] == list(range(len(lengths)))
            assert all(max(lengths[part]) <= window for part, window in groups)
            assert all(window == bucket_of(max(lengths[part])) for part, window in groups)
            spans = [{((n - 1) // 512, (n - 1) % 512 < 384) for n in lengths[part]} for part, _ in groups]
            assert device == CUDA or all(len(kinds) == 1 for kinds in spans), "summed in one order"


def test_rows_in_order_of_length_cost_less():
    draw = random.Random(0)
    lengths = [draw.randint(50, 700) for _ in range(90)]
    ordered = sorted(lengths, reverse=True)
    assert read_cost(length_buckets(ordered, CPU), CPU) < 0.8 * read_cost(length_buckets(lengths, CPU), CPU)


BFLOAT16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no kernels for bfloat16"
    ),
)
WIDTHS = [(16, 16), (64, 64), (80, 80), (128, 128), (256, 256), (192, 128)]


@pytest.mark.parametrize("dtype", [BFLOAT16, torch.float32], ids=str)
@pytest.mark.parametrize(("width", "value_width"), WIDTHS)
def test_scaled_dot_product_rounds_a_row_alike_in_any_batch(dtype, width, value_width):
    draw = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(4, 4, *shape, generator=draw).to(dtype)
        for shape in ((100, width), (1024, width), (1024, value_width))
    )
    full = scaled_dot_product(query, keys, values, torch.zeros(100, 1024, dtype=dtype), None)
    plain = F.scaled_dot_product_attention(query, keys, values)
    assert torch.allclose(full, plain, atol=0.02)
    for rows in (1, 2, 3, 5, 8, 10, 31, 33, 34, 37, 42, 65, 97):
        for mask_rows in (rows, 1):
            mask = torch.zeros(mask_rows, 1024, dtype=dtype)
            part = scaled_dot_product(query[:, :, :rows], keys, values, mask, None)
            assert torch.equal(part, full[:, :, :rows])


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


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_without_cudnn_attention_excludes_cudnn_on_a_gpu(device):
    is_enabled = torch.backends.cuda.cudnn_sdp_enabled
    assert is_enabled()
    with without_cudnn_attention(device):
        assert is_enabled() is (device == CPU)
        assert torch.backends.cuda.math_sdp_enabled()
    assert is_enabled()
