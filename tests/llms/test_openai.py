"""OpenAILLM against a server of the standard library that fails on purpose."""

import json
import logging
import pickle
import random
import threading
import time

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from tokenizers.processors import TemplateProcessing

from hfsynth import (
    GenerationError,
    Judge,
    Magpie,
    OpenAILLM,
    Pipeline,
    Request,
    RunError,
    SamplingParams,
    ServerError,
    TextGeneration,
)
from hfsynth.llm import Requests
from hfsynth.record import records
from tests.conftest import package_folder
from tests.model_server import MODEL, ModelServer, Refusal, written
from tests.tiny_chat import byte_tokenizer

FAULTS = ("429", "500", "503", "drop", "half", "cut")


@pytest.fixture
def server():
    with ModelServer() as running:
        yield running


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def llm_of(server, **fields):
    return OpenAILLM(MODEL, **{"base_url": server.url, "retry_delay": 0.001, "patience": 5.0, **fields})


def ask(text, **options):
    return Request(messages=({"role": "user", "content": text},), **options)


def questions(count):
    return [ask(f"question {number}", seed=number) for number in range(count)]


def texts(completions):
    return [completion.text for completion in completions]


def rows(count):
    return Dataset.from_dict({"instruction": [f"say {number}" for number in range(count)]})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": " "}, "model"),
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://me:secret-word@host/v1"}, "base_url"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"patience": -1}, "patience"),
    ],
)
def test_field_out_of_range_names_the_field(fields, named):
    with pytest.raises(ValueError, match=named) as caught:
        OpenAILLM(**{"model": MODEL, **fields})
    assert "secret-word" not in str(caught.value)


def test_chat_sends_every_sampling_parameter_to_vllm(server):
    sampling = SamplingParams(temperature=0.5, top_p=0.9, min_p=0.1, presence_penalty=1, max_new_tokens=7, stop=("x",))
    with llm_of(server) as llm:
        (completion,) = llm.complete([ask("Hi", seed=2**62 + 1, sampling=sampling)])
    assert completion.text == f"{2**62 + 1} Hi"
    (body,) = server.bodies
    assert server.paths == ["/v1/chat/completions"]
    assert body == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "min_p": 0.1,
        "top_k": 0,
        "presence_penalty": 1.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "seed": 2**62 + 1,
        "stop": ["x"],
    }


@pytest.mark.parametrize(("owner", "seed"), [("somebody", 2**62 % 2**31 + 5), ("llamacpp", (2**62 + 5) % (2**32 - 1))])
def test_seed_is_folded_for_servers_of_fewer_bits(owner, seed):
    with ModelServer(owner=owner) as server, llm_of(server) as llm:
        llm.complete([ask("Hi", seed=2**62 + 5)])
    assert server.bodies[0]["seed"] == seed


def test_answer_has_thinking_usage_and_finish_reason(server):
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    message = {"content": "Blue.", "reasoning_content": "A colour"}
    server.answer = lambda path, body: {
        "choices": [{"message": message, "finish_reason": "length"}],
        "usage": usage,
    }
    with llm_of(server) as llm:
        (found,) = llm.complete([ask("Hi")])
    assert (found.text, found.thinking, found.finish_reason) == ("Blue.", "A colour", "length")
    assert (found.prompt_tokens, found.completion_tokens) == (9, 8)
    assert (found.cached_tokens, found.reasoning_tokens) == (4, 5)


