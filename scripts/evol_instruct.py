"""Make instructions harder, or rarer.

    python scripts/evol_instruct.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset instructions.jsonl

The input has a column `instruction`; the output adds `evolved_instruction` and `evolutions`.
"""

from hfsynth import EvolInstruct, Pipeline, TransformersLLM
from hfsynth.cli import RunArguments, build, make, parser, plain_errors


@plain_errors(TransformersLLM, EvolInstruct)
def main() -> None:
    """Run the technique over the input, save what comes out, and push it where asked."""
    arguments = parser(__doc__, RunArguments, TransformersLLM, EvolInstruct).parse_args()
    llm = build(TransformersLLM, arguments)
    make(Pipeline((build(EvolInstruct, arguments, llm),)), build(RunArguments, arguments), "evol_instruct")


if __name__ == "__main__":
    main()
