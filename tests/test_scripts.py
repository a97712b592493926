"""The scripts, as a user runs them: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from tests.conftest import GGUF

SCRIPTS = Path(__file__).parent.parent / "scripts"
TECHNIQUES = ["text_generation", "self_instruct", "evol_instruct", "magpie", "bootstrap"]


def script(name, *flags, cwd=None, **environment):
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, flags)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        **environment,
    }
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.parametrize("name", [*TECHNIQUES, "quickstart"])
def test_help_tells_every_flag(name):
    told = script(name, "--help")
    assert told.returncode == 0, told.stderr
    assert "--model" in told.stdout
    assert "--push-to-hub" in told.stdout
    if name != "quickstart":
        assert {"--seed", "--output-dir", "--batch-size", "--dataset"} <= set(told.stdout.split())


def test_a_wrong_value_is_told_before_a_model_is_loaded(tmp_path):
    told = script("magpie", "--model", "/nowhere", "--num-rows", 2, "--n-turns", 0, cwd=tmp_path)
    assert told.returncode == 1
    assert "error: --n-turns " in told.stderr


def test_bootstrapping_without_seeds_or_a_number_of_rows_is_told_before_a_model_is_loaded(tmp_path):
    told = script("bootstrap", "--model", "/nowhere", "--num-rows", 2, cwd=tmp_path)
    assert "a pool grows from --dataset, the seeds, up to --num-rows instructions; say both" in told.stderr


@pytest.mark.model
def test_magpie_runs_from_nothing_and_is_pushed(tmp_path, smollm_folder, hub):
    flags = ["--model", smollm_folder, "--gguf-file", GGUF, "--dtype", "bfloat16", "--num-rows", 4]
    flags += ["--instruction-max-new-tokens", 40, "--response-max-new-tokens", 10, "--keep-truncated"]
    flags += ["--output-dir", tmp_path / "made"]
    flags += ["--push-to-hub", "user/nothing", "--config-name", "magpie"]
    told = script("magpie", *flags, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0")
    assert told.returncode == 0, told.stderr
    assert "pushed: " in told.stdout
    pushed = load_dataset("user/nothing", "magpie", split="train", cache_dir=str(tmp_path / "hub-cache"))
    rows = load_dataset(str(tmp_path / "made"), "magpie", split="train", cache_dir=str(tmp_path / "cache"))
    assert pushed.to_list() == rows.to_list()
    assert "4 rows in" in told.stdout
    assert len(rows) == 4
    assert {"id", "instruction", "response", "generation_metadata"} == set(rows.column_names)


@pytest.mark.model
def test_the_quickstart_makes_both_configurations_and_nothing_when_run_again(tmp_path, smollm_folder):
    flags = ["--model", smollm_folder, "--gguf-file", GGUF, "--num-rows", 2, "--output-dir", tmp_path / "quickstart"]
    first = script("quickstart", *flags, HF_HOME=str(tmp_path / "home"))
    assert first.returncode == 0, first.stderr
    assert "self_instruct: " in first.stdout
    for name in ("self_instruct", "magpie"):
        rows = load_dataset(str(tmp_path / "quickstart"), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert f"{name}: {len(rows)} rows" in first.stdout
    again = script("quickstart", *flags, HF_HOME=str(tmp_path / "home"))
    assert again.stdout == first.stdout
    assert "Loading weights" in first.stderr
    assert "Loading weights" not in again.stderr
