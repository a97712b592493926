# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Answer the instructions of a dataset with TextGeneration.

    python scripts/text_generation.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset instructions.jsonl

The input has a column `instruction`, or `messages`, or the columns of --template; the output adds `generation`.
"""

from hfsynth import Pipeline, TextGeneration
from hfsynth.cli import LLMS, RunArguments, build_parser, from_args, llm_class, plain_errors, run_and_save


@plain_errors(*LLMS.values(), TextGeneration)
def main() -> None:
    """Run the technique on the input, save the result, and push it if asked."""
    arguments = build_parser(__doc__, RunArguments, llm_class(), TextGeneration).parse_args()
    llm = from_args(llm_class(), arguments)
    run_and_save(
        Pipeline((from_args(TextGeneration, arguments, llm),)), from_args(RunArguments, arguments), "text_generation"
    )


if __name__ == "__main__":
    main()
