"""Make instructions and responses from nothing but a model's chat template.

    python scripts/magpie.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --num-rows 1000

No input is needed; with one (--dataset), its columns are kept, and a `system_prompt` column is each row's own.
"""

from hfsynth import Magpie, Pipeline, TransformersLLM
from hfsynth.cli import RunArguments, build, parser, say
from hfsynth.hub import save


def main() -> None:
    """Run the technique over the input and save what comes out."""
    arguments = parser(__doc__, RunArguments, TransformersLLM, Magpie).parse_args()
    run = build(RunArguments, arguments)
    llm = build(TransformersLLM, arguments)
    pipeline = Pipeline((build(Magpie, arguments, llm),))
    dataset = pipeline.run(run.rows(), run_dir=run.run_dir, chunk_size=run.chunk_size)
    rows, failures = save(dataset, run.output_dir, pipeline=pipeline, config_name="magpie")
    say(f"{len(rows)} rows in {run.output_dir}, {len(failures)} failed")


if __name__ == "__main__":
    main()
