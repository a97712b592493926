import pytest
import torch

from hfsynth.engine.attention import Asked, Prefill, Segment, Step
from hfsynth.engine.kv_cache import KeyValueSlots

CPU = torch.device("cpu")
WIDTH, HEADS, SHARED = 8, 2, 3


def by_the_book(query, keys, values, length, reach=None):
    """One token's attention to the first `length` positions, in float64."""
    first = 0 if reach is None else max(0, length - reach)
    out = []
    for head in range(HEADS * SHARED):
        k, v = keys[head // SHARED, first:length].double(), values[head // SHARED, first:length].double()
        out.append(((query[head].double() @ k.T) / WIDTH**0.5).softmax(-1) @ v)
    return torch.stack(out).float()


@pytest.fixture
def kept():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 20, HEADS, 1024, WIDTH, generator=draw)


def queries(number):
    return torch.randn(1, HEADS * SHARED, number, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reach", [None, 5])
def test_a_step_reads_each_rows_own_tokens(kept, reach):
    lengths = [0, 3, 31, 32, 40, 380, 390, 600, *range(5, 17)]
    query = queries(len(lengths))
    read = Step(KeyValueSlots(20, 1024, CPU), lengths).attend(query, *kept, Asked(reach=reach))
    for row, length in enumerate(lengths):
        expected = by_the_book(query[0, :, row], kept[0, row], kept[1, row], length + 1, reach)
        assert torch.allclose(read[0, row], expected, atol=1e-5)


@pytest.mark.parametrize("reach", [None, 5])
def test_a_prefill_reads_each_tokens_past_and_nothing_of_its_future(kept, reach):
    segments = [Segment(4, 0, 7), Segment(1, 100, 300), Segment(9, 383, 386)]
    query = queries(210)
    read = Prefill(KeyValueSlots(20, 1024, CPU), segments, CPU).attend(query, *kept, Asked(reach=reach))
    places = [(part.slot, position) for part in segments for position in range(part.start, part.stop)]
    for token, (slot, position) in enumerate(places):
        expected = by_the_book(query[0, :, token], kept[0, slot], kept[1, slot], position + 1, reach)
        assert torch.allclose(read[0, token], expected, atol=1e-5)


def test_what_lies_beyond_a_rows_end_does_not_matter(kept):
    step = Step(KeyValueSlots(20, 1024, CPU), [10, 30])
    before = step.attend(queries(2), *kept, Asked())
    kept[:, 0, :, 11:], kept[:, 1, :, 31:] = 1e4, -1e4
    assert torch.equal(step.attend(queries(2), *kept, Asked()), before)


def test_each_token_is_written_to_its_own_place():
    slots, new = KeyValueSlots(3, 64, CPU), torch.arange(1.0, 6.0)[None, None, :, None].expand(1, HEADS, 5, WIDTH)
    target = torch.zeros(3, HEADS, 64, WIDTH)
    Prefill(slots, [Segment(2, 4, 6), Segment(0, 0, 3)], CPU).write(target, new)
    assert target[2, 0, 3:7, 0].tolist() == [0, 1, 2, 0]
    assert target[0, 1, :4, 3].tolist() == [3, 4, 5, 0]
    Step(slots, [3, 0, 6]).write(target, new[:, :, :3])
    assert (target[0, 0, 3, 0], target[1, 0, 0, 0], target[2, 0, 6, 0]) == (1, 2, 3)