@pytest.mark.parametrize(
    ("choice", "reason", "text", "thinking"),
    [
        ({"message": {"content": "<think>Hm</think>Yes."}}, "stop", "Yes.", "Hm"),
        ({"message": {"content": "Yes.", "reasoning": "Hm"}}, "stop", "Yes.", "Hm"),
        ({"message": {"content": [{"type": "text", "text": "Yes."}]}}, "stop", "Yes.", None),
        ({"message": {"content": "Ye"}, "finish_reason": "content_filter"}, "refused", "Ye", None),
        ({"message": {"content": None}, "finish_reason": "tool_calls"}, "refused", "", None),
        ({"message": {"tool_calls": [{"id": "1"}]}, "finish_reason": "tool_calls"}, "stop", '[{"id": "1"}]', None),
        ({"message": {"content": "Ye"}, "finish_reason": "abort"}, "error", "Ye", None),
        ({"message": {"content": "Yes."}, "finish_reason": None}, "stop", "Yes.", None),
    ],
)
def test_answer_is_read_in_every_form(server, choice, reason, text, thinking):
    server.answer = lambda path, body: {"choices": [{"finish_reason": "stop", **choice}]}
    with llm_of(server) as llm:
        (found,) = llm.complete([ask("Hi")])
    assert (found.finish_reason, found.text, found.thinking) == (reason, text, thinking)
    assert bool(found.error) == (reason in ("refused", "error"))


