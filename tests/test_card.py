import yaml
from datasets import Dataset

from hfsynth import EchoLLM, Pipeline, TextGeneration, split_failures
from hfsynth.card import ConfigCard, render_card, size_category

EVIL = "```\n---\n<script>alert(1)</script> | # head {{ 7 * 7 }} **b** "


def card_of(instructions, name="default", **fields):
    pipeline = Pipeline((TextGeneration(EchoLLM(), **fields),))
    made = pipeline.run(Dataset.from_dict({"instruction": instructions}), quiet=True)
    return ConfigCard.of(name, *split_failures(made), pipeline)


def test_the_counts_are_those_of_the_rows():
    card = card_of(["a", None, "b", "", None])
    assert card.num_rows == 2
    assert card.failures == {"TextGeneration: instruction is None": 2, "TextGeneration: instruction is empty": 1}
    assert card.samples == [{"instruction": "a", "generation": "a"}, {"instruction": "b", "generation": "b"}]


def test_the_facts_come_back_from_json():
    card = card_of(["a"])
    assert ConfigCard.from_json(card.to_json()) == card


def test_the_metadata_names_every_configuration_and_the_real_size():
    text = render_card("My data", [card_of(["a"], "one"), card_of(["b"] * 1000, "two")])
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert [config["config_name"] for config in metadata["configs"]] == ["one", "two"]
    assert metadata["size_categories"] == ["1K<n<10K"]
    assert "synthetic" in metadata["tags"]
    assert size_category(2_000_000_000) == "n>1B"


def test_each_step_is_told_with_its_model_prompt_and_sampling():
    text = render_card("x", [card_of(["a"], template="Say {{ instruction }}!", seed=5)])
    for part in (
        "TextGeneration, by echo, seed 5",
        "Say {{ instruction }}!",
        "temperature: 0.7",
        "max_new_tokens: 1024",
    ):
        assert part in text


def test_text_from_rows_and_names_can_not_break_the_card():
    text = render_card(EVIL, [card_of([EVIL], name="x", system_prompt=EVIL)])
    outside, fence = [], ""
    for line in text.split("---\n", 2)[2].splitlines():
        run = line[: len(line) - len(line.lstrip("`"))]
        if fence and line == fence:
            fence = ""
        elif not fence and len(run) >= 3:
            fence = run
        elif not fence:
            outside.append(line)
    assert not fence
    assert not any("<script" in line.replace("\\<", "") for line in outside)


def test_with_nothing_that_failed_there_is_no_heading_for_it():
    assert "Rows that failed" not in render_card("x", [card_of(["a"])])
    assert "Rows that failed" in render_card("x", [card_of([None])])
