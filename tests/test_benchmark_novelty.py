import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmarks" / "novelty.py"
SEED_FILE = SCRIPT.parent.parent / "seeds.jsonl"


def run(file, *sizes):
    command = [sys.executable, str(SCRIPT), str(file), "--sizes", *map(str, sizes)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_row_of_the_table_is_printed_for_each_size_of_the_pool():
    done = run(SEED_FILE, 100, 50)
    assert done.returncode == 0, done.stderr
    machine, _, _, _, *lines = done.stdout.splitlines()
    assert machine.startswith("Machine: ")
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert [row[1] for row in rows] == ["50", "100"]
    assert all(int(row[1]) <= int(row[2]) for row in rows)


def test_words_that_are_too_few_for_the_pool_are_an_error(tmp_path):
    (tmp_path / "texts.jsonl").write_text(json.dumps({"instruction": "one two"}))
    done = run(tmp_path / "texts.jsonl", 50)
    assert "too few words for one of 50" in done.stderr
