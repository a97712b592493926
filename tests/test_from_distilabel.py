"""`scripts/from_distilabel.py` on pipelines that distilabel 1.5.3 wrote (`tests/distilabel/write_pipelines.py`)."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

import hfsynth
from hfsynth import VLLM, EchoLLM, OpenAILLM, Pipeline, SamplingParams, ScriptedLLM, Technique
from hfsynth.recipe import read_recipe
from tests.test_scripts import SCRIPTS, script

SAVED = Path(__file__).parent / "distilabel"
SPEC = importlib.util.spec_from_file_location("from_distilabel", SCRIPTS / "from_distilabel.py")
converter = importlib.util.module_from_spec(SPEC)
sys.modules["from_distilabel"] = converter
SPEC.loader.exec_module(converter)


def translation(name):
    return converter.translate(converter.read_nodes((SAVED / f"{name}.yaml").read_text()))


def functions(result):
    names = {"Dataset": Dataset}
    for code in result.functions.values():
        exec(code, names)
    return [names[name] for name in result.functions]


def echo_pipeline(result):
    """Return the recipe's pipeline with an llm that needs no model."""
    steps = Pipeline.from_yaml(result.recipe(), *functions(result)).steps
    return Pipeline(replace(step, llm=EchoLLM()) if hasattr(step, "llm") else step for step in steps)


def advice_on(result, name):
    return [text for text in result.advice if text.startswith((f"{name}:", f"{name} "))]


def test_instructions_become_a_recipe_that_runs():
    result = translation("instructions")
    first, evolve, answer, _ = Pipeline.from_yaml(result.recipe(), *functions(result)).steps
    assert first.llm.model == "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    assert (first.num_instructions, first.one_row_each, first.input_mappings) == (3, True, {"input": "text"})
    assert first.sampling == SamplingParams(max_new_tokens=256, temperature=0.7, top_p=0.9)
    assert (evolve.num_evolutions, evolve.seed) == (2, 42)
    assert "<PROMPT>" not in "".join(evolve.mutation_templates.values())
    assert (answer.system_prompt, answer.output_mappings) == ("Be brief.", {"generation": "response"})
    rows = echo_pipeline(result).run(Dataset.from_dict({"text": ["Tea is a plant."]}), quiet=True)
    assert rows.column_names == ["instruction", "evolved_instruction", "response", "generation_metadata"]
    assert result.flags == ["--dataset", "rows.jsonl", "--push-to-hub", "user/sourdough", "--private"]
    assert "rows.jsonl" in advice_on(result, "load_data_from_dicts_0")[0]


def test_magpie_keeps_turns_prompts_and_column():
    result = translation("magpie")
    magpie, _ = Pipeline.from_yaml(result.recipe()).steps
    assert magpie.n_turns == 2
    assert magpie.system_prompt == {"maths": ("You teach maths.", 0.7), "law": ("You advise on law.", 0.3)}
    assert magpie.answer_with_system_prompt
    assert magpie.instruction_sampling == SamplingParams(max_new_tokens=256, temperature=0.7, top_p=0.9)
    assert result.flags == ["--num-rows", "100"]
    rows = echo_pipeline(result).run(num_rows=2, quiet=True)
    assert [turn["role"] for turn in rows["messages"][0]] == ["system", *["user", "assistant"] * 2]


def test_branches_become_judges_in_a_chain():
    result = translation("preferences")
    rename, first, second, *others = echo_pipeline(result).steps
    pipeline = Pipeline((rename, first, replace(second, llm=ScriptedLLM(["A fig."])), *others))
    rows = pipeline.run(Dataset.from_dict({"prompt": ["Name a fruit."]}), quiet=True)
    ratings = rows["ratings"][0]
    assert set(ratings) <= set("12345")
    chosen = ("Name a fruit.", "A fig.")[ratings.index(max(ratings))]
    assert rows["chosen"][0] == [{"role": "assistant", "content": chosen}]
    assert {"prompt", "chosen", "rejected"} <= set(rows.column_names)
    assert result.flags == ["--dataset", "user/prompts", "--config", "en", "--split", "test", "--max-rows", "50"]


def test_llms_become_clients_and_engines():
    result = translation("preferences")
    steps = Pipeline.from_yaml(result.recipe(), *functions(result)).steps
    endpoint, vllm, judge, _ = (step.llm for step in steps if isinstance(step, Technique))
    assert (type(endpoint), endpoint.model) == (OpenAILLM, "HuggingFaceTB/SmolLM2-1.7B-Instruct")
    assert endpoint.base_url == ("https://router.huggingface.co/v1",)
    assert (type(vllm), vllm.engine_kwargs) == (VLLM, {"max_model_len": 4096})
    assert (type(judge), judge.model, judge.tokenizer) == (OpenAILLM, "gpt-4o-mini", None)
    assert [text for text in advice_on(result, "ultra_feedback_0_generation") if "tokenizer" in text]


def test_settings_without_an_equal_are_named():
    advice = advice_on(translation("preferences"), "text_generation_1")
    assert [text for text in advice if "repetition_penalty" in text]
    assert [text for text in advice if "vLLM" in text]
    assert [text for text in advice if "max_new_tokens" in text and "128" in text]


def test_template_and_rating_of_several_generations():
    result = translation("templates")
    answer, rate = Pipeline.from_yaml(result.recipe()).steps
    assert (answer.template, answer.num_generations) == ("{{ question }} {{ hint }}", 3)
    assert (answer.sampling.temperature, answer.llm.dtype) == (0.0, "bfloat16")
    rows = echo_pipeline(result).run(Dataset.from_dict({"question": ["Why?"], "hint": ["Tea."]}), quiet=True)
    assert (len(rows), rows[0]["generation"], rows[0]["rating"] in "12345") == (3, "Why? Tea.", True)
    assert rate.input_mappings == {"instruction": "question", "response": "generation"}
    assert "Deduplicate" in advice_on(result, "min_hash_dedup_0")[0]


