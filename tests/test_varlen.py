import pytest
import torch

from hfsynth.engine import attention
from hfsynth.engine.attention import Asked, Prefill, Segment, Step
from hfsynth.engine.compatibility import adopt_attention
from hfsynth.engine.decode_loop import DecodeLoop
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.scoring import Comparison, score
from hfsynth.engine.static_batches import StaticBatches
from hfsynth.llms import varlen
from hfsynth.llms.varlen import Spans
from tests.elsewhere import GPU, by_the_book, elsewhere, moved
from tests.tiny import generated, job, letters, prompt, taker, tiny

CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch):
    with elsewhere(monkeypatch) as there:
        yield there


@pytest.fixture
def exact(monkeypatch):
    """The kernel takes float32, so that rows are those of `generate`."""
    monkeypatch.setattr(varlen, "_DTYPES", (torch.float32,))


def test_spans_say_where_each_slots_tokens_are():
    spans = Spans.of([3, 0, 2], [3, 0, 9], 32, CPU)
    assert spans.queries.tolist() == [0, 3, 3, 5]
    assert spans.keys.tolist() == [0, 32, 64, 96]
    assert (spans.used.tolist(), spans.most, spans.capacity) == ([3, 0, 9], 3, 32)


def test_a_single_token_is_not_taken_for_a_step_where_other_slots_have_none():
    assert Spans.of([1, 0, 1], [4, 0, 1], 32, CPU).most == 2
    assert Spans.of([1, 1], [4, 1], 32, CPU).most == 1


def test_in_a_step_each_slot_has_one_token():
    spans = Spans.of_step(torch.tensor([7, 9]), 32)
    assert spans.queries.tolist() == [0, 1, 2]
    assert spans.keys.tolist() == [0, 32, 64]
    assert (spans.used.tolist(), spans.used.dtype, spans.most) == ([7, 9], torch.int32, 1)


def test_a_model_elsewhere_than_on_a_new_gpu_or_in_float32_is_read_by_windows(gpu, monkeypatch):
    assert not varlen.can_read(tiny(dtype=torch.bfloat16))
    assert not varlen.can_read(moved(tiny()))
    assert varlen.can_read(moved(tiny(dtype=torch.bfloat16)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not varlen.can_read(moved(tiny(dtype=torch.bfloat16)))
    monkeypatch.setattr(torch.version, "cuda", None)  # an AMD GPU
    assert not varlen.can_read(moved(tiny(dtype=torch.bfloat16)))


def test_windows_on_a_gpu_write_what_generate_writes_and_wait_once_a_forward(gpu):
    model, prompts = moved(tiny()), [prompt(length, seed=length) for length in (1, 3, 40, 130, 390)]
    assert adopt_attention(model) == ""
    assert model.config._attn_implementation == attention.NAME
    loop, jobs = DecodeLoop(model, letters, 3), [job(one, max_new_tokens=20) for one in prompts]
    gpu.waits.clear()
    made = dict(loop.run(taker(jobs)))
    assert [made[one].tokens for one in jobs] == [generated(tiny(), one, 20) for one in prompts]
    assert gpu.waits["cpu"] <= loop.tally.steps + len(prompts)
    assert gpu.waits["tensor"] < len(prompts)  # for rows that were copied before a forward


def test_sampled_rows_are_the_same_on_a_gpu(gpu, exact):
    ways = [{"top_p": 0.9}, {"top_k": 5, "presence_penalty": 0.5}, {"min_p": 0.1}, {"temperature": 0.0}, {}]
    jobs = [
        job(prompt(20, seed=n), seed=n, max_new_tokens=30, **{"temperature": 1.0, **way}) for n, way in enumerate(ways)
    ]
    far, near = moved(tiny()), tiny()
    loops = []
    for model in (far, near):
        assert adopt_attention(model) == ""
        loops.append(DecodeLoop(model, letters, 3))
    there, here = (dict(loop.run(taker(jobs))) for loop in loops)
    assert [there[one].tokens for one in jobs] == [here[one].tokens for one in jobs]


def test_static_batches_are_the_same_on_a_gpu(gpu):
    jobs = [job(prompt(5 + n, seed=n), seed=n, temperature=n / 3, max_new_tokens=8 + n) for n in range(4)]
    there, here = (dict(StaticBatches(model, letters, 3).run(taker(jobs))) for model in (moved(tiny()), tiny()))
    assert [there[one].tokens for one in jobs] == [here[one].tokens for one in jobs]


def test_a_model_that_the_kernel_reads_wrongly_is_read_by_windows(gpu, exact, monkeypatch):
    def unlike(*args, **kwargs):
        return gpu.computed("varlen_attn", lambda *a, **k: by_the_book(*a, **k).flip(0), args, kwargs)

    def refuses(*args, **kwargs):
        raise RuntimeError("head_size should be a multiple of 8")

    for kernel in (unlike, refuses):
        monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", kernel)
        model = moved(tiny())
        assert adopt_attention(model) == ""
        assert model.config._attn_implementation == attention.NAME


def test_choices_are_scored_on_a_gpu_as_on_a_cpu(gpu, exact):
    compared = [Comparison(prompt(30 + n, seed=n), [[3, 4], [5], [6, 7, 8]], frozenset({1})) for n in range(3)]
    far, near = moved(tiny()), tiny()
    assert adopt_attention(far) == adopt_attention(near) == ""
    for there, here in zip(score(far, compared, True), score(near, compared, True), strict=True):
        assert there == pytest.approx(here, abs=1e-4)


def test_pieces_are_read_in_the_order_of_their_slots(gpu):
    slots = KeyValueSlots(3, 32, GPU)
    where = Prefill(slots, [Segment(2, 0, 3), Segment(0, 0, 2)], GPU)
    new = torch.zeros(1, 2, 5, 8, device=GPU)
    kept = slots.layer(0, new, new)
    with pytest.raises(ValueError, match=r"in the order of their slots, one of each, not \[2, 0\]"):
        where.attend(new, *kept, Asked(by_varlen=True))


def test_a_step_reads_no_slots_but_those_of_its_rows(gpu):
    slots = KeyValueSlots(5, 32, GPU)
    new = torch.ones(1, 2, 3, 8, device=GPU)
    keys, values = slots.layer(0, new, new)
    where = Step(slots, [0, 4, 9])
    where.write(keys, new), where.write(values, new)
    read = where.attend(new.repeat(1, 2, 1, 1), keys, values, Asked(by_varlen=True))
    assert read.shape == (1, 3, 4, 8)
    assert read[0, 0].cpu().eq(1).all()
    assert not keys[3:].cpu().any()
