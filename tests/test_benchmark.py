import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import GGUF
from tests.tiny import SIZES

SCRIPTS = Path(__file__).parent.parent / "scripts"


def benchmark(*flags):
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def script(monkeypatch):
    """Import a script by its name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def cells(script, monkeypatch):
    """The table's cells, of a way's runs that took so long and wrote so many tokens."""
    benchmark = script("benchmark")
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--model", "folder"])

    def table(**ways):
        for run in (run for runs in ways.values() for run in runs):
            run["tokens_per_second"] = sum(run["rows"]) / run["seconds"]
        made = benchmark.markdown(ways, benchmark.parsed())
        head, _, *rows = [line.strip("| ").split(" | ") for line in made.splitlines() if line.startswith("|")]
        return [dict(zip(head, row, strict=True)) for row in rows]

    return table


def test_the_table_tells_the_median_round_and_between_what_they_lie(cells):
    runs = [{"seconds": seconds, "rows": [40, 60], "cpu_seconds": 2 * seconds} for seconds in (1.0, 5.0, 2.0)]
    (row,) = cells(engine=runs)
    assert row["tokens/s"] == "50 (20–100)"
    assert row["tokens per processor-second"] == "25"


def test_an_engine_need_not_tell_more_than_seconds_and_rows(cells):
    (row,) = cells(engine=[{"seconds": 2.0, "rows": [3, 5]}])
    assert row["tokens/s"] == "4 (4–4)"
    assert row["tokens per processor-second"] == ""


def test_a_model_or_random_weights_have_to_be_given():
    told = benchmark("--dtype", "float32")
    assert told.returncode == 2
    assert "give --model or --random-weights" in told.stderr


def test_any_architecture_can_be_measured_without_weights(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SIZES})
    )
    flags = ["--random-weights", tmp_path, "--num-requests", 10, "--max-new-tokens", 60, "--slots", 4, "--repeats", 1]
    ways = ["generate, batch 32", "continuous batching", "hfsynth"]
    told = benchmark(*flags, "--output-dir", tmp_path / "out", "--ways", *ways)
    assert told.returncode == 0, told.stderr
    made = json.loads((tmp_path / "out" / "benchmark.json").read_text())["results"]
    assert list(made) == ways, told.stderr
    static, continuous, own = (made[way][0] for way in ways)
    wanted = sorted(own["rows"])
    assert wanted[0] < wanted[-1] == 60
    assert sorted(static["rows"]) == sorted(continuous["rows"]) == wanted  # what no request asked for is no work
    assert 0 < own["occupancy"] <= 1
    assert 0 < own["shares"]["forward"] + own["shares"]["sampling"] < 1
    assert told.stdout.strip() == (tmp_path / "out" / "benchmark.md").read_text().strip()


def test_another_engine_is_measured_in_every_round(tmp_path):
    engine = f"""echo={sys.executable} -c 'print("{{\\"seconds\\": 2.0, \\"rows\\": [3, 5]}}")'"""
    flags = ["--random-weights", tmp_path, "--num-requests", 10, "--repeats", 2, "--output-dir", tmp_path, "--ways"]
    told = benchmark(*flags, "--engine", engine)
    assert told.returncode == 0, told.stderr
    made = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert [run["tokens_per_second"] for run in made["echo"]] == [4.0, 4.0]


@pytest.mark.model
def test_the_whole_run_and_continuous_batching_are_measured_on_a_real_model(tmp_path, smollm_folder):
    flags = ["--model", smollm_folder, "--gguf-file", GGUF, "--num-requests", 3, "--max-new-tokens", 4, "--repeats", 1]
    ways = ["hfsynth, whole run", "continuous batching", "row by row"]
    told = benchmark(*flags, "--output-dir", tmp_path, "--ways", *ways)
    assert told.returncode == 0, told.stderr
    made = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert set(made) == set(ways), told.stderr


def test_what_a_device_does_after_a_call_has_returned_is_counted_as_the_calls(script, monkeypatch):
    ways = script("benchmark_ways")
    monkeypatch.setattr(ways.torch.accelerator, "synchronize", lambda device: time.sleep(0.05))
    monkeypatch.setattr(ways.decoding, "forward", lambda: None)
    spent, none = {}, {}
    with ways.shares("cuda", spent):
        ways.decoding.forward()
    with ways.shares("cpu", none):
        ways.decoding.forward()
    assert spent["forward"] >= 0.05 > none["forward"]


def test_what_is_slow_the_first_time_is_not_measured(script):
    calls = []

    def run(work):
        calls.append(work)
        time.sleep(0.1 if len(calls) == 1 else 0)
        return [limit for _, limit in work]

    work = [([row, 1], 9) for row in range(20)]
    made = script("benchmark_ways").timed({"device": "cpu"}, run, work)
    assert made["rows"] == [9] * 20
    assert made["seconds"] < 0.1
    assert not set(map(str, calls[0])) & set(map(str, work))  # what it has read already would be no work
