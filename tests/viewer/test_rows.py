import pytest
from datasets import Dataset

from hfsynth import EchoLLM, EvolInstruct, Judge, Magpie, Pipeline, SelfInstruct, SelfInstructInstances, TextGeneration
from hfsynth.viewer.rows import Layout
from tests.helpers import ScriptedLLM


def displayed(dataset):
    return list(Layout.of(dataset).rows(dataset))


def mapped(dataset, technique):
    return dataset.map(technique, batched=True, with_indices=True)


def run_steps(steps, dataset):
    """Return the dataset of a run, with its record."""
    return (steps if isinstance(steps, Pipeline) else Pipeline((steps,))).run(dataset, quiet=True)


def test_instruction_input_and_response_are_turns():
    dataset = Dataset.from_dict({"instruction": ["Sort."], "input": ["3, 1"], "response": ["1, 3"], "id": [7]})
    (row,) = displayed(dataset)
    assert row["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]
    assert row["columns"] == {"id": "7"}


def test_column_of_messages_is_the_conversation():
    result = mapped(Dataset.from_dict({"id": [0]}), Magpie(EchoLLM(), n_turns=2))
    assert [role for role, _ in displayed(result)[0]["turns"]] == ["user", "assistant"] * 2


def test_evolution_has_operations_and_rules():
    llm = ScriptedLLM(("Make green tea.",))
    result = mapped(Dataset.from_dict({"instruction": ["Make tea."]}), EvolInstruct(llm, num_evolutions=2))
    first, second, third = displayed(result)[0]["evolution"]
    assert first == ("", "Make tea.", "", "")
    assert second[1:] == ("Make green tea.", "", "")
    assert third[1:] == ("Make green tea.", "unchanged", "")
    assert displayed(result)[0]["turns"] == [("user", "Make green tea.")]


def evolved(column="instruction", **fields):
    dataset = Dataset.from_dict({column: ["Make tea."]})
    llm = ScriptedLLM(("Make green tea, please.",))
    (row,) = displayed(mapped(dataset, EvolInstruct(llm, input_mappings={"instruction": column}, **fields)))
    return row


def test_evolution_begins_with_the_mapped_input():
    assert [version for _, version, *_ in evolved("prompt")["evolution"]] == ["Make tea.", "Make green tea, please."]
    question = Dataset.from_dict({"question": ["Make tea."], "instruction": ["Sing."]})
    evolve = EvolInstruct(
        ScriptedLLM(("Make green tea, please.",)),
        input_mappings={"instruction": "question"},
        output_mappings={"evolved_instruction": "evolved", "evolutions": "rounds"},
    )
    (row,) = displayed(run_steps(evolve, question))
    assert [version for _, version, *_ in row["evolution"]] == ["Make tea.", "Make green tea, please."]
    assert "rounds" not in row["columns"]


def test_evolution_without_original_has_rounds_only():
    replaced = evolved(output_mappings={"evolved_instruction": "instruction"})
    assert [version for _, version, *_ in replaced["evolution"]] == ["Make green tea, please."]
    assert replaced["evolution"][0][0] != "", "it was result by an operation"
    result = mapped(Dataset.from_dict({"instruction": ["Make tea."]}), EvolInstruct(ScriptedLLM(("Make green tea.",))))
    (row,) = displayed(result.remove_columns(["instruction", "evolved_instruction"]))
    assert [version for _, version, *_ in row["evolution"]] == ["Make green tea."]


def test_evolution_with_answers_pairs_them_with_versions():
    row = evolved(store_evolutions=True, include_original_instruction=True, generate_answers=True)
    asked_and_answered = [(version, answer) for _, version, _, answer in row["evolution"]]
    assert asked_and_answered == [
        ("Make tea.", "Make green tea, please."),
        ("Make green tea, please.", "Make green tea, please."),
    ]
    assert row["turns"] == [], "the instruction alone is no more than the beginning of the evolution"


def test_source_of_instructions_is_no_turn():
    texts = Dataset.from_dict({"input": ["Tea is a drink."]})
    make = SelfInstruct(ScriptedLLM(("What is tea?",)), num_instructions=1)
    result = mapped(mapped(texts, make), TextGeneration(ScriptedLLM(("A drink.",))))
    run = run_steps(make >> TextGeneration(ScriptedLLM(("A drink.",))), texts)
    alone = run_steps(make >> EvolInstruct(ScriptedLLM(("What is green tea?",))), texts)
    for dataset in (result, run):
        assert displayed(dataset)[0]["turns"] == [("user", "What is tea?"), ("assistant", "A drink.")]
        assert displayed(dataset)[0]["columns"] == {"input": "Tea is a drink."}
    assert displayed(alone)[0]["turns"] == [("user", "What is green tea?")]


def test_generated_input_is_a_turn():
    llm = ScriptedLLM(("Input: 3, 1\nOutput: 1, 3",))
    result = run_steps(SelfInstructInstances(llm), Dataset.from_dict({"instruction": ["Sort."]}))
    assert displayed(result)[0]["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]


def test_turns_are_the_prompt_of_the_answering_step():
    rows = Dataset.from_dict({"question": ["Why?"], "instruction": ["Sing."], "system_prompt": ["Be kind."]})
    asked = TextGeneration(ScriptedLLM(("Because.",)), input_mappings={"instruction": "question"})
    assert displayed(run_steps(asked, rows))[0]["turns"] == [
        ("system", "Be kind."),
        ("user", "Why?"),
        ("assistant", "Because."),
    ]
    evolve = EvolInstruct(ScriptedLLM(("Sing a song, please.",)))
    answered = run_steps(evolve >> TextGeneration(ScriptedLLM(("La.",))), rows.select_columns("instruction"))
    assert displayed(answered)[0]["turns"] == [("user", "Sing."), ("assistant", "La.")]  # not the evolved instruction
    filled = TextGeneration(ScriptedLLM(("La.",)), template="{{ question }} {{ instruction }}")
    parts = displayed(run_steps(filled, rows.remove_columns("system_prompt")))
    assert parts[0]["turns"] == [("instruction", "Sing."), ("question", "Why?"), ("assistant", "La.")]


def test_source_answer_belongs_to_source_instruction():
    rows = Dataset.from_dict({"instruction": ["Sort."], "input": ["3, 1"], "response": ["1, 3"]})
    evolve = EvolInstruct(ScriptedLLM(("Sort, please: 3, 1.",)), input_mappings={"input": "input"})
    (row,) = displayed(run_steps(evolve, rows))
    assert row["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]
    assert row["columns"]["evolved_instruction"] == "Sort, please: 3, 1."


def test_answered_conversation_has_its_answer():
    rows = Dataset.from_dict({"messages": [[{"role": "user", "content": "Hi"}]]})
    result = run_steps(TextGeneration(ScriptedLLM(("Hello",))), rows)
    assert displayed(result)[0]["turns"] == [("user", "Hi"), ("assistant", "Hello")]


def test_grouped_generations_are_alternative_answers():
    rows = Dataset.from_dict({"instruction": ["Say hi."]})
    result = mapped(rows, TextGeneration(EchoLLM(), num_generations=2, group_generations=True))
    assert displayed(result)[0]["turns"] == [("user", "Say hi.")]
    assert displayed(result)[0]["answers"] == [
        ("answer 1", [("assistant", "Say hi.")]),
        ("answer 2", [("assistant", "Say hi.")]),
    ]


def messages(*turns):
    return [[{"role": role, "content": content} for role, content in turns]]


USER, GOOD, BAD = ("user", "Hi"), ("assistant", "Hello"), ("assistant", "No")


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": ["Hi"], "chosen": ["Hello"], "rejected": ["No"]},
        {"instruction": ["Hi"], "chosen": ["Hello"], "rejected": ["No"]},
        {"prompt": messages(USER), "chosen": messages(GOOD), "rejected": messages(BAD)},
        {"chosen": messages(USER, GOOD), "rejected": messages(USER, BAD)},
        {
            "prompt": ["Hi"],
            "chosen": messages(USER, GOOD),
            "rejected": messages(USER, BAD),
            "messages": messages(USER, GOOD),
        },
    ],
)
def test_preferences_are_two_answers_to_a_prompt(columns):
    (row,) = displayed(Dataset.from_dict(columns))
    assert row["turns"] == [USER]
    assert row["answers"] == [("chosen", [GOOD]), ("rejected", [BAD])]


def test_columns_with_few_short_values_are_tags():
    dataset = Dataset.from_dict(
        {
            "instruction": [f"say {n}" for n in range(40)],
            "kind": ["a", "b", "", "b"] * 10,
            "difficulty": [10, 2, 1, None] * 10,
            "fits": [True, False] * 20,
            "score": [0.5, 1.5] * 20,
        }
    )
    result = mapped(dataset, Judge.quality(EchoLLM()))
    tags = Layout.of(result).tags
    assert list(tags) == ["kind", "difficulty", "fits", "quality"]
    assert tags["kind"] == ("a", "b"), "there is nothing to choose by in an empty text"
    assert tags["difficulty"] == ("1", "2", "10"), "in the order of numbers"
    assert displayed(result)[1]["tags"] == {
        "kind": "b",
        "difficulty": "2",
        "fits": "False",
        "quality": result["quality"][1],
    }


def test_columns_of_unique_equal_or_long_values_are_no_tags():
    dataset = Dataset.from_dict(
        {
            "name": [f"n{n}" for n in range(9)],
            "number": list(range(9)),
            "same": ["x"] * 9,
            "long": ["y" * 99, "z"] * 4 + [""],
        }
    )
    assert not Layout.of(dataset).tags


def test_steps_have_model_seed_and_tokens():
    result = mapped(Dataset.from_dict({"instruction": ["a"]}), TextGeneration(EchoLLM()))
    seed = str(result[0]["generation_metadata"][0]["seed"])
    assert displayed(result)[0]["steps"] == [("TextGeneration", "echo", seed, 0, 1, 1, "stop")]
