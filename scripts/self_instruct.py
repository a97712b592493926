# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Generate instructions about texts with SelfInstruct.

    python scripts/self_instruct.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset texts.jsonl

The input has a column `input`; the output has one row for each generated `instruction`.
"""

from hfsynth import Pipeline, SelfInstruct
from hfsynth.cli import LLMS, RunArguments, build_parser, from_args, llm_class, plain_errors, run_and_save


@plain_errors(*LLMS.values(), SelfInstruct)
def main() -> None:
    """Run the technique on the input, save the result, and push it if asked."""
    arguments = build_parser(__doc__, RunArguments, llm_class(), SelfInstruct).parse_args()
    llm = from_args(llm_class(), arguments)
    run_and_save(
        Pipeline((from_args(SelfInstruct, arguments, llm),)), from_args(RunArguments, arguments), "self_instruct"
    )


if __name__ == "__main__":
    main()
