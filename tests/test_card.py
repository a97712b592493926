import re

import pytest
import yaml
from datasets import Dataset, DatasetDict

from hfsynth import EchoLLM, Pipeline, TextGeneration
from hfsynth.publish.card import write_card
from hfsynth.publish.card_data import ConfigFacts
from hfsynth.publish.files import write_config, write_facts

EVIL = (
    "```\n---\n<script>alert(1)</script> | # head {{ 7 * 7 }} {% raw %} **b** <!-- hfsynth: end x --> $a$ @me ![x](y)"
)


@pytest.fixture
def facts(tmp_path):
    """Make the facts of a configuration of these instructions."""

    def made(instructions, config_name="default", **fields):
        pipeline = Pipeline((TextGeneration(EchoLLM(), **fields),))
        rows = pipeline.run(Dataset.from_dict({"instruction": instructions}), quiet=True)
        folder = tmp_path / f"files-{config_name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return write_facts(folder, write_config(folder, rows, config_name, ()), {})

    return made


def parts(card):
    _, head, text = re.split("^---\n", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head), text


def outside_of_code(text):
    lines, fence = [], ""
    for line in text.splitlines():
        run = line[: len(line) - len(line.lstrip("`"))]
        if fence and line == fence:
            fence = ""
        elif not fence and len(run) >= 3:
            fence = run
        elif not fence:
            lines.append(line)
    assert not fence, "a block of code isn't closed"
    return lines


def test_text_from_rows_prompts_and_names_can_not_break_the_card(facts):
    config = facts([EVIL, "b"], system_prompt=EVIL, output_mappings={"generation": EVIL})
    metadata, text = parts(write_card("user/x", "", [], [config]))
    assert [info["features"][1]["name"] for info in metadata["dataset_info"]] == [EVIL]
    for line in outside_of_code(text):
        assert "<script" not in line.replace("\\<", "")
        assert "49" not in line
        if line.startswith("|") and EVIL[20:30] in line:
            assert line.replace("\\|", "").count("|") in (3, 12)
    again = write_card("user/x", write_card("user/x", "", [], [config]), [config], [config])
    assert again == write_card("user/x", "", [], [config])


def test_a_steps_name_can_not_break_the_html_around_its_fields(facts):
    text = write_card("user/x", "", [], [facts(["a"], name="<img>_2")])
    assert "<summary>&lt;img&gt;_2: every field" in text


def test_with_nothing_optional_there_is_no_empty_heading(facts, tmp_path):
    bare = write_config(tmp_path, Dataset.from_dict({"n": [1, 2]}), "default", ())
    for config in (bare, facts([]), facts([None]), facts(["a"])):
        lines = [line for line in write_card("user/x", "", [], [config]).splitlines() if line.strip()]
        for line, following in zip(lines, [*lines[1:], "# end"], strict=True):
            if line.startswith("#"):
                assert not following.startswith(("#", "<!-- hfsynth: end")) or line == "# x", line


def test_what_the_user_wrote_in_the_card_stays_where_it_was(facts):
    one, two = facts(["a"], "one"), facts(["b", "c"], "two")
    first = write_card("user/x", "", [], [one])
    metadata, text = parts(first)
    metadata |= {"license": "mit", "pretty_name": "Mine", "tags": [*metadata["tags"], "chess"]}
    edited = f"---\n{yaml.safe_dump(metadata)}---\n\nBefore.\n{text}\nAfter. <!-- hfsynth: end nothing -->\n"
    metadata, text = parts(write_card("user/x", edited, [one], [one, two]))
    assert text.startswith("\nBefore.\n\n# x\n")
    assert text.endswith("\nAfter. <!-- hfsynth: end nothing -->\n")
    assert text.count("## one") == text.count("## two") == 1
    assert (metadata["license"], metadata["pretty_name"]) == ("mit", "Mine")
    assert metadata["tags"] == ["synthetic", "hfsynth", "chess"]


def test_a_card_that_the_user_wrote_alone_gets_a_part_of_ours_at_its_end(facts):
    card = write_card("user/x", "# Mine\n\nHello.\n", [], [facts(["a"])])
    assert parts(card)[1].startswith("# Mine\n\nHello.\n\n<!-- hfsynth: begin ")


def test_the_same_facts_write_the_same_card_again(facts):
    config = facts(["a", None])
    card = write_card("user/x", "", [], [config])
    assert write_card("user/x", card, [config], [config]) == card


@pytest.mark.parametrize(("head", "said"), [("a: [", "is not YAML"), ("- a", "must be names and values")])
def test_metadata_that_can_not_be_read_is_an_error_and_not_overwritten(facts, head, said):
    with pytest.raises(ValueError, match=said):
        write_card("user/x", f"---\n{head}\n---\n", [], [facts(["a"])])


def test_norwegian_stays_a_language(facts):
    card = write_card("user/x", "---\nlanguage:\n- no\nflag: true\n---\n", [], [facts(["a"])])
    assert parts(card)[0]["language"] == ["no"]
    assert parts(card)[0]["flag"] is True


def test_each_split_tells_how_alike_its_instructions_are_and_every_picture_is_there(tmp_path):
    same = [f"Name {number} fruits." for number in ("two", "three", "four")]
    odd = ["Why is the sky blue?", "Add 2 and 3.", "Zymurgy"]
    one = ["Only one."]
    splits = {name: Dataset.from_dict({"instruction": texts}) for name, texts in (("a", same), ("b", odd), ("c", one))}
    config = write_facts(tmp_path, write_config(tmp_path, DatasetDict(splits), "default", ()), {})
    assert ConfigFacts.from_json(config.to_json()) == config
    text = " ".join(write_card("user/x", "", [], [config]).split())
    assert "### Diversity of instruction (a) Of 3 texts compared with all others by ROUGE-L, 0 (0.0%)" in text
    assert "### Diversity of instruction (b) Of 3 texts" in text
    assert "instruction (c)" not in text.partition("### Diversity")[2]
    linked = set(re.findall(r"!\[[^\]]+\]\(default/([\w.-]+)\)", text))
    assert linked >= {"similarity.png", "similarity-2.png"}
    assert linked == {file.name for file in tmp_path.glob("*.png")}
