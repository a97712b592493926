import datetime

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCardData

from hfsynth import EchoLLM, Magpie, Pipeline, TextGeneration
from hfsynth.llm import Origin
from hfsynth.publish.card_data import (
    ConfigFacts,
    SplitFacts,
    card_metadata,
    merge_metadata,
    model_steps,
    size_category,
)
from hfsynth.publish.files import write_config, write_facts
from tests.helpers import NamedLLM

pytestmark = pytest.mark.usefixtures("cached_pictures")


def answered(*instructions, **fields):
    pipeline = Pipeline((TextGeneration(EchoLLM(), **fields),))
    return pipeline.run(Dataset.from_dict({"instruction": list(instructions)}), quiet=True)


def test_config_facts_run_of_two_splits_is_counted_once(tmp_path):
    first, other = answered(*"abcd"), answered("c", seed=9)
    both = DatasetDict(train=first.select([0, 1]), test=first.select([2, 3]), other=other)
    facts = write_config(tmp_path, both, "default", ())
    assert [step.recipe["seed"] for step in facts.steps] == [0, 9]
    assert [step.node.model for step in model_steps(facts)] == ["echo"]
    assert facts.rows == 5


@pytest.mark.parametrize(("rows", "expected"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (10, [0, 5, 9])])
def test_split_facts_samples_are_first_middle_and_last_row(rows, expected):
    split = SplitFacts.of("train", Dataset.from_dict({"n": list(range(rows))}))
    assert [row["n"] for row in split.samples] == expected


def test_split_facts_samples_have_dates_and_bytes_as_text():
    day = datetime.datetime(2026, 1, 2)
    split = SplitFacts.of("train", Dataset.from_dict({"a": [{"day": [day], "raw": b"x"}]}))
    assert split.samples == ({"a": {"day": ["2026-01-02 00:00:00"], "raw": "1 bytes"}},)
    texts = SplitFacts.of("test", Dataset.from_dict({"text": ["b", None]}))
    facts = ConfigFacts("default", {}, (split, texts), {})
    assert ConfigFacts.from_json(facts.to_json()).splits == (split, texts)


NAMES = [
    "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B",
    "100B<n<1T", "n>1T",
]  # fmt: skip


def facts(folder, count, name="default", origins=(), technique=Magpie(EchoLLM())):  # noqa: B008 - it is frozen
    folder = folder / f"{name}-{count}"
    folder.mkdir()
    rows = Pipeline((technique,)).run(Dataset.from_dict({"text": ["a"] * count}), quiet=True)
    return write_facts(folder, write_config(folder, rows, name, ()), dict(origins))


def test_size_category_names_equal_those_of_the_hub():
    assert [size_category(10**power - 1) for power in range(3, 14)] == NAMES
    assert [size_category(10**power) for power in range(3, 13)] == NAMES[1:]
    assert size_category(0) == "n<1K"


def test_card_metadata_has_every_config_and_total_size(tmp_path):
    metadata = card_metadata([facts(tmp_path, 1, "one"), facts(tmp_path, 1000, "two")])
    assert [config["config_name"] for config in metadata["configs"]] == ["one", "two"]
    assert metadata["size_categories"] == ["1K<n<10K"]
    assert metadata["annotations_creators"] == ["machine-generated"]
    assert {"synthetic", "hfsynth"} <= set(metadata["tags"])
    assert metadata["source_datasets"] == ["original"]
    assert DatasetCardData(**metadata).to_dict() == metadata


def test_card_metadata_without_origins_has_no_license(tmp_path):
    assert not {"license", "language"} & set(card_metadata([facts(tmp_path, 1)]))


@pytest.mark.parametrize(
    ("models", "license", "languages"),
    [
        ([("mit", ["en"])], "mit", ["en"]),
        ([("mit", ["en"]), ("mit", ["en"])], "mit", ["en"]),
        ([("mit", ["en"]), ("apache-2.0", ["en"])], None, ["en"]),
        ([("mit", ["en"]), ("", [])], None, None),
        ([("mit", ["en", "fr"])], "mit", None),
        ([("", ["en"])], None, ["en"]),
    ],
)
def test_card_metadata_license_is_the_one_that_all_state(tmp_path, models, license, languages):
    llms = [NamedLLM(model=f"m{n}", license=one[0], languages=tuple(one[1])) for n, one in enumerate(models)]
    first, *rest = llms
    pipeline = Pipeline((Magpie(first), *(TextGeneration(llm) for llm in rest)))
    rows = pipeline.run(Dataset.from_dict({"id": [1]}), quiet=True)
    metadata = card_metadata([write_config(tmp_path, rows, "default", ())])
    assert (metadata.get("license"), metadata.get("language")) == (license, languages)


def test_card_metadata_license_needs_that_of_the_source(tmp_path):
    origins = {"echo": Origin(license="mit", languages=("en",))}
    answers = TextGeneration(EchoLLM(), input_mappings={"instruction": "text"})
    assert "license" not in card_metadata([facts(tmp_path, 1, origins=origins, technique=answers)])
    assert card_metadata([facts(tmp_path, 2, origins=origins)])["license"] == "mit"


def info(name, rows):
    return {"config_name": name, "splits": [{"name": "train", "num_examples": rows}]}


def config(name):
    return {"config_name": name, "data_files": f"{name}/*"}


def ours(*names, rows=10, **more):
    return {"configs": [config(n) for n in names], "dataset_info": [info(n, rows) for n in names], **more}


def test_merge_metadata_keeps_users_changes_and_updates_ours():
    before = ours("a", license="mit", language=["en"], tags=["synthetic", "hfsynth"])
    now = ours("a", license="apache-2.0", language=["fr"], tags=["synthetic", "hfsynth", "new"])
    head = {**before, "license": "cc0-1.0", "tags": ["synthetic", "chess"], "pretty_name": "P"}
    merged = merge_metadata(head, before, now)
    assert merged["license"] == "cc0-1.0"
    assert merged["language"] == ["fr"]
    assert merged["tags"] == ["synthetic", "new", "chess"]
    assert merged["pretty_name"] == "P"
    del head["license"]
    assert "license" not in merge_metadata(head, before, now)


def test_merge_metadata_size_counts_all_configurations():
    head = {"configs": [config("theirs")], "dataset_info": info("theirs", 5_000)}
    merged = merge_metadata(head, {}, ours("a", size_categories=["n<1K"]))
    assert merged["size_categories"] == ["1K<n<10K"]
    assert [one["config_name"] for one in merged["configs"]] == ["a", "theirs"]
    del head["dataset_info"]
    merged = merge_metadata({**head, "size_categories": ["n>1T"]}, {}, ours("a", size_categories=["n<1K"]))
    assert merged["size_categories"] == ["n>1T"]


def test_merge_metadata_twice_changes_nothing():
    now = ours("a", license="mit", tags=["x"], size_categories=["n<1K"])
    assert merge_metadata(now, now, now) == now
