import functools

import pytest
from datasets import Dataset, Features, Value

from hfsynth import ColumnError, Deduplicate, EchoLLM, EvolInstruct, TextGeneration
from hfsynth.step import FunctionStep, as_step

TEXTS = Features({"instruction": Value("string")})


def only_long(dataset):
    return dataset.filter(lambda row: len(row["instruction"]) > 3)


def no_dataset(dataset):
    return ["a"]


def test_as_step_of_a_function_has_its_name():
    assert as_step(only_long) == FunctionStep(only_long)
    assert as_step(only_long).name == "only_long"


def test_as_step_of_a_step_is_the_same_step():
    step = TextGeneration(EchoLLM(), name="answers")
    assert as_step(step) is step


@pytest.mark.parametrize(
    "step", ["magpie", lambda dataset: dataset, functools.partial(only_long), TextGeneration, None]
)
def test_as_step_of_a_value_without_a_name_raises(step):
    with pytest.raises(TypeError) as caught:
        as_step(step)
    assert repr(step) in str(caught.value)


def test_function_fingerprint_changes_with_the_code():
    names = [{}, {}]
    for own, limit in zip(names, (3, 4), strict=True):
        exec(f"def keep(dataset): return dataset.select(range({limit}))", own)
    first, second = (FunctionStep(own["keep"]) for own in names)
    assert first.fingerprint() != second.fingerprint()
    assert as_step(only_long).fingerprint() == as_step(only_long).fingerprint()


def test_function_split_of_a_list_raises():
    with pytest.raises(TypeError, match="list"):
        as_step(no_dataset).split(Dataset.from_dict({"a": [1]}))


def test_function_renamed_keeps_its_name():
    assert as_step(only_long).renamed("other").name == "only_long"


def test_features_after_a_function_are_unknown():
    assert as_step(only_long).features_after(TEXTS, 1) is None
    assert TextGeneration(EchoLLM()).features_after(None, 2) is None


def test_features_after_a_technique_have_its_outputs():
    after = TextGeneration(EchoLLM()).features_after(TEXTS, 1)
    assert list(after) == ["instruction", "generation", "generation_metadata"]


def test_features_after_a_filter_are_unchanged():
    assert Deduplicate().features_after(TEXTS, 1) == TEXTS


@pytest.mark.parametrize("step", [TextGeneration(EchoLLM()), Deduplicate()])
def test_features_after_names_the_step_of_a_missing_column(step):
    with pytest.raises(ColumnError, match=rf"step 7, {step.name}.*'instruction'.*\['prompt'\]"):
        step.features_after(Features({"prompt": Value("string")}), 7)


def test_node_of_a_technique_has_its_columns_and_model():
    node = TextGeneration(EchoLLM(), output_mappings={"generation": "reply"}).node(["instruction", "id"])
    assert (node.name, node.model, node.reads, node.makes) == ("TextGeneration", "echo", ("instruction",), ("reply",))


@pytest.mark.parametrize("step", [Deduplicate(), FunctionStep(only_long)])
def test_node_of_a_dataset_step_passes_all_columns(step):
    node = step.node(["instruction", "id"])
    assert (node.model, node.reads, node.makes) == ("", ("instruction", "id"), None)


def test_newer_columns_use_the_datasets_names():
    evolve = EvolInstruct(EchoLLM(), input_mappings={"instruction": "q"}, output_mappings={"evolved_instruction": "e"})
    assert evolve.newer_columns() == {"q": "e"}
    assert evolve.default_inputs() == []
    assert Deduplicate().newer_columns() == {}


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "a\nb", "~", "x" * 400])
def test_folder_name_is_no_path(name):
    folder = TextGeneration(EchoLLM(), name=name).folder_name
    assert folder not in ("", ".", "..")
    assert "/" not in folder
    assert len(folder) <= 100
