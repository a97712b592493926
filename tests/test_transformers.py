from dataclasses import replace

import pytest
import torch

from hfsynth import ChatTemplateError, GenerationError, Request, SamplingParams, TransformersLLM
from hfsynth.engine.sequence import Written
from hfsynth.llms.transformers import _LOADED

GREEDY = SamplingParams(temperature=0, max_new_tokens=12)
QUESTIONS = ["Name a colour.", "What is the capital of France? Answer in a few words.", "Hi!", "List three fruits."]


def ask(text, **options):
    return Request(messages=({"role": "user", "content": text},), **{"sampling": GREEDY, **options})


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"batch_size": 0}, "batch_size is 0"), ({"dtype": "int4"}, "dtype is 'int4'; use auto, float32")],
)
def test_a_field_out_of_range_is_an_error_before_a_model_is_loaded(fields, message):
    with pytest.raises(ValueError, match=message):
        TransformersLLM("some/model", **fields)


def test_a_model_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(GenerationError, match=r"nothing-here' .*can't be loaded"):
        TransformersLLM(str(tmp_path / "nothing-here")).load()


def test_no_requests_need_no_model(tmp_path):
    assert TransformersLLM(str(tmp_path / "nothing-here")).complete([]) == []


@pytest.mark.model
def test_greedy_completions_are_those_of_generate(smollm, monkeypatch):
    loaded = smollm._loaded()
    completions = smollm.complete([ask(question) for question in QUESTIONS])
    monkeypatch.setattr(loaded.model.config, "_attn_implementation", "sdpa")
    for question, completion in zip(QUESTIONS, completions, strict=True):
        prompt = smollm.prompt(ask(question))
        inputs = loaded.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            output = loaded.model.generate(
                **inputs, do_sample=False, max_new_tokens=12, eos_token_id=2, pad_token_id=2
            )
        text = loaded.tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert completion.text == text.strip()
        assert completion.prompt_tokens == inputs.input_ids.shape[1]
        assert completion.completion_tokens == output.shape[1] - inputs.input_ids.shape[1]


@pytest.mark.model
def test_samples_don_t_depend_on_the_batch_nor_touch_torchs_random_numbers(smollm):
    requests = [ask(q, seed=i, sampling=SamplingParams(max_new_tokens=8)) for i, q in enumerate(QUESTIONS)]
    before = torch.get_rng_state()
    together = smollm.complete(requests)
    assert torch.equal(torch.get_rng_state(), before)
    assert replace(smollm, batch_size=1).complete(requests) == together
    assert smollm.complete([replace(requests[0], seed=77)]) != together[:1]


@pytest.mark.model
def test_a_completion_says_how_it_ended(smollm):
    (short,) = smollm.complete([ask("What is the capital of France?", sampling=replace(GREEDY, max_new_tokens=64))])
    assert (short.finish_reason, short.completion_tokens < 64) == ("stop", True)
    assert "<|im_end|>" not in short.text
    (cut,) = smollm.complete([ask("Tell a long story.", sampling=replace(GREEDY, max_new_tokens=5))])
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 5)
    (stopped,) = smollm.complete([ask("What is the capital of France?", sampling=replace(GREEDY, stop=("France",)))])
    assert stopped.finish_reason == "stop"
    assert "France" not in stopped.text


@pytest.mark.model
def test_the_user_speaks_after_the_default_system_prompt_and_ends_its_turn(smollm):
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
    loaded = smollm._loaded()
    length = len(loaded.tokenizer(smollm.prompt(ask("Hi!")), add_special_tokens=False).input_ids)
    monkeypatch.setattr(loaded, "context", length + 3)
    (completion,) = smollm.complete([ask("Hi!")])
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 3)


@pytest.mark.model
def test_a_conversation_that_the_template_refuses_fails_alone(smollm):
    nobody = Request(messages=({"role": "assistant", "content": "Hello."},), sampling=GREEDY)
    good, bad = smollm.complete([ask("Hi!"), nobody])
    assert good.text
    assert "last turn is the assistant's already" in bad.error


@pytest.mark.model
def test_a_system_prompt_without_a_role_in_the_template_fails_its_row_or_if_all_have_one_everything(
    smollm, monkeypatch
):
    monkeypatch.setitem(smollm._loaded().template.__dict__, "_system_fault", "no such role")
    system = Request(messages=({"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}), sampling=GREEDY)
    good, bad = smollm.complete([ask("Hi!"), system])
    assert good.text
    assert "SmolLM2-135M-Instruct.Q4_1 refuses a system role: no such role" in bad.error
    with pytest.raises(ChatTemplateError, match=r"SmolLM2-135M-Instruct.Q4_1 refuses a system role"):
        smollm.complete([system, system])


@pytest.mark.model
def test_special_tokens_inside_a_text_are_no_part_of_it(smollm, monkeypatch):
    loaded = smollm._loaded()
    request = ask("Hi!")
    prompt = smollm.prompt(request)
    tokens = loaded.tokenizer("Hello<|im_start|> there<|im_end|>", add_special_tokens=False).input_ids
    made = loaded.completion(request, prompt, loaded.job(request, prompt), Written(tokens, "stop"))
    assert made.text == "Hello there"


@pytest.mark.model
def test_thinking_is_no_part_of_the_text(smollm):
    loaded = smollm._loaded()
    request = ask("Hi!")
    prompt = smollm.prompt(request)
    tokens = loaded.tokenizer("<think>\nhm\n</think>\n\nHello!<|im_end|>", add_special_tokens=False).input_ids
    made = loaded.completion(request, prompt, loaded.job(request, prompt), Written(tokens, "stop"))
    assert (made.thinking, made.text) == ("hm", "Hello!")


@pytest.mark.model
def test_equal_llms_share_one_model_and_unload_gives_it_back(smollm):
    other = replace(smollm, batch_size=3)
    assert other._loaded() is smollm._loaded()
    with replace(smollm, chat_template_kwargs={"a": 1}) as third:
        assert third._loaded() is not smollm._loaded()
        assert len(_LOADED) == 2
    assert len(_LOADED) == 1
