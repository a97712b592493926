"""Read the records of a JSON, XML, Markdown or CSV text from a completion."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hfsynth.parsing.lines import is_introduction, nonblank_lines
from hfsynth.parsing.structures import element_records, parsed_csv, parsed_json, parsed_table
from hfsynth.parsing.wrappers import without_surroundings, without_thoughts


def parse_records(text: str, is_record: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    r"""Return the records of a text: JSON objects, XML elements, or rows of a Markdown table or CSV; [] if none.

    Args:
        text: The completion. Records may be nested in other objects, and follow a line that announces them.
        is_record: Returns whether an object is a record, by its keys and values.

    >>> text = 'Here are the examples:\n```json\n{"examples": [{"input": "2 + 2", "output": 4}]}\n```'
    >>> parse_records(text, lambda record: "output" in record)
    [{'input': '2 + 2', 'output': 4}]
    """
    try:
        return _read_records(without_surroundings(without_thoughts(text)), is_record)
    except RecursionError:  # nested too deeply
        return []


def _read_records(text: str, is_record: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    if (values := parsed_json(text)) is not None:
        return list(_records_within(values, is_record))
    if (table := parsed_table(text, cut_off=False) or parsed_csv(text, cut_off=False)) is not None:
        rows = [dict(zip(table[0], row, strict=True)) for row in table[1]]
        return [row for row in rows if is_record(row)]
    before, opening, _ = text.partition("<")
    return element_records(text, is_record) if opening and is_introduction(nonblank_lines(before.split("\n"))) else []


def _records_within(value: Any, is_record: Callable[[Mapping[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    """Yield the records in a value, also those nested in lists and in other objects."""
    if isinstance(value, dict) and is_record(value):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _records_within(inner, is_record)
