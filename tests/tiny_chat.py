"""A small chat model with random weights in a folder: a tokenizer of bytes, a ChatML template, two end tokens."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from tests.tiny import tiny

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes, four special tokens, and a few words of two letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "th", "he", "in", "er"])}
    core = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("h", "e"), ("i", "n"), ("e", "r")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def save_chat_model(folder: Path, seed: int = 0) -> str:
    """Save the model and its tokenizer, and return the folder's path."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "eos_token_id": ends}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}  # of 32 dimensions: vLLM takes no smaller ones
    model = tiny(LlamaConfig, torch.float32, seed, **sizes, **heads)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    return str(folder)
