# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Evolve instructions into harder or rarer ones with EvolInstruct.

    python scripts/evol_instruct.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset instructions.jsonl

The input has a column `instruction`; the output adds `evolved_instruction` and `evolutions`.
"""

from hfsynth import EvolInstruct, Pipeline
from hfsynth.cli import LLMS, RunArguments, build_parser, from_args, llm_class, plain_errors, run_and_save


@plain_errors(*LLMS.values(), EvolInstruct)
def main() -> None:
    """Run the technique on the input, save the result, and push it if asked."""
    arguments = build_parser(__doc__, RunArguments, llm_class(), EvolInstruct).parse_args()
    llm = from_args(llm_class(), arguments)
    run_and_save(
        Pipeline((from_args(EvolInstruct, arguments, llm),)), from_args(RunArguments, arguments), "evol_instruct"
    )


if __name__ == "__main__":
    main()
