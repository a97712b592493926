import logging
import math

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, Mamba2Config, MistralConfig, Qwen2Config, Qwen3Config

from hfsynth import GenerationError
from hfsynth.engine import scoring
from hfsynth.engine.scoring import ChoiceBatch, TokenizedChoices, score
from tests.tiny import prompt, ready, tiny

ENDS = frozenset({3, 60})
MAMBA = {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "expand": 2, "chunk_size": 16}


def compare(length, *choices, ends=ENDS, seed=0):
    return TokenizedChoices(
        prompt(length, seed=seed), [prompt(n, seed=seed + 10 + i) for i, n in enumerate(choices)], ends
    )


COMPARED = [
    compare(5, 2, 4, 1),
    compare(40, 3, 3, seed=1),
    compare(130, 1, 200, 7, seed=2),
    compare(1, 1, seed=3),
    compare(380, 12, 9, seed=4),
    compare(9, 0, 2, seed=5),
]


def naive(model, one):
    """Each choice alone, in one sequence without padding or mask; in float64 after the logits."""
    scores = []
    for choice in one.choices:
        with torch.inference_mode():
            logits = model(torch.tensor([[*one.prompt_ids, *choice]])).logits[0, len(one.prompt_ids) - 1 :]
        logp = logits.double().log_softmax(-1)
        spoken = sum(float(logp[place, token]) for place, token in enumerate(choice))
        scores.append(spoken + float(logp[len(choice), sorted(one.end_tokens)].logsumexp(-1)))
    return scores


def assert_naive(model, compared, scores, within=2e-4):
    for one, found in zip(compared, scores, strict=True):
        assert found == pytest.approx(naive(model, one), abs=within)


def test_scores_are_those_of_each_choice_alone(pair):
    assert_naive(pair[0], COMPARED, score(pair[1], COMPARED, is_replaced=True))


def test_a_model_with_its_own_attention_gives_the_same_scores(pair):
    assert_naive(pair[0], COMPARED, score(pair[0], COMPARED, is_replaced=False))


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (LlamaConfig, {"num_key_value_heads": 1, "head_dim": 8}),
        (Qwen2Config, {}),
        (Qwen3Config, {"head_dim": 32}),
        (MistralConfig, {"sliding_window": 6}),
        (GPT2Config, {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 2048}),
    ],
    ids=["one key head", "qwen2", "qwen3", "sliding window", "learned positions"],
)
def test_other_architectures_score_alike(config, sizes):
    plain, own = tiny(config, **sizes), ready(tiny(config, **sizes))
    assert_naive(plain, COMPARED, score(own, COMPARED, is_replaced=True))


def test_score_of_a_state_space_model_equals_forwards():
    model = tiny(Mamba2Config, **MAMBA)
    assert_naive(model, COMPARED[:3], score(model, COMPARED[:3], is_replaced=False), within=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_score_does_not_depend_on_other_requests(dtype):
    model = ready(tiny(dtype=dtype))
    together = score(model, COMPARED, is_replaced=True)
    assert score(model, COMPARED[::-1], is_replaced=True) == together[::-1]
    assert [score(model, [one], is_replaced=True)[0] for one in COMPARED] == together


def test_the_choices_do_not_see_each_other(pair):
    one = compare(20, 5, 6)
    (alone,) = score(pair[1], [TokenizedChoices(one.prompt_ids, one.choices[:1], ENDS)], is_replaced=True)
    (beside,) = score(pair[1], [one], is_replaced=True)
    assert beside[0] == pytest.approx(alone[0], abs=1e-4)


def test_score_of_a_prefix_choice_includes_its_end(pair):
    text = prompt(4, seed=9)
    short, long = score(pair[1], [TokenizedChoices(prompt(8), [text[:2], text], ENDS)], is_replaced=True)[0]
    without = score(pair[1], [TokenizedChoices(prompt(8), [text[:2], text], frozenset())], is_replaced=True)[0]
    assert without[0] > without[1]
    assert (short < without[0], long < without[1]) == (True, True)


def test_score_of_all_tokens_sums_to_one(pair):
    everything = TokenizedChoices(prompt(8), [[token] for token in range(64)], frozenset())
    (scores,) = score(pair[1], [everything], is_replaced=True)
    assert math.fsum(math.exp(found) for found in scores) == pytest.approx(1, abs=1e-5)


def lengths_of_forwards(monkeypatch, limit=10**9):
    """Note the tokens of each forward, and run out of memory where there are more than `most`."""
    read = []

    def note(model, tokens, where, keep):
        read.append(len(tokens))
        if len(tokens) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(model, tokens, where, keep)

    forward = scoring.forward
    monkeypatch.setattr(scoring, "forward", note)
    return read


def test_score_forward_takes_at_least_one_request(pair, monkeypatch):
    read = lengths_of_forwards(monkeypatch)
    monkeypatch.setattr(scoring, "FORWARD_TOKENS", 100)
    score(pair[1], [compare(30, 5), compare(30, 10), compare(300, 7), compare(3, 1), compare(90, 6)], is_replaced=True)
    assert read == [75, 307, 4 + 96]


def test_running_out_of_memory_halves_the_requests_and_goes_on(pair, monkeypatch, caplog):
    read = lengths_of_forwards(monkeypatch, limit=150)
    compared = [compare(50, 5, seed=n) for n in range(5)]
    with caplog.at_level(logging.WARNING):
        scores = score(pair[1], compared, is_replaced=True)
    assert read == [275, 110, 165, 55, 110]
    assert "with 5 requests" in caplog.text
    assert_naive(pair[0], compared, scores)


def test_one_request_that_does_not_fit_in_memory_is_an_error(pair, monkeypatch):
    lengths_of_forwards(monkeypatch, limit=40)
    with pytest.raises(GenerationError, match="of 55 tokens"):
        score(pair[1], [compare(50, 5), compare(30, 1)], is_replaced=True)


def test_keys_and_values_of_one_layer_are_kept_at_a_time(pair):
    where = ChoiceBatch.of(COMPARED[:2], torch.device("cpu"))
    with torch.inference_mode():
        scoring.forward(pair[1], [token for one in COMPARED[:2] for token in one.token_ids], where)
    assert len(where.slots.layers) == 1


def test_long_texts_are_normalised_a_few_rows_at_a_time(pair, monkeypatch):
    monkeypatch.setattr(scoring, "_ROWS", 7)
    assert_naive(pair[0], COMPARED, score(pair[1], COMPARED, is_replaced=True))
