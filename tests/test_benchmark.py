import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import GGUF
from tests.tiny import SIZES

SCRIPTS = Path(__file__).parent.parent / "scripts"


def benchmark(*flags):
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def script(name, monkeypatch):
    """A script as a module, with those beside it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cells(monkeypatch):
    """The table's cells, of a way's runs that took so long and wrote so many tokens."""
    benchmark = script("benchmark", monkeypatch)
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
    flags = ["--random-weights", tmp_path, "--num-requests", 10, "--max-new-tokens", 24, "--slots", 4, "--repeats", 2]
    engine = (
        f"""echo={sys.executable} -c 'print("{{\\"seconds\\": 2.0, \\"rows\\": [3, 5], \\"cpu_seconds\\": 1}}")'"""
    )
    told = benchmark(
        *flags, "--output-dir", tmp_path / "out", "--engine", engine, "--ways", "generate, batch 32", "hfsynth"
    )
    assert told.returncode == 0, told.stderr
    made = json.loads((tmp_path / "out" / "benchmark.json").read_text())["results"]
    assert {name: len(runs) for name, runs in made.items()} == {"generate, batch 32": 2, "hfsynth": 2, "echo": 2}
    assert sum(made["hfsynth"][0]["rows"]) == sum(made["generate, batch 32"][0]["rows"])
    assert made["echo"][0]["tokens_per_second"] == 4.0
    assert 0 < made["hfsynth"][0]["occupancy"] <= 1
    assert told.stdout.strip() == (tmp_path / "out" / "benchmark.md").read_text().strip()


@pytest.mark.model
def test_the_whole_run_and_continuous_batching_are_measured_on_a_real_model(tmp_path, smollm_folder):
    flags = ["--model", smollm_folder, "--gguf-file", GGUF, "--num-requests", 3, "--max-new-tokens", 4, "--repeats", 1]
    ways = ["hfsynth, whole run", "continuous batching", "row by row"]
    told = benchmark(*flags, "--output-dir", tmp_path, "--ways", *ways)
    assert told.returncode == 0, told.stderr
    made = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert set(made) == set(ways), told.stderr
