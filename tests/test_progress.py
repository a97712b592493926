import pytest

from hfsynth.running.crew import Crew
from hfsynth.running.progress import Progress


def test_without_a_terminal_it_tells_rows_rate_tokens_failures_and_time_left_on_a_line(capsys):
    with Progress(Crew(), 2, quiet=False) as progress:
        progress.begin(1, "Magpie", 10)
        progress.add(rows=4, tokens=100, failed=1, found=False)
        progress.add(rows=6, tokens=70, failed=0, found=True)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("step 1/2, Magpie: 10/20 rows, ")
    assert ", 1 failed, " in line
    assert "rows/s" in line
    assert "tokens/s" in line
    assert "s left" in line


def test_what_was_found_finished_is_no_measure_of_speed(capsys):
    with Progress(Crew(), 1, quiet=False) as progress:
        progress.begin(1, "Magpie", 6)
        progress.add(rows=6, tokens=70, failed=0, found=True)
    line = capsys.readouterr().err
    assert "6/6 rows, 0.0 rows/s, 0 tokens/s" in line


def test_a_later_step_counts_on_from_the_one_before(capsys):
    with Progress(Crew(), 2, quiet=False) as progress:
        progress.begin(1, "a", 5)
        progress.add(5, 0, 0, found=False)
        progress.begin(2, "b", 8)
        progress.add(8, 0, 0, found=False)
    assert "step 2/2, b: 13/13 rows" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "quiet"), [(0, True), (1, False)])
def test_quiet_runs_and_other_processes_show_nothing(capsys, rank, quiet):
    with Progress(Crew(rank, 2), 1, quiet) as progress:
        progress.begin(1, "a", 5)
        progress.add(5, 0, 0, found=False)
    assert capsys.readouterr() == ("", "")
