import random

import torch

from hfsynth.engine.attention import cost, window_of, windows

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_rows_share_a_window_only_where_their_keys_are_summed_in_one_order():
    assert windows([380, 390, 500, 600, 900], CPU) == [
        (slice(0, 1), 384),
        (slice(1, 3), 512),
        (slice(3, 4), 608),
        (slice(4, 5), 1024),
    ]
    assert all(length <= window_of(length) < length + 512 for length in range(1, 2000))


def test_a_long_row_does_not_make_many_short_ones_read_as_far():
    assert windows([1300, *[100] * 20], CPU) == [(slice(0, 1), 1312), (slice(1, 21), 128)]
    assert windows([100, 100, 130, 100], CPU) == [(slice(0, 4), 160)], "one more group would cost more"
    assert windows([4000, *[100] * 250], CUDA) == [(slice(0, 9), 4096), (slice(9, 251), 128)]
    assert windows([400, *[100] * 50], CUDA) == [(slice(0, 51), 512)]


def test_every_row_is_in_one_group_that_reads_far_enough():
    draw = random.Random(0)
    for device in (CPU, CUDA):
        for _ in range(200):
            lengths = [draw.randint(1, 2000) for _ in range(draw.randint(1, 60))]
            groups = windows(lengths, device)
            assert [row for part, _ in groups for row in range(part.start, part.stop)] == list(range(len(lengths)))
            assert all(max(lengths[part]) <= window for part, window in groups)
            assert all(window == window_of(max(lengths[part])) for part, window in groups)
            spans = [{((n - 1) // 512, (n - 1) % 512 < 384) for n in lengths[part]} for part, _ in groups]
            assert device == CUDA or all(len(kinds) == 1 for kinds in spans), "summed in one order"


def test_rows_in_order_of_length_cost_less():
    draw = random.Random(0)
    lengths = [draw.randint(50, 700) for _ in range(90)]
    ordered = sorted(lengths, reverse=True)
    assert cost(windows(ordered, CPU), CPU) < 0.8 * cost(windows(lengths, CPU), CPU)
