import logging

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    Gemma4TextConfig,
    GPTBigCodeConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from hfsynth import EchoLLM, GenerationError, SamplingParams, TextGeneration
from hfsynth.chat import ChatTemplate, ChatTokenizer, Generated
from hfsynth.engine import decode_loop as decoding
from hfsynth.engine import forwards, scheduler
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.forwards import install_attention
from hfsynth.engine.model import RequestQueue
from hfsynth.engine.sampling import NON_FINITE_LOGITS, uniforms
from hfsynth.engine.scheduler import cache_bytes_per_token
from hfsynth.flow import RowSeeds, run_flows
from hfsynth.llm import LLM, complete_by_stream
from tests.tiny import WORDS, generated, letters, next_of, prompt, ready, tiny, tokenized
from tests.tiny_chat import byte_tokenizer

LENGTHS = [1, 2, 3, 7, 16, 31, 32, 33, 60, 127, 128, 129, 200, 380, 390, 520]


def run(loop, requests):
    result = dict(loop.run(next_of(requests)))
    return [result[one] for one in requests]


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 64])
def test_loop_greedy_equals_generate_at_every_length(pair, slots):
    prompts = [prompt(length, seed=length) for length in LENGTHS]
    result = run(DecodeLoop(pair[1], letters, slots), [tokenized(one, max_new_tokens=20) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 20) for one in prompts]
    assert {written.finish_reason for written in result} == {"length"}


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (LlamaConfig, {"num_key_value_heads": 4}),
        (LlamaConfig, {"num_key_value_heads": 1, "head_dim": 8}),
        (Qwen2Config, {}),
        (Qwen3Config, {"head_dim": 32}),
        (MistralConfig, {"sliding_window": 24}),
    ],
    ids=["all heads", "one key head", "qwen2", "qwen3", "sliding window"],
)
def test_loop_greedy_equals_generate_for_architectures(config, sizes):
    plain, own = tiny(config, **sizes), ready(tiny(config, **sizes))
    prompts = [prompt(length, seed=length) for length in (3, 20, 40, 150)]
    result = run(DecodeLoop(own, letters, 3), [tokenized(one, max_new_tokens=30) for one in prompts])
    assert [written.token_ids for written in result] == [generated(plain, one, 30) for one in prompts]


def test_each_row_ends_by_its_own_end_tokens_stop_text_or_length(pair):
    free = generated(pair[0], prompt(5), 30)
    text = letters(free)
    requests = [
        tokenized(prompt(5), max_new_tokens=30),
        tokenized(prompt(5), ends=[free[6], free[9]], max_new_tokens=30),
        tokenized(prompt(5), stop=[text[3:6]], max_new_tokens=30),
        tokenized(prompt(5), max_new_tokens=4),
    ]
    result = run(DecodeLoop(pair[1], letters, 2), requests)
    first = min(free.index(free[6]), free.index(free[9]))
    assert [len(written.token_ids) for written in result] == [30, first + 1, text.index(text[3:6]) + 3, 4]
    assert all(written.token_ids == free[: len(written.token_ids)] for written in result)
    assert [written.finish_reason for written in result] == ["length", "stop", "stop", "length"]


def test_a_freed_slot_is_taken_at_once(pair):
    loop = DecodeLoop(pair[1], letters, 4)
    run(loop, [tokenized(prompt(9, seed=n), max_new_tokens=4 + 3 * (n % 5)) for n in range(20)])
    tokens = sum(4 + 3 * (n % 5) for n in range(20))
    assert loop.stats.decoded == tokens - 20  # the first of each comes with its prompt
    assert loop.stats.decoded / loop.stats.steps > 3.5


