"""VLLM: its fields everywhere, and vLLM itself where it is installed (scripts/test_vllm.sh)."""

import importlib.util
import json
import os
import pickle
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hfsynth import (
    VLLM,
    EvolInstruct,
    GenerationError,
    InstructionFollowingDifficulty,
    Judge,
    Magpie,
    Request,
    SamplingParams,
    SelfInstruct,
    TextGeneration,
    TransformersLLM,
)
from hfsynth.llm import Requests
from hfsynth.llms.checkpoint import LOADED_MODELS
from tests.conftest import GGUF

ROOT = Path(__file__).parents[2]
HAS_VLLM = importlib.util.find_spec("vllm") is not None
runs_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed: bash scripts/test_vllm.sh"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
]
EAGER = {"enforce_eager": True, "max_model_len": 2048, "kv_cache_memory_bytes": 1 << 29}
GREEDY = SamplingParams(temperature=0, max_new_tokens=12)
CHOICES = ("good", "good enough", "Paris.", "It is hard to say, and I would rather not.")
QUESTIONS = ["Name a colour.", "What is the capital of France? Answer in a few words.", "Hi!", "List three fruits."]
BINDING = "VLLM_CPU_OMP_THREADS_BIND"
OWN_DEFAULTS = {"eos_token_id": 2, "do_sample": True, "top_k": 1, "repetition_penalty": 1.5, "max_new_tokens": 3}


def ask(text, **options):
    return Request(messages=({"role": "user", "content": text},), **{"sampling": GREEDY, **options})


def uncached(completion):
    """Return a completion without what other requests had in the cache already."""
    return replace(completion, cached_tokens=0)


def sample(text, seed):
    return ask(text, seed=seed, sampling=SamplingParams(max_new_tokens=10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float32"}, r"engine_kwargs has 'dtype'; use the field of VLLM instead: dtype="),
        ({"tokenizer": "other/model"}, r"has 'tokenizer'; use the field of VLLM instead: model="),
        ({"generation_config": "auto"}, r"has 'generation_config', which VLLM sets itself"),
    ],
)
def test_engine_kwargs_that_are_fields_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        VLLM("some/model", engine_kwargs=arguments)


def test_same_rows_is_chunk_in_one_process_alone(monkeypatch):
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    assert VLLM("some/model").same_rows == "chunk"
    assert VLLM("some/model", engine_kwargs={"tensor_parallel_size": 2}).same_rows == "none"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert VLLM("some/model").same_rows == "none"


def test_vllm_pickles_as_configuration():
    llm = VLLM("some/model", revision="a" * 40, engine_kwargs={"max_model_len": 4096})
    assert pickle.loads(pickle.dumps(llm)) == llm
    assert Hasher.hash(llm) == Hasher.hash(replace(llm))
    assert Hasher.hash(llm) != Hasher.hash(replace(llm, engine_kwargs={"max_model_len": 2048}))


