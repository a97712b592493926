"""What tests start with `accelerate launch`: launched.py RUN_DIR ROWS SECONDS_PER_REQUEST.

Two techniques with a function between them, or where ACTING_ROUNDS is set as many rows without a double as ROWS says;
each process writes the rows it was returned to ACTING_FOLDER.
"""

import json
import os
import signal
import sys

from datasets import Dataset

from hfsynth import Deduplicate, EchoLLM, TextGeneration
from tests.acting import ActingLLM, folder, without_first


def chained(run_dir: str, rows: str, seconds: str) -> Dataset:
    dataset = Dataset.from_dict({"instruction": [f"say {n}" for n in range(int(rows))]})
    first = TextGeneration(ActingLLM(seconds_per_request=float(seconds)))
    last = TextGeneration(
        EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "again"}, name="again"
    )
    return (first >> without_first >> last).run(dataset, run_dir=run_dir, chunk_size=2)


def in_rounds(run_dir: str, rows: str, seconds: str) -> Dataset:
    dataset = Dataset.from_dict({"instruction": [f"say {n * n % 40}" for n in range(100)]})
    pipeline = TextGeneration(ActingLLM(seconds_per_request=float(seconds))) >> Deduplicate(column="generation")
    return pipeline.run(dataset, num_rows=int(rows), run_dir=run_dir, chunk_size=2)


def main(*arguments: str) -> None:
    result = in_rounds(*arguments) if os.environ.get("ACTING_ROUNDS") else chained(*arguments)
    (folder() / f"rows-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(result.to_list()))


if __name__ == "__main__":
    # what a shell starts in the background ignores Ctrl-C, and so would all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*sys.argv[1:])
