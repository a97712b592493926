import pytest
from datasets import Dataset, Features, Value

from hfsynth import (
    ColumnError,
    Deduplicate,
    EchoLLM,
    EvolInstruct,
    GenerationError,
    Magpie,
    Pipeline,
    SelfInstruct,
    TextGeneration,
    TransformersLLM,
)
from hfsynth.pipeline import Arrow, Diagram
from hfsynth.step import Node
from tests.helpers import RepeatingLLM

LLM = EchoLLM()


def chain(llm=LLM):
    return (
        SelfInstruct(llm)
        >> EvolInstruct(llm, num_evolutions=1)
        >> TextGeneration(llm, output_mappings={"generation": "response"})
    )


def test_run_of_a_chain_has_all_columns_and_multiplied_rows():
    result = chain().run(Dataset.from_dict({"input": ["Tea.", None]}), quiet=True)
    assert result.column_names == [
        "input",
        "instruction",
        "generation_metadata",
        "evolved_instruction",
        "evolutions",
        "response",
    ]
    assert len(result) == 6  # five instructions in what the echo says of the prompt, and the row that failed
    assert result[0]["response"] == result[0]["instruction"]
    assert [entry["step"] for entry in result[0]["generation_metadata"]] == [
        "SelfInstruct",
        "EvolInstruct",
        "TextGeneration",
    ]


def test_run_has_the_rows_of_plain_maps():
    dataset = Dataset.from_dict({"input": ["Tea.", "Coffee.", "Milk."]})
    bare = dataset
    for step in chain().steps:
        bare = bare.map(step, batched=True, with_indices=True, batch_size=2)
    assert chain().run(dataset, chunk_size=2, quiet=True).to_list() == bare.to_list()


def test_run_a_second_time_generates_nothing(tmp_path):
    log = tmp_path / "log"
    pipeline = Pipeline((TextGeneration(RepeatingLLM(log=str(log))),))
    dataset = Dataset.from_dict({"instruction": ["a", "b", "c"]})
    first = pipeline.run(dataset, run_dir=tmp_path / "run", chunk_size=2, quiet=True)
    assert log.read_text().count("\n") == 3
    second = pipeline.run(dataset, run_dir=tmp_path / "run", chunk_size=2, quiet=True)
    assert log.read_text().count("\n") == 3
    assert second.to_list() == first.to_list()


def test_run_checks_columns_before_a_model_is_loaded():
    nowhere = TransformersLLM("/nowhere")
    pipeline = SelfInstruct(nowhere, one_row_each=False) >> EvolInstruct(nowhere)
    with pytest.raises(ColumnError, match=r"step 2, EvolInstruct .*'instruction'.*'instructions'"):
        pipeline.run(Dataset.from_dict({"input": ["Tea."]}))


@pytest.mark.parametrize("method", ["run", "preview"])
def test_missing_model_ends_before_any_progress(capsys, tmp_path, method):
    """The second step's model is missing: the first step generates nothing."""
    second = {"input_mappings": {"instruction": "generation"}, "output_mappings": {"generation": "second"}}
    pipeline = TextGeneration(LLM) >> TextGeneration(TransformersLLM(str(tmp_path), gguf_file="a.gguf"), **second)
    with pytest.raises(GenerationError, match=r"'a\.gguf'"):
        getattr(pipeline, method)(Dataset.from_dict({"instruction": ["Tea."]}))
    assert capsys.readouterr() == ("", "")


def test_missing_embedding_model_ends_before_a_run(tmp_path):
    pipeline = TextGeneration(LLM) >> Deduplicate("embeddings", column="generation", model=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=str(tmp_path / "none")):
        pipeline.check(Features({"instruction": Value("string")}))


def test_features_of_a_replaced_column_raise():
    with pytest.raises(ColumnError, match=r"step 2, TextGeneration_2 .*'generation'"):
        (TextGeneration(LLM) >> TextGeneration(LLM)).features(Features({"instruction": Value("string")}))


def test_rshift_of_pipelines_numbers_equal_names():
    one, two = TextGeneration(LLM), TextGeneration(LLM, output_mappings={"generation": "second"})
    names = [step.name for step in ((one >> two) >> (two >> two)).steps]
    assert names == ["TextGeneration", "TextGeneration_2", "TextGeneration_3", "TextGeneration_4"]


def test_rshift_of_a_text_raises():
    with pytest.raises(TypeError, match=r"step.*'magpie'"):
        Magpie(LLM) >> "magpie"


