import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pytest

from hfsynth.config import from_plain


@dataclass(frozen=True)
class Inner:
    ratio: float
    name: str = ""


@dataclass(frozen=True)
class Outer:
    pair: tuple[int, str]
    many: tuple[Inner, ...]
    by_name: Mapping[str, Inner]
    maybe: Inner | None


@pytest.mark.parametrize("maybe", [None, Inner(1.5)])
def test_what_asdict_made_plain_is_made_again(maybe):
    value = Outer((1, "a"), (Inner(0.5), Inner(2.0, "x")), {"k": Inner(0.1)}, maybe)
    assert from_plain(Outer, json.loads(json.dumps(asdict(value)))) == value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, "1", "'1' is no int"),
        (tuple[int, ...], "12", "'12' is no tuple"),
        (Inner, {"ratio": "x"}, "'x' is no float"),
        (Inner, {"ratio": 1.0, "age": 3}, "Inner has no 'age'"),
        (Inner, {}, "ratio"),
        (Mapping[str, int], [1], "is no"),
    ],
)
def test_what_is_no_plain_form_of_a_type_is_an_error(kind, value, message):
    with pytest.raises(TypeError, match=message):
        from_plain(kind, value)
