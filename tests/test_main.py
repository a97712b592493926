"""A recipe, run again from the command line."""

import os
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from hfsynth import BootstrapInstructions, EchoLLM, Magpie, Pipeline, SamplingParams, SeedPool, TextGeneration, save
from hfsynth.__main__ import main, verify_command, view_command
from hfsynth.analysis import report as measuring


def run(*flags, cwd=None, **environment):
    command = [sys.executable, "-m", "hfsynth", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment})


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Run a command that fails, in this process and a folder of its own; return its exit status and its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def status_and_error(*flags):
        monkeypatch.setattr(sys, "argv", ["hfsynth", *map(str, flags)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return status_and_error


def test_run_recipe_of_saved_dataset_equals_it(tmp_path, hub):
    pipeline = Magpie(EchoLLM(), system_prompt={"a": "A.", "b": ("B.", 3)}, seed=4) >> TextGeneration(
        EchoLLM(), sampling=SamplingParams(stop=("x",))
    )
    save(pipeline.run(Dataset.from_dict({"id": list(range(6))}), quiet=True), tmp_path / "made")
    card = (tmp_path / "made" / "README.md").read_text()
    assert "hfsynth run default/hfsynth.yaml --max-rows 6 --output-dir reproduced" in card
    flags = ["--max-rows", 6, "--output-dir", tmp_path / "again", "--push-to-hub", "user/again", "--private"]
    done = run("run", tmp_path / "made" / "default" / "hfsynth.yaml", *flags, HF_TOKEN="hf_write")
    assert done.returncode == 0, done.stderr
    first, reproduced = (
        load_dataset(str(tmp_path / name), split="train", cache_dir=str(tmp_path / f"c-{name}")).to_list()
        for name in ("made", "again")
    )
    assert reproduced == first
    assert hub.dataset("user/again").private
    assert "pushed: " in done.stdout


def test_run_recipe_of_bootstrapping_uses_its_seeds(tmp_path):
    pool = SeedPool(seeds=tuple(f"Say {n}." for n in range(9)), round_size=2)
    pipeline = Pipeline((BootstrapInstructions(EchoLLM()),))
    save(pipeline.run(pool, num_rows=20, run_dir=tmp_path / "run", quiet=True), tmp_path / "made")
    card = (tmp_path / "made" / "README.md").read_text()
    assert "hfsynth run default/hfsynth.yaml --num-rows 20 --output-dir reproduced" in card
    assert "rows of a SeedPool" in card
    flags = ["--num-rows", 20, "--output-dir", tmp_path / "again", "--run-dir", tmp_path / "run-again"]
    done = run("run", tmp_path / "made" / "default" / "hfsynth.yaml", *flags)
    assert done.returncode == 0, done.stderr
    first, reproduced = (
        load_dataset(str(tmp_path / name), split="train", cache_dir=str(tmp_path / f"c-{name}")).to_list()
        for name in ("made", "again")
    )
    assert reproduced == first
    assert len(first) == 20


def test_run_invalid_recipe_is_an_error(tmp_path, refused):
    (tmp_path / "r.yaml").write_text("a: 1")
    status, error = refused("run", "r.yaml", "--max-rows", 1)
    assert status == 1
    assert "'steps'" in error


def test_run_refused_push_target_runs_nothing(tmp_path, hub, refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    (tmp_path / "r.yaml").write_text(Pipeline((Magpie(EchoLLM()),)).to_yaml())
    status, error = refused("run", "r.yaml", "--max-rows", 1, "--push-to-hub", "user/x", "--run-dir", "run")
    assert status == 1
    assert "read" in error
    assert not (tmp_path / "run").exists()


def test_run_invalid_config_name_runs_nothing(tmp_path, refused):
    (tmp_path / "r.yaml").write_text(Pipeline((Magpie(EchoLLM()),)).to_yaml())
    status, error = refused("run", "r.yaml", "--max-rows", 1, "--config-name", "a.b", "--run-dir", "run")
    assert status == 1
    assert "--config-name" in error
    assert "'a.b'" in error
    assert not (tmp_path / "run").exists()


def test_view_embeddings_names_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "embed", lambda texts, model, revision: np.eye(3, dtype=np.float32)[: len(texts)])
    (tmp_path / "rows.csv").write_text("instruction\nMake tea.\nSing a song.\nGo home.\n")
    view_command([str(tmp_path / "rows.csv"), "--embeddings", "some/model", "--output", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "some/model" in page


def test_view_unreadable_record_is_left_out(tmp_path, capsys):
    save(Dataset.from_dict({"instruction": ["Make tea."]}), tmp_path / "made", config_name="tea")
    (tmp_path / "made/tea/hfsynth.json").write_text("[]")
    view_command([str(tmp_path / "made"), "--config", "tea", "--output", str(tmp_path / "page.html")])
    output = capsys.readouterr().out
    assert "the page lacks the records of runs: " in output
    assert "hfsynth.json" in output
    assert "1 rows in" in output


@pytest.mark.parametrize(("flags", "remade"), [(["--rows", "3", "--seed", "1"], True), (["--figures-only"], False)])
def test_verify_saved_dataset_exits_with_0(tmp_path, capsys, flags, remade):
    rows = Pipeline((Magpie(EchoLLM()),)).run(num_rows=4, run_dir=tmp_path / "run", quiet=True)
    save(rows, tmp_path / "data")
    with pytest.raises(SystemExit) as ended:
        verify_command([str(tmp_path / "data"), *flags])
    assert ended.value.code == 0
    assert ("3 of 3 rows are equal" in capsys.readouterr().out) is remade


def test_verify_changed_file_exits_with_4(tmp_path, capsys):
    save(Pipeline((Magpie(EchoLLM()),)).run(num_rows=2, run_dir=tmp_path / "run", quiet=True), tmp_path / "data")
    (tmp_path / "data/default/steps.png").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        verify_command([str(tmp_path / "data"), "--figures-only"])
    assert ended.value.code == 4
    assert "steps.png" in capsys.readouterr().out


def test_a_step_of_an_imported_module_is_run(tmp_path, refused):
    (tmp_path / "own_steps.py").write_text("def first_two(dataset):\n    return dataset.select(range(2))\n")
    (tmp_path / "r.yaml").write_text("steps:\n- function: first_two\n")
    flags = ["r.yaml", "--max-rows", 3, "--output-dir", "again"]
    assert "first_two" in refused("run", *flags)[1]
    done = run("run", *flags, "--import", "own_steps", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 rows in again" in done.stdout


def test_a_module_that_is_not_there_is_one_sentence(tmp_path, refused):
    (tmp_path / "r.yaml").write_text("steps:\n- function: f\n")
    status, error = refused("run", "r.yaml", "--import", "no_steps")
    assert status == 1
    assert error.startswith("error: --import no_steps: ")
    assert len(error.splitlines()) == 1


def test_a_recipe_that_is_not_there_is_one_sentence(tmp_path):
    done = run("run", "r.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert "r.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_command_without_run_or_view_lists_both(refused):
    status, error = refused("r.yaml")
    assert status == 2
    assert "run" in error
    assert "view" in error
