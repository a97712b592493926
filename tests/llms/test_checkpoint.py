"""Models that bring Python code of their own, and models in forked processes: in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hfsynth import GenerationError, Request, RewardModel, SamplingParams, TransformersLLM
from hfsynth.config import restore
from hfsynth.llm import Origin
from hfsynth.llms import checkpoint
from hfsynth.llms.checkpoint import (
    check_files,
    files_state,
    load_chat_tokenizer,
    model_origin,
    parse_gguf_once,
    split_gguf_path,
)
from tests.conftest import GGUF
from tests.hub_server import Repository, Stored

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": '{"model_type": "llama"}',
    "generation_config.json": "{}",
    "tokenizer.json": "{}",
    "tokenizer_config.json": '{"chat_template": "{{ messages }}"}',
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tools.jinja": "{{ tools }}",
    "vocab.txt": "a b",
    "spiece.model": "abc",
    "modeling.py": "A = 1",
    "model-00001-of-00002.safetensors": "weights",
    "pytorch_model.bin": "weights",
}


@pytest.fixture
def folder(tmp_path):
    """A model's folder, as far as its files' names and contents go."""
    for name, text in FILES.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "mine"


@pytest.mark.parametrize("name", FILES)
def test_files_state_changes_with_a_files_content(folder, name):
    before = TransformersLLM(str(folder)).files_state()
    (folder / name).write_text(FILES[name][::-1])  # as long as it was
    assert TransformersLLM(str(folder)).files_state() != before
    (folder / name).write_text(FILES[name])
    assert TransformersLLM(str(folder)).files_state() == before != ""


@pytest.mark.parametrize("name", FILES)
def test_files_state_changes_when_a_file_goes(folder, name):
    before = RewardModel(str(folder)).files_state()
    (folder / name).unlink()
    assert RewardModel(str(folder)).files_state() != before


def test_files_state_changes_when_a_file_comes(folder):
    before = files_state(str(folder), None)
    (folder / "added_tokens.json").write_text("{}")
    assert files_state(str(folder), None) != before


def test_files_state_is_the_content_not_its_time_or_place(folder, tmp_path):
    before = files_state(str(folder), None)
    os.utime(folder / "config.json", (1, 1))
    (folder / "README.md").write_text("# a card")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "config.json").write_text("{}")
    shutil.copytree(folder, tmp_path / "copy")
    assert files_state(str(folder), None) == before == files_state(str(tmp_path / "copy"), None)


def test_files_state_is_equal_in_two_processes(folder):
    code = "import sys, hfsynth; print(hfsynth.TransformersLLM(sys.argv[1]).files_state(), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [files_state(str(folder), None), "False"]


def test_files_state_changes_with_blocks_of_a_large_file(folder):
    weights, size = folder / "model.safetensors", 300 * 1024**2
    with weights.open("wb") as file:
        file.truncate(size)  # zeros, which need no space on the disk
    states = {files_state(str(folder), None)}
    for place in (0, (size - 65_536) * 128 // 255, size - 1):
        with weights.open("r+b") as file:
            file.seek(place)
            file.write(b"\1")
        states.add(files_state(str(folder), None))
    assert len(states) == 4


def test_files_state_of_a_gguf_ignores_the_others(folder):
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_text(name)
    before = files_state(str(folder), None, "a.gguf")
    (folder / "b.gguf").write_text("other")
    assert files_state(str(folder), None, "a.gguf") == before != files_state(str(folder), None, "b.gguf")
    (folder / "a.gguf").write_text("other!")
    assert files_state(str(folder), None, "a.gguf") != before


def test_files_state_of_an_adapter_changes_with_its_base(folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    before = files_state(str(adapter), None)
    (folder / "pytorch_model.bin").write_text("trained")
    assert files_state(str(adapter), None) != before


def test_files_state_of_no_folder_is_empty(tmp_path):
    assert TransformersLLM(str(tmp_path / "nothing-here")).files_state() == ""


def test_files_state_of_a_cached_model_is_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--user--cached-model"
    (cached / "snapshots" / COMMIT).mkdir(parents=True)
    (cached / "snapshots" / COMMIT / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    assert TransformersLLM("user/cached-model").files_state() == f"commit:{COMMIT}"
    assert TransformersLLM("user/other-model").files_state() == ""


def test_files_state_of_a_model_on_the_hub_is_its_commit(hub):
    commit = (COMMIT, "a commit", {"config.json": Stored(b"{}", 2)})
    hub.repositories["models", "user/asked-model"] = Repository(commits=[commit])
    llm = RewardModel("user/asked-model")
    assert (llm.files_state(), llm.files_state()) == (f"commit:{COMMIT}",) * 2
    assert hub.log == ["HEAD /user/asked-model/resolve/main/config.json"]


def test_files_state_of_a_pinned_model_is_its_commit(hub):
    assert TransformersLLM("user/model", revision=COMMIT).files_state() == f"commit:{COMMIT}"
    assert hub.log == []


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("/models/a/x.gguf", ("/models/a", "x.gguf")),
        ("./x.gguf", (".", "x.gguf")),
        ("models/a/x.Q4_1.GGUF", ("models/a", "x.Q4_1.GGUF")),
        ("user/model.gguf", ("user/model.gguf", None)),
        ("user/repository/x.gguf", ("user/repository", "x.gguf")),
        ("user/model", ("user/model", None)),
        ("/models/a", ("/models/a", None)),
    ],
)
def test_gguf_path_becomes_folder_and_name(model, parts):
    assert split_gguf_path(model, None) == parts
    llm = TransformersLLM(model)
    assert (llm.model, llm.gguf_file) == parts


def test_gguf_path_of_a_file_in_a_near_folder_is_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    for name in ("models/x.gguf", "x.gguf"):
        Path(name).touch()
    assert split_gguf_path("models/x.gguf", None) == ("models", "x.gguf")
    assert split_gguf_path("x.gguf", None) == (".", "x.gguf")


def test_gguf_path_equals_folder_and_file(tmp_path):
    (tmp_path / "x.gguf").touch()
    by_path = TransformersLLM(tmp_path / "x.gguf")
    assert by_path == TransformersLLM(str(tmp_path), gguf_file="x.gguf")
    assert by_path.model_name == "x"


@pytest.mark.parametrize(
    "model", ["/nothing/here", "./outputs/mine", "../mine", "~/mine", "outputs/run/checkpoint-3", "mine/", "C:\\mine"]
)
def test_mistyped_folder_is_an_error_without_a_search(model, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for llm in (TransformersLLM(model), RewardModel(model)):
        for action in (llm.check_ready, llm.load):
            with pytest.raises(GenerationError, match="can't be loaded: there is no such folder"):
                action()
    assert hub.log == []


def test_mistyped_folder_names_its_neighbour(folder, tmp_path):
    with pytest.raises(GenerationError, match=f"There is '{folder}'"):
        check_files(str(tmp_path / "mien"))


def test_mistyped_gguf_names_those_of_the_folder(folder):
    (folder / "x.Q4_1.gguf").touch()
    with pytest.raises(GenerationError, match=r"no 'x.Q4.gguf'; its GGUF files are \['x.Q4_1.gguf'\]"):
        TransformersLLM(folder / "x.Q4.gguf").load()


def test_folder_of_a_gguf_alone_names_gguf_file(tmp_path):
    (tmp_path / "x.gguf").touch()
    with pytest.raises(GenerationError, match=r"gguf_file='x\.gguf'"):
        TransformersLLM(tmp_path).load()


def test_folder_around_a_model_names_the_model(folder, tmp_path):
    with pytest.raises(GenerationError, match=f"no config.json; use '{folder}'"):
        TransformersLLM(tmp_path).load()


def test_file_that_is_no_gguf_is_an_error(folder):
    with pytest.raises(GenerationError, match="it is a file; use the folder"):
        RewardModel(folder / "config.json").load()


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
def plain(tmp_path, smollm_weights):
    """A small model of random weights."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(smollm_weights).save_pretrained(tmp_path / "model")
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
    with pytest.raises(GenerationError, match="trust_remote_code=True"):
        kind(str(coded)).load()


