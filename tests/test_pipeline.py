import pytest
from datasets import Dataset, DatasetDict, Features, Value

from hfsynth import ColumnError, EchoLLM, EvolInstruct, Magpie, Pipeline, SelfInstruct, TextGeneration, TransformersLLM
from tests.helpers import ScriptedLLM

LLM = EchoLLM()


def chain(llm=LLM):
    return (
        SelfInstruct(llm)
        >> EvolInstruct(llm, num_evolutions=1)
        >> TextGeneration(llm, output_mappings={"generation": "response"})
    )


def test_steps_chain_their_columns_and_multiply_rows():
    made = chain().run(Dataset.from_dict({"input": ["Tea.", None]}), quiet=True)
    assert made.column_names == [
        "input",
        "instruction",
        "generation_metadata",
        "evolved_instruction",
        "evolutions",
        "response",
    ]
    assert len(made) == 6  # five instructions in what the echo says of the prompt, and the row that failed
    assert made[0]["response"] == made[0]["instruction"]
    assert [entry["step"] for entry in made[0]["generation_metadata"]] == [
        "SelfInstruct",
        "EvolInstruct",
        "TextGeneration",
    ]


def test_a_run_makes_the_rows_of_the_bare_maps():
    dataset = Dataset.from_dict({"input": ["Tea.", "Coffee.", "Milk."]})
    bare = dataset
    for step in chain().steps:
        bare = bare.map(step, batched=True, with_indices=True, batch_size=2)
    assert chain().run(dataset, chunk_size=2, quiet=True).to_list() == bare.to_list()


def test_run_again_it_generates_nothing(tmp_path):
    log = tmp_path / "log"
    pipeline = Pipeline((TextGeneration(ScriptedLLM(log=str(log))),))
    dataset = Dataset.from_dict({"instruction": ["a", "b", "c"]})
    first = pipeline.run(dataset, run_dir=tmp_path / "run", chunk_size=2, quiet=True)
    assert log.read_text().count("\n") == 3
    again = pipeline.run(dataset, run_dir=tmp_path / "run", chunk_size=2, quiet=True)
    assert log.read_text().count("\n") == 3
    assert again.to_list() == first.to_list()


def test_columns_are_checked_through_the_whole_chain_before_a_model_is_loaded():
    nowhere = TransformersLLM("/nowhere")
    pipeline = SelfInstruct(nowhere, one_row_each=False) >> EvolInstruct(nowhere)
    with pytest.raises(
        ColumnError, match=r"step 2, EvolInstruct needs column 'instruction'; the dataset has .*'instructions'"
    ):
        pipeline.run(Dataset.from_dict({"input": ["Tea."]}))


def test_a_step_may_not_replace_a_column_of_an_earlier_one():
    with pytest.raises(ColumnError, match="step 2, TextGeneration_2 would replace column 'generation'"):
        (TextGeneration(LLM) >> TextGeneration(LLM)).features(Features({"instruction": Value("string")}))


def test_pipelines_chain_too_and_equal_steps_get_names_of_their_own():
    one, two = TextGeneration(LLM), TextGeneration(LLM, output_mappings={"generation": "again"})
    names = [step.name for step in ((one >> two) >> (two >> two)).steps]
    assert names == ["TextGeneration", "TextGeneration_2", "TextGeneration_3", "TextGeneration_4"]


def test_what_is_no_step_is_an_error():
    with pytest.raises(
        TypeError, match="a pipeline's step is a technique, a filter or a named function of a dataset, not 'magpie'"
    ):
        Magpie(LLM) >> "magpie"


def test_a_dataset_dict_is_an_error_that_lists_its_splits():
    splits = DatasetDict({"train": Dataset.from_dict({"input": ["a"]})})
    with pytest.raises(TypeError, match=r"DatasetDict.*\['train'\]"):
        chain().run(splits)


@pytest.mark.parametrize("transform", ["with_transform", "set_transform"])
def test_run_dataset_with_a_transform_is_an_error(transform):
    rows = Dataset.from_dict({"input": ["a"]})
    rows = getattr(rows, transform)(lambda batch: batch) or rows
    with pytest.raises(TypeError, match=r"with_format\(None\)"):
        chain().run(rows)
    with pytest.raises(TypeError, match=r"with_format\(None\)"):
        chain().preview(rows)


def test_pipeline_step_without_a_tuple_names_the_tuple():
    with pytest.raises(TypeError, match=r"TextGeneration.*Pipeline\(\(step,\)\)"):
        Pipeline(TextGeneration(LLM))


def test_an_empty_dataset_becomes_an_empty_one_with_all_columns():
    empty = Dataset.from_dict({"input": []}, features=Features({"input": Value("string")}))
    made = chain().run(empty, quiet=True)
    assert len(made) == 0
    assert made.features["response"] == Value("string")


def test_the_drawing_shows_which_step_reads_what_another_made():
    drawing = chain().draw()
    assert 'step1 -- "instruction" --> step2' in drawing
    assert 'dataset -- "input" --> step1' in drawing
    assert 'step3 -- "response" --> result' in drawing


def test_a_step_that_reads_what_another_has_evolved_since_is_told(caplog):
    dataset = Dataset.from_dict({"instruction": ["a"]})
    (EvolInstruct(LLM) >> TextGeneration(LLM)).run(dataset, quiet=True)
    assert "step 2, TextGeneration, reads 'instruction', of which step 1 makes 'evolved_instruction'" in caplog.text
    caplog.clear()
    for column in ("evolved_instruction", "instruction"):
        answer = TextGeneration(LLM, input_mappings={"instruction": column})
        (EvolInstruct(LLM) >> answer).run(dataset, quiet=True)
    assert not caplog.text


def test_text_in_a_drawing_can_not_break_it():
    drawing = Pipeline((TextGeneration(LLM, name='a"]; evil'),)).draw()
    assert "a&quot;]; evil" in drawing


def test_a_pipeline_is_drawn_into_a_file_and_shown_by_a_notebook(tmp_path):
    chain = TextGeneration(EchoLLM()) >> TextGeneration(EchoLLM(), output_mappings={"generation": "again"})
    assert chain.draw(file=tmp_path / "steps.png") == chain.draw()
    chain.draw(file=tmp_path / "steps.svg")
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "steps.svg").read_text() == chain._repr_svg_()
    assert "TextGeneration_2" in chain._repr_svg_()
    with pytest.raises(ValueError, match=r"the picture 'steps\.gif' must end in \.png or \.svg"):
        chain.draw(file="steps.gif")
