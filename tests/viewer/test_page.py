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
    assert re.search(r"OnlyOnce.*2,502.*2,501", content, re.DOTALL), "the run's record was found beside the rows"
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
