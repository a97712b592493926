import logging
from dataclasses import replace

import pytest
import torch

from hfsynth import GenerationError, Request, SamplingParams
from hfsynth.engine import model as loaded
from hfsynth.engine.model import PackedLinear
from hfsynth.engine.scheduler import told
from hfsynth.engine.sequence import Written
from hfsynth.llm import Requests

pytestmark = pytest.mark.model


def ask(text, **sampling):
    params = SamplingParams(**{"temperature": 0, "max_new_tokens": 12, **sampling})
    return Request(messages=({"role": "user", "content": text},), sampling=params, seed=len(text))


REQUESTS = [ask("Hi!"), ask("What is the capital of France?"), ask("Count to ten, please, slowly.")]


def test_a_model_that_the_loop_can_not_run_is_run_in_static_batches_and_says_so_once(smollm, monkeypatch, caplog):
    expected = smollm.complete(REQUESTS)
    monkeypatch.setattr(loaded, "adopt_attention", lambda model: "it has states")
    with caplog.at_level(logging.WARNING), replace(smollm, chat_template_kwargs={"b": 1}) as other:
        assert other.complete(REQUESTS) == expected
        assert other.complete(REQUESTS) == expected
    assert caplog.text.count("is run in static batches, which are slower: it has states") == 1


def test_the_layers_of_a_model_are_packed_for_the_loop_alone(smollm, monkeypatch):
    def packed(llm):
        return any(isinstance(layer, PackedLinear) for layer in llm._loaded().model.modules())

    assert packed(smollm)
    monkeypatch.setattr(loaded, "adopt_attention", lambda model: "it has states")
    with replace(smollm, chat_template_kwargs={"d": 1}) as other:
        assert not packed(other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loaded_llm_lets_no_chunk_in_beside_another(smollm, dtype):
    """Kernels round a row otherwise beside other rows: rows would depend on how many processes share the chunks."""
    assert not replace(smollm, dtype=dtype).overlaps()


def test_a_request_may_join_while_others_are_completed(smollm):
    requests, order = Requests(), []
    requests.put("first", REQUESTS[0])
    for key, completion in smollm.stream(requests):
        order.append((key, completion))
        if key == "first":
            requests.put("second", REQUESTS[1])
    assert dict(order) == dict(zip(["first", "second"], smollm.complete(REQUESTS[:2]), strict=True))


def test_every_request_may_be_refused(smollm):
    requests = Requests()
    for key in range(3):
        requests.put(key, ask("word " * 9000))
    refused = dict(smollm.stream(requests))
    assert sorted(refused) == [0, 1, 2]
    assert {completion.finish_reason for completion in refused.values()} == {"refused"}


def test_a_refused_request_is_given_back_at_once_and_not_after_all_others(smollm):
    left = list(range(12))

    def more():
        if left:
            waiting.put(left.pop(), ask("Hi!", max_new_tokens=2))

    waiting = Requests(more)
    waiting.put("refused", ask("word " * 9000))
    order = [key for key, _ in replace(smollm, batch_size=2).stream(waiting)]
    assert order.index("refused") <= 2
    assert len(order) == 13


def test_a_stream_that_is_left_half_way_does_not_mix_with_the_next(smollm):
    expected = smollm.complete(REQUESTS)
    requests = Requests()
    for key, request in enumerate(REQUESTS):
        requests.put(key, replace(request, sampling=SamplingParams(temperature=0, max_new_tokens=3 + key)))
    left = smollm.stream(requests)
    next(left)
    assert smollm.complete(REQUESTS) == expected
    assert len(list(left)) == 2


CHOICES = ("good", "good enough", "Paris.", "It is hard to say, and I would rather not.")
SCORED = [replace(ask("What is the capital of France?"), choices=CHOICES), Request(messages=(), choices=CHOICES)]


def naive(loaded, prompt, choice):
    """The score of a choice by a plain forward over the text alone."""
    tokens = [loaded.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, choice)]
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([[*tokens[0], *tokens[1]]])).logits[0, len(tokens[0]) - 1 :]
    logp = logits.double().log_softmax(-1)
    said = sum(float(logp[place, token]) for place, token in enumerate(tokens[1]))
    return said + float(logp[-1, sorted(loaded.end_tokens)].logsumexp(-1))


def test_scores_are_those_of_plain_forwards(smollm, monkeypatch):
    made = smollm.complete([*SCORED, *REQUESTS])[:2]
    assert [smollm.prompt(request)[-22:] for request in SCORED] == ["<|im_start|>assistant\n"] * 2
    assert smollm.prompt(SCORED[1]) == "<|im_start|>assistant\n"
    assert [one.text for one in made] == [CHOICES[one.scores.index(max(one.scores))] for one in made]
    loaded = smollm._loaded()
    monkeypatch.setattr(loaded.model.config, "_attn_implementation", "sdpa")
    for request, completion in zip(SCORED, made, strict=True):
        expected = [naive(loaded, smollm.prompt(request), choice) for choice in CHOICES]
        assert completion.scores == pytest.approx(expected, abs=1e-3)


def test_a_model_with_its_own_attention_scores_alike(smollm, monkeypatch):
    expected = smollm.complete(SCORED)
    monkeypatch.setattr(loaded, "adopt_attention", lambda model: "it has states")
    with replace(smollm, chat_template_kwargs={"c": 1}) as other:
        for one, made in zip(expected, other.complete(SCORED), strict=True):
            assert made.scores == pytest.approx(one.scores, abs=1e-3)
            assert replace(made, scores=()) == replace(one, scores=())


def test_scores_are_near_whatever_else_is_in_flight(smollm):
    alone = [smollm.complete([request])[0] for request in SCORED]
    beside = smollm.complete([*REQUESTS, *SCORED, *REQUESTS])[3:5]
    for one, other in zip(alone, beside, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-3)


def test_a_model_spread_over_all_devices_is_refused_where_several_processes_run(smollm, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(GenerationError, match="2 processes run on this node, each of which would take all"):
        replace(smollm, device_map="auto").load()


def test_a_row_that_can_not_go_on_is_a_completion_that_says_why_and_keeps_what_was_written(smollm):
    model = smollm.load()._loaded()
    job = model.job(REQUESTS[0], model.prompt(REQUESTS[0]))
    tokens = model.tokenizer("The capital of", add_special_tokens=False).input_ids
    made = model.completion(REQUESTS[0], "", job, Written(tokens, "error", told(35)))
    assert (made.text, made.finish_reason, made.prompt_tokens) == ("The capital of", "error", len(job.prompt))
    assert made.completion_tokens == len(tokens)
    assert made.error.startswith("out of memory with one row of 35 tokens; use a smaller")
