import copy

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from hfsynth import GenerationError
from hfsynth.engine import static_batches as static
from hfsynth.engine.sampling import NOT_NUMBERS
from hfsynth.engine.sequence import Written
from hfsynth.engine.static_batches import StaticBatches, generate_batch
from tests.tiny import job, letters, prompt, taker, tiny

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


def run(model, *jobs):
    return generate_batch(model, jobs, lambda tokens: "".join(chr(65 + token) for token in tokens))


def greedy(model, prompt, number):
    """One row, one token at a time, without a cache: the slow and certain way."""
    tokens = list(prompt)
    for _ in range(number):
        with torch.inference_mode():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


PROMPTS = [[1, 2, 3], [9], list(range(3, 40)), [5, 5]]


def test_greedy_rows_of_a_batch_are_those_of_each_row_alone(model):
    made = run(model, *(job(prompt) for prompt in PROMPTS))
    assert [written.tokens for written in made] == [greedy(model, prompt, 12) for prompt in PROMPTS]
    assert {written.finish_reason for written in made} == {"length"}


def test_a_row_ends_at_its_own_end_token_and_keeps_it(model):
    free = greedy(model, PROMPTS[0], 12)
    end = free[4]
    first, second = run(model, job(PROMPTS[0], ends=[end]), job(PROMPTS[0]))
    assert first.tokens == free[: free.index(end) + 1]
    assert (first.finish_reason, second.finish_reason) == ("stop", "length")
    assert second.tokens == free


def test_a_row_ends_at_a_stop_text_that_crosses_tokens(model):
    free = greedy(model, PROMPTS[1], 12)
    text = "".join(chr(65 + token) for token in free)
    (made,) = run(model, job(PROMPTS[1], stop=[text[3:5]]))
    assert made.tokens == free[: text.index(text[3:5]) + 2]
    assert made.finish_reason == "stop"


def test_each_row_has_its_own_length(model):
    made = run(model, job(PROMPTS[0], max_new_tokens=3), job(PROMPTS[1], max_new_tokens=7))
    assert [len(written.tokens) for written in made] == [3, 7]


def test_a_sampled_row_depends_on_its_seed_and_not_on_its_batch(model):
    jobs = [job(prompt, seed=seed, temperature=1.5) for seed, prompt in enumerate(PROMPTS)]
    together = [written.tokens for written in run(model, *jobs)]
    alone = [run(model, one)[0].tokens for one in jobs]
    assert together == alone
    assert run(model, job(PROMPTS[0], seed=99, temperature=1.5))[0].tokens != alone[0]


def stream(model, jobs, size):
    waiting = list(jobs)
    engine = StaticBatches(model, str, size)
    return dict(engine.run(lambda: waiting.pop(0) if waiting else None))


def noting(monkeypatch, most):
    """Note the lengths of each batch's prompts, and run out of memory where there are more than `most`."""
    batches = []

    def note(model, jobs, decode):
        batches.append([len(job.prompt) for job in jobs])
        if len(jobs) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return generate_batch(model, jobs, decode)

    monkeypatch.setattr(static, "generate_batch", note)
    return batches


def test_the_longest_prompts_come_first(model, monkeypatch):
    batches = noting(monkeypatch, 9)
    made = stream(model, [job(prompt) for prompt in PROMPTS], 3)
    assert batches == [[37, 3, 2], [1]]
    assert {tuple(one.prompt): written.tokens for one, written in made.items()} == {
        tuple(prompt): greedy(model, prompt, 12) for prompt in PROMPTS
    }


def test_running_out_of_memory_halves_the_batch_and_goes_on(model, monkeypatch):
    batches = noting(monkeypatch, 2)
    assert len(stream(model, [job(prompt) for prompt in PROMPTS], 4)) == 4
    assert [len(batch) for batch in batches] == [4, 2, 2]


def test_one_row_that_does_not_fit_in_memory_is_an_error(model, monkeypatch):
    noting(monkeypatch, 0)
    with pytest.raises(GenerationError, match="out of memory with one row of 37 tokens"):
        stream(model, [job(prompt) for prompt in PROMPTS], 4)


def test_a_row_that_has_ended_is_not_read_on_beyond_the_context():
    model = tiny(GPT2Config, n_embd=64, n_head=4, n_layer=2, max_position_embeddings=64, n_positions=64)
    jobs = [job(prompt(60), max_new_tokens=4), job(prompt(5), max_new_tokens=30), job(prompt(50), max_new_tokens=4)]
    made = dict(StaticBatches(model, letters, 4).run(taker(jobs)))
    assert [len(made[one].tokens) for one in jobs] == [4, 30, 4]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_whose_logits_are_not_numbers_fails_alone(model, temperature):
    prompts = [[1, 2, 3], [9], [4, 4]]
    expected = [row.tokens for row in run(model, *(job(one, temperature=temperature) for one in prompts))]
    seen = {token for one in [*prompts, *expected] for token in one}
    bad = next(token for token in range(1, WORDS) if token not in seen)  # 0 pads
    spoiled = copy.deepcopy(model)
    with torch.no_grad():
        spoiled.get_input_embeddings().weight[bad] = torch.nan
    made = run(spoiled, *(job(one, temperature=temperature) for one in [prompts[0], [bad, 5], *prompts[1:]]))
    assert made.pop(1) == Written([], "refused", NOT_NUMBERS)
    assert [row.tokens for row in made] == expected
