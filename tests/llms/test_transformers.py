import logging
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfsynth import ChatTemplateError, GenerationError, Request, SamplingParams, TransformersLLM
from hfsynth.chat import Generated
from hfsynth.engine import model as model_module
from hfsynth.engine import packed_linear
from hfsynth.engine.packed_linear import PackedLinear, has_fbgemm
from hfsynth.llm import Requests
from hfsynth.llms.checkpoint import LOADED_MODELS
from tests.conftest import GGUF
from tests.tiny_chat import save_chat_model

GREEDY = SamplingParams(temperature=0, max_new_tokens=12)
QUESTIONS = ["Name a colour.", "What is the capital of France? Answer in a few words.", "Hi!", "List three fruits."]


needs_fbgemm = pytest.mark.skipif(not has_fbgemm(), reason="this torch has no FBGEMM")


def packed_layers(llm):
    return [layer for layer in llm.loaded_model().model.modules() if isinstance(layer, PackedLinear)]


def rotary_frequencies(llm):
    return llm.loaded_model().model.model.rotary_emb.inv_freq


def ask(text, **options):
    return Request(messages=({"role": "user", "content": text},), **{"sampling": GREEDY, **options})


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"batch_size": 0}, "batch_size must be at least 1, got 0"), ({"dtype": "int4"}, "dtype .*'int4'")],
)
def test_field_out_of_range_raises_before_loading(fields, message):
    with pytest.raises(ValueError, match=message):
        TransformersLLM("some/model", **fields)


@pytest.mark.parametrize(
    ("fields", "expected"), [({"device": "cpu"}, 96), ({"device": "cuda:1"}, 512), ({"batch_size": 3}, 3)]
)
def test_parallel_requests_depend_on_batch_size_or_device(fields, expected):
    assert TransformersLLM("some/model", **fields).parallel_requests == expected


def test_a_model_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(GenerationError, match=r"nothing-here' .*can't be loaded"):
        TransformersLLM(str(tmp_path / "nothing-here")).load()


def test_no_requests_need_no_model(tmp_path):
    assert TransformersLLM(str(tmp_path / "nothing-here")).complete([]) == []


DTYPES = """
import logging, sys
import torch
from hfsynth import TransformersLLM
from transformers import AutoModelForCausalLM

logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
for dtype in (torch.bfloat16, torch.float32):
    AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=dtype).save_pretrained(sys.argv[1])
    print(TransformersLLM(sys.argv[1], device="cpu").loaded_model().model.dtype)
"""


