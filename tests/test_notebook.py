"""The notebook of scripts/ runs from top to bottom on the real model."""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
NOTEBOOK = SCRIPTS / "instruction_sft_dataset.ipynb"


def code_cells(file):
    return [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_notebook_names_no_folder_of_a_machine():
    for cell in code_cells(NOTEBOOK):
        ast.parse("".join(cell["source"]))
    assert str(SCRIPTS.parent) not in NOTEBOOK.read_text(encoding="utf-8")
    assert NOTEBOOK.stat().st_size < 1_000_000


@pytest.mark.model
def test_notebook_runs_on_the_real_model(tmp_path, hub):
    written = tmp_path / "executed.ipynb"
    command = [sys.executable, str(SCRIPTS / "execute_notebook.py"), "--output", str(written)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = code_cells(written)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert len([output for output in outputs if "image/svg+xml" in output.get("data", ())]) == 1
    pages = ["".join(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", ())]
    assert sum(page.count("<img") for page in pages) >= 4
    assert [page for page in pages if "row 0" in page]
    loss = float("".join(cells[-1]["outputs"][-1]["data"]["text/plain"]))
    assert math.isfinite(loss)
    printed = ["".join(output["text"]) for output in outputs if output.get("name") == "stdout"]
    assert [text for text in printed if "2 of 2 rows are equal" in text]
    assert loss > 0
    assert "default/hfsynth.yaml" in hub.dataset("user/smol-course-instructions").files
