"""Every number of a card, worked out again from the rows, by other means than the card's."""

import json
import re
import statistics
from collections import Counter

import pytest
from datasets import Dataset, load_dataset
from rouge_score.rouge_scorer import RougeScorer

from hfsynth import EvolInstruct, Pipeline, SelfInstruct, TextGeneration, save
from hfsynth.run_record import records
from hfsynth.text import duration
from tests.helpers import OnlyOnce, ScriptedLLM

ASKS = ScriptedLLM(
    ("What is tea made of?\nWhy do cats purr?", "Name a river.\nName a lake.", "!the model is tired", "ok")
)
HARDER = ScriptedLLM(("Explain tea in 20 words", "", "Rewritten prompt: say it", "Name a long river"))
ANSWERS = ScriptedLLM(("Water and leaves.", "!odd", "Да.", "Water and leaves."))


def not_too_short(dataset):
    return dataset.filter(lambda row: len(row["evolved_instruction"] or "x" * 99) > 13)


FIRST = SelfInstruct(ASKS, num_instructions=2)
SECOND = EvolInstruct(HARDER, num_evolutions=2)
LAST = TextGeneration(
    ANSWERS, input_mappings={"instruction": "evolved_instruction"}, output_mappings={"generation": "response"}
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A card, the rows as they are loaded from its folder, and what each step had made."""
    folder = tmp_path_factory.mktemp("told")
    texts = Dataset.from_dict({"input": [f"text {n % 5}" if n % 7 else None for n in range(40)]})
    options = {"run_dir": folder / "run", "quiet": True, "chunk_size": 6}
    stages = [texts]
    for pipeline in (Pipeline((FIRST,)), FIRST >> SECOND, FIRST >> SECOND >> not_too_short):
        stages.append(pipeline.run(texts, **options))
    stages.append((FIRST >> SECOND >> not_too_short >> LAST).run(texts, **options))
    save(stages[-1], folder / "made")
    rows = load_dataset(str(folder / "made"), split="train", cache_dir=str(folder / "cache")).to_list()
    return (folder / "made" / "README.md").read_text(), rows, [stage.to_list() for stage in stages]


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


def fresh_failures(rows, place):
    """Reason → rows on which a step failed and none before."""
    found = {}
    for row in rows:
        *before, entry = row["generation_metadata"][: place + 1]
        if entry["error"] and not any(one["error"] for one in before):
            found[entry["row"]] = entry["error"]
    return Counter(found.values())


def test_rows_and_failed_rows_of_the_split(told):
    card, rows, stages = told
    (split,) = table(card, "split", "rows", "failed or dropped")
    ever = sum(sum(fresh_failures(stages[stage], place).values()) for place, stage in enumerate((1, 2, 4)))
    assert number(split["rows"]) == len(rows) == completed(stages[-1])
    assert number(split["failed or dropped"]) == ever > 0, "those that the function dropped, too"


def test_rows_in_rows_out_failures_and_tokens_of_every_step(told):
    card, _, stages = told
    steps = table(card, "step", "model", "rows in")
    assert [step["step"] for step in steps] == ["SelfInstruct", "EvolInstruct", "not_too_short", "TextGeneration"]
    for step, before, after, place in zip(steps, stages, stages[1:], (0, 1, None, 2), strict=False):
        assert (number(step["rows in"]), number(step["rows out"])) == (completed(before), completed(after))
        if place is None:
            assert step["failed"] == step["tokens read"] == step["tokens written"] == "0"
            continue
        assert number(step["failed"]) == sum(fresh_failures(after, place).values())
        for column, name in (("tokens read", "prompt_tokens"), ("tokens written", "completion_tokens")):
            assert number(step[column]) == sum(entry[name] for entry in entries(after, place))
    assert len(stages[3]) < len(stages[2]), "the function drops rows, or the test says nothing"


def counted(text):
    """{what: number} of "what 1, other 2"."""
    return {what.replace("\\", ""): int(count) for what, count in re.findall(r"([^,]+?) (\d+)(?:, |$)", text)}


def test_failures_by_reason_ends_of_completions_rules_and_what_a_function_dropped(told):
    card, _, stages = told
    lines = dict(re.findall(r"^- (\w+, [^:]+): (.*)$", card.replace("\\", ""), re.MULTILINE))
    for name, place, stage in (("SelfInstruct", 0, 1), ("EvolInstruct", 1, 2), ("TextGeneration", 2, 4)):
        failures = fresh_failures(stages[stage], place)
        assert counted(lines.get(f"{name}, rows that failed", "")) == failures
        ends = Counter(entry["finish_reason"] for entry in entries(stages[stage], place) if entry["finish_reason"])
        assert counted(lines[f"{name}, how last completions ended"]) == ends
    rules = Counter(one["eliminated_by"] for row in stages[2] for one in row["evolutions"] or ())
    stood, stopped = lines["EvolInstruct, rounds that stood"].split("; stopped: ")
    assert {"": int(stood), **counted(stopped)} == rules
    assert f"kept {completed(stages[3])} of {completed(stages[2])} rows" in card


def test_what_a_filter_dropped_by_rule_what_that_saved_and_how_many_rows_were_accepted(tmp_path):
    pipeline = OnlyOnce() >> TextGeneration(ANSWERS)
    given = Dataset.from_dict({"instruction": ["a", "b", "a", "c", "d", "e", "a", "f", "g", "h"]})
    made = pipeline.run(given, num_rows=3, chunk_size=4, quiet=True)
    save(made, tmp_path / "made")
    card = (tmp_path / "made" / "README.md").read_text().replace("\\", "")
    once, answers = records(made)[0].steps
    assert (once.rows_in, once.rows_out, answers.rows_in) == (10, 8, 8)
    assert "OnlyOnce kept 8 of 10 rows; dropped: repeated 2" in card
    assert f"OnlyOnce saved about {round(2 * answers.completion_tokens / 8)} tokens" in card
    assert "3 accepted rows were asked for: " in card
    assert "rows accepted of 10 tried (" in card
    assert "pipeline.run(rows, num_rows=3, chunk_size=4)" in card
    failures = load_dataset("parquet", data_files=str(tmp_path / "made/default/failures/train.parquet"), split="train")
    assert failures.filter(lambda row: row["rule"])["matched"][:] == ["a", "a"]


def test_figures_of_every_column_of_texts(told):
    card, rows, _ = told
    told_figures = {row["column"]: row for row in table(card, "column", "texts", "empty")}
    assert set(told_figures) == {"input", "instruction", "evolved_instruction", "response"}
    for column, figures in told_figures.items():
        texts = [row[column] for row in rows if row[column]]
        lengths = sorted(map(len, texts))
        assert number(figures["texts"]) == len(texts)
        assert number(figures["empty"]) == len(rows) - len(texts)
        assert number(figures["duplicates"]) == len(texts) - len(set(texts))
        assert (number(figures["shortest"]), number(figures["longest"])) == (lengths[0], lengths[-1])
        assert number(figures["median"]) == statistics.median_low(lengths)
        assert number(figures["first quartile"]) == lengths[-(-len(lengths) // 4) - 1]
        assert number(figures["third quartile"]) == lengths[-(-3 * len(lengths) // 4) - 1]
        assert number(figures["mean"]) == pytest.approx(statistics.fmean(lengths), abs=0.005)
    cyrillic = sum("а" <= sign.lower() <= "я" for row in rows for sign in row["response"])
    letters = sum(sign.isalpha() for row in rows for sign in row["response"])
    assert f"Cyrillic {cyrillic / letters:.1%}" in told_figures["response"]["scripts"]


def test_how_many_instructions_are_near_another_one(told):
    card, rows, _ = told
    texts = [row["evolved_instruction"] for row in rows]
    score = RougeScorer(["rougeL"]).score
    near = sum(
        max(score(a, b)["rougeL"].fmeasure for m, b in enumerate(texts) if m != n) > 0.7 for n, a in enumerate(texts)
    )
    said = f"Of {len(texts)} texts compared with all others by ROUGE-L, {near} ({near / len(texts):.1%}) are above 0.7"
    assert near > 0
    assert said in card.replace("\\", "")


def test_the_rows_that_are_shown_are_those_of_the_stated_rule(told):
    card, rows, _ = told
    assert "The first row, the one in the middle and the last" in card
    shown = json.loads(re.search(r"```json\n(.*?)\n```", card, re.DOTALL).group(1))
    chosen = [dict(rows[place]) for place in (0, len(rows) // 2, len(rows) - 1)]
    assert shown == [{k: v for k, v in row.items() if k != "generation_metadata"} for row in chosen]


def test_the_papers_of_the_techniques_are_cited(told):
    assert "eprint = {2212.10560}" in told[0]
    assert "eprint = {2304.12244}" in told[0]


def test_how_to_make_it_again_names_the_function_that_a_recipe_has_not(told):
    assert 'recipe = Path("default/hfsynth.yaml").read_text()' in told[0]
    assert "pipeline = Pipeline.from_yaml(recipe, ScriptedLLM, not_too_short)" in told[0]


def test_times_are_told_in_the_units_that_people_use():
    assert [duration(seconds) for seconds in (0, 59.96, 60, 3599, 3600)] == [
        "0.0 s",
        "60.0 s",
        "1 min 0 s",
        "59 min 59 s",
        "1 h 0 min",
    ]