def test_dtype_auto_is_float32_on_a_cpu_without_bfloat16(tmp_path):
    """oneDNN, and torch's own kernels, are limited to the instructions of a CPU that has none for bfloat16."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", DTYPES, save_chat_model(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, **limits},
    )
    assert process.stdout.split() == ["torch.float32"] * 2, process.stderr
    (line,) = [line for line in process.stderr.splitlines() if "dtype auto" in line]
    assert "1 threads" in line
    assert "ms in float32" in line
    assert "ms in bfloat16" in line


@pytest.mark.parametrize(("slower", "expected"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_dtype_auto_follows_the_measured_speed(tmp_path, monkeypatch, slower, expected):
    folder = save_chat_model(tmp_path)
    AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(folder)
    seconds = {torch.float32: 0.5, torch.bfloat16: 0.5, getattr(torch, slower): 1.0}
    monkeypatch.setattr(packed_linear, "seconds_of_product", lambda dtype, threads, is_packed: seconds[dtype])
    with TransformersLLM(folder, device="cpu") as llm:
        assert llm.loaded_model().model.dtype is getattr(torch, expected)
        assert rotary_frequencies(llm).dtype is torch.float32


@pytest.mark.model
def test_greedy_completions_are_those_of_generate(smollm, monkeypatch):
    loaded = smollm.loaded_model()
    completions = smollm.complete([ask(question) for question in QUESTIONS])
    monkeypatch.setattr(loaded.model.config, "_attn_implementation", "sdpa")
    for question, completion in zip(QUESTIONS, completions, strict=True):
        prompt = smollm.prompt(ask(question))
        inputs = loaded.chat.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            output = loaded.model.generate(
                **inputs, do_sample=False, max_new_tokens=12, eos_token_id=2, pad_token_id=2
            )
        text = loaded.chat.tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert completion.text == text.strip()
        assert completion.prompt_tokens == inputs.input_ids.shape[1]
        assert completion.completion_tokens == output.shape[1] - inputs.input_ids.shape[1]


@pytest.mark.model
@needs_fbgemm
def test_float16_storage_completes_as_generate_does_in_float32(smollm_weights, tmp_path):
    AutoModelForCausalLM.from_pretrained(smollm_weights, dtype="bfloat16").save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(smollm_weights).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32").eval()
    with TransformersLLM(str(tmp_path), dtype="float32", device="cpu") as llm:
        requests = [ask(question, sampling=replace(GREEDY, max_new_tokens=24)) for question in QUESTIONS]
        completions, loaded = llm.complete(requests), llm.loaded_model()
        assert {layer.packed.dtype for layer in packed_layers(llm)} == {torch.float16}
        for request, completion in zip(requests, completions, strict=True):
            inputs = loaded.chat.tokenizer(llm.prompt(request), return_tensors="pt", add_special_tokens=False)
            with torch.inference_mode():
                output = model.generate(**inputs, do_sample=False, max_new_tokens=24, eos_token_id=2, pad_token_id=2)
            tokens = output[0, inputs.input_ids.shape[1] :]
            assert completion.text == loaded.chat.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtype_auto_of_a_gguf_file_has_the_numbers_of_bfloat16(dtype, smollm_folder, monkeypatch):
    seconds = {torch.float32: 0.5, torch.bfloat16: 0.5, dtype: 0.1}
    monkeypatch.setattr(packed_linear, "seconds_of_product", lambda dtype, threads, is_packed: seconds[dtype])
    with TransformersLLM(smollm_folder, gguf_file=GGUF, device="cpu") as llm:
        model = llm.loaded_model().model
        assert model.dtype is dtype
        assert rotary_frequencies(llm).dtype is torch.float32
        weight = model.get_input_embeddings().weight
        assert torch.equal(weight, weight.bfloat16().to(dtype))
        if dtype is torch.float32 and has_fbgemm():
            assert {layer.packed.dtype for layer in packed_layers(llm)} == {torch.float16}


def test_dtype_auto_of_experts_is_measured_without_packing(tmp_path, monkeypatch):
    folder, asked = save_chat_model(tmp_path), []
    AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(folder)
    monkeypatch.setattr(packed_linear, "consists_of_linears", lambda model: False)
    monkeypatch.setattr(
        packed_linear, "seconds_of_product", lambda dtype, threads, is_packed: asked.append(is_packed) or 1.0
    )
    with TransformersLLM(folder, device="cpu") as llm:
        llm.loaded_model()
    assert asked == [False, False]


@pytest.mark.model
def test_complete_sampled_does_not_depend_on_the_batch(smollm):
    requests = [ask(q, seed=i, sampling=SamplingParams(max_new_tokens=8)) for i, q in enumerate(QUESTIONS)]
    before = torch.get_rng_state()
    together = smollm.complete(requests)
    assert torch.equal(torch.get_rng_state(), before)
    assert replace(smollm, batch_size=1).complete(requests) == together
    assert smollm.complete([replace(requests[0], seed=77)]) != together[:1]


@pytest.mark.model
def test_complete_returns_the_finish_reason(smollm):
    (short,) = smollm.complete([ask("What is the capital of France?", sampling=replace(GREEDY, max_new_tokens=64))])
    assert (short.finish_reason, short.completion_tokens < 64) == ("stop", True)
    assert "<|im_end|>" not in short.text
    (cut,) = smollm.complete([ask("Tell a long story.", sampling=replace(GREEDY, max_new_tokens=5))])
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 5)
    (stopped,) = smollm.complete([ask("What is the capital of France?", sampling=replace(GREEDY, stop=("France",)))])
    assert stopped.finish_reason == "stop"
    assert "France" not in stopped.text


@pytest.mark.model
def test_complete_as_user_follows_the_system_prompt(smollm):
    request = Request(messages=(), role="user", seed=3, sampling=SamplingParams(max_new_tokens=60, top_k=20))
    assert smollm.prompt(request) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n"
    )
    (completion,) = smollm.complete([request])
    assert completion.text
    assert "<|im_" not in completion.text


@pytest.mark.model
def test_a_prompt_longer_than_the_context_fails_alone(smollm):
    good, bad = smollm.complete([ask("Hi!"), ask("word " * 9000)])
    assert good.finish_reason != "error"
    assert (bad.finish_reason, bad.text) == ("refused", "")
    assert "fill the model's context of 8192" in bad.error


@pytest.mark.model
def test_a_prompt_near_the_contexts_end_is_cut_off_there(smollm, monkeypatch):
    loaded = smollm.loaded_model()
    length = len(loaded.chat.tokenizer(smollm.prompt(ask("Hi!")), add_special_tokens=False).input_ids)
    monkeypatch.setattr(loaded.chat, "context", length + 3)
    (completion,) = smollm.complete([ask("Hi!")])
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 3)


@pytest.mark.model
def test_a_conversation_that_the_template_refuses_fails_alone(smollm):
    nobody = Request(messages=({"role": "assistant", "content": "Hello."},), sampling=GREEDY)
    good, bad = smollm.complete([ask("Hi!"), nobody])
    assert good.text
    assert "last turn is the assistant's already" in bad.error


@pytest.mark.model
def test_complete_without_system_role_fails_rows_or_raises(smollm, monkeypatch):
    monkeypatch.setitem(smollm.loaded_model().chat.template.__dict__, "_system_fault", "no such role")
    system = Request(messages=({"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}), sampling=GREEDY)
    good, bad = smollm.complete([ask("Hi!"), system])
    assert good.text
    assert "SmolLM2-135M-Instruct refuses a system role: no such role" in bad.error
    with pytest.raises(ChatTemplateError, match=r"SmolLM2-135M-Instruct .*system role"):
        smollm.complete([system, system])


@pytest.mark.model
def test_special_tokens_inside_a_text_are_no_part_of_it(smollm, monkeypatch):
    loaded = smollm.loaded_model()
    rendered = loaded.chat.render(ask("Hi!"))
    tokens = loaded.chat.tokenizer("Hello<|im_start|> there<|im_end|>", add_special_tokens=False).input_ids
    result = loaded.chat.completion(rendered, Generated(tokens, "stop"))
    assert result.text == "Hello there"


@pytest.mark.model
def test_thinking_is_no_part_of_the_text(smollm):
    loaded = smollm.loaded_model()
    rendered = loaded.chat.render(ask("Hi!"))
    tokens = loaded.chat.tokenizer("<think>\nhm\n</think>\n\nHello!<|im_end|>", add_special_tokens=False).input_ids
    result = loaded.chat.completion(rendered, Generated(tokens, "stop"))
    assert (result.thinking, result.text) == ("hm", "Hello!")


@pytest.mark.model
def test_equal_llms_share_one_model_and_unload_gives_it_back(smollm):
    other = replace(smollm.load(), batch_size=3)
    count = len(LOADED_MODELS)
    assert other.loaded_model() is smollm.loaded_model()
    with replace(smollm, chat_template_kwargs={"a": 1}) as third:
        assert third.loaded_model() is not smollm.loaded_model()
        assert len(LOADED_MODELS) == count + 1
    assert len(LOADED_MODELS) == count


def greedy(text, **sampling):
    params = SamplingParams(**{"temperature": 0, "max_new_tokens": 12, **sampling})
    return Request(messages=({"role": "user", "content": text},), sampling=params, seed=len(text))


REQUESTS = [greedy("Hi!"), greedy("What is the capital of France?"), greedy("Count to ten, please, slowly.")]


@pytest.mark.model
def test_incompatible_model_runs_in_static_batches(smollm, monkeypatch, caplog):
    expected = smollm.complete(REQUESTS)
    monkeypatch.setattr(model_module, "install_attention", lambda model: "it has states")
    with caplog.at_level(logging.WARNING), replace(smollm, chat_template_kwargs={"b": 1}) as other:
        assert other.complete(REQUESTS) == expected
        assert other.complete(REQUESTS) == expected
    assert caplog.text.count("is run in static batches, which are slower: it has states") == 1


@pytest.mark.model
def test_the_layers_of_a_model_are_packed_for_the_loop_alone(smollm, monkeypatch):
    assert packed_layers(smollm)
    monkeypatch.setattr(model_module, "install_attention", lambda model: "it has states")
    with replace(smollm, chat_template_kwargs={"d": 1}) as other:
        assert not packed_layers(other)


def test_same_rows_loads_no_model(tmp_path):
    """Kernels round a row otherwise beside other rows: rows would depend on how many processes share the chunks."""
    assert TransformersLLM(str(tmp_path / "missing")).same_rows == "chunk"


@pytest.mark.model
def test_a_request_may_join_while_others_are_completed(smollm):
    requests, order = Requests(), []
    requests.put("first", REQUESTS[0])
    for key, completion in smollm.stream(requests):
        order.append((key, completion))
        if key == "first":
            requests.put("second", REQUESTS[1])
    assert dict(order) == dict(zip(["first", "second"], smollm.complete(REQUESTS[:2]), strict=True))


@pytest.mark.model
def test_every_request_may_be_refused(smollm):
    requests = Requests()
    for key in range(3):
        requests.put(key, greedy("word " * 9000))
    refused = dict(smollm.stream(requests))
    assert sorted(refused) == [0, 1, 2]
    assert {completion.finish_reason for completion in refused.values()} == {"refused"}


@pytest.mark.model
def test_stream_returns_a_refused_request_at_once(smollm):
    left = list(range(12))

    def more():
        if left:
            waiting.put(left.pop(), greedy("Hi!", max_new_tokens=2))

    waiting = Requests(more)
    waiting.put("refused", greedy("word " * 9000))
    order = [key for key, _ in replace(smollm, batch_size=2).stream(waiting)]
    assert order.index("refused") <= 2
    assert len(order) == 13


@pytest.mark.model
def test_stream_left_open_does_not_mix_with_the_next(smollm):
    expected = smollm.complete(REQUESTS)
    requests = Requests()
    for key, request in enumerate(REQUESTS):
        requests.put(key, replace(request, sampling=SamplingParams(temperature=0, max_new_tokens=3 + key)))
    left = smollm.stream(requests)
    next(left)
    assert smollm.complete(REQUESTS) == expected
    assert len(list(left)) == 2


CHOICES = ("good", "good enough", "Paris.", "It is hard to say, and I would rather not.")
SCORED = [replace(greedy("What is the capital of France?"), choices=CHOICES), Request(messages=(), choices=CHOICES)]


def naive(loaded, prompt, choice):
    """The score of a choice by a plain forward over the text alone."""
    tokens = [loaded.chat.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, choice)]
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([[*tokens[0], *tokens[1]]])).logits[0, len(tokens[0]) - 1 :]
    logp = logits.double().log_softmax(-1)
    own = sum(float(logp[place, token]) for place, token in enumerate(tokens[1]))
    return own + float(logp[-1, sorted(loaded.chat.end_tokens)].logsumexp(-1))


@pytest.mark.model
def test_scores_are_those_of_plain_forwards(smollm, monkeypatch):
    result = smollm.complete([*SCORED, *REQUESTS])[:2]
    assert [smollm.prompt(request)[-22:] for request in SCORED] == ["<|im_start|>assistant\n"] * 2
    assert smollm.prompt(SCORED[1]) == "<|im_start|>assistant\n"
    assert [one.text for one in result] == [CHOICES[one.scores.index(max(one.scores))] for one in result]
    loaded = smollm.loaded_model()
    monkeypatch.setattr(loaded.model.config, "_attn_implementation", "sdpa")
    for request, completion in zip(SCORED, result, strict=True):
        expected = [naive(loaded, smollm.prompt(request), choice) for choice in CHOICES]
        assert completion.scores == pytest.approx(expected, abs=1e-3)


@pytest.mark.model
def test_a_model_with_its_own_attention_scores_alike(smollm, monkeypatch):
    expected = smollm.complete(SCORED)
    monkeypatch.setattr(model_module, "install_attention", lambda model: "it has states")
    with replace(smollm, chat_template_kwargs={"c": 1}) as other:
        for one, result in zip(expected, other.complete(SCORED), strict=True):
            assert result.scores == pytest.approx(one.scores, abs=1e-3)
            assert replace(result, scores=()) == replace(one, scores=())


@pytest.mark.model
def test_scores_are_near_whatever_else_is_in_flight(smollm):
    alone = [smollm.complete([request])[0] for request in SCORED]
    beside = smollm.complete([*REQUESTS, *SCORED, *REQUESTS])[3:5]
    for one, other in zip(alone, beside, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-3)


@pytest.mark.model
def test_device_map_with_several_processes_raises(smollm, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(GenerationError, match=r"device_map .*2 processes"):
        replace(smollm, device_map="auto").load()


@pytest.mark.model
def test_completion_of_an_error_keeps_its_tokens(smollm):
    chat = smollm.loaded_model().chat
    rendered = chat.render(REQUESTS[0])
    ids = chat.tokenizer("The capital of", add_special_tokens=False).input_ids
    result = chat.completion(rendered, Generated(ids, "error", "out of memory"))
    assert (result.text, result.finish_reason, result.prompt_tokens) == (
        "The capital of",
        "error",
        len(rendered.tokens.prompt_ids),
    )
    assert (result.completion_tokens, result.error) == (len(ids), "out of memory")
