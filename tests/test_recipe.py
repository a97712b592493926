import pytest
import yaml

from hfsynth import (
    Deduplicate,
    EchoLLM,
    EvolInstruct,
    InstructionFollowingDifficulty,
    Judge,
    Magpie,
    Novelty,
    Pipeline,
    Reward,
    RewardModel,
    SamplingParams,
    SelfInstruct,
    TextGeneration,
    TransformersLLM,
)
from hfsynth.pipeline import public_names
from hfsynth.recipe import build_step, read_recipe, write_recipe
from tests.helpers import ScriptedLLM


def long_enough(dataset):
    return dataset


@pytest.mark.parametrize(
    "technique",
    [
        TextGeneration(EchoLLM(), template="Say\n{{ a }}!", sampling=SamplingParams(stop=("\n", "x"), min_p=0.1)),
        SelfInstruct(EchoLLM(), num_instructions=3, output_mappings={"instruction": "question"}),
        EvolInstruct(EchoLLM(), mutation_templates={"harder": "Make it harder: {{ instruction }}"}, seed=3),
        Judge(
            EchoLLM(), choices=("a", "b"), pre_questions={"why": "Why?"}, pre_answer_sampling=SamplingParams(top_k=3)
        ),
        InstructionFollowingDifficulty(EchoLLM(), seed=2),
        Reward(RewardModel("user/rewarder", revision="v2", batch_size=4), output=1),
        Magpie(TransformersLLM("user/model", revision="v1"), system_prompt={"class": ("You teach.", 2), "b": "x"}),
    ],
    ids=lambda technique: technique.name,
)
def test_a_technique_comes_back_from_its_recipe_with_every_field(technique):
    pipeline = Pipeline((technique,))
    assert [step.to_json() for step in Pipeline.from_yaml(pipeline.to_yaml()).steps] == [technique.to_json()]


def test_a_recipe_reads_as_yaml_with_its_prompts_as_they_read():
    text = Pipeline((TextGeneration(EchoLLM(), template="Two\nlines: {{ a }}"),)).to_yaml()
    assert "      Two\n      lines: {{ a }}" in text.replace("    Two\n    lines", "      Two\n      lines")
    assert yaml.safe_load(text)["steps"][0]["sampling"]["temperature"] == 0.7


def test_a_function_is_told_with_its_source_and_must_be_given_to_make_it_again():
    text = (TextGeneration(EchoLLM()) >> long_enough).to_yaml()
    assert "return dataset" in yaml.safe_load(text)["steps"][1]["source"]
    assert Pipeline.from_yaml(text, long_enough).steps[1].function is long_enough
    with pytest.raises(ValueError, match="names 'long_enough', a function that hfsynth doesn't have"):
        Pipeline.from_yaml(text)


def test_a_class_of_ones_own_must_be_given_too():
    text = Pipeline((TextGeneration(ScriptedLLM()),)).to_yaml()
    assert Pipeline.from_yaml(text, ScriptedLLM).steps[0].llm == ScriptedLLM()
    with pytest.raises(ValueError, match="names 'ScriptedLLM', a class"):
        Pipeline.from_yaml(text)


def test_a_recipe_of_another_version_of_a_class_is_an_error(monkeypatch):
    text = Pipeline((TextGeneration(EchoLLM()),)).to_yaml()
    monkeypatch.setattr(TextGeneration, "version", 99)
    with pytest.raises(ValueError, match=r"TextGeneration.* version \d.* version 99"):
        Pipeline.from_yaml(text)


def test_filters_are_part_of_a_recipe_and_of_a_chain():
    chain = (
        Novelty(texts=("a",), threshold=0.5) >> Deduplicate("minhash") >> Deduplicate() >> TextGeneration(EchoLLM())
    )
    again = Pipeline.from_yaml(chain.to_yaml())
    assert again == chain
    assert [step.name for step in again.steps] == ["Novelty", "Deduplicate", "Deduplicate_2", "TextGeneration"]


