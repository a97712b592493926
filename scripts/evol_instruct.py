# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Make instructions harder, or rarer.

    python scripts/evol_instruct.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset instructions.jsonl

The input has a column `instruction`; the output adds `evolved_instruction` and `evolutions`.
"""

from hfsynth import EvolInstruct, Pipeline, TransformersLLM
from hfsynth.cli import RunArguments, build_parser, from_args, plain_errors, run_and_save


@plain_errors(TransformersLLM, EvolInstruct)
def main() -> None:
    """Run the technique over the input, save what comes out, and push it where asked."""
    arguments = build_parser(__doc__, RunArguments, TransformersLLM, EvolInstruct).parse_args()
    llm = from_args(TransformersLLM, arguments)
    run_and_save(
        Pipeline((from_args(EvolInstruct, arguments, llm),)), from_args(RunArguments, arguments), "evol_instruct"
    )


if __name__ == "__main__":
    main()
