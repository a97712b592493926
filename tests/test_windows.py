import torch

from hfsynth.llms.windows import window_of, windows

CPU = torch.device("cpu")


def test_rows_share_a_window_only_where_their_keys_are_summed_in_one_order():
    assert windows([10, 40, 380, 390, 500, 600, 900], CPU) == [
        (slice(0, 3), 384),
        (slice(3, 5), 512),
        (slice(5, 6), 608),
        (slice(6, 7), 1024),
    ]
    assert [part for part, _ in windows([20] * 40, CPU)] == [slice(0, 16), slice(16, 32), slice(32, 40)]
    assert all(length <= window_of(length) < length + 512 for length in range(1, 2000))
