"""Forwards on a CUDA device: on a CPU beside a reference of the kernel, on a GPU the kernel and the whole loop."""

import logging
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen2MoeConfig

from hfsynth.chat import TokenizedChoices
from hfsynth.engine import cuda
from hfsynth.engine.attention import BUCKETS, AttentionParams, DecodeBatch, PrefillBatch, Segment
from hfsynth.engine.cuda import VARLEN, VarlenBatch, has_varlen_kernel
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.forwards import attention_of, install_attention
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.scoring import score
from tests.tiny import letters, next_of, prompt, reference_kernel, tiny, tokenized

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SLOTS, HEADS, SHARED, CAPACITY, WIDTH = 5, 2, 3, 64, 8
SEGMENTS = [Segment(3, 0, 7), Segment(1, 20, 21), Segment(4, 30, 50)]


def kept_and_query(number, device=CPU, dtype=torch.float32, width=WIDTH):
    draw = torch.Generator().manual_seed(0)
    kept = torch.randn(2, SLOTS, CAPACITY, HEADS, width, generator=draw).to(device, dtype)
    query = torch.randn(1, number, HEADS * SHARED, width, generator=draw).to(device, dtype)
    return [one.transpose(1, 2) for one in kept], query.transpose(1, 2)


@pytest.mark.parametrize("sliding_window", [None, 5])
def test_varlen_batch_reads_prompts_as_buckets_do(monkeypatch, sliding_window):
    monkeypatch.setattr(cuda, "flash_attention", reference_kernel)
    kept, query = kept_and_query(28)
    slots, params = KeyValueSlots(SLOTS, CAPACITY, CPU), AttentionParams(sliding_window=sliding_window)
    batch = VarlenBatch.of(slots, SEGMENTS, CPU)
    expected = PrefillBatch(slots, SEGMENTS, CPU)
    assert batch.num_tokens == expected.num_tokens == 28
    assert torch.equal(batch.positions, expected.positions)
    assert torch.allclose(batch.attend(query, *kept, params), expected.attend(query, *kept, params), atol=1e-5)


@pytest.mark.parametrize("sliding_window", [None, 5])
def test_varlen_batch_decodes_as_buckets_do(monkeypatch, sliding_window):
    monkeypatch.setattr(cuda, "flash_attention", reference_kernel)
    kept, query = kept_and_query(3)
    params, places = AttentionParams(sliding_window=sliding_window), [4, 0, 2]
    slots, lengths = KeyValueSlots(SLOTS, CAPACITY, CPU), [9, 0, 63]
    batch = VarlenBatch.of_decode(slots, torch.tensor(places), torch.tensor(lengths))
    neighbours = [one[places] for one in kept]
    expected = DecodeBatch(slots, lengths).attend(query, *neighbours, params)
    assert torch.allclose(batch.attend(query, *kept, params), expected, atol=1e-5)


def test_varlen_batch_writes_each_token_to_its_place():
    slots = KeyValueSlots(SLOTS, CAPACITY, CPU)
    new = torch.randn(1, HEADS, 28, WIDTH)
    target, expected = (torch.zeros(SLOTS, CAPACITY, HEADS, WIDTH).transpose(1, 2) for _ in range(2))
    VarlenBatch.of(slots, SEGMENTS, CPU).write(target, new)
    PrefillBatch(slots, SEGMENTS, CPU).write(expected, new)
    assert torch.equal(target, expected)
    VarlenBatch.of_decode(slots, torch.tensor([2, 0]), torch.tensor([5, 6])).write(target, new[:, :, :2])
    assert torch.equal(target[[2, 0], :, [5, 6]], new[0, :, :2].transpose(0, 1))


def test_torchs_private_kernel_has_these_arguments():
    arguments = {one.name for one in torch.ops.aten._flash_attention_forward.default._schema.arguments}
    assert arguments >= {"cum_seq_q", "cum_seq_k", "max_q", "max_k", "seqused_k", "window_size_left", "is_causal"}


GPU, OTHER_GPU, META = torch.device("cuda", 0), torch.device("cuda", 1), torch.device("meta")


