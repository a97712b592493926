"""The loop on a GPU: prompts and steps there, beside what the model itself computes."""

import logging

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen2MoeConfig

from hfsynth.chat import TokenizedChoices
from hfsynth.engine.attention import NAME
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.forwards import attention_of, install_attention
from hfsynth.engine.scoring import score
from hfsynth.engine.varlen_attention import VARLEN
from tests.tiny import letters, next_of, prompt, tiny, tokenized

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "attention"), [(torch.float32, NAME), (torch.bfloat16, VARLEN)], ids=str)
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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.3)], ids=str)
def test_scores_on_a_gpu_are_those_of_plain_forwards(dtype, tolerance):
    plain, replaced = pair("llama", dtype)
    request = TokenizedChoices(prompt(30), [[1, 2, 3], [4]], frozenset({9}))
    (scores,) = score(replaced, [request], is_replaced=True)
    (expected,) = score(plain, [request], is_replaced=False)
    assert scores == pytest.approx(expected, abs=tolerance)