def test_where_a_models_folder_lies_is_not_told(tmp_path):
    (tmp_path / "my-model").mkdir()
    text = Pipeline((TextGeneration(TransformersLLM(str(tmp_path / "my-model"))),)).to_yaml()
    assert str(tmp_path) not in text
    again = Pipeline.from_yaml(text, model=str(tmp_path / "my-model"))
    assert again.steps[0].llm.model == str(tmp_path / "my-model")


def test_the_chunk_size_is_part_of_a_recipe_that_was_run():
    steps, chunk_size = read_recipe(write_recipe([TextGeneration(EchoLLM()).describe()], 64))
    assert (len(steps), chunk_size) == (1, 64)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [" + f"*a{n - 1}, " * 9 + "x]\n" for n in range(1, 9))
NO_RECIPES = {
    "open": "a: [",
    "list": "[]",
    "items": "- 1",
    "null": "null",
    "text": "hello",
    "number": "3",
    "no list": "steps: 3",
    "no mappings": "steps: [3]",
    "empty": "",
    "object": "!!python/object/apply:os.system [ls]",
    "aliases": LAUGHS + "steps: *a8",
    "merges": "a: &a {x: 1}\nb: &b [*a, *a]\nsteps: [*b, 1]",
    "nested": "steps: " + "[" * 5_000,
    "long": "steps: []\n#" + "x" * 4_100_000,
    "long number": "steps: " + "1" * 20_000,
    "date": "steps: [2024-99-99]",
    "chunk size": "chunk_size: x\nsteps: []",
}


@pytest.mark.parametrize("text", NO_RECIPES.values(), ids=NO_RECIPES.keys())
def test_what_is_no_recipe_is_an_error_that_shows_it(text):
    with pytest.raises(ValueError, match="recipe"):
        Pipeline.from_yaml(text)


@pytest.mark.parametrize("name", ["SamplingParams", "split_failures", "Pipeline", "EchoLLM"])
def test_a_recipe_can_make_nothing_but_steps(name):
    with pytest.raises((ValueError, TypeError)):
        build_step({"__class__": name}, public_names())


def test_a_field_that_the_class_does_not_have_is_an_error():
    with pytest.raises(ValueError, match="EchoLLM has no field 'shout'"):
        build_step({"__class__": "EchoLLM", "shout": 1}, public_names())


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "[]", "", "null", "3", "steps", "- a\n- b", "steps:", "steps: []", "steps: [1]", "steps: [[]]", "{a: 1}",
        "steps: [{function: f}]\nchunk_size: many", "a: [", "&a [*a]", "a: &a {b: *a}", "!!python/name:os.system",
        BOMB, "[" * 5_000, "{a: " * 60 + "1" + "}" * 60, "a: " + "x" * 1_000_001,
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_read_recipe_of_no_recipe_is_a_value_error(text):
    with pytest.raises(ValueError, match="recipe"):
        read_recipe(text)


def test_read_recipe_takes_anchors_that_share_a_model():
    text = "steps:\n- {__class__: TextGeneration, llm: &llm {__class__: EchoLLM}}\n- {__class__: Magpie, llm: *llm}"
    assert [step["llm"] for step in read_recipe(text)[0]] == [{"__class__": "EchoLLM"}] * 2


@pytest.mark.parametrize("name", ["split_failures", "save", "push_to_hub", "os.system", "EchoLLM", ["a"], None])
def test_a_recipe_takes_no_function_but_the_users(name):
    with pytest.raises(ValueError, match="the recipe names"):
        build_step({"function": name}, public_names())


def test_a_recipe_may_share_an_llm_by_an_alias():
    text = """
steps:
- {__class__: TextGeneration/V, llm: &llm {__class__: EchoLLM}}
- {__class__: TextGeneration/V, llm: *llm, output_mappings: {generation: b}}
"""
    version = "" if TextGeneration.version == 1 else f"/{TextGeneration.version}"
    assert len(Pipeline.from_yaml(text.replace("/V", version)).steps) == 2
