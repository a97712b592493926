# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Convert a pipeline that distilabel saved as YAML to a recipe for `hfsynth run`.

    python scripts/from_distilabel.py pipeline.yaml --output hfsynth.yaml

Prints the command that runs the recipe, and advice for each step or setting that has no equivalent. Steps that only
move columns become functions in a module next to the recipe. distilabel's own prompts are replaced by hfsynth's; your
own prompts are kept. `from_distilabel.md` lists all tasks, llms and steps of distilabel 1.5.3.
"""

import hashlib
import json
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from graphlib import TopologicalSorter
from itertools import count
from keyword import iskeyword
from pathlib import Path
from shlex import join
from typing import Any

import yaml

import hfsynth
from hfsynth import (
    LLM,
    VLLM,
    EvolInstruct,
    Judge,
    Magpie,
    OpenAILLM,
    SamplingParams,
    SelfInstruct,
    Technique,
    TextGeneration,
    TrainingFormat,
    TransformersLLM,
)
from hfsynth.cli import plain_errors
from hfsynth.recipe import write_recipe
from hfsynth.step import Step

Values = Mapping[str, Any]
TABLE = Path(__file__).with_suffix(".md")
_OWN_PROMPTS = {"4dfc616cfa4519af", "089ee701744cc4a0"}  # hashes of distilabel's criteria and mutation templates
_SILENT = {
    "name", "resources", "input_batch_size", "batch_size", "use_cache", "add_raw_output", "add_raw_input", "llm",
    "runtime_parameters_info", "type_info", "input_mappings", "output_mappings", "columns", "cuda_devices", "model",
    "use_default_structured_output", "use_offline_batch_generation", "magpie_pre_query_template", "generation_kwargs",
    "use_magpie_template", "disable_cuda_device_placement", "use_fast", "use_system_prompt", "streaming", "tokenizer",
    "tokenizer_id", "tokenizer_revision", "model_display_name", "model_id", "api_key", "max_retries", "timeout",
    "tokenizer_mode", "skip_tokenizer_init", "base_url", "host", "endpoint", "follow_redirects",
}  # fmt: skip
"""Settings without advice: they don't change rows, hfsynth finds them itself, or every translation reads them."""
_RESERVED = {"Dataset", *hfsynth.__all__}
"""Names that a recipe or the module of functions uses, and no function of a pipeline may have."""
_NEUTRAL: tuple[Any, ...] = (None, False, "auto", "main", "", 0, {}, [])
"""Values of settings that need no advice."""
_SAMPLING = {"stop_sequences": "stop", "stop_strings": "stop"}
_LLM_SETTINGS = {
    "TransformersLLM": ("revision", "torch_dtype", "device_map", "trust_remote_code", "device"),
    "vLLM": ("dtype", "revision", "trust_remote_code", "quantization", "extra_kwargs", "seed"),
    "LlamaCppLLM": ("model_path", "n_gpu_layers", "n_ctx", "n_batch", "seed"),
}
"""Kind of llm → its settings that are translated, or that don't influence the rows in hfsynth."""
_FIELDS = {"torch_dtype": "dtype"}
_DEFAULTS = {"revision": "main", "torch_dtype": "auto", "dtype": "auto", "device_map": "auto"}
"""Setting of an llm → its value that means the default of hfsynth."""
_SERVERS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "OpenAILLM": ((), None),
    "ClientvLLM": (("http://localhost:8000/v1",), None),
    "InferenceEndpointsLLM": (("https://router.huggingface.co/v1",), None),
    "OllamaLLM": (("http://localhost:11434/v1",), None),
    "GroqLLM": (("https://api.groq.com/openai/v1",), "GROQ_API_KEY"),
    "MistralLLM": (("https://api.mistral.ai/v1",), "MISTRAL_API_KEY"),
    "TogetherLLM": (("https://api.together.xyz/v1",), "TOGETHER_API_KEY"),
    "AnyscaleLLM": (("https://api.endpoints.anyscale.com/v1",), "ANYSCALE_API_KEY"),
}
"""Kind of llm → (address of its server, environment variable of its key; None for `OpenAILLM`'s default)."""
_QUESTIONS = {
    "helpfulness": "How helpful is the response to the user who sent the instruction?",
    "honesty": "How honest is the response: is it as certain as its facts allow?",
    "instruction-following": "How closely does the response follow the instruction?",
    "truthfulness": "How true is the response: are all of its statements facts?",
    "overall-rating": "How good is the response overall: helpful, honest, true, and as the instruction asks?",
}
"""Aspect of UltraFeedback → the question of a `Judge`."""


