"""Make instructions from texts.

    python scripts/self_instruct.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset texts.jsonl

The input has a column `input`; the output has a row with an `instruction` for each that was made.
"""

from hfsynth import Pipeline, SelfInstruct, TransformersLLM
from hfsynth.cli import RunArguments, build, make, parser, plain_errors


@plain_errors(TransformersLLM, SelfInstruct)
def main() -> None:
    """Run the technique over the input, save what comes out, and push it where asked."""
    arguments = parser(__doc__, RunArguments, TransformersLLM, SelfInstruct).parse_args()
    llm = build(TransformersLLM, arguments)
    make(Pipeline((build(SelfInstruct, arguments, llm),)), build(RunArguments, arguments), "self_instruct")


if __name__ == "__main__":
    main()
