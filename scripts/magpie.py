# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Generate instructions and responses with Magpie, which needs only a model's chat template.

    python scripts/magpie.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --num-rows 1000

No input is needed. The columns of an input (--dataset) are kept, and its column `system_prompt` sets each row's system
prompt.
"""

from hfsynth import Magpie, Pipeline
from hfsynth.cli import LLMS, RunArguments, build_parser, from_args, llm_class, plain_errors, run_and_save


@plain_errors(*LLMS.values(), Magpie)
def main() -> None:
    """Run the technique on the input, save the result, and push it if asked."""
    arguments = build_parser(__doc__, RunArguments, llm_class(), Magpie).parse_args()
    llm = from_args(llm_class(), arguments)
    run_and_save(Pipeline((from_args(Magpie, arguments, llm),)), from_args(RunArguments, arguments), "magpie")


if __name__ == "__main__":
    main()
