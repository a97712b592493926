import subprocess
import sys

from tests.test_benchmark_novelty import SCRIPT, SEED_FILE


def test_table_has_a_row_for_each_dataset_size():
    script = SCRIPT.with_name("report.py")
    command = [sys.executable, str(script), str(SEED_FILE), "--rows", "30", "200"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    machine, _, _, _, *lines = done.stdout.splitlines()
    assert machine.startswith("Machine: ")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:2] for row in rows] == [["30", "30"], ["200", "200"]]
    assert all(float(row[2]) > 0 for row in rows)
