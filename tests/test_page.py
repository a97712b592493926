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
from datasets import Dataset, Features, Value

from hfsynth import EchoLLM, EvolInstruct, Judge, TextGeneration, save, split_failures
from hfsynth.viewer.page import view
from tests.helpers import OnlyOnce, ScriptedLLM

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
    texts = [f"Make tea {n}" for n in range(2500)] + ["Make tea 7", None]
    pipeline = (
        OnlyOnce()
        >> EvolInstruct(ScriptedLLM((NASTY, "Sing a song, please", "!tired")), num_evolutions=2)
        >> Judge.quality(EchoLLM())
        >> TextGeneration(EchoLLM(), output_mappings={"generation": "response"})
    )
    made = pipeline.run(Dataset.from_dict({"instruction": texts}), run_dir=folder / "run", chunk_size=999, quiet=True)
    save(made, folder / "made", config_name="tea")
    return folder


@pytest.fixture(scope="module")
def page(saved):
    flags = ["view", str(saved / "made"), "--config", "tea", "--output", str(saved / "view.html")]
    done = subprocess.run([sys.executable, "-m", "hfsynth", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rows in" in done.stdout
    return saved / "view.html"


@pytest.fixture(scope="module")
def rows(saved):
    return Dataset.from_parquet(str(next((saved / "made/tea").glob("train-*"))), cache_dir=str(saved / "cache"))


@needs_browser
def test_rows_are_shown_a_page_at_a_time(page):
    first, second = dom(page, tab="rows"), dom(page, tab="rows", page=51)
    assert len(articles(first)) == len(articles(second)) == 20
    assert "row 0 " in articles(first)[0]
    assert re.search(r"row 10[23]\d ", articles(second)[0]), "of another piece of the data than the first"


@needs_browser
def test_nothing_in_a_row_is_markup(page):
    shown = dom(page, tab="rows")
    assert "HACKED" not in re.search(r"<title>(.*?)</title>", shown).group(1)
    assert NASTY in " ".join(articles(shown))
    assert "<img" not in re.search(r'<div id="list".*?<div id="report"', shown, re.DOTALL).group()


@needs_browser
def test_a_search_finds_rows_in_every_piece_and_marks_what_it_found(page):
    found = dom(page, tab="rows", search="TEA 15")
    texts = [text for text in articles(found) if "Make tea 15" in text]
    assert len(texts) == len(articles(found)) > 0
    assert "<mark>tea 15</mark>" in found


@needs_browser
def test_rows_are_chosen_by_a_tag(page, rows):
    shown = dom(page, tab="rows", tags={"quality": "good"})
    assert status(shown) == f"{rows['quality'][:].count('good')} rows"
    assert all("quality: good" in text for text in articles(shown))


@needs_browser
def test_failures_are_told_with_their_rule_and_chosen_by_step(page):
    dropped = dom(page, tab="failures", step="OnlyOnce")
    assert status(dropped) == "1 failures"
    assert "repeated: 1" in articles(dropped)[0]
    assert "matched" in articles(dropped)[0]
    failed = dom(page, tab="failures", step="EvolInstruct")
    assert all("tired" in text or "is None" in text for text in articles(failed))


@needs_browser
def test_the_report_is_a_part_of_the_page_with_its_pictures(page):
    shown = dom(page, tab="report")
    told = re.search(r'<div id="report"[^>]*>(.*?)</main>', shown, re.DOTALL).group(1)
    assert "ROUGE-L" in told
    pictures = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', told)
    for words in ("how many words", "nearest other", "each step was given"):
        assert any(words in alt for alt in pictures), (words, pictures)
    assert re.search(r"OnlyOnce.*2,502.*2,501", told, re.DOTALL), "the run's record was found beside the rows"
    assert "HACKED" not in re.search(r"<title>(.*?)</title>", shown).group(1)


@needs_browser
def test_an_evolved_row_is_shown_as_its_chain(page):
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
def test_an_address_that_is_not_of_this_page_shows_the_first_rows(page, rows, address):
    shown = dom_of(page, address)
    assert "row 0 " in articles(shown)[0]
    assert status(shown) == f"{len(rows):,} rows"


@needs_browser
def test_a_page_after_the_last_is_the_last(page):
    shown = dom(page, tab="rows", page=998)
    number, pages = re.search(r'id="page">page (\d+) of (\d+)<', shown).groups()
    assert number == pages
    assert articles(shown)


@needs_browser
def test_the_tabs_say_which_is_chosen_and_what_they_show(page):
    shown = dom(page, tab="failures")
    chosen = {name: value for value, name in re.findall(r'<button role="tab"[^>]*selected="(\w+)"[^>]*>(\w+)', shown)}
    assert chosen == {"Rows": "false", "Failures": "true", "Report": "false"}
    assert '<div id="list" role="tabpanel" aria-labelledby="tab-failures">' in shown


@needs_browser
def test_a_browser_that_is_too_old_is_told_so(page, tmp_path):
    old = tmp_path / "old.html"
    old.write_text(page.read_text().replace('"use strict";', '"use strict"; delete window.DecompressionStream;'))
    assert "This browser is too old for this page" in status(dom(old))


def test_without_scripts_the_page_says_that_it_needs_them(page):
    assert "allow it to run scripts" in re.search(r"<noscript>(.*?)</noscript>", page.read_text()).group(1)


@needs_browser
def test_a_row_says_how_it_was_made_and_a_search_does_not_look_there(page, rows):
    made = rows[0]["generation_metadata"][-1]
    first = articles(dom(page, tab="rows"))[0]
    cells = ["TextGeneration", "echo", str(made["seed"]), str(made["row"]), str(made["prompt_tokens"])]
    assert re.search(r"how it was made.*" + r"\s+".join(map(re.escape, cells)), first, re.DOTALL)
    assert status(dom(page, tab="rows", search=str(made["seed"]))) == "0 rows"


@needs_browser
def test_preferences_are_shown_side_by_side_and_labelled(tmp_path):
    columns = {"prompt": ["Why?"], "chosen": ["Because."], "rejected": ["No."]}
    file = view(Dataset.from_dict(columns), tmp_path / "page.html")
    (row,) = articles(dom(file))
    assert re.search(r"user\s+Why\?\s+chosen\s+assistant\s+Because\.\s+rejected\s+assistant\s+No\.", row)


def test_a_page_needs_no_network_and_is_the_same_when_written_again(tmp_path):
    dataset = Dataset.from_dict({"instruction": ["a"], "response": ["b"]})
    one, two = (view(dataset, tmp_path / name, title="t & t").read_text() for name in ("one.html", "two.html"))
    assert one == two
    assert not re.search(r"""(?:src|href)\s*=|url\(|import\s*\(|fetch\(""", one)
    assert "default-src 'none'" in one
    assert "t &amp; t" in one


def test_a_failure_that_is_in_the_rows_and_was_kept_apart_too_is_told_once(tmp_path):
    made = Dataset.from_dict({"instruction": ["a", None, None]}).map(
        TextGeneration(EchoLLM()), batched=True, with_indices=True
    )
    failures = split_failures(made)[1].select([1])
    page = view(made, tmp_path / "page.html", failures=failures).read_text()
    packed = re.search(r'id="facts">(.*?)</script>', page).group(1)
    assert json.loads(gzip.decompress(base64.b64decode(packed)))["failures"] == 2


def test_a_dataset_without_rows_has_a_page_too(tmp_path):
    empty = Dataset.from_dict({"instruction": []}, features=Features({"instruction": Value("string")}))
    assert view(empty, tmp_path / "page.html").stat().st_size > 0
