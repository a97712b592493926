import pytest
from datasets import Dataset
from huggingface_hub import DatasetCardData

from hfsynth import EchoLLM, Magpie, Pipeline, TextGeneration
from hfsynth.publish.card_data import merge_metadata, metadata_of, size_category
from hfsynth.publish.files import write_config, write_facts
from tests.helpers import NamedLLM

NAMES = [
    "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B",
    "100B<n<1T", "n>1T",
]  # fmt: skip


def facts(folder, rows, name="default", stated=(), technique=Magpie(EchoLLM())):  # noqa: B008 - it is frozen
    folder = folder / f"{name}-{rows}"
    folder.mkdir()
    made = Pipeline((technique,)).run(Dataset.from_dict({"text": ["a"] * rows}), quiet=True)
    return write_facts(folder, write_config(folder, made, name, ()), dict(stated))


def test_sizes_have_the_names_that_the_hub_knows():
    assert [size_category(10**power - 1) for power in range(3, 14)] == NAMES
    assert [size_category(10**power) for power in range(3, 13)] == NAMES[1:]
    assert size_category(0) == "n<1K"


def test_the_metadata_names_every_configuration_and_the_real_size(tmp_path):
    metadata = metadata_of([facts(tmp_path, 1, "one"), facts(tmp_path, 1000, "two")])
    assert [config["config_name"] for config in metadata["configs"]] == ["one", "two"]
    assert metadata["size_categories"] == ["1K<n<10K"]
    assert metadata["annotations_creators"] == ["machine-generated"]
    assert {"synthetic", "hfsynth"} <= set(metadata["tags"])
    assert metadata["source_datasets"] == ["original"]
    assert DatasetCardData(**metadata).to_dict() == metadata


def test_nothing_is_guessed(tmp_path):
    assert not {"license", "language"} & set(metadata_of([facts(tmp_path, 1)]))


@pytest.mark.parametrize(
    ("models", "licence", "languages"),
    [
        ([("mit", ["en"])], "mit", ["en"]),
        ([("mit", ["en"]), ("mit", ["en"])], "mit", ["en"]),
        ([("mit", ["en"]), ("apache-2.0", ["en"])], None, ["en"]),
        ([("mit", ["en"]), ("", [])], None, None),
        ([("mit", ["en", "fr"])], "mit", None),
        ([("", ["en"])], None, ["en"]),
    ],
)
def test_a_licence_and_a_language_are_told_where_all_state_the_same_one(tmp_path, models, licence, languages):
    llms = [NamedLLM(model=f"m{n}", licence=one[0], languages=tuple(one[1])) for n, one in enumerate(models)]
    first, *rest = llms
    pipeline = Pipeline((Magpie(first), *(TextGeneration(llm) for llm in rest)))
    made = pipeline.run(Dataset.from_dict({"id": [1]}), quiet=True)
    metadata = metadata_of([write_config(tmp_path, made, "default", ())])
    assert (metadata.get("license"), metadata.get("language")) == (licence, languages)


def test_what_was_made_of_texts_of_unknown_licence_has_none(tmp_path):
    stated = {"echo": {"licence": "mit", "languages": ["en"]}}
    answers = TextGeneration(EchoLLM(), input_mappings={"instruction": "text"})
    assert "license" not in metadata_of([facts(tmp_path, 1, stated=stated, technique=answers)])
    assert metadata_of([facts(tmp_path, 2, stated=stated)])["license"] == "mit"


def info(name, rows):
    return {"config_name": name, "splits": [{"name": "train", "num_examples": rows}]}


def config(name):
    return {"config_name": name, "data_files": f"{name}/*"}


def ours(*names, rows=10, **more):
    return {"configs": [config(n) for n in names], "dataset_info": [info(n, rows) for n in names], **more}


def test_what_the_user_set_or_took_away_stays_so_and_what_we_set_is_renewed():
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


def test_the_size_is_that_of_all_configurations_or_left_alone_where_one_does_not_say():
    head = {"configs": [config("theirs")], "dataset_info": info("theirs", 5_000)}
    merged = merge_metadata(head, {}, ours("a", size_categories=["n<1K"]))
    assert merged["size_categories"] == ["1K<n<10K"]
    assert [one["config_name"] for one in merged["configs"]] == ["a", "theirs"]
    del head["dataset_info"]
    merged = merge_metadata({**head, "size_categories": ["n>1T"]}, {}, ours("a", size_categories=["n<1K"]))
    assert merged["size_categories"] == ["n>1T"]


def test_merging_again_changes_nothing():
    now = ours("a", license="mit", tags=["x"], size_categories=["n<1K"])
    assert merge_metadata(now, now, now) == now
