"""Every trainer of TRL takes a step on rows as they are saved, and tokenizes what the chat template renders."""

import json

import pytest
from datasets import Dataset, Json, List, Value, load_dataset

from hfsynth import ColumnError, EchoLLM, EvolInstruct, Magpie, Pipeline, TextGeneration, TrainingFormat, run, save
from hfsynth.cli import RunArguments, run_and_save
from tests.conftest import package_folder
from tests.tiny_chat import byte_tokenizer, save_chat_model

pytestmark = pytest.mark.usefixtures("cached_pictures")
TEXTS = List({"role": Value("string"), "content": Value("string")})


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **fields):
    return {"role": "assistant", "content": text, **fields}


PAIR = {"instruction": ["Name a fruit."], "response": ["A fig."]}
TALK = [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Ho"), user("Bye"), assistant("So long")]


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("language-modeling", {"messages": [user("Name a fruit."), assistant("A fig.")]}),
        ("prompt-only", {"prompt": [user("Name a fruit.")]}),
        ("prompt-completion", {"prompt": [user("Name a fruit.")], "completion": [assistant("A fig.")]}),
    ],
)
def test_training_format_of_a_pair(type_, expected):
    rows = TrainingFormat(type_)(Dataset.from_dict({**PAIR, "topic": ["food"]}))
    assert rows[0] == {**expected, "topic": "food"}
    assert all(rows.features[name] == TEXTS for name in expected)


@pytest.mark.parametrize(("system_prompt", "prompt"), [(True, TALK[:4]), (False, TALK[1:4])], ids=["with", "without"])
def test_training_format_of_a_conversation(system_prompt, prompt):
    rows = Dataset.from_dict({"messages": [TALK]})
    form = TrainingFormat("prompt-completion", system_prompt=system_prompt)
    assert form(rows)[:] == {"prompt": [prompt], "completion": [TALK[4:]]}


def test_training_format_puts_a_system_prompt_first():
    rows = Dataset.from_dict({**PAIR, "system_prompt": ["Be brief."]})
    assert TrainingFormat("prompt-only")(rows)[0]["prompt"][0] == TALK[0]


@pytest.mark.parametrize(("field", "fields"), [("reasoning_content", {"reasoning_content": "Figs."}), (None, {})])
def test_training_format_keeps_or_cuts_thinking(field, fields):
    rows = Dataset.from_dict({**PAIR, "thinking": ["Figs."]})
    written = TrainingFormat("prompt-completion", thinking_field=field)(rows)
    assert written[0]["completion"] == [assistant("A fig.", **fields)]
    assert "thinking" not in written.column_names


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_training_format_keeps_or_cuts_thoughts_of_messages(field):
    """That of the messages, and that of the column."""
    talk = [user("a"), assistant("b", **{field: "t"}), user("c")]
    rows = Dataset.from_dict({"messages": [talk], "generation": ["d"], "thinking": ["u"]})
    kept, cut = (TrainingFormat("language-modeling", thinking_field=name)(rows) for name in ("thinking", None))
    assert kept["messages"][0] == [*talk, assistant("d", thinking="u")]
    assert cut["messages"][0] == [user("a"), assistant("b"), user("c"), assistant("d")]
    assert "thinking" not in cut.column_names


def test_training_format_reads_json_texts():
    """With calls, in a column whose name says that it holds conversations; elsewhere without."""
    call = {"function": {"name": "now", "arguments": {"zone": None}}}
    talk = [user("When?"), assistant("", tool_calls=[call]), {"role": "tool", "content": "9"}, assistant("At 9.")]
    plain = [user("Hi"), assistant("Ho")]
    for column in ("messages", "conversations"):
        rows = TrainingFormat("prompt-completion")(Dataset.from_dict({column: [json.dumps(talk), json.dumps(plain)]}))
        assert rows[:] == {"prompt": [talk[:3], plain[:1]], "completion": [talk[3:], plain[1:]]}
    prompts = Dataset.from_dict({"prompt": [json.dumps(talk[:3]), json.dumps(plain[:1])], "response": ["x", "y"]})
    split = TrainingFormat("prompt-completion").split(prompts)
    assert split.kept["prompt"][:] == [plain[:1]]
    assert split.dropped["rule"][:] == ["unreadable"]
    assert "'tool_calls'" in split.dropped["value"][0]


