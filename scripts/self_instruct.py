"""Make instructions from texts.

    python scripts/self_instruct.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset texts.jsonl

The input has a column `input`; the output has a row with an `instruction` for each that was made.
"""

from hfsynth import Pipeline, SelfInstruct, TransformersLLM
from hfsynth.cli import RunArguments, build, parser, say
from hfsynth.hub import save


def main() -> None:
    """Run the technique over the input and save what comes out."""
    arguments = parser(__doc__, RunArguments, TransformersLLM, SelfInstruct).parse_args()
    run = build(RunArguments, arguments)
    llm = build(TransformersLLM, arguments)
    pipeline = Pipeline((build(SelfInstruct, arguments, llm),))
    dataset = pipeline.run(run.rows(), run_dir=run.run_dir, chunk_size=run.chunk_size)
    rows, failures = save(dataset, run.output_dir, pipeline=pipeline, config_name="self_instruct")
    say(f"{len(rows)} rows in {run.output_dir}, {len(failures)} failed")


if __name__ == "__main__":
    main()
