import logging

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from hfsynth import GenerationError
from hfsynth.engine import decode_loop as decoding
from hfsynth.engine import memory
from hfsynth.engine.compatibility import adopt_attention
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.model import pack_linears
from hfsynth.engine.sampling import NOT_NUMBERS, uniforms
from hfsynth.engine.sequence import Written
from tests.tiny import WORDS, generated, job, letters, prompt, taker, tiny

LENGTHS = [1, 2, 3, 7, 16, 31, 32, 33, 60, 127, 128, 129, 200, 380, 390, 520]


def ready(model):
    pack_linears(model)
    assert adopt_attention(model) == ""
    return model


def run(loop, jobs):
    made = dict(loop.run(taker(jobs)))
    return [made[one] for one in jobs]


@pytest.fixture(scope="module")
def pair():
    """A model as it is, for `generate`, and the same made ready for the loop."""
    return tiny(), ready(tiny())


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 64])
def test_greedy_rows_are_those_of_generate_for_every_length_and_number_of_slots(pair, slots):
    prompts = [prompt(length, seed=length) for length in LENGTHS]
    made = run(DecodeLoop(pair[1], letters, slots), [job(one, max_new_tokens=20) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 20) for one in prompts]
    assert {written.finish_reason for written in made} == {"length"}


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
def test_other_architectures_write_what_generate_writes(config, sizes):
    plain, own = tiny(config, **sizes), ready(tiny(config, **sizes))
    prompts = [prompt(length, seed=length) for length in (3, 20, 40, 150)]
    made = run(DecodeLoop(own, letters, 3), [job(one, max_new_tokens=30) for one in prompts])
    assert [written.tokens for written in made] == [generated(plain, one, 30) for one in prompts]


def test_each_row_ends_by_its_own_end_tokens_stop_text_or_length(pair):
    free = generated(pair[0], prompt(5), 30)
    text = letters(free)
    jobs = [
        job(prompt(5), max_new_tokens=30),
        job(prompt(5), ends=[free[6], free[9]], max_new_tokens=30),
        job(prompt(5), stop=[text[3:6]], max_new_tokens=30),
        job(prompt(5), max_new_tokens=4),
    ]
    made = run(DecodeLoop(pair[1], letters, 2), jobs)
    first = min(free.index(free[6]), free.index(free[9]))
    assert [len(written.tokens) for written in made] == [30, first + 1, text.index(text[3:6]) + 3, 4]
    assert all(written.tokens == free[: len(written.tokens)] for written in made)
    assert [written.finish_reason for written in made] == ["length", "stop", "stop", "length"]


def test_a_freed_slot_is_taken_at_once(pair):
    loop = DecodeLoop(pair[1], letters, 4)
    run(loop, [job(prompt(9, seed=n), max_new_tokens=4 + 3 * (n % 5)) for n in range(20)])
    tokens = sum(4 + 3 * (n % 5) for n in range(20))
    assert loop.tally.stepped == tokens - 20  # the first of each comes with its prompt
    assert loop.tally.stepped / loop.tally.steps > 3.5


def test_what_becomes_of_a_job_may_bring_another(pair):
    waiting, made = [job(prompt(6), max_new_tokens=5)], []
    for _, written in DecodeLoop(pair[1], letters, 2).run(lambda: waiting.pop() if waiting else None):
        made.append(written.tokens)
        if len(made) < 3:
            waiting.append(job(prompt(6) + [t for tokens in made for t in tokens], max_new_tokens=5))
    assert [t for tokens in made for t in tokens] == generated(pair[0], prompt(6), 15)


def test_a_beginning_that_rows_share_is_read_once(pair):
    shared = prompt(100)
    prompts = [shared + prompt(5, seed=n) for n in range(1, 13)]
    loop = DecodeLoop(pair[1], letters, 12)
    made = run(loop, [job(one) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 12) for one in prompts]
    assert (loop.tally.read, loop.tally.copied) == (100 + 12 * 5, 11 * 100)


def test_a_shared_beginning_outlives_the_row_that_read_it(pair):
    shared = prompt(100)
    loop = DecodeLoop(pair[1], letters, 12)
    run(loop, [job(shared + prompt(5, seed=n), max_new_tokens=1) for n in range(1, 13)])
    assert (loop.tally.read, loop.tally.copied) == (100 + 12 * 5, 11 * 100)


def test_a_rows_next_turn_finds_its_first_in_the_slot_it_left(pair):
    loop = DecodeLoop(pair[1], letters, 1)
    turns = [job(prompt(50), max_new_tokens=8)]
    running = loop.run(lambda: turns.pop() if turns else None)
    _, first = next(running)
    again = prompt(50) + first.tokens + prompt(4, seed=9)
    turns.append(job(again))
    ((_, second),) = running
    assert second.tokens == generated(pair[0], again, 12)
    assert loop.tally.copied == 50 + 7  # the last token was chosen, but not read


