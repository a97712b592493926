"""Progress of runs, and of batches of `Dataset.map`."""

import time

import pytest
from datasets import Dataset, disable_progress_bars, enable_progress_bars

from hfsynth import Deduplicate, EchoLLM, TextGeneration
from hfsynth.distributed import ProcessGroup
from hfsynth.progress import Progress


def test_progress_line_has_rows_speed_and_failures(capsys):
    with Progress(ProcessGroup(), 2, quiet=False) as progress:
        progress.begin(1, "Magpie", 12)
        progress.add(rows=4, tokens=100, failed=1, found=False)
        progress.add(rows=6, tokens=70, failed=0, found=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 1/2, Magpie: 10/12 rows, ")
    assert "rows/s" in line
    assert "tokens/s, 1 failed, not finished" in line


def test_progress_found_rows_do_not_count_for_speed(capsys):
    with Progress(ProcessGroup(), 1, quiet=False) as progress:
        progress.begin(1, "Magpie", 6)
        progress.add(rows=6, tokens=70, failed=0, found=True)
    line = capsys.readouterr().err
    assert "6/6 rows, 0.0 rows/s, 0 tokens/s" in line


def test_progress_of_rounds_adds_up_for_each_step(capsys):
    with Progress(ProcessGroup(), 2, quiet=False) as progress:
        for rows in (5, 8):
            progress.begin(1, "a", rows)
            progress.add(rows, failed=1)
            progress.begin(2, "b", rows - 1)
            progress.add(rows - 1)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/2, a: 13/13 rows, ")
    assert first.endswith(", 2 failed, done")
    assert second.startswith("step 2/2, b: 11/11 rows, ")
    assert "failed" not in second


def fill_disk_in_second_step():
    with Progress(ProcessGroup(), 2, quiet=False) as progress:
        progress.begin(1, "a", 5)
        progress.add(5)
        progress.begin(2, "b", 5)
        raise OSError("full")


def test_progress_after_an_error_omits_untouched_steps(capsys):
    with pytest.raises(OSError, match="full"):
        fill_disk_in_second_step()
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["step 1/2, a"]


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
        lines = [line for line in output.splitlines() if line.startswith("step ")]
        assert [line.split(" rows")[0] for line in lines] == [
            "step 1/3, TextGeneration: 3/3", "step 2/3, B: 3/3", "step 3/3, C: 3/3"
        ]  # fmt: skip
        assert [line.endswith(", 1 failed, done") for line in lines] == [True, False, False]


def test_run_progress_of_dropped_rows_is_the_steps_own(capsys, tmp_path):
    """Two of four texts are dropped, so the last step has two rows; the run's rows are its own."""
    rows = Dataset.from_dict({"instruction": ["a", "a", "b", "b"]})
    answer = TextGeneration(EchoLLM(), output_mappings={"generation": "answer"}, name="Answer")
    (Deduplicate() >> answer).run(rows, run_dir=tmp_path / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert lines[0].startswith("step 1/2, Deduplicate: 4/4 rows, ")
    assert lines[1].startswith("step 2/2, Answer: 2/2 rows, ")
    assert all(line.endswith(", done") for line in lines)


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
