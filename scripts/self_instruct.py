# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Make instructions from texts.

    python scripts/self_instruct.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset texts.jsonl

The input has a column `input`; the output has a row with an `instruction` for each that was made.
"""

from hfsynth import Pipeline, SelfInstruct, TransformersLLM
from hfsynth.cli import RunArguments, build_parser, from_args, plain_errors, run_and_save


@plain_errors(TransformersLLM, SelfInstruct)
def main() -> None:
    """Run the technique over the input, save what comes out, and push it where asked."""
    arguments = build_parser(__doc__, RunArguments, TransformersLLM, SelfInstruct).parse_args()
    llm = from_args(TransformersLLM, arguments)
    run_and_save(
        Pipeline((from_args(SelfInstruct, arguments, llm),)), from_args(RunArguments, arguments), "self_instruct"
    )


if __name__ == "__main__":
    main()
