"""OpenAILLM on servers that run a small model: vLLM's and transformers' own (scripts/test_vllm.sh)."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

import pytest
from datasets import Dataset

from hfsynth import (
    GenerationError,
    InstructionFollowingDifficulty,
    OpenAILLM,
    Request,
    SamplingParams,
    TransformersLLM,
)
from tests.llms.contract import GREEDY, SAMPLED, EngineContract, ask, texts
from tests.tiny_chat import save_chat_model

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: bash scripts/test_vllm.sh"
    ),
]
WAIT = 300  # seconds for a server to start on a loaded machine


@contextmanager
def running_server(log, *command, path):
    """Run a server on a free port until the end of the context, and give its address up to /v1.

    Args:
        log: File for the server's output.
        command: Arguments of this Python; `--port` is added.
        path: Path at which the server answers as soon as it can be used.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, *map(str, command), "--host", "127.0.0.1", "--port", str(port)]
    # one thread, bound to no core, since other tests may run on the same cores
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as output:
        process = subprocess.Popen(arguments, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + WAIT
        while not answers(url + path):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("chat-model"))


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory, model_folder):
    options = ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager", "--block-size", "32"]
    options += ["--kv-cache-memory-bytes", 1 << 28, "--no-enable-chunked-prefill", "--max-num-batched-tokens", 2048]
    command = "-m", "vllm.entrypoints.openai.api_server", "--model", model_folder, *options
    with running_server(tmp_path_factory.mktemp("vllm") / "log", *command, path="/health") as url:
        yield url


class TestVLLMServer(EngineContract):
    large_seed = 2**31 + 5  # on a CPU, torch's generator takes the lowest 32 bits of a seed

    @pytest.fixture(scope="class")
    @classmethod
    def llm(cls, vllm_url, model_folder):
        with OpenAILLM("tiny", base_url=vllm_url, tokenizer=model_folder, concurrency=8) as llm:
            yield llm

    def test_facts_name_the_server_and_model(self, llm):
        facts = llm.server_facts()
        assert facts["server"].startswith("vllm 0.")
        assert facts["context"] == "512"
        assert "left_out" not in facts

    def test_ifd_equals_that_in_process(self, llm, model_folder):
        rows = Dataset.from_dict({"instruction": ["Hi", "Name a colour."], "response": ["Hello.", "Blue."]})
        engines = llm, TransformersLLM(model_folder, dtype="float32")
        steps = map(InstructionFollowingDifficulty, engines)
        mine, other = (rows.map(step, batched=True, with_indices=True)["ifd"] for step in steps)
        assert list(mine) == pytest.approx(list(other), abs=1e-3)

    def test_chats_need_no_tokenizer(self, llm, vllm_url):
        with OpenAILLM("tiny", base_url=vllm_url) as chats:
            requests = [ask("Hi"), ask("Name a colour."), ask("Hi", seed=7, sampling=SAMPLED)]
            for mine, raw in zip(chats.complete(requests), llm.complete(requests), strict=True):
                assert (mine.prompt_tokens, mine.completion_tokens) == (raw.prompt_tokens, raw.completion_tokens)
                assert mine.finish_reason == raw.finish_reason
            assert chats.lacks("user turn")
            with pytest.raises(GenerationError, match="tokenizer='tiny'"):
                chats.complete([Request(messages=(), role="user")])


@pytest.fixture(scope="module")
def transformers_url(tmp_path_factory, model_folder):
    command = "-m", "transformers.cli.transformers", "serve", model_folder, "--device", "cpu", "--dtype", "float32"
    with running_server(tmp_path_factory.mktemp("transformers") / "log", *command, path="/health") as url:
        yield url


class TestTransformersServer:
    """Takes raw prompts as text, scores no choices, and samples where the model's generation config does."""

    @pytest.fixture(scope="class")
    @classmethod
    def llm(cls, transformers_url, model_folder):
        with OpenAILLM(model_folder, base_url=transformers_url, tokenizer=model_folder, concurrency=2) as llm:
            yield llm

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, model_folder):
        with TransformersLLM(model_folder, dtype="float32") as llm:
            yield llm

    def test_greedy_texts_are_those_in_process(self, llm, reference):
        requests = [ask("Hi"), ask("Name a colour."), Request(messages=(), role="user", sampling=GREEDY)]
        expected = reference.complete(requests)
        for mine, other in zip(llm.complete(requests), expected, strict=True):
            assert mine.text == other.text
            assert (mine.prompt_tokens, mine.finish_reason) == (other.prompt_tokens, other.finish_reason)

    def test_chats_are_answered_without_a_tokenizer(self, transformers_url, model_folder, reference):
        requests = [ask("Hi"), ask("Name a colour.", sampling=SamplingParams(temperature=0.0, max_new_tokens=3))]
        with OpenAILLM(model_folder, base_url=transformers_url, concurrency=2) as chats:
            completions = chats.complete(requests)
            assert texts(completions) == texts(reference.complete(requests))
            assert completions[1].finish_reason == "length"

    def test_unknown_fields_are_left_out(self, llm):
        assert llm.complete([ask("Hi", sampling=SamplingParams(min_p=0.1, top_k=5, max_new_tokens=2))])[0].text
        assert {"stop_token_ids", "min_p", "top_k"} <= set(llm.server_facts()["left_out"].split(", "))

    def test_generation_config_turns_sampling_on(self, llm):
        requests = [ask("Hi", seed=seed, sampling=SAMPLED) for seed in (5, 5, 6)]
        assert len(set(texts(llm.complete(requests)))) == 1
        with replace(llm, concurrency=1, extra_body={"generation_config": '{"do_sample": true}'}) as sampling:
            first, second, other = texts(sampling.complete(requests))
        assert first == second != other

    def test_choices_are_refused_before_a_row(self, llm):
        assert "doesn't score" in llm.lacks("choices")
