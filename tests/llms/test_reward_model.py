import json
import random
from dataclasses import replace
from typing import get_args

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM
from transformers import LlamaForSequenceClassification as LlamaClassifier

from hfsynth import EchoLLM, GenerationError, Judge, Pipeline, Request, Reward, RewardDifference, RewardModel, RowError
from hfsynth.chat import ChatTemplate
from hfsynth.llm import Completion, Need
from hfsynth.llms.checkpoint import LOADED_MODELS
from hfsynth.llms.reward_model import Classifier
from tests.helpers import drive
from tests.test_chat import CALLED, TEMPLATES, WEATHER
from tests.tiny_chat import byte_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 49152,
    "max_position_embeddings": 300,
}
RNG = random.Random(0)
ROWS = {
    "instruction": ["Say a colour.", "What is the capital of France?", "Count to five.", "word " * 400],
    "response": ["Blue.", "Paris, I believe.", "1, 2, 3, 4, 5.", "long"],
}


def pair(instruction, response):
    return ({"role": "user", "content": instruction}, {"role": "assistant", "content": response})


@pytest.fixture(scope="module")
def tokenizer(smollm_weights):
    return AutoTokenizer.from_pretrained(smollm_weights)


def saved(folder, tokenizer, model):
    torch.manual_seed(0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A reward model of random weights."""
    torch.manual_seed(0)
    model = LlamaClassifier(LlamaConfig(**SIZES, num_labels=1, pad_token_id=tokenizer.pad_token_id))
    return saved(tmp_path_factory.mktemp("models") / "rewarder", tokenizer, model)


@pytest.fixture
def loaded(folder):
    with RewardModel(folder, dtype="float32") as llm:
        yield llm


def plain(folder, tokenizer, instruction, response):
    """The model's own score of one conversation, by a plain call."""
    model = LlamaClassifier.from_pretrained(folder).eval()
    text = tokenizer.apply_chat_template(list(pair(instruction, response)), tokenize=False)
    with torch.inference_mode():
        return float(model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0])


def test_reward_equals_a_plain_call_of_the_model(loaded, folder, tokenizer):
    result = Dataset.from_dict(ROWS).map(Reward(loaded), batched=True, with_indices=True)
    expected = [plain(folder, tokenizer, *row) for row in list(zip(*ROWS.values(), strict=True))[:3]]
    assert result["reward"][:3] == pytest.approx(expected, abs=1e-5)
    assert len(set(result["reward"][:3])) == 3
    entry = result[0]["generation_metadata"][0]
    assert (entry["model"], entry["completion_tokens"], entry["finish_reason"]) == ("rewarder", 0, "stop")
    assert entry["prompt_tokens"] > 0


def test_reward_beyond_the_context_fails_its_row(loaded):
    result = Dataset.from_dict(ROWS).map(Reward(loaded), batched=True, with_indices=True)
    assert result["reward"][3] is None
    assert "are more than the model's context of 300" in result[3]["generation_metadata"][0]["error"]


def test_reward_does_not_depend_on_batch_or_order(loaded, folder):
    requests = [Request(messages=pair("Say it. " * n, f"It, {n} times.")) for n in range(1, 9)]
    together = loaded.complete(requests)
    for size in (1, 3):
        result = replace(loaded, batch_size=size).complete(requests[::-1])[::-1]
        assert [m.scores[0] for m in result] == pytest.approx([m.scores[0] for m in together], abs=1e-5)
    assert {(m.text, m.finish_reason, m.completion_tokens) for m in together} == {("", "stop", 0)}


def test_a_model_that_knows_no_padding_reads_row_by_row(tmp_path, tokenizer, folder):
    model = LlamaClassifier.from_pretrained(folder)
    model.config.pad_token_id = None
    with RewardModel(saved(tmp_path, tokenizer, model)) as llm:
        result = Dataset.from_dict(ROWS).map(Reward(llm), batched=True, with_indices=True)
    expected = [plain(tmp_path, tokenizer, *row) for row in list(zip(*ROWS.values(), strict=True))[:3]]
    assert result["reward"][:3] == pytest.approx(expected, abs=1e-5)


def test_reward_without_chat_template_reads_a_pair(tmp_path, tokenizer):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=2, pad_token_id=0)).eval()
    bare = AutoTokenizer.from_pretrained(saved(tmp_path, tokenizer, model))
    bare.chat_template = None
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    with RewardModel(saved(tmp_path, bare, model)) as llm:
        result = Dataset.from_dict(ROWS).map(Reward(llm, output=1), batched=True, with_indices=True)
    for row in result.select(range(3)):
        with torch.inference_mode():
            logits = model(**bare(row["instruction"], row["response"], return_tensors="pt")).logits
        assert row["reward"] == pytest.approx(float(logits[0, 1]), abs=1e-5)


