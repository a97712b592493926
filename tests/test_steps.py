import functools

import pytest
from datasets import Features, Value

from hfsynth import EchoLLM, TextGeneration
from hfsynth.step import features_after, folder_name, step_hash, step_name


def only_long(dataset):
    return dataset.filter(lambda row: len(row["instruction"]) > 3)


def test_a_step_is_named_by_its_technique_or_function():
    assert step_name(TextGeneration(EchoLLM(), name="answers")) == "answers"
    assert step_name(only_long) == "only_long"


@pytest.mark.parametrize(
    "step", ["magpie", lambda dataset: dataset, functools.partial(only_long), TextGeneration, None]
)
def test_what_has_no_name_is_no_step(step):
    with pytest.raises(
        TypeError, match="a pipeline's step is a technique, a filter or a named function of a dataset, not"
    ):
        step_name(step)


def test_a_functions_hash_changes_with_its_source_though_its_name_stays():
    names = [{}, {}]
    for own, limit in zip(names, (3, 4), strict=True):
        exec(f"def keep(dataset): return dataset.select(range({limit}))", own)
    assert step_hash(names[0]["keep"]) != step_hash(names[1]["keep"])
    assert step_hash(only_long) == step_hash(only_long)


def test_what_a_function_makes_is_not_known_before_it_has_run():
    features = Features({"instruction": Value("string")})
    assert features_after(only_long, 1, features) is None
    assert features_after(TextGeneration(EchoLLM()), 2, None) is None
    assert "generation" in features_after(TextGeneration(EchoLLM()), 1, features)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "a\nb", "~", "x" * 400])
def test_a_step_name_becomes_no_path(name):
    folder = folder_name(TextGeneration(EchoLLM(), name=name))
    assert folder not in ("", ".", "..")
    assert "/" not in folder
    assert len(folder) <= 100
