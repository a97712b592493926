import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import (
    Decontaminate,
    EchoLLM,
    EvolInstruct,
    InstructionRules,
    Judge,
    Magpie,
    Novelty,
    RewardModel,
    SamplingParams,
    SeedPool,
    TextGeneration,
    TransformersLLM,
    WellFormed,
    Where,
)
from hfsynth.config import Configuration, as_texts, from_plain, restore, settle_fields
from hfsynth.llm import Request

NAN = float("nan")
LLM = EchoLLM()


@pytest.mark.parametrize(
    ("one", "name", "expected"),
    [
        (lambda: SamplingParams(stop="END"), "stop", ("END",)),
        (lambda: Request(messages=(), choices="Yes"), "choices", ("Yes",)),
        (lambda: Novelty(texts="Name a fruit."), "texts", ("Name a fruit.",)),
        (lambda: Decontaminate(benchmarks="gsm8k"), "benchmarks", ("gsm8k",)),
        (lambda: Decontaminate(benchmarks=Path("a.jsonl")), "benchmarks", ("a.jsonl",)),
        (lambda: WellFormed(rules="empty"), "rules", ("empty",)),
        (lambda: WellFormed(markers="<x>"), "markers", ("<x>",)),
        (lambda: InstructionRules(words="image"), "words", ("image",)),
        (lambda: InstructionRules(beginnings="Write"), "beginnings", ("Write",)),
        (lambda: Where("quality", among="good"), "among", ("good",)),
        (lambda: Where("quality", among=5), "among", (5,)),
    ],
)
def test_texts_field_of_one_text_is_a_tuple_of_one(one, name, expected):
    assert getattr(one(), name) == expected


@pytest.mark.parametrize("value", [None, 5, b"END", {"END": 1}, ["END", 5], ["END", None]])
def test_texts_field_of_other_values_raises(value):
    with pytest.raises(ValueError, match=r"SamplingParams\.stop .*text"):
        SamplingParams(stop=value)


def test_texts_field_of_too_few_texts_raises():
    with pytest.raises(ValueError, match=r"Judge\.choices .*\('good',\)"):
        Judge(LLM, choices="good")
    with pytest.raises(ValueError, match=r"Judge\.choices .*\('English',\)"):
        Judge.language(LLM, languages="English")
    with pytest.raises(ValueError, match=r"SeedPool\.seeds .*\b1\."):
        SeedPool(seeds="Name a fruit that is red.")


def test_as_texts_of_any_series_has_a_fixed_order():
    column = Dataset.from_dict({"task": ["b", "a"]})["task"]
    for series in (["b", "a"], (text for text in "ba"), np.array(["b", "a"]), column):
        assert as_texts("x", series) == ("b", "a")
    assert as_texts("x", {"b", "c", "a"}) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TextGeneration(LLM, input_mappings="question"), r"\.input_mappings must be .*, got 'question'"),
        (lambda: TextGeneration(LLM, output_mappings=["generation"]), r"\.output_mappings must be .*, got \["),
        (lambda: EvolInstruct(LLM, mutation_templates="{{ instruction }}"), r"\.mutation_templates must be"),
        (lambda: EvolInstruct(LLM, mutation_templates={"a": ["x"]}), r"\.mutation_templates must be"),
        (lambda: Judge(LLM, pre_questions="Why?"), r"Judge\.pre_questions must be .*, got 'Why\?'"),
        (lambda: TransformersLLM("x", chat_template_kwargs="a"), r"\.chat_template_kwargs must be .*, got 'a'"),
        (lambda: Magpie(LLM, system_prompt=5), r"Magpie\.system_prompt .*\b5\b"),
        (lambda: Magpie(LLM, system_prompt=["a", 5]), r"Magpie\.system_prompt\['1'\] must be text"),
        (lambda: Magpie(LLM, system_prompt={"a": 5}), r"Magpie\.system_prompt\['a'\] must be text"),
        (lambda: Magpie(LLM, system_prompt={"a": ("x", "much")}), r"Magpie\.system_prompt\['a'\] must be text"),
        (lambda: Magpie(LLM, system_prompt={"a": ("x", NAN)}), r"Magpie\.system_prompt\['a'\] must be text"),
    ],
)
def test_mapping_field_of_other_values_raises(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_new_tokens", value) for value in (None, True, "12", 1.5, NAN, float("inf"))],
        *[("top_k", value) for value in (None, False, "5", 2.0)],
        *[(name, value) for name in ("temperature", "top_p", "min_p") for value in (None, True, "1", NAN, [1])],
        *[("presence_penalty", value) for value in (None, False, NAN, "0")],
        ("temperature", float("inf")),
    ],
)
def test_number_field_of_other_values_raises(name, value):
    with pytest.raises(ValueError, match=rf"SamplingParams\.{name} .*must be"):
        SamplingParams(**{name: value})


