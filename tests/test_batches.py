import pyarrow as pa
import pytest
from datasets import Features, Value
from datasets.formatting.formatting import LazyBatch, PythonFormatter

from hfsynth.batches import batch_rows, checked_indices, merge_columns

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
    with pytest.raises(TypeError, match=r"as a dict of columns, not list; .*with_format\(None\)"):
        checked_indices("X", [], [0])
