# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Make instructions and responses from nothing but a model's chat template.

    python scripts/magpie.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --num-rows 1000

No input is needed; with one (--dataset), its columns are kept, and a `system_prompt` column is each row's own.
"""

from hfsynth import Magpie, Pipeline
from hfsynth.cli import LLMS, RunArguments, build_parser, from_args, llm_class, plain_errors, run_and_save


@plain_errors(*LLMS.values(), Magpie)
def main() -> None:
    """Run the technique over the input, save what comes out, and push it where asked."""
    arguments = build_parser(__doc__, RunArguments, llm_class(), Magpie).parse_args()
    llm = from_args(llm_class(), arguments)
    run_and_save(Pipeline((from_args(Magpie, arguments, llm),)), from_args(RunArguments, arguments), "magpie")


if __name__ == "__main__":
    main()
