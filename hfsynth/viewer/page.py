"""`view`: writes one HTML page that displays the rows, failures and report of a dataset."""

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import Environment, PackageLoader

from hfsynth.metadata import METADATA_COLUMN, split_failures, step_names
from hfsynth.viewer.rows import Layout

_BLOCK_SIZE = 1_000  # rows that the page unpacks at once


def view(
    dataset: Dataset,
    file: str | Path,
    *,
    title: str = "dataset",
    failures: Dataset | None = None,
    report: str = "",
) -> Path:
    """Write a self-contained page that displays a dataset's rows, its failures and its report in a browser.

    Args:
        dataset: The rows; those on which a step failed are displayed among the failures.
        file: The path of the page.
        title: The title of the page.
        failures: Failures that are not in the dataset (`FAILURE_FEATURES`).
        report: A fragment of HTML such as `report(dataset).html()`, which is inserted as it is.

    Returns:
        The path of the page.
    """
    rows = dataset
    failed: list[Mapping[str, Any]] = failures.to_list() if failures is not None else []
    if METADATA_COLUMN in dataset.column_names:
        rows, own_failures = split_failures(dataset)
        listed = {frozenset(failure.items()) for failure in failed}
        failed += [failure for failure in own_failures.to_list() if frozenset(failure.items()) not in listed]
    layout = Layout.of(rows)
    facts = {
        "rows": len(rows),
        "block": _BLOCK_SIZE,
        "tags": layout.tags,
        "failures": len(failed),
        "steps": list(dict.fromkeys([*step_names(rows)[0], *(failure["step"] for failure in failed)])),
    }
    environment = Environment(loader=PackageLoader("hfsynth.viewer", "."), autoescape=True)
    parts = environment.get_template("page.html.jinja").generate(
        title=title,
        facts=_packed(facts),
        rows=_packed_blocks(layout.rows(rows)),
        failures=_packed_blocks(failed),
        report=report,
    )
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as page:
        page.writelines(parts)  # block by block: the page is never in memory as a whole
    return path


def _packed_blocks(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield rows as packed lists of `_BLOCK_SIZE`."""
    iterator = iter(rows)
    while block := list(islice(iterator, _BLOCK_SIZE)):
        yield _packed(block)


def _packed(value: Any) -> str:
    """Return compressed JSON in base64, which has no characters of HTML."""
    text = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(text, mtime=0)).decode("ascii")
