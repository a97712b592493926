"""What a test starts with `accelerate launch`: a run, a push and a save of it, in every process."""

import sys
from pathlib import Path

from datasets import Dataset

from hfsynth import EchoLLM, TextGeneration, push_to_hub, save


def main(repo_id: str, folder: str) -> None:
    dataset = Dataset.from_dict({"instruction": [f"say {n}" for n in range(10)]})
    pipeline = TextGeneration(EchoLLM()) >> TextGeneration(EchoLLM(), output_mappings={"generation": "again"})
    result = pipeline.run(dataset, chunk_size=2)
    push_to_hub(result, repo_id)
    save(result, folder)
    assert (Path(folder) / "README.md").exists(), "a process does not wait for process 0, which writes"


if __name__ == "__main__":
    main(*sys.argv[1:])
