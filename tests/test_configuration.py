import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest
from datasets.fingerprint import Hasher

from hfsynth import EchoLLM, EvolInstruct, Magpie, SamplingParams, TextGeneration, TransformersLLM
from hfsynth.config import Configuration, restore


@dataclass(frozen=True)
class Holder(Configuration):
    value: Any = None


def test_a_technique_comes_back_equal_from_a_pickle():
    technique = Magpie(
        TransformersLLM("some/model", revision="abc", chat_template_kwargs={"date_string": "1 May"}),
        system_prompt={"a": "You do math.", "b": ("You do art.", 3)},
        response_sampling=SamplingParams(stop=("\n",)),
        seed=7,
    )
    again = pickle.loads(pickle.dumps(technique))
    assert again.to_json() == technique.to_json()
    assert again.response_sampling == technique.response_sampling


def test_the_hash_is_the_same_in_another_process():
    code = (
        "from datasets.fingerprint import Hasher; from hfsynth import *; "
        "print(Hasher.hash(EvolInstruct(TransformersLLM('some/model'), num_evolutions=2)))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == Hasher.hash(EvolInstruct(TransformersLLM("some/model"), num_evolutions=2))


def test_equal_values_hash_equally_whether_shared_or_copied():
    shared = SamplingParams(temperature=0.3)
    one = EvolInstruct(EchoLLM(), sampling=shared, answer_sampling=shared)
    two = EvolInstruct(EchoLLM(), sampling=replace(shared), answer_sampling=replace(shared))
    assert Hasher.hash(one) == Hasher.hash(two)


def test_every_field_and_the_version_are_in_the_hash(monkeypatch):
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


def test_a_pickle_of_another_version_is_refused(monkeypatch):
    function, arguments = EchoLLM().__reduce__()
    assert function is restore
    monkeypatch.setattr(EchoLLM, "version", 99)
    with pytest.raises(ValueError, match=r"EchoLLM was written at version 1, .*99"):
        restore(*arguments)


def test_a_field_that_is_no_configuration_is_an_error_that_shows_it():
    with pytest.raises(TypeError, match=r"<object object .* can't be part of a configuration"):
        Holder(object()).to_json()
