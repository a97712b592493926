import logging

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen3Config

from hfsynth.engine.compatibility import adopt_attention
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.llms import recording, varlen
from hfsynth.llms.recording import RecordedSteps, can_record
from tests.elsewhere import Graph, elsewhere, moved
from tests.tiny import generated, job, letters, prompt, taker, tiny

LENGTHS = [1, 2, 3, 7, 16, 31, 33, 60, 127, 129, 200, 380, 390]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(varlen, "_DTYPES", (torch.float32,))  # so that rows are those of `generate`
    with elsewhere(monkeypatch) as there:
        yield there


@pytest.fixture
def graphs(monkeypatch):
    """All recordings that are made."""
    made = []

    class Kept(Graph):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Kept)
    return made


def loop_of(slots, config=LlamaConfig, **sizes):
    model = moved(tiny(config, **sizes))
    assert adopt_attention(model) == ""
    return DecodeLoop(model, letters, slots)


def run(loop, jobs):
    made = dict(loop.run(taker(jobs)))
    return [made[one].tokens for one in jobs]


@pytest.mark.parametrize("slots", [1, 2, 5, 8])
def test_rows_of_recorded_steps_are_those_of_generate(gpu, slots):
    asked = [(prompt(length, seed=length), 3 + length % 17) for length in LENGTHS]
    made = run(loop_of(slots), [job(one, max_new_tokens=number) for one, number in asked])
    assert made == [generated(tiny(), one, number) for one, number in asked]


@pytest.mark.parametrize(
    ("config", "sizes"),
    [(Qwen3Config, {"head_dim": 32}), (MistralConfig, {"sliding_window": 24})],
    ids=["qwen3", "sliding window"],
)
def test_other_architectures_are_recorded_too(gpu, graphs, config, sizes):
    prompts = [prompt(length, seed=length) for length in (3, 20, 40, 150)]
    made = run(loop_of(3, config, **sizes), [job(one, max_new_tokens=30) for one in prompts])
    assert made == [generated(tiny(config, **sizes), one, 30) for one in prompts]
    assert sum(graph.replays for graph in graphs) > 25


def test_each_number_of_rows_is_recorded_once_and_then_run_again(gpu, graphs):
    loop = loop_of(8)
    run(loop, [job(prompt(5, seed=row), max_new_tokens=4 + 2 * row) for row in range(8)])
    sizes = [2, 4, 8]
    assert len(graphs) == len(sizes)
    assert loop.tally.steps == sum(graph.replays for graph in graphs)  # the first of a kind is run again to compare


def test_a_recorded_step_asks_for_few_kernels_and_waits_once(gpu):
    loop = loop_of(4)
    run(loop, [job(prompt(5, seed=row), max_new_tokens=3) for row in range(4)])
    gpu.calls.clear(), gpu.waits.clear()
    before = loop.tally.steps
    run(loop, [job(prompt(5, seed=row), max_new_tokens=50) for row in range(4)])
    steps = loop.tally.steps - before
    prefills = 1
    assert gpu.waits.total() == steps + prefills
    assert gpu.calls.total() < 20 * steps


def test_prompts_are_read_together_on_a_gpu_and_at_once_on_a_cpu(gpu, monkeypatch):
    near = tiny()
    assert adopt_attention(near) == ""
    prefill, made = DecodeLoop._prefill, []
    monkeypatch.setattr(DecodeLoop, "_prefill", lambda loop: made.append(loop) or prefill(loop))
    loops = loop_of(16), DecodeLoop(near, letters, 16)
    jobs = [job(prompt(5, seed=row), max_new_tokens=20 + row) for row in range(48)]
    there, here = (run(loop, jobs) for loop in loops)
    assert there == here
    assert made.count(loops[0]) < 0.6 * made.count(loops[1])


def test_a_free_slots_token_spoils_nothing_that_a_row_shares(gpu):
    loop = loop_of(4)
    shared, long = prompt(40, seed=1), job(prompt(9, seed=2), max_new_tokens=60)
    jobs = [job(shared, max_new_tokens=n) for n in (2, 5, 9)] + [long] + [job(shared, max_new_tokens=30)] * 2
    first, then = taker(jobs[:4]), taker(jobs[4:])
    made = dict(loop.run(lambda: first() or (then() if len(loop._room.rows) < 2 else None)))
    assert loop.tally.copied > 40
    for one in jobs:
        assert made[one].tokens == generated(tiny(), one.prompt, one.max_new_tokens)


def test_a_free_slot_that_is_full_forgets_its_last_token(gpu):
    loop = loop_of(4)
    full, other = prompt(380, seed=3), job(prompt(9, seed=2), max_new_tokens=40)
    first = [job(full, max_new_tokens=5), job(prompt(7, seed=5), max_new_tokens=30), other]
    run(loop, first)
    seating = loop._seating
    seating._left[0] = [*range(seating.slots.capacity)]
    assert seating.next_places(1) == [seating.slots.capacity - 1]
    assert len(seating.held(0)) == seating.slots.capacity - 1


