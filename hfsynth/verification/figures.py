"""Comparison of a card and its record with the published files and rows, without a model."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from difflib import unified_diff
from importlib.metadata import version
from typing import Any

import yaml
from datasets import Dataset, SplitInfo

from hfsynth.analysis.diversity import measure_quick_diversity
from hfsynth.metadata import METADATA_COLUMN, StepTally
from hfsynth.publish.card import body_mark, read_body, read_metadata, render_body
from hfsynth.publish.card_data import SplitFacts, numbered_name
from hfsynth.publish.files import PublishedConfig, column_type, dataset_info, file_checksums, recipe_text
from hfsynth.run_record import StepRecord

_CLOSE = 1e-9  # largest relative difference that rounding can explain
_BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Check:
    """The comparison of one kind of statements in the record with the published files."""

    subject: str
    """The kind of statements, such as "files"."""
    compared: int
    """Number of statements."""
    differences: tuple[str, ...] = ()
    """A sentence for each statement that does not hold."""
    note: str = ""
    """The statements that could not be compared, with the reason; "" if all were."""


def check_files(published: PublishedConfig) -> Check:
    """Compare the files of a configuration with the SHA-256 that its record states for each."""
    recorded, present = published.facts.checksums, file_checksums(published.config_folder)
    if not recorded:
        return Check("files", 0, note="the record has no checksums: an earlier version of hfsynth wrote it")
    differences = [f"{name} is missing" for name in recorded if name not in present]
    loaded = [name for split in published.facts.splits for name in published.loaded_files(split)]
    differences += [f"{name} is not in the record" for name in sorted({*present, *loaded}) if name not in recorded]
    differences += [
        f"{name} has the SHA-256 {present[name][:12]}…, and {recorded[name][:12]}… in the record"
        for name in recorded
        if name in present and present[name] != recorded[name]
    ]
    return Check("files", len(recorded), tuple(differences))


def check_figures(published: PublishedConfig) -> Check:
    """Compute the figures of all splits from their rows, and compare them with those of the record."""
    facts = published.facts
    recorded, computed = dict[str, Any](), dict[str, Any]()
    splits = dict[str, Dataset]()
    for split in facts.splits:
        rows = splits[split.name] = published.rows(split)
        found = SplitFacts.of(
            split.name,
            rows,
            failures=len(published.failures(split)),
            diversity=measure_quick_diversity(rows),
        )
        recorded[split.name] = asdict(replace(split, runs=()))
        computed[split.name] = asdict(found)
    features = next(iter(splits.values())).features
    sizes = {one["name"]: one["num_bytes"] for one in facts.info.get("splits", ())}
    infos = [SplitInfo(name, num_bytes=sizes.get(name, 0), num_examples=len(rows)) for name, rows in splits.items()]
    recorded |= {"columns": facts.columns, "info": facts.info}
    computed |= {
        "columns": {name: column_type(feature) for name, feature in features.items()},
        "info": dataset_info(facts.config_name, features, infos, published.config_folder),
    }
    values, others = (dict(_leaves(json.loads(json.dumps(one)))) for one in (recorded, computed))
    differences = [
        f"{name} is {_short(values.get(name, 'nothing'))} in the record, and {_short(others.get(name, 'nothing'))} "
        "by the rows"
        for name in dict.fromkeys((*values, *others))
        if name not in values or name not in others or not _equal(values[name], others[name])
    ]
    return Check("figures", len(values), tuple(differences))


def check_steps(published: PublishedConfig) -> Check:
    """Compare the counts of each step with the entries of the rows, and with the files of failures.

    Rows that failed or were dropped are not published, so the published rows have at most the tokens of the record. If
    every row was published, the numbers must be equal.
    """
    facts = published.facts
    rows = [published.rows(split) for split in facts.splits]
    failures = [failure for split in facts.splits for failure in published.failures(split)]
    by_name: dict[str, list[StepRecord]] = {}
    for step in facts.steps:
        by_name.setdefault(step.name, []).append(step)
    is_complete = _is_complete(published)
    differences, without_files, compared = list[str](), list[str](), 0
    for name, steps in by_name.items():
        reasons = Counter(_reason(failure) for failure in failures if failure["step"] == name)
        listed = sum((Counter(_recorded_reasons(step)) for step in steps), Counter[str]())
        if failures:
            compared += len(listed | reasons)
            differences += [
                f"{name}: {listed[reason]} rows with {reason!r} in the record, and {reasons[reason]} in the files of "
                "failures"
                for reason in listed | reasons
                if listed[reason] != reasons[reason]
            ]
        elif listed:
            without_files.append(name)
        if all(step.node.model for step in steps):  # techniques, which write entries
            compared += 3
            differences += _token_differences(name, steps, rows, is_complete)
    notes = [] if is_complete else ["tokens of rows that failed or were dropped are in the record alone"]
    if without_files:
        notes.append(f"no file has the failures of {', '.join(without_files)}")
    return Check("steps", compared, tuple(differences), "; ".join(notes))


def check_recipe(published: PublishedConfig) -> Check:
    """Compare each hfsynth.yaml with the steps of the run's record."""
    differences, compared = list[str](), 0
    for number, run in enumerate(published.facts.runs, 1):
        if not (expected := recipe_text(run)):
            continue
        compared += 1
        name = numbered_name("hfsynth.yaml", number)
        file = published.config_folder / name
        if not file.is_file():
            differences.append(f"{name} is missing")
        elif _recipe_content(file.read_bytes()) != _recipe_content(expected.encode()):
            differences.append(f"{name} has other steps than the record")
    return Check("recipes", compared, tuple(differences))


