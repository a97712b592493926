"""What tests start with `accelerate launch`: launched.py RUN_DIR ROWS SECONDS_PER_REQUEST.

Runs two techniques with a function between them; with ACTING_ROUNDS, runs until ROWS rows without a duplicate. Each
process writes its result's rows, and its failures and record, to ACTING_FOLDER.
"""

import json
import os
import signal
import sys

from datasets import Dataset

from hfsynth import Deduplicate, EchoLLM, RunResult, TextGeneration, run
from tests.acting import ActingLLM, folder, without_first


def chained(run_dir: str, rows: str, seconds: str) -> RunResult:
    dataset = Dataset.from_dict({"instruction": [f"say {n}" for n in range(int(rows))]})
    first = TextGeneration(ActingLLM(seconds_per_request=float(seconds)))
    last = TextGeneration(
        EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "again"}, name="again"
    )
    return run(first >> without_first >> last, dataset, run_dir=run_dir, chunk_size=2)


def in_rounds(run_dir: str, rows: str, seconds: str) -> RunResult:
    dataset = Dataset.from_dict({"instruction": [f"say {n * n % 40}" for n in range(100)]})
    pipeline = TextGeneration(ActingLLM(seconds_per_request=float(seconds))) >> Deduplicate(column="generation")
    return run(pipeline, dataset, num_rows=int(rows), run_dir=run_dir, chunk_size=2)


def main(*arguments: str) -> None:
    result = in_rounds(*arguments) if os.environ.get("ACTING_ROUNDS") else chained(*arguments)
    rank = os.environ.get("RANK", "0")
    (folder() / f"rows-{rank}.json").write_text(json.dumps(result.dataset.to_list()))
    details = {"failures": result.failures.to_list(), "record": json.loads(result.record.to_json())}
    (folder() / f"details-{rank}.json").write_text(json.dumps(details))


if __name__ == "__main__":
    # what a shell starts in the background ignores Ctrl-C, and so would all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*sys.argv[1:])
