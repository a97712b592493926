"""Kills runs in children of one process, which has imported everything: `changes FOLDER` or `chunks RUN_DIR ROWS`.

`changes`: a first run counts the changes (files and folders created, renamed, removed). Then, for each of them, a
process is killed (SIGKILL) just before that change, in a run directory of its own, and another does the rest. Prints
as JSON the number of changes, and those after which the rows differ from the rows of the run that nothing happened to.

`chunks`: a run is killed before its first chunk, then before its second, and so on, and then completed.
"""

import json
import os
import signal
import sys
from pathlib import Path

from datasets import Dataset, disable_progress_bars

from hfsynth import Deduplicate, EchoLLM, TextGeneration
from tests import launched

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def but_the_first(dataset: Dataset) -> Dataset:
    return dataset.select(range(1, len(dataset))) if len(dataset) > 1 else dataset


def run(run_dir: Path) -> str:
    """Run a pipeline with a filter and a function in it, in rounds, over a row that fails too."""
    rows = Dataset.from_dict({"instruction": ["say 0", "say 1", None, "say 3", "say 1", "say 4"]})
    pipeline = Deduplicate() >> TextGeneration(EchoLLM()) >> but_the_first
    result = pipeline.run(rows, num_rows=3, run_dir=run_dir, chunk_size=2, quiet=True)
    (file,) = run_dir.glob("failures-*.parquet")
    failures = Dataset.from_parquet(str(file), cache_dir=str(run_dir / "cache"))
    return json.dumps([result.to_list(), failures.to_list()])


def in_a_process(run_dir: Path, kill_at: int) -> tuple[int, str, int]:
    """Run in a child; its wait status, what it returned and how many changes it did or was killed at."""
    result, counter = run_dir.with_suffix(".json"), run_dir.with_suffix(".count")
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        return status, result.read_text() if result.exists() else "", int(counter.read_text() or 0)
    changes = 0

    def before_a_change(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event in CHANGES and str(run_dir) + "/" in str(arguments[0]):
            changes += 1
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    counter.write_text("0")
    sys.addaudithook(before_a_change)
    text = run(run_dir)
    result.write_text(text)
    counter.write_text(str(changes))
    os._exit(0)


def kill_at_chunks(run_dir: str, rows: str) -> None:
    for row in range(0, int(rows), 2):
        child = os.fork()
        if not child:
            (Path(os.environ["ACTING_FOLDER"]) / "acted").unlink(missing_ok=True)
            os.environ["ACTION"] = f"kill any {row}"
            launched.main(run_dir, rows, "0")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, row
    os.environ["ACTION"] = "none any any"
    launched.main(run_dir, rows, "0")


def kill_at_changes(folder: Path) -> None:
    run(folder / "first")  # imports everything that a run needs, once, instead of in each child
    status, expected, changes = in_a_process(folder / "undisturbed", 0)
    assert status == 0
    different = []
    for change in range(1, changes + 1):
        run_dir = folder / f"killed-at-{change}"
        killed, nothing, _ = in_a_process(run_dir, change)
        status, rows, _ = in_a_process(run_dir, 0)
        left = [path.name for path in run_dir.rglob("writing-*")]
        if not os.WIFSIGNALED(killed) or nothing or status or rows != expected or left:
            different.append([change, killed, status, left])
    print(json.dumps({"changes": changes, "different": different}))


if __name__ == "__main__":
    disable_progress_bars()
    if sys.argv[1] == "chunks":
        kill_at_chunks(*sys.argv[2:])
    else:
        kill_at_changes(Path(sys.argv[2]))