@pytest.mark.parametrize("kind", [TransformersLLM, RewardModel])
def test_tokenizer_code_is_refused_by_default_unasked(plain, no_input, kind):
    settings = {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]}}
    edit(plain / "tokenizer_config.json", **settings)
    (plain / "mine.py").write_text("from transformers import LlamaTokenizer as MyTokenizer\n")
    with pytest.raises(GenerationError, match="trust_remote_code=True"):
        kind(str(plain)).load()


def test_model_code_is_run_where_it_is_trusted(coded, no_input):
    with TransformersLLM(str(coded), trust_remote_code=True) as llm:
        assert type(llm.loaded_model().model).__name__ == "MyLLM"


def test_trust_in_code_is_part_of_the_configuration():
    trusting = TransformersLLM("a/b", trust_remote_code=True)
    assert trusting.to_json() != TransformersLLM("a/b").to_json()
    make, arguments = trusting.__reduce__()
    assert make is restore
    assert make(*arguments) == trusting


def test_files_changed_under_a_loaded_model_reload_it(plain, caplog):
    with TransformersLLM(str(plain)) as llm:
        first = llm.loaded_model()
        assert llm.loaded_model() is first
        edit(plain / "generation_config.json", eos_token_id=[2, 7])
        assert llm.loaded_model() is not first
        assert 7 in llm.loaded_model().chat.end_tokens
    assert "have changed; loading them again" in caplog.text


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
    monkeypatch.setattr(
        checkpoint, "_BEFORE_FORK", checkpoint._BeforeFork(os.getpid() + 1, has_torch=True, has_gpu=True)
    )
    with pytest.raises(GenerationError, match=r"num_proc.*its parent had used the GPU"):
        TransformersLLM("user/model").load()