def test_rows_stay_where_they_are_as_long_as_a_recording_has_room_for_gaps(gpu, monkeypatch):
    loop, moves = loop_of(8), []
    monkeypatch.setattr(type(loop._seating), "_move", lambda seating, sources, targets: moves.append(sources))
    prompts = [prompt(5 + row, seed=row) for row in range(8)]
    made = run(
        loop,
        [job(one, max_new_tokens=number) for one, number in zip(prompts, (9, 20, 8, 20, 20, 7, 20, 20), strict=True)],
    )
    assert made[7] == generated(tiny(), prompts[7], 20)
    assert moves == []


def test_slots_that_have_moved_are_recorded_anew(gpu, graphs):
    long = prompt(360, seed=4)
    made = run(loop_of(2), [job(long, max_new_tokens=40), job(prompt(4), max_new_tokens=90)])
    assert made == [generated(tiny(), long, 40), generated(tiny(), prompt(4), 90)]
    assert [graph.replays > 20 for graph in graphs] == [True, True]


def test_steps_that_can_not_be_recorded_are_run_plainly_and_told_once(gpu, graphs, monkeypatch, caplog):
    read = RecordedSteps._read
    monkeypatch.setattr(
        RecordedSteps, "_read", lambda self, step: read(self, step) + step.told.float().mul(0).sum().item()
    )
    prompts = [prompt(length, seed=length) for length in (3, 20, 40)]
    with caplog.at_level(logging.WARNING):
        made = run(loop_of(2), [job(one, max_new_tokens=30) for one in prompts])
    assert made == [generated(tiny(), one, 30) for one in prompts]
    assert graphs == []  # what is begun and then can't be done would leave memory behind
    assert [record.name for record in caplog.records] == [recording.__name__]
    assert "called a synchronizing CUDA operation (item)" in caplog.text
    assert gpu.strict is False


def test_a_recording_that_computes_something_else_is_not_used(gpu, graphs, monkeypatch, caplog):
    monkeypatch.setattr(Graph, "replay", lambda graph: graph.steps.clear())
    read = RecordedSteps._read
    monkeypatch.setattr(RecordedSteps, "_read", lambda self, step: read(self, step) * (1 + gpu.is_recording))
    prompts = [prompt(length, seed=length) for length in (3, 20, 40)]
    with caplog.at_level(logging.WARNING):
        made = run(loop_of(2), [job(one, max_new_tokens=30) for one in prompts])
    assert made == [generated(tiny(), one, 30) for one in prompts]
    assert len(graphs) == 1
    assert "a recorded step computes something else than the step" in caplog.text


def test_a_model_whose_steps_can_not_be_recorded_is_not_tried_again(gpu, graphs, monkeypatch):
    read = RecordedSteps._read

    def refused(self, step):
        if gpu.is_recording:
            raise RuntimeError("operation not permitted when stream is capturing")
        return read(self, step)

    monkeypatch.setattr(RecordedSteps, "_read", refused)
    loop = loop_of(2)
    asked = [job(prompt(4), max_new_tokens=5), job(prompt(9), max_new_tokens=5)]
    run(loop, asked)
    run(DecodeLoop(loop._model, letters, 4), asked)
    assert len(graphs) == 1
    assert gpu.stream is None  # what comes after a failed recording runs where it always did


def test_memory_that_runs_out_as_a_step_is_recorded_is_no_reason_never_to_record(gpu, graphs, monkeypatch):
    record, left = RecordedSteps._record, [1]

    def scarce(self, told, logits):
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("out of memory")
        return record(self, told, logits)

    monkeypatch.setattr(RecordedSteps, "_record", scarce)
    loop = loop_of(4)
    run(loop, [job(prompt(4, seed=n), max_new_tokens=5 + 9 * (n > 2)) for n in range(4)])
    assert loop.fresh
    assert left == [-1]  # it is not tried again for as many rows, but for fewer
    assert len(graphs) == 1


def test_memory_that_runs_out_takes_the_recordings_with_it(gpu, monkeypatch):
    loop = loop_of(4)
    replay, left = Graph.replay, [3]

    def scarce(self):
        left[0] -= 1
        if not left[0]:
            raise torch.OutOfMemoryError("out of memory")
        replay(self)

    monkeypatch.setattr(Graph, "replay", scarce)
    prompts = [prompt(length, seed=length) for length in (3, 20, 40, 150)]
    assert run(loop, [job(one, max_new_tokens=30) for one in prompts]) == [
        generated(tiny(), one, 30) for one in prompts
    ]
    assert not loop.fresh


def test_only_a_model_on_one_gpu_that_is_read_without_windows_is_recorded(gpu, monkeypatch):
    assert not can_record(tiny())
    model = moved(tiny())
    assert not can_record(model)
    adopt_attention(model)
    assert can_record(model)
    model.lm_head.weight = tiny().lm_head.weight
    assert not can_record(model)
