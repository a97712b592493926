"""What tests start with `accelerate launch`: launched.py RUN_DIR ROWS SECONDS_PER_REQUEST.

Two techniques with a function between them; each process writes the rows it was returned to ACTING_FOLDER.
"""

import json
import os
import sys

from datasets import Dataset

from hfsynth import EchoLLM, TextGeneration
from tests.acting import ActingLLM, folder, without_first


def main(run_dir: str, rows: str, seconds: str) -> None:
    dataset = Dataset.from_dict({"instruction": [f"say {n}" for n in range(int(rows))]})
    first = TextGeneration(ActingLLM(seconds_per_request=float(seconds)))
    last = TextGeneration(
        EchoLLM(), input_mappings={"instruction": "generation"}, output_mappings={"generation": "again"}, name="again"
    )
    made = (first >> without_first >> last).run(dataset, run_dir=run_dir, chunk_size=2)
    (folder() / f"rows-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(made.to_list()))


if __name__ == "__main__":
    main(*sys.argv[1:])
