"""Small models with random weights, and their greedy output by the slow and certain way."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from hfsynth import SamplingParams
from hfsynth.chat import TokenizedRequest
from hfsynth.engine.forwards import install_attention
from hfsynth.engine.packed_linear import pack_linears

WORDS = 64
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def tiny(config=LlamaConfig, dtype=torch.float32, seed=0, **sizes):
    """A model of this architecture whose weights are wide enough apart that greedy output isn't one token."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(**{**SIZES, **sizes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model.to(dtype).eval()


def ready(model):
    """Return a model whose attention and linear layers are replaced by those of the engine."""
    pack_linears(model)
    assert install_attention(model) == ""
    return model


def letters(tokens):
    return "".join(chr(48 + token) for token in tokens)


def tokenized(prompt, ends=(), stop=(), seed=0, max_new_tokens=12, **sampling):
    params = SamplingParams(**{"temperature": 0.0, **sampling})
    return TokenizedRequest(list(prompt), params, seed, max_new_tokens, frozenset(ends), tuple(stop))


def generated(model, prompt, number):
    """What `model.generate` writes for one row, greedily."""
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        result = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=number, do_sample=False, pad_token_id=0
        )
    return result[0, len(prompt) :].tolist()


def next_of(requests):
    """Return the requests one by one, then None."""
    waiting = list(requests)
    return lambda: waiting.pop(0) if waiting else None


def prompt(length, seed=0):
    return torch.randint(0, WORDS, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def reference_kernel(query, keys, values, batch, scaling, window):
    """Compute what FlashAttention documents, token by token; the tokens have the last positions of their sequence."""
    attended = torch.empty(len(query), query.shape[1], values.shape[-1], dtype=query.dtype, device=query.device)
    shared = query.shape[1] // keys.shape[1]
    starts, firsts, lengths = batch.cu_seqlens_q.tolist(), batch.slot_starts.tolist(), batch.lengths.tolist()
    for number, length in enumerate(lengths):
        tokens = range(starts[number], starts[number + 1])
        assert len(tokens) <= batch.max_tokens
        for token in tokens:
            position = length - tokens.stop + token
            low = 0 if window[0] < 0 else max(0, position - window[0])
            high = length if window[1] < 0 else position + window[1] + 1
            for head in range(query.shape[1]):
                part = slice(firsts[number] + low, firsts[number] + high)
                k, v = (kept[part, head // shared].double() for kept in (keys, values))
                scores = k @ query[token, head].double() * (scaling or query.shape[-1] ** -0.5)
                attended[token, head] = scores.softmax(-1) @ v
    return attended