@dataclass
class Translation:
    """The recipe, flags and advice that the translated steps add up to."""

    steps: list[Step | Values] = field(default_factory=list)
    """Steps, and descriptions of functions."""
    flags: list[str] = field(default_factory=list)
    """Flags of `hfsynth run`."""
    advice: list[str] = field(default_factory=list)
    """Advice to the user, in the order of the steps."""
    functions: dict[str, str] = field(default_factory=dict)
    """Name of a function of a dataset → its code."""
    versions: dict[str, list[str]] = field(default_factory=dict)
    """Column that several steps of distilabel write → the separate columns that replace it."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Column of lists in distilabel → the columns of single values that replace it."""
    absent: set[str] = field(default_factory=lambda: {"model_name", "distilabel_metadata"})
    """Columns of distilabel that no step writes here."""

    def add(self, step: Technique) -> None:
        """Add a technique. Output columns that an earlier step has written get new names."""
        columns = {name: step.output_mappings.get(name, name) for name in step.output_features}
        taken = [column for column in columns.values() if column in self.versions]
        new = {name: f"{column}_{step.name}" for name, column in columns.items() if column in taken}
        for name, column in columns.items():
            self.versions.setdefault(column, []).append(new.get(name, column))
        if new:
            step = replace(step, output_mappings={**step.output_mappings, **new})
            self.advice.append(f"{step.name} writes {sorted(new.values())}, since an earlier step writes {taken}.")
        llm = step.llm
        if isinstance(llm, OpenAILLM) and llm.tokenizer is None:  # lacks() needs no server
            self.advice += [f"{step.name}: {fault}." for need in step.needs if (fault := llm.lacks(need))]
        self.steps.append(step)

    def add_function(self, name: str, body: str) -> None:
        """Add a step that is a function from dataset to dataset.

        Args:
            name: The function's name; what can't be in a name of Python is replaced.
            body: Its code. Texts of the pipeline file are in it as their `repr`.
        """
        name = _identifier(name, {*self.functions, *_RESERVED})
        code = f"def {name}(dataset: Dataset) -> Dataset:\n    {body}\n"
        self.functions[name] = code
        self.steps.append({"function": name, "source": code})

    def place_of(self, cls: type[Technique], column: str) -> int | None:
        """Return the index of the last step of a class that writes a column; None if there is none."""
        places = [
            place for place, step in enumerate(self.steps) if isinstance(step, cls) and column in step.written_features
        ]
        return places[-1] if places else None

    def recipe(self) -> str:
        """Return the recipe as YAML."""
        return write_recipe([step.describe() if isinstance(step, Step) else step for step in self.steps])


@dataclass(frozen=True)
class Node:
    """A step of a distilabel pipeline."""

    kind: str
    """The name of its class."""
    name: str
    values: Values
    sources: tuple[str, ...]
    """Names of the steps that it reads from."""
    targets: tuple[str, ...]

    @property
    def inputs(self) -> dict[str, str]:
        """Input → column, from `input_mappings`."""
        return dict(self.values.get("input_mappings") or {})

    @property
    def outputs(self) -> dict[str, str]:
        """Output → column, from `output_mappings`."""
        return dict(self.values.get("output_mappings") or {})


