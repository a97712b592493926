"""Models that bring Python code of their own, and models in forked processes: in processes of their own."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hfsynth import GenerationError, RewardModel, TransformersLLM
from hfsynth.config import restore
from hfsynth.llms import model_files as forks
from tests.conftest import GGUF

SIZES = {
    "vocab_size": 49152,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification


class MyConfig(LlamaConfig):
    model_type = "mine"


class MyLLM(LlamaForCausalLM):
    config_class = MyConfig


class MyReward(LlamaForSequenceClassification):
    config_class = MyConfig
"""
CLASSES = {
    "AutoConfig": "mine.MyConfig",
    "AutoModelForCausalLM": "mine.MyLLM",
    "AutoModelForSequenceClassification": "mine.MyReward",
}


@pytest.fixture
def plain(tmp_path, smollm_folder):
    """A small model of random weights."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(smollm_folder, gguf_file=GGUF).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def coded(plain, monkeypatch, tmp_path):
    """The same as a model with code of its own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    edit(plain / "config.json", model_type="mine", architectures=["MyLLM"], auto_map=CLASSES)
    (plain / "mine.py").write_text(CODE)
    return plain


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def no_input(monkeypatch):
    def ask(*_):
        raise AssertionError("asked on standard input")

    monkeypatch.setattr("builtins.input", ask)


@pytest.mark.parametrize("kind", [TransformersLLM, RewardModel])
def test_model_code_is_refused_by_default_unasked(coded, no_input, kind):
    with pytest.raises(GenerationError, match=r"Python code of its own.*trust_remote_code=True on the llm"):
        kind(str(coded)).load()


@pytest.mark.parametrize("kind", [TransformersLLM, RewardModel])
def test_tokenizer_code_is_refused_by_default_unasked(plain, no_input, kind):
    settings = {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]}}
    edit(plain / "tokenizer_config.json", **settings)
    (plain / "mine.py").write_text("from transformers import LlamaTokenizer as MyTokenizer\n")
    with pytest.raises(GenerationError, match=r"Python code of its own.*trust_remote_code=True on the llm"):
        kind(str(plain)).load()


def test_model_code_is_run_where_it_is_trusted(coded, no_input):
    with TransformersLLM(str(coded), trust_remote_code=True) as llm:
        assert type(llm._loaded().model).__name__ == "MyLLM"


def test_trust_in_code_is_part_of_the_configuration():
    trusting = TransformersLLM("a/b", trust_remote_code=True)
    assert trusting.to_json() != TransformersLLM("a/b").to_json()
    make, arguments = trusting.__reduce__()
    assert make is restore
    assert make(*arguments) == trusting


def test_files_changed_in_a_loaded_models_folder_load_again(plain, caplog):
    with TransformersLLM(str(plain)) as llm:
        first = llm._loaded()
        assert llm._loaded() is first
        edit(plain / "generation_config.json", eos_token_id=[2, 7])
        assert llm._loaded() is not first
        assert 7 in llm._loaded().end_tokens
    assert "the files of a loaded model have changed" in caplog.text


FORKED = """
import os, sys
from datasets import Dataset
from hfsynth import SamplingParams, TextGeneration, TransformersLLM
rows = Dataset.from_dict({"instruction": [f"Say {n}." for n in range(4)]})
sampling = SamplingParams(max_new_tokens=4)
llm = TransformersLLM(sys.argv[1], dtype="float32")
technique = TextGeneration(llm, sampling=sampling, keep_truncated=True)
first = rows.map(technique, batched=True, with_indices=True)
made = rows.select(range(4)).map(technique, batched=True, with_indices=True, num_proc=2, new_fingerprint="forked")
print(len(first), len(made), None in made["generation"][:])
"""


def test_map_with_num_proc_ends_after_one_use_in_the_parent(plain):
    environment = os.environ | {"OMP_NUM_THREADS": "2"}  # with 1, no thread is lost in a fork
    run = subprocess.run(
        [sys.executable, "-c", FORKED, str(plain)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert (run.stdout.split(), run.returncode) == (["4", "4", "False"], 0), run.stderr
    assert "computes with 1 thread" in run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_child_of_a_process_that_used_a_gpu_says_so(monkeypatch):
    monkeypatch.setattr(forks, "_BEFORE_FORK", forks._BeforeFork(os.getpid() + 1, has_torch=True, has_gpu=True))
    with pytest.raises(GenerationError, match=r"num_proc.*its parent had used the GPU"):
        TransformersLLM("user/model").load()