def test_number_field_of_numpy_numbers_has_pythons():
    params = SamplingParams(max_new_tokens=np.int64(5), temperature=np.float32(0.5), top_k=np.int32(3))
    assert params == SamplingParams(max_new_tokens=5, temperature=0.5, top_k=3)
    assert [type(value) for value in (params.max_new_tokens, params.temperature)] == [int, float]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TextGeneration(LLM, num_generations=None), r"TextGeneration\.num_generations must be .*, got None"),
        (lambda: TextGeneration(LLM, num_generations="2"), r"TextGeneration\.num_generations must be .*, got '2'"),
        (
            lambda: TextGeneration(LLM, sampling={"top_k": 5}),
            r"\.sampling must be SamplingParams\(\.\.\.\)",
        ),
        (lambda: TextGeneration(LLM, sampling=None), r"TextGeneration\.sampling must be .*, got None"),
        (lambda: TextGeneration(LLM, template=5), r"TextGeneration\.template must be text or None, got 5"),
        (lambda: TextGeneration(LLM, system_prompt=["a"]), r"TextGeneration\.system_prompt must be .*, got \['a'\]"),
        (lambda: TextGeneration(LLM, seed=None), r"TextGeneration\.seed must be a whole number.*, got None"),
        (lambda: TextGeneration(LLM, keep_thinking="no"), r"TextGeneration\.keep_thinking must be True.*, got 'no'"),
        (lambda: Novelty(threshold=NAN), r"Novelty\.threshold must be .*, got nan"),
        (lambda: Where("x", minimum=True), r"Where\.minimum must be a number or None.*, got True"),
        (lambda: Where(None, minimum=1), r"Where\.column must be text.*, got None"),
        (lambda: RewardModel("x", batch_size="8"), r"RewardModel\.batch_size must be .*, got '8'"),
        (lambda: TransformersLLM("x", batch_size=True), r"TransformersLLM\.batch_size must be .*, got True"),
        (lambda: TransformersLLM(None), r"TransformersLLM\.model must be text.*, got None"),
    ],
)
def test_field_of_a_wrong_type_raises_with_its_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_text_field_of_a_path_is_its_text():
    assert TransformersLLM(Path("models") / "mine").model == "models/mine"


@dataclass(frozen=True)
class Own:
    """As a user's technique may have its fields."""

    pair: tuple[int, int] = (1, 2)
    anything: Any = None
    unresolved: "NowhereDefined" = None  # noqa: F821
    named: Mapping[str, str] = field(default_factory=dict)


def test_settle_fields_leaves_other_annotations_to_the_class():
    settle_fields(Own(pair=[1, 2], anything=object(), unresolved=3))
    with pytest.raises(ValueError, match=r"Own\.named must be .*, got 'x'"):
        settle_fields(Own(named="x"))


@dataclass(frozen=True)
class Holder(Configuration):
    value: Any = None


