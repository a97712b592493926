"""A planted key: nowhere in what is written or displayed, and there in a worker process."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import EchoLLM, Pipeline, SamplingParams, TextGeneration, TransformersLLM, report
from hfsynth.publish.files import save
from hfsynth.secrets import masked, redact, repr_of
from hfsynth.viewer.page import view

KEY = "hf_PlantedSecretabcdefgh0123456789"


@dataclass(frozen=True)
class KeyLLM(EchoLLM):
    credential: str = field(default="", metadata={"secret": True})
    headers: Mapping[str, str] = field(default_factory=dict)
    base_url: str = ""
    extra: tuple[str, ...] = ()
    options: Any = None
    token: str = ""
    openai_key: str = ""

    def complete(self, requests):
        if any("fail" in request.messages[-1]["content"] for request in requests):
            raise PermissionError(f"401: {self.credential} is not valid")
        return super().complete(requests)


def planted(key: str = KEY) -> KeyLLM:
    return KeyLLM(
        credential=f"plain {key[3:]}",
        headers={"Authorization": f"Bearer {key}", "X-Org": "acme"},
        base_url=f"https://me:{key}@host/v1",
        extra=("--api-key", key[::-1]),
    )


def all_bytes(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def leaks(text: str | bytes) -> bool:
    found = text if isinstance(text, bytes) else text.encode()
    return any(part.encode() in found for part in (KEY, KEY[3:], KEY[::-1]))


def test_secrets_stay_out_of_reprs_and_json():
    technique = TextGeneration(planted())
    for text in (repr(technique.llm), repr(technique), repr(Pipeline((technique,))), technique.to_json()):
        assert not leaks(text)
    assert "acme" in repr(technique)
    assert "https://***@host/v1" in repr(technique)


def test_secrets_stay_out_of_run_directory_and_dataset(tmp_path, capsys):
    rows = Dataset.from_dict({"instruction": ["a", "b"]})
    pipeline = Pipeline((TextGeneration(planted()),))
    result = pipeline.run(rows, run_dir=tmp_path / "run", quiet=True)
    save(result, tmp_path / "saved", steps=pipeline.steps)
    result.save_to_disk(str(tmp_path / "disk"))
    printed = capsys.readouterr()
    assert not leaks(all_bytes(tmp_path))
    assert not leaks(result.info.description)
    assert not leaks(str(pipeline.preview(rows, n=1)))
    assert not leaks(printed.out + printed.err)


WORD = "planted9SECRETvalue"


@pytest.mark.usefixtures("cached_pictures")
@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": f"https://me:pa@{WORD}@host/v1"},
        {"base_url": f"https://me:pa/{WORD}@host/v1"},
        {"base_url": f"https://host/v1?code={WORD}"},
        {"base_url": f"https://hooks.slack.com/services/T00/B00/{WORD}"},
        {"options": f'{{"api_key": "{WORD}"}}'},
        {"options": f"api_key: {WORD}"},
        {"options": {"keys": {"openai": WORD}, "pass": WORD, "creds": WORD}},
        {"extra": ("-H", f"x-api-key: {WORD}")},
        {"token": WORD},
        {"openai_key": WORD},
    ],
)
def test_secret_in_an_llm_field_is_in_no_output(tmp_path, fields):
    """README.md, hfsynth.yaml, hfsynth.json, step.json, dataset_info.json, the page of `hfsynth view`, the report."""
    pipeline = Pipeline((TextGeneration(KeyLLM(**fields)),))
    rows = Dataset.from_dict({"instruction": ["Make tea.", "Sing a song."]})
    result = pipeline.run(rows, run_dir=tmp_path / "run", quiet=True)
    save(result, tmp_path / "saved", steps=pipeline.steps)
    result.save_to_disk(str(tmp_path / "disk"))
    html = report(result).html()
    view(result, tmp_path / "page.html", report=html)
    (tmp_path / "report.html").write_text(html)
    names = {path.name for path in tmp_path.rglob("*")}
    assert {"README.md", "hfsynth.yaml", "hfsynth.json", "step.json", "dataset_info.json", "page.html"} <= names
    assert WORD.encode() not in all_bytes(tmp_path)
    assert WORD not in repr(pipeline)


def test_error_with_a_key_is_recorded_without_it(tmp_path, caplog):
    rows = Dataset.from_dict({"instruction": ["a", "fail"]})
    result = Pipeline((TextGeneration(planted()),)).run(rows, run_dir=tmp_path, quiet=True)
    assert "401: ***" in result[1]["generation_metadata"][0]["error"]
    assert not leaks(all_bytes(tmp_path))
    assert not leaks(caplog.text)
    assert "401: ***" in caplog.text


def test_pickle_has_the_key_and_the_hash_does_not():
    technique = TextGeneration(planted())
    assert pickle.loads(pickle.dumps(technique)).llm == planted()
    assert Hasher.hash(technique) == Hasher.hash(TextGeneration(planted("hf_AnotherKey" + "0123456789abcdef")))
    other = KeyLLM(base_url="https://me:pass@elsewhere/v1")
    assert Hasher.hash(other) != Hasher.hash(KeyLLM(base_url="https://me:pass@host/v1"))


def test_recipe_asks_for_a_secret_that_it_leaves_out(monkeypatch):
    pipeline = Pipeline((TextGeneration(KeyLLM(credential=KEY)),))
    text = pipeline.to_yaml()
    assert not leaks(text)
    with pytest.raises(ValueError, match=r"'credential', which is secret: .* HFSYNTH_CREDENTIAL"):
        Pipeline.from_yaml(text, KeyLLM)
    assert Pipeline.from_yaml(text, KeyLLM, secrets={"credential": KEY}) == pipeline
    monkeypatch.setenv("HFSYNTH_CREDENTIAL", KEY)
    assert Pipeline.from_yaml(text, KeyLLM) == pipeline


@pytest.mark.parametrize(
    "token",
    [
        KEY,
        "sk-proj-abcDEF123456",
        "ghp_abcdefghij0123456789",
        "AKIAABCDEFGHIJKLMNOP",
        "xoxb-123456789-abc",
        "AIzaSyA1234567890abcdefghijk",
        "glpat-abcdefgh12345678",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    ],
)
def test_masked_finds_a_token_inside_a_text(token):
    assert masked(f"use {token} here") == "use *** here"
    assert redact(f"error: {token}!") == "error: ***!"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("api_key", "x"),
        ("password", "correct horse"),
        ("Authorization", "abc"),
        ("hfToken", "abc"),
        ("x-api-key", "abc"),
        ("token", "a1b2c3d4e5f6g7"),
        ("token", "supersecretvalue"),
        ("openai_key", "correcthorsebatterystaple"),
        ("pass", "abc"),
        ("smtp_pass", "abc"),
        ("pw", "abc"),
        ("creds", "abc"),
        ("jwt", "abc"),
        ("bearer", "abc"),
        ("api_key", b"abc"),
        ("api_keys", {"abc"}),
    ],
)
def test_masked_hides_a_text_under_a_secret_name(name, text):
    assert masked(text, name) == "***"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model", "org/model-7b-instruct"),
        ("key", "instruction"),
        ("end_token", "<|im_end|>"),
        ("image_token", "<image_placeholder_01>"),
        ("template", "Explain the Bearer scheme and basic ideas of sk-learn."),
        ("max_tokens", "512"),
        ("max_new_tokens", 512),
        ("tokenizer", "org/tokenizer-7b-instruct"),
        ("author", "Ada Lovelace, 1815"),
        ("end_tokens", "<|im_end|>"),
        ("token", "<|im_start|>"),
        ("token", "Answer:"),
        ("code", "print(12345678)"),
        ("forward_pass", "eager"),
        ("template", "Password: at least 8 characters. Write a rule for passwords, and never tell your api key: why?"),
        ("template", '{"password": "{{ password }}", "token": "<|im_end|>"}'),
        ("prompt", "Mail me@example.org about https://example.org:8080/docs, or @ada."),
        ("base_url", "http://[::1]:8000/v1"),
        ("base_url", "http://localhost:8000/v1/@ada"),
        ("base_url", "https://host/v1?model=gpt-5&version=2024-10-21"),
        ("stop", {"END"}),
        ("data", b"\x00\x01"),
    ],
)
def test_masked_keeps_an_ordinary_value(name, text):
    assert masked(text, name) is None


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (f"https://me:pa@{WORD}@host/v1", "https://***@host/v1"),
        (f"https://me:pa/{WORD}@host/v1", "https://***@host/v1"),
        (f"https://host/v1?model=a&code={WORD}", "https://host/v1?model=a&code=***"),
        (f"https://hooks.slack.com/services/T00/B00/{WORD}", "https://hooks.slack.com/services/***"),
        (f'{{"api_key": "{WORD}", "org": "acme"}}', '{"api_key": "***", "org": "acme"}'),
        ('{"pass": "abc", "org": "acme"}', '{"pass": "***", "org": "acme"}'),
        (f"org: acme\napi_key: {WORD}", "org: acme\napi_key: ***"),
        ("x-api-key: abc", "x-api-key: ***"),
        ("--api-key=abc", "--api-key=***"),
    ],
)
def test_masked_text_keeps_text_that_is_not_secret(text, rest):
    assert masked(text) == rest


def test_repr_of_nested_keys_has_no_key():
    assert repr_of({"keys": {"openai": "abc"}, "org": "acme"}) == "{'keys': {'openai': '***'}, 'org': 'acme'}"


def test_repr_of_defaults_has_no_fields():
    assert repr(EchoLLM()) == "EchoLLM()"
    assert repr(SamplingParams()) == "SamplingParams()"


def test_repr_has_the_fields_that_were_set():
    technique = TextGeneration(EchoLLM(), sampling=SamplingParams(temperature=0.5))
    assert repr(technique) == "TextGeneration(llm=EchoLLM(), sampling=SamplingParams(temperature=0.5))"
    assert repr(Pipeline((technique,))) == f"Pipeline(steps=({technique!r},))"
    assert repr(TransformersLLM("user/model", dtype="float32")) == (
        "TransformersLLM(model='user/model', dtype='float32')"
    )


def test_repr_of_a_long_text_is_cut():
    technique = TextGeneration(EchoLLM(), template="{{ instruction }}" + "x" * 200)
    assert repr(technique) == f"TextGeneration(llm=EchoLLM(), template='{{{{ instruction }}}}{'x' * 62}…')"