@pytest.mark.parametrize("values", [[3], [["a"]], [[{"text": "a"}]]])
def test_training_format_of_no_conversations_is_an_error(values):
    rows = Dataset.from_dict({"messages": values})
    with pytest.raises(ColumnError, match=r"can't read conversations in column 'messages': it holds "):
        TrainingFormat("language-modeling").check_features(rows.features)


def test_training_format_keeps_calls_and_tools():
    call = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
    talk = [
        user("When?"),
        assistant("", tool_calls=[call]),
        {"role": "tool", "content": "9", "name": "now"},
        assistant("At 9."),
    ]
    rows = Dataset.from_dict({"messages": [talk, TALK], "tools": ['[{"name": "now"}]', None]})
    written = TrainingFormat("language-modeling")(rows)
    assert written["messages"][:] == [talk, TALK]
    assert written.features["messages"] == List(Json())
    assert written["tools"][0] == '[{"name": "now"}]'
    assert "tools" not in TrainingFormat("language-modeling", tools=False)(rows).column_names


@pytest.mark.parametrize(
    ("columns", "expected"),
    [(("instruction", "input"), "Translate.\n\nTea"), (("input", "instruction"), "Translate.")],
    ids=["Alpaca", "SelfInstruct"],
)
def test_training_format_appends_an_input_by_its_place(columns, expected):
    values = {"instruction": ["Translate."], "input": ["Tea"]}
    rows = Dataset.from_dict({name: values[name] for name in columns})
    assert TrainingFormat("prompt-only")(rows)[0]["prompt"] == [user(expected)]


def test_preference_of_generations_is_the_best_and_the_worst():
    rows = Dataset.from_dict(
        {"instruction": ["a", "b"], "generation": [["x", "y", "z"]] * 2, "reward": [[0, 2, 1], [1] * 3]}
    )
    kept, dropped = TrainingFormat("preference").split(rows)
    assert kept["chosen"][:] == [[assistant("y")]]
    assert kept["rejected"][:] == [[assistant("x")]]
    records = zip(*(dropped[name] for name in ("row", "rule", "value", "raw")), strict=True)
    assert list(records) == [
        (0, "between_responses", "1", "z"), (1, "no_difference", "1, 1, 1", '["x", "y", "z"]')
    ]  # fmt: skip


def test_preference_of_lists_records_all_other_responses():
    rows = Dataset.from_dict(
        {"instruction": ["a"] * 3, "generation": [["p", "q"], ["r", "s"], ["t", "u"]], "source": ["1", "2", "3"]}
        | {"reward": [[5, 3], [2, 4], [1, 3]]}
    )
    kept, dropped = TrainingFormat("preference").split(rows)
    assert (kept["chosen"][0], kept["rejected"][0]) == ([assistant("p")], [assistant("t")])
    assert (kept["source"][:], kept["reward"][:]) == (["1"], [[5, 3]])
    records = zip(*(dropped[name] for name in ("row", "rule", "value", "raw")), strict=True)
    assert list(records) == [
        (0, "between_responses", "3", "q"), (1, "between", "2, 4", '["r", "s"]'), (2, "between_responses", "3", "u")
    ]  # fmt: skip


def test_row_that_loses_a_response_does_not_count_as_dropped():
    rows = Dataset.from_dict({"instruction": ["a"], "generation": [["x", "y", "z"]], "reward": [[0, 2, 1]]})
    pipeline = Pipeline((TrainingFormat("preference"),))
    result = run(pipeline, rows, quiet=True)
    assert result.failures["rule"][:] == ["between_responses"]
    assert (result.record.steps[0].dropped, result.record.steps[0].stopped) == (0, {"": 1})
    assert pipeline.preview(rows, n=1).steps[0].rows[0].rows_out == 1


def test_pairs_of_columns_with_one_prompt_all_stay():
    rows = Dataset.from_dict({"instruction": ["a", "a"], "chosen": ["w", "x"], "rejected": ["y", "z"]})
    kept, dropped = TrainingFormat("preference").split(rows)
    assert [pair[0]["content"] for pair in kept["rejected"]] == ["y", "z"]
    assert len(dropped) == 0