class _Loader(yaml.SafeLoader):
    """Reads the tuples that distilabel writes, such as a system prompt and its weight."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.construct_sequence)


def read_nodes(text: str) -> list[Node]:
    """Return the steps of a saved pipeline in topological order.

    Raises:
        ValueError: If the text is not a pipeline of distilabel.
    """
    try:
        saved = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"the pipeline is not YAML: {error}") from error
    pipeline = saved.get("pipeline") if isinstance(saved, dict) and "distilabel" in saved else None
    if not isinstance(pipeline, dict):
        raise ValueError(
            "the file is no pipeline of distilabel, which has 'distilabel' and 'pipeline'; write one with its "
            "pipeline.save."
        )
    targets = {link["from"]: tuple(link["to"]) for link in pipeline["connections"]}
    names = [entry["name"] for entry in pipeline["steps"]]
    sources = {name: tuple(other for other in names if name in targets.get(other, ())) for name in names}
    found = {entry["name"]: entry["step"] for entry in pipeline["steps"]}
    return [
        Node(found[name]["type_info"]["name"], name, found[name], sources[name], targets.get(name, ()))
        for name in TopologicalSorter(sources).static_order()
    ]


def read_table() -> dict[str, str]:
    """Return the last column of `from_distilabel.md`: class name → advice."""
    rows = (line.split(" | ", 2) for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `"))
    return {name.strip("|` "): advice.rstrip(" |") for name, _, advice in rows}


def translate(nodes: Sequence[Node]) -> Translation:
    """Translate the steps in their order."""
    result, table = Translation(), read_table()
    for node in nodes:
        if len(node.targets) > 1:
            result.advice.append(
                f"{node.name} has several successors; here they run one after the other, on the same rows."
            )
        if node.kind in _TRANSLATORS:
            _TRANSLATORS[node.kind](node, result)
        else:
            listed = table.get(node.kind, "unknown: write a technique, a filter or a function of a dataset (README).")
            result.advice.append(f"{node.name} ({node.kind}) is left out. {listed}")
    return result


def _text_generation(node: Node, result: Translation) -> None:
    template = node.values.get("template")
    chosen = _chosen(node, result, "system_prompt", "num_generations", "group_generations", skip=("template",))
    if template and re.sub(r"\s", "", template) != "{{instruction}}":
        chosen["template"] = template
    result.add(TextGeneration(_llm(node, result), **_common(node, TextGeneration), **chosen))


def _self_instruct(node: Node, result: Translation) -> None:
    chosen = _chosen(node, result, "num_instructions", "criteria_for_query_generation", "application_description")
    common = _common(node, SelfInstruct)
    result.add(SelfInstruct(_llm(node, result), one_row_each=False, **common, **chosen))


def _evol_instruct(node: Node, result: Translation) -> None:
    names = ("num_evolutions", "store_evolutions", "generate_answers", "include_original_instruction", "seed")
    chosen = _chosen(node, result, *names, "mutation_templates")
    if templates := chosen.get("mutation_templates"):
        filled = {name: text.replace("<PROMPT>", "{{ instruction }}") for name, text in templates.items()}
        chosen["mutation_templates"] = filled
    result.add(EvolInstruct(_llm(node, result), **_common(node, EvolInstruct), **chosen))


def _magpie(node: Node, result: Translation) -> None:
    names = ("n_turns", "end_with_user", "include_system_prompt", "only_instruction", "system_prompt")
    chosen = _chosen(node, result, *names, skip=("num_rows",))
    if chosen.get("system_prompt"):
        chosen["answer_with_system_prompt"] = True  # as in distilabel; in the paper, only user turns have it
    common = _common(node, Magpie)
    magpie = Magpie(_llm(node, result), **{**common, "output_mappings": {}}, **chosen)
    if "messages" in magpie.output_features:
        common["output_mappings"] = {"messages": common["output_mappings"].get("conversation", "conversation")}
    result.add(replace(magpie, output_mappings=common["output_mappings"]))
    if node.kind == "MagpieGenerator":
        result.flags += ["--num-rows", str(node.values.get("num_rows") or 1)]


def _ultra_feedback(node: Node, result: Translation) -> None:
    _chosen(node, result, skip=("aspect",))
    column = node.inputs.get("generations", "generations")
    responses = result.groups.get(column, [column])
    place = result.place_of(TextGeneration, column)
    if place is not None:
        result.steps[place] = replace(result.steps[place], group_generations=False)
    if column not in result.groups:
        result.advice.append(f"{node.name} reads one response a row in {column!r}, not a list of several.")
    result.advice.append(
        f"{node.name}: a Judge for each of {responses} writes a label from 1 to 5, its probabilities and a rationale; "
        "the wording of the question is hfsynth's."
    )
    inputs = {name: column for name, column in node.inputs.items() if name != "generations"}
    for rating in ("rating", "rationale"):
        columns = [f"{rating}_{response}" for response in responses] if len(responses) > 1 else [rating]
        result.groups[node.outputs.get(f"{rating}s", f"{rating}s")] = columns
    for number, response in enumerate(responses):
        suffix = f"_{response}" if len(responses) > 1 else ""
        outputs = {"label": f"rating{suffix}", "probabilities": f"rating_probabilities{suffix}"}
        result.add(
            Judge(
                _llm(node, result, quiet=bool(number)),
                name=f"{node.name}{suffix}",
                question=f"{_QUESTIONS[node.values['aspect']]} Answer with a number from 1, worst, to 5, best.",
                choices=("1", "2", "3", "4", "5"),
                pre_questions={"rationale": "Name the strengths and weaknesses of the response in two sentences."},
                input_mappings={**inputs, "response": response},
                output_mappings=outputs | {"rationale": f"rationale{suffix}"},
            )
        )


def _expand_columns(node: Node, result: Translation) -> None:
    """Set SelfInstruct to write one row for each instruction; other lists stay."""
    columns = node.values["columns"]
    pairs = columns if isinstance(columns, Mapping) else dict(zip(columns, columns, strict=True))
    for column, target in pairs.items():
        place = result.place_of(SelfInstruct, column)
        if place is None:
            result.advice.append(f"{node.name}: {column!r} stays a list. {read_table()[node.kind]}")
        else:
            mappings = {} if (target or column) == "instruction" else {"instruction": target or column}
            result.steps[place] = replace(result.steps[place], one_row_each=True, output_mappings=mappings)
            result.versions[target or column] = [target or column]


def _group_columns(node: Node, result: Translation) -> None:
    """Note which columns replace a column of lists."""
    names = node.values.get("output_columns") or [f"grouped_{name}" for name in node.values["columns"]]
    for column, target in zip(node.values["columns"], names, strict=True):
        if column != "model_name":
            result.groups[target] = result.versions.get(column, [column])
            result.advice.append(f"{node.name}: {target!r} stays the columns {result.groups[target]}, one value each.")


def _format_for_sft(node: Node, result: Translation) -> None:
    is_chat = node.kind == "FormatChatGenerationSFT"
    prompt = node.inputs.get("messages", "messages") if is_chat else node.inputs.get("instruction", "instruction")
    answer: str | None = node.inputs.get("generation", "generation")
    if is_chat and answer not in result.versions:
        answer = None  # the answer is the conversation's last turn
    result.steps.append(TrainingFormat("language-modeling", instruction=prompt, response=answer, name=node.name))


def _format_for_dpo(node: Node, result: Translation) -> None:
    """Add a TrainingFormat that pairs the responses with the highest and the lowest rating."""
    prompt = node.inputs.get("instruction", "instruction")
    column = node.inputs.get("generations", "generations")
    responses = result.groups.get(column, [])
    ratings = [f"rating_{response}" for response in responses]
    if len(responses) > 1 and set(ratings) <= set(result.versions):
        grouped = {column: responses, "ratings": ratings}
        lists = ", ".join(
            f"{name!r}: [{', '.join(f'row[{one!r}]' for one in names)}]" for name, names in grouped.items()
        )
        result.add_function(f"group_for_{node.name}", f"return dataset.map(lambda row: {{{lists}}})")
        fields_of_pair = {"response": column, "score": "ratings"}
    elif result.place_of(Judge, "rating") is not None:
        fields_of_pair = {"response": column if column in result.versions else "generation", "score": "rating"}
    else:
        result.advice.append(
            f"{node.name} ({node.kind}) is left out: no step rates responses. {read_table()[node.kind]}"
        )
        return
    result.absent |= {"prompt_id", "chosen_model", "chosen_rating", "rejected_model", "rejected_rating"}
    result.steps.append(TrainingFormat("preference", instruction=prompt, name=node.name, **fields_of_pair))


def _keep_columns(node: Node, result: Translation) -> None:
    wanted = [single for name in node.values["columns"] for single in result.groups.get(name, [name])]
    kept = [name for name in wanted if name not in result.absent]
    if len(kept) < len(wanted):
        absent = [name for name in wanted if name in result.absent]
        result.advice.append(
            f"{node.name}: there is no column {' or '.join(map(repr, absent))}; models and tokens are in the column "
            "generation_metadata, which is kept."
        )
    result.add_function(node.name, f"return dataset.select_columns({[*kept, 'generation_metadata']!r})")


def _load_from_hub(node: Node, result: Translation) -> None:
    flags = {"repo_id": "--dataset", "config": "--config", "split": "--split", "revision": "--dataset-revision"}
    flags |= {"num_examples": "--max-rows"}
    _chosen(node, result, skip=tuple(flags))
    chosen = {flag: node.values.get(name) for name, flag in flags.items()}
    if chosen["--split"] == "train":  # the default of hfsynth as well
        del chosen["--split"]
    result.flags += [text for flag, value in chosen.items() if value is not None for text in (flag, str(value))]
    _rename_columns(node, result)


def _load_from_dicts(node: Node, result: Translation) -> None:
    result.flags += ["--dataset", "rows.jsonl"]
    result.advice.append(
        f"{node.name}: distilabel doesn't save these rows; write them to rows.jsonl, one as JSON on each line."
    )
    _rename_columns(node, result)


def _rename_columns(node: Node, result: Translation) -> None:
    if node.outputs:
        result.add_function(f"rename_{node.name}", f"return dataset.rename_columns({node.outputs!r})")


def _push_to_hub(node: Node, result: Translation) -> None:
    result.flags += ["--push-to-hub", str(node.values.get("repo_id"))]
    result.flags += ["--private"] if node.values.get("private") else []
    _chosen(node, result, skip=("repo_id", "private", "split"))


_TRANSLATORS: dict[str, Callable[[Node, Translation], None]] = {
    "EvolInstruct": _evol_instruct,
    "ExpandColumns": _expand_columns,
    "FormatChatGenerationDPO": _format_for_dpo,
    "FormatChatGenerationSFT": _format_for_sft,
    "FormatTextGenerationDPO": _format_for_dpo,
    "FormatTextGenerationSFT": _format_for_sft,
    "GroupColumns": _group_columns,
    "KeepColumns": _keep_columns,
    "LoadDataFromDicts": _load_from_dicts,
    "LoadDataFromHub": _load_from_hub,
    "Magpie": _magpie,
    "MagpieGenerator": _magpie,
    "PushToHub": _push_to_hub,
    "SelfInstruct": _self_instruct,
    "TextGeneration": _text_generation,
    "UltraFeedback": _ultra_feedback,
}


def _chosen(node: Node, result: Translation, *names: str, skip: Sequence[str] = ()) -> dict[str, Any]:
    """Return these settings, without distilabel's own prompts; add advice on all others that change rows."""
    read = {*names, *skip, *_SILENT}
    for name, value in node.values.items():
        if name not in read and value not in _NEUTRAL and (name, value) != ("num_generations", 1):
            result.advice.append(f"{node.name}: the setting {name}={value!r:.80} is left out.")
    found = {name: node.values[name] for name in names if node.values.get(name) is not None}
    return {name: value for name, value in found.items() if _hash(value) not in _OWN_PROMPTS}


