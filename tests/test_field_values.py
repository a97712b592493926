from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

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
from hfsynth.config import as_texts, settle_fields
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
def test_field_of_several_texts_given_one_has_one(one, name, expected):
    assert getattr(one(), name) == expected


@pytest.mark.parametrize("value", [None, 5, b"END", {"END": 1}, ["END", 5], ["END", None]])
def test_field_of_several_texts_given_no_text_is_an_error(value):
    with pytest.raises(ValueError, match=r"SamplingParams\.stop is .*; it must be texts"):
        SamplingParams(stop=value)


def test_one_text_that_is_too_few_is_an_error():
    with pytest.raises(ValueError, match=r"Judge\.choices must be two or more.*\('good',\)"):
        Judge(LLM, choices="good")
    with pytest.raises(ValueError, match=r"Judge\.choices must be two or more.*\('English',\)"):
        Judge.language(LLM, languages="English")
    with pytest.raises(ValueError, match=r"SeedPool\.seeds .*\b1\."):
        SeedPool(seeds="Name a fruit that is red.")


def test_texts_of_any_series_become_a_tuple_in_a_fixed_order():
    column = Dataset.from_dict({"task": ["b", "a"]})["task"]
    for series in (["b", "a"], (text for text in "ba"), np.array(["b", "a"]), column):
        assert as_texts("x", series) == ("b", "a")
    assert as_texts("x", {"b", "c", "a"}) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TextGeneration(LLM, input_mappings="question"), r"TextGeneration\.input_mappings is 'question'"),
        (lambda: TextGeneration(LLM, output_mappings=["generation"]), r"TextGeneration\.output_mappings is \["),
        (lambda: EvolInstruct(LLM, mutation_templates="{{ instruction }}"), r"EvolInstruct\.mutation_templates is"),
        (lambda: EvolInstruct(LLM, mutation_templates={"a": ["x"]}), r"EvolInstruct\.mutation_templates is"),
        (lambda: Judge(LLM, pre_questions="Why?"), r"Judge\.pre_questions is 'Why\?'"),
        (lambda: TransformersLLM("x", chat_template_kwargs="a"), r"TransformersLLM\.chat_template_kwargs is 'a'"),
        (lambda: Magpie(LLM, system_prompt=5), r"Magpie\.system_prompt .*\b5\b"),
        (lambda: Magpie(LLM, system_prompt=["a", 5]), r"Magpie\.system_prompt\['1'\] must be text"),
        (lambda: Magpie(LLM, system_prompt={"a": 5}), r"Magpie\.system_prompt\['a'\] must be text"),
        (lambda: Magpie(LLM, system_prompt={"a": ("x", "much")}), r"Magpie\.system_prompt\['a'\] must be text"),
        (lambda: Magpie(LLM, system_prompt={"a": ("x", NAN)}), r"Magpie\.system_prompt\['a'\] must be text"),
    ],
)
def test_field_of_named_texts_given_others_is_an_error(make, named):
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
def test_sampling_given_what_is_no_number_is_an_error(name, value):
    with pytest.raises(ValueError, match=rf"SamplingParams\.{name} is .*; it must be"):
        SamplingParams(**{name: value})


def test_sampling_given_numbers_of_numpy_has_pythons():
    params = SamplingParams(max_new_tokens=np.int64(5), temperature=np.float32(0.5), top_k=np.int32(3))
    assert params == SamplingParams(max_new_tokens=5, temperature=0.5, top_k=3)
    assert [type(value) for value in (params.max_new_tokens, params.temperature)] == [int, float]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TextGeneration(LLM, num_generations=None), r"TextGeneration\.num_generations is None"),
        (lambda: TextGeneration(LLM, num_generations="2"), r"TextGeneration\.num_generations is '2'"),
        (
            lambda: TextGeneration(LLM, sampling={"top_k": 5}),
            r"\.sampling is .*SamplingParams\(\.\.\.\)",
        ),
        (lambda: TextGeneration(LLM, sampling=None), r"TextGeneration\.sampling is None"),
        (lambda: TextGeneration(LLM, template=5), r"TextGeneration\.template is 5; it must be text or None"),
        (lambda: TextGeneration(LLM, system_prompt=["a"]), r"TextGeneration\.system_prompt is \['a'\]"),
        (lambda: TextGeneration(LLM, seed=None), r"TextGeneration\.seed is None; it must be a whole number"),
        (lambda: TextGeneration(LLM, keep_thinking="no"), r"TextGeneration\.keep_thinking is 'no'; it must be True"),
        (lambda: Novelty(threshold=NAN), r"Novelty\.threshold is nan"),
        (lambda: Where("x", minimum=True), r"Where\.minimum is True; it must be a number or None"),
        (lambda: Where(None, minimum=1), r"Where\.column is None; it must be text"),
        (lambda: RewardModel("x", batch_size="8"), r"RewardModel\.batch_size is '8'"),
        (lambda: TransformersLLM("x", batch_size=True), r"TransformersLLM\.batch_size is True"),
        (lambda: TransformersLLM(None), r"TransformersLLM\.model is None; it must be text"),
    ],
)
def test_field_given_another_type_is_an_error_that_names_it(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_path_where_text_belongs_is_its_text():
    assert TransformersLLM(Path("models") / "mine").model == "models/mine"


@dataclass(frozen=True)
class Own:
    """As a user's technique may have its fields."""

    pair: tuple[int, int] = (1, 2)
    anything: Any = None
    unresolved: "NowhereDefined" = None  # noqa: F821
    named: Mapping[str, str] = field(default_factory=dict)


def test_annotations_without_a_rule_are_left_to_the_class():
    settle_fields(Own(pair=[1, 2], anything=object(), unresolved=3))
    with pytest.raises(ValueError, match=r"Own\.named is 'x'"):
        settle_fields(Own(named="x"))