def test_preference_of_rows_pairs_those_of_one_prompt():
    rows = Dataset.from_dict(
        {"instruction": ["a", "b", "a", "a"], "response": ["w", "x", "y", "z"], "reward": [0.5, 1, 0.9, 0.1]}
    )
    kept, dropped = TrainingFormat("preference").split(rows)
    assert kept.remove_columns("reward")[:] == {
        "prompt": [[user("a")]], "chosen": [[assistant("y")]], "rejected": [[assistant("z")]]
    }  # fmt: skip
    assert list(zip(dropped["row"], dropped["rule"], strict=True)) == [(0, "between"), (1, "no_difference")]


def test_preference_without_a_pair_keeps_the_columns():
    columns = {"instruction": ["A", "A"], "response": ["x", "y"], "source": ["a", "b"]}
    equal, unequal = (Dataset.from_dict({**columns, "rating": ratings}) for ratings in ([3, 3], [1, 3]))
    form = TrainingFormat("preference", score="rating")
    assert form(equal).features == form(unequal).features
    assert (len(form(equal)), len(form(unequal))) == (0, 1)


@pytest.mark.parametrize(
    ("scores", "fields"),
    [([0.2, 0.7], {"minimum": 0.5}), (["poor", "good"], {"accepted": ("good",)}), ([False, True], {})],
)
def test_unpaired_preference_labels_by_score(scores, fields):
    rows = Dataset.from_dict({"instruction": ["a", "b"], "response": ["x", "y"], "score": scores})
    assert TrainingFormat("unpaired-preference", score="score", **fields)(rows)["label"][:] == [False, True]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"instruction": None, "response": "x"}, "no_prompt"),
        ({"instruction": " ", "response": "x"}, "no_prompt"),
        ({"instruction": "a", "response": None}, "no_completion"),
    ],
)
def test_training_format_drops_a_row_without_a_part(row, rule):
    kept, dropped = TrainingFormat("prompt-completion").split(
        Dataset.from_list([{**row}, {"instruction": "a", "response": "x"}])
    )
    assert len(kept) == 1
    assert dropped["rule"][:] == [rule]


@pytest.mark.parametrize(
    ("type_", "columns", "named"),
    [
        ("prompt-only", {"text": ["a"]}, "instruction="),
        ("language-modeling", {"instruction": ["a"]}, "response="),
        ("preference", PAIR, "rejected="),
        ("unpaired-preference", {**PAIR, "reward": [1.0]}, "minimum="),
    ],
)
def test_training_format_that_lacks_a_column_is_an_error(type_, columns, named):
    with pytest.raises(ColumnError, match=named):
        TrainingFormat(type_).check_features(Dataset.from_dict(columns).features)


ROWS = {"instruction": ["What is tea made of?", "Why is the sky blue?"]}


def generated(name):
    """Return rows as a technique leaves them, one of them failed."""
    llm, rows = EchoLLM(), Dataset.from_dict({"instruction": [*ROWS["instruction"], None]})
    empty = Dataset.from_dict({"id": range(2)})
    technique, dataset = {
        "TextGeneration": (TextGeneration(llm), rows),
        "generations": (TextGeneration(llm, num_generations=2, group_generations=True), rows),
        "EvolInstruct": (EvolInstruct(llm, generate_answers=True), rows),
        "Magpie": (Magpie(llm), empty),
        "Magpie of two turns": (Magpie(llm, n_turns=2), empty),
    }[name]
    return dataset.map(technique, batched=True, with_indices=True)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("model"))


def saved(rows, folder, form):
    """Return rows in a format as they are saved and loaded, by nothing but `save` and `load_dataset`."""
    save(rows, folder, format=form)
    return load_dataset(str(folder), split="train")