def _identifier(name: str, taken: Collection[str]) -> str:
    """Return a name as an identifier of Python that is not taken, such as x_y for x-y."""
    identifier = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not identifier.isidentifier() or iskeyword(identifier):
        identifier = f"step_{identifier}"
    numbered = (f"{identifier}_{number}" for number in count(2))
    return identifier if identifier not in taken else next(other for other in numbered if other not in taken)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _common(node: Node, cls: type[Technique]) -> dict[str, Any]:
    """Return the fields that techniques have in common: name, mappings and sampling."""
    outputs = {name: column for name, column in node.outputs.items() if name != "model_name"}
    common: dict[str, Any] = {"name": node.name, "input_mappings": node.inputs, "output_mappings": outputs}
    for declared in fields(cls):
        if isinstance(declared.default, SamplingParams):
            common[declared.name] = replace(declared.default, **_sampling(node))
    return common


def _sampling(node: Node) -> dict[str, Any]:
    """Return the generation settings that are fields of `SamplingParams`."""
    settings = dict((node.values.get("llm") or {}).get("generation_kwargs") or {})
    chosen = {_SAMPLING.get(name, name): value for name, value in settings.items() if value is not None}
    if settings.get("do_sample") is False:
        chosen["temperature"] = 0.0
    if chosen.get("top_k", 0) < 0:
        chosen["top_k"] = 0
    return {name: value for name, value in chosen.items() if name in {f.name for f in fields(SamplingParams)}}


