import pytest
from datasets import Dataset

from hfsynth import EchoLLM, EvolInstruct, Judge, Magpie, Pipeline, SelfInstruct, SelfInstructInstances, TextGeneration
from hfsynth.viewer.rows import Layout
from tests.helpers import ScriptedLLM


def shown(dataset):
    return list(Layout.of(dataset).rows(dataset))


def mapped(dataset, technique):
    return dataset.map(technique, batched=True, with_indices=True)


def ran(steps, dataset):
    """What a run makes, which has its record."""
    return (steps if isinstance(steps, Pipeline) else Pipeline((steps,))).run(dataset, quiet=True)


def test_instruction_input_and_response_are_a_conversation():
    dataset = Dataset.from_dict({"instruction": ["Sort."], "input": ["3, 1"], "response": ["1, 3"], "id": [7]})
    (row,) = shown(dataset)
    assert row["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]
    assert row["columns"] == {"id": "7"}


def test_a_column_of_messages_is_the_conversation():
    made = mapped(Dataset.from_dict({"id": [0]}), Magpie(EchoLLM(), n_turns=2))
    assert [role for role, _ in shown(made)[0]["turns"]] == ["user", "assistant"] * 2


def test_an_evolved_row_is_its_chain_of_versions_with_the_operation_and_the_rule():
    llm = ScriptedLLM(("Make green tea.",))
    made = mapped(Dataset.from_dict({"instruction": ["Make tea."]}), EvolInstruct(llm, num_evolutions=2))
    first, second, third = shown(made)[0]["chain"]
    assert first == ("", "Make tea.", "", "")
    assert second[1:] == ("Make green tea.", "", "")
    assert third[1:] == ("Make green tea.", "unchanged", "")
    assert shown(made)[0]["turns"] == [("user", "Make green tea.")]


def evolved(column="instruction", **fields):
    dataset = Dataset.from_dict({column: ["Make tea."]})
    llm = ScriptedLLM(("Make green tea, please.",))
    (row,) = shown(mapped(dataset, EvolInstruct(llm, input_mappings={"instruction": column}, **fields)))
    return row


def test_the_chain_begins_with_what_was_read_under_whatever_name():
    assert [version for _, version, *_ in evolved("prompt")["chain"]] == ["Make tea.", "Make green tea, please."]
    question = Dataset.from_dict({"question": ["Make tea."], "instruction": ["Sing."]})
    evolve = EvolInstruct(
        ScriptedLLM(("Make green tea, please.",)),
        input_mappings={"instruction": "question"},
        output_mappings={"evolved_instruction": "evolved", "evolutions": "rounds"},
    )
    (row,) = shown(ran(evolve, question))
    assert [version for _, version, *_ in row["chain"]] == ["Make tea.", "Make green tea, please."]
    assert "rounds" not in row["columns"]


def test_a_chain_whose_beginning_is_gone_is_its_rounds():
    replaced = evolved(output_mappings={"evolved_instruction": "instruction"})
    assert [version for _, version, *_ in replaced["chain"]] == ["Make green tea, please."]
    assert replaced["chain"][0][0] != "", "it was made by an operation"
    made = mapped(Dataset.from_dict({"instruction": ["Make tea."]}), EvolInstruct(ScriptedLLM(("Make green tea.",))))
    (row,) = shown(made.remove_columns(["instruction", "evolved_instruction"]))
    assert [version for _, version, *_ in row["chain"]] == ["Make green tea."]


def test_versions_that_are_all_kept_have_their_answers_in_the_chain():
    row = evolved(store_evolutions=True, include_original_instruction=True, generate_answers=True)
    asked_and_answered = [(version, answer) for _, version, _, answer in row["chain"]]
    assert asked_and_answered == [
        ("Make tea.", "Make green tea, please."),
        ("Make green tea, please.", "Make green tea, please."),
    ]
    assert row["turns"] == [], "the instruction alone is no more than what the chain begins with"


def test_a_text_that_instructions_were_made_from_was_said_by_nobody():
    texts = Dataset.from_dict({"input": ["Tea is a drink."]})
    make = SelfInstruct(ScriptedLLM(("What is tea?",)), num_instructions=1)
    made = mapped(mapped(texts, make), TextGeneration(ScriptedLLM(("A drink.",))))
    run = ran(make >> TextGeneration(ScriptedLLM(("A drink.",))), texts)
    alone = ran(make >> EvolInstruct(ScriptedLLM(("What is green tea?",))), texts)
    for dataset in (made, run):
        assert shown(dataset)[0]["turns"] == [("user", "What is tea?"), ("assistant", "A drink.")]
        assert shown(dataset)[0]["columns"] == {"input": "Tea is a drink."}
    assert shown(alone)[0]["turns"] == [("user", "What is green tea?")]


def test_an_input_that_was_made_for_an_instruction_was_said_with_it():
    llm = ScriptedLLM(("Input: 3, 1\nOutput: 1, 3",))
    made = ran(SelfInstructInstances(llm), Dataset.from_dict({"instruction": ["Sort."]}))
    assert shown(made)[0]["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]


def test_what_was_said_is_what_the_model_read_that_answered():
    rows = Dataset.from_dict({"question": ["Why?"], "instruction": ["Sing."], "system_prompt": ["Be kind."]})
    asked = TextGeneration(ScriptedLLM(("Because.",)), input_mappings={"instruction": "question"})
    assert shown(ran(asked, rows))[0]["turns"] == [
        ("system", "Be kind."),
        ("user", "Why?"),
        ("assistant", "Because."),
    ]
    evolve = EvolInstruct(ScriptedLLM(("Sing a song, please.",)))
    told = ran(evolve >> TextGeneration(ScriptedLLM(("La.",))), rows.select_columns("instruction"))
    assert shown(told)[0]["turns"] == [("user", "Sing."), ("assistant", "La.")], "not what was evolved"
    filled = TextGeneration(ScriptedLLM(("La.",)), template="{{ question }} {{ instruction }}")
    parts = shown(ran(filled, rows.remove_columns("system_prompt")))
    assert parts[0]["turns"] == [("instruction", "Sing."), ("question", "Why?"), ("assistant", "La.")]


def test_an_answer_that_was_there_before_answers_what_was_there_before():
    rows = Dataset.from_dict({"instruction": ["Sort."], "input": ["3, 1"], "response": ["1, 3"]})
    evolve = EvolInstruct(ScriptedLLM(("Sort, please: 3, 1.",)), input_mappings={"input": "input"})
    (row,) = shown(ran(evolve, rows))
    assert row["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]
    assert row["columns"]["evolved_instruction"] == "Sort, please: 3, 1."


def test_a_conversation_that_was_answered_is_shown_with_its_answer():
    rows = Dataset.from_dict({"messages": [[{"role": "user", "content": "Hi"}]]})
    made = ran(TextGeneration(ScriptedLLM(("Hello",))), rows)
    assert shown(made)[0]["turns"] == [("user", "Hi"), ("assistant", "Hello")]


def test_several_answers_to_an_instruction_are_told_apart():
    rows = Dataset.from_dict({"instruction": ["Say hi."]})
    made = mapped(rows, TextGeneration(EchoLLM(), num_generations=2, group_generations=True))
    assert shown(made)[0]["turns"] == [("user", "Say hi.")]
    assert shown(made)[0]["answers"] == [
        ("answer 1", [("assistant", "Say hi.")]),
        ("answer 2", [("assistant", "Say hi.")]),
    ]


def said(*turns):
    return [[{"role": role, "content": content} for role, content in turns]]


USER, GOOD, BAD = ("user", "Hi"), ("assistant", "Hello"), ("assistant", "No")


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": ["Hi"], "chosen": ["Hello"], "rejected": ["No"]},
        {"instruction": ["Hi"], "chosen": ["Hello"], "rejected": ["No"]},
        {"prompt": said(USER), "chosen": said(GOOD), "rejected": said(BAD)},
        {"chosen": said(USER, GOOD), "rejected": said(USER, BAD)},
        {"prompt": ["Hi"], "chosen": said(USER, GOOD), "rejected": said(USER, BAD), "messages": said(USER, GOOD)},
    ],
)
def test_preferences_are_shown_as_two_answers_to_their_prompt(columns):
    (row,) = shown(Dataset.from_dict(columns))
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
    made = mapped(dataset, Judge.quality(EchoLLM()))
    tags = Layout.of(made).tags
    assert list(tags) == ["kind", "difficulty", "fits", "quality"]
    assert tags["kind"] == ("a", "b"), "there is nothing to choose by in an empty text"
    assert tags["difficulty"] == ("1", "2", "10"), "in the order of numbers"
    assert shown(made)[1]["tags"] == {"kind": "b", "difficulty": "2", "fits": "False", "quality": made["quality"][1]}


def test_what_is_always_another_or_always_the_same_is_no_tag():
    dataset = Dataset.from_dict(
        {
            "name": [f"n{n}" for n in range(9)],
            "number": list(range(9)),
            "same": ["x"] * 9,
            "long": ["y" * 99, "z"] * 4 + [""],
        }
    )
    assert not Layout.of(dataset).tags


def test_steps_are_told_with_their_model_seed_and_tokens():
    made = mapped(Dataset.from_dict({"instruction": ["a"]}), TextGeneration(EchoLLM()))
    seed = str(made[0]["generation_metadata"][0]["seed"])
    assert shown(made)[0]["steps"] == [("TextGeneration", "echo", seed, 0, 1, 1, "stop")]