def test_loop_takes_a_request_that_follows_a_completion(pair):
    waiting, result = [tokenized(prompt(6), max_new_tokens=5)], []
    for _, written in DecodeLoop(pair[1], letters, 2).run(lambda: waiting.pop() if waiting else None):
        result.append(written.token_ids)
        if len(result) < 3:
            waiting.append(tokenized(prompt(6) + [t for tokens in result for t in tokens], max_new_tokens=5))
    assert [t for tokens in result for t in tokens] == generated(pair[0], prompt(6), 15)


def test_a_beginning_that_rows_share_is_read_once(pair):
    shared = prompt(100)
    prompts = [shared + prompt(5, seed=n) for n in range(1, 13)]
    loop = DecodeLoop(pair[1], letters, 12)
    result = run(loop, [tokenized(one) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 12) for one in prompts]
    assert (loop.stats.prefilled, loop.stats.reused) == (100 + 12 * 5, 11 * 100)


def test_a_shared_beginning_outlives_the_row_that_read_it(pair):
    shared = prompt(100)
    loop = DecodeLoop(pair[1], letters, 12)
    run(loop, [tokenized(shared + prompt(5, seed=n), max_new_tokens=1) for n in range(1, 13)])
    assert (loop.stats.prefilled, loop.stats.reused) == (100 + 12 * 5, 11 * 100)


def test_a_rows_next_turn_finds_its_first_in_the_slot_it_left(pair):
    loop = DecodeLoop(pair[1], letters, 1)
    turns = [tokenized(prompt(50), max_new_tokens=8)]
    running = loop.run(lambda: turns.pop() if turns else None)
    _, first = next(running)
    continued = prompt(50) + first.token_ids + prompt(4, seed=9)
    turns.append(tokenized(continued))
    ((_, second),) = running
    assert second.token_ids == generated(pair[0], continued, 12)
    assert loop.stats.reused == 50 + 7  # the last token was chosen, but not read


