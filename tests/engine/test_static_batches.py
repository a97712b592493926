import copy

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from hfsynth import GenerationError
from hfsynth.chat import Generated
from hfsynth.engine import static_batches as static
from hfsynth.engine.sampling import NON_FINITE_LOGITS
from hfsynth.engine.static_batches import StaticBatches, generate_batch
from tests.tiny import letters, next_of, prompt, tiny, tokenized

WORDS = 64


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        eos_token_id=None,
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def run(model, *requests):
    return generate_batch(model, requests, lambda tokens: "".join(chr(65 + token) for token in tokens))


def greedy(model, prompt, number):
    """One row, one token at a time, without a cache: the slow and certain way."""
    tokens = list(prompt)
    for _ in range(number):
        with torch.inference_mode():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


PROMPTS = [[1, 2, 3], [9], list(range(3, 40)), [5, 5]]


def test_greedy_rows_of_a_batch_are_those_of_each_row_alone(model):
    result = run(model, *(tokenized(prompt) for prompt in PROMPTS))
    assert [written.token_ids for written in result] == [greedy(model, prompt, 12) for prompt in PROMPTS]
    assert {written.finish_reason for written in result} == {"length"}


def test_a_row_ends_at_its_own_end_token_and_keeps_it(model):
    free = greedy(model, PROMPTS[0], 12)
    end = free[4]
    first, second = run(model, tokenized(PROMPTS[0], ends=[end]), tokenized(PROMPTS[0]))
    assert first.token_ids == free[: free.index(end) + 1]
    assert (first.finish_reason, second.finish_reason) == ("stop", "length")
    assert second.token_ids == free


def test_a_row_ends_at_a_stop_text_that_crosses_tokens(model):
    free = greedy(model, PROMPTS[1], 12)
    text = "".join(chr(65 + token) for token in free)
    (result,) = run(model, tokenized(PROMPTS[1], stop=[text[3:5]]))
    assert result.token_ids == free[: text.index(text[3:5]) + 2]
    assert result.finish_reason == "stop"


def test_each_row_has_its_own_length(model):
    result = run(model, tokenized(PROMPTS[0], max_new_tokens=3), tokenized(PROMPTS[1], max_new_tokens=7))
    assert [len(written.token_ids) for written in result] == [3, 7]


def test_a_sampled_row_depends_on_its_seed_and_not_on_its_batch(model):
    requests = [tokenized(prompt, seed=seed, temperature=1.5) for seed, prompt in enumerate(PROMPTS)]
    together = [written.token_ids for written in run(model, *requests)]
    alone = [run(model, one)[0].token_ids for one in requests]
    assert together == alone
    assert run(model, tokenized(PROMPTS[0], seed=99, temperature=1.5))[0].token_ids != alone[0]


def stream(model, requests, size):
    waiting = list(requests)
    engine = StaticBatches(model, str, size)
    return dict(engine.run(lambda: waiting.pop(0) if waiting else None))


def noting(monkeypatch, limit):
    """Note the lengths of each batch's prompts, and run out of memory where there are more than `most`."""
    batches = []

    def note(model, requests, decode):
        batches.append([len(tokenized.prompt_ids) for tokenized in requests])
        if len(requests) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return generate_batch(model, requests, decode)

    monkeypatch.setattr(static, "generate_batch", note)
    return batches


def test_the_longest_prompts_come_first(model, monkeypatch):
    batches = noting(monkeypatch, 9)
    result = stream(model, [tokenized(prompt) for prompt in PROMPTS], 3)
    assert batches == [[37, 3, 2], [1]]
    assert {tuple(one.prompt_ids): written.token_ids for one, written in result.items()} == {
        tuple(prompt): greedy(model, prompt, 12) for prompt in PROMPTS
    }


def test_running_out_of_memory_halves_the_batch_and_goes_on(model, monkeypatch):
    batches = noting(monkeypatch, 2)
    assert len(stream(model, [tokenized(prompt) for prompt in PROMPTS], 4)) == 4
    assert [len(batch) for batch in batches] == [4, 2, 2]


def test_one_row_that_does_not_fit_in_memory_is_an_error(model, monkeypatch):
    noting(monkeypatch, 0)
    with pytest.raises(GenerationError, match="row of 37 tokens"):
        stream(model, [tokenized(prompt) for prompt in PROMPTS], 4)


def test_a_row_that_has_ended_is_not_read_on_beyond_the_context():
    model = tiny(GPT2Config, n_embd=64, n_head=4, n_layer=2, max_position_embeddings=64, n_positions=64)
    requests = [
        tokenized(prompt(60), max_new_tokens=4),
        tokenized(prompt(5), max_new_tokens=30),
        tokenized(prompt(50), max_new_tokens=4),
    ]
    result = dict(StaticBatches(model, letters, 4).run(next_of(requests)))
    assert [len(result[one].token_ids) for one in requests] == [4, 30, 4]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_whose_logits_are_not_numbers_fails_alone(model, temperature):
    prompts = [[1, 2, 3], [9], [4, 4]]
    expected = [row.token_ids for row in run(model, *(tokenized(one, temperature=temperature) for one in prompts))]
    observed = {token for one in [*prompts, *expected] for token in one}
    bad = next(token for token in range(1, WORDS) if token not in observed)  # 0 pads
    spoiled = copy.deepcopy(model)
    with torch.no_grad():
        spoiled.get_input_embeddings().weight[bad] = torch.nan
    result = run(spoiled, *(tokenized(one, temperature=temperature) for one in [prompts[0], [bad, 5], *prompts[1:]]))
    assert result.pop(1) == Generated([], "refused", NON_FINITE_LOGITS)
    assert [row.token_ids for row in result] == expected
