"""Answer the instructions of a dataset.

    python scripts/text_generation.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset instructions.jsonl

The input has a column `instruction`, or `messages`, or the columns of --template; the output adds `generation`.
"""

from hfsynth import Pipeline, TextGeneration, TransformersLLM
from hfsynth.cli import RunArguments, build, make, parser, plain_errors


@plain_errors(TransformersLLM, TextGeneration)
def main() -> None:
    """Run the technique over the input, save what comes out, and push it where asked."""
    arguments = parser(__doc__, RunArguments, TransformersLLM, TextGeneration).parse_args()
    llm = build(TransformersLLM, arguments)
    make(Pipeline((build(TextGeneration, arguments, llm),)), build(RunArguments, arguments), "text_generation")


if __name__ == "__main__":
    main()
