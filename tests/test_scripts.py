"""The scripts, as a user runs them: in a process of their own."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from tests.model_server import MODEL, ModelServer

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


@pytest.fixture
def ended(monkeypatch, capsys, tmp_path):
    """Run a script that ends before it loads a model, in this process; return its exit status, output and error."""
    monkeypatch.chdir(tmp_path)

    def status_and_texts(name, *flags):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, flags)])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        return exited.value.code, *capsys.readouterr()

    return status_and_texts


def test_lowest_versions_script_names_existing_tests():
    names = re.findall(r" (tests/test_\S+|tests/\w+/test_\S+)", (SCRIPTS / "test_lowest.sh").read_text())
    assert len(names) > 10
    for file, _, test in (name.partition("::") for name in names):
        assert f"def {test}" in (SCRIPTS.parent / file).read_text(), test


@pytest.mark.parametrize("name", [*TECHNIQUES, "quickstart"])
def test_help_lists_every_flag(name, ended):
    status, output, _ = ended(name, "--help")
    assert status == 0
    flags = set(output.split())
    assert {"--model", "--push-to-hub"} <= flags
    if name != "quickstart":
        assert {"--seed", "--output-dir", "--batch-size", "--dataset"} <= flags


def test_llm_flag_chooses_the_engine_and_its_flags(tmp_path):
    with ModelServer() as server:
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"instruction": "Say hi."}\n')
        flags = ["--llm", "openai", "--model", MODEL, "--base-url", server.url, "--dataset", rows]
        process = script("text_generation", *flags, HF_HOME=str(tmp_path / "home"), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    saved = load_dataset(
        str(tmp_path / "outputs"), "text_generation", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert saved["generation"][0].endswith("Say hi.")
    recipe = (tmp_path / "outputs" / "text_generation" / "hfsynth.yaml").read_text()
    assert "__class__: OpenAILLM" in recipe


@pytest.mark.parametrize("name", [*TECHNIQUES, "quickstart", "from_distilabel"])
def test_inline_metadata_needs_hfsynth_of_the_clone(name):
    tomllib = pytest.importorskip("tomllib")
    lines = (SCRIPTS / f"{name}.py").read_text().split("# ///")[1].splitlines()[1:]
    metadata = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
    assert metadata["dependencies"] == ["hfsynth"]
    assert (SCRIPTS / metadata["tool"]["uv"]["sources"]["hfsynth"]["path"] / "pyproject.toml").exists()


def test_wrong_value_loads_no_model(tmp_path):
    process = script("magpie", "--model", "/nowhere", "--num-rows", 2, "--n-turns", 0, cwd=tmp_path)
    assert process.returncode == 1
    assert "error: --n-turns " in process.stderr


def test_bootstrap_without_seeds_loads_no_model(ended):
    status, _, error = ended("bootstrap", "--model", "/nowhere", "--num-rows", 2)
    assert status == 1
    assert "--num-rows" in error


@pytest.mark.parametrize("name", ["magpie", "quickstart"])
def test_missing_gguf_file_is_one_line(tmp_path, name, ended):
    status, output, error = ended(name, "--model", tmp_path, "--gguf-file", "a.gguf", "--num-rows", 2)
    assert status == 1
    assert "'a.gguf'" in error
    assert "rows/s" not in error
    assert output == ""


@pytest.mark.model
def test_magpie_without_input_is_pushed(tmp_path, smollm_weights, hub):
    flags = ["--model", smollm_weights, "--dtype", "float32", "--num-rows", 4]
    flags += ["--instruction-max-new-tokens", 40, "--response-max-new-tokens", 10, "--keep-truncated"]
    flags += ["--output-dir", tmp_path / "made"]
    flags += ["--push-to-hub", "user/nothing", "--config-name", "magpie"]
    process = script("magpie", *flags, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0")
    assert process.returncode == 0, process.stderr
    assert "pushed: " in process.stdout
    pushed = load_dataset("user/nothing", "magpie", split="train", cache_dir=str(tmp_path / "hub-cache"))
    rows = load_dataset(str(tmp_path / "made"), "magpie", split="train", cache_dir=str(tmp_path / "cache"))
    assert pushed.to_list() == rows.to_list()
    assert "4 rows in" in process.stdout
    assert len(rows) == 4
    assert {"id", "instruction", "response", "generation_metadata"} == set(rows.column_names)


@pytest.mark.model
def test_quickstart_second_run_generates_nothing(tmp_path, smollm_weights):
    flags = ["--model", smollm_weights, "--num-rows", 2, "--output-dir", tmp_path / "quickstart"]
    first = script("quickstart", *flags, HF_HOME=str(tmp_path / "home"))
    assert first.returncode == 0, first.stderr
    assert "self_instruct: " in first.stdout
    for name in ("self_instruct", "magpie"):
        rows = load_dataset(str(tmp_path / "quickstart"), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert f"{name}: {len(rows)} of " in first.stdout
    second = script("quickstart", *flags, HF_HOME=str(tmp_path / "home"))
    assert second.stdout == first.stdout
    assert "Loading weights" in first.stderr
    assert "Loading weights" not in second.stderr