@pytest.mark.parametrize("transform", ["with_transform", "set_transform"])
def test_run_of_a_dataset_with_a_transform_raises(transform):
    rows = Dataset.from_dict({"input": ["a"]})
    rows = getattr(rows, transform)(lambda batch: batch) or rows
    with pytest.raises(TypeError, match=r"with_format\(None\)"):
        chain().run(rows)
    with pytest.raises(TypeError, match=r"with_format\(None\)"):
        chain().preview(rows)


def test_pipeline_of_a_bare_step_raises_with_the_tuple():
    with pytest.raises(TypeError, match=r"TextGeneration.*Pipeline\(\(step,\)\)"):
        Pipeline(TextGeneration(LLM))


def test_run_of_an_empty_dataset_has_all_columns():
    empty = Dataset.from_dict({"input": []}, features=Features({"input": Value("string")}))
    result = chain().run(empty, quiet=True)
    assert len(result) == 0
    assert result.features["response"] == Value("string")


def test_draw_has_the_columns_between_steps():
    drawing = chain().draw()
    assert 'step1 -- "instruction" --> step2' in drawing
    assert 'dataset -- "input" --> step1' in drawing
    assert 'step3 -- "response" --> result' in drawing


def test_run_warns_of_a_column_with_a_newer_version(caplog):
    dataset = Dataset.from_dict({"instruction": ["a"]})
    (EvolInstruct(LLM) >> TextGeneration(LLM)).run(dataset, quiet=True)
    hint = caplog.messages[0]
    assert all(
        part in hint for part in ("step 2, TextGeneration", "step 1", "'evolved_instruction'", "input_mappings")
    )
    caplog.clear()
    for column in ("evolved_instruction", "instruction"):
        answer = TextGeneration(LLM, input_mappings={"instruction": column})
        (EvolInstruct(LLM) >> answer).run(dataset, quiet=True)
    assert not caplog.text


def test_draw_escapes_names():
    drawing = Pipeline((TextGeneration(LLM, name='a"]; evil'),)).draw()
    assert "a&quot;]; evil" in drawing


def test_draw_writes_pictures_by_the_files_ending(tmp_path):
    chain = TextGeneration(EchoLLM()) >> TextGeneration(EchoLLM(), output_mappings={"generation": "second"})
    assert chain.draw(file=tmp_path / "steps.png") == chain.draw()
    chain.draw(file=tmp_path / "steps.svg")
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "steps.svg").read_text() == chain._repr_svg_()
    assert "TextGeneration_2" in chain._repr_svg_()
    with pytest.raises(ValueError, match=r"'steps\.gif'.*\.png or \.svg"):
        chain.draw(file="steps.gif")


def node(name, reads, makes, model="m"):
    return Node(name, model, tuple(reads), makes and tuple(makes))


CHAIN = Diagram.of(
    ["text", "id"],
    [
        node("ask", ["text"], ["question"]),
        node("keep", [], None, ""),
        node("answer", ["question"], ["reply"]),
        node("second", ["question"], ["question"]),
    ],
)


def test_diagram_arrow_comes_from_the_last_writer():
    assert Arrow(1, 2, ("question",)) in CHAIN.arrows
    assert Arrow(2, 3, ("question",)) in CHAIN.arrows
    assert Arrow(4, 5, ("question",)) in CHAIN.arrows
    assert Arrow(3, 5, ("reply",)) in CHAIN.arrows


def test_diagram_result_has_no_unchanged_column():
    assert not [arrow for arrow in Diagram.of(["id"], [node("a", [], ["b"])]).arrows if "id" in arrow.columns]


def test_diagram_function_takes_all_columns():
    assert Arrow(0, 2, ("text", "id")) in CHAIN.arrows


def test_mermaid_escapes_names():
    mermaid = Diagram.of(['a"] --> x'], [node("<b>", ['a"] --> x'], ["c"], '"m"')]).mermaid()
    assert "&lt;b&gt;" in mermaid
    assert '"m"' not in mermaid.replace("&quot;", "")
    assert 'a"]' not in mermaid


def test_mermaid_of_unread_dataset_has_no_box_for_it():
    mermaid = Diagram.of(["id"], [node("make", [], ["text"]), node("use", ["text"], ["reply"])]).mermaid()
    assert "dataset" not in mermaid
    assert 'step1 -- "text" --> step2' in mermaid
