"""The dataset card: its text, what the user wrote in it, and each of its numbers, recomputed from the rows."""

import json
import re
import shlex
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from rouge_score.rouge_scorer import RougeScorer

from hfsynth import EchoLLM, EvolInstruct, Magpie, Pipeline, SeedPool, SelfInstruct, TextGeneration, save
from hfsynth.analysis.diversity import QuickDiversity
from hfsynth.analysis.text_stats import ColumnFigures, Lengths, Spread
from hfsynth.llm import Origin
from hfsynth.publish.card import reproduction_snippets, write_card
from hfsynth.publish.card_data import ConfigFacts, SplitFacts
from hfsynth.publish.files import write_config, write_facts
from hfsynth.record import RunRecord, Source, StepRecord, records
from hfsynth.step import Node
from tests.helpers import OnlyOnce, RepeatingLLM, new_failures

pytestmark = pytest.mark.usefixtures("cached_pictures")
GOLDEN = Path(__file__).parent / "golden" / "card.md"
EVIL = (
    "```\n---\n<script>alert(1)</script> | # head {{ 7 * 7 }} {% raw %} **b** <!-- hfsynth: end x --> $a$ @me ![x](y)"
)
VERSIONS = {"python": "3.11.7", "hfsynth": "0.1.0"}


def golden_configs():
    """A configuration with two splits of one run, and one that no run generated; every part of a card is in them."""
    question = StepRecord(
        "SelfInstruct", {"__class__": "SelfInstruct", "llm": {"__class__": "EchoLLM"}, "num_instructions": 2},
        Node("SelfInstruct", "user/small", ("input",), ("instruction",)), 24, 40,
        truncated=1, prompt_tokens=12_345, completion_tokens=960,
        finish_reasons={"stop": 20, "length": 4}, failures={"no instruction found": 3, "refused": 1},
        seconds=150.5, wall_seconds=75.3, processes=2, machine="NVIDIA H100", versions=VERSIONS,
        origin=Origin("a" * 40, "apache-2.0", ("en",)), finished="2026-11-25", citation="@misc{wang2022}",
    )  # fmt: skip
    select = StepRecord(
        "Novelty", {"__class__": "Novelty", "threshold": 0.7}, Node("Novelty", "", ("instruction",), None), 40, 30,
        stopped={"": 30, "near_another": 10}, seconds=0.1, wall_seconds=0.1, machine="NVIDIA H100",
    )  # fmt: skip
    evolve = StepRecord(
        "EvolInstruct", {"__class__": "EvolInstruct", "llm": {"__class__": "EchoLLM"}},
        Node("EvolInstruct", "large", ("instruction",), ("evolved_instruction",)), 30, 30,
        prompt_tokens=900, completion_tokens=600, finish_reasons={"stop": 30},
        stopped={"": 28, "unchanged": 2}, finished="2026-11-26", versions=VERSIONS,
    )  # fmt: skip
    run = RunRecord(Source(24, ("input",), "user/texts", "b" * 40, "default", "train"), (question, select, evolve), 8)
    figures = ColumnFigures(1, 2, Lengths.of({5: 3, 12: 4, 20: 2}), {"LATIN": 90, "CYRILLIC": 10})
    diversity = QuickDiversity(
        "instruction", 20, 20, Spread.of(np.array([0.1, 0.4, 0.8] * 6 + [0.2, 0.3]), (0.0, 1.0)), 6
    )
    train = SplitFacts("train", 20, {"instruction": figures}, ({"instruction": "Name a river."},), (run,), 14, 3,
                       diversity)  # fmt: skip
    test = SplitFacts("test", 10, {}, (), (run,), 0)
    generated = ConfigFacts(
        "evolved", {"instruction": "string", "generation_metadata": "list of {step}"}, (train, test),
        {"config_name": "evolved"}, {"user/texts@" + "b" * 40: Origin("b" * 40, "apache-2.0", ("en",))},
    )  # fmt: skip
    plain = ConfigFacts(
        "plain", {"n": "int64"}, (SplitFacts("train", 1, {}, ({"n": 1},), (), 0),), {"config_name": "plain"}
    )  # fmt: skip
    return [generated, plain]