def test_a_long_prompt_is_read_in_pieces(pair, monkeypatch):
    monkeypatch.setattr(decoding, "_PREFILL", {"cpu": 50})
    prompts = [prompt(220, seed=1), prompt(30, seed=2), prompt(7, seed=3)]
    made = run(DecodeLoop(pair[1], letters, 3), [job(one) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 12) for one in prompts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_rows_samples_are_its_own_whatever_else_is_in_flight(dtype):
    model = ready(tiny(dtype=dtype))
    jobs = [job(prompt(n + 3, seed=n), seed=n, temperature=1.0, max_new_tokens=10 + n) for n in range(12)]
    alone = [run(DecodeLoop(model, letters, 1), [one])[0] for one in jobs]
    for slots in (2, 5, 12):
        assert run(DecodeLoop(model, letters, slots), jobs) == alone
        assert run(DecodeLoop(model, letters, slots), jobs[::-1]) == alone[::-1]


def test_samples_follow_the_models_distribution(pair):
    number = 4000
    with torch.inference_mode():
        logits = pair[0](torch.tensor([prompt(8)])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1)
    made = run(
        DecodeLoop(pair[1], letters, 64),
        [job(prompt(8), seed=n, temperature=0.7, max_new_tokens=1) for n in range(number)],
    )
    counts = torch.bincount(torch.tensor([written.tokens[0] for written in made]), minlength=WORDS)
    often = expected * number >= 5
    chi_square = ((counts - expected * number)[often] ** 2 / (expected * number)[often]).sum()
    # three standard deviations above the mean of a chi-square with that many degrees of freedom
    degrees = int(often.sum()) - 1
    assert chi_square < degrees + 3 * (2 * degrees) ** 0.5


def test_each_token_is_drawn_with_the_next_of_the_jobs_own_random_numbers(pair):
    (made,) = run(DecodeLoop(pair[1], letters, 1), [job(prompt(8), seed=5, temperature=1.0)])
    tokens = prompt(8)
    for uniform in uniforms(5, 12).double():
        with torch.inference_mode():
            weights = pair[0](torch.tensor([tokens])).logits[0, -1].double().softmax(-1)
        tokens.append(int((weights.cumsum(-1) > uniform).int().argmax()))
    assert made.tokens == tokens[8:]


def short_of_memory(monkeypatch, most):
    """Run out of memory in every forward that has more than `most` rows."""
    real, sizes = decoding.forward, []

    def short(model, tokens, where, keep=0):
        rows = len(where.lengths) if hasattr(where, "lengths") else len(where.segments)
        sizes.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(model, tokens, where, keep)

    monkeypatch.setattr(decoding, "forward", short)
    return sizes


def test_running_out_of_memory_halves_the_rows_and_loses_none(pair, monkeypatch, caplog):
    prompts = [prompt(20, seed=n) for n in range(8)]
    sizes = short_of_memory(monkeypatch, 2)
    with caplog.at_level(logging.WARNING):
        made = run(DecodeLoop(pair[1], letters, 8), [job(one) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 12) for one in prompts]
    assert [size for size in sizes if size > 2] == [8, 4]
    assert "memory holds no 8 rows of 20 tokens: on with 4" in caplog.text


def test_one_row_that_does_not_fit_in_memory_is_an_error(pair, monkeypatch):
    short_of_memory(monkeypatch, 0)
    with pytest.raises(GenerationError, match="out of memory with one row of 20 tokens; use a smaller"):
        run(DecodeLoop(pair[1], letters, 4), [job(prompt(20))])


def test_slots_are_given_up_where_free_memory_holds_fewer_longer_ones(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, bytes
    monkeypatch.setattr(memory, "available_memory", lambda device: int(3 * 512 * per_token / 0.4) + 1)
    prompts = [prompt(300 + n, seed=n) for n in range(6)]
    loop = DecodeLoop(pair[1], letters, 6)
    assert loop._seating.slots.count == 4
    made = run(loop, [job(one, max_new_tokens=100) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 100) for one in prompts]
    assert loop._seating.slots.count == 3


def test_slots_are_given_up_for_a_long_prompt_and_its_neighbours_wait(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(memory, "available_memory", lambda device: int(4 * 384 * per_token / 0.4) + 1)
    prompts = [prompt(50, seed=1), prompt(60, seed=2), prompt(70, seed=3), prompt(1300, seed=4), prompt(5, seed=5)]
    counts = widths(monkeypatch)
    made = run(DecodeLoop(pair[1], letters, 4), [job(one) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 12) for one in prompts]
    assert counts == [(4, 384), (1, 1536)]


def widths(monkeypatch):
    """Note how many slots of which capacity each forward has, without repetition."""
    real, seen = decoding.forward, []

    def noting(model, tokens, where, keep=0):
        size = where.slots.count, where.slots.capacity
        if seen[-1:] != [size]:
            seen.append(size)
        return real(model, tokens, where, keep)

    monkeypatch.setattr(decoding, "forward", noting)
    return seen


def test_when_a_long_row_has_ended_the_others_have_its_room_again(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(memory, "available_memory", lambda device: int(8 * 384 * per_token / 0.4) + 1)
    prompts = [prompt(1500, seed=99), *(prompt(20, seed=n) for n in range(60))]
    counts = widths(monkeypatch)
    loop = DecodeLoop(pair[1], letters, 8)
    made = run(loop, [job(one) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 12) for one in prompts]
    assert counts == [(1, 1632), (8, 384)]
    assert loop.tally.stepped / loop.tally.steps > 6


def test_a_long_row_that_waits_lets_no_more_pass_than_there_are_slots(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(memory, "available_memory", lambda device: int(4 * 384 * per_token / 0.4) + 1)
    jobs = [job(prompt(20, seed=n)) for n in range(40)]
    jobs.insert(2, job(prompt(1000, seed=99)))
    ended = [one for one, _ in DecodeLoop(pair[1], letters, 4).run(taker(jobs))]
    assert ended.index(jobs[2]) <= 2 + 4 + 2


def test_a_row_that_memory_does_not_hold_ends_with_an_error_and_the_others_go_on(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(memory, "available_memory", lambda device: int(2 * 384 * per_token / 0.4) + 1)
    prompts = [prompt(20, seed=1), prompt(900, seed=2), prompt(760, seed=3), prompt(20, seed=4)]
    made = run(DecodeLoop(pair[1], letters, 8), [job(one, max_new_tokens=30) for one in prompts])
    assert [written.finish_reason for written in made] == ["length", "error", "error", "length"]
    assert made[1].tokens == []
    assert made[2].tokens == generated(pair[0], prompts[2], 30)[: len(made[2].tokens)]
    assert len(made[2].tokens) == 9, "it began, and came to its slot's end"
    assert [made[n].tokens for n in (0, 3)] == [generated(pair[0], prompts[n], 30) for n in (0, 3)]


def test_a_prompt_that_takes_more_than_there_is_harms_no_other_row(pair, monkeypatch):
    """As memory is less than it was said to be: slots of more than 512 tokens for all of them don't fit."""
    real = decoding.KeyValueSlots._room

    def room(slots, like):
        if slots.count * slots.capacity > 8 * 512 or slots.capacity > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(slots, like)

    monkeypatch.setattr(decoding.KeyValueSlots, "_room", room)
    prompts = [*(prompt(20, seed=n) for n in range(6)), prompt(1000, seed=99), *(prompt(20, seed=n) for n in (6, 7))]
    made = run(DecodeLoop(pair[1], letters, 8), [job(one) for one in prompts])
    assert made[6].finish_reason == "error"
    for n in (0, 1, 2, 3, 4, 5, 7, 8):
        assert made[n].tokens == generated(pair[0], prompts[n], 12)


def test_a_row_behind_gaps_keeps_its_place_when_slots_are_given_up(pair, monkeypatch):
    per_token = 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(memory, "available_memory", lambda device: int(3 * 384 * per_token / 0.4) + 1)
    loop = DecodeLoop(pair[1], letters, 3)
    short = [job(prompt(50, seed=n), max_new_tokens=5) for n in (1, 2)]  # they end where the third needs more room
    made = run(loop, [*short, job(prompt(380), max_new_tokens=30)])
    assert made[2].tokens == generated(pair[0], prompt(380), 30)
    assert loop._seating.slots.count == 2


def test_one_who_stops_listening_leaves_nothing_behind(pair):
    loop = DecodeLoop(pair[1], letters, 4)
    stream = loop.run(taker([job(prompt(9, seed=n), max_new_tokens=3 + n) for n in range(8)]))
    next(stream)
    stream.close()
    assert run(loop, [job(prompt(9))])[0].tokens == generated(pair[0], prompt(9), 12)


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
    made = run(DecodeLoop(pair[1], letters, 4), [job(one) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 12) for one in prompts]


@pytest.mark.parametrize("call", [5, 6, 7, 8])
def test_running_out_of_memory_while_slots_grow_spoils_no_row(pair, monkeypatch, call):
    monkeypatch.setattr(decoding.KeyValueSlots, "_room", failing(decoding.KeyValueSlots._room, call))
    prompts = [prompt(380, seed=n) for n in range(4)]
    made = run(DecodeLoop(pair[1], letters, 4), [job(one) for one in prompts])
    assert [written.tokens for written in made] == [generated(pair[0], one, 12) for one in prompts]


def test_one_row_gives_up_the_slots_that_nobody_uses_before_it_gives_up(pair, monkeypatch):
    forward = decoding.forward

    def small(model, tokens, where, keep=0):
        if where.slots.count > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(model, tokens, where, keep)

    monkeypatch.setattr(decoding, "forward", small)
    (made,) = run(DecodeLoop(pair[1], letters, 64), [job(prompt(20))])
    assert made.tokens == generated(pair[0], prompt(20), 12)


def test_a_run_computes_its_rows_as_if_no_run_had_been_before(pair, monkeypatch):
    forward, sizes = decoding.forward, []
    monkeypatch.setattr(
        decoding, "forward", lambda model, tokens, *rest: sizes.append(len(tokens)) or forward(model, tokens, *rest)
    )
    shared = prompt(100)
    jobs = [job(shared + prompt(5 + n, seed=n)) for n in range(8)]
    loop = DecodeLoop(pair[1], letters, 8)
    run(loop, jobs)
    first = list(sizes)
    run(loop, jobs)
    assert sizes == first * 2


def test_a_loop_that_is_under_way_or_short_of_memory_is_not_fresh(pair):
    loop = DecodeLoop(pair[1], letters, 4)
    assert loop.fresh
    begun = loop.run(taker([job(prompt(9), max_new_tokens=3 + n) for n in range(3)]))
    next(begun)
    assert not loop.fresh
    begun.close()
    assert not loop.fresh, "it was left in the middle"
    run(loop, [job(prompt(9))])
    assert loop.fresh


def test_a_loop_whose_rows_have_all_ended_is_under_way_until_it_is_told(pair):
    loop = DecodeLoop(pair[1], letters, 4)
    waiting = loop.run(taker([job(prompt(9), max_new_tokens=3)]))
    next(waiting)
    assert not loop.fresh


def test_a_presence_penalty_counts_what_the_row_itself_has_written(pair):
    prompts = [prompt(length, seed=length) for length in (3, 20, 40)]
    jobs = [job(one, max_new_tokens=20, presence_penalty=2.0) for one in prompts]
    made = run(DecodeLoop(pair[1], letters, 2), [*jobs, job(prompts[0], max_new_tokens=20)])
    for one, written in zip(prompts, made, strict=False):
        tokens = list(one)
        while len(tokens) < len(one) + 20:
            with torch.inference_mode():
                logits = pair[0](torch.tensor([tokens])).logits[0, -1]
                logits[sorted(set(tokens[len(one) :]))] -= 2
            tokens.append(int(logits.argmax()))
        assert written.tokens == tokens[len(one) :]
    assert made[-1].tokens == generated(pair[0], prompts[0], 20) != made[0].tokens


def spoiled(token):
    """A model to which one word of its vocabulary is not a number."""
    model = ready(tiny())
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    return model


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_a_row_whose_logits_are_not_numbers_fails_and_spoils_no_other(pair, slots):
    prompts = [prompt(2, seed=n) for n in range(5)]
    expected = [generated(pair[0], one, 6) for one in prompts]
    seen = {token for one in [*prompts, *expected] for token in one}
    bad = next(token for token in range(WORDS) if token not in seen)
    jobs = [job(one, max_new_tokens=6) for one in prompts]
    jobs[2:2] = [job([bad, *prompt(40)])]
    made = run(DecodeLoop(spoiled(bad), letters, slots), jobs)
    assert made.pop(2) == Written([], "refused", NOT_NUMBERS)
    assert [written.tokens for written in made] == expected


def test_a_row_keeps_what_it_wrote_before_its_logits_were_no_numbers(pair):
    prompts = (prompt(1, seed=n) for n in range(99))
    texts = ((one, generated(pair[0], one, 2)) for one in prompts)
    asked, wrote = next((one, made) for one, made in texts if len({*one, *made}) == 3)
    (made,) = run(DecodeLoop(spoiled(wrote[1]), letters, 2), [job(asked)])
    assert made == Written(wrote, "refused", NOT_NUMBERS)


def test_a_model_whose_logits_are_no_numbers_for_any_row_is_an_error(pair):
    model = ready(tiny())
    with torch.no_grad():
        model.model.norm.weight[:] = torch.nan
    with pytest.raises(GenerationError, match=r"for each of 3 rows, the model's logits are not numbers"):
        run(DecodeLoop(model, letters, 4), [job(prompt(5, seed=n)) for n in range(3)])
