"""The README's code runs, from top to bottom, on the real model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
LLM = 'TransformersLLM("HuggingFaceTB/SmolLM2-135M-Instruct", dtype="bfloat16")'
SAMPLING = "SamplingParams(temperature=0.7, max_new_tokens=256)"


@pytest.mark.model
def test_every_snippet_of_the_readme_runs(smollm_weights, tmp_path, monkeypatch, capsys, hub):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert code.count(LLM) == 1
    code = code.replace(LLM, f"TransformersLLM({smollm_weights!r}, dtype='float32')")
    assert code.count(SAMPLING) == 1  # of so many tokens, half a minute on a CPU
    code = code.replace(SAMPLING, SAMPLING.replace("256", "48"))
    assert code.count("response_sampling=sampling") == 1
    code = code.replace("response_sampling=sampling", "instruction_sampling=sampling, response_sampling=sampling")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["rows"]) == 4
    assert len(names["result"].dataset) == len(names["dataset"])
    assert "questions/hfsynth.yaml" in hub.dataset("user/sourdough").files
    assert "flowchart LR" in capsys.readouterr().out
    names["llm"].unload()


@pytest.mark.parametrize("file", ["summary.py", "concise.py", "program_llm.py"])
def test_file_of_your_own_runs_and_prints_its_output(file, tmp_path):
    pattern = rf"```python\n# {re.escape(file)}\n(.*?)```\n\n```text\n(.*?)```"
    code, output = re.search(pattern, README, re.DOTALL).groups()
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    (tmp_path / file).write_text(code)
    process = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, output), process.stderr


def test_example_has_form_of_quickstart_output():
    example = re.search(r"```text\n(.*?)```", README, re.DOTALL).group(1)
    assert re.findall(r"^(\w+): \d+ of \d+ rows, \d+ failed$", example, re.MULTILINE) == ["self_instruct", "magpie"]
    assert re.findall(r"^(\w+) +\| (\w+)$", example, re.MULTILINE) == [
        ("evolved_instruction", "response"),
        ("instruction", "response"),
    ]
    failed = re.findall(r"^  (\w+), row \d+: ", example, re.MULTILINE)
    assert set(failed) <= {"SelfInstruct", "EvolInstruct", "TextGeneration", "Magpie"}