def test_write_card_equals_golden_file():
    """After an intended change, write `write_card("user/rivers", "", [], golden_configs())` into the file."""
    assert write_card("user/rivers", "", [], golden_configs()) == GOLDEN.read_text(encoding="utf-8")


@pytest.fixture
def facts(tmp_path):
    """A function that returns the facts of a configuration with answers to instructions."""

    def write(instructions, config_name="default", **fields):
        pipeline = Pipeline((TextGeneration(EchoLLM(), **fields),))
        rows = pipeline.run(Dataset.from_dict({"instruction": instructions}), quiet=True)
        folder = tmp_path / f"files-{config_name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return write_facts(folder, write_config(folder, rows, config_name, ()), {})

    return write


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


def test_write_card_escapes_rows_prompts_and_names(facts):
    config = facts([EVIL, "b"], system_prompt=EVIL, output_mappings={"generation": EVIL})
    card = write_card("user/x", "", [], [config])
    metadata, text = parts(card)
    assert [info["features"][1]["name"] for info in metadata["dataset_info"]] == [EVIL]
    for line in outside_of_code(text):
        assert "<script" not in line.replace("\\<", "")
        assert "49" not in line
        if line.startswith("|") and EVIL[20:30] in line:
            assert line.replace("\\|", "").count("|") in (3, 12)
    assert write_card("user/x", card, [config], [config]) == card


def test_write_card_escapes_html_in_a_steps_name(facts):
    text = write_card("user/x", "", [], [facts(["a"], name="<img>_2")])
    assert "&lt;img&gt;_2</summary>" in text


def test_write_card_has_no_empty_section(facts, tmp_path):
    bare = write_config(tmp_path, Dataset.from_dict({"n": [1, 2]}), "default", ())
    for config in (bare, facts([]), facts([None]), facts(["a"])):
        lines = [line for line in write_card("user/x", "", [], [config]).splitlines() if line.strip()]
        for line, following in zip(lines, [*lines[1:], "# end"], strict=True):
            if line.startswith("#"):
                assert not following.startswith(("#", "<!-- hfsynth: end")) or line == "# x", line


def test_write_card_keeps_users_text_and_header(facts):
    one, two = facts(["a"], "one"), facts(["b", "c"], "two")
    metadata, text = parts(write_card("user/x", "", [], [one]))
    metadata |= {"license": "mit", "pretty_name": "Mine", "tags": [*metadata["tags"], "chess"]}
    edited = f"---\n{yaml.safe_dump(metadata)}---\n\nBefore.\n{text}\nAfter. <!-- hfsynth: end nothing -->\n"
    metadata, text = parts(write_card("user/x", edited, [one], [one, two]))
    assert text.startswith("\nBefore.\n\n# x\n")
    assert text.endswith("\nAfter. <!-- hfsynth: end nothing -->\n")
    assert text.count("## one") == text.count("## two") == 1
    assert (metadata["license"], metadata["pretty_name"]) == ("mit", "Mine")
    assert metadata["tags"] == ["synthetic", "hfsynth", "chess"]


def test_write_card_appends_to_a_card_of_the_user(facts):
    card = write_card("user/x", "# Mine\n\nHello.\n", [], [facts(["a"])])
    assert parts(card)[1].startswith("# Mine\n\nHello.\n\n<!-- hfsynth: begin ")


def test_write_card_of_same_facts_is_the_same(facts):
    config = facts(["a", None])
    card = write_card("user/x", "", [], [config])
    assert write_card("user/x", card, [config], [config]) == card


@pytest.mark.parametrize("head", ["a: [", "- a"])
def test_write_card_with_unreadable_header_is_an_error(facts, head):
    with pytest.raises(ValueError, match=r"README\.md"):
        write_card("user/x", f"---\n{head}\n---\n", [], [facts(["a"])])


def test_write_card_keeps_norwegian_as_a_language(facts):
    card = write_card("user/x", "---\nlanguage:\n- no\nflag: true\n---\n", [], [facts(["a"])])
    assert parts(card)[0]["language"] == ["no"]
    assert parts(card)[0]["flag"] is True


