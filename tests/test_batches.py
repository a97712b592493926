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


def test_where_the_number_of_rows_stays_only_new_columns_are_returned():
    assert merge_columns(lazy(a=[1, 2]), [0, 1], {"b": ["x", None]}, FEATURES) == {"b": ["x", None]}


def test_where_rows_multiply_the_others_are_repeated():
    assert merge_columns(lazy(a=[1, 2]), [0, 1, 1], {"b": ["x", "y", "z"]}, FEATURES) == {
        "a": [1, 2, 2],
        "b": ["x", "y", "z"],
    }


def test_where_all_values_are_none_an_arrow_table_carries_the_types():
    made = merge_columns(lazy(a=[1, 2]), [0, 1], {"b": [None, None]}, FEATURES)
    assert isinstance(made, pa.Table)
    assert made.schema.field("b").type == pa.string()
    assert made.to_pydict() == {"a": [1, 2], "b": [None, None]}


def test_a_stream_gets_plain_lists_even_then():
    assert merge_columns({"a": [1]}, [0], {"b": [None]}, FEATURES) == {"b": [None]}


def test_a_batch_that_is_no_dict_is_an_error_that_names_its_type():
    with pytest.raises(TypeError, match="takes a batch as a dict of columns, not list"):
        checked_indices("X", [], [0])