class LoopLLM(LLM):
    """Completes requests by a loop, whose counts can be read afterwards."""

    model_name = "tiny"

    def __init__(self, loop, chat):
        self.loop, self.chat = loop, chat

    def complete(self, requests):
        return complete_by_stream(self, requests)

    def stream(self, requests):
        queue = RequestQueue(self.chat, requests, score=list)
        for request, written in self.loop.run(queue.next):
            key, rendered = queue.pending.pop(request)
            yield key, self.chat.completion(rendered, written)


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_generations_of_a_row_share_its_prefill(slots):
    """However many rows wait: of the second to fourth answer, only the prompt's last token is read."""
    tokenizer = byte_tokenizer()
    chat = ChatTokenizer(tokenizer, ChatTemplate.of_tokenizer("tiny", tokenizer, {}), frozenset(), None)
    llm = LoopLLM(DecodeLoop(ready(tiny(vocab_size=len(tokenizer))), chat.decode, slots), chat)
    sampling = SamplingParams(max_new_tokens=6)
    technique = TextGeneration(EchoLLM(), num_generations=4, keep_truncated=True, sampling=sampling)
    rows = [{"instruction": letter * 100 + "?"} for letter in "abcde"]
    seeds = [RowSeeds(0, "TextGeneration", row) for row in range(len(rows))]
    outcomes = run_flows([technique.flow(row, None) for row in rows], llm, seeds)
    lengths = [outcome.prompt_tokens // 4 for outcome in outcomes]
    assert min(lengths) > 100
    shared = 10 if slots < len(rows) else 0  # of the next row with the one before it in its slot
    assert sum(lengths) + 15 - shared * len(rows) <= llm.loop.stats.prefilled <= sum(lengths) + 15


def test_a_long_prompt_is_read_in_pieces(pair, monkeypatch):
    monkeypatch.setattr(decoding, "_PREFILL_TOKENS", {"cpu": 50})
    prompts = [prompt(220, seed=1), prompt(30, seed=2), prompt(7, seed=3)]
    result = run(DecodeLoop(pair[1], letters, 3), [tokenized(one) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 12) for one in prompts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_rows_samples_are_its_own_whatever_else_is_in_flight(dtype):
    model = ready(tiny(dtype=dtype))
    requests = [tokenized(prompt(n + 3, seed=n), seed=n, temperature=1.0, max_new_tokens=10 + n) for n in range(12)]
    alone = [run(DecodeLoop(model, letters, 1), [one])[0] for one in requests]
    for slots in (2, 5, 12):
        assert run(DecodeLoop(model, letters, slots), requests) == alone
        assert run(DecodeLoop(model, letters, slots), requests[::-1]) == alone[::-1]


def test_samples_follow_the_models_distribution(pair):
    number = 4000
    with torch.inference_mode():
        logits = pair[0](torch.tensor([prompt(8)])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1)
    result = run(
        DecodeLoop(pair[1], letters, 64),
        [tokenized(prompt(8), seed=n, temperature=0.7, max_new_tokens=1) for n in range(number)],
    )
    counts = torch.bincount(torch.tensor([written.token_ids[0] for written in result]), minlength=WORDS)
    often = expected * number >= 5
    chi_square = ((counts - expected * number)[often] ** 2 / (expected * number)[often]).sum()
    # three standard deviations above the mean of a chi-square with that many degrees of freedom
    degrees = int(often.sum()) - 1
    assert chi_square < degrees + 3 * (2 * degrees) ** 0.5


def test_loop_samples_with_the_requests_own_numbers(pair):
    (result,) = run(DecodeLoop(pair[1], letters, 1), [tokenized(prompt(8), seed=5, temperature=1.0)])
    tokens = prompt(8)
    for uniform in uniforms(5, 12).double():
        with torch.inference_mode():
            weights = pair[0](torch.tensor([tokens])).logits[0, -1].double().softmax(-1)
        tokens.append(int((weights.cumsum(-1) > uniform).int().argmax()))
    assert result.token_ids == tokens[8:]


def short_of_memory(monkeypatch, limit):
    """Run out of memory in every forward that has more than `most` rows."""
    real, sizes = forwards.forward, []

    def short(model, tokens, batch, keep=0):
        rows = len(batch.lengths) if hasattr(batch, "lengths") else len(batch.segments)
        sizes.append(rows)
        if rows > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(model, tokens, batch, keep)

    monkeypatch.setattr(forwards, "forward", short)
    return sizes


def test_running_out_of_memory_halves_the_rows_and_loses_none(pair, monkeypatch, caplog):
    prompts = [prompt(20, seed=n) for n in range(8)]
    sizes = short_of_memory(monkeypatch, 2)
    with caplog.at_level(logging.WARNING):
        result = run(DecodeLoop(pair[1], letters, 8), [tokenized(one) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 12) for one in prompts]
    assert [size for size in sizes if size > 2] == [8, 4]
    assert [record.args for record in caplog.records] == [(8, 20, 4), (4, 20, 2)]


def test_one_row_that_does_not_fit_in_memory_is_an_error(pair, monkeypatch):
    short_of_memory(monkeypatch, 0)
    with pytest.raises(GenerationError, match="row of 20 tokens"):
        run(DecodeLoop(pair[1], letters, 4), [tokenized(prompt(20))])


def test_loop_short_of_memory_has_fewer_longer_slots(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, bytes
    monkeypatch.setattr(scheduler, "cache_memory", lambda device: 3 * 512 * per_token)
    prompts = [prompt(300 + n, seed=n) for n in range(6)]
    loop = DecodeLoop(pair[1], letters, 6)
    assert loop._table.slots.count == 4
    result = run(loop, [tokenized(one, max_new_tokens=100) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 100) for one in prompts]
    assert loop._table.slots.count == 3


def test_loop_makes_room_for_a_long_prompt(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(scheduler, "cache_memory", lambda device: 4 * 384 * per_token)
    prompts = [prompt(50, seed=1), prompt(60, seed=2), prompt(70, seed=3), prompt(1300, seed=4), prompt(5, seed=5)]
    counts = widths(monkeypatch)
    result = run(DecodeLoop(pair[1], letters, 4), [tokenized(one) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 12) for one in prompts]
    assert counts == [(4, 384), (1, 1536)]


def widths(monkeypatch):
    """Note how many slots of which capacity each forward has, without repetition."""
    real, observed = forwards.forward, []

    def noting(model, tokens, batch, keep=0):
        size = batch.slots.count, batch.slots.capacity
        if observed[-1:] != [size]:
            observed.append(size)
        return real(model, tokens, batch, keep)

    monkeypatch.setattr(forwards, "forward", noting)
    return observed


def test_loop_after_a_long_row_has_all_slots(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(scheduler, "cache_memory", lambda device: 8 * 384 * per_token)
    prompts = [prompt(1500, seed=99), *(prompt(20, seed=n) for n in range(60))]
    counts = widths(monkeypatch)
    loop = DecodeLoop(pair[1], letters, 8)
    result = run(loop, [tokenized(one) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 12) for one in prompts]
    assert counts == [(1, 1632), (8, 384)]
    assert loop.stats.decoded / loop.stats.steps > 6


def test_loop_long_row_is_overtaken_by_few(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(scheduler, "cache_memory", lambda device: 4 * 384 * per_token)
    requests = [tokenized(prompt(20, seed=n)) for n in range(40)]
    requests.insert(2, tokenized(prompt(1000, seed=99)))
    ended = [one for one, _ in DecodeLoop(pair[1], letters, 4).run(next_of(requests))]
    assert ended.index(requests[2]) <= 2 + 4 + 2


def test_loop_row_too_long_for_memory_fails_alone(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(scheduler, "cache_memory", lambda device: 2 * 384 * per_token)
    prompts = [prompt(20, seed=1), prompt(900, seed=2), prompt(760, seed=3), prompt(20, seed=4)]
    result = run(DecodeLoop(pair[1], letters, 8), [tokenized(one, max_new_tokens=30) for one in prompts])
    assert [written.finish_reason for written in result] == ["length", "error", "error", "length"]
    assert result[1].token_ids == []
    assert result[2].token_ids == generated(pair[0], prompts[2], 30)[: len(result[2].token_ids)]
    assert len(result[2].token_ids) == 9, "it began, and came to its slot's end"
    assert [result[n].token_ids for n in (0, 3)] == [generated(pair[0], prompts[n], 30) for n in (0, 3)]


def test_loop_prompt_too_long_for_memory_fails_alone(pair, monkeypatch):
    """As memory is less than it was said to be: slots of more than 512 tokens for all of them don't fit."""
    real = decoding.KeyValueSlots._zeros

    def room(slots, like):
        if slots.count * slots.capacity > 8 * 512 or slots.capacity > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(slots, like)

    monkeypatch.setattr(decoding.KeyValueSlots, "_zeros", room)
    prompts = [*(prompt(20, seed=n) for n in range(6)), prompt(1000, seed=99), *(prompt(20, seed=n) for n in (6, 7))]
    result = run(DecodeLoop(pair[1], letters, 8), [tokenized(one) for one in prompts])
    assert result[6].finish_reason == "error"
    for n in (0, 1, 2, 3, 4, 5, 7, 8):
        assert result[n].token_ids == generated(pair[0], prompts[n], 12)


def test_loop_fewer_slots_keep_a_sequence_behind_gaps(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(scheduler, "cache_memory", lambda device: 3 * 384 * per_token)
    loop = DecodeLoop(pair[1], letters, 3)
    short = [
        tokenized(prompt(50, seed=n), max_new_tokens=5) for n in (1, 2)
    ]  # they end batch the third needs more room
    result = run(loop, [*short, tokenized(prompt(380), max_new_tokens=30)])
    assert result[2].token_ids == generated(pair[0], prompt(380), 30)
    assert loop._table.slots.count == 2


def test_one_who_stops_listening_leaves_nothing_behind(pair):
    loop = DecodeLoop(pair[1], letters, 4)
    stream = loop.run(next_of([tokenized(prompt(9, seed=n), max_new_tokens=3 + n) for n in range(8)]))
    next(stream)
    stream.close()
    assert run(loop, [tokenized(prompt(9))])[0].token_ids == generated(pair[0], prompt(9), 12)


def failing(function, *calls):
    """A function that runs out of memory at these of its calls."""
    count = 0

    def call(*arguments, **options):
        nonlocal count
        count += 1
        if count in calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize("call", [1, 4])
def test_running_out_of_memory_while_choosing_spoils_no_row(pair, monkeypatch, call):
    monkeypatch.setattr(decoding.Sampler, "choose", failing(decoding.Sampler.choose, call))
    prompts = [prompt(20, seed=n) for n in range(4)]
    result = run(DecodeLoop(pair[1], letters, 4), [tokenized(one) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 12) for one in prompts]


@pytest.mark.parametrize("call", [5, 6, 7, 8])
def test_running_out_of_memory_while_slots_grow_spoils_no_row(pair, monkeypatch, call):
    monkeypatch.setattr(decoding.KeyValueSlots, "_zeros", failing(decoding.KeyValueSlots._zeros, call))
    prompts = [prompt(380, seed=n) for n in range(4)]
    result = run(DecodeLoop(pair[1], letters, 4), [tokenized(one) for one in prompts])
    assert [written.token_ids for written in result] == [generated(pair[0], one, 12) for one in prompts]


def test_loop_one_row_frees_unused_slots_before_it_fails(pair, monkeypatch):
    forward = forwards.forward

    def small(model, tokens, batch, keep=0):
        if batch.slots.count > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(model, tokens, batch, keep)

    monkeypatch.setattr(forwards, "forward", small)
    (result,) = run(DecodeLoop(pair[1], letters, 64), [tokenized(prompt(20))])
    assert result.token_ids == generated(pair[0], prompt(20), 12)


def test_a_run_computes_its_rows_as_if_no_run_had_been_before(pair, monkeypatch):
    forward, sizes = forwards.forward, []
    monkeypatch.setattr(
        forwards, "forward", lambda model, tokens, *rest: sizes.append(len(tokens)) or forward(model, tokens, *rest)
    )
    shared = prompt(100)
    requests = [tokenized(shared + prompt(5 + n, seed=n)) for n in range(8)]
    loop = DecodeLoop(pair[1], letters, 8)
    run(loop, requests)
    first = list(sizes)
    run(loop, requests)
    assert sizes == first * 2


def test_loop_under_way_is_not_reusable(pair):
    loop = DecodeLoop(pair[1], letters, 4)
    assert loop.is_reusable
    begun = loop.run(next_of([tokenized(prompt(9), max_new_tokens=3 + n) for n in range(3)]))
    next(begun)
    assert not loop.is_reusable
    begun.close()
    assert not loop.is_reusable, "it was left in the middle"
    run(loop, [tokenized(prompt(9))])
    assert loop.is_reusable


def test_loop_before_its_end_is_not_reusable(pair):
    loop = DecodeLoop(pair[1], letters, 4)
    waiting = loop.run(next_of([tokenized(prompt(9), max_new_tokens=3)]))
    next(waiting)
    assert not loop.is_reusable


def test_loop_presence_penalty_counts_generated_tokens(pair):
    prompts = [prompt(length, seed=length) for length in (3, 20, 40)]
    requests = [tokenized(one, max_new_tokens=20, presence_penalty=2.0) for one in prompts]
    result = run(DecodeLoop(pair[1], letters, 2), [*requests, tokenized(prompts[0], max_new_tokens=20)])
    for one, written in zip(prompts, result, strict=False):
        tokens = list(one)
        while len(tokens) < len(one) + 20:
            with torch.inference_mode():
                logits = pair[0](torch.tensor([tokens])).logits[0, -1]
                logits[sorted(set(tokens[len(one) :]))] -= 2
            tokens.append(int(logits.argmax()))
        assert written.token_ids == tokens[len(one) :]
    assert result[-1].token_ids == generated(pair[0], prompts[0], 20) != result[0].token_ids


def spoiled(token):
    """A model to which one word of its vocabulary is not a number."""
    model = ready(tiny())
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    return model


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_loop_row_with_nan_logits_fails_alone(pair, slots):
    prompts = [prompt(2, seed=n) for n in range(5)]
    expected = [generated(pair[0], one, 6) for one in prompts]
    observed = {token for one in [*prompts, *expected] for token in one}
    bad = next(token for token in range(WORDS) if token not in observed)
    requests = [tokenized(one, max_new_tokens=6) for one in prompts]
    requests[2:2] = [tokenized([bad, *prompt(40)])]
    result = run(DecodeLoop(spoiled(bad), letters, slots), requests)
    assert result.pop(2) == Generated([], "refused", NON_FINITE_LOGITS)
    assert [written.token_ids for written in result] == expected


def test_loop_row_keeps_tokens_before_nan_logits(pair):
    prompts = (prompt(1, seed=n) for n in range(99))
    texts = ((one, generated(pair[0], one, 2)) for one in prompts)
    asked, wrote = next((one, result) for one, result in texts if len({*one, *result}) == 3)
    (result,) = run(DecodeLoop(spoiled(wrote[1]), letters, 2), [tokenized(asked)])
    assert result == Generated(wrote, "refused", NON_FINITE_LOGITS)


def test_loop_nan_logits_of_all_rows_raise(pair):
    model = ready(tiny())
    with torch.no_grad():
        model.model.norm.weight[:] = torch.nan
    with pytest.raises(GenerationError, match=r"3 rows.*logits"):
        run(DecodeLoop(model, letters, 4), [tokenized(prompt(5, seed=n)) for n in range(3)])


GEMMA = {"head_dim": 16, "global_head_dim": 32, "num_hidden_layers": 6, "sliding_window": 24}
PER_LAYER = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": WORDS}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8, "v_head_dim": 40}
KEPT = [
    (LlamaConfig, {}, 2 * 2 * 2 * 16 * 4),
    (LlamaConfig, {"head_dim": 32, "num_key_value_heads": 1}, 2 * 2 * 1 * 32 * 4),
    (GPTBigCodeConfig, {"n_embd": 64, "n_head": 4, "n_layer": 2}, 2 * 2 * 1 * 16 * 4),
    (Gemma4TextConfig, {**GEMMA, **PER_LAYER}, 2 * (5 * 2 * 16 + 1 * 2 * 32) * 4),
    (DeepseekV3Config, {**LATENT, "num_key_value_heads": 4, "first_k_dense_replace": 2}, 2 * 4 * (32 + 40) * 4),
]


@pytest.mark.parametrize(("config", "sizes", "kept"), KEPT, ids=["llama", "one head", "shared", "widths", "latent"])
def test_cache_bytes_per_token_equal_the_slots_size(config, sizes, kept):
    model = tiny(config, **sizes)
    assert install_attention(model) == ""
    assert cache_bytes_per_token(model) == {torch.device("cpu"): kept}
    loop = DecodeLoop(model, letters, 2)
    list(loop.run(next_of([tokenized(prompt(20))])))
    slots = loop._table.slots
    assert sum(t.nbytes for pair in slots.layers.values() for t in pair) == kept * slots.count * slots.capacity


def test_max_cached_tokens_is_that_of_the_fullest_device(monkeypatch):
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    monkeypatch.setattr(scheduler, "cache_bytes_per_token", lambda model: {first: 100, second: 300})
    monkeypatch.setattr(scheduler, "cache_memory", lambda device: {first: 16_000, second: 24_000}[device])
    assert scheduler.max_cached_tokens(None) == 80