CALL = {"id": "a1", "type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
SENT = {**CALL, "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}


def test_calls_are_sent_and_parsed_in_the_format_of_openai(server):
    message = {"content": None, "tool_calls": [{**SENT, "index": 0}]}
    server.answer = lambda path, body: {"choices": [{"finish_reason": "tool_calls", "message": message}]}
    talk = ({"role": "user", "content": "When?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]})
    talk = (*talk, {"role": "tool", "content": "9", "tool_call_id": "a1"})
    with llm_of(server) as llm:
        (found,) = llm.complete([Request(messages=talk, parse_tool_calls=True)])
    assert server.bodies[0]["messages"][1]["tool_calls"] == [SENT]
    assert server.bodies[0]["messages"][2] == talk[2]
    assert (found.text, found.tool_calls, found.tool_call_error, found.finish_reason) == ("", (CALL,), "", "stop")


@pytest.mark.parametrize("calls", [[{"id": "1"}], [{**SENT, "function": {"name": "now", "arguments": "{"}}], {"a": 1}])
def test_calls_of_a_server_that_are_broken_stay_text(server, calls):
    message = {"content": None, "tool_calls": calls}
    server.answer = lambda path, body: {"choices": [{"finish_reason": "tool_calls", "message": message}]}
    with llm_of(server) as llm:
        (found,) = llm.complete([Request(messages=({"role": "user", "content": "?"},), parse_tool_calls=True)])
    assert (json.loads(found.text), found.tool_calls, found.finish_reason) == (calls, (), "stop")
    assert found.tool_call_error


@pytest.mark.parametrize(("pattern", "count"), [("in turn", 1000), ("at random", 300)])
def test_faults_at_any_request_change_no_row(pattern, count):
    """Each request fails at its first attempt; or three of ten attempts fail, of the same request at most four."""
    chance = random.Random(7)
    faults = {
        "in turn": lambda number, attempt: FAULTS[number % len(FAULTS)] if attempt == 0 else "",
        "at random": lambda number, attempt: chance.choice(FAULTS) if attempt < 4 and chance.random() < 0.3 else "",
    }
    with ModelServer(faults=faults[pattern]) as server, llm_of(server, concurrency=32) as llm:
        completions = llm.complete(questions(count))
    assert texts(completions) == [f"{number} question {number}" for number in range(count)]


def test_slow_answer_is_asked_for_twice():
    slow = lambda number, attempt: "slow" if attempt == 0 and number == 0 else ""  # noqa: E731
    with ModelServer(faults=slow) as server, llm_of(server, timeout=0.3) as llm:
        assert texts(llm.complete(questions(3))) == [f"{number} question {number}" for number in range(3)]


def test_retry_after_is_waited_for():
    faults = lambda number, attempt: "429" if attempt == 0 else ""  # noqa: E731
    with ModelServer(faults=faults) as server, llm_of(server) as llm:
        server.retry_after = "0.4"
        began = time.monotonic()
        llm.complete(questions(1))
        assert time.monotonic() - began >= 0.4


def test_request_that_always_fails_fails_alone():
    """It is no reason to end a run while the server completes others."""
    with ModelServer() as server, llm_of(server, concurrency=2) as llm:
        broken = lambda number, attempt: "500" if number == 0 else ""  # noqa: E731
        server.faults = broken
        completions = llm.complete(questions(60))
    failed = [number for number, one in enumerate(completions) if one.finish_reason != "stop"]
    assert failed in ([0], [1])  # two are sent at once, and the first to arrive fails
    assert (completions[failed[0]].finish_reason, "500" in completions[failed[0]].error) == ("error", True)


def test_overloaded_server_gets_fewer_requests_at_once(caplog):
    def limited(path, body):
        if server._in_flight > 4:
            raise Refusal(429, "too many requests")
        return written("ok")

    with ModelServer(limited, delay=0.01) as server, llm_of(server, concurrency=32) as llm:
        completions = llm.complete(questions(60))
    assert texts(completions) == ["ok"] * 60
    assert server.peak_in_flight <= 32
    assert "at most 4 requests" in caplog.text


def test_refused_request_fails_its_row_with_the_servers_words(server):
    def answer(path, body):
        if "3" in body["messages"][0]["content"]:
            raise Refusal(400, "this model's maximum context length is 10 tokens")
        return written("ok")

    server.answer = answer
    with llm_of(server) as llm:
        completions = llm.complete(questions(5))
    assert [one.finish_reason for one in completions] == ["stop", "stop", "stop", "refused", "stop"]
    assert "maximum context length is 10 tokens" in completions[3].error


def test_server_that_refuses_everything_ends_the_stream(server):
    def answer(path, body):
        raise Refusal(400, "samplers must be a list")

    server.answer = answer
    with llm_of(server) as llm, pytest.raises(ServerError, match="samplers must be a list"):
        llm.complete(questions(40))


@pytest.mark.parametrize("status", [401, 402, 403, 404, 307])
def test_unusable_server_ends_the_stream_at_once(server, status):
    def answer(path, body):
        raise Refusal(status, "no")

    with llm_of(server, concurrency=1) as llm:
        server.answer = answer
        with pytest.raises(ServerError, match=str(status)):
            llm.complete(questions(3))
    assert len(server.bodies) == 1


def test_missing_model_lists_the_servers_models(server):
    def answer(path, body):
        raise Refusal(404, {"error": {"message": "no such model", "code": 404}})

    server.answer = answer
    with OpenAILLM("user/other", base_url=server.url) as llm, pytest.raises(ServerError, match=MODEL):
        llm.complete(questions(1))


def test_unsupported_parameter_is_left_out_after_its_refusal(caplog):
    def answer(path, body):
        if "min_p" in body:
            raise Refusal(422, {"detail": [{"loc": ["body", "min_p"], "msg": "Extra inputs are not permitted"}]})
        if "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
            raise Refusal(400, {"error": {"message": words, "param": "max_tokens", "code": "unsupported_parameter"}})
        return written("ok")

    sampling = SamplingParams(min_p=0.1, max_new_tokens=9)
    with ModelServer(answer, owner="somebody") as server, llm_of(server, concurrency=1) as llm:
        completions = llm.complete([ask("Hi", sampling=sampling)] * 3)
        facts = llm.server_facts()
    assert texts(completions) == ["ok"] * 3
    assert len(server.bodies) == 5, "two refusals, three answers"
    assert server.bodies[-1]["max_completion_tokens"] == 9
    assert facts["left_out"] == "max_tokens, min_p"
    assert "min_p" in caplog.text


def test_value_out_of_range_leaves_no_parameter_out(server):
    def answer(path, body):
        raise Refusal(400, {"error": {"message": "temperature must be at most 2", "param": "temperature"}})

    server.answer = answer
    with llm_of(server) as llm:
        (found,) = llm.complete([ask("Hi", sampling=SamplingParams(temperature=3.0))])
    assert found.finish_reason == "refused"
    assert "at most 2" in found.error


def test_stream_takes_no_more_than_concurrency(server):
    taken = []
    requests = Requests(lambda: None)
    for number, request in enumerate(questions(20)):
        requests.put(number, request)
    server.delay = 0.02
    with llm_of(server, concurrency=4) as llm:
        assert llm.parallel_requests == 4
        for key, _ in llm.stream(requests):
            taken.append(key)
            assert len(taken) + len(requests) >= 20 - 5, "one more waits to be sent"
    assert sorted(taken) == list(range(20))
    assert server.peak_in_flight <= 4


def test_stream_takes_a_request_that_follows_a_completion(server):
    requests = Requests()
    requests.put("first", ask("one"))
    order = []
    with llm_of(server) as llm:
        for key, completion in llm.stream(requests):
            order.append(key)
            if key == "first":
                requests.put("second", ask(completion.text))
    assert order == ["first", "second"]


def test_closed_stream_cancels_its_requests(server):
    def answer(path, body):
        time.sleep(0 if body["seed"] == 0 else 5)
        return written("ok")

    server.answer = answer
    requests = Requests()
    for number, request in enumerate(questions(8)):
        requests.put(number, request)
    began = time.monotonic()
    with llm_of(server, concurrency=8) as llm:
        stream = llm.stream(requests)
        assert next(stream)[0] == 0
        stream.close()
    assert time.monotonic() - began < 4


def test_dead_server_ends_the_run_and_keeps_chunks(tmp_path, server):
    pipeline = Pipeline((TextGeneration(llm_of(server, patience=0.5, concurrency=4)),))
    server.faults = lambda number, attempt: "503" if number >= 12 else ""
    with pytest.raises(RunError, match="503"):
        pipeline.run(rows(20), run_dir=tmp_path, chunk_size=4, quiet=True)
    assert len(list(tmp_path.glob("TextGeneration*/chunk-*.arrow"))) >= 2
    answered = len(server.bodies)
    server.faults = lambda number, attempt: ""
    result = pipeline.run(rows(20), run_dir=tmp_path, chunk_size=4, quiet=True)
    assert [text.split(" ", 1)[1] for text in result["generation"]] == rows(20)["instruction"][:]
    assert len(server.bodies) - answered <= 12, "finished chunks are not asked for again"


def test_restarted_server_loses_no_row(tmp_path):
    with ModelServer(delay=0.005) as server:
        pipeline = Pipeline((TextGeneration(llm_of(server, concurrency=8)),))
        faultless = pipeline.run(rows(120), run_dir=tmp_path / "faultless", quiet=True)
        server.bodies.clear()

        def restart():
            while len(server.bodies) < 40:
                time.sleep(0.005)
            server.stop()
            time.sleep(0.5)
            server.start()

        thread = threading.Thread(target=restart)
        thread.start()
        result = pipeline.run(rows(120), run_dir=tmp_path / "restarted", quiet=True)
        thread.join()
    assert result["generation"][:] == faultless["generation"][:]


def test_server_with_other_weights_is_noticed_on_resuming(tmp_path, server, caplog):
    """The rows that are kept stay, and the record has what the server stated last."""
    pipeline = Pipeline((TextGeneration(llm_of(server, patience=0.3, concurrency=2)),))
    server.faults = lambda number, attempt: "503" if number >= 4 else ""
    with pytest.raises(RunError):
        pipeline.run(rows(8), run_dir=tmp_path, chunk_size=2, quiet=True)
    assert "has changed" not in caplog.text
    pipeline.steps[0].llm.unload()
    server.faults = lambda number, attempt: ""
    server.model = "/models/finetuned"
    result = pipeline.run(rows(8), run_dir=tmp_path, chunk_size=2, quiet=True)
    assert "served_model was 'user/small' and is 'finetuned'" in caplog.text
    (step,) = records(result)[0].steps
    assert step.server == {"server": "vllm 1.2.3", "served_model": "finetuned", "owner": "vllm"}
    assert step.same_rows == "none"


def test_later_step_is_refused_before_an_earlier_one_costs(tmp_path, server, raw):
    """Whether a server scores choices is known once it was asked, and then no row is spent."""
    first = TextGeneration(raw, input_mappings={"instruction": "text"})
    with pytest.raises(GenerationError, match="doesn't score"):
        (first >> Judge(raw, template="{{ text }}")).run(
            Dataset.from_dict({"text": ["a"]}), run_dir=tmp_path, quiet=True
        )
    assert all(body.get("echo") for body in server.bodies)


def test_server_that_lists_no_models_completes_requests(server):
    def models():
        raise Refusal(500, "no folder of models")

    server.models = models
    with llm_of(server) as llm:
        assert texts(llm.complete(questions(1))) == ["0 question 0"]
        assert llm.server_facts() == {}


def test_unreachable_server_is_an_error_that_names_it(server):
    url = server.url
    server.stop()
    with pytest.raises(ServerError, match=url):
        OpenAILLM(MODEL, base_url=url, patience=0.2, retry_delay=0.01).load()


@pytest.mark.parametrize(
    ("technique", "need"),
    [(lambda llm: Magpie(llm), "user"), (lambda llm: Judge(llm, template="{{ text }}"), "scored")],
)
def test_chat_server_is_refused_before_it_is_asked(server, technique, need, tmp_path):
    """Two things would do: a tokenizer, or an engine in process."""
    pipeline = TextGeneration(llm_of(server), input_mappings={"instruction": "text"}) >> technique(llm_of(server))
    with pytest.raises(GenerationError, match=need) as caught:
        pipeline.run(Dataset.from_dict({"text": ["a"]}), run_dir=tmp_path, quiet=True)
    assert "tokenizer=" in str(caught.value)
    assert "TransformersLLM" in str(caught.value)
    assert server.bodies == []


KEY = "plain-words-that-no-pattern-finds-42"


def test_key_is_in_nothing_that_is_kept(tmp_path, monkeypatch, caplog):
    """The server quotes the key in its error."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    with ModelServer(key=KEY) as server:
        llm = llm_of(server, api_key_variable="MY_KEY")
        pipeline = Pipeline((TextGeneration(llm),))
        result = pipeline.run(rows(3), run_dir=tmp_path, quiet=True)
        server.key = "another key"
        llm.unload()
        with pytest.raises(ServerError, match="MY_KEY") as caught:
            llm.load()
    kept = [
        records(result)[0].to_json(),
        pipeline.to_yaml(),
        repr(llm),
        str(caught.value),
        caplog.text,
        json.dumps(result[:]),
        pickle.dumps(llm).decode("latin-1"),
    ]
    kept += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert [text for text in kept if KEY in text] == []


def test_hubs_token_goes_to_hugging_face_alone(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop1234")
    server.key = "hf_abcdefghijklmnop1234"
    with pytest.raises(ServerError, match="OPENAI_API_KEY"):
        llm_of(server).load()


def test_fingerprint_has_the_model_and_not_the_address(server):
    hashes = {
        Hasher.hash(TextGeneration(llm))
        for llm in (
            llm_of(server),
            llm_of(server, concurrency=3, timeout=9.0, patience=9.0, retry_delay=1.0, api_key_variable="KEY"),
            OpenAILLM(MODEL),
            OpenAILLM(MODEL, base_url=("http://a/v1", "http://b/v1")),
        )
    }
    assert len(hashes) == 1
    assert Hasher.hash(TextGeneration(OpenAILLM("user/other"))) not in hashes
    assert Hasher.hash(TextGeneration(OpenAILLM(MODEL, extra_body={"reasoning_effort": "low"}))) not in hashes


def test_pickled_llm_equals_itself(server):
    llm = llm_of(server, concurrency=3, extra_body={"a": 1})
    assert pickle.loads(pickle.dumps(llm)) == llm


def test_ranks_take_one_address_each(monkeypatch):
    with ModelServer() as first, ModelServer() as second:
        llm = OpenAILLM(MODEL, base_url=(first.url, second.url))
        for rank in (0, 1, 2):
            monkeypatch.setenv("RANK", str(rank))
            with llm:
                llm.complete(questions(1))
    assert (len(first.bodies), len(second.bodies)) == (2, 1)


def test_address_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    with OpenAILLM(MODEL) as llm:
        assert texts(llm.complete(questions(1))) == ["0 question 0"]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def raw(server, tokenizer_folder):
    with llm_of(server, tokenizer=tokenizer_folder) as llm:
        server.bodies.clear()
        yield llm


def test_raw_prompts_are_the_tokens_of_the_template(server, raw):
    raw.complete([ask("Hi"), Request(messages=(), role="user")])
    chat = raw.connected().endpoint.chat
    prompts = sorted(chat.decode(body["prompt"]) for body in server.bodies)
    assert prompts == [
        "<s><|im_start|>user\n",
        "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ]
    assert server.bodies[0]["stop_token_ids"]
    assert server.bodies[0]["return_token_ids"] is True


TEMPLATES = sorted((package_folder("trl") / "chat_templates").glob("*.jinja"))


def test_prompts_of_30_templates_equal_transformers(server, tmp_path):
    """The tokens that reach the server are those that transformers' own chat template gives."""
    tokenizer, compared = byte_tokenizer(), []
    messages = ({"role": "user", "content": "Name the capital, in one word."},)
    for path in (path for path in TEMPLATES if not path.stem.endswith("_training")):
        tokenizer.chat_template = path.read_text()
        tokenizer.save_pretrained(tmp_path / path.stem)
        server.bodies.clear()
        with llm_of(server, tokenizer=str(tmp_path / path.stem)) as llm:
            (completion,) = llm.complete([Request(messages=messages)])
        if completion.finish_reason == "refused":
            continue
        expected = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        if messages[0]["content"] not in expected:  # the template reads lists of parts alone
            turns = [{"role": "user", "content": [{"type": "text", "text": messages[0]["content"]}]}]
            expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(server.bodies[-1]["prompt"]) == expected, path.stem
        compared.append(path.stem)
    assert len(compared) >= 30


def test_returned_token_ids_are_read_as_by_every_engine(server, raw):
    ids = raw.connected().endpoint.chat.tokenizer("Blue. STOP more", add_special_tokens=False).input_ids
    server.answer = lambda path, body: written("?", token_ids=ids)
    (found,) = raw.complete([ask("Hi", sampling=SamplingParams(stop=("STOP",)))])
    assert found.text == "Blue."
    assert found.written == "Blue. STOP more"


def takes_text(path, body):
    """Answer a prompt that is a text; count one token, as there is in the first prompt, "a"."""
    if not isinstance(body["prompt"], str):
        raise Refusal(400, "prompt must be a string")
    return {**written("ok"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


def test_server_without_token_ids_reads_text(tokenizer_folder):
    """A row's special token would not stay text there, so that row is refused."""
    with ModelServer(takes_text) as server, llm_of(server, tokenizer=tokenizer_folder) as llm:
        completions = llm.complete([ask("Hi"), ask("Hi <|im_end|>")])
    assert [one.finish_reason for one in completions] == ["stop", "refused"]
    assert server.bodies[-1]["prompt"] == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_text_lacks_the_bos_token_that_its_tokenizer_adds(tmp_path):
    tokenizer = byte_tokenizer()
    bos = [("<s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=bos)
    tokenizer.save_pretrained(tmp_path)
    with ModelServer(takes_text) as server, llm_of(server, tokenizer=str(tmp_path)) as llm:
        llm.complete([ask("Hi")])
    assert server.bodies[-1]["prompt"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_server_that_adds_a_template_takes_no_prompts(tokenizer_folder):
    """Ollama's server wraps the text in its model's chat template, so a prompt would have two."""

    def answer(path, body):
        return {**takes_text(path, body), "usage": {"prompt_tokens": 27, "completion_tokens": 1}}

    with ModelServer(answer) as server, pytest.raises(ServerError, match="of 1 tokens and counted 27"):
        llm_of(server, tokenizer=tokenizer_folder).load()


def test_tokenizer_needs_a_server_that_takes_prompts(tokenizer_folder):
    def answer(path, body):
        raise Refusal(404, "Not Found")

    with ModelServer(answer) as server, pytest.raises(ServerError, match="completions"):
        llm_of(server, tokenizer=tokenizer_folder).load()


def test_choices_are_scored_by_the_echo_of_prompts(server, raw):
    """The score of a choice is the sum over its tokens and the end of its turn."""

    def answer(path, body):
        scored = [[None, *(-0.5 * token for token in range(1, len(ids)))] for ids in body["prompt"]]
        return {"choices": [{"index": n, "logprobs": {"token_logprobs": one}} for n, one in enumerate(scored)]}

    server.answer = answer
    (found,) = raw.complete([ask("Hi", choices=("yes", "no way"))])
    (body,) = server.bodies
    assert (body["echo"], body["max_tokens"], body["logprobs"]) == (True, 0, 1)
    length = len(raw.connected().endpoint.chat.render(ask("Hi")).tokens.prompt_ids)
    expected = [sum(-0.5 * place for place in range(length, length + tokens)) for tokens in found.scored_tokens]
    assert found.scores == pytest.approx(expected)
    assert found.text == "yes"


@pytest.mark.parametrize("scored", [[None, -1.0, None], [None, -1.0], "no list of dicts"])
def test_choices_without_every_log_probability_are_refused(server, raw, scored):
    """A missing one isn't taken for certainty."""

    def answer(path, body):
        longest = [[*scored, *[-1.0] * (len(ids) - len(scored))] for ids in body["prompt"]]
        if scored == [None, -1.0]:
            longest = [scored for _ in body["prompt"]]
        choices = [{"index": n, "logprobs": {"token_logprobs": one}} for n, one in enumerate(longest)]
        return {"choices": ["no dict"] * len(choices) if isinstance(scored, str) else choices}

    server.answer = answer
    (found,) = raw.complete([ask("Hi", choices=("yes", "no"))])
    assert (found.finish_reason, found.scores) == ("refused", ())


def test_unload_with_requests_in_flight_ends_the_stream(server):
    server.answer = lambda path, body: time.sleep(0 if body["seed"] == 0 else 3) or written("ok")
    requests = Requests()
    for number, request in enumerate(questions(4)):
        requests.put(number, request)
    began = time.monotonic()
    llm = llm_of(server, concurrency=4)
    stream = llm.stream(requests)
    assert next(stream)[0] == 0
    llm.unload()
    with pytest.raises(GenerationError, match="unloaded"):
        next(stream)
    assert time.monotonic() - began < 3


def test_refusals_of_a_maximum_other_than_length_end_the_stream(server):
    def answer(path, body):
        raise Refusal(400, "the maximum temperature is 2")

    server.answer = answer
    with llm_of(server) as llm, pytest.raises(ServerError, match="maximum temperature"):
        llm.complete(questions(20))


def test_server_that_scores_no_prompts_is_refused_for_choices(server, raw):
    with pytest.raises(GenerationError, match="doesn't score"):
        Judge.quality(raw).check_ready()
    Magpie(raw).check_ready()
