"""The page of a dataset, opened by a browser."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from urllib.parse import quote

import pytest
from datasets import Dataset, Features, Json, List, Value

from hfsynth import (
    Completion,
    EchoLLM,
    EvolInstruct,
    Judge,
    Magpie,
    Pipeline,
    ScriptedLLM,
    SelfInstruct,
    SelfInstructInstances,
    TextGeneration,
    save,
    split_failures,
)
from hfsynth.viewer.page import Layout, view
from tests.helpers import OnlyOnce, RepeatingLLM

BROWSER = shutil.which("chromium")
NASTY = "<img src=x onerror=document.title='HACKED'></script><script>document.title='HACKED'</script>{{ 1 }}"
needs_browser = pytest.mark.skipif(
    BROWSER is None and "CI" not in os.environ, reason="there is no chromium: run bash scripts/test.sh as root"
)


def dom(file, /, **state):
    """What a browser makes of the page, with a part of it chosen."""
    return dom_of(file, json.dumps(state))


def dom_of(file, address):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{file}#{quote(address)}"], capture_output=True, text=True, timeout=120)
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


def articles(html):
    cards = re.findall(r"<article.*?</article>", html, re.DOTALL)
    return [unescape(re.sub(r"<[^>]+>", " ", re.sub(r"</?mark>", "", card))) for card in cards]


def status(html):
    return re.search(r'id="status"[^>]*>([^<]*)', html).group(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    texts = [f"Make tea {n}" for n in range(1800)] + ["Make tea 7", None]
    pipeline = (
        OnlyOnce()
        >> EvolInstruct(RepeatingLLM((NASTY, "Sing a song, please", "!tired")), num_evolutions=2)
        >> Judge.quality(EchoLLM())
        >> TextGeneration(EchoLLM(), output_mappings={"generation": "response"})
    )
    result = pipeline.run(
        Dataset.from_dict({"instruction": texts}), run_dir=folder / "run", chunk_size=999, quiet=True
    )
    save(result, folder / "result", config_name="tea")
    return folder


@pytest.fixture(scope="module")
def page(saved):
    flags = ["view", str(saved / "result"), "--config", "tea", "--output", str(saved / "view.html")]
    done = subprocess.run([sys.executable, "-m", "hfsynth", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rows in" in done.stdout
    return saved / "view.html"


@pytest.fixture(scope="module")
def rows(saved):
    return Dataset.from_parquet(str(next((saved / "result/tea").glob("train-*"))), cache_dir=str(saved / "cache"))


@needs_browser
def test_page_displays_20_rows_at_a_time(page):
    first, second = dom(page, tab="rows"), dom(page, tab="rows", page=51)
    assert len(articles(first)) == len(articles(second)) == 20
    assert "row 0 " in articles(first)[0]
    assert re.search(r"row 10[23]\d ", articles(second)[0]), "of another piece of the data than the first"


@needs_browser
def test_page_escapes_texts_of_rows(page):
    html = dom(page, tab="rows")
    assert "HACKED" not in re.search(r"<title>(.*?)</title>", html).group(1)
    assert NASTY in " ".join(articles(html))
    assert "<img" not in re.search(r'<div id="list".*?<div id="report"', html, re.DOTALL).group()


@needs_browser
def test_search_finds_rows_of_all_blocks_and_marks_them(page):
    found = dom(page, tab="rows", search="TEA 15")
    texts = [text for text in articles(found) if "Make tea 15" in text]
    assert len(texts) == len(articles(found)) > 0
    assert "<mark>tea 15</mark>" in found


@needs_browser
def test_tag_selects_rows(page, rows):
    html = dom(page, tab="rows", tags={"quality": "good"})
    assert status(html) == f"{rows['quality'][:].count('good')} rows"
    assert all("quality: good" in text for text in articles(html))


@needs_browser
def test_failures_have_rule_and_match_selected_by_step(page):
    dropped = dom(page, tab="failures", step="OnlyOnce")
    assert status(dropped) == "1 failures"
    assert "repeated: 1" in articles(dropped)[0]
    assert "matched" in articles(dropped)[0]
    failed = dom(page, tab="failures", step="EvolInstruct")
    assert all("tired" in text or "is None" in text for text in articles(failed))


@needs_browser
def test_page_has_report_with_pictures(page):
    html = dom(page, tab="report")
    content = re.search(r'<div id="report"[^>]*>(.*?)</main>', html, re.DOTALL).group(1)
    assert "ROUGE-L" in content
    pictures = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', content)
    for words in ("lengths in words", "nearest other", "each step"):
        assert any(words in alt for alt in pictures), (words, pictures)
    assert re.search(r"OnlyOnce.*1,802.*1,801", content, re.DOTALL), "the run's record was found beside the rows"
    assert "HACKED" not in re.search(r"<title>(.*?)</title>", html).group(1)


@needs_browser
def test_evolved_row_is_displayed_as_its_versions(page):
    first = articles(dom(page, tab="rows"))[0]
    assert re.search(r"instruction\s+Make tea \d+\s+↓ \w+", first)
    assert "eliminated: unchanged" in " ".join(articles(dom(page, tab="rows")))


@needs_browser
@pytest.mark.parametrize(
    "address",
    [
        "null",
        '"x"',
        "{",
        '{"tags": null}',
        '{"tab": "x", "step": 3, "page": -2, "search": [], "tags": {"quality": 1}}',
    ],
)
def test_address_with_invalid_state_is_ignored(page, rows, address):
    html = dom_of(page, address)
    assert "row 0 " in articles(html)[0]
    assert status(html) == f"{len(rows):,} rows"


@needs_browser
def test_address_beyond_the_last_page_displays_the_last(page):
    html = dom(page, tab="rows", page=998)
    number, pages = re.search(r'id="page">page (\d+) of (\d+)<', html).groups()
    assert number == pages
    assert articles(html)


@needs_browser
def test_tabs_have_aria_states(page):
    html = dom(page, tab="failures")
    chosen = {name: value for value, name in re.findall(r'<button role="tab"[^>]*selected="(\w+)"[^>]*>(\w+)', html)}
    assert chosen == {"Rows": "false", "Failures": "true", "Report": "false"}
    assert '<div id="list" role="tabpanel" aria-labelledby="tab-failures">' in html


@needs_browser
def test_browser_without_decompression_gets_a_message(page, tmp_path):
    old = tmp_path / "old.html"
    old.write_text(page.read_text().replace('"use strict";', '"use strict"; delete window.DecompressionStream;'))
    assert "DecompressionStream" in status(dom(old))


def test_page_without_scripts_has_a_message(page):
    assert "JavaScript" in re.search(r"<noscript>(.*?)</noscript>", page.read_text()).group(1)


@needs_browser
def test_row_has_metadata_that_search_ignores(page, rows):
    entry = rows[0]["generation_metadata"][-1]
    first = articles(dom(page, tab="rows"))[0]
    cells = ["TextGeneration", "echo", str(entry["seed"]), str(entry["row"]), str(entry["prompt_tokens"])]
    assert re.search(r"generation metadata.*" + r"\s+".join(map(re.escape, cells)), first, re.DOTALL)
    assert status(dom(page, tab="rows", search=str(entry["seed"]))) == "0 rows"


@needs_browser
def test_preferences_are_displayed_side_by_side(tmp_path):
    columns = {"prompt": ["Why?"], "chosen": ["Because."], "rejected": ["No."]}
    file = view(Dataset.from_dict(columns), tmp_path / "page.html")
    (row,) = articles(dom(file))
    assert re.search(r"user\s+Why\?\s+chosen\s+assistant\s+Because\.\s+rejected\s+assistant\s+No\.", row)


def test_page_is_self_contained_and_reproducible(tmp_path):
    dataset = Dataset.from_dict({"instruction": ["a"], "response": ["b"]})
    one, two = (view(dataset, tmp_path / name, title="t & t").read_text() for name in ("one.html", "two.html"))
    assert one == two
    assert not re.search(r"""(?:src|href)\s*=|url\(|import\s*\(|fetch\(""", one)
    assert "default-src 'none'" in one
    assert "t &amp; t" in one


def test_failure_in_rows_and_failures_counts_once(tmp_path):
    result = Dataset.from_dict({"instruction": ["a", None, None]}).map(
        TextGeneration(EchoLLM()), batched=True, with_indices=True
    )
    failures = split_failures(result)[1].select([1])
    page = view(result, tmp_path / "page.html", failures=failures).read_text()
    packed = re.search(r'id="facts">(.*?)</script>', page).group(1)
    assert json.loads(gzip.decompress(base64.b64decode(packed)))["failures"] == 2


def test_page_of_empty_dataset_is_written(tmp_path):
    empty = Dataset.from_dict({"instruction": []}, features=Features({"instruction": Value("string")}))
    assert view(empty, tmp_path / "page.html").stat().st_size > 0


def displayed(dataset):
    return list(Layout.of(dataset).rows(dataset))


def mapped(dataset, technique):
    return dataset.map(technique, batched=True, with_indices=True)


def run_steps(steps, dataset):
    """Return the dataset of a run, with its record."""
    return (steps if isinstance(steps, Pipeline) else Pipeline((steps,))).run(dataset, quiet=True)


def test_instruction_input_and_response_are_turns():
    dataset = Dataset.from_dict({"instruction": ["Sort."], "input": ["3, 1"], "response": ["1, 3"], "id": [7]})
    (row,) = displayed(dataset)
    assert row["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]
    assert row["columns"] == {"id": "7"}


def test_column_of_messages_is_the_conversation():
    result = mapped(Dataset.from_dict({"id": [0]}), Magpie(EchoLLM(), n_turns=2))
    assert [role for role, _ in displayed(result)[0]["turns"]] == ["user", "assistant"] * 2


CALL = {"type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
TALK = [
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": [CALL]},
    {"role": "tool", "name": "now", "content": "9"},
    {"role": "assistant", "content": "At 9."},
]
PARAMETERS = {"type": "object", "properties": {"zone": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "now", "description": "Say the time.", "parameters": PARAMETERS}}


@pytest.mark.parametrize("shape", ["structs", "Json feature", "JSON"])
def test_tool_calls_and_tools_are_displayed(shape):
    columns = {"messages": [TALK], "tools": [[TOOL]]}
    if shape == "JSON":
        dataset = Dataset.from_dict({name: [json.dumps(values[0])] for name, values in columns.items()})
    else:
        features = Features(dict.fromkeys(columns, List(Json()))) if shape == "Json feature" else None
        dataset = Dataset.from_dict(columns, features=features)
    (row,) = displayed(dataset)
    assert row["turns"] == [
        ("user", "When?"), ("thinking", "I look."), ("tool call", 'now({"zone": "UTC"})'), ("tool now", "9"),
        ("assistant", "At 9."),
    ]  # fmt: skip
    assert row["columns"] == {"tools": "now(zone): Say the time."}


def test_generated_tool_calls_are_displayed():
    completion = Completion(text="I look.", finish_reason="stop", tool_calls=(CALL,))
    technique = TextGeneration(ScriptedLLM([completion]), keep_tool_calls=True)
    rows = Dataset.from_dict({"messages": [TALK[:1]], "tools": [json.dumps([TOOL])]})
    (row,) = displayed(run_steps(technique, rows))
    assert row["turns"] == [("user", "When?"), ("assistant", "I look."), ("tool call", 'now({"zone": "UTC"})')]
    assert row["columns"]["tools"] == "now(zone): Say the time."


@pytest.mark.parametrize("talk", [{"role": ["user"], "content": ["Hi"]}, [{"from": "human", "value": "Hi"}]])
def test_conversation_of_any_shape_is_displayed(talk):
    assert displayed(Dataset.from_dict({"conversations": [talk]}))[0]["turns"] == [("user", "Hi")]


def test_unreadable_conversation_is_displayed_as_json():
    talks = [[{"role": "user", "content": None}], [{"role": "user", "content": "Hi"}]]
    turns = [row["turns"] for row in displayed(Dataset.from_dict({"messages": talks}))]
    assert turns == [[("user", '[{"role": "user", "content": null}]')], [("user", "Hi")]]


def test_evolution_has_operations_and_rules():
    llm = RepeatingLLM(("Make green tea.",))
    result = mapped(Dataset.from_dict({"instruction": ["Make tea."]}), EvolInstruct(llm, num_evolutions=2))
    first, second, third = displayed(result)[0]["evolution"]
    assert first == ("", "Make tea.", "", "")
    assert second[1:] == ("Make green tea.", "", "")
    assert third[1:] == ("Make green tea.", "unchanged", "")
    assert displayed(result)[0]["turns"] == [("user", "Make green tea.")]


def evolved(column="instruction", **fields):
    dataset = Dataset.from_dict({column: ["Make tea."]})
    llm = RepeatingLLM(("Make green tea, please.",))
    (row,) = displayed(mapped(dataset, EvolInstruct(llm, input_mappings={"instruction": column}, **fields)))
    return row


def test_evolution_begins_with_the_mapped_input():
    assert [version for _, version, *_ in evolved("prompt")["evolution"]] == ["Make tea.", "Make green tea, please."]
    question = Dataset.from_dict({"question": ["Make tea."], "instruction": ["Sing."]})
    evolve = EvolInstruct(
        RepeatingLLM(("Make green tea, please.",)),
        input_mappings={"instruction": "question"},
        output_mappings={"evolved_instruction": "evolved", "evolutions": "rounds"},
    )
    (row,) = displayed(run_steps(evolve, question))
    assert [version for _, version, *_ in row["evolution"]] == ["Make tea.", "Make green tea, please."]
    assert "rounds" not in row["columns"]


def test_evolution_without_original_has_rounds_only():
    replaced = evolved(output_mappings={"evolved_instruction": "instruction"})
    assert [version for _, version, *_ in replaced["evolution"]] == ["Make green tea, please."]
    assert replaced["evolution"][0][0] != "", "it was result by an operation"
    result = mapped(
        Dataset.from_dict({"instruction": ["Make tea."]}), EvolInstruct(RepeatingLLM(("Make green tea.",)))
    )
    (row,) = displayed(result.remove_columns(["instruction", "evolved_instruction"]))
    assert [version for _, version, *_ in row["evolution"]] == ["Make green tea."]


def test_evolution_with_answers_pairs_them_with_versions():
    row = evolved(store_evolutions=True, include_original_instruction=True, generate_answers=True)
    asked_and_answered = [(version, answer) for _, version, _, answer in row["evolution"]]
    assert asked_and_answered == [
        ("Make tea.", "Make green tea, please."),
        ("Make green tea, please.", "Make green tea, please."),
    ]
    assert row["turns"] == [], "the instruction alone is no more than the beginning of the evolution"


def test_source_of_instructions_is_no_turn():
    texts = Dataset.from_dict({"input": ["Tea is a drink."]})
    make = SelfInstruct(RepeatingLLM(("What is tea?",)), num_instructions=1)
    result = mapped(mapped(texts, make), TextGeneration(RepeatingLLM(("A drink.",))))
    run = run_steps(make >> TextGeneration(RepeatingLLM(("A drink.",))), texts)
    alone = run_steps(make >> EvolInstruct(RepeatingLLM(("What is green tea?",))), texts)
    for dataset in (result, run):
        assert displayed(dataset)[0]["turns"] == [("user", "What is tea?"), ("assistant", "A drink.")]
        assert displayed(dataset)[0]["columns"] == {"input": "Tea is a drink."}
    assert displayed(alone)[0]["turns"] == [("user", "What is green tea?")]


def test_generated_input_is_a_turn():
    llm = RepeatingLLM(("Input: 3, 1\nOutput: 1, 3",))
    result = run_steps(SelfInstructInstances(llm), Dataset.from_dict({"instruction": ["Sort."]}))
    assert displayed(result)[0]["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]


def test_turns_are_the_prompt_of_the_answering_step():
    rows = Dataset.from_dict({"question": ["Why?"], "instruction": ["Sing."], "system_prompt": ["Be kind."]})
    asked = TextGeneration(RepeatingLLM(("Because.",)), input_mappings={"instruction": "question"})
    assert displayed(run_steps(asked, rows))[0]["turns"] == [
        ("system", "Be kind."),
        ("user", "Why?"),
        ("assistant", "Because."),
    ]
    evolve = EvolInstruct(RepeatingLLM(("Sing a song, please.",)))
    answered = run_steps(evolve >> TextGeneration(RepeatingLLM(("La.",))), rows.select_columns("instruction"))
    assert displayed(answered)[0]["turns"] == [("user", "Sing."), ("assistant", "La.")]  # not the evolved instruction
    filled = TextGeneration(RepeatingLLM(("La.",)), template="{{ question }} {{ instruction }}")
    parts = displayed(run_steps(filled, rows.remove_columns("system_prompt")))
    assert parts[0]["turns"] == [("instruction", "Sing."), ("question", "Why?"), ("assistant", "La.")]


def test_source_answer_belongs_to_source_instruction():
    rows = Dataset.from_dict({"instruction": ["Sort."], "input": ["3, 1"], "response": ["1, 3"]})
    evolve = EvolInstruct(RepeatingLLM(("Sort, please: 3, 1.",)), input_mappings={"input": "input"})
    (row,) = displayed(run_steps(evolve, rows))
    assert row["turns"] == [("user", "Sort."), ("user", "3, 1"), ("assistant", "1, 3")]
    assert row["columns"]["evolved_instruction"] == "Sort, please: 3, 1."


def test_answered_conversation_has_its_answer():
    rows = Dataset.from_dict({"messages": [[{"role": "user", "content": "Hi"}]]})
    result = run_steps(TextGeneration(RepeatingLLM(("Hello",))), rows)
    assert displayed(result)[0]["turns"] == [("user", "Hi"), ("assistant", "Hello")]


def test_grouped_generations_are_alternative_answers():
    rows = Dataset.from_dict({"instruction": ["Say hi."]})
    result = mapped(rows, TextGeneration(EchoLLM(), num_generations=2, group_generations=True))
    assert displayed(result)[0]["turns"] == [("user", "Say hi.")]
    assert displayed(result)[0]["answers"] == [
        ("answer 1", [("assistant", "Say hi.")]),
        ("answer 2", [("assistant", "Say hi.")]),
    ]


def messages(*turns):
    return [[{"role": role, "content": content} for role, content in turns]]


USER, GOOD, BAD = ("user", "Hi"), ("assistant", "Hello"), ("assistant", "No")


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": ["Hi"], "chosen": ["Hello"], "rejected": ["No"]},
        {"instruction": ["Hi"], "chosen": ["Hello"], "rejected": ["No"]},
        {"prompt": messages(USER), "chosen": messages(GOOD), "rejected": messages(BAD)},
        {"chosen": messages(USER, GOOD), "rejected": messages(USER, BAD)},
        {
            "prompt": ["Hi"],
            "chosen": messages(USER, GOOD),
            "rejected": messages(USER, BAD),
            "messages": messages(USER, GOOD),
        },
    ],
)
def test_preferences_are_two_answers_to_a_prompt(columns):
    (row,) = displayed(Dataset.from_dict(columns))
    assert row["turns"] == [USER]
    assert row["answers"] == [("chosen", [GOOD]), ("rejected", [BAD])]


def test_columns_with_few_short_values_are_tags():
    dataset = Dataset.from_dict(
        {
            "instruction": [f"say {n}" for n in range(40)],
            "kind": ["a", "b", "", "b"] * 10,
            "difficulty": [10, 2, 1, None] * 10,
            "fits": [True, False] * 20,
            "score": [0.5, 1.5] * 20,
        }
    )
    result = mapped(dataset, Judge.quality(EchoLLM()))
    tags = Layout.of(result).tags
    assert list(tags) == ["kind", "difficulty", "fits", "quality"]
    assert tags["kind"] == ("a", "b"), "there is nothing to choose by in an empty text"
    assert tags["difficulty"] == ("1", "2", "10"), "in the order of numbers"
    assert displayed(result)[1]["tags"] == {
        "kind": "b",
        "difficulty": "2",
        "fits": "False",
        "quality": result["quality"][1],
    }


def test_columns_of_unique_equal_or_long_values_are_no_tags():
    dataset = Dataset.from_dict(
        {
            "name": [f"n{n}" for n in range(9)],
            "number": list(range(9)),
            "same": ["x"] * 9,
            "long": ["y" * 99, "z"] * 4 + [""],
        }
    )
    assert not Layout.of(dataset).tags


def test_steps_have_model_seed_and_tokens():
    result = mapped(Dataset.from_dict({"instruction": ["a"]}), TextGeneration(EchoLLM()))
    seed = str(result[0]["generation_metadata"][0]["seed"])
    assert displayed(result)[0]["steps"] == [("TextGeneration", "echo", seed, 0, 1, 1, "stop")]