def check_card(published: PublishedConfig) -> Check:
    """Render the card's text and header from the record, and compare them with README.md line by line."""
    found = read_body(published.readme)
    if found is None:
        return Check("card", 1, ("README.md has no part that hfsynth wrote",))
    mark, body = found
    loaded_as = next((line for line in body.splitlines() if line.startswith("dataset = load_dataset(")), "")
    try:
        name = str(json.loads(f"[{loaded_as.partition('(')[2].rpartition(')')[0]}]")[0]) if loaded_as else ""
    except (ValueError, IndexError):
        return Check("card", 1, (f"the line {loaded_as!r:.120} of README.md was edited",))
    expected = render_body(name, published.others)
    changed = [
        line
        for line in unified_diff(expected.splitlines(), body.splitlines(), "record", "card", lineterm="", n=0)
        if line[0] in "+-" and not line.startswith(("+++", "---"))
    ]
    differences = [f"the card has the line {line[1:]!r:.120}" for line in changed if line[0] == "+"]
    differences += [f"the card lacks the line {line[1:]!r:.120}" for line in changed if line[0] == "-"]
    if mark != body_mark(body):
        differences.append("the part of README.md that hfsynth wrote was edited afterwards: its mark differs")
    differences += _header_differences(published)
    written_by = {step.versions.get("hfsynth", "") for config in published.others for step in config.steps} - {""}
    note = ""
    if changed and written_by - {version("hfsynth")}:
        note = f"hfsynth {', '.join(sorted(written_by))} wrote the card, and this is version {version('hfsynth')}"
    return Check("card", len(expected.splitlines()) + 1, tuple(differences), note)


def _header_differences(published: PublishedConfig) -> Iterator[str]:
    """Yield a sentence if the entry of the configuration in the card's header differs from the record."""
    header, _ = read_metadata(published.readme)
    infos = header.get("dataset_info") or []
    listed = infos if isinstance(infos, list) else [infos]
    name = published.facts.config_name
    if json.loads(json.dumps(published.facts.info)) not in json.loads(json.dumps(listed)):
        yield f"dataset_info of {name!r} in the header of README.md differs from the record"


def _is_complete(published: PublishedConfig) -> bool:
    """Return whether every input row was published: no row failed, was dropped or was left out."""
    facts = published.facts
    lossless = all(not step.failures and not step.dropped for step in facts.steps)
    is_single = all(len(split.runs) == 1 for split in facts.splits) and not any(run.wanted for run in facts.runs)
    rows_out = sum(run.steps[-1].rows_out for run in facts.runs if run.steps)
    return lossless and is_single and bool(facts.steps) and rows_out == facts.rows


def _token_differences(name: str, steps: list[StepRecord], rows: list[Dataset], is_complete: bool) -> Iterator[str]:
    tally = StepTally(step=name)
    for dataset in rows:
        if METADATA_COLUMN in dataset.column_names:
            for table in dataset.select_columns(METADATA_COLUMN).with_format("arrow").iter(_BATCH_ROWS):
                tally.update(table)
    for unit, counted in (
        ("rows out", (sum(step.rows_out for step in steps), tally.rows_out)),
        ("prompt tokens", (sum(step.prompt_tokens for step in steps), tally.prompt_tokens)),
        ("completion tokens", (sum(step.completion_tokens for step in steps), tally.completion_tokens)),
    ):
        recorded, found = counted
        if found > recorded or (is_complete and found != recorded):
            yield f"{name}: {recorded:,} {unit} in the record, and {found:,} by the rows"


def _recorded_reasons(step: StepRecord) -> Mapping[str, int]:
    """Return the record's numbers of failed rows by reason or, for a filter, of dropped rows by rule."""
    if step.node.makes is None:
        return {rule: rows for rule, rows in step.stopped.items() if rule}
    return step.failures


def _reason(failure: Mapping[str, Any]) -> str:
    return str(failure["rule"] or failure["reason"])


def _recipe_content(text: bytes) -> Any:
    """Return a recipe's content without the version of hfsynth; None if the text is not YAML."""
    try:
        recipe = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return {name: value for name, value in recipe.items() if name != "hfsynth"} if isinstance(recipe, dict) else recipe


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of each leaf of nested mappings; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _equal(value: Any, other: Any) -> bool:
    """Return whether two values are equal; floats may differ by rounding."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_equal, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_equal(value[name], other[name]) for name in value)
    if isinstance(value, float) and isinstance(other, (int, float)):
        return math.isclose(value, other, rel_tol=_CLOSE)
    return bool(value == other)


def _short(value: Any) -> str:
    return f"{value!r:.80}"
