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