def test_parallel_requests_are_those_of_the_engine():
    assert VLLM("some/model", engine_kwargs={"max_num_seqs": 32}).parallel_requests == 32
    assert VLLM("some/model").parallel_requests is None


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed")
def test_load_without_vllm_names_the_package(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(GenerationError, match=r"pip install 'hfsynth\[vllm\]'"):
        VLLM(str(tmp_path)).load()


@pytest.fixture(scope="module")
def dense(tmp_path_factory, smollm_folder):
    """The real model as vLLM reads it, with defaults for generation that no engine may use."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("vllm") / "smollm"
    loaded = AutoModelForCausalLM.from_pretrained(smollm_folder, gguf_file=GGUF, dtype="float32")
    config = LlamaConfig(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm_folder, gguf_file=GGUF).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(OWN_DEFAULTS))
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, smollm_folder):
    """A small model of random weights, for processes that load it each."""
    folder = tmp_path_factory.mktemp("vllm") / "tiny"
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=49152, eos_token_id=2, **sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm_folder, gguf_file=GGUF).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llm(dense):
    with VLLM(dense, dtype="float32", engine_kwargs=EAGER) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def reference(dense):
    return TransformersLLM(dense, dtype="float32")


class TestCompletions:
    """The real model in float32, in this process, beside TransformersLLM."""

    pytestmark = runs_vllm

    def test_greedy_completions_are_those_of_transformers(self, llm, reference):
        requests = [*map(ask, QUESTIONS), ask("A long story.", sampling=replace(GREEDY, max_new_tokens=5))]
        assert [uncached(one) for one in llm.complete(requests)] == reference.complete(requests)

    def test_user_turns_are_those_of_transformers(self, llm, reference):
        history = ({"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."})
        requests = [Request(messages=turns, role="user", sampling=GREEDY) for turns in ((), history)]
        assert [uncached(one) for one in llm.complete(requests)] == reference.complete(requests)
        assert [llm.prompt(request) for request in requests] == [reference.prompt(request) for request in requests]

    def test_seed_decides_a_completion(self, llm):
        requests = [sample(text, seed) for text in QUESTIONS for seed in (0, 1, 2**63 - 1)]
        completions = llm.complete(requests)
        assert len({completion.text for completion in completions}) == len(requests)
        assert llm.complete(requests) == completions  # a chunk again, with other chunks between them
        assert [*map(uncached, llm.complete(requests[::-1])[::-1])] == [*map(uncached, completions)]

    def test_stop_text_across_tokens_is_cut(self, llm, reference):
        requests = [
            ask("What is the capital of France?", sampling=replace(GREEDY, stop=stop))
            for stop in (("France",), ("of Fr", "xyz"), ("l of France is P",))
        ]
        completions = llm.complete(requests)
        assert [completion.text for completion in completions] == ["The capital of", "The capital", "The capita"]
        assert [uncached(one) for one in completions] == reference.complete(requests)

    def test_requests_that_vllm_refuses_fail_alone(self, llm):
        requests = [
            ask("Hi!"),
            ask("word " * 2100),
            ask("Hi!", sampling=SamplingParams(temperature=3.0)),
            ask("", choices=("word " * 2100, "no")),
            Request(messages=({"role": "assistant", "content": "Hello."},), sampling=GREEDY),
        ]
        good, *refused = llm.complete(requests)
        assert good.text
        assert [one.finish_reason for one in refused] == ["refused"] * 4
        reasons = ["fill the model's context of 2048", "temperature must be in", "more than the model's context", ""]
        assert all(reason in one.error for reason, one in zip(reasons, refused, strict=True))

    def test_cached_tokens_are_full_blocks_of_a_prompt(self, llm):
        completions = llm.complete([ask("One fruit? " * 20, seed=seed) for seed in range(3)])
        blocks = (completions[0].prompt_tokens - 1) // 32
        assert [one.cached_tokens for one in completions] == [0, blocks * 32, blocks * 32]

    def test_stream_lets_a_request_join(self, llm):
        """A row's next turn enters while others decode: its first one is done long before a longer one is."""
        requests, order = Requests(), []
        requests.put("long", ask("Tell a long story.", sampling=replace(GREEDY, max_new_tokens=60)))
        requests.put("first", ask("Hi!", sampling=replace(GREEDY, max_new_tokens=2)))
        for key, _ in llm.stream(requests):
            order.append(key)
            if key in ("first", "second"):
                requests.put({"first": "second", "second": "third"}[key], ask(key, sampling=GREEDY))
        assert order == ["first", "second", "third", "long"]

    def test_stream_takes_no_more_than_it_has_room_for(self, llm, monkeypatch):
        monkeypatch.setattr(llm.loaded_model(), "_slots", 3)
        taken, completed = [], []

        def more():
            if len(taken) < 12:
                taken.append(len(taken))
                requests.put(len(taken), sample("Hi!", len(taken)))
                assert len(taken) - len(completed) <= 3

        requests = Requests(more)
        requests.put(0, ask("word " * 2100))
        for key, _ in llm.stream(requests):
            completed.append(key)
        assert sorted(completed) == list(range(13))

    def test_stream_left_open_does_not_mix_with_the_next(self, llm):
        expected = [uncached(one) for one in llm.complete([ask(text) for text in QUESTIONS])]
        requests = Requests()
        for key, text in enumerate(QUESTIONS):
            requests.put(key, ask(text, sampling=replace(GREEDY, max_new_tokens=3 + key)))
        left = llm.stream(requests)
        next(left)
        assert [uncached(one) for one in llm.complete([ask(text) for text in QUESTIONS])] == expected
        assert len(list(left)) == 3

    def test_stream_closed_early_frees_the_engine(self, llm):
        requests = Requests()
        requests.put("short", ask("Hi!", sampling=replace(GREEDY, max_new_tokens=1)))
        requests.put("long", ask("Tell a story.", sampling=replace(GREEDY, max_new_tokens=1500)))
        stream = llm.stream(requests)
        assert next(stream)[0] == "short"
        stream.close()
        began = time.monotonic()
        assert llm.complete([ask("Hi!")])[0].text
        assert time.monotonic() - began < 10

    def test_scores_are_those_of_transformers(self, llm, reference):
        requests = [
            ask("What is the capital of France?", choices=CHOICES),
            Request(messages=(), choices=CHOICES),
            ask("Rate this.", choices=("1", "2", "3", "4", "5")),
            ask("Tell a story.", choices=(" ".join(CHOICES * 3),)),
            ask("Hi!", choices=("Hello!", "Hello!", "Hello")),
        ]
        for mine, other in zip(llm.complete(requests), reference.complete(requests), strict=True):
            assert mine.scores == pytest.approx(other.scores, abs=1e-3)
            assert replace(mine, scores=()) == replace(other, scores=())

    def test_loading_leaves_the_process_as_it_was(self, llm, dense):
        llm.unload()
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        expected = random.random(), np.random.random(), torch.rand(1)
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        before, set_num_threads = dict(os.environ), torch.set_num_threads
        llm.load()
        assert (random.random(), np.random.random(), torch.rand(1)) == expected
        assert torch.set_num_threads is set_num_threads
        assert dict(os.environ) == before

    def test_cpu_binding_divides_the_cores_among_ranks(self, monkeypatch):
        from hfsynth.llms.vllm_engine import cpu_binding

        monkeypatch.delenv(BINDING, raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        cores = []
        for rank in ("0", "1"):
            monkeypatch.setenv("LOCAL_RANK", rank)
            cores.append([int(core) for core in cpu_binding()[BINDING].split(",")])
        assert all(cores)
        assert set(cores[0]).isdisjoint(cores[1]) or os.cpu_count() == 1
        monkeypatch.setenv(BINDING, "nobind")
        assert cpu_binding() == {}

    def test_unload_frees_the_memory(self, llm):
        """The second load and unload adds less than a tenth of the weights and the KV cache to the process."""
        process, sizes = psutil.Process(), []
        for _ in range(2):
            assert llm.complete([ask("Hi!")])[0].text
            llm.unload()
            sizes.append(process.memory_info().rss)
        assert sizes[1] - sizes[0] < (EAGER["kv_cache_memory_bytes"] + 500 * 2**20) / 10

    def test_loading_a_second_unloads_the_first(self, llm, tiny):
        expected = llm.complete([ask("Hi!")])
        with VLLM(tiny, dtype="float32", engine_kwargs=EAGER) as other:
            assert other.complete([ask("Hi!")])[0].completion_tokens == 12
            assert [type(loaded).__name__ for _, loaded in LOADED_MODELS.values()].count("VLLMEngine") == 1
        assert llm.complete([ask("Hi!")]) == expected

    def test_unknown_argument_is_named_before_loading(self, llm):
        with pytest.raises(GenerationError, match=r"'max_model_length'.*did you mean 'max_model_len'"):
            replace(llm, engine_kwargs={"max_model_length": 2048}).load()
        assert not llm.loaded_model().is_dead


class TestTechniques:
    """Techniques and chains of them on the real model."""

    pytestmark = runs_vllm

    def test_chain_makes_the_rows_of_transformers(self, llm, reference, tmp_path):
        """Greedy and in float32, so that no rounding decides."""
        rows = Dataset.from_dict({"input": ["Fruits.", "Cooking.", "Rain."]})
        greedy = SamplingParams(temperature=0, max_new_tokens=40)

        def run(engine, name):
            chain = (
                SelfInstruct(engine, num_instructions=2, sampling=greedy)
                >> EvolInstruct(engine, sampling=greedy)
                >> TextGeneration(
                    engine, sampling=greedy, input_mappings={"instruction": "evolved_instruction"}, keep_truncated=True
                )
            )
            return chain.run(rows, run_dir=tmp_path / name, chunk_size=2, quiet=True).to_list()

        mine = run(llm, "vllm")
        assert mine == run(reference, "transformers")
        assert sum(entry["completion_tokens"] > 0 for row in mine for entry in row["generation_metadata"]) >= 6

    def test_magpie_makes_the_rows_of_transformers(self, llm, reference):
        rows = Dataset.from_dict({"system_prompt": ["You teach maths.", "You advise on law."]})
        greedy = SamplingParams(temperature=0, max_new_tokens=64)

        def run(engine):
            technique = Magpie(engine, n_turns=2, instruction_sampling=greedy, response_sampling=greedy)
            return rows.map(technique, batched=True, with_indices=True).to_list()

        mine = run(llm)
        assert mine == run(reference)
        assert all(entry["completion_tokens"] > 0 for row in mine for entry in row["generation_metadata"])

    def test_judge_and_ifd_score_as_transformers_do(self, llm, reference):
        rows = Dataset.from_dict({"instruction": QUESTIONS, "response": ["Blue.", "Paris.", "No.", "Figs, plums."]})
        for technique, column in ((Judge.quality, "quality_probabilities"), (InstructionFollowingDifficulty, "ifd")):
            mine, other = (
                rows.map(technique(engine), batched=True, with_indices=True)[column] for engine in (llm, reference)
            )
            assert np.array(mine) == pytest.approx(np.array(other), abs=1e-3)


class TestProcesses:
    """Scripts that load a small model each: own processes, kills, launches."""

    pytestmark = runs_vllm

    @staticmethod
    def start(script, tmp_path, *arguments, launcher=(sys.executable,), **variables):
        file = tmp_path / "script.py"
        file.write_text(script)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}
        return subprocess.Popen(
            [*map(str, launcher), str(file), *map(str, arguments)],
            env=environment, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *arguments, **options):
        process = self.start(*arguments, **options)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output[-3000:]
        return output

    def test_engine_that_dies_is_loaded_anew(self, tiny, tmp_path):
        """A script without a __main__ guard, and an engine in a process of its own, which is killed."""
        script = f"""
import psutil
from hfsynth import VLLM, GenerationError, Request, SamplingParams
from hfsynth.llm import Requests
print("begins")
llm = VLLM({tiny!r}, dtype="float32", engine_kwargs={EAGER!r})
def ask(tokens):
    return Request(messages=({{"role": "user", "content": "Hi!"}},), sampling=SamplingParams(max_new_tokens=tokens))
requests = Requests()
for key, tokens in enumerate((2, 1500)):
    requests.put(key, ask(tokens))
stream = llm.stream(requests)
print(next(stream)[0])
for child in psutil.Process().children(recursive=True):
    child.kill()
try:
    print(list(stream))
except GenerationError as error:
    print("died:", error)
print(llm.complete([ask(4)])[0].completion_tokens, llm.same_rows)
llm.unload()
left = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
print([command for command in (" ".join(child.cmdline()) for child in left) if "resource_tracker" not in command])
"""
        output = self.run(script, tmp_path, VLLM_ENABLE_V1_MULTIPROCESSING="1")
        assert output.count("begins\n") == 1
        assert "died: vLLM's engine died" in output
        assert "\n4 none\n" in output
        assert output.rstrip().endswith("[]")

    PIPELINE = """
import json, sys
from datasets import Dataset
from hfsynth import VLLM, Pipeline, SamplingParams, TextGeneration
from hfsynth.distributed import rank
folder, model, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
llm = VLLM(model, dtype="float32", engine_kwargs=arguments)
rows = Dataset.from_dict({"instruction": [f"Say {n}." for n in range(24)]})
step = TextGeneration(llm, sampling=SamplingParams(max_new_tokens=40), keep_truncated=True)
result = Pipeline((step,)).run(rows, run_dir=folder, chunk_size=4, quiet=True)
print(f"\\nrank {rank()}", json.dumps(list(result["generation"])))
"""

    @staticmethod
    def rows(output):
        lines = [line for line in output.splitlines() if line.startswith("rank ")]
        assert len({line[7:] for line in lines}) == 1
        return json.loads(lines[0][7:])

    def test_killed_run_resumes_with_the_same_rows(self, tiny, tmp_path):
        arguments = tiny, json.dumps(EAGER)
        expected = self.rows(self.run(self.PIPELINE, tmp_path, tmp_path / "undisturbed", *arguments))
        process = self.start(self.PIPELINE, tmp_path, tmp_path / "killed", *arguments)
        while not list((tmp_path / "killed").rglob("chunk-*.arrow")) and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.communicate()
        assert self.rows(self.run(self.PIPELINE, tmp_path, tmp_path / "killed", *arguments)) == expected
        assert len(expected) == len(set(expected)) == 24

    def test_launch_has_an_engine_a_rank(self, tiny, tmp_path):
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        launcher += ["--main_process_port", "0"]
        arguments = tmp_path / "run", tiny, json.dumps(EAGER)
        assert len(set(self.rows(self.run(self.PIPELINE, tmp_path, *arguments, launcher=launcher)))) == 24
