import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark_novelty.py"


def test_a_row_of_the_table_is_printed_for_each_size(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text(
        "\n".join(json.dumps({"instruction": f"Name {n} things of kind {n * n} or so."}) for n in range(20))
    )
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(file), "--sizes", "50", "100"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["50", "100"]
    assert all(1 <= int(row[2]) <= int(row[1]) for row in rows)
