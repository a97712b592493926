"""The engine contract, of the engines that run on any machine. Another engine joins by a class of its own."""

import json
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from hfsynth import VLLM, OpenAILLM, SamplingParams, TransformersLLM
from hfsynth.chat import TokenizedRequest
from tests.llms.contract import EngineContract
from tests.model_server import MODEL, ModelServer, Refusal
from tests.tiny_chat import save_chat_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("chat-model"))


class TestTransformersLLM(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def llm(cls, model_folder):
        with TransformersLLM(model_folder, dtype="float32", batch_size=4) as llm:
            yield llm


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: bash scripts/test_vllm.sh")
@pytest.mark.filterwarnings("ignore")  # vLLM's own
class TestVLLM(EngineContract):
    large_seed = 2**31 + 5  # on a CPU, torch's generator takes the lowest 32 bits of a seed

    @pytest.fixture(scope="class")
    @classmethod
    def llm(cls, model_folder):
        with VLLM(model_folder, dtype="float32", engine_kwargs={"enforce_eager": True}) as llm:
            yield llm


class ModelBehindServer:
    """Answers `/completions` as vLLM does, by a model of transformers in this process."""

    def __init__(self, folder: str) -> None:
        self.llm = TransformersLLM(folder, dtype="float32").load()
        self.lock = threading.Lock()

    def __call__(self, path, body):
        if not path.endswith("/completions") or "messages" in body:
            raise Refusal(404, "no chats here")
        with self.lock:
            return self._scores(body) if body.get("echo") else self._text(body)

    def _text(self, body):
        sampling = SamplingParams(
            temperature=body.get("temperature", 1.0), top_p=body.get("top_p", 1.0), max_new_tokens=body["max_tokens"]
        )
        request = TokenizedRequest(
            body["prompt"],
            sampling,
            body.get("seed", 0),
            body["max_tokens"],
            frozenset(body.get("stop_token_ids", ())),
            tuple(body.get("stop", ())),
        )
        waiting = [request]
        model = self.llm.loaded_model()
        ((_, generated),) = model._engine_of(4).run(lambda: waiting.pop() if waiting else None)
        choice = {"text": "", "token_ids": generated.token_ids, "finish_reason": generated.finish_reason}
        usage = {"completion_tokens": len(generated.token_ids)}
        return {"choices": [choice], "usage": usage}

    def _scores(self, body):
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.llm.model).eval()
        choices = []
        for number, ids in enumerate(body["prompt"]):
            with torch.inference_mode():
                logs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            scored = [None, *(float(logs[place, token]) for place, token in enumerate(ids[1:]))]
            choices.append({"index": number, "text": "", "logprobs": {"token_logprobs": scored}})
        return {"choices": choices, "usage": {}}


class TestOpenAILLM(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def llm(cls, model_folder):
        with ModelServer(ModelBehindServer(model_folder)) as server:
            server.bodies.clear()
            with OpenAILLM(MODEL, base_url=server.url, tokenizer=model_folder, concurrency=4, patience=20.0) as llm:
                yield llm

    def test_configuration_of_the_tokenizer_limits_the_context(self, llm, model_folder):
        config = json.loads((Path(model_folder) / "config.json").read_text())
        assert llm.connected().endpoint.chat.context == config["max_position_embeddings"] == 512
