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
from hfsynth.recipe import build_step, check_trusted, read_recipe, write_recipe
from tests.helpers import NamedLLM


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
def test_from_yaml_restores_every_field(technique):
    pipeline = Pipeline((technique,))
    assert [step.to_json() for step in Pipeline.from_yaml(pipeline.to_yaml()).steps] == [technique.to_json()]


def test_to_yaml_has_prompts_as_blocks():
    text = Pipeline((TextGeneration(EchoLLM(), template="Two\nlines: {{ a }}"),)).to_yaml()
    assert "      Two\n      lines: {{ a }}" in text.replace("    Two\n    lines", "      Two\n      lines")
    assert yaml.safe_load(text)["steps"][0]["sampling"]["temperature"] == 0.7


def test_to_yaml_has_the_source_of_a_function():
    text = (TextGeneration(EchoLLM()) >> long_enough).to_yaml()
    assert "return dataset" in yaml.safe_load(text)["steps"][1]["source"]
    assert Pipeline.from_yaml(text, long_enough).steps[1].function is long_enough
    with pytest.raises(ValueError, match="'long_enough'"):
        Pipeline.from_yaml(text)


def test_from_yaml_needs_own_classes():
    text = Pipeline((TextGeneration(NamedLLM()),)).to_yaml()
    assert Pipeline.from_yaml(text, NamedLLM).steps[0].llm == NamedLLM()
    with pytest.raises(ValueError, match="'NamedLLM'"):
        Pipeline.from_yaml(text)


def test_from_yaml_of_an_older_class_raises(monkeypatch):
    text = Pipeline((TextGeneration(EchoLLM()),)).to_yaml()
    monkeypatch.setattr(TextGeneration, "version", 99)
    with pytest.raises(ValueError, match=r"TextGeneration.* version \d.* version 99"):
        Pipeline.from_yaml(text)


def test_recipe_without_a_version_names_the_one_to_write():
    """Who writes a recipe by hand doesn't know of versions; what the error advises builds."""
    recipe = "steps:\n- __class__: {}\n  llm:\n    __class__: EchoLLM\n"
    named = f"TextGeneration/{TextGeneration.version}"
    with pytest.raises(ValueError, match=f"write {named} in a recipe"):
        Pipeline.from_yaml(recipe.format("TextGeneration"))
    assert Pipeline.from_yaml(recipe.format(named)).steps[0].name == "TextGeneration"


def test_from_yaml_restores_filters():
    chain = (
        Novelty(texts=("a",), threshold=0.5) >> Deduplicate("minhash") >> Deduplicate() >> TextGeneration(EchoLLM())
    )
    restored = Pipeline.from_yaml(chain.to_yaml())
    assert restored == chain
    assert [step.name for step in restored.steps] == ["Novelty", "Deduplicate", "Deduplicate_2", "TextGeneration"]


def test_to_yaml_leaves_out_the_path_of_a_model(tmp_path):
    (tmp_path / "my-model").mkdir()
    text = Pipeline((TextGeneration(TransformersLLM(str(tmp_path / "my-model"))),)).to_yaml()
    assert str(tmp_path) not in text
    restored = Pipeline.from_yaml(text, model=str(tmp_path / "my-model"))
    assert restored.steps[0].llm.model == str(tmp_path / "my-model")


def test_write_recipe_has_the_chunk_size():
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
def test_from_yaml_of_a_text_that_is_no_recipe_raises(text):
    with pytest.raises(ValueError, match="recipe"):
        Pipeline.from_yaml(text)


@pytest.mark.parametrize("name", ["SamplingParams", "split_failures", "Pipeline", "EchoLLM"])
def test_build_step_of_a_class_that_is_no_step_raises(name):
    with pytest.raises((ValueError, TypeError)):
        build_step({"__class__": name}, public_names())


def test_build_step_of_an_unknown_field_raises():
    with pytest.raises(ValueError, match=r"EchoLLM .*'shout'"):
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
def test_read_recipe_of_a_text_that_is_no_recipe_raises(text):
    with pytest.raises(ValueError, match="recipe"):
        read_recipe(text)


def test_read_recipe_takes_anchors_that_share_a_model():
    text = "steps:\n- {__class__: TextGeneration, llm: &llm {__class__: EchoLLM}}\n- {__class__: Magpie, llm: *llm}"
    assert [step["llm"] for step in read_recipe(text)[0]] == [{"__class__": "EchoLLM"}] * 2


@pytest.mark.parametrize("name", ["split_failures", "save", "push_to_hub", "os.system", "EchoLLM", ["a"], None])
def test_build_step_of_a_function_of_hfsynth_raises(name):
    with pytest.raises(ValueError, match="the recipe names"):
        build_step({"function": name}, public_names())


def test_from_yaml_takes_aliases_of_an_llm():
    text = """
steps:
- {__class__: TextGeneration/V, llm: &llm {__class__: EchoLLM}}
- {__class__: TextGeneration/V, llm: *llm, output_mappings: {generation: b}}
"""
    version = "" if TextGeneration.version == 1 else f"/{TextGeneration.version}"
    assert len(Pipeline.from_yaml(text.replace("/V", version)).steps) == 2


def addressed(url):
    return [{"__class__": "TextGeneration", "llm": {"__class__": "OpenAILLM", "model": "m", "base_url": [url]}}]


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "http://127.0.0.1/v1", "http://[::1]:80/v1"])
def test_check_trusted_own_machine_passes(url):
    check_trusted(addressed(url), None)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/v1", "http://localhost@example.com/v1", "HTTPS://example.com/v1", "http://localhost.co/v1"],
)
def test_check_trusted_other_machine_must_be_named(url, monkeypatch):
    """A recipe of somebody else would have the user's key sent there."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL"):
        check_trusted(addressed(url), "named")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    check_trusted(addressed(url), None)


def test_check_trusted_code_of_a_model_needs_its_name():
    steps = [{"llm": {"__class__": "TransformersLLM/2", "model": "user/m", "trust_remote_code": True}}]
    with pytest.raises(ValueError, match="--model"):
        check_trusted(steps, None)
    check_trusted(steps, "user/m")
