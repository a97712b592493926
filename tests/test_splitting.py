"""A model that several processes hold together, started with `accelerate launch`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig

from hfsynth.engine.attention import Prefill, Segment, forward
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.errors import SplitModelError
from hfsynth.llms.splitting import SplitModel, Team
from tests.conftest import GGUF
from tests.tiny import SIZES, tiny

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory, smollm_folder):
    """A model of random weights, whose heads can be divided by two."""
    tokenizer = AutoTokenizer.from_pretrained(smollm_folder, gguf_file=GGUF)
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny(LlamaConfig, **{**SIZES, "vocab_size": len(tokenizer), "eos_token_id": 2}).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def launch(model, folder, processes, apart=""):
    """Run the script; what each process was returned, and the output."""
    folder.mkdir(exist_ok=True)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        launcher += ["--main_process_port", "0"]
    command = [*launcher, str(ROOT / "tests" / "launched_split.py"), str(model), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACTING_APART": apart}
    done = subprocess.run(
        command, env=environment, cwd=folder, text=True, capture_output=True, timeout=300, check=False
    )
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob("rows-*.json"))]
    return rows, done.stdout + done.stderr


def written(folder):
    return {file.name: file.stat().st_mtime_ns for file in (folder / "run").rglob("*") if file.is_file()}


def texts(rows):
    return [[row[name] for name in ("evolved_instruction", "generation", "quality")] for row in rows]


@pytest.mark.model  # for its tokenizer
def test_two_processes_that_hold_a_model_together_make_the_rows_of_one(folder, tmp_path):
    alone, output = launch(folder, tmp_path / "one", 1)
    assert len(alone) == 1, output
    both, output = launch(folder, tmp_path / "two", 2)
    assert len(both) == 2, output
    assert both[0] == both[1]
    assert texts(both[0]) == texts(alone[0])
    before = written(tmp_path / "two")
    again, output = launch(folder, tmp_path / "two", 2)
    assert again == both, output
    assert written(tmp_path / "two") == before, "nothing is made again"


@pytest.mark.model
def test_a_process_that_would_generate_by_itself_ends_the_launch_with_what_to_do(folder, tmp_path):
    rows, output = launch(folder, tmp_path / "apart", 2, apart="yes")
    assert rows == []
    assert "tiny is split over 2 processes" in output
    assert "Use pipeline.run." in output


class OutOfMemory:
    """A model of which a part has run out of memory."""

    device = torch.device("cpu")

    def __call__(self, **read):
        raise torch.OutOfMemoryError("CUDA out of memory.")


class Alone(Team):
    """A team without others."""

    def tell(self, *words):
        pass


def test_out_of_memory_is_not_survived_since_the_parts_would_be_out_of_step():
    model = SplitModel(OutOfMemory(), Alone(0, 2, None))
    where = Prefill(KeyValueSlots(1, 32, model.device), [Segment(0, 0, 2)], model.device)
    with pytest.raises(SplitModelError, match="use a smaller batch_size"):
        forward(model, [1, 2], where)
