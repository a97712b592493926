"""Answer the instructions of a dataset.

    python scripts/text_generation.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset instructions.jsonl

The input has a column `instruction`, or `messages`, or the columns of --template; the output adds `generation`.
"""

from hfsynth import Pipeline, TextGeneration, TransformersLLM
from hfsynth.cli import RunArguments, build, parser, say
from hfsynth.hub import save


def main() -> None:
    """Run the technique over the input and save what comes out."""
    arguments = parser(__doc__, RunArguments, TransformersLLM, TextGeneration).parse_args()
    run = build(RunArguments, arguments)
    llm = build(TransformersLLM, arguments)
    pipeline = Pipeline((build(TextGeneration, arguments, llm),))
    dataset = pipeline.run(run.rows(), run_dir=run.run_dir, chunk_size=run.chunk_size)
    rows, failures = save(dataset, run.output_dir, pipeline=pipeline, config_name="text_generation")
    say(f"{len(rows)} rows in {run.output_dir}, {len(failures)} failed")


if __name__ == "__main__":
    main()