@pytest.mark.parametrize(
    ("devices", "dtype", "expected"),
    [
        ([GPU, GPU], torch.bfloat16, True),
        ([GPU], torch.float16, True),
        ([GPU], torch.float32, False),
        ([CPU], torch.bfloat16, False),
        ([GPU, OTHER_GPU], torch.bfloat16, False),
        ([GPU, META], torch.bfloat16, False),
        ([], torch.bfloat16, False),
    ],
)
def test_has_varlen_kernel_on_one_gpu_in_16_bits(devices, dtype, expected):
    parameters = [SimpleNamespace(device=device) for device in devices]
    assert has_varlen_kernel(SimpleNamespace(dtype=dtype, parameters=lambda: parameters)) is expected


@needs_gpu
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("sliding_window", [None, 5])
def test_kernel_agrees_with_the_reference(monkeypatch, sliding_window, width):
    device = torch.device("cuda")
    slots, params = KeyValueSlots(SLOTS, CAPACITY, device), AttentionParams(sliding_window=sliding_window)
    batches = [
        VarlenBatch.of(slots, SEGMENTS, device),
        VarlenBatch.of(slots, SEGMENTS[1:2], device),
        VarlenBatch.of_decode(
            slots, torch.tensor([4, 0, 2, 4], device=device), torch.tensor([9, 0, 63, 9], device=device)
        ),
    ]
    computed = []
    for batch in batches:
        kept, query = kept_and_query(batch.num_tokens, device, torch.bfloat16, width)
        computed.append((batch, kept, query, batch.attend(query, *kept, params)))
    monkeypatch.setattr(cuda, "flash_attention", reference_kernel)
    for batch, kept, query, attended in computed:
        assert torch.allclose(attended.float(), batch.attend(query, *kept, params).float(), atol=0.02)


MODELS = {
    "llama": (LlamaConfig, {"head_dim": 64}),
    "qwen2": (Qwen2Config, {"head_dim": 64}),
    "mistral": (MistralConfig, {"head_dim": 64, "sliding_window": 16}),
    "gpt2": (GPT2Config, {"n_embd": 64, "n_head": 4, "n_layer": 2}),
    "qwen2 moe": (Qwen2MoeConfig, {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
}


def pair(name, dtype):
    """The same model twice: as it is, and with our attention."""
    config, sizes = MODELS[name]
    plain, replaced = (tiny(config, dtype=dtype, **sizes).to("cuda") for _ in range(2))
    assert install_attention(replaced) == ""
    return plain, replaced


def margins(model, prompts, completions):
    """How far each chosen token's logit is below the highest one, by the model's own attention."""
    below = []
    for read, written in zip(prompts, completions, strict=True):
        ids = torch.tensor([[*read, *written]], device="cuda")
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, len(read) - 1 : -1].float()
        chosen = logits.gather(-1, torch.tensor(written, device="cuda")[:, None])[:, 0]
        below.append((logits.amax(-1) - chosen).max().item())
    return max(below)


@needs_gpu
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "attention"), [(torch.float32, BUCKETS), (torch.bfloat16, VARLEN)], ids=str)
def test_loop_on_a_gpu_chooses_the_models_own_tokens(name, dtype, attention, caplog):
    """More rows than slots, some of them long, so that slots change owners, are resized and grow."""
    plain, replaced = pair(name, dtype)
    assert attention_of(replaced) == attention
    prompts = [prompt(5 + 7 * number, seed=number) for number in range(40)] + [prompt(500, seed=50)]
    requests = [tokenized(one, max_new_tokens=10 + 3 * number) for number, one in enumerate(prompts)]
    with caplog.at_level(logging.WARNING):
        results = dict(DecodeLoop(replaced, letters, 24).run(next_of(requests)))
    completions = [results[request].token_ids for request in requests]
    assert [len(written) for written in completions] == [10 + 3 * number for number in range(41)]
    assert margins(plain, prompts, completions) <= (1e-3 if dtype is torch.float32 else 0.3)
    assert not caplog.records, "every step was captured"


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.3)], ids=str)
def test_scores_on_a_gpu_are_those_of_plain_forwards(dtype, tolerance):
    plain, replaced = pair("llama", dtype)
    request = TokenizedChoices(prompt(30), [[1, 2, 3], [4]], frozenset({9}))
    (scores,) = score(replaced, [request], is_replaced=True)
    (expected,) = score(plain, [request], is_replaced=False)
    assert scores == pytest.approx(expected, abs=tolerance)