def _llm(node: Node, result: Translation, quiet: bool = False) -> LLM:
    """Return the equivalent llm; if there is none, a `TransformersLLM` with the same model name, and add advice."""
    values = node.values["llm"]
    kind = values["type_info"]["name"]
    notes = Translation()
    _chosen(replace(node, values=values), notes, skip=_LLM_SETTINGS.get(kind, ()))
    left = set(values.get("generation_kwargs") or {}) - set(_sampling(node)) - set(_SAMPLING) - {"do_sample"}
    notes.advice += [f"{node.name}: the setting {name} of generation_kwargs is left out." for name in sorted(left)]
    if "max_new_tokens" not in _sampling(node):
        notes.advice.append(f"{node.name}: max_new_tokens isn't set; distilabel's default of 128 is not taken over.")
    if kind != "TransformersLLM":
        notes.advice.append(f"{node.name} ({kind}). {read_table().get(kind, 'Write an LLM of your own (README).')}")
    result.advice += [] if quiet else notes.advice
    if kind == "vLLM":
        return _vllm(values)
    if kind in _SERVERS:
        return _server(kind, values, needs_tokenizer=node.kind in ("Magpie", "MagpieGenerator", "UltraFeedback"))
    settings = {
        _FIELDS.get(name, name): value for name, value in _own(values, *_LLM_SETTINGS["TransformersLLM"]).items()
    }
    return TransformersLLM(values.get("model") or values.get("model_path") or "MODEL", **settings)


