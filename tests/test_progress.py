"""Progress of runs, and of batches of `Dataset.map`."""

import time

import pytest
from datasets import Dataset, disable_progress_bars, enable_progress_bars

from hfsynth import EchoLLM, TextGeneration
from hfsynth.distributed import ProcessGroup
from hfsynth.progress import Progress


def test_progress_without_terminal_prints_a_line(capsys):
    with Progress(ProcessGroup(), 2, quiet=False) as progress:
        progress.begin(1, "Magpie", 10)
        progress.add(rows=4, tokens=100, failed=1, found=False)
        progress.add(rows=6, tokens=70, failed=0, found=True)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("step 1/2, Magpie: 10/20 rows, ")
    assert ", 1 failed, " in line
    assert "rows/s" in line
    assert "tokens/s" in line
    assert "s left" in line


def test_progress_found_rows_do_not_count_for_speed(capsys):
    with Progress(ProcessGroup(), 1, quiet=False) as progress:
        progress.begin(1, "Magpie", 6)
        progress.add(rows=6, tokens=70, failed=0, found=True)
    line = capsys.readouterr().err
    assert "6/6 rows, 0.0 rows/s, 0 tokens/s" in line


def test_progress_later_step_adds_to_earlier_rows(capsys):
    with Progress(ProcessGroup(), 2, quiet=False) as progress:
        progress.begin(1, "a", 5)
        progress.add(5, 0, 0, found=False)
        progress.begin(2, "b", 8)
        progress.add(8, 0, 0, found=False)
    assert "step 2/2, b: 13/13 rows" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "quiet"), [(0, True), (1, False)])
def test_progress_quiet_or_other_process_prints_nothing(capsys, rank, quiet):
    with Progress(ProcessGroup(rank, 2), 1, quiet) as progress:
        progress.begin(1, "a", 5)
        progress.add(5, 0, 0, found=False)
    assert capsys.readouterr() == ("", "")


class OneByOne(EchoLLM):
    """Completes one request after the other, ten a second."""

    def stream(self, requests):
        while (taken := requests.take()) is not None:
            yield taken[0], self.complete([taken[1]])[0]
            time.sleep(0.1)


def chain(llm):
    first = TextGeneration(llm, output_mappings={"generation": "draft"})
    for name, column in (("B", "draft"), ("C", "b")):
        first = first >> TextGeneration(
            llm, name=name, input_mappings={"instruction": column}, output_mappings={"generation": name.lower()}
        )
    return first


def test_run_failed_row_counts_once_over_all_steps(capsys, tmp_path):
    rows = Dataset.from_dict({"instruction": ["Say a.", None, "Say b."]})
    for _ in range(2):  # made, then found
        chain(EchoLLM()).run(rows, run_dir=tmp_path / "run")
        output = capsys.readouterr().err
        assert "9/9 rows" in output
        assert "1 failed, done" in output


def test_run_progress_moves_within_a_chunk(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("hfsynth.progress._SECONDS_PER_LINE", 0.5)
    rows = Dataset.from_dict({"instruction": [f"Say {n}." for n in range(20)]})
    TextGeneration(OneByOne()).__rshift__(
        TextGeneration(EchoLLM(), name="B", output_mappings={"generation": "b"})
    ).run(rows, run_dir=tmp_path / "run")
    first = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step 1/2")]
    done = [int(line.split(": ")[1].split("/")[0]) for line in first]
    assert any(0 < rows < 20 for rows in done)
    assert not any(", 0 tokens/s" in line for line, rows in zip(first, done, strict=True) if rows)


def test_run_end_lists_reasons_with_counts(caplog, tmp_path):
    rows = Dataset.from_dict({"instruction": ["a", None, "b", " ", ""]})
    TextGeneration(EchoLLM()).__rshift__(TextGeneration(EchoLLM(), name="B", output_mappings={"generation": "b"})).run(
        rows, run_dir=tmp_path / "run", quiet=True
    )
    output = caplog.text
    assert "3 rows failed or were dropped" in output
    assert "  2 rows: TextGeneration: instruction is empty" in output
    assert "  1 row: TextGeneration: instruction is None" in output


class HalfSecond(EchoLLM):
    """Completes one request after the other, each in half a second."""

    def stream(self, requests):
        while (taken := requests.take()) is not None:
            time.sleep(0.5)
            yield taken[0], self.complete([taken[1]])[0]


@pytest.mark.parametrize("bars", [True, False])
def test_map_slow_batch_shows_rows_and_tokens(capsys, bars):
    rows = Dataset.from_dict({"instruction": ["one two", None, "b", "c", "d", "e", "f"]})
    if bars:
        enable_progress_bars()
    try:
        rows.map(TextGeneration(HalfSecond()), batched=True, with_indices=True)
    finally:
        disable_progress_bars()
    output = capsys.readouterr().err
    assert ("TextGeneration, this batch" in output) == bars
    assert ("/7 [" in output and "tokens/s, 1 failed" in output) == bars


def test_map_quick_batch_shows_nothing(capsys):
    enable_progress_bars()
    try:
        Dataset.from_dict({"instruction": ["a"]}).map(TextGeneration(EchoLLM()), batched=True, with_indices=True)
    finally:
        disable_progress_bars()
    assert "this batch" not in capsys.readouterr().err