def test_write_card_links_every_image_of_every_split(tmp_path):
    alike = [f"Name {number} fruits." for number in ("two", "three", "four")]
    different = ["Why is the sky blue?", "Add 2 and 3.", "Zymurgy"]
    texts = {"a": alike, "b": different, "c": ["Only one."]}
    splits = DatasetDict({name: Dataset.from_dict({"instruction": column}) for name, column in texts.items()})
    config = write_facts(tmp_path, write_config(tmp_path, splits, "default", ()), {})
    assert ConfigFacts.from_json(config.to_json()) == config
    text = write_card("user/x", "", [], [config])
    headings = re.findall("^### Diversity of (.*)$", text, re.MULTILINE)
    assert headings == ["instruction (a)", "instruction (b)"]
    assert "0 of 3 texts (0.0%)" in text
    linked = set(re.findall(r"!\[[^\]]+\]\(default/([\w.-]+)\)", text))
    assert linked >= {"similarity.png", "similarity-2.png"}
    assert linked == {file.name for file in tmp_path.glob("*.png")}


ASKS = RepeatingLLM(
    ("What is tea made of?\nWhy do cats purr?", "Name a river.\nName a lake.", "!the model is tired", "ok")
)
HARDER = RepeatingLLM(("Explain tea in 20 words", "", "Rewritten prompt: say it", "Name a long river"))
ANSWERS = RepeatingLLM(("Water and leaves.", "!odd", "Да.", "Water and leaves."))


def not_too_short(dataset):
    return dataset.filter(lambda row: len(row["evolved_instruction"] or "x" * 99) > 13)