def test_model_origin_of_a_folder_is_its_cards(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n- fr\n---\n# x")
    assert model_origin(str(tmp_path), None, None) == Origin(license="mit", languages=("en", "fr"))


@pytest.mark.parametrize("text", ["# no metadata", "---\nlicense: [\n---\n", "---\nlicense: {a: 1}\n---\n", ""])
def test_a_card_that_states_nothing_is_believed(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert model_origin(str(tmp_path), None, None) == Origin()


def test_a_model_in_the_cache_has_a_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--user--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    assert model_origin("user/model", None, None) == Origin(COMMIT)
    assert model_origin("user/other", None, None) == Origin()


@pytest.mark.model
def test_a_gguf_file_tells_of_itself(smollm_folder):
    assert model_origin(smollm_folder, None, GGUF) == Origin(license="apache-2.0", languages=("en",))


@pytest.mark.model
def test_a_gguf_file_is_read_once(smollm_folder, monkeypatch):
    origin = model_origin(smollm_folder, None, GGUF)
    monkeypatch.setattr(gguf, "GGUFReader", None)
    assert model_origin(smollm_folder, None, GGUF) == origin


GREETING = Request(messages=({"role": "user", "content": "Hi!"},), sampling=SamplingParams(max_new_tokens=9999))


def test_load_chat_tokenizer_equals_the_loaded_models(plain):
    """Engines that load no weights read the same tokens, and end at the same ones, as one that does."""
    (plain / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 17]}))
    chat = load_chat_tokenizer(str(plain), name="small", variables={})
    rendered = chat.render(GREETING)
    with TransformersLLM(str(plain)) as llm:
        expected = llm.loaded_model().chat.render(GREETING)
    assert (rendered.prompt, rendered.tokens.prompt_ids) == (expected.prompt, expected.tokens.prompt_ids)
    assert rendered.tokens.end_tokens == expected.tokens.end_tokens == {2, 17}
    assert rendered.tokens.max_new_tokens == expected.tokens.max_new_tokens == 2048 - len(rendered.tokens.prompt_ids)


def test_load_chat_tokenizer_without_a_model(plain):
    """Of a folder with a tokenizer alone, the tokenizer says what ends an answer, and nothing limits its length."""
    for name in ("config.json", "generation_config.json"):
        (plain / name).unlink()
    tokens = load_chat_tokenizer(str(plain), name="small", variables={}).render(GREETING).tokens
    assert (tokens.end_tokens, tokens.max_new_tokens) == ({2}, 9999)


def test_load_chat_tokenizer_of_a_gguf_has_its_context(smollm_folder, monkeypatch):
    """transformers parses the file for the tokenizer and for the configuration; here it is parsed once."""
    parsed = []

    class CountingReader(gguf.GGUFReader):
        def __init__(self, *file):
            parsed.append(file)
            super().__init__(*file)

    monkeypatch.setattr(gguf, "GGUFReader", CountingReader)
    chat = load_chat_tokenizer(smollm_folder, name="small", variables={}, gguf_file=GGUF)
    assert (chat.end_tokens, chat.context) == ({2}, 8192)
    assert len(parsed) == 1


def test_parse_gguf_once_equals_plain_parsing(tmp_path):
    file, names = tmp_path / "small.gguf", gguf.get_tensor_name_map
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "é", "<s>"])
    writer.add_tensor("output.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.GGUFReader(file)
    with parse_gguf_once():
        parsed = gguf.GGUFReader(file)
        assert gguf.GGUFReader(str(file)) is parsed
        assert type(parsed.data) is np.ndarray  # a memory map's slices are slow
        table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is table
        with parse_gguf_once():
            assert gguf.GGUFReader(file) is parsed
        assert gguf.GGUFReader(file) is parsed
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (type(expected), names)
    assert {name: one.contents() for name, one in parsed.fields.items()} == {
        name: one.contents() for name, one in expected.fields.items()
    }
    assert (parsed.tensors[0].data == expected.tensors[0].data).all()
    assert table.mapping == names(gguf.MODEL_ARCH.LLAMA, 2).mapping


def test_load_chat_tokenizer_without_a_template_raises(plain):
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(GenerationError, match=r"'small' .*chat template"):
        load_chat_tokenizer(str(plain), name="small", variables={})
