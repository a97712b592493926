"""One HTML page that shows rows of a dataset: conversations, columns, evolutions."""

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import Environment, PackageLoader

from hfsynth.metadata import METADATA_COLUMN, split_failures, step_names
from hfsynth.viewer.rows import Layout

ROWS_IN_A_PIECE = 1_000


def view(
    dataset: Dataset,
    file: str | Path,
    *,
    title: str = "dataset",
    failures: Dataset | None = None,
    report: str = "",
) -> Path:
    """Write a page that shows a dataset's rows, its failures and its report; a browser needs nothing else for it.

    Args:
        dataset: The rows; those on which a step failed are shown among the failures.
        file: The page.
        title: What it is called.
        failures: Failures that were kept apart (`FAILURE_FEATURES`).
        report: A piece of HTML, such as `report(dataset).html()`; it is put in as it is.

    Returns:
        The page.
    """
    rows, failed = dataset, list[Mapping[str, Any]](failures.to_list() if failures is not None else [])
    if METADATA_COLUMN in dataset.column_names:
        rows, own = split_failures(dataset)
        known = {frozenset(one.items()) for one in failed}
        failed += [one for one in own.to_list() if frozenset(one.items()) not in known]
    layout = Layout.of(rows)
    facts = {
        "rows": len(rows),
        "piece": ROWS_IN_A_PIECE,
        "tags": layout.tags,
        "failures": len(failed),
        "steps": _steps(rows, failed),
    }
    template = Environment(loader=PackageLoader("hfsynth.viewer", "."), autoescape=True).get_template(
        "page.html.jinja"
    )
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as page:
        for part in template.generate(
            title=title,
            facts=_packed(facts),
            pieces=_pieces(layout.rows(rows)),
            failures=_pieces(failed),
            report=report,
        ):
            page.write(part)
    return path


def _steps(rows: Dataset, failed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the steps that rows or failures come from."""
    return list(dict.fromkeys([*step_names(rows)[0], *(failure["step"] for failure in failed)]))


def _pieces(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Give rows as packed lists, a limited number in each."""
    left = iter(rows)
    while piece := list(islice(left, ROWS_IN_A_PIECE)):
        yield _packed(piece)


def _packed(value: Any) -> str:
    """Return JSON, compressed, in letters that mean nothing in HTML; the same for the same value."""
    text = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(text, mtime=0)).decode("ascii")
