"""Write the pipelines and class names of this folder with distilabel itself.

pip install distilabel==1.5.3 requests && python tests/distilabel/write_pipelines.py
"""

import inspect
import json
from pathlib import Path

import distilabel.models.llms as llms
import distilabel.steps as steps
from distilabel.pipeline import Pipeline
from distilabel.steps import tasks

MODEL = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
FOLDER = Path(__file__).parent
ABSTRACT = {
    "LLM", "AsyncLLM", "CudaDevicePlacementMixin", "Task", "GeneratorTask", "ImageTask", "Step", "GeneratorStep",
    "GlobalStep", "StepResources",
}  # fmt: skip
SETTINGS = {"max_new_tokens": 256, "temperature": 0.7, "top_p": 0.9}


def instructions():
    load = steps.LoadDataFromDicts(data=[{"text": "Sourdough rises because of wild yeast."}])
    llm = llms.TransformersLLM(model=MODEL, generation_kwargs=SETTINGS)
    self_instruct = tasks.SelfInstruct(llm=llm, num_instructions=3, input_mappings={"input": "text"})
    expand = steps.ExpandColumns(columns={"instructions": "instruction"})
    evolve = tasks.EvolInstruct(llm=llm, num_evolutions=2)
    answer = tasks.TextGeneration(
        llm=llm,
        input_mappings={"instruction": "evolved_instruction"},
        output_mappings={"generation": "response"},
        system_prompt="Be brief.",
    )
    keep = steps.KeepColumns(columns=["instruction", "evolved_instruction", "response", "model_name"])
    push = steps.PushToHub(repo_id="user/sourdough", private=True)
    load >> self_instruct >> expand >> evolve >> answer >> keep >> push


def magpie():
    llm = llms.TransformersLLM(model=MODEL, magpie_pre_query_template="qwen2", generation_kwargs=SETTINGS)
    prompts = {"maths": ("You teach maths.", 0.7), "law": ("You advise on law.", 0.3)}
    generate = tasks.MagpieGenerator(
        llm=llm, n_turns=2, num_rows=100, system_prompt=prompts, include_system_prompt=True
    )
    generate >> steps.FormatChatGenerationSFT(input_mappings={"messages": "conversation"})


def preferences():
    load = steps.LoadDataFromHub(
        repo_id="user/prompts", config="en", split="test", num_examples=50, output_mappings={"prompt": "instruction"}
    )
    endpoint = llms.InferenceEndpointsLLM(
        model_id=MODEL, tokenizer_id=MODEL, generation_kwargs={"max_new_tokens": 512}
    )
    vllm = llms.vLLM(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        extra_kwargs={"max_model_len": 4096},
        generation_kwargs={"temperature": 0.7, "stop": ["###"], "repetition_penalty": 1.1},
    )
    answers = [tasks.TextGeneration(llm=endpoint), tasks.TextGeneration(llm=vllm)]
    group = steps.GroupColumns(
        columns=["generation", "model_name"], output_columns=["generations", "generation_models"]
    )
    rate = tasks.UltraFeedback(aspect="overall-rating", llm=llms.OpenAILLM(model="gpt-4o-mini", api_key="none"))
    load >> answers >> group >> rate >> steps.FormatTextGenerationDPO()


def templates():
    load = steps.LoadDataFromHub(repo_id="user/prompts")
    llm = llms.TransformersLLM(model=MODEL, torch_dtype="bfloat16", generation_kwargs={"do_sample": False})
    answer = tasks.TextGeneration(
        llm=llm,
        num_generations=3,
        group_generations=True,
        template="{{ question }} {{ hint }}",
        columns=["question", "hint"],
    )
    rate = tasks.UltraFeedback(
        aspect="helpfulness", llm=llm, input_mappings={"instruction": "question", "generations": "generation"}
    )
    drop = steps.MinHashDedup(input_mappings={"text": "question"})
    load >> answer >> rate >> drop


def ranking():
    load = steps.LoadDataFromDicts(data=[{"instruction": "Name a tree."}])
    llm = llms.TransformersLLM(model=MODEL, generation_kwargs=SETTINGS)
    answer = tasks.TextGeneration(
        llm=llm, num_generations=2, group_generations=True, output_mappings={"generation": "generations"}
    )
    rate = tasks.UltraFeedback(aspect="instruction-following", llm=llm)
    keep = steps.KeepColumns(columns=["prompt", "chosen", "rejected", "chosen_rating"])
    load >> answer >> rate >> steps.FormatTextGenerationDPO() >> keep


def ratings():
    load = steps.LoadDataFromDicts(data=[{"instruction": "Name a tree."}])
    llm = llms.TransformersLLM(model=MODEL, generation_kwargs=SETTINGS)
    answers = [tasks.TextGeneration(llm=llm, name="first"), tasks.TextGeneration(llm=llm, name="second")]
    group = steps.GroupColumns(columns=["generation"], output_columns=["generations"])
    rate = tasks.UltraFeedback(aspect="honesty", llm=llm)
    load >> answers >> group >> rate >> steps.KeepColumns(columns=["generations", "ratings", "rationales"])


def names(module):
    found = {name: getattr(module, name) for name in module.__all__}
    classes = {name for name, cls in found.items() if inspect.isclass(cls) and hasattr(cls, "model_fields")}
    return sorted(classes - ABSTRACT)


for build in (instructions, magpie, preferences, templates, ranking, ratings):
    with Pipeline(build.__name__) as pipeline:
        build()
    pipeline.save(FOLDER / f"{build.__name__}.yaml", format="yaml")
by_kind = {"tasks": names(tasks), "llms": names(llms), "steps": names(steps)}
(FOLDER / "names.json").write_text(json.dumps(by_kind, indent=1) + "\n")