def test_pairs_of_generations_keep_their_columns():
    result = translation("ranking")
    assert [text for text in advice_on(result, "keep_columns_0") if "'chosen_rating'" in text]
    answer, judge, *others = echo_pipeline(result).steps
    answer = replace(answer, llm=ScriptedLLM(["Oak.", "Elm."]))
    judge = replace(judge, llm=ScriptedLLM(["Good.", "Bad.", "2", "4"]))
    rows = Pipeline((answer, judge, *others)).run(Dataset.from_dict({"instruction": ["Name a tree."]}), quiet=True)
    assert rows.column_names == ["prompt", "chosen", "rejected", "generation_metadata"]
    assert [rows[0][name][0]["content"] for name in ("chosen", "rejected")] == ["Elm.", "Oak."]


def test_kept_ratings_are_those_of_each_response():
    rows = Dataset.from_dict({"instruction": ["Name a tree."]})
    rows = echo_pipeline(translation("ratings")).run(rows, quiet=True)
    ratings = ["rating_generation", "rating_generation_second"]
    rationales = ["rationale_generation", "rationale_generation_second"]
    expected = ["generation", "generation_second", *ratings, *rationales, "generation_metadata"]
    assert rows.column_names == expected


def test_own_mutation_templates_are_kept():
    saved = yaml.load((SAVED / "instructions.yaml").read_text(), converter._Loader)
    step = next(one["step"] for one in saved["pipeline"]["steps"] if one["name"] == "evol_instruct_0")
    step["mutation_templates"] = {"SHORTER": "Shorten this: <PROMPT>"}
    evolve = converter.translate(converter.read_nodes(yaml.safe_dump(saved))).steps[1]
    assert evolve.mutation_templates == {"SHORTER": "Shorten this: {{ instruction }}"}


def changed(name, kind, **values):
    """Return the translation of a saved pipeline in which the steps of a kind have other values."""
    saved = yaml.load((SAVED / f"{name}.yaml").read_text(), converter._Loader)
    for entry in saved["pipeline"]["steps"]:
        if entry["step"]["type_info"]["name"] == kind:
            entry["step"].update(values)
    return converter.translate(converter.read_nodes(yaml.safe_dump(saved)))


def test_only_the_default_of_split_is_left_out():
    result = changed("templates", "LoadDataFromHub", config="train", split="train", revision="train", num_examples=0)
    flags = ["--config", "train", "--dataset-revision", "train", "--max-rows", "0"]
    assert result.flags == ["--dataset", "user/prompts", *flags]
    saved = yaml.load((SAVED / "templates.yaml").read_text(), converter._Loader)
    llm = next(one["step"]["llm"] for one in saved["pipeline"]["steps"] if "llm" in one["step"])
    answer = changed("templates", "TextGeneration", llm={**llm, "revision": "auto"}).steps[0]
    assert (answer.llm.revision, answer.llm.device_map) == ("auto", None)


HOSTILE = "x(dataset):\n    pass\nraise SystemExit\ndef y"


@pytest.mark.parametrize("name", ["keep-columns", "class", "2nd", "Judge", "Dataset", "ﬁ", HOSTILE])
def test_step_of_any_name_becomes_one_function(name):
    text = (SAVED / "instructions.yaml").read_text().replace("keep_columns_0", json.dumps(name))
    result = converter.translate(converter.read_nodes(text))
    (function,) = functions(result)
    assert function.__name__ in result.functions
    assert len(echo_pipeline(result).steps) == 4
    assert not hasattr(hfsynth, function.__name__)


def test_steps_of_similar_names_become_two_functions():
    result = converter.Translation()
    for name in ("keep-columns", "keep_columns", "keep.columns"):
        result.add_function(name, "return dataset")
    assert list(result.functions) == ["keep_columns", "keep_columns_2", "keep_columns_3"]


def test_columns_of_any_name_stay_in_functions():
    column = "😀 '\"\\\n]) or exit()#"
    rows = Dataset.from_dict({"prompt": ["Why?"], "instruction": ["Why?"], "generation_metadata": ["{}"]})
    (rename, *_) = functions(changed("preferences", "LoadDataFromHub", output_mappings={"prompt": column}))
    (keep,) = functions(changed("instructions", "KeepColumns", columns=[column]))
    assert keep(rename(rows)).column_names == [column, "generation_metadata"]


@pytest.mark.parametrize("kind", ["tasks", "llms", "steps"])
def test_table_has_every_class_of_distilabel(kind):
    names = json.loads((SAVED / "names.json").read_text())[kind]
    section = converter.TABLE.read_text().split("\n## ")[1 + ["tasks", "llms", "steps"].index(kind)]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert [row[0].strip("|` ") for row in rows] == names
    assert {row[1] for row in rows} <= {"same", "other", "none"}


def test_command_writes_recipe_and_functions(tmp_path):
    process = script("from_distilabel", SAVED / "instructions.yaml", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert f"```text\n{process.stdout}```" in (SCRIPTS.parent / "README.md").read_text()
    assert len(read_recipe((tmp_path / "hfsynth.yaml").read_text())[0]) == 4
    assert "select_columns" in (tmp_path / "hfsynth_functions.py").read_text()


@pytest.mark.parametrize(("text", "message"), [("a: [", "not YAML"), ("steps: []", "'distilabel' and 'pipeline'")])
def test_other_file_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        converter.read_nodes(text)
