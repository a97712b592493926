"""The bar for the rows of one batch of `Dataset.map`."""

import time

import pytest
from datasets import Dataset, disable_progress_bars, enable_progress_bars

from hfsynth import EchoLLM, TextGeneration


class Slow(EchoLLM):
    """Completes one request after the other, each in half a second."""

    def stream(self, requests):
        while (taken := requests.take()) is not None:
            time.sleep(0.5)
            yield taken[0], self.complete([taken[1]])[0]


@pytest.mark.parametrize("bars", [True, False])
def test_map_batch_that_takes_long_shows_rows_and_tokens(capsys, bars):
    rows = Dataset.from_dict({"instruction": ["one two", None, "b", "c", "d", "e", "f"]})
    if bars:
        enable_progress_bars()
    try:
        rows.map(TextGeneration(Slow()), batched=True, with_indices=True)
    finally:
        disable_progress_bars()
    output = capsys.readouterr().err
    assert ("TextGeneration, this batch" in output) == bars
    assert ("/7 [" in output and "tokens/s, 1 failed" in output) == bars


def test_map_batch_that_is_quick_shows_nothing(capsys):
    enable_progress_bars()
    try:
        Dataset.from_dict({"instruction": ["a"]}).map(TextGeneration(EchoLLM()), batched=True, with_indices=True)
    finally:
        disable_progress_bars()
    assert "this batch" not in capsys.readouterr().err