def test_pickle_of_a_technique_restores_it():
    technique = Magpie(
        TransformersLLM("some/model", revision="abc", chat_template_kwargs={"date_string": "1 May"}),
        system_prompt={"a": "You do math.", "b": ("You do art.", 3)},
        response_sampling=SamplingParams(stop=("\n",)),
        seed=7,
    )
    restored = pickle.loads(pickle.dumps(technique))
    assert restored.to_json() == technique.to_json()
    assert restored.response_sampling == technique.response_sampling


def test_hash_is_the_same_in_every_process():
    code = (
        "from datasets.fingerprint import Hasher; from hfsynth import *; "
        "print(Hasher.hash(EvolInstruct(TransformersLLM('some/model'), num_evolutions=2)))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == Hasher.hash(EvolInstruct(TransformersLLM("some/model"), num_evolutions=2))


@dataclass(frozen=True)
class Keyed(Configuration):
    api_key: str = ""


def test_hash_leaves_out_secrets():
    """`datasets` keeps the registry of its hashing pickler in a private module; a change there shows here."""
    assert Hasher.hash(Keyed("first-secret")) == Hasher.hash(Keyed("second-secret"))
    assert pickle.loads(pickle.dumps(Keyed("first-secret"))) == Keyed("first-secret")


def test_describe_names_classes_and_secrets():
    assert Keyed("secret").describe() == {
        "__class__": "Keyed",
        "api_key": {"__secret__": "api_key", "text": "***"},
    }
    assert Holder({"a": (1, Keyed())}).describe()["value"] == {"a": [1, {"__class__": "Keyed", "api_key": ""}]}


def test_hash_of_shared_and_copied_values_is_equal():
    shared = SamplingParams(temperature=0.3)
    one = EvolInstruct(EchoLLM(), sampling=shared, answer_sampling=shared)
    two = EvolInstruct(EchoLLM(), sampling=replace(shared), answer_sampling=replace(shared))
    assert Hasher.hash(one) == Hasher.hash(two)


def test_hash_changes_with_every_field_and_the_version(monkeypatch):
    llm = TransformersLLM("some/model")
    base = TextGeneration(llm)
    others = [
        replace(base, seed=1),
        replace(base, template="{{ text }}"),
        replace(base, sampling=SamplingParams(temperature=0.1)),
        replace(base, llm=replace(llm, revision="v2")),
    ]
    hashes = {Hasher.hash(technique) for technique in [base, *others]}
    monkeypatch.setattr(TextGeneration, "version", 99)
    hashes.add(Hasher.hash(base))
    assert len(hashes) == 6


def test_restore_of_an_older_version_raises(monkeypatch):
    function, arguments = EchoLLM().__reduce__()
    assert function is restore
    monkeypatch.setattr(EchoLLM, "version", 99)
    with pytest.raises(ValueError, match=r"EchoLLM .*version 1\b.*99"):
        restore(*arguments)


def test_to_json_of_a_plain_object_raises_with_it():
    with pytest.raises(TypeError, match=r"<object object .*configuration"):
        Holder(object()).to_json()


@dataclass(frozen=True)
class Inner:
    ratio: float
    name: str = ""


@dataclass(frozen=True)
class Outer:
    pair: tuple[int, str]
    many: tuple[Inner, ...]
    by_name: Mapping[str, Inner]
    maybe: Inner | None


@pytest.mark.parametrize("maybe", [None, Inner(1.5)])
def test_from_plain_reads_the_result_of_asdict(maybe):
    value = Outer((1, "a"), (Inner(0.5), Inner(2.0, "x")), {"k": Inner(0.1)}, maybe)
    assert from_plain(Outer, json.loads(json.dumps(asdict(value)))) == value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, "1", "'1' is no int"),
        (tuple[int, ...], "12", "'12' is no tuple"),
        (Inner, {"ratio": "x"}, "'x' is no float"),
        (Inner, {"ratio": 1.0, "age": 3}, "Inner has no 'age'"),
        (Inner, {}, "ratio"),
        (Mapping[str, int], [1], "is no"),
    ],
)
def test_from_plain_of_a_wrong_type_raises(kind, value, message):
    with pytest.raises(TypeError, match=message):
        from_plain(kind, value)
