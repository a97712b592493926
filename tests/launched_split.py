"""What tests start with `accelerate launch`: launched_split.py MODEL FOLDER.

A model that all processes hold together makes and scores rows; each process writes those it was returned to FOLDER.
"""

import json
import os
import sys
from pathlib import Path

import torch
from datasets import Dataset

from hfsynth import EvolInstruct, Judge, SamplingParams, TextGeneration, TransformersLLM

INSTRUCTIONS = [f"Name {n} uses of salt and of {'vinegar ' * n}." for n in range(1, 13)]


def main(model: str, folder: str) -> None:
    """Two generating steps, of which one has several turns, and one that scores."""
    torch.set_num_threads(1)
    llm = TransformersLLM(model, dtype="float32", tensor_parallel=True, batch_size=5)
    short = SamplingParams(temperature=0.0, max_new_tokens=9)
    evolve = EvolInstruct(llm, num_evolutions=2, sampling=short)
    sampling = SamplingParams(temperature=0.9, max_new_tokens=7)
    answer = TextGeneration(llm, sampling=sampling, keep_truncated=True)
    pipeline = evolve >> answer >> Judge.quality(llm)
    rows = Dataset.from_dict({"instruction": INSTRUCTIONS})
    if os.environ.get("ACTING_APART"):  # as a script would that doesn't know of process 0
        rows.map(answer, batched=True, with_indices=True)
    pipeline.preview(rows, 1, measured=2)
    made = pipeline.run(rows, run_dir=Path(folder) / "run", chunk_size=4, quiet=True)
    (Path(folder) / f"rows-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(made.to_list()))


if __name__ == "__main__":
    main(*sys.argv[1:])