FIRST = SelfInstruct(ASKS, num_instructions=2)
SECOND = EvolInstruct(HARDER, num_evolutions=2)
LAST = TextGeneration(
    ANSWERS, input_mappings={"instruction": "evolved_instruction"}, output_mappings={"generation": "response"}
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A card, the rows as they are loaded from its folder, and the rows after each step."""
    folder = tmp_path_factory.mktemp("saved")
    texts = Dataset.from_dict({"input": [f"text {n % 5}" if n % 7 else None for n in range(40)]})
    options = {"run_dir": folder / "run", "quiet": True, "chunk_size": 6}
    stages = [texts]
    for pipeline in (Pipeline((FIRST,)), FIRST >> SECOND, FIRST >> SECOND >> not_too_short):
        stages.append(pipeline.run(texts, **options))
    stages.append((FIRST >> SECOND >> not_too_short >> LAST).run(texts, **options))
    save(stages[-1], folder / "dataset")
    rows = load_dataset(str(folder / "dataset"), split="train", cache_dir=str(folder / "cache")).to_list()
    return (folder / "dataset" / "README.md").read_text(), rows, [stage.to_list() for stage in stages]


def table(card, *head):
    """The rows of the table that begins with these columns, as dictionaries."""
    lines = card.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| " + " | ".join(head) + " |"))
    names = [name.strip() for name in lines[start].strip("|").split("|")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append(
            dict(zip(names, (cell.strip().replace("\\", "") for cell in line.strip("|").split("|")), strict=True))
        )
    raise AssertionError("the table doesn't end")


def number(text):
    return float(text.replace(",", ""))


def entries(rows, place):
    """The entries of one step, one for each row of its input on which no step before failed."""
    reached = [row["generation_metadata"] for row in rows if not failed(row["generation_metadata"][:place])]
    return list({history[place]["row"]: history[place] for history in reached}.values())


def failed(history):
    return any(entry["error"] for entry in history)


def completed(rows):
    """How many rows no step failed on."""
    return sum(not failed(row.get("generation_metadata", ())) for row in rows)


def test_card_counts_rows_and_failures_of_a_split(saved):
    card, rows, stages = saved
    (split,) = table(card, "Split", "Rows", "Failed or dropped")
    ever = sum(sum(new_failures(stages[stage], place).values()) for place, stage in enumerate((1, 2, 4)))
    assert number(split["Rows"]) == len(rows) == completed(stages[-1])
    assert number(split["Failed or dropped"]) == ever > 0, "those that the function dropped, too"
    assert f"\n{len(rows)} rows. Generated with SelfInstruct → EvolInstruct → not_too_short → " in card
    assert f"from 40 rows in memory; {ever} rows failed; " in card


def test_card_counts_rows_and_tokens_of_every_step(saved):
    card, _, stages = saved
    steps = table(card, "Step", "Model", "Rows in")
    assert [step["Step"] for step in steps] == ["SelfInstruct", "EvolInstruct", "not_too_short", "TextGeneration"]
    for step, before, after, place in zip(steps, stages, stages[1:], (0, 1, None, 2), strict=False):
        assert (number(step["Rows in"]), number(step["Rows out"])) == (completed(before), completed(after))
        if place is None:
            assert step["Failed"] == step["Prompt tokens"] == step["Completion tokens"] == "0"
            continue
        assert number(step["Failed"]) == sum(new_failures(after, place).values())
        for column, name in (("Prompt tokens", "prompt_tokens"), ("Completion tokens", "completion_tokens")):
            assert number(step[column]) == sum(entry[name] for entry in entries(after, place))
    assert len(stages[3]) < len(stages[2]), "the function drops rows, or the test says nothing"


def reasons(text, total):
    """{reason: number} of the "(one: 2; other: 1)" at a line's end; a single reason stands without its number."""
    listed = re.search(r" \((.*)\)$", text)[1].split("; ")
    if len(listed) == 1:
        return {listed[0]: total}
    return {reason: int(count) for reason, count in (one.rsplit(": ", 1) for one in listed)}


def test_card_counts_failures_rules_and_finish_reasons(saved):
    card, _, stages = saved
    lines = re.findall(r"^- (.*)$", card.replace("\\", ""), re.MULTILINE)

    def line(*words):
        return next((line for line in lines if all(word in line for word in words)), None)

    for name, place, stage in (("SelfInstruct", 0, 1), ("EvolInstruct", 1, 2), ("TextGeneration", 2, 4)):
        failures = new_failures(stages[stage], place)
        of_step = line(f"{name}: ", "failed")
        total = sum(failures.values())
        if failures:
            assert of_step.startswith(f"{name}: {total} rows failed (")
            assert reasons(of_step, total) == failures
        else:
            assert of_step is None
        ends = Counter(entry["finish_reason"] for entry in entries(stages[stage], place) if entry["finish_reason"])
        assert reasons(line(f"{name}: ", "finish reasons"), sum(ends.values())) == ends
    rules = Counter(one["eliminated_by"] for row in stages[2] for one in row["evolutions"] or ())
    kept = rules.pop("")
    rounds = line("EvolInstruct: ", "kept")
    assert rounds.startswith(f"EvolInstruct: {kept} rounds kept; {sum(rules.values())} eliminated (")
    assert reasons(rounds, sum(rules.values())) == rules
    dropped = completed(stages[2]) - completed(stages[3])
    assert line("not_too_short: ") == (
        f"not_too_short: {completed(stages[3])} of {completed(stages[2])} rows kept; {dropped} rows dropped"
    )


def test_card_of_mapped_rows_states_minimums(tmp_path):
    """Two halves of `Dataset.map` have equal seeds, and a filter has removed one of each row's two instructions."""
    asks = SelfInstruct(RepeatingLLM(("What is a?\nWhat is b?",)), num_instructions=2)
    halves = [Dataset.from_dict({"input": list(texts)}) for texts in ("abcd", "efgh")]
    rows = concatenate_datasets([half.map(asks, batched=True, with_indices=True) for half in halves])
    save(rows.select(range(0, 16, 2)), tmp_path, steps=(asks,))
    card = (tmp_path / "README.md").read_text()
    assert "\n8 rows. Generated with SelfInstruct from at least 4 rows in memory. " in card
    assert (
        "- SelfInstruct: counted in the rows of this dataset; rows that were removed earlier are not counted\n" in card
    )
    assert "The run returned" not in card


def test_card_of_unknown_columns_has_no_empty_block(tmp_path):
    rows = Dataset.from_dict({"instruction": ["a"]}).map(
        TextGeneration(EchoLLM()), batched=True, with_indices=True
    )  # fmt: skip
    save(rows, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "(default/steps.png)" in card
    assert not re.search(r"```\w*\n\s*```", card)


def test_card_counts_drops_saved_tokens_and_accepted_rows(tmp_path):
    pipeline = OnlyOnce() >> TextGeneration(ANSWERS)
    rows = Dataset.from_dict({"instruction": ["a", "b", "a", "c", "d", "e", "a", "f", "g", "h"]})
    result = pipeline.run(rows, num_rows=3, chunk_size=4, quiet=True)
    save(result, tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text().replace("\\", "")
    once, answers = records(result)[0].steps
    assert (once.rows_in, once.rows_out, answers.rows_in) == (10, 8, 8)
    assert "- OnlyOnce: 8 of 10 rows kept; 2 rows dropped (repeated)\n" in card
    assert (
        f"OnlyOnce: dropping 2 rows saved about {round(2 * answers.completion_tokens / 8)} completion tokens" in card
    )
    assert "; 3 accepted rows requested, " in card
    assert "rows accepted of 10 tried (" in card
    assert "pipeline.run(rows, num_rows=3, chunk_size=4)" in card
    failures = load_dataset(
        "parquet", data_files=str(tmp_path / "saved/default/failures/train.parquet"), split="train"
    )
    assert failures.filter(lambda row: row["rule"])["matched"][:] == ["a", "a"]


def test_card_text_statistics_equal_those_of_the_rows(saved):
    card, rows, _ = saved
    statistics_of = {row["Column"]: row for row in table(card, "Column", "Texts", "Empty")}
    assert set(statistics_of) == {"input", "instruction", "evolved_instruction", "response"}
    for column, figures in statistics_of.items():
        texts = [row[column] for row in rows if row[column]]
        lengths = sorted(map(len, texts))
        assert number(figures["Texts"]) == len(texts)
        assert number(figures["Empty"]) == len(rows) - len(texts)
        assert number(figures["Duplicates"]) == len(texts) - len(set(texts))
        assert (number(figures["Min"]), number(figures["Max"])) == (lengths[0], lengths[-1])
        assert number(figures["Median"]) == statistics.median_low(lengths)
        assert number(figures["25%"]) == lengths[-(-len(lengths) // 4) - 1]
        assert number(figures["75%"]) == lengths[-(-3 * len(lengths) // 4) - 1]
        assert number(figures["Mean"]) == pytest.approx(statistics.fmean(lengths), abs=0.005)
    cyrillic = sum("а" <= sign.lower() <= "я" for row in rows for sign in row["response"])
    letters = sum(sign.isalpha() for row in rows for sign in row["response"])
    assert f"Cyrillic {cyrillic / letters:.1%}" in statistics_of["response"]["Scripts"]


def test_card_counts_near_duplicates(saved):
    card, rows, _ = saved
    texts = [row["evolved_instruction"] for row in rows]
    score = RougeScorer(["rougeL"]).score
    near = sum(
        max(score(a, b)["rougeL"].fmeasure for m, b in enumerate(texts) if m != n) > 0.7 for n, a in enumerate(texts)
    )
    assert near > 0
    assert f"above 0.7 for {near} of {len(texts)} texts ({near / len(texts):.1%});" in card


def test_card_shows_first_middle_and_last_row(saved):
    card, rows, _ = saved
    samples = json.loads(re.search(r"```json\n(.*?)\n```", card, re.DOTALL).group(1))
    chosen = [dict(rows[place]) for place in (0, len(rows) // 2, len(rows) - 1)]
    assert samples == [{k: v for k, v in row.items() if k != "generation_metadata"} for row in chosen]


def test_card_cites_the_papers_of_the_techniques(saved):
    assert "eprint = {2212.10560}" in saved[0]
    assert "eprint = {2304.12244}" in saved[0]


def test_card_of_own_function_is_reproduced_in_python(saved):
    assert 'recipe = Path("default/hfsynth.yaml").read_text()' in saved[0]
    assert "pipeline = Pipeline.from_yaml(recipe, RepeatingLLM, not_too_short)" in saved[0]


NO_INPUT = Dataset.from_dict({"id": [0, 1, 2]})


def snippet(record, repo_id="user/data"):
    """The sentence, code and language for a configuration that one run generated."""
    facts = ConfigFacts("text", {}, (SplitFacts("train", 1, {}, (), (record,), 0),), {})
    (found,) = reproduction_snippets(facts, repo_id)
    return found


def run_record(pipeline, dataset=None, **options):
    return records(pipeline.run(dataset, quiet=True, chunk_size=2, **options))[0]


def test_reproduction_of_own_steps_is_a_command():
    _, code, language = snippet(run_record(Pipeline((Magpie(EchoLLM()),)), NO_INPUT))
    install, download, command = code.splitlines()
    assert language == "bash"
    assert install.startswith("pip install ./hfsynth")
    assert download.startswith("hf download user/data text/hfsynth.yaml ")
    assert command == "hfsynth run text/hfsynth.yaml --max-rows 3 --output-dir reproduced"


def test_reproduction_has_the_number_of_accepted_rows():
    code = snippet(run_record(Pipeline((Magpie(EchoLLM()),)), num_rows=3))[1]
    assert "--num-rows 3 --output-dir" in code


def test_reproduction_has_the_limits_of_the_run():
    record = run_record(Pipeline((Magpie(EchoLLM()),)), num_rows=3, max_rows=9)
    assert record.limits == {"max_rows": 9}
    short = replace(record, accepted=2, limits={"max_rows": 9, "max_tokens": 50})
    assert "--num-rows 3 --max-rows=9 --max-tokens=50 --output-dir" in snippet(short)[1]


def test_reproduction_names_a_source_on_the_hub_and_commit():
    record = run_record(Pipeline((TextGeneration(EchoLLM()),)), Dataset.from_dict({"instruction": ["a"]}))
    source = Source(7, ("instruction",), "user/texts", "c" * 40, "plain", "test")
    flags = shlex.split(snippet(RunRecord(source, record.steps, 2))[1].splitlines()[-1])
    assert flags[flags.index("--dataset") + 1] == "user/texts"
    assert flags[flags.index("--dataset-revision") + 1] == "c" * 40
    assert flags[flags.index("--split") + 1] == "test"


def test_reproduction_names_columns_of_rows_in_memory():
    record = run_record(Pipeline((TextGeneration(EchoLLM()),)), Dataset.from_dict({"instruction": ["a"]}))
    sentence, code, _ = snippet(record)
    assert "`instruction`" in sentence
    assert "--dataset rows.jsonl" in code


def test_reproduction_of_configured_input_needs_no_flag():
    record = run_record(Pipeline((TextGeneration(EchoLLM()),)), Dataset.from_dict({"instruction": ["a"]}))
    source = Source(4, ("examples",), recipe=SeedPool(seeds=("a",) * 8).describe())
    command = snippet(RunRecord(source, record.steps, 2, "", 5, 5))[1].splitlines()[-1]
    assert command == "hfsynth run text/hfsynth.yaml --num-rows 5 --output-dir reproduced"


@pytest.mark.parametrize(
    ("same_rows", "deterministic", "words"),
    [
        ("chunk", True, "chunk size"),
        ("chunk", False, "deterministic=True"),
        ("row", False, "dtype and package"),
        ("none", False, "Magpie may answer"),
    ],
)
def test_reproduction_states_the_promise_of_the_llm(same_rows, deterministic, words):
    """A server promises no equal rows, so its card names the steps that it sampled."""
    record = run_record(Pipeline((Magpie(EchoLLM()),)), NO_INPUT)
    assert record.steps[0].same_rows == "chunk"
    steps = (replace(record.steps[0], same_rows=same_rows),)
    sentence, code, _ = snippet(replace(record, steps=steps, deterministic=deterministic))
    assert words in sentence
    assert ("--chunk-size 2 --deterministic" in code) == deterministic
    assert ("generate the same rows" in sentence) == (same_rows == "row" or deterministic)


def test_reproduction_with_users_classes_is_python():
    sentence, code, language = snippet(run_record(OnlyOnce(column="id") >> Magpie(EchoLLM()), NO_INPUT))
    assert language == "python"
    assert "Pipeline.from_yaml(recipe, OnlyOnce)" in code
    assert "`OnlyOnce`" in sentence


@pytest.mark.parametrize(("model", "has_flag"), [("user/model", False), ("model", True)])
def test_reproduction_with_model_in_folder_has_model_flag(model, has_flag):
    record = run_record(Pipeline((Magpie(EchoLLM()),)), NO_INPUT)
    recipe = {**record.steps[0].recipe, "llm": {"__class__": "TransformersLLM", "model": model}}
    step = replace(record.steps[0], recipe=recipe)
    command = snippet(RunRecord(record.source, (step,), 2))[1].splitlines()[-1]
    assert ("--model FOLDER" in command) == has_flag