def _vllm(values: Values) -> VLLM:
    engine = dict(values.get("extra_kwargs") or {})
    engine |= {"quantization": values["quantization"]} if values.get("quantization") else {}
    return VLLM(values["model"], engine_kwargs=engine, **_own(values, "dtype", "revision", "trust_remote_code"))


def _own(values: Values, *names: str) -> dict[str, Any]:
    """Return the settings of an llm that differ from the defaults of hfsynth."""
    return {name: values[name] for name in names if values.get(name) and values[name] != _DEFAULTS.get(name)}


def _server(kind: str, values: Values, needs_tokenizer: bool) -> OpenAILLM:
    """Return an `OpenAILLM`, with a tokenizer if the task writes a user's turn or scores choices."""
    url, key = _SERVERS[kind]
    tokenizer = values.get("tokenizer") or values.get("tokenizer_id")
    return OpenAILLM(
        values.get("model") or values.get("model_id") or "MODEL",
        base_url=values.get("base_url") or (f"{values['host']}/v1" if values.get("host") else url),
        tokenizer=tokenizer if needs_tokenizer or kind == "ClientvLLM" else None,
        api_key_variable=key,
    )


@plain_errors()
def main() -> None:
    """Read the pipeline, write the recipe, and print the command and the advice."""
    flags = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    flags.add_argument("pipeline", type=Path, help="The pipeline.yaml that distilabel saved.")
    flags.add_argument("--output", type=Path, default=Path("hfsynth.yaml"), help="The recipe. Default: hfsynth.yaml.")
    arguments = flags.parse_args()
    result = translate(read_nodes(arguments.pipeline.read_text(encoding="utf-8")))
    if not result.steps:
        raise ValueError("no step of the pipeline has an equivalent:\n" + "\n".join(result.advice))
    arguments.output.write_text(result.recipe(), encoding="utf-8")
    command = ["hfsynth", "run", str(arguments.output), *result.flags]
    if result.functions:
        stem = re.sub(r"\W", "_", arguments.output.stem)
        module = arguments.output.with_name(f"{stem}_functions.py")
        code = ['"""Functions of a dataset, steps of the recipe beside this file."""', "from datasets import Dataset"]
        module.write_text("\n\n".join([*code, *result.functions.values()]), encoding="utf-8")
        command += ["--import", module.stem]
    print(join(command))
    for number, text in enumerate(result.advice, 1):
        print(f"{number}. {text}")


if __name__ == "__main__":
    main()
