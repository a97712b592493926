"""What a test starts with `accelerate launch`: a run and a push of it, in every process."""

import sys

from datasets import Dataset

from hfsynth import EchoLLM, TextGeneration, push_to_hub


def main(repo_id: str) -> None:
    dataset = Dataset.from_dict({"instruction": [f"say {n}" for n in range(10)]})
    pipeline = TextGeneration(EchoLLM()) >> TextGeneration(EchoLLM(), output_mappings={"generation": "again"})
    push_to_hub(pipeline.run(dataset, chunk_size=2), repo_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