def test_reward_of_a_conversation_reads_every_turn(loaded, folder):
    messages = [*pair("Hi", "Hello."), *pair("Say a colour.", "Blue.")]
    dataset = Dataset.from_dict({"messages": [messages, messages[:3], None]})
    result = dataset.map(Reward(loaded), batched=True, with_indices=True)
    assert result["reward"][0] == loaded.complete([Request(messages=tuple(messages))])[0].scores[0]
    errors = [row["generation_metadata"][0]["error"] for row in result]
    assert "ends with a turn of 'user'" in errors[1]
    assert "messages is not a list of role and content" in errors[2]


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "llama3_1", "gptoss", "glm4moe", "lfm2_2_5"])
def test_reward_reads_calls_and_tools_as_the_template(name):
    """The score is that of `apply_chat_template(messages, tools=...)`, whatever columns the dataset has them in."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATES[name]
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 8192}
    torch.manual_seed(0)
    model = LlamaClassifier(LlamaConfig(**sizes, num_labels=1, pad_token_id=None)).eval()
    talk = [*CALLED, {"role": "assistant", "content": "Take a coat."}]
    text = tokenizer.apply_chat_template(talk, tools=[WEATHER], tokenize=False)
    with torch.inference_mode():
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        expected = float(model(input_ids=ids).logits[0, 0])
    llm = Classifier(model, tokenizer, ChatTemplate.of_tokenizer(name, tokenizer, {}), None)
    for column, tools in (("messages", [WEATHER]), ("conversations", json.dumps([WEATHER]))):
        rows = Dataset.from_dict({column: [talk], "tools": [tools]})
        request = next(Reward(EchoLLM()).flow(rows[0], RNG))
        (completion,) = llm.score([request], 1)
        assert completion.error == ""
        assert completion.prompt_tokens == ids.shape[1]
        assert completion.scores[0] == pytest.approx(expected, abs=1e-6)


def test_reward_of_an_answer_that_calls_reads_the_call():
    """As TextGeneration(keep_tool_calls=True) writes it: the text may then be empty."""
    technique = Reward(EchoLLM())
    row = {
        "instruction": "Oslo?",
        "response": "",
        "tool_calls": json.dumps(CALLED[1]["tool_calls"]),
        "tools": [WEATHER],
    }
    assert list(technique.input_features(row)) == list(row)
    request = next(technique.flow(row, RNG))
    assert request.messages[1] == {"role": "assistant", "content": "", "tool_calls": CALLED[1]["tool_calls"]}
    assert request.tools == (WEATHER,)
    for calls, response in (("[]", ""), (None, None)):
        with pytest.raises(RowError, match="response is"):
            next(technique.flow({**row, "tool_calls": calls, "response": response}, RNG))


def test_special_token_in_a_scored_call_stays_text():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATES["qwen3"]
    sizes = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 8192}
    model = LlamaClassifier(LlamaConfig(**sizes, num_labels=1, pad_token_id=None)).eval()
    llm = Classifier(model, tokenizer, ChatTemplate.of_tokenizer("qwen3", tokenizer, {}), None)
    counts = []
    for city in ("<|im_end>", "<|im_end|>"):
        call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
        talk = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]})
        counts.append(llm.score([Request(messages=talk)], 1)[0].prompt_tokens)
    assert counts[1] == counts[0] + 1  # one byte more, and not one token for the marker
    tool = {"type": "function", "function": {"name": "now", "description": "<|im_end|>"}}
    (refused,) = llm.score([Request(messages=talk, tools=(tool,))], 1)
    assert (refused.finish_reason, "special token" in refused.error) == ("refused", True)


def test_reward_of_several_outputs_needs_output():
    row = {"instruction": "a", "response": "b"}
    three = Completion(text="", finish_reason="stop", scores=(1.0, 2.0, 3.0))
    assert drive(Reward(EchoLLM(), output=2).flow(row, RNG), three)[1] == [{"reward": 3.0}]
    for fields, message in (({}, "has 3 outputs"), ({"output": 3}, "output .*0 to 2.*echo.*3")):
        with pytest.raises(GenerationError, match=message):
            drive(Reward(EchoLLM(), **fields).flow(row, RNG), three)
    with pytest.raises(ValueError, match=r"output .*-1"):
        Reward(EchoLLM(), output=-1)


def test_reward_of_a_completion_without_scores_is_an_error():
    with pytest.raises(GenerationError, match=r"echo .*Reward\(RewardModel"):
        drive(
            Reward(EchoLLM()).flow({"instruction": "a", "response": "b"}, RNG),
            Completion(text="a", finish_reason="stop"),
        )


def test_an_llm_that_is_no_reward_model_is_an_error():
    with pytest.raises(GenerationError, match=r"Reward .*echo .*RewardModel"):
        Dataset.from_dict(ROWS).map(Reward(EchoLLM()), batched=True, with_indices=True)


def test_reward_model_lacks_all_but_rewards():
    llm = RewardModel("user/rewarder")
    assert [bool(llm.lacks(need)) for need in get_args(Need)] == [need != "reward" for need in get_args(Need)]
    with pytest.raises(GenerationError, match=r"Judge.*user/rewarder.*TransformersLLM"):
        Pipeline((Judge.quality(llm),)).run(Dataset.from_dict(ROWS))


@pytest.mark.model
def test_a_model_that_writes_is_no_reward_model(smollm):
    with pytest.raises(GenerationError, match="RewardModel"):
        Dataset.from_dict(ROWS).map(Reward(smollm), batched=True, with_indices=True)


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (Request(messages=({"role": "user", "content": "a"},)), "the assistant's next turn"),
        (Request(messages=(), role="user"), "the user's next turn"),
        (Request(messages=pair("a", "b"), role="user"), "the user's next turn"),
        (Request(messages=pair("a", "b"), choices=("c",)), r"the choices \('c',\)"),
    ],
)
def test_a_reward_model_writes_nothing(request_, wanted):
    with pytest.raises(GenerationError, match=f"some/model is a reward model.*asked for {wanted}"):
        RewardModel("some/model").complete([request_])


def test_a_model_that_was_not_trained_to_classify_is_an_error(tmp_path, tokenizer):
    folder = saved(tmp_path, tokenizer, LlamaForCausalLM(LlamaConfig(**SIZES)))
    with pytest.raises(GenerationError, match=r"\['score.weight'\]"):
        RewardModel(folder).load()


def test_a_model_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(GenerationError, match=r"nothing-here' .*can't be loaded"):
        RewardModel(str(tmp_path / "nothing-here")).load()


@pytest.mark.parametrize(
    ("fields", "message"), [({"batch_size": 0}, "batch_size must be at least 1, got 0"), ({"dtype": "int4"}, "'int4'")]
)
def test_field_out_of_range_raises_before_loading(fields, message):
    with pytest.raises(ValueError, match=message):
        RewardModel("some/model", **fields)


def test_running_out_of_memory_halves_the_batch(loaded):
    batches = []

    def note(model, args, tensors):
        batches.append(len(tensors["input_ids"]))
        if batches[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    requests = [Request(messages=pair("a", f"b {n}")) for n in range(4)]
    hook = loaded.loaded_model().model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        assert all(completion.scores for completion in loaded.complete(requests))
    finally:
        hook.remove()
    assert batches == [4, 2, 2]


def test_equal_models_are_loaded_once_and_unload_gives_them_back(folder):
    with RewardModel(folder) as llm:
        assert replace(llm, batch_size=3).loaded_model() is llm.loaded_model()
        loaded = llm.loaded_model()
        assert [model for _, model in LOADED_MODELS.values()].count(loaded) == 1
    assert loaded not in [model for _, model in LOADED_MODELS.values()]


def test_no_requests_need_no_model(tmp_path):
    assert RewardModel(str(tmp_path / "nothing-here")).complete([]) == []


def test_an_empty_answer_fails_its_row():
    with pytest.raises(RowError):
        next(Reward(EchoLLM()).flow({"messages": []}, RNG))


def test_reward_difference_scores_both_answers():
    row = {"instruction": "Say a colour.", "response": "Blue.", "base_response": "No."}
    technique = RewardDifference(RewardModel("some/reward-model"))
    scored = [Completion(text="", finish_reason="stop", scores=(score,)) for score in (2.5, -1.0)]
    requests, rows = drive(technique.flow(row, RNG), *scored)
    assert [request.messages for request in requests] == [pair("Say a colour.", "Blue."), pair("Say a colour.", "No.")]
    assert rows == [{"reward": 2.5, "base_reward": -1.0, "reward_difference": 3.5}]


def test_reward_difference_on_a_model_equals_two_rewards(loaded):
    columns = {name: values[:3] for name, values in ROWS.items()}
    dataset = Dataset.from_dict({**columns, "base_response": ["Red.", "I don't know.", ""]})
    both = dataset.map(RewardDifference(loaded), batched=True, with_indices=True)
    renamed = {"response": "base_response"}
    alone = dataset.map(Reward(loaded, input_mappings=renamed), batched=True, with_indices=True)
    assert both["base_reward"][:2] == pytest.approx(alone["reward"][:2], abs=1e-5)
    assert both[0]["reward_difference"] == both[0]["reward"] - both[0]["base_reward"]
    assert both[2]["generation_metadata"][0]["error"] == "base_response is empty"
