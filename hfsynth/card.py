"""A dataset card: what was run, what came out, three rows of it. Facts first, as a value; then Markdown."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import yaml
from datasets import Dataset

from hfsynth.pipeline import Pipeline
from hfsynth.technique import Technique

_HIDDEN = ("llm", "name", "input_mappings", "output_mappings", "seed")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
SAMPLES = 3


@dataclass(frozen=True)
class StepCard:
    """One step: its name and technique, the model and how it was loaded, and the technique's own fields."""

    name: str
    technique: str
    model: str
    llm: dict[str, Any]
    seed: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class ConfigCard:
    """The facts of one configuration of a dataset."""

    config_name: str
    num_rows: int
    columns: dict[str, str]
    """Column → its type."""
    steps: list[StepCard]
    diagram: str
    """Mermaid text."""
    failures: dict[str, int]
    """"step: reason" → rows."""
    samples: list[dict[str, Any]]
    """The first rows, without `generation_metadata`."""

    @classmethod
    def of(cls, config_name: str, dataset: Dataset, failures: Dataset, pipeline: Pipeline) -> "ConfigCard":
        """Read the facts from the rows and the pipeline that made them."""
        reasons = Counter(f"{row['step']}: {row['reason']}" for row in failures)
        shown = dataset.remove_columns([name for name in dataset.column_names if name == "generation_metadata"])
        return cls(
            config_name=config_name,
            num_rows=len(dataset),
            columns={name: str(kind) for name, kind in dataset.features.items()},
            steps=[_step_card(step) for step in pipeline.steps if isinstance(step, Technique)],
            diagram=pipeline.draw(),
            failures=dict(reasons.most_common()),
            samples=[shown[index] for index in range(min(SAMPLES, len(shown)))],
        )

    def to_json(self) -> str:
        """Return the facts as JSON, for `from_json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> "ConfigCard":
        """Read the facts that `to_json` wrote."""
        facts = json.loads(text)
        return cls(**{**facts, "steps": [StepCard(**step) for step in facts["steps"]]})


def render_card(title: str, cards: Sequence[ConfigCard]) -> str:
    """Write the README.md of a dataset with these configurations: YAML metadata, then a section for each."""
    metadata = {
        "annotations_creators": ["machine-generated"],
        "size_categories": [size_category(sum(card.num_rows for card in cards))],
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "hfsynth"],
        "configs": [
            {
                "config_name": card.config_name,
                "data_files": [{"split": "train", "path": f"{card.config_name}/train-*.parquet"}],
            }
            for card in cards
            if card.num_rows
        ],
    }
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    intro = f"# {_plain(title)}\n\nMade with hfsynth {version('hfsynth')} by the models named below.\n"
    return "\n".join([f"---\n{head}---\n\n{intro}", *(_section(card) for card in cards)])


def size_category(num_rows: int) -> str:
    """Return the Hub's name for a number of rows.

    >>> size_category(999), size_category(1000), size_category(5_000_000)
    ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    return next((name for limit, name in (*_SIZES, *_LARGER) if num_rows < limit), "n>1B")


def fenced(text: str, language: str = "") -> str:
    """Put any text in a code block that it can't end.

    >>> print(fenced("```"))
    ````
    ```
    ````
    """
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _step_card(step: Technique) -> StepCard:
    fields = _fields(step)
    own = {name: value for name, value in fields.items() if name not in _HIDDEN}
    return StepCard(step.name, type(step).__name__, step.llm.model_name, fields["llm"], step.seed, own)


def _fields(step: Technique) -> dict[str, Any]:
    """Return a technique's fields as plain values, without the notes on classes."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(item) for name, item in value.items() if not name.startswith("__")}
        return value

    fields: dict[str, Any] = plain(json.loads(step.to_json()))
    fields["llm"] = {name: value for name, value in fields["llm"].items() if name != "model"}
    return fields


def _section(card: ConfigCard) -> str:
    parts = [
        f"## {_plain(card.config_name)}",
        f"{card.num_rows:,} rows; columns: {', '.join(f'`{name}`' for name in card.columns)}.",
        fenced(
            f'from datasets import load_dataset\n\ndataset = load_dataset("<this dataset>", "{card.config_name}")',
            "python",
        ),
        fenced(card.diagram, "mermaid"),
    ]
    for number, step in enumerate(card.steps, 1):
        parts += [
            f"### Step {number}: {_plain(step.name)}",
            f"{step.technique}, by {_plain(step.model)}, seed {step.seed}.",
            fenced(yaml.safe_dump({**step.fields, "llm": step.llm}, sort_keys=False, allow_unicode=True), "yaml"),
        ]
    if card.failures:
        parts += ["### Rows that failed", _table(("rows", "why"), [(str(n), why) for why, n in card.failures.items()])]
    if card.samples:
        rows = json.dumps(card.samples, indent=1, ensure_ascii=False, default=str)
        parts += [f"### The first {len(card.samples)} rows", fenced(rows, "json")]
    return "\n\n".join(parts) + "\n"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *(tuple(map(_plain, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Make text that Markdown and HTML show as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", " ".join(text.split()))
