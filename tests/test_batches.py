import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from datasets.formatting.formatting import LazyBatch, PythonFormatter

from hfsynth import EchoLLM, Pipeline, TextGeneration
from hfsynth.technique import batch_rows, checked_indices, merge_columns

FEATURES = Features({"b": Value("string")})


def lazy(**columns):
    return LazyBatch(pa.table(columns), PythonFormatter())


def test_rows_are_read_under_the_techniques_own_names():
    assert batch_rows({"x": [1, 2], "y": [3, 4]}, {"a": "x"}, 2) == [{"a": 1}, {"a": 2}]


def taken_up(batch):
    return {name: batch[name].to_pylist() for name in batch if not isinstance(batch[name], list)}


def test_what_a_technique_makes_of_a_datasets_batch_carries_its_type_even_if_all_is_none():
    batch = lazy(a=[1, 2])
    assert merge_columns(batch, [0, 1], {"b": [None, None]}, FEATURES) == {}
    assert batch["b"].type == pa.string()
    assert taken_up(batch) == {"b": [None, None]}


def test_where_rows_multiply_the_others_are_repeated():
    batch = lazy(a=[1, 2])
    merge_columns(batch, [0, 1, 1], {"b": ["x", "y", "z"]}, FEATURES)
    assert taken_up(batch) == {"a": [1, 2, 2], "b": ["x", "y", "z"]}


def test_a_stream_gets_plain_lists():
    assert merge_columns({"a": [1]}, [0], {"b": [None]}, FEATURES) == {"b": [None]}
    assert merge_columns({"a": [1]}, [0, 0], {"b": ["x", "y"]}, FEATURES) == {"a": [1, 1], "b": ["x", "y"]}


def test_a_batch_that_is_no_dict_is_an_error_that_says_how_to_get_one():
    with pytest.raises(TypeError, match=r"as a dict of lists, not DataFrame.*with_format\(None\)"):
        checked_indices("X", pd.DataFrame(), [0])


ROWS = Dataset.from_dict({"text": ["tea", "rye"], "stars": [4, 5]})
STEP = TextGeneration(EchoLLM(), template="{{ text }}: {{ stars }} stars")
CALL = {"batched": True, "with_indices": True, "load_from_cache_file": False}


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_map_over_arrays_reads_plain_values(form):
    made = ROWS.with_format(form).map(STEP, **CALL).with_format(None)
    assert made["generation"][:] == ["tea: 4 stars", "rye: 5 stars"]
    again = made.with_format(form).map(second(), **CALL).with_format(None)
    assert [len(entries) for entries in again["generation_metadata"]] == [2, 2]


def second():
    return TextGeneration(EchoLLM(), name="Second", template="{{ stars }}", output_mappings={"generation": "b"})


@pytest.mark.parametrize("form", ["pandas", "arrow"])
def test_map_over_a_format_says_to_take_it_off(form):
    with pytest.raises(TypeError, match=r"with_format\(None\)"):
        ROWS.with_format(form).map(STEP, **CALL)


def test_map_over_a_formatted_stream_reads_plain_values():
    stream = ROWS.to_iterable_dataset().with_format("numpy").map(STEP, batched=True, with_indices=True)
    assert [str(row["generation"]) for row in stream] == ["tea: 4 stars", "rye: 5 stars"]


def test_map_with_rank_makes_what_it_makes_without():
    assert ROWS.map(STEP, with_rank=True, **CALL)["generation"][:] == ["tea: 4 stars", "rye: 5 stars"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"input_columns": ["text"]}, "input_columns"),
        ({"input_columns": "text"}, "input_columns"),
        ({"input_columns": ["text", "stars"]}, "input_columns"),
        ({"input_columns": ["text", "stars"], "with_rank": True}, "input_columns"),
        ({"input_columns": ["text"], "with_indices": False}, "input_columns"),
        ({"input_columns": ["text"], "batched": False}, "input_columns"),
        ({"with_indices": False}, "with_indices=True"),
        ({"with_indices": False, "with_rank": True}, "with_indices=True"),
        ({"batched": False}, "batched=True"),
        ({"batched": False, "with_indices": False}, "batched=True"),
        ({"fn_kwargs": {"temperature": 1}}, "fn_kwargs"),
    ],
)
def test_map_called_otherwise_names_the_argument(arguments, named):
    with pytest.raises(TypeError, match=named):
        ROWS.map(STEP, **{**CALL, **arguments})


@pytest.mark.parametrize("arguments", [{}, {"batched": True}, {"batched": True, "with_indices": True}])
def test_map_of_a_pipeline_says_to_run_it(arguments):
    with pytest.raises(TypeError, match=r"pipeline\.run\(dataset\)"):
        ROWS.map(Pipeline((STEP,)), **arguments)
    with pytest.raises(TypeError, match=r"pipeline\.run\(dataset\)"):
        Pipeline((STEP,))(ROWS)
