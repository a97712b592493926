"""The README's code runs, from top to bottom, on the real model."""

import re
from pathlib import Path

import pytest

from tests.conftest import GGUF

README = (Path(__file__).parent.parent / "README.md").read_text()
LLM = 'TransformersLLM("HuggingFaceTB/SmolLM2-135M-Instruct", dtype="bfloat16")'


@pytest.mark.model
def test_every_snippet_of_the_readme_runs(smollm_folder, tmp_path, monkeypatch, capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert code.count(LLM) == 1
    code = code.replace(LLM, f"TransformersLLM({smollm_folder!r}, gguf_file={GGUF!r}, dtype='bfloat16')")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["rows"].column_names == names["dataset"].column_names
    assert "flowchart LR" in capsys.readouterr().out
    names["llm"].unload()


def test_what_the_readme_shows_was_written_by_the_quickstart():
    shown = re.search(r"```text\n(.*?)```", README, re.DOTALL).group(1)
    assert "self_instruct:" in shown
    assert "magpie:" in shown