def trainer(kind, model, rows, folder):
    """Return a trainer of TRL for one step on all rows."""
    import trl

    options = {"max_length": 4096} if kind != "GRPO" else {"num_generations": 2, "max_completion_length": 4}
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, bf16=False,
        gradient_checkpointing=False, save_strategy="no", disable_tqdm=True, **options,
    )  # fmt: skip
    extra = {"reward_funcs": lambda completions, **_: [0.0] * len(completions)} if kind == "GRPO" else {}
    return getattr(trl, f"{kind}Trainer")(model=model, args=config, train_dataset=rows, **extra)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("TextGeneration", "prompt-completion"),
        ("generations", "prompt-completion"),
        ("EvolInstruct", "language-modeling"),
        ("Magpie", "language-modeling"),
        ("Magpie of two turns", "prompt-completion"),
    ],
)
def test_sft_trains_on_the_rows_of_each_technique(name, form, model_folder, tmp_path):
    rows = saved(generated(name), tmp_path / "rows", form)
    trained = trainer("SFT", model_folder, rows, tmp_path)
    assert trained.train().global_step == 1
    tokenizer = trained.processing_class
    messages = rows["messages"] if form == "language-modeling" else [row["prompt"] + row["completion"] for row in rows]
    texts = [tokenizer.decode(ids) for ids in trained.train_dataset["input_ids"]]
    assert texts == [tokenizer.apply_chat_template(one, tokenize=False) for one in messages]


SCORED = {"instruction": ["What is tea?", "Why is the sky blue?"], "generation": [["A drink.", "A tree."]] * 2}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("DPO", TrainingFormat("preference", score="scores")),
        ("Reward", TrainingFormat("preference", score="scores")),
        ("KTO", TrainingFormat("unpaired-preference", score="scores", minimum=0.5)),
        ("GRPO", TrainingFormat("prompt-only")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_trainers_take_a_step_on_saved_preferences(kind, form, model_folder, tmp_path):
    rows = saved(Dataset.from_dict({**SCORED, "scores": [[1.0, 0.0]] * 2}), tmp_path / "rows", form)
    assert trainer(kind, model_folder, rows, tmp_path).train().global_step == 1


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("template", ["qwen3", "qwen2_5", "llama3_1", "gptoss", "glm4moe"])
def test_sft_reads_the_rendering_of_the_chat_template(template, model_folder, tmp_path):
    """With tools, calls and thinking, in five real templates: the trained text is the rendered row."""
    call = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
    thought = {"reasoning_content": "A clock helps.", "thinking": "A clock helps."}
    talk = [user("When?"), assistant("", tool_calls=[call]), {"role": "tool", "content": "9", "name": "now"}]
    parameters = {"type": "object", "properties": {"zone": {"type": "string", "description": "A zone."}}}
    tool = {"type": "function", "function": {"name": "now", "description": "Time.", "parameters": parameters}}
    rows = Dataset.from_dict({"messages": [[*talk, assistant("At 9.", **thought)]], "tools": [json.dumps([tool])]})
    rows = saved(rows, tmp_path / "rows", "language-modeling")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (package_folder("trl") / "chat_templates" / f"{template}.jinja").read_text()
    tokenizer.save_pretrained(model_folder)
    text = tokenizer.apply_chat_template(rows[0]["messages"], tools=[tool], tokenize=False)
    trained = trainer("SFT", model_folder, rows, tmp_path)
    assert trained.processing_class.decode(trained.train_dataset["input_ids"][0]) == text
    assert "now" in text
    assert ("A clock helps." in text) == (template not in ("qwen2_5", "llama3_1"))


def test_format_of_save_is_a_step_of_the_card(tmp_path):
    rows = Pipeline((TextGeneration(EchoLLM()),)).run(
        Dataset.from_dict({"instruction": ["Hi", " ", "Ho"]}), quiet=True
    )
    save(rows, tmp_path / "rows", format="prompt-completion")
    card = (tmp_path / "rows" / "README.md").read_text()
    assert 'SFTTrainer(model="HuggingFaceTB/SmolLM2-135M-Instruct", train_dataset=dataset["train"])' in card
    assert "TrainingFormat" in (tmp_path / "rows" / "default" / "hfsynth.yaml").read_text()
    assert len(load_dataset(str(tmp_path / "rows"), split="train")) == 2


def test_format_flag_writes_the_format(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"instruction": "Hi"}')
    arguments = RunArguments(dataset=str(source), output_dir=str(tmp_path / "rows"), format="language-modeling")
    run_and_save(Pipeline((TextGeneration(EchoLLM()),)), arguments, "answers")
    written = load_dataset(str(tmp_path / "rows"), "answers", split="train")
    assert written["messages"][:] == [[user("Hi"), assistant("Hi")]]
